"""The bar of a training: what it says, that it fits, and that it is silent where there is no terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medunet.cli.progress import below, beside, pace_of
from medunet.config.load import dump_config
from medunet.training.observe import Step

pty = pytest.importorskip("pty")


def step(dice: dict[str, float | None], **keys: Any) -> Step:
    values: dict[str, Any] = {
        "iteration": 120, "total": 1000, "epoch": 3, "loss": 0.41234, "lr": 0.0087, "progress": 0.12,
        "iterations_per_second": 4.2, "wait_share": 0.021, "remaining": 754.0, "dice": dice,
        "patches_per_second": 8.44, "resources": {"cpu_percent": 187.3, "memory_GB": 3.14, "gpu_percent": None}, **keys,
    }  # fmt: skip
    return Step(**values)


def test_the_lines_have_what_one_looks_for() -> None:
    one = step({"organ": 0.834, "core": 0.79})
    assert beside(one) == " 12%  loss 0.412  lr 8.7e-03  12:34 left"
    assert below(one, 80).split("\n") == [
        "  Dice 0.812  organ 0.83  core 0.79",
        "  8.44 patches/s  wait 2%  CPU 187%  RAM 3.1 GB",
    ]


def test_the_pace_is_told_by_the_second_or_by_the_case() -> None:
    assert pace_of(0, 3.0, "cases") == ""
    assert pace_of(31, 10.0, "cases") == "3.1 cases/s"
    assert pace_of(2, 25.0, "cases") == "12.5 s each"


def test_what_is_not_known_yet_is_not_shown() -> None:
    early = step({}, remaining=None, resources={})
    assert beside(early) == " 12%  loss 0.412  lr 8.7e-03"
    assert below(early, 80) == "  8.44 patches/s  wait 2%"
    assert "core -" in below(step({"organ": 0.8, "core": None}), 80)


def test_what_the_machine_does_is_shown_as_far_as_there_is_room() -> None:
    sample = {
        "cpu_percent": 100.0, "memory_GB": 3.0, "gpu_percent": 93.0, "gpu_memory_GB": 11.2, "disk_free_GB": 340.0,
    }  # fmt: skip
    busy = step({}, resources=sample)
    whole = "  8.44 patches/s  wait 2%  CPU 100%  RAM 3.0 GB  GPU 93%  VRAM 11.2 GB  disk 340 GB free"
    assert below(busy, 100) == whole
    assert below(busy, 80) == whole.removesuffix("  disk 340 GB free")
    assert below(busy, 30) == "  8.44 patches/s  wait 2%"


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("count", [1, 3, 10, 104])
def test_many_labels_are_counted_where_they_do_not_fit(width: int, count: int) -> None:
    line = below(step({f"a rather long name {number}": 0.5 for number in range(count)}), width).split("\n")[0]
    shown, rest = len(re.findall(r" 0\.50(?!\d)", line)), re.search(r"\+(\d+)", line)
    assert len(line) <= width
    assert shown + (int(rest[1]) if rest else 0) == count


def test_in_a_terminal_of_80_columns_nothing_is_cut(
    make_config: Callable[..., Any], tiny_dataset: Path, tmp_path: Path
) -> None:
    changes = {"train.epochs": 2, "train.iterations_per_epoch": 30, "logging": {"monitor": "0.1s"}}
    (tmp_path / "tiny.yaml").write_text(dump_config(make_config(tiny_dataset, changes)))
    text = seen_in_terminal("train", "-c", tmp_path / "tiny.yaml", "--out", tmp_path / "run", "-d", "cpu")
    drawn = [line for line in re.split(r"[\r\n]+", text) if "loss" in line and "%" in line and "waiting" not in line]
    assert any(re.match(r"epoch 2 .*\d+%  loss \d\.\d{3}  lr \d\.\de-0\d  0:\d\d left", line) for line in drawn), text
    lower = [line for line in re.split(r"[\r\n]+", text) if re.match(" *(Dice|.* patches/s)", line)]
    assert any(re.match(r"  Dice \d\.\d{3}  organ [\d.]+  core ", line) for line in lower)
    assert any(re.match(r"  [\d.]+ patches/s  wait \d+%  CPU \d+%  RAM \d\.\d GB", line) for line in lower)
    assert max(len(line) for line in [*drawn, *lower]) <= 80
    assert "…" not in "".join([*drawn, *lower])


def test_lines_of_the_monitor_stand_above_the_bar_of_a_prediction(picture_model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (60, 50, 3), np.uint8)
    for number in range(20):
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    folders = ("-i", tmp_path / "in", "-o", tmp_path / "out")
    text = seen_in_terminal("predict", "-m", picture_model, *folders, "-d", "cpu", "--monitor", "0.02s", columns=160)
    lines = re.split(r"[\r\n]+", text)
    told = [line for line in lines if "CPU" in line]
    assert any(line.startswith("cases ") and "/20" in line for line in lines), text
    assert len(told) > 1
    for line in told:
        assert re.fullmatch(r"(Mean and peak of [\d.e+-]+ s: )?CPU \d.* GB free; \d+ done, .* cases/s\.", line), line


def seen_in_terminal(*command: Any, columns: int = 80) -> str:
    """What a command leaves on a terminal, without the escape sequences."""
    own, theirs = pty.openpty()
    size = {"COLUMNS": str(columns), "LINES": "24"}
    process = subprocess.Popen(
        [sys.executable, "-c", "from medunet.cli.main import main; main()", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, **size, "TERM": "xterm", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
    )
    os.close(theirs)
    seen = b""
    try:
        while block := os.read(own, 65536):
            seen += block
    except OSError:  # what Linux raises when the other end is closed
        pass
    os.close(own)
    assert process.wait(timeout=60) == 0
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
