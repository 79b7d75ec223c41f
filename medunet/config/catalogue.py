"""What can be chosen by name in a config: networks and losses, with their options.

Taken from the JSON schema, so that it cannot drift from what a config may hold. Knows nothing of torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medunet.config.describe import alternatives_at, in_words, variant_name
from medunet.config.document import KeyPath


@dataclass(frozen=True)
class Option:
    """One key of a choice: its default (None where it is required or null), what is allowed, what it does."""

    name: str
    default: Any
    allowed: str
    description: str


@dataclass(frozen=True)
class Choice:
    """Something that is chosen with `name: NAME`."""

    name: str
    summary: str
    options: tuple[Option, ...]


def networks() -> tuple[Choice, ...]:
    """What `network: {name: ...}` may be."""
    return _choices("network")


def losses() -> tuple[Choice, ...]:
    """What `loss: [{name: ...}]` may be."""
    return _choices("loss")


def _choices(section: str) -> tuple[Choice, ...]:
    found = []
    for schema in alternatives_at((section,), None):
        name = variant_name(schema)
        if name is not None:
            keys = [key for key in schema["properties"] if key != "name"]
            options = tuple(_option((section, key), name, schema["properties"][key]) for key in keys)
            found.append(Choice(name, _one_line(schema.get("description", "")), options))
    return tuple(found)


def _option(path: KeyPath, variant: str, schema: dict[str, Any]) -> Option:
    allowed = in_words(alternatives_at(path, {str(path[0]): {"name": variant}}))
    return Option(str(path[-1]), schema.get("default"), allowed, _one_line(schema.get("description", "")))


def _one_line(text: str) -> str:
    return " ".join(text.split())
