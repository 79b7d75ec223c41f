"""The sentence for a file that cannot be read as what its name says."""

from __future__ import annotations

from pathlib import Path

from medunet.errors import ReadError


def broken(path: Path, kind: str, error: Exception) -> ReadError:
    """The error to raise in the place of a library's own; `kind` with its article where it has one."""
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return ReadError(
        f"{path} cannot be read as {kind} (truncated, damaged, or another format than its name says): {reason}.",
        "Copy or export it again.",
    )
