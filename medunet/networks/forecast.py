"""What a network costs, told without building it: parameters, arithmetic, memory.

The network is laid out and run on tensors that have a shape but no memory (torch's meta device and FakeTensorMode),
while a `Ledger` adds up what is alive. So a forecast takes a second where the step itself takes minutes, and a
network that does not fit into the computer can be told about all the same. Knows nothing of files or configurations
beyond the `network:` section.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from medunet.config.network_options import NetworkOptions
from medunet.errors import DataError
from medunet.networks.contract import Network, parameter_count
from medunet.networks.layout import channels_last
from medunet.networks.ledger import HEAP_BLOCK, Ledger
from medunet.networks.recompute import recompute_stages
from medunet.networks.registry import NETWORKS

LIBRARY_BYTES = 15 * 2**20
"""Machine code and buffers that oneDNN makes for new shapes."""
TRAINING_GAPS, INFERENCE_GAPS = 0.4, 0.65
"""What lies idle between the tensors of the heap, as a part of those that come and go.

These three are fitted: docs/networks.md.
"""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a network shall do.

    Attributes:
        size: of a patch in voxels, one number per axis; padded to what the network takes.
        batch: patches at a time.
        training: a step of training with dice and cross-entropy, or a forward pass without gradients.
        precision: of the arithmetic (autocast); weights are float32.
        states: numbers kept per parameter: 1 for a momentum, 2 for mean and variance (Adam), 1 more for a moving
            average of the weights. Training only.
        device: "cpu", "cuda" or "mps".
        recompute: activations are computed again in the backward pass (`recompute_stages`). Training only.
    """

    size: Sequence[int]
    batch: int = 1
    training: bool = False
    precision: torch.dtype = torch.float32
    states: int = 1
    device: str = "cpu"
    recompute: bool = False


@dataclass(frozen=True)
class Forecast:
    """What the work costs.

    Attributes:
        parameters: numbers that training changes.
        flops: floating-point operations of convolutions and matrix products, a multiplication and an addition being
            two: of a training step (forward and backward) or of a forward pass.
        tensor_bytes: the most that tensors hold at once: weights, optimizer, gradients, activations, image, loss.
        beside_bytes: on a CPU, what its libraries and the heap take beside them; elsewhere 0.
    """

    parameters: int
    flops: int
    tensor_bytes: int
    beside_bytes: int

    @property
    def total_bytes(self) -> int:
        """Memory to reckon with, beyond the program itself."""
        return self.tensor_bytes + self.beside_bytes


def forecast(options: NetworkOptions, in_channels: int, out_channels: int, work: Work) -> Forecast:
    """What `work` will cost; neither memory nor random numbers are used.

    Args:
        options: the `network:` section.
        in_channels: image channels.
        out_channels: labels, background included, or nested structures.
        work: what to do.

    Raises:
        DataError: `work.size` has another number of axes than the network.
    """
    if len(work.size) != options.dims:
        raise DataError(
            f"The network takes sizes of {options.dims} numbers, but got {tuple(work.size)}.",
            "Give one number per axis; how many there are follows from network.dims.",
        )
    network = _laid_out(options, in_channels, out_channels)
    with FakeTensorMode(allow_non_fake_inputs=True), Ledger(processor=work.device == "cpu") as ledger:
        _without_memory(network)
        parameters, still = parameter_count(network), ledger.heap
        shape = (work.batch, in_channels, *options.padded(tuple(work.size)))
        image = torch.empty(shape).contiguous(memory_format=channels_last(options.dims))
        if work.recompute:
            recompute_stages(network)
        if work.training:
            _train(network, image, work)
        else:
            _infer(network, image, work)
    beside = _beside(ledger, still, work) if work.device == "cpu" else 0
    return Forecast(parameters, ledger.flops, ledger.peak - ledger.copies, beside)


