"""Rules that join several keys: lengths that must agree, sizes that must divide, names that must exist.

Every rule looks at a `Config` whose single values are valid and yields what is wrong. Knows nothing of files or lines.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from medunet.config.derived import budget_seconds, level_kernels, level_strides, mirror_axes, total_stride
from medunet.config.document import KeyPath, as_written
from medunet.config.schema import Config, IntensityCtWindow, IntensityPercentile, SgdConfig, TverskyConfig, UNetConfig
from medunet.labels import BACKGROUND

NORM_GROUPS = 8
"""Groups of `norm: group` (Wu 2018 uses 32; 8 leaves four channels per group at the usual finest 32)."""

_MR = frozenset({"mr", "mri", "t1", "t1w", "t1c", "t1ce", "t1gd", "t2", "t2w", "flair"})
_AXES = ("RL", "AP", "SI")
_LONGEST_NAME = 64
_INT32 = range(-(2**31), 2**31)

_PATCH: KeyPath = ("train", "patch_size")
_DIMS: KeyPath = ("network", "dims")
_CHANNELS: KeyPath = ("network", "channels")
_STRIDES: KeyPath = ("network", "strides")
_KERNELS: KeyPath = ("network", "kernel_size")
_NORM: KeyPath = ("network", "norm")
_ORIENTATION: KeyPath = ("preprocess", "orientation")
_SPACING: KeyPath = ("preprocess", "spacing")
_INTENSITY: KeyPath = ("preprocess", "intensity")
_MIRROR: KeyPath = ("augment", "mirror_axes")


@dataclass(frozen=True)
class Finding:
    """A combination that cannot work.

    Attributes:
        keys: the key that is blamed, then the others that play a part; lists by index even where a file may hold one
            mapping instead of a list.
        rule: what must hold, as a sentence.
        value: the blamed value as written, or empty.
        hint: what to write instead.
    """

    keys: tuple[KeyPath, ...]
    rule: str
    value: str = ""
    hint: str = ""


def findings(config: Config) -> list[Finding]:
    """Everything that is wrong with a configuration as a whole."""
    return [finding for rule in _RULES for finding in rule(config)]


def _task_name(config: Config) -> Iterator[Finding]:
    if not config.name.isprintable() or set(config.name) & set("/\\") or config.name != config.name.strip():
        yield Finding(
            (("name",),), "must not hold slashes, line breaks, or spaces at its ends.", as_written(config.name)
        )


def _fold(config: Config) -> Iterator[Finding]:
    data = config.data
    if data.fold >= data.folds:
        yield Finding(
            (("data", "fold"), ("data", "folds")),
            f"must be less than data.folds, which is {data.folds}; folds are counted from 0.",
            str(data.fold),
        )


def _label_values(config: Config) -> dict[str, tuple[int, ...]]:
    return {name: (values,) if isinstance(values, int) else values for name, values in config.labels.items()}


def _label_names(config: Config) -> Iterator[Finding]:
    for name in config.labels:
        key = (("labels", name),)
        if name.lstrip("+-").isdecimal():
            yield Finding(
                key,
                "has a number for a name; write the name first, then the value in the mask files.",
                hint="Decathlon's dataset.json has them the other way round: swap them, as in `liver: 1`.",
            )
        elif not name.strip() or name != name.strip() or not name.isprintable():
            yield Finding(
                key, "a label name needs visible letters, and no spaces at its ends.", hint=f"It is {name!r}."
            )
        elif len(name) > _LONGEST_NAME:
            yield Finding(key, f"has {len(name)} letters; DICOM takes names of at most {_LONGEST_NAME}.")


def _background(config: Config) -> Iterator[Finding]:
    values = _label_values(config)
    if any(name.isdecimal() for name in values):
        return  # names and values are swapped, see above
    if BACKGROUND not in values:
        zero = next((name for name, numbers in values.items() if 0 in numbers), None)
        hint = f"Rename {zero}." if zero is not None else "Add the line `background: 0`."
        yield Finding(
            (("labels", BACKGROUND),),
            "is missing; the voxels outside all structures need a name.",
            hint=hint,
        )
    elif 0 not in values[BACKGROUND]:
        yield Finding(
            (("labels", BACKGROUND),), "must be 0, or a list with 0 in it.", as_written(config.labels[BACKGROUND])
        )
    if len(values) - (BACKGROUND in values) < 1:
        yield Finding((("labels",),), "need at least one structure beside background.")


def _label_numbers(config: Config) -> Iterator[Finding]:
    owners: dict[int, str] = {}
    for name, numbers in _label_values(config).items():
        key: KeyPath = ("labels", name)
        for number in dict.fromkeys(numbers):
            owner = owners.setdefault(number, name)
            if owner != name:
                yield Finding(
                    (key, ("labels", owner)),
                    f"the value {number} belongs to {owner} already; every value belongs to one label.",
                    hint="Structures that overlap or contain each other are not supported in this version.",
                )
        if len(set(numbers)) < len(numbers):
            yield Finding((key,), "holds a value twice.", as_written(list(numbers)), "Write each value once.")
        if any(number not in _INT32 for number in numbers):
            yield Finding((key,), "is outside of what a mask file can hold (32 bits).", as_written(config.labels[name]))


def _orientation(config: Config) -> Iterator[Finding]:
    letters, dims = config.preprocess.orientation, config.network.dims
    axes = [next(i for i, pair in enumerate(_AXES) if letter in pair) for letter in letters]
    if len(set(axes)) < len(axes) or (len(axes) == 2 and 2 in axes):
        names = "R or L, A or P, S or I" if len(letters) == 3 else "R or L, A or P"
        yield Finding(
            (_ORIENTATION,),
            f"must name each axis once: one letter each of {names}.",
            as_written(letters),
            'Usual are "RAS" and "LPS".' if len(letters) == 3 else 'Usual is "RA".',
        )
    elif len(letters) < dims:
        yield Finding(
            (_ORIENTATION, _DIMS),
            "has two letters, but network.dims is 3; volumes have three axes.",
            as_written(letters),
            'Write three letters, such as "RAS", or dims: 2.',
        )


def _spacing(config: Config) -> Iterator[Finding]:
    spacing, letters = config.preprocess.spacing, config.preprocess.orientation
    # Three letters with a 2D network: volumes cut into slices, or pictures (which have no patient axes).
    allowed = {len(letters)} if config.network.dims == 3 else {2, len(letters)}
    if spacing is not None and len(spacing) not in allowed:
        need = " or ".join(str(n) for n in sorted(allowed))
        yield Finding(
            (_SPACING, _ORIENTATION, _DIMS),
            f"has {len(spacing)} numbers, but needs {need}: one per axis.",
            as_written(list(spacing)),
        )


def _intensity(config: Config) -> Iterator[Finding]:
    entries, modality = config.preprocess.intensity, config.data.modality
    if len(entries) not in (1, len(modality)):
        yield Finding(
            (_INTENSITY, ("data", "modality")),
            f"has {len(entries)} entries, but data.modality has {len(modality)} ({', '.join(modality)}); "
            "write one for all channels or one per channel.",
        )
        return
    for index, entry in enumerate(entries):
        key: KeyPath = (*_INTENSITY, index)
        if isinstance(entry, IntensityCtWindow | IntensityPercentile) and entry.low >= entry.high:
            keys = ((*key, "low"), (*key, "high"), key)
            yield Finding(keys, f"low is {entry.low:g} and high is {entry.high:g}; low must be less than high.")
        channels = modality if len(entries) == 1 else modality[index : index + 1]
        odd = [name for name in channels if name.lower() in _MR]
        if isinstance(entry, IntensityCtWindow) and odd:
            yield Finding(
                (key, ("data", "modality")),
                f"ct_window is for CT, but the modality is {', '.join(odd)}: MR has no fixed scale.",
                hint="Use percentile or zscore, or name the modality CT if it is one.",
            )


def _per_level(config: Config) -> Iterator[Finding]:
    network = config.network
    levels = len(network.channels)
    lists = (
        ("strides", network.strides, levels),
        ("kernel_size", network.kernel_size, levels),
        ("blocks", network.blocks, levels),
        ("decoder_blocks", network.decoder_blocks, levels - 1),
    )
    for key, entries, wanted in lists:
        if isinstance(entries, tuple) and len(entries) != wanted:
            fewer = "one fewer than" if wanted < levels else "as many as"
            yield Finding(
                (("network", key), _CHANNELS),
                f"has {len(entries)} entries, but needs {wanted}: {fewer} network.channels has levels.",
                _list(entries),
            )


def _per_axis(config: Config) -> Iterator[Finding]:
    network = config.network
    for key, entries in ((_STRIDES, network.strides), (_KERNELS, network.kernel_size)):
        for index, entry in enumerate(entries if isinstance(entries, tuple) else ()):
            if isinstance(entry, tuple) and len(entry) != network.dims:
                yield Finding(
                    ((*key, index), _DIMS),
                    f"has {len(entry)} numbers, but network.dims is {network.dims}; "
                    "write one number per axis, or one for all.",
                    _list(entry),
                )


def _first_stride(config: Config) -> Iterator[Finding]:
    first = config.network.strides[0] if config.network.strides else 1
    if first != 1 and set(first if isinstance(first, tuple) else (first,)) != {1}:
        yield Finding(
            ((*_STRIDES, 0),),
            "must be 1: the finest level has the resolution of the image.",
            _list(first) if isinstance(first, tuple) else str(first),
        )


def _odd_kernels(config: Config) -> Iterator[Finding]:
    if any(size % 2 == 0 for kernel in level_kernels(config.network) for size in kernel):
        kernels = config.network.kernel_size
        yield Finding(
            (_KERNELS,),
            "must be odd, so that a voxel lies in the middle of the kernel.",
            _list(kernels) if isinstance(kernels, tuple) else str(kernels),
            "Usual is 3.",
        )


def _group_norm(config: Config) -> Iterator[Finding]:
    odd = [n for n in config.network.channels if n % NORM_GROUPS]
    if config.network.norm == "group" and odd:
        yield Finding(
            (_CHANNELS, _NORM),
            f"must be multiples of {NORM_GROUPS} with norm: group, but {_list(odd)} are not.",
            _list(config.network.channels),
            "Use norm: instance, or other channels.",
        )


def _shapes_agree(network: UNetConfig) -> bool:
    strides = level_strides(network)
    return len(strides) == len(network.channels) and all(len(stride) == network.dims for stride in strides)


def _patch(config: Config) -> Iterator[Finding]:
    patch, network = config.train.patch_size, config.network
    if len(patch) != network.dims:
        yield Finding((_PATCH, _DIMS), f"has {len(patch)} numbers, but network.dims is {network.dims}.", _list(patch))
        return
    if not _shapes_agree(network):
        return
    stride = total_stride(network)
    if any(size % step for size, step in zip(patch, stride, strict=True)):
        nearest = [max(1, round(size / step)) * step for size, step in zip(patch, stride, strict=True)]
        yield Finding(
            (_PATCH, _STRIDES, _CHANNELS),
            f"must be a multiple of {_list(stride)}, the product of all strides.",
            _list(patch),
            f"Nearest is {_list(nearest)}.",
        )
        return
    yield from _bottleneck(config, stride)


def _bottleneck(config: Config, stride: Sequence[int]) -> Iterator[Finding]:
    """Torch refuses to normalise over one value."""
    network, patch = config.network, config.train.patch_size
    voxels = math.prod(size // step for size, step in zip(patch, stride, strict=True))
    values = {
        "instance": voxels,
        "batch": voxels * config.train.batch_size,
        "group": voxels * max(1, network.channels[-1] // NORM_GROUPS),
    }
    if values.get(network.norm, 2) < 2:
        larger = [size * 2 if index == 0 else size for index, size in enumerate(patch)]
        yield Finding(
            (_PATCH, _STRIDES, _CHANNELS, _NORM),
            f"leaves a single voxel at the deepest level, over which norm: {network.norm} cannot be computed.",
            _list(patch),
            f"Use a larger patch, such as {_list(larger)}, or fewer levels.",
        )


def _augment(config: Config) -> Iterator[Finding]:
    augment, dims = config.augment, config.network.dims
    axes = augment.mirror_axes or ()
    if any(axis >= dims for axis in axes):
        yield Finding(
            (_MIRROR, _DIMS), f"must be axes from 0 to {dims - 1}, because network.dims is {dims}.", _list(axes)
        )
    if len(set(axes)) < len(axes):
        yield Finding((_MIRROR,), "names an axis twice.", _list(axes))
    if augment.scale_range is not None and augment.scale_range[0] > augment.scale_range[1]:
        low, high = augment.scale_range
        yield Finding(
            (("augment", "scale_range"),),
            "must have the smaller zoom first.",
            _list(augment.scale_range),
            f"Write [{high:g}, {low:g}].",
        )
    if config.inference.tta and not mirror_axes(augment, config.network.dims):
        yield Finding(
            (("inference", "tta"), _MIRROR, ("augment", "preset")),
            "needs a network that was trained with mirrored patches, but augment mirrors no axis.",
            "true",
            "Set tta: false, or name axes in augment.mirror_axes.",
        )


def _training(config: Config) -> Iterator[Finding]:
    train = config.train
    if budget_seconds(train.budget) == 0:
        yield Finding(
            (("train", "budget"),), "must be more than no time.", as_written(train.budget), "Write null for no limit."
        )
    optimizer = train.optimizer
    if isinstance(optimizer, SgdConfig) and optimizer.nesterov and optimizer.momentum == 0:
        yield Finding(
            (("train", "optimizer", "nesterov"), ("train", "optimizer", "momentum")),
            "needs a momentum greater than 0.",
            "true",
            "Set nesterov: false.",
        )
    for index, term in enumerate(config.loss):
        if isinstance(term, TverskyConfig) and term.alpha == term.beta == 0:
            yield Finding(
                (("loss", index, "beta"), ("loss", index, "alpha")),
                "alpha and beta cannot both be 0: no error would count.",
            )


def _postprocess(config: Config) -> Iterator[Finding]:
    structures = [name for name in config.labels if name != BACKGROUND]
    for index, step in enumerate(config.postprocess):
        if step.label not in structures:
            near = difflib.get_close_matches(step.label, structures, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"The structures are {', '.join(structures)}."
            yield Finding(
                (("postprocess", index, "label"), ("labels", step.label)),
                "must be the name of a structure in labels.",
                as_written(step.label),
                hint,
            )


def _list(values: Sequence[object]) -> str:
    return as_written([list(value) if isinstance(value, tuple) else value for value in values])


_RULES: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _task_name,
    _fold,
    _label_names,
    _background,
    _label_numbers,
    _orientation,
    _spacing,
    _intensity,
    _per_level,
    _per_axis,
    _first_stride,
    _odd_kernels,
    _group_norm,
    _patch,
    _augment,
    _training,
    _postprocess,
)
