"""The network without memory, and parameters by pattern."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medunet.errors import UsageError
from medunet.training.outline import called, outline

NAMES = ["encoder.0.weight", "encoder.0.bias", "head.weight"]


def test_the_outline_has_the_names_and_shapes_of_the_network_and_no_values(make_config: Callable[..., Any]) -> None:
    network = outline(make_config(Path("unused"), {"data.modality": ["T1", "T2"]}))
    assert next(network.parameters()).shape[1] == 2
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("encoder*", NAMES[:2]), ("*.weight", [NAMES[0], NAMES[2]]), ("head.weigh?", NAMES[2:]), ("*", NAMES)],
)
def test_a_pattern_gives_the_names_that_it_fits(pattern: str, found: list[str]) -> None:
    assert called(NAMES, pattern, "train.rates", "unet") == found


@pytest.mark.parametrize("pattern", ["Encoder*", "encoder", "head.*.weight"])
def test_a_pattern_that_fits_none_is_refused_with_the_names_that_there_are(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"train\.rates names the layers .* of unet is called so") as caught:
        called(NAMES, pattern, "train.rates", "unet")
    assert "encoder.0.weight" in caught.value.hint
