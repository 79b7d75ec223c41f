"""Facts on stdout: names and values for people, bold where stdout is a terminal, plain text where it is not.

Lines are never wrapped or cut, so that they can be piped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def show_facts(facts: Mapping[str, Any], indent: int = 0) -> None:
    """One line per fact; mappings are indented below their name, lists of mappings become tables; None is left out."""
    shown = {name: value for name, value in facts.items() if value not in (None, {}, [], ())}
    width = max((len(_label(name)) for name in shown), default=0)
    for name, value in shown.items():
        if isinstance(value, Mapping):
            _line(" " * indent, _label(name), "")
            show_facts(value, indent + 2)
        elif isinstance(value, (list, tuple)) and value and all(isinstance(item, Mapping) for item in value):
            _line(" " * indent, _label(name), "")
            show_rows(value, indent + 2)
        else:
            _line(" " * indent, f"{_label(name):<{width}}", f"  {as_text(value)}")


def show_rows(rows: Sequence[Mapping[str, Any]], indent: int = 0) -> None:
    """A table; its columns are the keys of the first row."""
    names = list(rows[0])
    cells = [[as_text(row.get(name)) for name in names] for row in rows]
    widths = [max(len(_label(name)), *(len(line[column]) for line in cells)) for column, name in enumerate(names)]
    head = "  ".join(f"{_label(name):<{width}}" for name, width in zip(names, widths, strict=True))
    _line(" " * indent, head.rstrip(), "")
    for line in cells:
        text = "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        _line(" " * indent, "", text.rstrip())


def show_sentences(title: str, sentences: Sequence[str]) -> None:
    """A title and one line per sentence; nothing if there is none."""
    if sentences:
        _line("", title, "")
    for sentence in sentences:
        _line("  ", "", sentence)


def show_json(value: Any) -> None:
    """JSON, indented."""
    import json

    print(json.dumps(value, indent=2, allow_nan=False))


def as_text(value: Any) -> str:
    """A value on one line; "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {as_text(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(f"({as_text(item)})" if isinstance(item, (list, tuple)) else as_text(item) for item in value)
    return " ".join(str(value).splitlines())


def _label(name: str) -> str:
    return name.replace("_", " ")


def _line(indent: str, label: str, value: str) -> None:
    import sys

    from rich.console import Console
    from rich.text import Text

    encoding = sys.stdout.encoding or "utf-8"
    safe = [part.encode(encoding, "backslashreplace").decode(encoding) for part in (label, value)]
    text = Text.assemble(indent, (safe[0], "bold"), safe[1])
    Console(highlight=False, soft_wrap=True).print(text)
