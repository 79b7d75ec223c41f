"""What may be changed of a finished model: how it is applied. It is checked as in a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medunet.config.check import checked
from medunet.config.document import Document, Place
from medunet.config.layers import apply_override, set_value
from medunet.config.schema import Config
from medunet.errors import ConfigError, Problem

CHANGEABLE = ("inference", "postprocess", "terms")
"""Sections that do not belong to what was learned."""


def changed(known: Mapping[str, Any], overrides: Sequence[str], name: str) -> Config:
    """A configuration with other sections of `CHANGEABLE`.

    Args:
        known: plain data: `name`, `labels`, and the sections of `CHANGEABLE` as they are.
        overrides: `key=value` as after `--set`.
        name: what is changed, for messages.

    Raises:
        ConfigError: one of the overrides cannot be; `problems` holds everything that is wrong.
    """
    document = Document()
    for key, value in known.items():
        set_value(document, [key], value, Place(name, Path()))
    for text in overrides:
        key = text.partition("=")[0].strip()
        if "=" in text and key.split(".")[0] not in CHANGEABLE:
            rule = f"cannot be changed in a finished model; only {', '.join(CHANGEABLE[:-1])} and {CHANGEABLE[-1]} can."
            document.problems.append(Problem(f"--set {text}", key, rule))
        else:
            apply_override(document, text)
    config, problems = checked(document, Place(name, Path()))
    if config is None:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"What was set for {name} has {count}.", problems=problems)
    return config
