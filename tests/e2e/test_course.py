"""The course: several classes in the layout of PASCAL VOC, mixed precision, cross-validation, transfer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

CONFIG = """\
extends: base/2d.yaml
name: course
data: {modality: [R, G, B], folds: 2}
labels: {background: 0, body: 1, head: 2, ignore: 255}
preprocess: {size: [32, 32]}
augment: {preset: photo}
network: {channels: [8, 16], deep_supervision: false}
train:
  patch_size: [32, 32]
  epochs: 2
  iterations_per_epoch: 15
  batch_size: 4
  precision: bf16
  optimizer: {name: adamw, lr: 0.01}
validate: {every: 1}
"""


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Any], sizes: Sequence[tuple[int, int]]) -> Path:
    """JPEGImages, SegmentationClass with a palette and borders of 255, and the list of the validation."""
    root = tmp_path_factory.mktemp("voc")
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for number, size in enumerate(sizes):
        picture, parts = draw(number, size)
        edge = ndimage.grey_dilation(parts, size=3) != ndimage.grey_erosion(parts, size=3)
        mask = Image.fromarray(np.where(edge, 255, parts).astype(np.uint8), mode=None).convert("P")
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * (252 * 3) + [224, 224, 192])
        Image.fromarray(picture).save(root / f"JPEGImages/{number}.jpg", quality=95)
        mask.save(root / f"SegmentationClass/{number}.png")
    names = [str(number) for number in range(len(sizes))]
    (root / "ImageSets/Segmentation/trainval.txt").write_text("\n".join(names) + "\n")
    return root


@pytest.fixture(scope="module")
def validated(medunet: Callable[..., Any], voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-validation."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "course.yaml").write_text(CONFIG)
    medunet("train", "-c", folder / "course.yaml", "--data", voc, "--out", folder / "run", "--fold", "all", "-d", "cpu")
    return folder


def test_every_case_is_held_out_once_and_the_folds_become_one_model(validated: Path) -> None:
    rows = (validated / "run/validation/per_case.csv").read_text().splitlines()[1:]
    assert sorted({int(row.split(",")[0]) for row in rows}) == list(range(10))
    assert "weights:" in (validated / "run/model/model.yaml").read_text()


def test_several_classes_are_learned_in_bfloat16(validated: Path) -> None:
    log = (validated / "run/fold_0/train.log").read_text()
    assert "in bfloat16" in log
    epochs = [json.loads(line) for line in (validated / "run/fold_0/metrics.jsonl").read_text().splitlines()]
    assert max(epoch["dice_mean"] for epoch in epochs) > 0.4


def test_what_was_learned_is_carried_over_to_another_task(
    medunet: Callable[..., Any], validated: Path, photographs: Path, tmp_path: Path
) -> None:
    text = CONFIG.replace("body: 1, head: 2, ignore: 255", "person: 255").replace("name: course", "name: transfer")
    (tmp_path / "transfer.yaml").write_text(text)
    medunet(
        *("train", "-c", tmp_path / "transfer.yaml", "--data", photographs, "--out", tmp_path / "run", "-d", "cpu"),
        *("--set", f"train.start_from={validated / 'run/fold_0/model'}"),
        *("--set", "train.freeze=[{layers: 'encoder.*', epochs: 1}]"),
    )
    log = (tmp_path / "run/train.log").read_text()
    assert re.search(r"\d+ of \d+ tensors start as in", log)
    epochs = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert max(epoch["dice_mean"] for epoch in epochs) > 0.5
