"""The picture of augmented patches: what is in it, and that it is whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medunet.errors import DatasetError, OutputError, UsageError
from medunet.training.preview import preview_augmentation


def tiles(path: Path, rows: int, columns: int) -> list[list[np.ndarray]]:
    sheet = np.asarray(Image.open(path).convert("RGB")).astype(int)
    height = (sheet.shape[0] + 4) // rows - 4
    width = (sheet.shape[1] - 4) // columns - 4
    lefts = [place * (width + 4) + (4 if place else 0) for place in range(columns)]
    return [[sheet[r * (height + 4) :][:height, left : left + width] for left in lefts] for r in range(rows)]


def test_each_row_begins_with_the_patch_as_it_is(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    config = make_config(tiny_dataset, {"augment": {"preset": "nnunet", "rotation_probability": 1.0}})
    found = tiles(preview_augmentation(config, tmp_path / "sheet.png", cases=2, draws=3), rows=2, columns=4)
    unchanged = make_config(tiny_dataset, {"augment": {"preset": "none"}})
    plain = tiles(preview_augmentation(unchanged, tmp_path / "plain.png", cases=2, draws=1), rows=2, columns=2)
    for row, other in zip(found, plain, strict=True):
        assert np.array_equal(row[0], other[0])
        assert all(np.abs(tile - row[0]).mean() > 5 for tile in row[1:])
    assert np.abs(found[0][0] - found[1][0]).mean() > 5


def test_collages_are_of_the_cases_that_are_shown(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    augment = {"preset": "none", "collage_probability": 1.0}
    config = make_config(tiny_dataset, {"network.dims": 2, "train.patch_size": [16, 16], "augment": augment})
    alone = tiles(preview_augmentation(config, tmp_path / "alone.png", cases=1, draws=8), rows=1, columns=9)
    among = tiles(preview_augmentation(config, tmp_path / "among.png", cases=3, draws=8), rows=3, columns=9)
    assert np.array_equal(alone[0][0], among[0][0])
    assert not any(np.array_equal(one, other) for one in alone[0][1:] for other in among[0][1:])


def test_a_volume_seen_slice_by_slice_and_its_weight_map_are_no_hindrance(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    config = make_config(
        tiny_dataset,
        {
            "network.dims": 2,
            "train.patch_size": [16, 16],
            "loss": [{"name": "boundary_weighted_ce"}],
            "augment": {"preset": "photo", "collage_probability": 1.0},
        },
    )
    preview_augmentation(config, tmp_path / "sheet.png", cases=1, draws=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * (96 + 4) + 4, 96)


def test_a_data_set_that_cannot_be_used_leaves_no_picture(make_config: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DatasetError):
        preview_augmentation(make_config(tmp_path / "data", {"data.format": "auto"}), tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_a_picture_that_cannot_be_written_is_an_error(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        preview_augmentation(make_config(tiny_dataset), tmp_path / "file" / "sheet.png", cases=1, draws=1)


def test_a_name_of_another_kind_of_picture_is_refused(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"ends in \.png"):
        preview_augmentation(make_config(tiny_dataset), tmp_path / "sheet.jpg")
