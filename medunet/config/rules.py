"""Rules that join several keys: lengths that must agree, sizes that must divide, names that must exist.

Every rule looks at a `Config` whose single values are valid and yields what is wrong. Knows nothing of files or lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from medunet.config.data_rules import DATA_RULES
from medunet.config.derived import mirror_axes
from medunet.config.document import KeyPath, as_written
from medunet.config.finding import Finding, in_brackets
from medunet.config.label_rules import LABEL_RULES
from medunet.config.loss_rules import LOSS_RULES
from medunet.config.network_rules import NETWORK_RULES
from medunet.config.schema import Config, IntensityCtWindow, IntensityImageNet, IntensityPercentile
from medunet.config.training_rules import TRAINING_RULES

_MR = frozenset({"mr", "mri", "t1", "t1w", "t1c", "t1ce", "t1gd", "t2", "t2w", "flair"})
MEDICAL = _MR | {"ct"}
"""Modalities, in small letters, whose values are not those of a picture."""
_AXES = ("RL", "AP", "SI")

_DIMS: KeyPath = ("network", "dims")
_ORIENTATION: KeyPath = ("preprocess", "orientation")
_SPACING: KeyPath = ("preprocess", "spacing")
_INTENSITY: KeyPath = ("preprocess", "intensity")
_MIRROR: KeyPath = ("augment", "mirror_axes")


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


def _series(config: Config) -> Iterator[Finding]:
    rules = config.data.series
    limits = {} if rules is None else {"slices": rules.slices, "spacing": rules.spacing}
    for key, pair in limits.items():
        if pair is not None and pair[0] > pair[1]:
            yield Finding(
                (("data", "series", key),),
                "must be the smallest number that fits, then the largest.",
                as_written(list(pair)),
            )


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


def _size(config: Config) -> Iterator[Finding]:
    preprocess = config.preprocess
    if preprocess.size is None:
        return
    if preprocess.spacing is not None:
        yield Finding(
            (("preprocess", "size"), _SPACING),
            "cannot stand beside preprocess.spacing: both say how large the network's grid is.",
            in_brackets(preprocess.size),
            "Remove one of them.",
        )
    if len(preprocess.size) != 2 or config.network.dims != 2:
        yield Finding(
            (("preprocess", "size"), _DIMS),
            "is the width and height of pictures or slices: two numbers, for a network with dims: 2.",
            in_brackets(preprocess.size),
        )


def _neighbours(config: Config) -> Iterator[Finding]:
    if config.preprocess.neighbours and config.network.dims != 2:
        yield Finding(
            (("preprocess", "neighbours"), _DIMS),
            "is for networks that see volumes slice by slice; network.dims is 3.",
            str(config.preprocess.neighbours),
            "Set dims: 2, or neighbours: 0.",
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
        scans = [name for name in channels if name.lower() in MEDICAL]
        if isinstance(entry, IntensityImageNet) and scans:
            yield Finding(
                (key, ("data", "modality")),
                f"imagenet is for pictures, but the modality is {', '.join(scans)}.",
                hint="Use ct_window for CT and zscore for MR: weights of pictures do well with a mean near 0.",
            )
        odd = [name for name in channels if name.lower() in _MR]
        if isinstance(entry, IntensityCtWindow) and odd:
            yield Finding(
                (key, ("data", "modality")),
                f"ct_window is for CT, but the modality is {', '.join(odd)}: MR has no fixed scale.",
                hint="Use percentile or zscore, or name the modality CT if it is one.",
            )


def _augment(config: Config) -> Iterator[Finding]:
    augment, dims = config.augment, config.network.dims
    axes = augment.mirror_axes or ()
    if any(axis >= dims for axis in axes):
        yield Finding(
            (_MIRROR, _DIMS), f"must be axes from 0 to {dims - 1}, because network.dims is {dims}.", in_brackets(axes)
        )
    if len(set(axes)) < len(axes):
        yield Finding((_MIRROR,), "names an axis twice.", in_brackets(axes))
    if augment.scale_range is not None and augment.scale_range[0] > augment.scale_range[1]:
        low, high = augment.scale_range
        yield Finding(
            (("augment", "scale_range"),),
            "must have the smaller zoom first.",
            in_brackets(augment.scale_range),
            f"Write [{high:g}, {low:g}].",
        )
    if config.inference.tta and not mirror_axes(augment, config.network.dims):
        yield Finding(
            (("inference", "tta"), _MIRROR, ("augment", "preset")),
            "needs a network that was trained with mirrored patches, but augment mirrors no axis.",
            "true",
            "Set tta: false, or name axes in augment.mirror_axes.",
        )


_RULES: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _task_name,
    _fold,
    _series,
    *DATA_RULES,
    *LABEL_RULES,
    _orientation,
    _spacing,
    _size,
    _neighbours,
    _intensity,
    *NETWORK_RULES,
    _augment,
    *TRAINING_RULES,
    *LOSS_RULES,
)
