"""Files that grow line by line while a training runs, and what is done when the disk is full."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from medunet.atomic import write_text
from medunet.errors import OutputError

logger = logging.getLogger("medunet")


class Lines:
    """A text file that grows by whole lines; those that cannot be written are tried again with the next.

    Args:
        path: of the file.
        header: first line of a new file; empty: none.
    """

    def __init__(self, path: Path, header: str = "") -> None:
        self.path = path
        self._header = header
        self._pending = ""

    def add(self, line: str) -> None:
        """Append one line; where that fails, a warning says so and no half line stays."""
        self._pending += f"{line}\n"
        self.flush()

    def flush(self) -> None:
        """Try to write the lines again that could not be written."""
        if not self._pending:
            return
        size = self.path.stat().st_size if self.path.is_file() else 0
        head = f"{self._header}\n" if self._header and not size else ""
        try:
            with open(self.path, "a", encoding="utf-8") as handle:
                handle.write(head + self._pending)
            self._pending = ""
        except OSError as error:
            logger.warning("%s cannot be written: %s. The training goes on.", self.path, error.strerror)
            with suppress(OSError):
                os.truncate(self.path, size)

    def replace(self, lines: Iterable[str]) -> None:
        """Write the file anew; where that fails, a warning says so and the old one stays."""
        head = [self._header] if self._header else []
        try:
            write_text(self.path, "".join(f"{line}\n" for line in [*head, *lines]))
            self._pending = ""
        except OutputError as error:
            logger.warning("%s The training goes on.", error.message)

    def read(self) -> list[str]:
        """The lines, without the header; what is no text is replaced. Nothing where there is no file."""
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[1:] if self._header else lines
