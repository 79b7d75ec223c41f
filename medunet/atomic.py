"""Files and folders that appear whole or not at all.

A result is written under a temporary name in its own folder, flushed to disk and renamed. A killed
process leaves a hidden `.NAME.part-*` at most, never half a file under the final name. A folder that is
replaced is `.NAME.old-*` for a moment; a process killed in that moment leaves both complete under hidden names.
What a killed process left is removed by `remove_leftovers` when the same results are to be written again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medunet.errors import OutputError

_LONGEST_STEM = 48  # characters of the name that a temporary name repeats: file systems take 255 bytes


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


def _hidden(path: Path) -> tuple[str, str]:
    """How the temporary names of a file begin and end; other files have others."""
    suffix = _full_suffix(path.name)
    name = path.name[: len(path.name) - len(suffix)]
    if len(name) > _LONGEST_STEM:
        name = name[:_LONGEST_STEM] + hashlib.sha256(name.encode()).hexdigest()[:8]
    return f".{name}.part-", suffix


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove the temporary files of these files that killed processes left; nobody else may be writing them."""
    hidden: dict[Path, set[tuple[str, str]]] = {}
    for path in paths:
        hidden.setdefault(path.parent, set()).add(_hidden(path))
    for folder, wanted in hidden.items():
        for part in folder.glob(".*.part-*"):
            start, mark, tag = part.name.rpartition(".part-")
            if (start + mark, _full_suffix(tag)) in wanted:
                part.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path with the same ending as `path`; rename it to `path` on success.

    Raises:
        OutputError: the folder is not writable, the disk is full, or nothing was written.
    """
    path = Path(path)
    make_folder(path.parent)
    start, suffix = _hidden(path)
    part = path.with_name(f"{start}{uuid.uuid4().hex[:8]}{suffix}")
    try:
        yield part
        _flush(part)
        os.replace(part, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder; put it in the place of `path` on success.

    A folder that is already there is moved aside first and removed only when the new one stands. Of a link, the
    folder that it points to is replaced.

    Raises:
        OutputError: the folder is not writable, the disk is full, or a file is in the way.
    """
    path = Path(os.path.realpath(path))
    make_folder(path.parent)
    tag = uuid.uuid4().hex[:8]
    part = path.with_name(f".{path.name[:_LONGEST_STEM]}.part-{tag}")
    old = path.with_name(f".{path.name[:_LONGEST_STEM]}.old-{tag}")
    try:
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file of that name is in the way")
        part.mkdir()
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                _flush(file)
        if path.exists():
            os.replace(path, old)
        os.replace(part, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        # Also on KeyboardInterrupt between the two renames: the old folder goes back.
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name where the disk allows it, else copy it. Use it inside of `atomic_folder`.

    Raises:
        OSError: neither is possible.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(source, target)


def _flush(path: Path) -> None:
    """Make the content of a file reach the disk before its name does."""
    with open(path, "rb+") as handle:
        os.fsync(handle.fileno())


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused by the encoder, not written."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
