"""What every network keeps: `Network`, the base class that pads, crops and checks, so that the networks need not.

Knows nothing of files, labels or losses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor, nn

from medunet.config.network_options import NetworkOptions, Sizes
from medunet.errors import DataError


class Network(nn.Module):
    """Images (B, C_in, *S) to logits (B, C_out, *S), float, for any S.

    In evaluation mode `forward` gives one tensor. In training mode it gives a tuple, finest first, if the network
    has more than one output (`training_outputs`); coarser ones may be smaller than the image.

    A size that is not on the grid `minimum_size + k * stride` is padded to it with its edge voxels, at the end of
    each axis, and the logits are cropped back. Where a norm would have a single value to go by at the deepest level
    (instance norm of a single voxel, in any mode; batch norm of a single voxel of a single image, in training), the
    last axis is padded by one stride more.

    Subclasses compute in `outputs` and set `training_outputs`.

    Args:
        options: sizes and rank.
        in_channels: image channels.
        out_channels: labels, background included, or nested structures.
    """

    training_outputs: int = 1
    """Tensors that `forward` gives in training mode."""

    def __init__(self, options: NetworkOptions, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.dims = options.dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = options.stride
        self.minimum_size = options.minimum_size
        self.margin = options.margin
        self.padded = options.padded
        self._leaves_one_value = options.leaves_one_value
        self._has_statistics = options.normalisation == "batch"

    def outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of (B, C_in, *S), S on the grid: finest first, `training_outputs` of them in training mode.

        In evaluation mode only the first is looked at; the others may be left out.
        """
        raise NotImplementedError

    def encoder_module(self) -> nn.Module | None:
        """The part that may come from another training, and that `network.frozen_epochs` holds; none by default."""
        return None

    def stages(self) -> Iterator[nn.Module]:
        """The parts that are computed one after the other, each called as a whole (for `recompute_stages`).

        Modules that hold no lists of others, outermost first.
        """
        return called_parts(self)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """See the class.

        Raises:
            DataError: another number of channels or axes than the network takes.
        """
        self.check(x)
        size = tuple(x.shape[2:])
        outputs = self.outputs(self._pad(x))
        if len(outputs) > 1 and self.training:
            return tuple(_crop(output, _scaled(output, outputs[0], size)) for output in outputs)
        return _crop(outputs[0], size)

    def interior(self, x: Tensor) -> Tensor:
        """Logits (B, C_out, *(S - 2 * margin)) of what has all its context inside of (B, C_in, *S).

        What a sliding window calls. Without a margin the same as `forward` in evaluation mode.
        """
        result: Tensor | tuple[Tensor, ...] = self(x)
        return result[0] if isinstance(result, tuple) else result

    def check(self, x: Tensor) -> None:
        """Refuse what has other channels or axes."""
        if x.ndim != self.dims + 2 or x.shape[1] != self.in_channels:
            axes = "XYZ"[: self.dims]
            raise DataError(
                f"The network takes arrays (batch, {self.in_channels} channel{'s' if self.in_channels > 1 else ''}, "
                f"{', '.join(axes)}), but got {tuple(x.shape)}.",
                "Channels follow from data.modality, axes from network.dims.",
            )

    def _pad(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[2:])
        target = self.padded(size)
        normalised = self.training or not self._has_statistics  # a trained batch norm goes by those it has
        if normalised and self._leaves_one_value(target, x.shape[0]):
            target = (*target[:-1], target[-1] + self.stride[-1])
        if target == size:
            return x
        sides = [(0, big - n) for n, big in zip(size, target, strict=True)]
        return nn.functional.pad(x, [number for side in reversed(sides) for number in side], mode="replicate")


def called_parts(module: nn.Module) -> Iterator[nn.Module]:
    """Modules below that are called as a whole: lists are not, nor what holds one."""
    for child in module.children():
        if any(isinstance(inner, nn.ModuleList | nn.ModuleDict) for inner in child.modules()):
            yield from called_parts(child)
        else:
            yield child


def _scaled(output: Tensor, finest: Tensor, size: Sizes) -> Sizes:
    """The part of a coarser output that the image of `size` fills."""
    return tuple(math.ceil(n * c / f) for n, c, f in zip(size, output.shape[2:], finest.shape[2:], strict=True))


def _crop(x: Tensor, size: Sizes) -> Tensor:
    box = (slice(None), slice(None), *(slice(n) for n in size))
    return x if tuple(x.shape[2:]) == size else x[box]


def parameter_count(network: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(parameter.numel() for parameter in network.parameters())
