"""Rules for the `network:` section and the patch that goes through the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from medunet.config.document import KeyPath
from medunet.config.finding import Finding, in_brackets
from medunet.config.network_options import NORM_GROUPS, EncoderOptions, LevelsOptions, NetworkOptions
from medunet.config.networks import DynUNetConfig, UNetOptions
from medunet.config.schema import Config

_PATCH: KeyPath = ("train", "patch_size")
_NAME: KeyPath = ("network", "name")
_DIMS: KeyPath = ("network", "dims")
_CHANNELS: KeyPath = ("network", "channels")
_STRIDES: KeyPath = ("network", "strides")
_KERNELS: KeyPath = ("network", "kernel_size")
_NORM: KeyPath = ("network", "norm")


def _per_level(config: Config) -> Iterator[Finding]:
    network = config.network
    if not isinstance(network, LevelsOptions):
        return
    levels = len(network.channels)
    lists: list[tuple[str, Any, int]] = [
        ("strides", network.strides, levels),
        ("kernel_size", network.kernel_size, levels),
    ]
    if isinstance(network, UNetOptions):
        lists += [("blocks", network.blocks, levels), ("decoder_blocks", network.decoder_blocks, levels - 1)]
    for key, entries, wanted in lists:
        if isinstance(entries, tuple) and len(entries) != wanted:
            fewer = "one fewer than" if wanted < levels else "as many as"
            yield Finding(
                (("network", key), _CHANNELS),
                f"has {len(entries)} entries, but needs {wanted}: {fewer} network.channels has levels.",
                in_brackets(entries),
            )


def _per_axis(config: Config) -> Iterator[Finding]:
    network = config.network
    if not isinstance(network, LevelsOptions):
        return
    for key, entries in ((_STRIDES, network.strides), (_KERNELS, network.kernel_size)):
        for index, entry in enumerate(entries if isinstance(entries, tuple) else ()):
            if isinstance(entry, tuple) and len(entry) != network.dims:
                yield Finding(
                    ((*key, index), _DIMS),
                    f"has {len(entry)} numbers, but network.dims is {network.dims}; "
                    "write one number per axis, or one for all.",
                    in_brackets(entry),
                )


def _first_stride(config: Config) -> Iterator[Finding]:
    network = config.network
    first = network.strides[0] if isinstance(network, LevelsOptions) and network.strides else 1
    if first != 1 and set(first if isinstance(first, tuple) else (first,)) != {1}:
        yield Finding(
            ((*_STRIDES, 0),),
            "must be 1: the finest level has the resolution of the image.",
            in_brackets(first) if isinstance(first, tuple) else str(first),
        )


def _odd_kernels(config: Config) -> Iterator[Finding]:
    network = config.network
    if not isinstance(network, LevelsOptions):
        return
    if any(size % 2 == 0 for kernel in network.level_kernels for size in kernel):
        kernels = network.kernel_size
        yield Finding(
            (_KERNELS,),
            "must be odd, so that a voxel lies in the middle of the kernel.",
            in_brackets(kernels) if isinstance(kernels, tuple) else str(kernels),
            "Usual is 3.",
        )


def _dynunet(config: Config) -> Iterator[Finding]:
    """What MONAI's DynUNet takes less of than `unet`."""
    network = config.network
    if not isinstance(network, DynUNetConfig):
        return
    if len(network.channels) < 3:
        rule = "must have three levels or more for dynunet."
        yield Finding((_CHANNELS, _NAME), rule, in_brackets(network.channels), "unet takes two.")
    for level, (strides, kernels) in enumerate(zip(network.level_strides, network.level_kernels, strict=False)):
        if any(step > size + 1 for step, size in zip(strides, kernels, strict=False)):
            yield Finding(
                ((*_STRIDES, level), _KERNELS),
                f"is more than dynunet takes with a kernel of {in_brackets(kernels)}: at most the kernel plus one.",
                in_brackets(strides),
                "Use a larger kernel, or unet.",
            )


