"""Slices go through the truth's foreground, lie upright, and show what prediction would say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from medunet.io.case import Case
from medunet.io.manifest import read_manifest
from medunet.labels import LabelMap
from medunet.training.cache import IMAGE, CachedCase, prepare_case
from medunet.training.record.slices import Slices, _Plane


@pytest.fixture(scope="module")
def cases(tiny_dataset: Path) -> tuple[Case, ...]:
    return tuple(read_manifest(tiny_dataset).cases)


@pytest.fixture
def prepare(tmp_path: Path, tiny_dataset: Path, make_config: Callable[..., Any]) -> Callable[..., Any]:
    """`prepare(case, orientation)` gives a preprocessed case and its labels."""

    def run(case: Case, orientation: str = "RAS") -> tuple[CachedCase, LabelMap]:
        config = make_config(tiny_dataset, {"preprocess.orientation": orientation})
        labels = LabelMap.from_mapping(config.labels)
        return prepare_case(case, tmp_path / orientation, config.preprocess, labels, 1), labels

    return run


def logits_of(case: CachedCase, labels: LabelMap) -> torch.Tensor:
    """(C, *S) of a network that is right."""
    return 5 * torch.nn.functional.one_hot(torch.from_numpy(np.array(case.label())).long(), len(labels)).movedim(-1, 0)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SRA", "AIL", "PSR"])
def test_the_same_slice_lies_upright_whatever_the_axes_are(
    cases: tuple[Case, ...], prepare: Callable[..., Any], orientation: str
) -> None:
    case, _ = prepare(cases[0], orientation)
    plane = _Plane.through(case)
    upright = plane.upright(np.asarray(plane.cut(case.label())))
    assert np.array_equal(plane.read(case.blocks(IMAGE)), plane.cut(case.image())[0])
    usual, _ = prepare(cases[0], "RAS")
    whole = np.asarray(usual.label())
    foreground = np.flatnonzero((whole > 0).any(axis=(0, 1)))
    candidates = [whole[::-1, ::-1, index].T for index in foreground]  # right on the left, front up
    assert any(np.array_equal(upright, candidate) for candidate in candidates)
    assert (upright > 0).sum() > 0.8 * max((candidate > 0).sum() for candidate in candidates)
    assert plane.spacing == (1.5, 1.5)


def test_truth_and_prediction_are_drawn_side_by_side(cases: tuple[Case, ...], prepare: Callable[..., Any]) -> None:
    (case, labels), (other, _) = prepare(cases[0]), prepare(cases[1])
    slices = Slices([case], labels, every=1)
    assert not slices.wanted(1)  # nothing was seen yet
    slices.see(other, torch.zeros(3, *other.label().shape))
    assert slices.draw() == {}
    slices.see(case, logits_of(case, labels))
    assert slices.wanted(1)
    drawn = slices.draw()
    assert list(drawn) == [case.id]
    right = np.asarray(drawn[case.id])
    side = (right.shape[1] - 8) // 3
    assert np.array_equal(right[:, side + 4 : 2 * side + 4], right[:, 2 * side + 8 :])
    assert not np.array_equal(right[:, :side], right[:, side + 4 : 2 * side + 4])
    slices.see(case, torch.zeros(3, *case.label().shape))
    wrong = np.asarray(slices.draw()[case.id])
    assert np.array_equal(wrong[:, :side], wrong[:, 2 * side + 8 :])  # background: nothing is drawn


def test_pictures_show_what_thresholds_leave(cases: tuple[Case, ...], prepare: Callable[..., Any]) -> None:
    case, labels = prepare(cases[0])
    logits = logits_of(case, labels).float()
    least = [0.0, 1.01 * float(logits.softmax(0)[1].max()), 0.0]
    slices, strict = Slices([case], labels), Slices([case], labels, least=least)
    for each in (slices, strict):
        each.see(case, logits)
    before, after = slices.predictions[case.id], strict.predictions[case.id]
    assert (before == 1).any()
    np.testing.assert_array_equal(after, np.where(before == 1, 0, before))


def test_the_slice_goes_through_structures_where_voxels_are_ignored_too(
    write_dataset: Callable[..., Path], tmp_path: Path, make_config: Callable[..., Any]
) -> None:
    data = write_dataset(tmp_path / "data", count=1, shape=(24, 24, 48))
    file = data / "labelsTr" / "case_00.nii.gz"
    mask = nibabel.load(file)
    values = np.asarray(mask.dataobj).copy()
    values[:, :, :16] = 7  # ignored
    values[:, :, 40:] = 205
    nibabel.save(nibabel.Nifti1Image(np.where(values == 4, 0, values), mask.affine), file)
    config = make_config(data, {"labels": {"background": 0, "core": 205, "ignore": 7}})
    labels = LabelMap.from_mapping(config.labels)
    (case,) = read_manifest(data).cases
    plane = _Plane.through(prepare_case(case, tmp_path / "cache", config.preprocess, labels, 1))
    assert plane.index >= 40


def test_the_first_validation_and_every_so_many_after_it_are_wanted(
    cases: tuple[Case, ...], prepare: Callable[..., Any]
) -> None:
    case, labels = prepare(cases[0])
    slices = Slices([case], labels, every=3)
    slices.see(case, logits_of(case, labels))
    assert [number for number in range(1, 9) if slices.wanted(number)] == [1, 4, 7]


def test_nested_labels_are_painted_from_the_outside_in(
    cases: tuple[Case, ...], tmp_path: Path, tiny_dataset: Path, make_config: Callable[..., Any]
) -> None:
    config = make_config(tiny_dataset, {"labels": {"background": 0, "whole": [4, 205], "core": 205}})
    labels = LabelMap.from_mapping(config.labels)
    case = prepare_case(cases[0], tmp_path, config.preprocess, labels, 1)
    label = torch.from_numpy(np.array(case.label()))
    slices = Slices([case], labels)
    slices.see(case, torch.stack([(label > 0) * 2.0 - 1, (label == 2) * 2.0 - 1]))
    picture = np.asarray(slices.draw()[case.id])
    side = (picture.shape[1] - 8) // 3
    assert np.array_equal(picture[:, side + 4 : 2 * side + 4], picture[:, 2 * side + 8 :])
