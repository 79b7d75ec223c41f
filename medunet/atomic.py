"""Files and folders that appear whole or not at all.

A result is written under a temporary name in its own folder, flushed to disk and renamed. A killed
process leaves a hidden `.NAME.part-*` at most, never half a file under the final name.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medunet.errors import OutputError


def _full_suffix(name: str) -> str:
    for ending in (".nii.gz", ".tar.gz"):
        if name.lower().endswith(ending):
            return ending
    return Path(name).suffix


def _cannot_write(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(
        f"{path} cannot be written: {reason}.",
        "Check free space and permissions of that folder; nothing was left under the final name.",
    )


def make_folder(path: Path) -> Path:
    """Create `path` and its parents.

    Raises:
        OutputError: it cannot be created, or a file is in the way.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return path


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path with the same ending as `path`; rename it to `path` on success.

    Raises:
        OutputError: the folder is not writable, the disk is full, or nothing was written.
    """
    path = Path(path)
    make_folder(path.parent)
    suffix = _full_suffix(path.name)
    part = path.with_name(f".{path.name[: len(path.name) - len(suffix)]}.part-{uuid.uuid4().hex[:8]}{suffix}")
    try:
        yield part
        with open(part, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(part, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder; put it in the place of `path` on success.

    A folder that is already there is moved aside first and removed only when the new one stands.
    """
    path = Path(path)
    make_folder(path.parent)
    tag = uuid.uuid4().hex[:8]
    part = path.with_name(f".{path.name}.part-{tag}")
    old = path.with_name(f".{path.name}.old-{tag}")
    try:
        part.mkdir()
        yield part
        if path.exists():
            os.replace(path, old)
        os.replace(part, path)
    except OSError as error:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused by the encoder, not written."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
