"""Configurations with other values: how a finished model is applied, and what a trial of `medunet tune` tries.

Both are checked as any configuration is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medunet.config.check import checked
from medunet.config.document import Document, Place, as_written
from medunet.config.layers import LayerError, apply_override, set_value
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
    return _checked(document, name)


def with_values(config: Config, values: Mapping[str, Any], name: str) -> Config:
    """A configuration with other values of some keys, and without its section `tune`.

    Args:
        config: as loaded.
        values: by the path of their key. A `name` is set before the options beside it, a section before what is in it.
        name: what is changed, for messages.

    Raises:
        ConfigError: the values do not go together; `problems` holds everything that is wrong.
    """
    document = Document(data=config.model_dump(mode="json", by_alias=True, exclude={"tune"}))
    for key in sorted(values, key=lambda key: (key.count("."), not key.endswith(".name"))):
        try:
            set_value(document, key.split("."), values[key], Place(name, Path()))
        except LayerError as error:
            document.problems.append(Problem(name, key, str(error), as_written(values[key])))
    return _checked(document, name)


def _checked(document: Document, name: str) -> Config:
    config, problems = checked(document, Place(name, Path()))
    if config is None:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"What was set for {name} has {count}.", problems=problems)
    return config
