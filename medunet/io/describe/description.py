"""The answer to "what is this, and is it healthy": `Description`.

Knows nothing of files or terminals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medunet.errors import MedunetError, Problem


@dataclass
class Description:
    """What was found at a path.

    Attributes:
        kind: "image", "dicom", "dataset", "model", "run", "config", ...
        path: what was looked at.
        facts: name to text, number, list or table (a list of dicts), in the order to be shown.
        problems: sentences about what is wrong; none: it is healthy.
        notes: sentences about what is unusual.
        columns: of a table, those that people look at; the others are for programs.
    """

    kind: str
    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def blame(self, error: MedunetError) -> None:
        """Turn an error into problems, one for each that it carries."""
        carried: Iterable[Problem] = getattr(error, "problems", ())
        self.problems += [str(problem) for problem in carried] or [str(error)]

    def for_people(self) -> dict[str, Any]:
        """The facts, with the columns of tables that people look at."""
        return {name: self._looked_at(name, value) for name, value in self.facts.items()}

    def _looked_at(self, name: str, value: Any) -> Any:
        wanted = self.columns.get(name)
        return value if wanted is None else [{column: row[column] for column in wanted} for row in value]

    def to_json(self) -> dict[str, Any]:
        """As numbers, texts, lists and dicts; numbers that are not finite become null."""
        head = {"kind": self.kind, "path": str(self.path), "healthy": self.healthy}
        tail = {"problems": self.problems, "notes": self.notes}
        return {name: _plain(value) for name, value in {**head, **self.facts, **tail}.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def megabytes(size: int) -> str:
    """`12.3 MB` (10^6 bytes)."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"
