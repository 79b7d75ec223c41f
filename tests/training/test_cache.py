"""The cache hits what is unchanged and misses everything else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from medunet.config.losses import BoundaryWeightedConfig
from medunet.config.schema import PreprocessConfig
from medunet.config.series import SeriesRules
from medunet.errors import DataError, DatasetError
from medunet.io.case import Case, Drawn, Part, Reading
from medunet.io.selection import Selection
from medunet.labels import LabelMap
from medunet.training.cache import (
    IMAGE,
    KNOWN,
    LABEL,
    CachedCase,
    case_key,
    lacking,
    prepare_case,
    prepare_cases,
    prepare_weights,
    resident,
)
from medunet.transforms.border_weights import border_weights

LABELS = LabelMap.from_mapping({"background": 0, "organ": 4, "core": 205})
AS_IS = PreprocessConfig.model_validate_json('{"intensity": {"name": "none"}}')
WEIGHTED = BoundaryWeightedConfig(name="boundary_weighted_ce")
COARSE = PreprocessConfig.model_validate_json('{"intensity": {"name": "none"}, "spacing": [3, 3, 3]}')


@pytest.fixture
def case(tiny_dataset: Path, tmp_path: Path) -> Case:
    image = shutil.copy(tiny_dataset / "imagesTr" / "case_00.nii.gz", tmp_path / "image.nii.gz")
    label = shutil.copy(tiny_dataset / "labelsTr" / "case_00.nii.gz", tmp_path / "label.nii.gz")
    return Case("case_00", (Path(image),), Path(label))


def test_a_cached_case_holds_what_training_needs(case: Case, tmp_path: Path) -> None:
    cached = prepare_case(case, tmp_path / "cache", COARSE, LABELS)
    raw = np.asarray(nibabel.load(case.label).dataobj)
    assert cached.image().dtype == np.float32
    assert cached.image().shape == (1, 12, 12, 11)
    assert cached.label().shape == (12, 12, 11)
    assert np.array_equal(LABELS.to_values(cached.reference()), raw)
    assert cached.record.original.shape == raw.shape
    for index, voxels in cached.locations().items():
        assert len(voxels) == (cached.label() == index).sum()
        assert (cached.label()[tuple(voxels.T)] == index).all()
    assert set(cached.locations()) == {1, 2}


def test_nothing_that_was_read_changes_the_cache(case: Case, tmp_path: Path) -> None:
    cached = prepare_case(case, tmp_path, AS_IS, LABELS)
    before = cached.image()
    cached.image()[:] = 1
    cached.blocks(IMAGE)[:, 2:4, :, :][:] = 1
    np.testing.assert_array_equal(cached.image(), before)


def test_an_unchanged_case_is_found_without_reading_its_files(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare_case(case, tmp_path / "cache", COARSE, LABELS)
    monkeypatch.setattr("medunet.training.cache.read_case_image", lambda *_, **__: pytest.fail("read again"))
    assert prepare_case(case, tmp_path / "cache", COARSE, LABELS) == first


def rewrite(path: Path, *, keep_time: bool) -> None:
    """Another content of the same or another length."""
    before = path.stat()
    image = nibabel.load(path)
    values = np.asarray(image.dataobj).copy()
    values[0, 0, 0] = 4
    nibabel.save(nibabel.Nifti1Image(values, image.affine), path)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Case], Any]] = {
    "image written again": lambda case: rewrite(case.images[0], keep_time=False),
    "label written again": lambda case: rewrite(case.label or Path(), keep_time=False),
    "only the time": lambda case: os.utime(case.images[0], ns=(1, 1)),
    "only the size": lambda case: rewrite(case.images[0], keep_time=True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_touched_file_has_another_key(case: Case, change: str) -> None:
    before = case_key(case, AS_IS, LABELS)
    assert case_key(case, AS_IS, LABELS) == before
    CHANGES[change](case)
    assert case_key(case, AS_IS, LABELS) != before


def test_everything_that_decides_the_arrays_is_in_the_key(case: Case, tmp_path: Path) -> None:
    moved = Case("case_00", (Path(shutil.copy2(case.images[0], tmp_path / "moved.nii.gz")),), case.label)
    keys = [
        case_key(case, AS_IS, LABELS),
        case_key(case, COARSE, LABELS),
        case_key(case, AS_IS.model_copy(update={"interpolation": "linear"}), LABELS),
        case_key(case, AS_IS, LabelMap.from_mapping({"background": 0, "organ": [4, 205]})),
        case_key(case, AS_IS, LabelMap.from_mapping({"background": 0, "core": 205, "organ": 4})),
        case_key(case, AS_IS, LABELS, channels=3),
        case_key(moved, AS_IS, LABELS),
    ]
    assert len(set(keys)) == len(keys)


def test_rules_for_the_series_are_in_the_key_where_there_are_any(case: Case) -> None:
    config, labels = PreprocessConfig(), LabelMap.from_mapping({"background": (0,), "organ": (1,)})
    keys = [
        case_key(replace(case, selection=Selection(rules=rules)), config, labels)
        for rules in (None, SeriesRules(contrast=True), SeriesRules(contrast=False))
    ]
    assert len(set(keys)) == 3
    assert keys[0] == case_key(case, config, labels)


def test_a_file_in_a_dicom_folder_counts(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "IM1").write_bytes(b"one")
    series = Case("case_00", (folder,), case.label)
    before = case_key(series, AS_IS, LABELS)
    (folder / "IM2").write_bytes(b"two")
    assert case_key(series, AS_IS, LABELS) != before


@pytest.mark.parametrize("file", ["record.json", "image.npy", "label.npy"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut off"])
def test_a_damaged_entry_is_made_again(case: Case, tmp_path: Path, file: str, damage: str) -> None:
    good = prepare_case(case, tmp_path / "cache", AS_IS, LABELS)
    image = np.array(good.image())
    path = good.folder / file
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    again = prepare_case(case, tmp_path / "cache", AS_IS, LABELS)
    assert np.array_equal(again.image(), image)
    assert np.array_equal(again.label(), LABELS.to_indices(np.asarray(nibabel.load(case.label).dataobj)))


def test_an_entry_that_is_damaged_while_it_is_used_ends_in_a_sentence(case: Case, tmp_path: Path) -> None:
    cached = prepare_case(case, tmp_path, AS_IS, LABELS)
    (cached.folder / "locations.npz").write_bytes(b"PK\3\4")
    with pytest.raises(DataError, match="Remove that folder"):
        cached.locations()


def test_an_interrupted_preparation_leaves_no_entry(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dumps", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_case(case, tmp_path / "cache", AS_IS, LABELS)
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


def test_large_structures_are_sampled_and_the_sample_is_repeatable(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medunet.training.cache._LOCATIONS", 50)
    one, two = (prepare_case(case, tmp_path / name, AS_IS, LABELS).locations() for name in ("a", "b"))
    assert {index: len(voxels) for index, voxels in one.items()} == {1: 50, 2: 50}
    assert all(np.array_equal(one[index], two[index]) for index in one)


def test_a_case_without_a_mask_cannot_be_trained_on(case: Case, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="needs a mask"):
        prepare_case(Case(case.id, case.images), tmp_path, AS_IS, LABELS)


def test_progress_is_counted(case: Case, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    prepare_cases([case, case], tmp_path, AS_IS, LABELS, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]


# what may be chosen as the centre of a patch


def test_a_structure_has_the_voxels_of_what_lies_inside_of_it(case: Case, tmp_path: Path) -> None:
    nested = LabelMap.from_mapping({"background": 0, "organ": [4, 205], "core": 205})
    cached = prepare_case(case, tmp_path / "cache", AS_IS, nested)
    label, locations = cached.label(), cached.locations()
    assert set(locations) == {1, 2}
    assert set(label[tuple(locations[1].T)]) == {1, 2}
    assert len(locations[1]) == (label > 0).sum()
    assert len(locations[2]) == (label == 2).sum()


def test_ignored_voxels_are_never_chosen(case: Case, tmp_path: Path) -> None:
    partly = LabelMap.from_mapping({"background": 0, "organ": 4, "ignore": 205})
    cached = prepare_case(case, tmp_path / "cache", AS_IS, partly)
    label, locations = cached.label(), cached.locations()
    assert 255 in label
    assert set(locations) == {KNOWN, 1}
    assert set(label[tuple(locations[1].T)]) == {1}
    assert set(label[tuple(locations[KNOWN].T)]) == {0, 1}
    assert len(locations[KNOWN]) == (label != 255).sum()


def test_of_a_case_that_is_known_everywhere_only_structures_are_kept(case: Case, tmp_path: Path) -> None:
    whole = LabelMap.from_mapping({"background": 0, "organ": 4, "core": 205, "ignore": 255})
    assert set(prepare_case(case, tmp_path / "cache", AS_IS, whole).locations()) == {1, 2}


# weight maps


def files(cached: CachedCase) -> set[str]:
    return {path.name for path in cached.folder.iterdir()}


def test_a_weight_map_lies_beside_its_label(case: Case, tmp_path: Path) -> None:
    plain = prepare_case(case, tmp_path, COARSE, LABELS)
    before = files(plain)
    assert plain.weight() is None
    steps: list[tuple[int, int]] = []
    progress = lambda done, total: steps.append((done, total))  # noqa: E731
    (weighted,) = prepare_weights([plain], LABELS, WEIGHTED, progress=progress)
    weight = weighted.weight()
    assert weight is not None
    assert weight.dtype == np.float32
    np.testing.assert_array_equal(weight, border_weights(plain.label(), LABELS, WEIGHTED))
    assert files(plain) - before == {weighted.weights}
    assert steps == [(1, 1)]


def test_a_run_that_adds_or_changes_the_term_keeps_image_and_label(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_weights([prepare_case(case, tmp_path, COARSE, LABELS)], LABELS, WEIGHTED)
    monkeypatch.setattr("medunet.training.cache.read_case_image", lambda *_, **__: pytest.fail("read again"))
    cached = prepare_case(case, tmp_path, COARSE, LABELS)
    assert cached.weight() is None
    keys = [{"w0": 5.0}, {"sigma": 2.0}, {"balance": False}, {"cells": "core"}, {}]
    changed = [WEIGHTED.model_copy(update=key) for key in keys]
    maps = [prepare_weights([cached], LABELS, options)[0] for options in changed]
    assert len({one.weights for one in maps}) == len(keys)
    for one, options in zip(maps, changed, strict=True):
        np.testing.assert_array_equal(one.weight(), border_weights(cached.label(), LABELS, options))


def test_a_weight_map_is_computed_once(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = prepare_case(case, tmp_path, COARSE, LABELS)
    first = prepare_weights([cached], LABELS, WEIGHTED)
    monkeypatch.setattr("medunet.training.cache.border_weights", lambda *_: pytest.fail("computed again"))
    assert prepare_weights([cached], LABELS, WEIGHTED) == first
    heavier = WEIGHTED.model_copy(update={"weight": 3.0})  # the factor of the loss term changes no map
    assert prepare_weights([cached], LABELS, heavier) == first


@pytest.mark.parametrize("damage", ["gone", "cut off", "of another case"])
def test_a_damaged_weight_map_is_made_again(case: Case, tmp_path: Path, damage: str) -> None:
    cached = prepare_case(case, tmp_path, COARSE, LABELS)
    (weighted,) = prepare_weights([cached], LABELS, WEIGHTED)
    path = weighted.folder / str(weighted.weights)
    content = path.read_bytes()
    path.unlink()
    if damage == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "of another case":
        np.save(path, np.zeros((2, 2, 2), np.float32))
    prepare_weights([cached], LABELS, WEIGHTED)
    assert path.read_bytes() == content


def test_an_interrupted_weight_map_leaves_the_case_as_it_was(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = prepare_case(case, tmp_path, COARSE, LABELS)
    before = files(cached)

    def stop(path: Path, array: Any) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_weights([cached], LABELS, WEIGHTED)
    assert files(cached) == before


# in memory or on disk


@pytest.mark.parametrize(
    ("wish", "free", "held"),
    [("auto", 2.0, True), ("auto", 1.9, False), ("ram", 0.0, True), ("disk", 9.0, False)],
)
def test_cases_are_held_in_memory_if_they_fit_twice(
    case: Case, tmp_path: Path, wish: str, free: float, held: bool
) -> None:
    (weighted,) = prepare_weights([prepare_case(case, tmp_path, COARSE, LABELS)], LABELS, WEIGHTED)
    names = ("image.npy", "label.npy", str(weighted.weights))
    assert weighted.nbytes == sum((weighted.folder / name).stat().st_size for name in names)
    (found,) = resident([weighted], wish, int(free * weighted.nbytes))
    assert found == weighted
    expected = [weighted.blocks(name).whole() for name in names]
    shutil.rmtree(weighted.folder)
    if held:
        for name, array in zip(names, expected, strict=True):
            np.testing.assert_array_equal(found.blocks(name).whole(), array)
    else:
        with pytest.raises(DataError, match="cannot be read"):
            found.image()


def test_blocks_follow_what_the_network_reads(case: Case, tmp_path: Path) -> None:
    deep, flat = (prepare_case(case, tmp_path, AS_IS, LABELS, flat=flat) for flat in (False, True))
    assert deep.folder != flat.folder
    assert flat.blocks(LABEL).limit[2] == 1 < deep.blocks(LABEL).limit[2]
    np.testing.assert_array_equal(deep.image(), flat.image())
    np.testing.assert_array_equal(deep.label(), flat.label())


def test_what_the_cache_lacks_is_known_without_making_it(case: Case, tmp_path: Path) -> None:
    assert lacking([case], tmp_path, AS_IS, LABELS) == [case.id]
    prepare_case(case, tmp_path, AS_IS, LABELS)
    assert lacking([case], tmp_path, AS_IS, LABELS) == []
    assert lacking([case], tmp_path, COARSE, LABELS) == [case.id]
    assert lacking([case], tmp_path, AS_IS, LABELS, flat=True) == [case.id]


@pytest.fixture
def drawn(tmp_path: Path) -> Case:
    """A picture of 20 x 10 whose label stands in a table."""
    pixels = np.random.default_rng(0).integers(0, 255, (10, 20), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(np.where(np.indices(pixels.shape)[0] < 9, 255, 0).astype(np.uint8)).save(tmp_path / "r.png")
    (tmp_path / "masks.csv").write_text("of all cases")
    return Case(
        "a", (tmp_path / "a.png",), Drawn(tmp_path / "masks.csv", (Part("organ", "columns", "1 12", "masks.csv:2"),))
    )


def test_a_label_that_stands_in_a_table_is_cached_like_a_file(drawn: Case, tmp_path: Path) -> None:
    cached = prepare_case(drawn, tmp_path / "cache", AS_IS, LABELS, flat=True)
    assert np.array_equal(cached.label().T.ravel(order="F").nonzero()[0], np.arange(12))
    unknown = LabelMap.from_mapping({**LABELS.to_mapping(), "ignore": 9})
    bounded = prepare_case(replace(drawn, region=tmp_path / "r.png"), tmp_path / "cache", AS_IS, unknown, flat=True)
    assert (bounded.label()[:, 9] == unknown.ignore_index).all()
    assert (bounded.label()[:, :9] != unknown.ignore_index).all()


def test_what_is_drawn_decides_the_cache_and_the_rest_of_the_table_does_not(drawn: Case, tmp_path: Path) -> None:
    before = case_key(drawn, AS_IS, LABELS)
    (tmp_path / "masks.csv").write_text("of all cases, and one more")
    assert case_key(drawn, AS_IS, LABELS) == before
    other = Drawn(tmp_path / "masks.csv", (Part("organ", "columns", "1 13", "masks.csv:2"),))
    along = Drawn(tmp_path / "masks.csv", (Part("organ", "rows", "1 12", "masks.csv:2"),))
    changes = (
        {"label": other},
        {"label": along},
        {"region": tmp_path / "r.png"},
        {"reading": Reading(resize_label=True)},
    )
    keys = {case_key(replace(drawn, **change), AS_IS, LABELS) for change in changes}
    assert len({before, *keys}) == 5
