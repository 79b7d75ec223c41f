"""Engines side by side: measured on the same cases, as prediction would compute them; what is missing says why."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medunet.engines.device import resolve_precision
from medunet.errors import DataError, UsageError
from medunet.inference import compare as module
from medunet.inference import int8
from medunet.inference.choice import INT8
from medunet.inference.compare import KINDS, Row, compare
from medunet.inference.predictor import Predictor
from medunet.training.run import train


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy, since forms are written into it."""
    return shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("cache", "engines"))


@pytest.fixture
def plain_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor of the test, it counts as one without bfloat16."""
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: False)


def by_kind(rows: tuple[Row, ...]) -> dict[tuple[str, str], Row]:
    return {(row.engine, row.precision): row for row in rows}


def test_every_engine_is_measured_on_the_held_out_cases(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "BOUND", 1)
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: True)
    told: list[tuple[int, int]] = []
    result = compare(run, progress=lambda *numbers: told.append(numbers))
    assert "held out" in result.origin
    assert len(result.cases) == 2
    assert tuple(by_kind(result.rows)) == KINDS
    assert told == [(number, 12) for number in range(1, 13)]
    for row in result.rows:
        assert row.note == ""
        assert min(row.window_seconds or 0, row.case_seconds or 0, row.peak_bytes or 0, row.disk_bytes or 0) > 0
        assert row.dice_mean == pytest.approx(np.mean([row.dice["organ"], row.dice["core"]]))  # type: ignore[list-item]
        assert row.agreement is not None
        assert 0.98 < row.agreement <= 1.0
    assert result.rows[0].agreement == 1.0
    kept = {path.name.rpartition("-")[0] for path in (run / "model" / "engines").iterdir() if path.is_dir()}
    assert kept == {"openvino", INT8, "onnx"}
    assert result.auto in ("torch", "openvino")
    assert Predictor(run / "model", device="cpu").engines.name == result.auto
    assert Predictor(run / "model", device="cpu").engines.reason == result.reason


def test_dice_is_that_of_the_training(tiny_run: Path, run: Path) -> None:
    result = compare(run, engines=["torch"])
    (first, *_) = result.rows
    rows = [line.split(",") for line in (tiny_run / "validation" / "per_case.csv").read_text().splitlines()]
    organ = [float(row[2]) for row in rows[1:] if row[1] == "organ"]
    assert first.dice["organ"] == pytest.approx(np.mean(organ), abs=0.01)


@pytest.mark.usefixtures("plain_bf16")
def test_an_engine_that_cannot_be_had_says_why(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("openvino", "nncf"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("medunet.engines.onnx.is_installed", lambda: False)
    rows = by_kind(compare(run).rows)
    assert rows["torch", "fp32"].note == ""
    assert "bfloat16" in rows["torch", "bf16"].note
    for kind in (("openvino", "fp32"), (INT8, "int8"), ("onnx", "fp32")):
        assert "installed" in rows[kind].note
        assert rows[kind].case_seconds is None


@pytest.mark.usefixtures("plain_bf16")
def test_int8_that_loses_too_much_is_not_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "BOUND", -1)
    row = by_kind(compare(run, engines=[INT8]).rows)[INT8, "int8"]
    assert row.note.startswith("Not kept: it loses")
    assert not list((run / "model" / "engines").glob(f"{INT8}*"))


@pytest.mark.usefixtures("plain_bf16")
def test_a_model_without_its_run_takes_any_data_set(tiny_model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "alone", ignore=shutil.ignore_patterns("engines"))
    result = compare(model, tiny_dataset, cases=3, engines=["torch", INT8])
    assert result.cases == ("case_00", "case_02", "case_05")
    rows = by_kind(result.rows)
    assert rows["torch", "fp32"].dice_mean is not None
    assert "run folder of one fold" in rows[INT8, "int8"].note
    with pytest.raises(UsageError, match="Give images with --data"):
        compare(model)


def test_images_without_masks_give_speed_and_agreement_only(run: Path, tiny_dataset: Path) -> None:
    result = compare(run, tiny_dataset / "imagesTr", cases=2, engines=["onnx"])
    assert len(result.cases) == 2
    for row in result.rows:
        if not row.note:
            assert (row.dice, row.dice_mean) == ({}, None)
            assert row.case_seconds is not None
            assert row.agreement is not None


def test_what_cannot_be_compared_is_refused(run: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='"tensorrt" is no engine'):
        compare(run, engines=["tensorrt"])
    with pytest.raises(UsageError, match="At least one case"):
        compare(run, cases=0)
    with pytest.raises(UsageError, match="There is no data set"):
        compare(run, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        compare(run, tmp_path / "empty")
    with pytest.raises(UsageError):
        compare(tmp_path / "nothing", tiny_dataset)


def test_a_mask_of_another_shape_is_told(run: Path, write_dataset: Callable[..., Path], tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", count=2)
    other = write_dataset(tmp_path / "other", count=2, shape=(24, 24, 12))
    shutil.copy(other / "labelsTr" / "case_00.nii.gz", data / "labelsTr" / "case_00.nii.gz")
    with pytest.raises(DataError, match="has the shape"):
        compare(run, data, engines=["torch"])


def test_pictures_are_compared_as_volumes_are(
    make_config: Callable[..., Any], blob: Callable[..., Any], tmp_path: Path
) -> None:
    for number in range(4):
        image, mask = blob(number, (32, 24))
        for name, pixels in (("images", np.clip(image / 2, 0, 255)), ("masks", mask)):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"p{number}.png")
    changes = {
        "data": {"root": str(tmp_path / "data"), "modality": ["grey"], "folds": 2},
        "preprocess": {"orientation": "RA"},
        "network": {"name": "unet", "dims": 2, "channels": [4, 8]},
        "train.patch_size": [16, 16],
        "train.epochs": 1,
    }
    run = train(make_config(tmp_path / "data", changes), tmp_path / "run", device="cpu").run
    rows = by_kind(compare(run, engines=["openvino", "onnx"]).rows)
    assert rows["onnx", "fp32"].agreement == pytest.approx(1.0, abs=1e-3)
    assert rows["openvino", "fp32"].dice_mean == pytest.approx(rows["torch", "fp32"].dice_mean, abs=1e-3)


def test_the_precision_that_predict_takes_decides_about_auto(run: Path) -> None:
    name = "bf16" if "bfloat16" in str(resolve_precision("auto", module._CPU)) else "fp32"
    rows = tuple(
        Row(engine, precision, window_seconds=1.0 if engine == "torch" else 2.0) for engine, precision in KINDS
    )
    slower = tuple(row for row in rows if row.precision == name)
    from medunet.model import load_model

    assert module._choice(load_model(run), slower)[0] == "torch"
    assert module._choice(load_model(run), slower[:1])[0] is None
