"""Writes reference/config.md from the schema: every key, what it may hold, its default and its meaning.

`python docs/config_reference.py` after a change of medunet/config/schema.py; a test compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medunet.config.describe import Alternatives, alternatives_at, config_schema, in_words, variant_name
from medunet.config.document import KeyPath

PAGE = Path(__file__).with_name("reference") / "config.md"

HEAD = """# Configuration keys

This page is written by `docs/config_reference.py` from the schema that checks configurations.

A configuration is a YAML file. `extends` names another one, by a path seen from the file or by the name of a
shipped one; what the file holds replaces what the other has, key by key, and lists as a whole. Unknown keys are
refused. Lists with one number per axis follow `preprocess.orientation`: with RAS that is x (to the right),
y (to the front), z (to the head). Paths may hold `${VAR}`, `${VAR:-default}` and `~`.

`medunet config show FILE` prints a configuration with all its keys, `medunet config schema` the JSON schema for
editors.
"""

_KEYS = re.compile(r"a mapping with the keys .*?(?=, or null|$)")


def dotted(path: KeyPath) -> str:
    """`("train", "optimizer")` to `train.optimizer`; the index of a list entry is left out."""
    return ".".join(str(part) for part in path if not isinstance(part, int))


def placed(path: KeyPath, value: Any) -> Any:
    """Plain data that holds `value` at `path`."""
    for part in reversed(path):
        value = [value] if isinstance(part, int) else {part: value}
    return value


def tables(alternatives: Alternatives) -> list[dict[str, Any]]:
    """Those schemas that are sections."""
    return [schema for schema in alternatives if "properties" in schema]


def below(path: KeyPath, data: Any) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """The sections that a key holds, directly, as entries of a list or by names of labels or keys."""
    name = "KEY" if path == ("tune",) else "LABEL"
    for full in (path, (*path, 0), (*path, name)):
        found = tables(alternatives_at(full, data))
        if found:
            yield from ((full, schema) for schema in found)
            return


def row(key: str, schema: dict[str, Any], allowed: str, sections: Sequence[dict[str, Any]] = ()) -> str:
    """One line of a table; a key that holds one section borrows its description."""
    allowed = _KEYS.sub("a section, see below", allowed)
    default = shown(schema["default"]) if "default" in schema else ""
    meaning = schema.get("description") or (sections[0].get("description", "") if len(sections) == 1 else "")
    return f"| `{key}` | {allowed} | {default} | {one_line(meaning)} |"


def one_line(text: str) -> str:
    """Text that fits into a cell."""
    return text.replace("\n", " ").replace("|", "\\|")


def shown(value: Any) -> str:
    """A default as it would be written; sections by their names, or not at all."""
    entries = value if isinstance(value, list) else [value]
    if entries and all(isinstance(entry, dict) for entry in entries):
        return ", ".join(f"`name: {entry['name']}`" for entry in entries if "name" in entry)
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def section(path: KeyPath, schema: dict[str, Any]) -> Iterator[str]:
    """Heading, description and table of one section, then those of the sections in it."""
    name = variant_name(schema)
    data = placed(path, {"name": name} if name else {})
    if path:
        title = f"{dotted(path)}: {name}" if name and tables_beside(path) > 1 else dotted(path)
        yield f"\n{'#' * min(4, 1 + len([part for part in path if isinstance(part, str)]))} {title}\n"
    if path and schema.get("description"):
        yield one_line(schema["description"]) + "\n"
    yield "| key | allowed | default | meaning |\n|---|---|---|---|"
    inner: list[tuple[KeyPath, dict[str, Any]]] = []
    for key, entry in schema["properties"].items():
        here = (*path, key)
        found = list(below(here, data))
        yield row(key, entry, in_words(alternatives_at(here, data)), [schema for _, schema in found])
        inner += found
    for here, entry in inner:
        yield from section(here, entry)


def tables_beside(path: KeyPath) -> int:
    """How many sections may stand at `path`."""
    return len(tables(alternatives_at(path, placed(path, {}))))


def page() -> str:
    """The whole page."""
    top = config_schema()
    extends = row("extends", top["properties"]["extends"], "text")
    lines = [HEAD, "## Top level\n", *section((), alternatives_at((), {})[0])]
    first = next(index for index, line in enumerate(lines) if line.startswith("| `"))
    lines.insert(first, extends)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
