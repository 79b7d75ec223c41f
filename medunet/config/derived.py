"""Numbers that follow from a configuration: per-level strides and kernels, the total stride, mirrored
axes, the budget in seconds."""

from __future__ import annotations

from medunet.config.schema import AugmentConfig, UNetConfig


def level_strides(network: UNetConfig) -> tuple[tuple[int, ...], ...]:
    """Stride of every level per axis, the first level included."""
    if network.strides is None:
        return ((1,) * network.dims,) + ((2,) * network.dims,) * (len(network.channels) - 1)
    return tuple((s,) * network.dims if isinstance(s, int) else s for s in network.strides)


def level_kernels(network: UNetConfig) -> tuple[tuple[int, ...], ...]:
    """Kernel of every level per axis."""
    kernels = network.kernel_size
    if isinstance(kernels, int):
        kernels = (kernels,) * len(network.channels)
    return tuple((k,) * network.dims if isinstance(k, int) else k for k in kernels)


def total_stride(network: UNetConfig) -> tuple[int, ...]:
    """By how much the deepest level is smaller than the input, per axis; patches must be multiples of it."""
    result = [1] * network.dims
    for stride in level_strides(network):
        result = [a * b for a, b in zip(result, stride, strict=True)]
    return tuple(result)


def budget_seconds(budget: str | None) -> float | None:
    """`"30min"` to 1800.0; null to null."""
    if budget is None:
        return None
    number = float(budget.rstrip("secminh "))
    unit = budget.lstrip("0123456789. ")
    return number * {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}[unit]


def mirror_axes(augment: AugmentConfig, dims: int) -> tuple[int, ...]:
    """Axes that training mirrors, and over which test-time augmentation may therefore average."""
    if augment.mirror_axes is not None:
        return augment.mirror_axes
    return tuple(range(dims)) if augment.preset != "none" else ()
