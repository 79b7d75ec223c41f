"""Checkpoints: tensors and plain numbers only, written atomically, read with `weights_only`."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from medunet.atomic import atomic_file
from medunet.errors import OutputError, TrainingError

CHECKPOINT_VERSION = 2

_DAMAGED = (
    RuntimeError,
    OSError,
    EOFError,
    pickle.UnpicklingError,
    ValueError,
    KeyError,
    IndexError,
    zipfile.BadZipFile,
)


def save_checkpoint(path: Path, state: dict[str, Any], *, before: Callable[[], None] = lambda: None) -> None:
    """Write `state` to `path`; the previous file stays until the new one is whole.

    Args:
        path: of the checkpoint.
        state: tensors, numbers, strings, and lists and mappings of them.
        before: called when the new file is whole, just before it takes the place of the old one.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_file(path) as part:
        try:
            # A file object instead of the path: torch's own writer loses the reason when the disk is full.
            with open(part, "wb") as handle:
                torch.save({"version": CHECKPOINT_VERSION, **state}, handle)
                handle.flush()
                os.fsync(handle.fileno())  # whole on disk before the old one makes room
        except RuntimeError as error:
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            raise OutputError(
                f"{path} cannot be written: {getattr(reason, 'strerror', None) or reason}.",
                "Check free space and permissions of that folder; the previous checkpoint is still there.",
            ) from error
        before()


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote.

    Raises:
        TrainingError: the file is damaged or of another version.
    """
    try:
        _check_sums(path)
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except _DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise TrainingError(
            f"The checkpoint {path} cannot be read: {reason}.", "Put a copy in its place, or start a new run."
        ) from error
    version = state.get("version") if isinstance(state, dict) else None
    if version != CHECKPOINT_VERSION:
        raise TrainingError(
            f"The checkpoint {path} has version {version}, this medunet reads {CHECKPOINT_VERSION}.",
            "Resume with the medunet that wrote it.",
        )
    return state


def _check_sums(path: Path) -> None:
    """Compare the checksums in the file, which torch writes but does not look at."""
    if not zipfile.is_zipfile(path):
        raise ValueError("it is cut off or no checkpoint")
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it was changed")
