"""`medunet preview-augment`."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from medunet.cli.main import app

CONFIG = """\
name: tiny
labels: {background: 0, organ: 4, core: 205}
data: {format: decathlon, modality: [CT], folds: 3}
network: {channels: [4, 8]}
train: {patch_size: [16, 16, 16]}
"""


def test_it_draws_patches_and_prints_where(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    sheet = tmp_path / "sheet.png"
    arguments = ["preview-augment", "-c", str(tmp_path / "tiny.yaml"), "--data", str(tiny_dataset), "-o", str(sheet)]
    result = CliRunner().invoke(app, [*arguments, "--cases", "2", "--draws", "1", "--set", "augment.preset=none"])
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(sheet)]
    picture = Image.open(sheet).convert("RGB")
    assert picture.size == (2 * (96 + 4) + 4, 2 * (96 + 4) - 4)
