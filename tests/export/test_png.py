"""Masks of pictures as PNG: the values of the labels, whatever reads them, in a few rows at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from medunet.errors import OutputError
from medunet.export.png import write_mask_png
from medunet.geometry import Geometry
from medunet.io.files import read_mask
from medunet.io.volume import Segmentation
from medunet.labels import LabelMap


def of(mask: NDArray[Any], labels: LabelMap) -> Segmentation:
    return Segmentation(mask, Geometry.plain(mask.shape), labels)


VESSEL = LabelMap.from_mapping({"background": 0, "vessel": 255})


@pytest.mark.parametrize("value", [7, 255, 256, 65535])
def test_a_mask_png_reads_back_as_the_values_in_files(value: int, tmp_path: Path) -> None:
    labels = LabelMap.from_mapping({"background": 0, "vessel": value})
    mask = np.zeros((30, 20), np.uint8)
    mask[3:9, 10:19] = 1
    write_mask_png(tmp_path / "mask.png", Segmentation(mask, Geometry.plain((30, 20)), labels))
    back, geometry = read_mask(tmp_path / "mask.png")
    assert geometry.shape == (30, 20)
    assert np.array_equal(back, mask.astype(np.int64) * value)


def test_a_volume_is_no_mask_png(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="2D picture, and this mask is 4x4x4"):
        write_mask_png(tmp_path / "mask.png", of(np.zeros((4, 4, 4), np.uint8), VESSEL))


@pytest.mark.parametrize("value", [-1, 70000])
def test_values_that_png_cannot_hold_are_refused(value: int, tmp_path: Path) -> None:
    labels = LabelMap.from_mapping({"background": 0, "vessel": value})
    with pytest.raises(OutputError, match="from 0 to 65535"):
        write_mask_png(tmp_path / "mask.png", Segmentation(np.zeros((4, 4), np.uint8), Geometry.plain((4, 4)), labels))
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([2, 255, 300, 65535]), st.booleans(), st.integers(0, 99))
def test_pillow_reads_what_was_written_in_any_order_of_memory(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, value: int, turned: bool, seed: int
) -> None:
    mask = np.random.default_rng(seed).integers(0, 2, (width, height)).astype(np.uint8)
    path = tmp_path_factory.mktemp("png") / "mask.png"
    labels = LabelMap.from_mapping({"background": 0, "vessel": value})
    write_mask_png(path, of(np.asfortranarray(mask) if turned else mask, labels))
    with Image.open(path) as picture:
        assert picture.size == (width, height)
        assert np.array_equal(np.asarray(picture), mask.T.astype(np.int64) * value)


def test_parts_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(0).integers(0, 2, (50, 70)).astype(np.uint8)
    monkeypatch.setattr("medunet.export.png._WRITTEN", 300)
    write_mask_png(tmp_path / "mask.png", of(mask, VESSEL))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "mask.png")), mask.T * 255)


def test_ignored_pixels_of_a_reference_keep_their_value(tmp_path: Path) -> None:
    labels = LabelMap.from_mapping({"background": 0, "vessel": 2, "ignore": 300})
    mask = np.zeros((5, 4), np.uint8)
    mask[1], mask[2] = 1, labels.ignore_index or 0
    write_mask_png(tmp_path / "mask.png", of(mask, labels))
    assert np.asarray(Image.open(tmp_path / "mask.png")).T[:, 0].tolist() == [0, 2, 300, 0, 0]


def test_of_nested_labels_the_innermost_is_written(tmp_path: Path) -> None:
    labels = LabelMap.from_mapping({"background": 0, "whole": [1, 2], "core": 2})
    mask = np.asarray([[0, 1, 2]], np.uint8)
    write_mask_png(tmp_path / "mask.png", of(mask, labels))
    assert np.asarray(Image.open(tmp_path / "mask.png")).T.tolist() == [[0, 1, 2]]
