"""Checkpoints: tensors and plain numbers only, written atomically, read with `weights_only`."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from medunet.atomic import atomic_file
from medunet.errors import TrainingError

CHECKPOINT_VERSION = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path`; the previous file stays until the new one is whole.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_file(path) as part:
        torch.save({"version": CHECKPOINT_VERSION, **state}, part)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote.

    Raises:
        TrainingError: the file is damaged or of another version.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise TrainingError(
            f"The checkpoint {path} cannot be read: {error}.", "Resume from another copy, or start a new run."
        ) from error
    if state.get("version") != CHECKPOINT_VERSION:
        raise TrainingError(
            f"The checkpoint {path} has version {state.get('version')}, this medunet reads {CHECKPOINT_VERSION}.",
            "Resume with the medunet that wrote it.",
        )
    return state
