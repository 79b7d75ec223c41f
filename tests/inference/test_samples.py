"""Which cases engines are compared on, where `--data` is laid out otherwise than the data set of the run."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medunet.config.load import dump_config
from medunet.config.schema import Config
from medunet.errors import DatasetError
from medunet.inference.samples import Samples
from medunet.model import load_model

PAIRS = {"pairs": {"images": ["{case}.jpg"], "labels": "{case}_mask.png"}}
CSV = {"format": "csv"}
FOLDERS = {"format": "folders"}


@pytest.fixture
def run(picture_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """`run(data)` makes the folder of a run whose configuration has this section `data`."""

    def make(data: dict[str, Any]) -> Path:
        folder = tmp_path / "run"
        shutil.copytree(picture_model, folder / "model")
        content = {
            "name": "pictures",
            "data": {"root": str(tmp_path / "gone"), "modality": ["R", "G", "B"], **data},
            "labels": {"background": 0, "person": 255},
            "network": {"name": "unet", "dims": 2, "channels": [4, 8]},
            "train": {"patch_size": [32, 32]},
        }
        (folder / "config.yaml").write_text(dump_config(Config.model_validate_json(json.dumps(content))))
        (folder / "splits.json").write_text(json.dumps([{"train": ["x"], "val": ["y"]}]))
        return folder

    return make


def draw(folder: Path, *names: str) -> Path:
    for name in names:
        pixels = np.zeros((40, 50) if "mask" in name else (40, 50, 3), np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return folder


def found(run: Path, data: Path) -> list[tuple[str, bool]]:
    """Ids, and whether there is a mask."""
    samples = Samples.of(load_model(run), run, data, 9)
    assert samples.run is None
    return [(each.id, each.case is not None and each.case.label is not None) for each in samples.chosen]


@pytest.mark.parametrize(
    ("section", "why"), [(PAIRS, "read as pairs"), (CSV, "holds 0 CSV files"), (FOLDERS, "read as folders")], ids=str
)
def test_a_plain_folder_of_pictures_is_taken_without_masks(
    run: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, section: dict[str, Any], why: str
) -> None:
    caplog.set_level(logging.INFO, logger="medunet")
    photos = draw(tmp_path / "photos", "a.jpg", "b.jpg", "sub/c.png")
    assert found(run(section), photos) == [("a", False), ("b", False), ("sub/c", False)]
    (line,) = caplog.messages
    assert why in line
    assert line.endswith("Its images are taken as they are, without masks.")


@pytest.mark.parametrize("section", [PAIRS, CSV], ids=str)
def test_a_data_set_of_another_layout_keeps_its_masks(
    run: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, section: dict[str, Any]
) -> None:
    caplog.set_level(logging.INFO, logger="medunet")
    data = draw(tmp_path / "data", "images/a.png", "images/b.png", "masks/a_mask.png", "masks/b_mask.png")
    assert found(run(section), data) == [("a", True), ("b", True)]
    assert caplog.messages == [f"{data} is not laid out as the data set of the run; it is read as folders."]


def test_the_layout_of_the_run_is_taken_where_it_fits_and_its_problems_are_told(
    run: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="medunet")
    data, folder = draw(tmp_path / "data", "a.jpg", "b.jpg", "a_mask.png"), run(PAIRS)
    assert found(folder, data) == [("a", True), ("b", False)]
    assert caplog.messages == []
    draw(data, "c_mask.png")
    with pytest.raises(DatasetError, match=r"no image belongs to this mask; it would be c\.jpg"):
        found(folder, data)


@pytest.mark.parametrize(("section", "why"), [(PAIRS, "no image file has such a name"), (CSV, "0 CSV files")], ids=str)
def test_where_there_is_nothing_the_problem_of_the_layout_is_told(
    run: Callable[..., Path], tmp_path: Path, section: dict[str, Any], why: str
) -> None:
    (tmp_path / "bare").mkdir()
    folder = run(section)
    with pytest.raises(DatasetError, match=why) as caught:
        found(folder, tmp_path / "bare")
    assert "no image file and no DICOM series. It is empty." in str(caught.value)
    (tmp_path / "cases.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DatasetError, match=r"cases\.csv"):
        found(folder, tmp_path / "cases.csv")
