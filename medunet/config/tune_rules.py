"""What is wrong with the `tune:` section: keys that do not exist, empty ranges, values that their key cannot take.

Every value is put into the configuration and that is checked as any other is, so the rules and the words are the same.
Rules that join a tuned key with another tuned one are left to the trials: only some of their values may go together.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from medunet.config.describe import alternatives_at
from medunet.config.document import Document, KeyPath, Place, as_written
from medunet.config.layers import LayerError, look_up, set_value
from medunet.config.tuning import FIXED, SpaceConfig, Spaces
from medunet.errors import Problem

Check = Callable[[Document], list[Problem]]


def tune_problems(spaces: Spaces, data: dict[str, Any], places: dict[KeyPath, Place], check: Check) -> list[Problem]:
    """Everything that is wrong with the spaces.

    Args:
        spaces: the section.
        data: the configuration as plain data; every value in it is one that its key takes.
        places: of what was written.
        check: says what is wrong with a document.
    """
    rest = {key: value for key, value in data.items() if key != "tune"}
    found: list[Problem] = []
    for key, space in spaces.items():
        place = places.get(("tune", key)) or places.get(("tune",)) or Place("tune", Path())
        own = list(_of_shape(key, space, place))
        if not own:
            others = {key_path(other, rest) for other in spaces if other != key}
            own = _of_values(key, space, rest, others, place, check)
        found += own
    return found


def key_path(key: str, data: Any) -> KeyPath:
    """`loss.0.weight` as `("loss", 0, "weight")` where `data` holds a list there."""
    path: KeyPath = ()
    for part in key.split("."):
        step: str | int = int(part) if part.isdecimal() and isinstance(data, list) else part
        path = (*path, step)
        try:
            data = look_up(data, (step,))
        except KeyError:
            data = None
    return path


def takes_whole_numbers(key: str, data: Any) -> bool:
    """Whether the numbers that a key takes are whole."""
    types = {schema.get("type") for schema in alternatives_at(key_path(key, data), data)}
    return "integer" in types and "number" not in types


def _of_shape(key: str, space: SpaceConfig, place: Place) -> Iterator[Problem]:
    """What is wrong with a space by itself."""
    what, section = f"tune.{key}", key.partition(".")[0]
    if not all(key.split(".")):
        yield Problem(place.where, what, "must be the path of a key, such as train.optimizer.lr.")
    elif section in FIXED:
        rule = f"cannot be tuned: trials with another {section} could not be compared."
        yield Problem(place.where, what, rule)
    elif space.choices is not None:
        written = [json.dumps(value, sort_keys=True, default=str) for value in space.choices]
        if (space.low, space.high, space.step, space.log) != (None, None, None, False):
            yield Problem(place.where, what, "has choices; low, high, step and log are for a range.", hint="Keep one.")
        twice = next((value for value in written if written.count(value) > 1), None)
        if twice is not None:
            yield Problem(place.where, f"{what}.choices", "names a value twice.", twice)
    elif space.low is None or space.high is None:
        rule = "must have low and high, or choices."
        yield Problem(place.where, what, rule, hint=f"Write {key}: {{low: ..., high: ...}}.")
    else:
        yield from _of_range(what, space, space.low, space.high, place)


def _of_range(what: str, space: SpaceConfig, low: float, high: float, place: Place) -> Iterator[Problem]:
    if low >= high:
        rule = f"is empty: low is {low:g} and high is {high:g}; low must be less than high."
        yield Problem(place.where, what, rule)
    elif space.log and low <= 0:
        yield Problem(place.where, f"{what}.low", "must be greater than 0 with log: true.", f"{low:g}")
    elif space.log and space.step is not None:
        yield Problem(place.where, f"{what}.step", "cannot be with log: true.", f"{space.step:g}", "Keep one of them.")
    elif space.step is not None:
        steps = (high - low) / space.step
        if abs(steps - round(steps)) > 1e-6:
            last = low + int(steps) * space.step
            rule = f"must lead from {low:g} to {high:g} in whole steps."
            yield Problem(place.where, f"{what}.step", rule, f"{space.step:g}", f"With this step high is {last:g}.")


def _of_values(
    key: str, space: SpaceConfig, data: dict[str, Any], others: set[KeyPath], place: Place, check: Check
) -> list[Problem]:
    """What the check of a configuration says about the values; each complaint once."""
    whole = takes_whole_numbers(key, data)
    if space.choices is None and not _takes_numbers(key, data):
        return [Problem(place.where, f"tune.{key}", "takes no numbers.", hint="Give choices: [...] instead.")]
    if whole and space.step is not None and not space.step.is_integer():
        return [Problem(place.where, f"tune.{key}.step", "must be a whole number, as the key is.", f"{space.step:g}")]
    found: dict[tuple[str, str], Problem] = {}
    for value in space.tried(whole):
        document = Document(data=copy.deepcopy(data))
        try:
            set_value(document, key.split("."), value, place)
        except LayerError as error:
            return [Problem(place.where, f"tune.{key}", str(error))]
        document.bad = set(others)
        for problem in check(document):
            if problem.where == place.where:
                told = replace(problem, what=f"tune.{problem.what}", value=problem.value or as_written(value))
                found.setdefault((told.what, told.rule), told)
    return list(found.values())


def _takes_numbers(key: str, data: Any) -> bool:
    """Whether a key takes numbers, or does not exist, about which the check has more to say."""
    allowed = alternatives_at(key_path(key, data), data)
    return not allowed or bool({schema.get("type") for schema in allowed} & {"integer", "number"})
