"""What can be chosen by name in a config: networks and losses, with their options.

Taken from the JSON schema, so that it cannot drift from what a config may hold. Knows nothing of torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medunet.config.describe import alternatives_at, choices, in_words, variant_name
from medunet.config.document import KeyPath


@dataclass(frozen=True)
class Option:
    """One key of a choice.

    Attributes:
        name: the key.
        default: None where it is required or null.
        words: the words that are allowed; empty where it is no choice of words.
        allowed: what is allowed, in words.
        description: what it does.
    """

    name: str
    default: Any
    words: tuple[str, ...]
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
    allowed = alternatives_at(path, {str(path[0]): {"name": variant}})
    return Option(
        name=str(path[-1]),
        default=schema.get("default"),
        words=tuple(choices(allowed)),
        allowed=in_words(allowed),
        description=_one_line(schema.get("description", "")),
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
