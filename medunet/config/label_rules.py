"""Rules for the `labels:` section, for every key that names a label, and for what has no effect on nested ones.

A value may belong to several labels if they lie inside of each other; `labels.clashes` says when they do not.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence

from medunet.config.document import KeyPath, as_written
from medunet.config.finding import Finding
from medunet.config.losses import BceConfig, BoundaryWeightedConfig, OverlapOptions
from medunet.config.postprocess import ThresholdConfig, misfits, nameable
from medunet.config.schema import Config
from medunet.labels import BACKGROUND, IGNORE, clashes, shares_values

_LONGEST_NAME = 64
_INT32 = range(-(2**31), 2**31)


def _label_values(config: Config) -> dict[str, tuple[int, ...]]:
    return {name: (values,) if isinstance(values, int) else values for name, values in config.labels.items()}


def _structures(config: Config) -> list[str]:
    return [name for name in config.labels if name not in (BACKGROUND, IGNORE)]


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
        elif name.lower() == IGNORE and name != IGNORE:
            yield Finding(
                key,
                "would be a structure; voxels that are neither learned from nor scored have the name ignore.",
                hint=f"Rename {name} to {IGNORE}.",
            )


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
    if not _structures(config):
        yield Finding((("labels",),), "need at least one structure beside background.")


def _label_numbers(config: Config) -> Iterator[Finding]:
    for name, numbers in _label_values(config).items():
        key: KeyPath = ("labels", name)
        if len(set(numbers)) < len(numbers):
            yield Finding((key,), "holds a value twice.", as_written(list(numbers)), "Write each value once.")
        if any(number not in _INT32 for number in numbers):
            yield Finding((key,), "is outside of what a mask file can hold (32 bits).", as_written(config.labels[name]))


def _nesting(config: Config) -> Iterator[Finding]:
    for clash in clashes(_label_values(config)):
        yield Finding((("labels", clash.label), ("labels", clash.other)), clash.rule, hint=clash.remedy)


def _annotated(config: Config) -> Iterator[Finding]:
    structures = _structures(config)
    for pattern, names in config.data.annotated.items():
        key: KeyPath = ("data", "annotated", pattern)
        if not set(names) - {BACKGROUND}:
            yield Finding(
                (key,),
                "names no structure, so nothing could be learned from these cases.",
                as_written(list(names)),
                "Name what they were annotated for, or leave them out of the data set.",
            )
        for index, name in enumerate(names):
            if name not in (*structures, BACKGROUND):
                yield _unknown_name((*key, index), name, structures)


def _postprocess(config: Config) -> Iterator[Finding]:
    structures = _structures(config)
    nested = shares_values(_label_values(config))
    for index, step in enumerate(config.postprocess):
        key: KeyPath = ("postprocess", index)
        for misfit in misfits(step):
            yield Finding(tuple((*key, name) for name in misfit.keys), misfit.rule, hint=misfit.hint)
        if step.label is not None and step.label not in nameable(step, structures, nested=nested):
            yield _unknown_name((*key, "label"), step.label, structures)
        for place, name in enumerate(getattr(step, "labels", None) or ()):
            if name not in structures:
                yield _unknown_name((*key, "labels", place), name, structures)


def _thresholds(config: Config) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, step in enumerate(config.postprocess):
        if isinstance(step, ThresholdConfig) and first.setdefault(step.label, index) != index:
            yield Finding(
                (("postprocess", index, "label"), ("postprocess", first[step.label], "label")),
                "has a threshold already, in an entry above.",
                as_written(step.label),
                "Leave one of them out.",
            )


def _terms(config: Config) -> Iterator[Finding]:
    structures = _structures(config)
    for name, entry in config.terms.items():
        if name not in structures:
            yield _unknown_name(("terms", name), name, structures)
        for modifier, of in (("modifier", "type"), ("region_modifier", "region")):
            if getattr(entry, modifier) is not None and getattr(entry, of) is None:
                yield Finding(
                    (("terms", name, modifier),), f"modifies a {of} that is not given.", hint=f"Give the {of}, too."
                )


def _loss_names(config: Config) -> Iterator[Finding]:
    structures = _structures(config)
    for index, term in enumerate(config.loss):
        for name in getattr(term, "class_weights", None) or ():
            if name not in (*structures, BACKGROUND):
                yield _unknown_name(("loss", index, "class_weights", name), name, structures, "a label")
        if isinstance(term, BoundaryWeightedConfig) and term.cells not in (None, *structures, BACKGROUND):
            yield _unknown_name(("loss", index, "cells"), str(term.cells), structures, "a label")


def _background_weight(config: Config) -> Iterator[Finding]:
    nested = shares_values(_label_values(config))
    for index, term in enumerate(config.loss):
        if BACKGROUND in (getattr(term, "class_weights", None) or ()) and (nested or isinstance(term, BceConfig)):
            why = (
                "of labels that lie inside of each other each is compared" if nested else "bce compares each structure"
            )
            yield Finding(
                (("loss", index, "class_weights", BACKGROUND), ("labels",)),
                f"would have no effect: {why} with the rest, and there is no output for the background.",
                hint="Leave it out.",
            )


def _nested_background(config: Config) -> Iterator[Finding]:
    if not shares_values(_label_values(config)):
        return
    for index, term in enumerate(config.loss):
        if isinstance(term, OverlapOptions) and term.background:
            yield Finding(
                (("loss", index, "background"), ("labels",)),
                "would have no effect: of labels that lie inside of each other each is compared with the rest, and "
                "there is no output for the background.",
                "true",
                "Leave it out.",
            )


def _unknown_name(key: KeyPath, name: str, known: Sequence[str], what: str = "a structure") -> Finding:
    """A key or value that names no label, or one that cannot stand there."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"The structures are {', '.join(known)}."
    if name == IGNORE:
        hint = f"{IGNORE} marks voxels whose label is unknown. {hint}"
    value = "" if key[-1] == name else as_written(name)
    return Finding((key, ("labels", name)), f"must be the name of {what} in labels.", value, hint)


LABEL_RULES: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _label_names,
    _background,
    _label_numbers,
    _nesting,
    _annotated,
    _postprocess,
    _thresholds,
    _terms,
    _loss_names,
    _background_weight,
    _nested_background,
)
