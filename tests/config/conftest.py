"""What the tests of the rules share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from medunet.config.load import parse_config
from medunet.errors import ConfigError

Problems = Callable[[str], list[tuple[str, str]]]


@pytest.fixture(scope="session")
def problems() -> Problems:
    """Keys and messages that a configuration text is refused with; name and labels are put in where it has none."""

    def found(text: str) -> list[tuple[str, str]]:
        head = "" if text.startswith("name:") else "name: t\n"
        labels = "" if "\nlabels:" in f"\n{text}" else "labels: {background: 0, liver: 1, spleen: 2}\n"
        try:
            parse_config(head + labels + text)
        except ConfigError as error:
            return [(problem.what, str(problem)) for problem in error.problems]
        return []

    return found
