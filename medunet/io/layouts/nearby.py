"""Names of files in a data set: found below a folder, kept inside of it, and made into ids of cases."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from medunet.io.files import image_ending, stem


def climbs(text: str) -> bool:
    """Whether a relative path leads out of the folder that it is seen from."""
    slashed = text.replace("\\", "/")
    return not Path(slashed).is_absolute() and Path(os.path.normpath(slashed)).parts[:1] == (os.pardir,)


def files_under(folder: Path) -> Iterator[Path]:
    """All files at any depth, sorted; hidden ones and those in hidden folders are skipped."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def id_of(relative: str) -> str:
    """A file-name-safe id of a path without its ending: its folders and its name, joined by underscores."""
    return "_".join(PurePosixPath(relative).parts)


class Images:
    """The image files below a folder, by the ways in which a table may name them."""

    def __init__(self, folder: Path) -> None:
        """Look through `folder` once.

        Raises:
            OSError: it cannot be read.
        """
        self.folder = folder
        self.paths = [path for path in files_under(folder) if image_ending(path)]
        self._named: dict[str, list[Path]] = {}
        for path in self.paths:
            relative = path.relative_to(folder).as_posix()
            bare = relative[: len(relative) - len(image_ending(path))]
            for key in dict.fromkeys((relative, bare, path.name, stem(path))):
                self._named.setdefault(key, []).append(path)

    def find(self, name: str) -> list[Path]:
        """Files of this path below the folder, with or without ending; else of this name in any folder."""
        slashed = os.path.normpath(name.replace("\\", "/"))
        exact = self.folder / slashed
        if not climbs(slashed) and not Path(slashed).is_absolute() and image_ending(exact) and exact.is_file():
            return [exact]
        return self._named.get(slashed) or self._named.get(PurePosixPath(slashed).name) or []

    def ids(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Ids of cases: the stem of the name where all differ, else with the folders."""
        chosen = list(paths)
        if len({stem(path) for path in chosen}) == len(chosen):
            return {path: stem(path) for path in chosen}
        bare = (path.relative_to(self.folder).with_name(stem(path)).as_posix() for path in chosen)
        return {path: id_of(name) for path, name in zip(chosen, bare, strict=True)}


def listed(names: Iterable[str], limit: int = 5) -> str:
    """`a, b, c, ... (12 in all)`."""
    known = list(names)
    more = f", ... ({len(known)} in all)" if len(known) > limit else ""
    return ", ".join(known[:limit]) + more
