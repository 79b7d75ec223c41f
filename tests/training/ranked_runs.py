"""Trains in the processes of torchrun: `torchrun ... ranked_runs.py FOLDER NAME...`, one run after the other.

A script and not the command, because starting torchrun takes longer than all of the runs. FOLDER/NAME.json is a
config; FOLDER/NAME becomes its run folder. A name may end in `@STEP`: in that step torchrun is told to end; in
`!STEP`: in that step the second process fails; in `*`: all folds.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

from medunet.config.schema import Config
from medunet.errors import DeviceError, MedunetError
from medunet.training.folder import CONFIG_FILE
from medunet.training.folds import train_folds
from medunet.training.observe import Observer, Step
from medunet.training.run import train
from medunet.training.step import Stepper

SIGNAL_TAKES = 1.5
"""Seconds until torchrun has handed a signal on."""


class _EndAt(Observer):
    """In the first process only, since the others have no observer."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, step: Step) -> None:
        if step.iteration == self.at:
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(SIGNAL_TAKES)


def fail_at(step: int) -> None:
    """The second process runs out of memory in a step, while the first one waits for it."""
    original = Stepper.__call__

    def replaced(self: Stepper, engine: Any, batch: Any) -> dict[str, float]:
        if engine.state.iteration == step and os.environ["RANK"] == "1":
            raise DeviceError("The second process has no memory left.", "Buy some.")
        return original(self, engine, batch)

    Stepper.__call__ = replaced  # type: ignore[method-assign]


def main() -> int:
    folder = Path(sys.argv[1])
    for word in sys.argv[2:]:
        name, mark, step = re.fullmatch(r"(\w+)([@!*]?)(\d*)", word).groups()  # type: ignore[union-attr]
        config, out = Config.model_validate_json((folder / f"{name}.json").read_text()), folder / name
        observer = _EndAt(int(step)) if mark == "@" else Observer()
        if mark == "!":
            fail_at(int(step))
        try:
            resume = (out / CONFIG_FILE).is_file()
            run = train_folds if mark == "*" else train
            run(config, out, resume=resume, device="cpu", observer=observer)
        except MedunetError as error:
            sys.stderr.write(f"rank {os.environ['RANK']}, told {error.told}: {error}\n")
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
