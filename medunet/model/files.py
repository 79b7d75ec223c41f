"""The files of a model folder, or of a zip of one: found, read and checked by hash. Nothing is extracted to disk."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from medunet.errors import ModelError, UsageError
from medunet.model.spec import SPEC_FILE, FileEntry

_BLOCK = 1 << 20


def find_model(path: Path) -> Path:
    """The file or folder that holds the model: `path`, or its model/ where `path` is a run."""
    if not path.exists():
        raise UsageError(f"There is no model {path}.", "Give the model/ folder of a run.")
    if path.is_file() and path.suffix.lower() != ".zip" and not zipfile.is_zipfile(path):
        raise UsageError(f"{path} is neither a model folder nor a zip of one.", "Give the model/ folder of a run.")
    if path.is_file() or (path / SPEC_FILE).is_file():
        return path
    if (path / "model" / SPEC_FILE).is_file():
        return path / "model"
    raise UsageError(
        f"{path} is no model: it has no {SPEC_FILE}.", "Give the model/ folder of a run (or the run folder)."
    )


def blocks(path: Path, name: str, size: int = _BLOCK) -> Iterator[bytes]:
    """Content of a file of a model folder or zip, `size` bytes at a time (-1: at once); nothing is extracted to disk.

    Raises:
        ModelError: there is no such file, or it cannot be read.
    """
    missing = f"{path} lacks {name}{'' if name == SPEC_FILE else ', which its model.yaml lists'}."
    if not name or PurePosixPath(name).name != name or name == ".." or set(name) & {"\\", "\0"}:  # it lies elsewhere
        raise ModelError(missing, "Copy the model again.")
    try:
        if path.is_dir():
            with open(path / name, "rb") as handle:
                yield from iter(lambda: handle.read(size), b"")
            return
        with zipfile.ZipFile(path) as archive, _open_in(archive, name) as packed:
            yield from iter(lambda: packed.read(size), b"")
    except (FileNotFoundError, KeyError) as error:
        raise ModelError(missing, "Copy or zip the whole model folder again.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: it has a password
        raise ModelError(f"{path} is a damaged zip: {error}.", "Copy the model again.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.", "Check its permissions.") from error


def _open_in(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """A file beside the outermost model.yaml of a zip; KeyError if there is none."""
    specs = [PurePosixPath(each) for each in archive.namelist() if PurePosixPath(each).name == SPEC_FILE]
    if not specs:
        raise ModelError(f"{archive.filename} lacks {SPEC_FILE}.", "Zip the whole model folder.")
    return archive.open(str(min(specs, key=lambda each: len(each.parts)).with_name(name)))


def check_hash(path: Path, name: str, digest: str, entry: FileEntry) -> None:
    """Compare the hash of a file with that of model.yaml.

    Raises:
        ModelError: they differ.
    """
    if digest != entry.sha256:
        raise ModelError(
            f"{path}/{name} was changed or damaged: its SHA-256 is {digest[:12]}..., "
            f"but model.yaml states {entry.sha256[:12]}....",
            "Copy the model again from where it was trained.",
        )
