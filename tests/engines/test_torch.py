"""The contract of an engine: patches in, float32 logits out, nothing else changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medunet.config.networks import UNet2015Config, UNetConfig
from medunet.engines.torch import TorchEngine
from medunet.errors import DataError, DeviceError
from medunet.networks.contract import Network
from medunet.networks.registry import build_network

CPU = torch.device("cpu")
RANKS = pytest.mark.parametrize("dims", [2, 3])


def network(dims: int) -> Network:
    torch.manual_seed(0)
    return build_network(UNetConfig(dims=dims, channels=(4, 8, 8), dropout=0.2), 2, 3)  # type: ignore[arg-type]


@RANKS
def test_logits_are_those_of_the_network_in_evaluation_mode(dims: int) -> None:
    patches = torch.randn(2, 2, *(16,) * dims)
    plain = network(dims).eval()
    with torch.no_grad():
        expected = plain(patches)
    logits = TorchEngine(network(dims).train(), dims, CPU, torch.float32)(patches)
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-3)  # channels last adds up in another order


@RANKS
def test_low_precision_gives_float32_logits_that_are_nearly_the_same(dims: int) -> None:
    patches = torch.randn(2, 2, *(16,) * dims)
    exact = TorchEngine(network(dims), dims, CPU, torch.float32)(patches)
    rough = TorchEngine(network(dims), dims, CPU, torch.bfloat16)(patches)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert float((rough - exact).norm() / exact.norm()) < 0.05


@RANKS
def test_the_patches_are_not_changed_and_a_view_is_as_good_as_a_copy(dims: int) -> None:
    engine = TorchEngine(network(dims), dims, CPU, torch.float32)
    patches = torch.randn(2, 2, *(16,) * dims)
    before = patches.clone()
    flipped = patches.flip(2).flip(2)
    torch.testing.assert_close(engine(flipped), engine(patches))
    assert torch.equal(patches, before)


def test_logits_may_be_used_outside_inference_mode() -> None:
    logits = TorchEngine(network(2), 2, CPU, torch.float32)(torch.randn(1, 2, 16, 16))
    total = torch.zeros_like(logits[0])
    total.addcmul_(logits[0], torch.full((16, 16), 2.0))
    torch.testing.assert_close(total, logits[0] * 2)


@RANKS
def test_a_network_with_a_margin_gives_logits_of_the_inside(dims: int) -> None:
    torch.manual_seed(0)
    valid = build_network(UNet2015Config(name="unet2015", dims=dims, channels=(4, 8)), 2, 3)  # type: ignore[arg-type]
    patches = torch.randn(2, 2, *(22,) * dims)
    with torch.no_grad():
        expected = valid.eval().interior(patches)
    logits = TorchEngine(valid.train(), dims, CPU, torch.float32)(patches)
    assert logits.shape == (2, 3, *(6,) * dims)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-3)  # channels last adds up in another order


class Failing(Network):
    def __init__(self, error: Exception, dims: int) -> None:
        super().__init__(UNetConfig(dims=dims), 1, 2)  # type: ignore[arg-type]
        self.error = error

    def outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        raise self.error if len(x) else ValueError


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_running_out_of_memory_says_on_what_and_what_to_do(error: Exception) -> None:
    engine = TorchEngine(Failing(error, 3), 3, CPU, torch.float32)
    with pytest.raises(DeviceError, match=r"cpu ran out of memory on 2 windows of \(8, 8, 4\)") as caught:
        engine(torch.zeros(2, 1, 8, 8, 4))
    assert "batch_size" in caught.value.hint


@pytest.mark.parametrize("error", [RuntimeError("expected 5D input"), DataError("Pad to (8, 8).")])
def test_other_errors_are_not_taken_for_lack_of_memory(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error).replace("(", r"\(").replace(")", r"\)")):
        TorchEngine(Failing(error, 2), 2, CPU, torch.float32)(torch.zeros(1, 1, 8, 8))


@pytest.mark.gpu
@RANKS
def test_on_a_gpu_the_logits_are_those_of_the_cpu(dims: int) -> None:
    patches = torch.randn(2, 2, *(16,) * dims)
    expected = TorchEngine(network(dims), dims, CPU, torch.float32)(patches)
    for precision, tolerance in ((torch.float32, 1e-2), (torch.bfloat16, 0.05), (torch.float16, 0.05)):
        logits = TorchEngine(network(dims), dims, torch.device("cuda"), precision)(patches)
        assert logits.device.type == "cuda"
        assert logits.dtype == torch.float32
        assert float((logits.cpu() - expected).norm() / expected.norm()) < tolerance
