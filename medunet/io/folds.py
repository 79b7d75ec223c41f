"""Which cases are held out: folds for cross-validation.

Without patient groups the folds are those of nnU-Net (scikit-learn's `KFold(folds, shuffle=True,
random_state=12345)` over the sorted ids), so that scores can be compared. Knows nothing of files but
`splits.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medunet.atomic import write_json
from medunet.errors import DatasetError, Problem, UsageError
from medunet.io.case import Case
from medunet.io.patterns import compiled

SEED = 12345
"""The seed that nnU-Net uses."""
_PLACES = {"{group}": "(?P<group>(?s:.+))", "*": "(?s:.*)"}


def fold_problems(cases: Sequence[Case]) -> list[Problem]:
    """What forbids folds: a fold or a group stated for some cases only, a patient in two folds."""
    problems = []
    for what, missing in (
        ("fold", [case.id for case in cases if case.fold is None]),
        ("group", [case.id for case in cases if case.group is None]),
    ):
        if 0 < len(missing) < len(cases):
            rule = f"all cases need one or none, but {len(missing)} of {len(cases)} have none."
            problems.append(Problem(missing[0], what, rule))
    seen: dict[str, Case] = {}
    for case in cases:
        if case.group is None or case.fold is None:
            continue
        first = seen.setdefault(case.group, case)
        if first.fold != case.fold:
            rule = f"one group must stay in one fold, but {first.id} of group {case.group} is in fold {first.fold}."
            problems.append(Problem(case.id, "fold", rule, value=str(case.fold)))
    return problems


def grouped(cases: Sequence[Case], pattern: str) -> tuple[list[Case], list[Problem]]:
    """The cases with the groups that their ids tell, and what is wrong with those.

    Args:
        cases: groups that they have already are replaced.
        pattern: of ids, as `data.group`.
    """
    ids = compiled(pattern, _PLACES)
    found = [(case, ids.fullmatch(case.id)) for case in cases]
    strange = [case.id for case, match in found if match is None]
    if strange:
        rule = f"it does not fit the pattern, as {len(strange)} of {len(cases)} ids do not."
        return list(cases), [Problem(strange[0], "data.group", rule, value=pattern)]
    return [replace(case, group=match["group"]) for case, match in found if match is not None], []


def assign_folds(cases: Iterable[Case], folds: int, seed: int = SEED) -> dict[str, int]:
    """Fold in which each case is held out, by id; the ids are sorted.

    Folds that the data set states win. Else groups stay together and folds are as even as they can be;
    without groups (or with one case per group) the result is that of nnU-Net.

    Args:
        cases: a manifest, or cases in any order.
        folds: number of folds, at least 2.
        seed: of the shuffle; the same on every platform.

    Raises:
        DatasetError: more folds than cases or groups, or `fold_problems`.
        UsageError: fewer than 2 folds.
    """
    if folds < 2:
        raise UsageError(f"There must be at least 2 folds, not {folds}.")
    ordered = sorted(cases, key=lambda case: case.id)
    problems = fold_problems(ordered)
    if problems:
        raise DatasetError("The cases cannot be split into folds.", problems=problems)
    if ordered and ordered[0].fold is not None:
        return _stated_folds(ordered, folds)
    groups = {case.id if case.group is None else case.group for case in ordered}
    if len(groups) < folds:
        noun = "cases" if len(groups) == len(ordered) else "groups"
        raise DatasetError(f"{len(groups)} {noun} cannot fill {folds} folds.", "Set data.folds to a smaller number.")
    if len(groups) == len(ordered):
        return dict(zip((case.id for case in ordered), _k_fold(len(ordered), folds, seed), strict=True))
    return _group_folds(ordered, folds, seed)


def _stated_folds(ordered: Sequence[Case], folds: int) -> dict[str, int]:
    stated = {case.id: case.fold for case in ordered if case.fold is not None}
    highest = max(stated.values())
    if highest >= folds:
        raise DatasetError(
            f"The data set states fold {highest}, but there are {folds} folds, counted from 0.",
            f"Set data.folds to {highest + 1}.",
        )
    return stated


def _k_fold(count: int, folds: int, seed: int) -> list[int]:
    """Fold of each of `count` cases, as scikit-learn's KFold: shuffle, cut, the first `count % folds` get one more."""
    order = np.arange(count)
    np.random.RandomState(seed).shuffle(order)
    result = np.empty(count, dtype=int)
    for fold, part in enumerate(np.array_split(order, folds)):
        result[part] = fold
    return [int(fold) for fold in result]


def _group_folds(ordered: Sequence[Case], folds: int, seed: int) -> dict[str, int]:
    """Shuffle the groups, then put each, largest first, where the fewest cases are."""
    sizes: dict[str, int] = {}
    for case in ordered:
        sizes[str(case.group)] = sizes.get(str(case.group), 0) + 1
    names = sorted(sizes)
    np.random.RandomState(seed).shuffle(names)
    filled = [0] * folds
    placed = {}
    for name in sorted(names, key=lambda group: -sizes[group]):
        fold = filled.index(min(filled))
        placed[name] = fold
        filled[fold] += sizes[name]
    return {case.id: placed[str(case.group)] for case in ordered}


def split(cases: Iterable[Case], fold: int, folds: int, seed: int = SEED) -> tuple[list[Case], list[Case]]:
    """Training cases and held-out cases of one fold, each sorted by id.

    Raises:
        UsageError: a fold that does not exist.
        DatasetError: as `assign_folds`, or a fold that holds no case or all of them.
    """
    if not 0 <= fold < folds:
        raise UsageError(f"There is no fold {fold}; {folds} folds are counted from 0 to {folds - 1}.")
    ordered = sorted(cases, key=lambda case: case.id)
    assigned = assign_folds(ordered, folds, seed)
    training = [case for case in ordered if assigned[case.id] != fold]
    validation = [case for case in ordered if assigned[case.id] == fold]
    if not training or not validation:
        stated = ", ".join(str(number) for number in sorted(set(assigned.values())))
        raise DatasetError(
            f"Fold {fold} leaves {len(training)} cases to train and {len(validation)} to validate; "
            f"the data set states the folds {stated}.",
            "Set data.fold to one of them, or leave the folds out of the data set.",
        )
    return training, validation


def write_splits(run: Path, assigned: Mapping[str, int]) -> Path:
    """Write `splits.json` into a run folder, atomically: per fold `{"train": [ids], "val": [ids]}`, as nnU-Net does.

    Raises:
        OutputError: the folder cannot be written.
    """
    count = max(assigned.values(), default=-1) + 1
    splits = [
        {
            "train": [case for case, held_out in assigned.items() if held_out != fold],
            "val": [case for case, held_out in assigned.items() if held_out == fold],
        }
        for fold in range(count)
    ]
    path = run / "splits.json"
    write_json(path, splits)
    return path
