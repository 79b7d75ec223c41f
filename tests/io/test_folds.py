"""Folds: those of nnU-Net, those of patient groups, those that the data set states."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medunet.config.schema import DataConfig
from medunet.errors import DatasetError, UsageError
from medunet.io.case import Case
from medunet.io.folds import assign_folds, grouped, split, write_splits
from medunet.io.manifest import read_manifest

DATA = Path(__file__).resolve().parents[2] / "../shared/data"


def cases(count, **fields):
    return [Case(f"c{i:03d}", (Path(f"{i}.nii.gz"),), **{k: v[i] for k, v in fields.items()}) for i in range(count)]


def members(assigned, fold):
    return [name for name, number in assigned.items() if number == fold]


def test_the_folds_are_those_of_nnunet():
    # KFold(5, shuffle=True, random_state=12345) over 12 sorted ids, as computed with scikit-learn
    known = [[0, 3, 8], [7, 10, 11], [6, 9], [1, 4], [2, 5]]
    assigned = assign_folds(reversed(cases(12)), 5)
    assert [members(assigned, fold) for fold in range(5)] == [[f"c{i:03d}" for i in fold] for fold in known]


@pytest.mark.parametrize(("count", "folds"), [(5, 5), (13, 5), (208, 5), (17, 3)])
def test_the_folds_are_those_of_scikit_learn(count, folds):
    from sklearn import model_selection as selection

    assigned = assign_folds(cases(count), folds)
    names = list(assigned)
    parts = selection.KFold(folds, shuffle=True, random_state=12345).split(names)
    assert [members(assigned, f) for f in range(folds)] == [[names[i] for i in held_out] for _, held_out in parts]


def test_ids_are_sorted_as_text_as_nnunet_does():
    named = [Case(name, (Path(name),)) for name in ("10", "9", "B", "a", "_")]
    assert list(assign_folds(named, 5)) == ["10", "9", "B", "_", "a"]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(2, 6))
def test_no_group_is_in_two_folds_and_folds_are_even(groups, folds):
    listed = cases(len(groups), group=[f"p{g}" for g in groups])
    if len(set(groups)) < folds:
        with pytest.raises(DatasetError, match="cannot fill"):
            assign_folds(listed, folds)
        return
    assigned = assign_folds(listed, folds)
    homes = {(case.group, assigned[case.id]) for case in listed}
    assert len(homes) == len(set(groups))
    sizes = Counter(assigned.values())
    assert set(sizes) == set(range(folds))
    assert max(sizes.values()) - min(sizes.values()) <= max(Counter(groups).values())
    assert assign_folds(listed[::-1], folds) == assigned


@pytest.mark.parametrize(
    ("pattern", "ids", "groups"),
    [
        ("{group}_*", ("ab_1", "ab_2", "a_b_1"), ["ab", "ab", "a_b"]),
        ("sub-*-{group}", ("sub-1-x", "sub-2-x"), ["x", "x"]),
        ("{group}", ("a", "b"), ["a", "b"]),
        ("{group}.(*", ("a.(1", "a.(2"), ["a", "a"]),
    ],
)
def test_groups_are_read_from_ids(pattern, ids, groups):
    listed = [Case(name, (Path(name),), group="old") for name in ids]
    found, problems = grouped(listed, pattern)
    assert [case.group for case in found] == groups
    assert [case.id for case in found] == list(ids)
    assert not problems


def test_ids_that_do_not_fit_the_pattern_of_groups_are_told():
    (problem,) = grouped([Case(name, (Path(name),)) for name in ("a_1", "b", "_1")], "{group}_*")[1]
    assert (problem.where, problem.what, problem.value) == ("b", "data.group", "{group}_*")
    assert "2 of 3 ids do not" in problem.rule


def test_views_of_one_car_stay_in_one_fold(tmp_path):
    for number in range(12):
        for folder in ("images", "labels"):
            path = tmp_path / folder / f"car{number // 4}_{number:02d}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")
    plain = read_manifest(tmp_path, channels=None)
    assert {case.group for case in plain} == {None}
    manifest = read_manifest(tmp_path, channels=None, options=DataConfig(group="{group}_*"))
    held_out = [case.id for case in split(manifest, 0, 3)[1]]
    assert len(held_out) == 4
    assert len({name[:4] for name in held_out}) == 1
    with pytest.raises(DatasetError) as caught:
        read_manifest(tmp_path, channels=None, options=DataConfig(group="{group}-*"))
    assert "12 of 12 ids do not" in str(caught.value.problems)


def test_one_case_per_group_gives_the_folds_of_nnunet():
    assert assign_folds(cases(12, group=[f"p{i}" for i in range(12)]), 5) == assign_folds(cases(12), 5)


def test_another_seed_gives_other_folds():
    assert assign_folds(cases(30), 5, seed=1) != assign_folds(cases(30), 5)


def test_stated_folds_win():
    stated = [0, 1, 2, 2, 1, 0]
    assert list(assign_folds(cases(6, fold=stated), 3).values()) == stated


@pytest.mark.parametrize(
    ("listed", "folds", "rule"),
    [
        (cases(3), 5, "3 cases cannot fill 5 folds"),
        (cases(4, group=list("aabb")), 3, "2 groups cannot fill 3 folds"),
        (cases(2, fold=[0, 7]), 5, "fold 7"),
        (cases(2, fold=[0, None]), 2, "all cases need one or none"),
        (cases(2, group=["a", None]), 2, "all cases need one or none"),
        (cases(2, fold=[0, 1], group=["a", "a"]), 2, "one group must stay in one fold"),
    ],
)
def test_what_cannot_be_split_is_told(listed, folds, rule):
    with pytest.raises(DatasetError, match=rule):
        assign_folds(listed, folds)


@pytest.mark.parametrize("fold", [-1, 5])
def test_a_fold_that_does_not_exist_is_a_usage_error(fold):
    with pytest.raises(UsageError, match="counted from 0 to 4"):
        split(cases(10), fold, 5)


def test_a_single_fold_is_a_usage_error():
    with pytest.raises(UsageError, match="at least 2"):
        assign_folds(cases(3), 1)


def test_a_stated_fold_without_cases_is_told():
    with pytest.raises(
        DatasetError, match=r"Fold 2 leaves 3 cases to train and 0 to validate; .* states the folds 0, 1"
    ):
        split(cases(3, fold=[0, 1, 1]), 2, 5)


def test_training_and_held_out_cases_are_all_cases():
    listed = cases(11)
    for fold in range(5):
        training, held_out = split(listed[::-1], fold, 5)
        assert not {case.id for case in training} & {case.id for case in held_out}
        assert sorted([*training, *held_out], key=lambda case: case.id) == listed


def test_splits_are_written_as_nnunet_writes_them(tmp_path):
    assigned = assign_folds(cases(12), 5)
    path = write_splits(tmp_path, assigned)
    splits = json.loads(path.read_text())
    assert path.name == "splits.json"
    assert len(splits) == 5
    assert splits[0]["val"] == ["c000", "c003", "c008"]
    assert sorted(splits[0]["train"] + splits[0]["val"]) == list(assigned)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the real scans in ../shared/data")
def test_what_nnunet_predicted_for_fold_0_is_held_out_in_fold_0():
    _, held_out = split(read_manifest(DATA / "hippocampus"), 0, 5)
    predicted = {
        path.name.removesuffix(".nii.gz") for path in (DATA / "nnunet_hippocampus/predictions").glob("*.nii.gz")
    }
    assert len(held_out) == 42
    assert predicted
    assert predicted <= {case.id for case in held_out}
