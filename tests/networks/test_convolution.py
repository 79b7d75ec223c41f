"""A single small image is convolved as it would be in a batch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from medunet.networks.convolution import Conv2d, Conv3d, adopt_convolutions
from medunet.networks.layout import channels_last

PAIRS = {2: (Conv2d, nn.Conv2d), 3: (Conv3d, nn.Conv3d)}
EVERY_RANK = pytest.mark.parametrize("dims", [2, 3])


def pair(dims: int, **options: object) -> tuple[nn.Module, nn.Module]:
    """Ours and torch's, with the same weights."""
    ours, torchs = PAIRS[dims]
    torch.manual_seed(0)
    reference = torchs(4, 6, 3, padding=1, **options)  # type: ignore[arg-type]
    layer = ours(4, 6, 3, padding=1, **options)  # type: ignore[arg-type]
    layer.load_state_dict(reference.state_dict())
    return layer, reference


def image(dims: int, batch: int = 1) -> Tensor:
    x = torch.randn(batch, 4, *(9, 8, 10)[:dims], generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=channels_last(dims)).requires_grad_()


@EVERY_RANK
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"bias": False}, {"dilation": 2}, {"padding_mode": "circular"}])
def test_result_and_gradients_are_those_of_torch(dims: int, options: dict[str, object]) -> None:
    layer, reference = pair(dims, **options)
    x = image(dims)
    found, expected = layer(x), reference(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    by_ours = torch.autograd.grad(found.square().sum(), (x, *layer.parameters()))
    by_torchs = torch.autograd.grad(expected.square().sum(), (x, *reference.parameters()))
    for one, other in zip(by_ours, by_torchs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


@EVERY_RANK
def test_an_image_has_the_same_bits_alone_and_in_a_batch(dims: int) -> None:
    layer, _ = pair(dims)
    batch = image(dims, 2)
    assert torch.equal(layer(batch)[:1], layer(batch[:1]))


@EVERY_RANK
def test_the_order_of_memory_is_kept(dims: int) -> None:
    layer, _ = pair(dims)
    layer.to(memory_format=channels_last(dims))  # type: ignore[call-overload]
    assert layer(image(dims)).is_contiguous(memory_format=channels_last(dims))


@EVERY_RANK
def test_what_is_traced_or_half_precision_is_torchs(dims: int) -> None:
    layer, reference = pair(dims)
    traced = torch.jit.trace(layer, image(dims))
    assert "mkldnn" not in str(traced.graph)
    torch.testing.assert_close(traced(image(dims)), reference(image(dims)), atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(image(dims)).dtype == torch.bfloat16


COMPARED = """
import itertools
import torch
from medunet.networks.convolution import Conv2d, Conv3d
torch.manual_seed(0)
torch.set_num_threads(1)
kernels = ((1, 2, 0), (2, 2, 0), (3, 1, 1), (3, 2, 1), (5, 1, 2))
sizes = [(7, 1), (3, 1), (2, 2), (1, 4, 4), (2, 2, 2), (2, 7, 4), (4, 4, 4), (5, 3, 2), (7, 6, 2)]
for (kernel, stride, padding), size, channels in itertools.product(kernels, sizes, ((1, 8), (8, 8), (16, 32))):
    if min(size) + 2 * padding < kernel:
        continue
    layer = (Conv2d if len(size) == 2 else Conv3d)(*channels, kernel, stride, padding)
    x = torch.randn(2, channels[0], *size, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    gradient = torch.randn_like(y)
    found = (y, *torch.autograd.grad(y, (x, *layer.parameters()), gradient))
    double, image = layer.double(), x.detach().double().requires_grad_()
    y = double(image)
    expected = (y, *torch.autograd.grad(y, (image, *double.parameters()), gradient.double()))
    for what, one, other in zip(("y", "x", "weight", "bias"), found, expected):
        error = float((one.double() - other).abs().max() / other.abs().max())
        if not error < 0.05:
            print(f"{what} of {size}, kernel {kernel}, stride {stride}, channels {channels}: {error}")
"""


@pytest.mark.parametrize("instructions", ["AVX512_CORE_BF16", "DEFAULT"])
def test_short_images_are_right_in_bfloat16_whatever_the_memory_held(instructions: str) -> None:
    """oneDNN reads memory that nobody wrote; glibc fills it with 7F, in bfloat16 a number near 3e38."""
    dirty = {"MALLOC_PERTURB_": "128", "ONEDNN_MAX_CPU_ISA": instructions}
    command = [sys.executable, "-W", "ignore", "-c", COMPARED]
    environment = {**os.environ, **dirty}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_convolutions_of_other_libraries_become_ours() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Conv3d(1, 2, 3)), nn.ConvTranspose2d(1, 2, 3))
    names = list(network.state_dict())
    adopt_convolutions(network)
    assert [type(layer) for layer in (network[0], network[1][0], network[2])] == [Conv2d, Conv3d, nn.ConvTranspose2d]
    assert list(network.state_dict()) == names
