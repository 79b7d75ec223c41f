"""What a rule that joins several keys finds. Knows nothing of the rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medunet.config.document import KeyPath, as_written


@dataclass(frozen=True)
class Finding:
    """A combination that cannot work.

    Attributes:
        keys: the key that is blamed, then the others that play a part; lists by index even where a file may hold one
            mapping instead of a list.
        rule: what must hold, as a sentence.
        value: the blamed value as written, or empty.
        hint: what to write instead.
    """

    keys: tuple[KeyPath, ...]
    rule: str
    value: str = ""
    hint: str = ""


def in_brackets(values: Sequence[object]) -> str:
    """A list as it is written in YAML, lists in it included."""
    return as_written([list(value) if isinstance(value, tuple) else value for value in values])