def window_bytes(network: Network, shape: Sequence[int], precision: torch.dtype, device: torch.device) -> int:
    """Memory that a forward pass takes beside the weights: of a network that is there, in a fraction of its time.

    A window of half the size is computed, and what tensors held is scaled up.

    Args:
        network: on its device, weights channels last.
        shape: (B, C_in, *patch) of the windows.
        precision: of the arithmetic (autocast).
        device: that of the network.
    """
    whole = network.padded(tuple(shape[2:]))
    size = network.padded(tuple(-(-side // 2) for side in shape[2:]))
    scale = shape[0] * math.prod(whole) / math.prod(size)
    processor = device.type == "cpu"
    window = torch.zeros((1, shape[1], *size), device=device).contiguous(memory_format=channels_last(network.dims))
    autocast = torch.autocast(device.type, precision, enabled=precision != torch.float32)
    with torch.no_grad(), autocast, Ledger(processor=processor, block=HEAP_BLOCK / scale) as ledger:
        network.interior(window).float()
    held = int(scale * ledger.peak)
    return held + LIBRARY_BYTES + int(INFERENCE_GAPS * scale * ledger.heap_peak) if processor else held


def _beside(ledger: Ledger, still: int, work: Work) -> int:
    """Bytes of working copies, libraries and gaps.

    Gradients leave gaps too, but in prediction the weights lie still.

    Args:
        ledger: of the work.
        still: bytes of weights in the heap.
        work: what was done.
    """
    gaps = TRAINING_GAPS * ledger.heap_peak if work.training else INFERENCE_GAPS * (ledger.heap_peak - still)
    return ledger.copies + LIBRARY_BYTES + int(gaps)


def _laid_out(options: NetworkOptions, in_channels: int, out_channels: int) -> Network:
    """The network on the meta device, weights channels last as in training."""
    with torch.random.fork_rng(devices=[]), _MetaWeights():
        network = NETWORKS[options.name].build(options, in_channels, out_channels)
    moved: Network = network.to(memory_format=channels_last(options.dims))  # type: ignore[call-overload]
    return moved


class _MetaWeights(TorchFunctionMode):
    """Makes large tensors on the meta device; `torch.device("meta")` would take numbers that builders compute with."""

    _MAKERS = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.randn, torch.rand})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self._MAKERS and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _without_memory(network: nn.Module) -> None:
    """Put fake tensors on the CPU in the place of all weights and buffers, in the same order of axes."""
    made: dict[int, Tensor | None] = {id(None): None}
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if id(tensor) not in made and tensor is not None:
                    made[id(tensor)] = _fake(tensor)
                tensors[name] = made[id(tensor)]  # type: ignore[assignment]


def _fake(tensor: Tensor) -> Tensor:
    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


@contextmanager
def _autocast(work: Work) -> Iterator[None]:
    with torch.autocast("cpu", work.precision, enabled=work.precision != torch.float32):
        yield


def _train(network: Network, image: Tensor, work: Work) -> None:
    """A step that is not the first: the optimizer has its state already. The step itself frees what it takes."""
    state = [torch.empty_like(parameter) for parameter in network.parameters() for _ in range(work.states)]
    truth = torch.zeros((image.shape[0], 1, *image.shape[2:]), dtype=torch.uint8)
    with _autocast(work):
        outputs = network.train()(image)
    loss = _dice_and_cross_entropy(outputs, truth)
    loss.backward()
    del outputs, state


def _infer(network: Network, image: Tensor, work: Work) -> None:
    """As `engines.TorchEngine` does; without gradients, but not in inference mode, for the ledger's sake."""
    with torch.no_grad(), _autocast(work):
        network.eval().requires_grad_(False).interior(image).float()


def _dice_and_cross_entropy(outputs: Tensor | tuple[Tensor, ...], truth: Tensor) -> Tensor:
    """What the usual loss holds, output by output: probabilities, their logarithm, the truth."""
    losses = []
    for output in (outputs,) if isinstance(outputs, Tensor) else outputs:
        logits = output.float()
        index = nn.functional.interpolate(truth.float(), logits.shape[2:], mode="nearest-exact").long()
        entropy = nn.functional.cross_entropy(logits, index.squeeze(1), reduction="none")
        probabilities = logits.softmax(1)
        hit = probabilities.gather(1, index).flatten(1).sum(1)
        losses.append(entropy.mean() - hit.mean() / probabilities.flatten(1).sum(1).mean())
    return torch.stack(losses).sum()
