"""curves.png is a picture of what metrics.jsonl says, and never costs a training much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medunet.errors import OutputError
from medunet.training.record import curves as module
from medunet.training.record.curves import Curves, draw_curves


def row(epoch: int, **keys: Any) -> dict[str, Any]:
    return {
        "epoch": epoch, "loss": 1 / epoch, "lr": 0.01 / epoch, "validation_loss": None, "dice_mean": None, "dice": {},
        "best": False, **keys,
    }  # fmt: skip


def scored(epoch: int, organ: float | None) -> dict[str, Any]:
    return row(epoch, validation_loss=0.5, dice_mean=organ, dice={"organ": organ}, best=epoch == 2)


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_a_curve_that_changes_changes_the_picture(tmp_path: Path) -> None:
    for name, organ in (("low", 0.2), ("high", 0.9), ("again", 0.9)):
        draw_curves(tmp_path / f"{name}.png", [row(1), scored(2, 0.1), scored(3, organ)], ["organ"])
    low, high, again = (pixels(tmp_path / f"{name}.png") for name in ("low", "high", "again"))
    assert low.shape == (1050, 900, 3)
    assert (low != high).any()
    assert (high == again).all()
    middle = slice(340, 780)
    assert (low[middle] != high[middle]).any(axis=(1, 2)).sum() > 100  # the Dice panel
    assert (low[10:320] == high[10:320]).all()  # not that of the loss


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        ([row(1)], ["organ"]),
        ([row(1, lr=0.0), row(2, lr=0.0)], ["organ"]),
        ([scored(1, None)], ["organ"]),
        ([scored(2, 0.5)], [f"organ {number}" for number in range(104)]),
        ([scored(2, 0.5)], ["肝臓", "_hidden", "$x$ {"]),
        ([row(epoch) for epoch in range(1, 2000)], ["organ"]),
    ],
    ids=["one epoch", "rate of zero", "undefined", "many labels", "strange names", "many epochs"],
)
def test_any_run_can_be_drawn(tmp_path: Path, rows: list[dict[str, Any]], labels: list[str]) -> None:
    draw_curves(tmp_path / "curves.png", rows, labels)
    assert pixels(tmp_path / "curves.png").std() > 1


def test_short_epochs_are_drawn_together_and_the_last_one_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(module, "draw_curves", lambda _, rows, __: drawn.append(len(rows)))
    monkeypatch.setattr(module, "_COST_SHARE", 1e-9)
    curves = Curves(tmp_path, [])
    rows: list[dict[str, Any]] = []
    for epoch in range(1, 6):
        rows.append(row(epoch))
        curves.epoch(rows)
    assert drawn == [1]
    curves.close()
    curves.close()
    assert drawn == [1, 5]


def test_a_folder_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(OutputError, match=r"curves.png cannot be written"):
        draw_curves(tmp_path / "curves.png", [row(1)], [])


def test_nothing_is_shared_with_the_callers_figures(tmp_path: Path) -> None:
    from matplotlib import pyplot

    before = pyplot.get_fignums(), pyplot.get_backend()
    draw_curves(tmp_path / "curves.png", [row(1)], [])
    assert (pyplot.get_fignums(), pyplot.get_backend()) == before
