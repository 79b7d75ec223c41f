"""TensorBoard shows every number once, also after a resume."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medunet.training.record.tensorboard import TensorBoard

pytest.importorskip("tensorboard")


def row(epoch: int, loss: float = 0.5) -> dict[str, Any]:
    return {
        "epoch": epoch, "loss": loss, "lr": 0.01, "validation_loss": 0.7, "dice_mean": 0.5, "wait_share": 0.0,
        "dice": {"liver": 0.5, "cyst": None}, "iterations_per_second": 3.0, "resources": {"memory_GB": 1.0},
    }  # fmt: skip


def shown(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_every_known_number_has_a_curve(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    board.resume([])
    board.epoch([row(1)])
    board.close()
    assert set(shown(tmp_path).Tags()["scalars"]) == {
        "train/loss",
        "train/lr",
        "validation/loss",
        "validation/dice",
        "validation/dice/liver",
        "speed/iterations_per_second",
        "speed/wait_share",
        "resources/memory_GB",
    }


def test_slices_are_images_of_their_epoch(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    board.resume([])
    board.pictures(5, {"case_01": Image.new("RGB", (30, 10), (255, 0, 0))})
    board.close()
    (image,) = shown(tmp_path).Images("slices/case_01")
    assert (image.step, image.width, image.height) == (5, 30, 10)


@pytest.mark.parametrize("cut", [0, 7])
def test_a_resumed_run_replaces_what_it_does_again(tmp_path: Path, cut: int) -> None:
    """Also where the process was killed while it wrote."""
    board = TensorBoard(tmp_path)
    board.resume([])
    for epoch in (1, 2, 3):
        board.epoch([row(epoch, loss=1.0)])
    board.close()
    # The name of an event file begins with the second it was made in, and TensorBoard reads them in that order.
    (first,) = tmp_path.glob("events*")
    os.truncate(first, first.stat().st_size - cut)
    first.rename(first.with_name(first.name.replace("tfevents.", "tfevents.0", 1)))
    again = TensorBoard(tmp_path)
    again.resume([row(1)])
    for epoch in (2, 3):
        again.epoch([row(epoch, loss=2.0)])
    again.close()
    seen = [(event.step, event.value) for event in shown(tmp_path).Scalars("train/loss")]
    assert seen == [(1, 1.0), (2, 2.0), (3, 2.0)]


def test_without_tensorboard_there_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    board = TensorBoard(tmp_path)
    with caplog.at_level(logging.WARNING, logger="medunet"):
        board.resume([])
    board.epoch([row(1)])
    board.pictures(1, {})
    board.close()
    assert "pip install 'medunet[tensorboard]'" in caplog.text
    assert list(tmp_path.iterdir()) == []
