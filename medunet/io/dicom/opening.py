"""The bytes of DICOM files, which may lie in a zip: `export.zip/SER1/IM1` is a path like any other.

Nothing is unpacked to the disk, where a killed process would leave it. A file in a zip is held in memory while it is
read, so its size is looked at first.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from medunet.errors import ReadError

_ZIP = ".zip"
_LARGEST_MEMBER = 2**30
_MOST_MEMBERS = 1_000_000
_DEFLATED, _MOST_INFLATED = b"1.2.840.10008.1.2.1.99", 1032  # no byte of a deflated stream stands for more
_META = 1024
_CHUNK = _MUCH = 2**20


def is_zip(path: Path) -> bool:
    """Whether a file is called a zip."""
    return path.suffix.lower() == _ZIP and path.is_file()


def files_below(path: Path) -> Iterator[Path]:
    """Regular files below a folder or in a zip, or the file itself, in a fixed order; links are not followed.

    Raises:
        ReadError: a zip that cannot be read.
    """
    if is_zip(path):
        yield from (path / name for name in _members(path))
    elif not path.is_dir():
        yield path
    else:
        for folder, subfolders, names in os.walk(path):
            subfolders.sort()
            yield from (Path(folder) / name for name in sorted(names))


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The content of a file, from its first byte.

    Raises:
        OSError: it cannot be read.
        ReadError: it lies in a zip that is damaged or locked, or is too large to be read from there.
    """
    place = _place(path)
    if place is None:
        with _Bounded(io.FileIO(path)) as handle:
            _check_deflated(handle)
            yield handle
        return
    archive, name = place
    members = _members(archive)
    if name not in members:
        raise ReadError(f"{archive.name} holds no {name}")
    info = members[name]
    if info.file_size > _LARGEST_MEMBER:
        raise ReadError(f"it takes {info.file_size / 2**30:.1f} GiB, too much to be read from a zip; unpack it first")
    with _reading(archive), _archive(*_version(archive)).open(info) as member:
        content = io.BytesIO(member.read())
    _check_deflated(content)
    yield content


class _Bounded(io.BufferedReader):
    """Makes room for no more bytes than the file holds, where a header states gigabytes that are not there."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MUCH:
            size = min(size, size_of(self) - self.tell())
        return super().read(size)


def _check_deflated(handle: BinaryIO) -> None:
    """Refuse a data set that is deflated from more than fits: pydicom inflates it in one go."""
    if size_of(handle) * _MOST_INFLATED <= _LARGEST_MEMBER:
        return
    head = handle.read(_META)
    start = 132 if head[128:132] == b"DICM" else 0
    if _DEFLATED in head and head[start : start + 8] == b"\2\0\0\0UL\4\0":
        handle.seek(start + 12 + int.from_bytes(head[start + 8 : start + 12], "little"))
        if _inflated_size(handle) > _LARGEST_MEMBER:
            raise ReadError(f"its data set inflates to more than {_LARGEST_MEMBER / 2**30:g} GiB")
    handle.seek(0)


def _inflated_size(handle: BinaryIO) -> int:
    """Bytes that the rest of a file inflates to, counted no farther than is of interest; 0 if it is no such stream."""
    stream, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    rest = handle.read(_CHUNK)
    try:
        while rest and not stream.eof and total <= _LARGEST_MEMBER:
            total += len(stream.decompress(rest, _CHUNK))
            rest = stream.unconsumed_tail or handle.read(_CHUNK)
    except zlib.error:
        return 0
    return total


def head(path: Path, size: int) -> bytes:
    """The first bytes of a file; b"" if it is no regular file.

    Raises:
        OSError, ReadError: as `opened`.
    """
    place = _place(path)
    if place is None:
        if not path.is_file():
            return b""
        with open(path, "rb") as handle:
            return handle.read(size)
    archive, name = place
    with _reading(archive), _archive(*_version(archive)).open(_members(archive)[name]) as member:
        return member.read(size)


def size_of(handle: BinaryIO) -> int:
    """Bytes of an open file; it stays where it is."""
    here = handle.tell()
    size = handle.seek(0, os.SEEK_END)
    handle.seek(here)
    return size


def stamp_of(handle: BinaryIO | io.FileIO) -> tuple[int, int] | None:
    """Size and time of the last change of an open file; None if it lies in a zip."""
    if isinstance(handle, io.BytesIO):
        return None
    stat = os.fstat(handle.fileno())
    return stat.st_size, stat.st_mtime_ns


def _place(path: Path) -> tuple[Path, str] | None:
    """The zip that a path leads into, and the name within; None for a path of the disk."""
    if _ZIP not in str(path).lower():
        return None
    for parent in path.parents:
        if is_zip(parent):
            return parent, path.relative_to(parent).as_posix()
    return None


def _version(path: Path) -> tuple[Path, int, int]:
    stat = path.stat()
    return path, stat.st_size, stat.st_mtime_ns


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    return _listed(*_version(path))


@lru_cache(maxsize=8)
def _archive(path: Path, _size: int, _changed: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@lru_cache(maxsize=8)
def _listed(path: Path, size: int, changed: int) -> dict[str, zipfile.ZipInfo]:
    """By name; without folders, and without names that lead out of the zip."""
    with _reading(path):
        infos = _archive(path, size, changed).infolist()
    if len(infos) > _MOST_MEMBERS:
        raise ReadError(f"{path} holds {len(infos)} files.", "Unpack it first.")
    names = {PurePosixPath(info.filename): info for info in infos if not info.is_dir()}
    inside = {name: info for name, info in names.items() if not name.is_absolute() and ".." not in name.parts}
    return {name.as_posix(): info for name, info in sorted(inside.items())}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what zipfile raises into a sentence."""
    try:
        yield
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise ReadError(f"{path} cannot be read as a zip: {error}.", "Copy or export it again.") from error
    except RuntimeError as error:  # a password
        raise ReadError(f"{path} cannot be opened: {error}.", "Unpack it first.") from error
    except Exception as error:  # zlib.error and its like
        if isinstance(error, OSError | ReadError):
            raise
        raise ReadError(f"{path} is damaged: {error}.", "Copy or export it again.") from error
