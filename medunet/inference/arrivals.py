"""What lies in a folder into which others write, and what of it is complete.

A file, or all files of a study, count once neither size nor time has changed between looks for some seconds. Looking is
all that is done, so that network drives work too. Knows nothing of networks and masks.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medunet.inference.inputs import about_unread
from medunet.inference.report import REPORT_FILE
from medunet.io.files import image_ending, is_unread, stem
from medunet.io.picture_masks import is_picture

logger = logging.getLogger("medunet")

_UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".filepart", "~")
_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
_DICOM = re.compile(r"\.(dcm|dicom|ima|\d+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Arrival:
    """Something to segment: a file, the files of the channels of one image, or a folder with DICOM files.

    Attributes:
        key: path of it below the folder, `/` between; of channels `sub/CASE`.
        paths: the files, or the folder.
        signature: sizes and times; another one means that it is to be done again.
        whole: whether nothing is known to be missing.
    """

    key: str
    paths: tuple[Path, ...]
    signature: str
    whole: bool = True


@dataclass
class Arrivals:
    """Looks at a folder again and again.

    Args:
        root: the folder.
        channels: of the model; of more than one the channels of a volume may come in files of their own.
        settle: seconds without a change after which something is complete.
        without: folder that is not looked into.

    Attributes:
        waiting: what is there and not complete yet.
    """

    root: Path
    channels: int = 1
    settle: float = 5.0
    without: Path | None = None
    waiting: int = 0
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)
    _unread: set[str] = field(default_factory=set)

    def look(self, now: float, is_done: Callable[[str, str], bool]) -> list[Arrival]:
        """What is complete and not done, oldest first.

        Args:
            now: seconds; later in every call.
            is_done: whether a key with a signature needs no work.

        Raises:
            OSError: the folder cannot be listed.
        """
        seen: dict[str, tuple[str, float]] = {}
        known = set(self._unread)
        ready: list[tuple[float, Arrival]] = []
        for arrival in self._all():
            if is_done(arrival.key, arrival.signature):
                continue
            signature, since = self._seen.get(arrival.key, ("", now))
            since = since if signature == arrival.signature else now
            seen[arrival.key] = arrival.signature, since
            if now - since >= self.settle and arrival.whole:
                ready.append((since, arrival))
        self._seen, self.waiting = seen, len(seen) - len(ready)
        if new := sorted(self._unread - known):
            logger.warning("%s", about_unread(new))
        return [arrival for _, arrival in sorted(ready, key=lambda each: (each[0], each[1].key))]

    def _all(self) -> Iterator[Arrival]:
        groups: dict[str, list[tuple[Path, str]]] = {}
        for entry in _entries(self.root):
            if entry.is_dir(follow_symlinks=False):
                yield from self._folder(entry.path)
            elif image_ending(Path(entry.name)) or entry.name.lower().endswith(".zip"):
                match = _CHANNEL.match(stem(Path(entry.name)))
                if match is None or self.channels == 1 or is_picture(Path(entry.name)):
                    yield Arrival(entry.name, (Path(entry.path),), _signature(entry))
                else:
                    groups.setdefault(match["case"], []).append((Path(entry.path), _signature(entry)))
            else:
                self._tell(entry.name)
        for case, members in sorted(groups.items()):
            paths, signatures = zip(*sorted(members), strict=True)
            yield Arrival(case, paths, " ".join(signatures), whole=len(paths) >= self.channels)

    def _folder(self, path: str) -> Iterator[Arrival]:
        """A folder of the first level: a study if names look like DICOM, else the pictures in it."""
        if self._is_output(path):
            return
        files = list(self._below(path))
        pictures = any(is_picture(Path(file.name)) for file in files)
        dicom = sorted(
            _signature(file) + file.path
            for file in files
            if _looks_like_dicom(file.name) and not (pictures and _is_word(file.name))
        )
        if dicom:
            yield Arrival(Path(path).name, (Path(path),), f"{len(dicom)}:{hash_of(dicom)}")
            return
        for file in files:
            key = Path(file.path).relative_to(self.root).as_posix()
            if is_picture(Path(file.name)):
                yield Arrival(key, (Path(file.path),), _signature(file))
            elif is_unread(Path(file.name)):
                self._unread.add(key)

    def _below(self, path: str) -> Iterator[os.DirEntry[str]]:
        for entry in _entries(path):
            if not entry.is_dir(follow_symlinks=False):
                yield entry
            elif not self._is_output(entry.path):
                yield from self._below(entry.path)

    def _is_output(self, path: str) -> bool:
        """Whether masks are written here: now, or by an earlier run."""
        here = Path(path)
        return (self.without is not None and here.resolve() == self.without.resolve()) or (here / REPORT_FILE).is_file()

    def _tell(self, name: str) -> None:
        """Once, of names that look like DICOM; of those of kinds that are not read `look` tells."""
        if is_unread(Path(name)):
            self._unread.add(name)
        elif _looks_like_dicom(name) and not self._told:
            self._told.add(name)
            logger.warning("%s is left alone: files of a DICOM study come in a folder of their own, or in a zip.", name)


def signature_of(path: Path) -> str | None:
    """Size and time of a file as in `Arrival.signature`; None if there is none any more."""
    try:
        found = path.stat()
    except OSError:
        return None
    return f"{found.st_size}:{found.st_mtime_ns}"


def hash_of(lines: list[str]) -> str:
    """A short text for a long one."""
    from hashlib import sha256

    return sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _signature(entry: os.DirEntry[str]) -> str:
    return signature_of(Path(entry.path)) or ""


def _entries(path: str | Path) -> list[os.DirEntry[str]]:
    """By name, without what is hidden or has the name of something unfinished."""
    with os.scandir(path) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    return [entry for entry in entries if not _is_unfinished(entry.name)]


def _is_unfinished(name: str) -> bool:
    return name.startswith((".", "~")) or name.lower().endswith(_UNFINISHED)


def _is_word(name: str) -> bool:
    """A name without digits, such as README or LICENSE; files of DICOM exports are numbered."""
    return "." not in name and name.upper() != "DICOMDIR" and not any(letter.isdigit() for letter in name)


def _looks_like_dicom(name: str) -> bool:
    return "." not in name or _DICOM.search(name) is not None
