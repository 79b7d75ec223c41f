"""Telemetry as a data set that medunet trains on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medunet.config.load import load_config
from medunet.demo.pictures import write_telemetry
from medunet.demo.telemetry import LABELS, METRICS, as_picture, make_telemetry
from medunet.errors import UsageError
from medunet.io.check import check_cases
from medunet.io.manifest import read_manifest
from medunet.labels import LabelMap
from medunet.training.run import train

TINY = (
    *("network.channels=[2, 4]", "train.patch_size=[32, 16]", "train.budget=null", "train.epochs=1"),
    *("train.iterations_per_epoch=2", "data.folds=2", "logging.tensorboard=false", "logging.images=null"),
)


def test_the_same_call_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_telemetry(tmp_path / name, pictures=5, servers=16, samples=40)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 11
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_it_is_a_healthy_data_set_whose_groups_are_fleets(tmp_path: Path) -> None:
    manifest = read_manifest(write_telemetry(tmp_path / "t", pictures=6, servers=16, samples=40), channels=3)
    assert [case.group for case in manifest.cases] == ["fleet_000"] * 4 + ["fleet_001"] * 2
    statistics = check_cases(list(manifest.cases), LabelMap.from_mapping(LABELS), channels=3)
    assert {entry.shape for entry in statistics} == {(40, 16)}


def test_pixels_are_the_telemetry(tmp_path: Path) -> None:
    folder = write_telemetry(tmp_path / "t", pictures=2, servers=16, samples=40)
    drawn = make_telemetry(0, day=1, servers=16, samples=40)
    np.testing.assert_array_equal(Image.open(folder / "images" / "fleet_000_day_1.png"), as_picture(drawn.values))
    np.testing.assert_array_equal(Image.open(folder / "labels" / "fleet_000_day_1.png"), drawn.labels)


def test_another_seed_writes_other_pictures(tmp_path: Path) -> None:
    one, other = (write_telemetry(tmp_path / str(s), pictures=1, seed=s, servers=16, samples=40) for s in (0, 1))
    name = Path("images") / "fleet_000_day_0.png"
    assert (one / name).read_bytes() != (other / name).read_bytes()


def test_a_folder_that_is_not_empty_and_no_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not empty"):
        write_telemetry(tmp_path)
    with pytest.raises(UsageError, match="At least one picture"):
        write_telemetry(tmp_path / "new", pictures=0)
    assert not (tmp_path / "new").exists()


def test_the_shipped_configuration_names_the_metrics_and_labels_and_trains(tmp_path: Path) -> None:
    data = write_telemetry(tmp_path / "t", pictures=8, servers=16, samples=40)
    config = load_config("server_heatmap.yaml", data=data, overrides=TINY)
    assert config.data.modality == METRICS
    assert config.labels == LABELS
    assert train(config, tmp_path / "run", device="cpu").validation is not None
