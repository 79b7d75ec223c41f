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
    places = [folder / f"{name}-{key_of(facts)}" for folder in folders]
    for place in places:
        notes = _sound(place, facts)
        if notes is not None:
            return place, notes
    for place in places[:-1]:
        try:
            return _made(place, facts, make)
        except OutputError:
            continue
    return _made(places[-1], facts, make)


def _made(
    place: Path, facts: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
) -> tuple[Path, dict[str, Any]]:
    with atomic_folder(place) as part:
        notes = dict(make(part))
        files = {file.name: _hash(file) for file in sorted(part.iterdir())}
        write_json(part / FORM_FILE, {"facts": dict(facts), "notes": notes, "files": files})
    return place, notes


def _sound(place: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was noted of a form that is there and whole; else None."""
    try:
        content = json.loads((place / FORM_FILE).read_text(encoding="utf-8"))
        whole = all(_hash(place / name) == digest for name, digest in content["files"].items())
        return dict(content["notes"]) if whole and content["facts"] == dict(facts) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _hash(path: Path) -> str:
    with open(path, "rb") as handle:
        digest = hashlib.sha256()
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
