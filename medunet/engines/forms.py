"""A network in the form of another library, kept on the disk, since making it takes longer than many predictions.

A form lies in a folder of its own, named by a key of everything that it depends on, beside `form.json` with the hash
of every file: what is damaged is made again. It is written under another name first, so that processes that make the
same one at the same time do not disturb each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medunet.atomic import atomic_folder, write_json
from medunet.errors import OutputError
from medunet.hashing import file_hash

FORM_FILE = "form.json"


def user_cache() -> Path:
    """Where forms go if the folder of a model cannot be written to."""
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "medunet"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medunet"


def key_of(facts: Mapping[str, Any]) -> str:
    """A short name for facts that are plain numbers and strings."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def kept_form(
    folders: Sequence[Path], name: str, facts: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
) -> tuple[Path, dict[str, Any]]:
    """The folder of a form, made if it is not there, and what was noted when it was made.

    Args:
        folders: where it may lie; the first that can be written to takes a new one.
        name: of the library.
        facts: everything it depends on.
        make: writes its files into an empty folder, and returns what is worth knowing later.

    Raises:
        OutputError: none of the folders can be written to.
    """
    return found_form(folders, name, facts) or new_form(folders, name, facts, make)


def found_form(folders: Sequence[Path], name: str, facts: Mapping[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """The folder of a form that is there and whole, and what was noted; the arguments are those of `kept_form`."""
    for folder in folders:
        place = _place(folder, name, facts)
        notes = _sound(place, facts)
        if notes is not None:
            return place, notes
    return None


def new_form(
    folders: Sequence[Path], name: str, facts: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
) -> tuple[Path, dict[str, Any]]:
    """Make a form, whether it is there or not; see `kept_form`."""
    for folder in folders[:-1]:
        try:
            return _made(_place(folder, name, facts), facts, make)
        except OutputError:
            continue
    return _made(_place(folders[-1], name, facts), facts, make)


def _place(folder: Path, name: str, facts: Mapping[str, Any]) -> Path:
    return folder / f"{name}-{key_of(facts)}"


def _made(
    place: Path, facts: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
) -> tuple[Path, dict[str, Any]]:
    with atomic_folder(place) as part:
        notes = dict(make(part))
        files = {file.name: file_hash(file) for file in sorted(part.iterdir())}
        write_json(part / FORM_FILE, {"facts": dict(facts), "notes": notes, "files": files})
    return place, notes


def _sound(place: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was noted of a form that is there and whole; else None."""
    try:
        content = json.loads((place / FORM_FILE).read_text(encoding="utf-8"))
        whole = all(file_hash(place / name) == digest for name, digest in content["files"].items())
        return dict(content["notes"]) if whole and content["facts"] == dict(facts) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
