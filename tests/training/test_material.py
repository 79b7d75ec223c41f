"""What the checks say of values and of the scale that the configuration gives them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medunet.io.check import CaseStatistics
from medunet.training.material import odd_scales


def case(*brightest: float) -> CaseStatistics:
    number = len(brightest)
    return CaseStatistics("a", (8, 8), (1.0, 1.0), "RA", number, (0.0,) * number, brightest, ((0.0, 0.0, 0.0),), {})


@pytest.mark.parametrize(
    ("scale", "brightest", "told"),
    [
        (255.0, (255.0, 30.0, 200.0), []),
        (255.0, (255.0, 65000.0, 200.0), ["G is 65000"]),
        (65535.0, (255.0, 65000.0, 200.0), []),
        (255.0, (1.0, 1.0, 0.9), ["R is 1", "G is 1", "B is 0.9"]),
        (1.0, (1.0, 1.0, 0.9), []),
    ],
)
def test_values_beyond_white_or_far_below_it_are_told(
    make_config: Callable[..., Any], scale: float, brightest: tuple[float, ...], told: list[str]
) -> None:
    changes = {"data.modality": ["R", "G", "B"], "preprocess.intensity": {"name": "imagenet", "scale": scale}}
    sentences = list(odd_scales([case(*brightest)], make_config(Path("unused"), changes)))
    assert len(sentences) == len(told)
    assert all(words in sentence for words, sentence in zip(told, sentences, strict=True))


def test_a_dark_picture_among_others_is_nothing_to_tell(make_config: Callable[..., Any]) -> None:
    config = make_config(Path("unused"), {"preprocess.intensity": {"name": "imagenet"}})
    assert list(odd_scales([case(1.0), case(20.0)], config)) == []


def test_other_rules_have_no_white(make_config: Callable[..., Any]) -> None:
    assert list(odd_scales([case(70000.0)], make_config(Path("unused")))) == []