def _group_norm(config: Config) -> Iterator[Finding]:
    network = config.network
    odd = [n for n in network.features if n % NORM_GROUPS]
    if network.normalisation == "group" and odd:
        key = next(key for key in ("channels", "filters", "feature_size") if hasattr(network, key))
        yield Finding(
            (("network", key), _NORM),
            f"must give multiples of {NORM_GROUPS} with norm: group, but {in_brackets(odd)} are not.",
            in_brackets(network.features),
            "Use norm: instance, or other features.",
        )


def _frozen(config: Config) -> Iterator[Finding]:
    network = config.network
    if not isinstance(network, EncoderOptions) or not network.frozen_epochs:
        return
    if network.encoder_weights is None and config.train.start_from is None:
        yield Finding(
            (("network", "frozen_epochs"), ("network", "encoder_weights")),
            "would hold random weights, because encoder_weights names no file.",
            str(network.frozen_epochs),
            "Name a file (or train.start_from), or set frozen_epochs: 0.",
        )


def _sizes_are_known(network: NetworkOptions) -> bool:
    """False where lists of strides disagree, which other rules tell."""
    if not isinstance(network, LevelsOptions):
        return True
    strides = network.level_strides
    return len(strides) == len(network.channels) and all(len(stride) == network.dims for stride in strides)


def _patch(config: Config) -> Iterator[Finding]:
    patch, network = config.train.patch_size, config.network
    if len(patch) != network.dims:
        yield Finding(
            (_PATCH, _DIMS), f"has {len(patch)} numbers, but network.dims is {network.dims}.", in_brackets(patch)
        )
    elif not _sizes_are_known(network):
        return
    elif not network.fits(patch):
        yield _off_the_grid(config)
    elif any(size < least for size, least in zip(patch, network.least_patch, strict=True)):
        yield _less_than_a_tile(config)
    elif network.leaves_one_value(patch, _at_once(config)):
        yield _one_value(config)


def _off_the_grid(config: Config) -> Finding:
    network, patch = config.network, config.train.patch_size
    stride, least = in_brackets(network.stride), in_brackets(network.minimum_size)
    simple = network.minimum_size == network.stride
    return Finding(
        (_PATCH, _STRIDES, _CHANNELS, _NAME),
        f"must be a multiple of {stride}, the product of all strides."
        if simple
        else f"must be {least} plus a multiple of {stride} for {network.name}.",
        in_brackets(patch),
        f"Nearest is {_nearest(config)}.",
    )


def _less_than_a_tile(config: Config) -> Finding:
    network, patch = config.network, config.train.patch_size
    inner = [size - 2 * margin for size, margin in zip(patch, network.margin, strict=True)]
    return Finding(
        (_PATCH, _NAME),
        f"leaves {in_brackets(inner)} after the margin of {network.name}, less than its stride "
        f"{in_brackets(network.stride)}.",
        in_brackets(patch),
        f"Nearest is {_nearest(config)}.",
    )


def _one_value(config: Config) -> Finding:
    network, patch = config.network, config.train.patch_size
    chosen = hasattr(network, "norm")
    norm = f"norm: {network.normalisation}" if chosen else f"the {network.normalisation} norm of {network.name}"
    fewer = ", or fewer levels" if isinstance(network, LevelsOptions) else ""
    return Finding(
        (_PATCH, _STRIDES, _CHANNELS, *((_NORM,) if chosen else ())),
        f"leaves a single voxel at the deepest level, over which {norm} cannot be computed.",
        in_brackets(patch),
        f"Use a larger patch, such as {_nearest(config)}{fewer}.",
    )


def _nearest(config: Config) -> str:
    """The nearest patch that all of these rules let through."""
    return in_brackets(config.network.nearest_patch(config.train.patch_size, _at_once(config)))


def _at_once(config: Config) -> int:
    """Fewest patches that the network sees together."""
    return max(1, config.train.batch_size // config.train.accumulate)


NETWORK_RULES: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _per_level,
    _per_axis,
    _first_stride,
    _odd_kernels,
    _dynunet,
    _group_norm,
    _frozen,
    _patch,
)
