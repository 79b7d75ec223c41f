"""TensorBoard events in the run folder: scalars of every epoch, slices of held-out cases."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medunet.training.record.runlog import Recorder, Row

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("medunet")


def is_there() -> bool:
    """Whether TensorBoard is installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        return False
    return True


class TensorBoard(Recorder):
    """Writes events; nothing, and a warning, where TensorBoard is not installed.

    Args:
        folder: of the run.
    """

    name = "TensorBoard"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def resume(self, rows: Sequence[Row]) -> None:
        """Events of an earlier part of the run that come after its last epoch are no longer shown."""
        if not is_there():
            logger.warning(
                "logging.tensorboard is on, but TensorBoard is not installed: pip install 'medunet[tensorboard]'."
            )
            return
        from torch.utils.tensorboard import SummaryWriter

        before = any(self._folder.glob("events.out.tfevents.*"))
        purge = (rows[-1]["epoch"] if rows else 0) + 1
        self._writer = SummaryWriter(str(self._folder), purge_step=purge if before else None)

    def epoch(self, rows: Sequence[Row]) -> None:
        """All numbers of the epoch."""
        if self._writer is None:
            return
        for name, value in scalars(rows[-1]).items():
            self._writer.add_scalar(name, value, rows[-1]["epoch"])
        self._writer.flush()

    def pictures(self, epoch: int, pictures: Mapping[str, Image]) -> None:
        """Image, truth and prediction side by side."""
        if self._writer is None:
            return
        for case, picture in pictures.items():
            self._writer.add_image(f"slices/{case}", np.asarray(picture), epoch, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def scalars(row: Row) -> dict[str, float]:
    """The known numbers of a row by the names that TensorBoard groups."""
    values = {
        "train/loss": row["loss"],
        "train/lr": row["lr"],
        "validation/loss": row.get("validation_loss"),
        "validation/dice": row.get("dice_mean"),
        **{f"validation/dice/{name}": value for name, value in row["dice"].items()},
        "speed/iterations_per_second": row["iterations_per_second"],
        "speed/wait_share": row["wait_share"],
        **{f"resources/{name}": value for name, value in row["resources"].items()},
    }
    return {name: value for name, value in values.items() if value is not None}
