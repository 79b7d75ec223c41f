"""The section data.series, and its way into model.yaml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medunet.config.load import load_config
from medunet.errors import ConfigError

START = "extends: base/3d.yaml\nname: mine\nlabels: {background: 0, liver: 1}\n"


def loaded(tmp_path: Path, section: str) -> Any:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{START}data: {{series: {section}}}\n")
    return load_config(path).data.series


def test_rules_are_read_as_written(tmp_path: Path) -> None:
    rules = loaded(
        tmp_path,
        '{modality: [CT], description: "portal|venous", slices: [20, 2000], spacing: [0, 6], kernel: "B30*", '
        "contrast: true}",
    )
    assert rules.modality == ("CT",)
    assert rules.description == "portal|venous"
    assert (rules.slices, rules.spacing) == ((20, 2000), (0.0, 6.0))
    assert (rules.kernel, rules.contrast) == ("B30*", True)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{slices: [20, 2]}", "the smallest number that fits, then the largest"),
        ("{spacing: [6, 0]}", "the smallest number that fits, then the largest"),
        ("{slices: [0, 5]}", "data.series.slices"),
        ("{modality: []}", "data.series.modality"),
        ("{kernels: B30}", "Did you mean kernel?"),
        (f"{{description: {'x' * 201}}}", "data.series.description"),
        ("{contrast: maybe}", "data.series.contrast"),
    ],
)
def test_what_is_no_rule_is_told_where_it_stands(tmp_path: Path, section: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, section)
    assert said in str(caught.value)


def test_without_rules_there_are_none(tmp_path: Path, make_config: Callable[..., Any]) -> None:
    assert make_config(tmp_path).data.series is None
