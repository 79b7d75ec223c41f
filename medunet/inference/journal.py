"""What a watcher has done, in a file that outlives it: one row per input, however many there are.

SQLite, which is whole after a kill and takes no memory that grows. One process at a time may have it open.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType

from medunet.errors import OutputError, UsageError

_TABLES = """
CREATE TABLE IF NOT EXISTS inputs (key TEXT PRIMARY KEY, signature TEXT, status TEXT,
    time TEXT DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE IF NOT EXISTS cases (id TEXT PRIMARY KEY, key TEXT);
"""


class Journal:
    """A context.

    Args:
        path: of the file.

    Raises:
        UsageError: another process has it open.
        OutputError: it cannot be read or written; also raised by the methods.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._base = sqlite3.connect(path, timeout=1.0, isolation_level=None)
            self._base.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._base.execute("BEGIN EXCLUSIVE")
            self._base.execute("COMMIT")
            self._base.executescript(_TABLES)
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise UsageError(
                    f"Another medunet is watching with this output ({path} is in use).", "Stop it, or give another -o."
                ) from error
            raise self._problem(error) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._base.close()

    def knows(self, key: str) -> bool:
        """Whether there was ever anything of this key."""
        return bool(self._ask("SELECT 1 FROM inputs WHERE key = ?", key))

    def is_done(self, key: str, signature: str) -> bool:
        """Whether a key with this signature was done, or failed for good."""
        return bool(self._ask("SELECT 1 FROM inputs WHERE key = ? AND signature = ?", key, signature))

    def note(self, key: str, signature: str, status: str) -> None:
        """A key was done."""
        self._ask("INSERT OR REPLACE INTO inputs (key, signature, status) VALUES (?, ?, ?)", key, signature, status)

    def name(self, key: str, wanted: list[str]) -> str:
        """The id of a case of this key: the first of some names that no other key has; the same at every call."""
        number = 1
        while True:
            name = wanted[number - 1] if number <= len(wanted) else f"{wanted[-1]}_{number - len(wanted) + 1}"
            owner = self._ask("SELECT key FROM cases WHERE id = ?", name)
            if not owner:
                self._ask("INSERT INTO cases (id, key) VALUES (?, ?)", name, key)
            if not owner or owner[0][0] == key:
                return name
            number += 1

    def _ask(self, question: str, *values: str) -> list[tuple[str, ...]]:
        try:
            return self._base.execute(question, [_text(value) for value in values]).fetchall()
        except sqlite3.Error as error:
            raise self._problem(error) from error

    def _problem(self, error: sqlite3.Error) -> OutputError:
        return OutputError(f"{self._path} cannot be used: {error}.", "Check the disk; if it is damaged, delete it.")


def _text(value: str) -> str:
    """File names may hold bytes that are no UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode() if not value.isascii() else value
