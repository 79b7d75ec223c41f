"""One line per network of the table: what it takes, what it costs with its default options, where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from medunet.config.network_options import NetworkOptions, Sizes
from medunet.networks.forecast import Forecast, Work, forecast
from medunet.networks.registry import NETWORKS, Row

SIDE = 64
"""Voxels per axis of the patch that costs are given for; the next larger patch that a network takes."""
TRAINED, PREDICTED = 2, 1
"""Patches at a time."""
CHANNELS, LABELS = 1, 2


@dataclass(frozen=True)
class Overview:
    """One network with its default options, in 3D if it can be.

    What the costs are is None for a network that cannot be run without values.

    Attributes:
        name: as in the config.
        ranks: spatial ranks that it comes in.
        deep_supervision: whether it trains its coarser outputs too.
        stride: step between the sizes it takes, per axis.
        minimum_size: smallest size it takes, per axis.
        margin: voxels on each side that get no output.
        parameters: numbers that training changes, for one image channel and two labels.
        patch: what the costs below are for, in voxels.
        forward_flops: floating-point operations of one patch, forward.
        training_bytes: forecast of a training step with two patches: float32, SGD with momentum, on a CPU.
        inference_bytes: forecast of a forward pass with one patch, float32, on a CPU.
        export: whether `torch.export` takes it.
        source: where it was published, and whose code it is.
    """

    name: str
    ranks: tuple[int, ...]
    deep_supervision: bool
    stride: Sizes
    minimum_size: Sizes
    margin: Sizes
    parameters: int | None
    patch: Sizes
    forward_flops: int | None
    training_bytes: int | None
    inference_bytes: int | None
    export: bool
    source: str


def overview(names: Sequence[str] | None = None) -> Iterator[Overview]:
    """The networks of the table, each as soon as its costs are known (about two seconds).

    Args:
        names: of networks; null: all.
    """
    for name, row in NETWORKS.items():
        if names is None or name in names:
            yield _of(name, row)


def _of(name: str, row: Row) -> Overview:
    options = row.options(name=name)
    patch = usual_patch(options, (SIDE,) * options.dims)
    training = _cost(options, Work(size=patch, batch=TRAINED, training=True))
    inference = _cost(options, Work(size=patch, batch=PREDICTED))
    return Overview(
        name=name,
        ranks=get_args(row.options.model_fields["dims"].annotation),
        deep_supervision=bool(getattr(options, "deep_supervision", False)),
        stride=options.stride,
        minimum_size=options.minimum_size,
        margin=options.margin,
        parameters=None if inference is None else inference.parameters,
        patch=patch,
        forward_flops=None if inference is None else inference.flops,
        training_bytes=None if training is None else training.total_bytes,
        inference_bytes=None if inference is None else inference.total_bytes,
        export=row.export,
        source=row.source,
    )


def _cost(options: NetworkOptions, work: Work) -> Forecast | None:
    try:
        return forecast(options, CHANNELS, LABELS, work)
    except RuntimeError:  # torch's for operations whose outcome depends on values
        return None


def usual_patch(options: NetworkOptions, size: Sizes) -> Sizes:
    """The smallest patch of at least `size` that a network takes and, if it has a margin, that tiles an image."""
    return options.padded(tuple(map(max, size, options.least_patch)))
