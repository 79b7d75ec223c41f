"""The training loop: MONAI's SupervisedTrainer, and what happens after each step and epoch."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from medunet.config.schema import Config
from medunet.training.cache import CachedCase
from medunet.training.checkpoint import save_checkpoint
from medunet.training.observe import EpochSummary, Observer, RunLog, Step
from medunet.training.parts import Parts, make_update
from medunet.training.patches import PatchDataset, patch_loader
from medunet.training.schedule import Clock
from medunet.training.validate import Validation, Validator

logger = logging.getLogger("medunet")


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint.

    Attributes:
        iteration: optimizer steps done.
        elapsed: seconds of training.
        best: highest validation Dice so far; None before the first validation.
        best_epoch: where it was reached.
        finished: whether all planned steps (or the budget) are done.
    """

    iteration: int = 0
    elapsed: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    finished: bool = False


class StopFlag:
    """Set by SIGINT or SIGTERM while `listening`; a second signal stops at once."""

    def __init__(self) -> None:
        self.signal: int = 0

    def __bool__(self) -> bool:
        return self.signal != 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals (in the main thread only; elsewhere they belong to the caller)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def catch(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self.signal = number
            for each, handler in before.items():
                signal.signal(each, handler)
            logger.warning("Stopping after this step; once more to stop at once.")

        for number in before:
            signal.signal(number, catch)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Session:
    """Trains `parts` on cases until the config's epochs or budget are done, or a signal comes.

    Args:
        config: the whole configuration.
        parts: network, loss, optimizer.
        validator: scores held-out cases.
        folder: run folder; checkpoints go to `checkpoints/`.
        progress: where to start; updated in place.
        observer: receives events.
    """

    def __init__(
        self,
        config: Config,
        parts: Parts,
        validator: Validator,
        folder: Path,
        progress: Progress,
        observer: Observer,
    ) -> None:
        self.config = config
        self.parts = parts
        self.validator = validator
        self.folder = folder
        self.progress = progress
        self.observer = observer
        self.clock = Clock(config.train, progress.elapsed)
        self.stop = StopFlag()
        self.log = RunLog(folder, tensorboard=config.logging.tensorboard)
        self._losses: list[float] = []
        self._dice: float | None = progress.best
        self._epoch_start = 0.0
        self._waited = 0.0
        self._wait_start = 0.0

    def run(self, dataset: PatchDataset, validation: Sequence[CachedCase], *, workers: int) -> None:
        """Train; returns when done or stopped (`self.stop`).

        Raises:
            TrainingError: the loss or gradient is not a number.
        """
        length = self.config.train.iterations_per_epoch
        self.clock = Clock(self.config.train, self.progress.elapsed)
        self.log.keep_until(self.progress.iteration // length)
        self.validator.interrupted = lambda: bool(self.stop)
        loader = patch_loader(
            dataset,
            first_sample=self.progress.iteration * self.config.train.batch_size,
            workers=workers,
            pin_memory=self.parts.device.type == "cuda",
        )
        trainer = SupervisedTrainer(
            device=self.parts.device,
            max_epochs=self.config.train.epochs,
            train_data_loader=loader,
            network=self.parts.network,
            optimizer=self.parts.optimizer,
            loss_function=self.parts.loss,
            epoch_length=length,
            iteration_update=make_update(self.parts, self.config, self.clock),
            decollate=False,
        )
        trainer.logger.setLevel("WARNING")
        if self.progress.iteration:
            trainer.load_state_dict(
                {"iteration": self.progress.iteration, "max_epochs": self.config.train.epochs, "epoch_length": length}
            )
        self._attach(trainer, validation)
        try:
            with self.stop.listening():
                trainer.run()
        finally:
            self.log.close()

    def _attach(self, trainer: SupervisedTrainer, validation: Sequence[CachedCase]) -> None:
        trainer.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._batch_wanted)
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, self._batch_came)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._step_done)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_done, validation)

    def _epoch_started(self, engine: Any) -> None:  # noqa: ARG002
        self._epoch_start = time.monotonic()
        self._losses.clear()
        self._waited = 0.0

    def _batch_wanted(self, engine: Any) -> None:  # noqa: ARG002
        self._wait_start = time.monotonic()

    def _batch_came(self, engine: Any) -> None:  # noqa: ARG002
        self._waited += time.monotonic() - self._wait_start

    def _step_done(self, engine: Any) -> None:
        iteration = int(engine.state.iteration)
        self.progress.iteration = iteration
        self._losses.append(engine.state.output["loss"])
        share = self.clock.progress(iteration)
        self.observer.step(
            Step(
                iteration=iteration,
                total=self.clock.total,
                epoch=int(engine.state.epoch),
                loss=self._losses[-1],
                lr=engine.state.output["lr"],
                progress=share,
                iterations_per_second=self._speed(),
                remaining=self.clock.remaining(iteration),
                dice=self._dice,
            )
        )
        if self.stop:
            engine.terminate()
            self.save()
        elif share >= 1.0:
            engine.terminate_epoch()  # a budget may end inside an epoch; EPOCH_COMPLETED still fires

    def _speed(self) -> float:
        return len(self._losses) / max(time.monotonic() - self._epoch_start, 1e-9)

    def _epoch_done(self, engine: Any, validation: Sequence[CachedCase]) -> None:
        epoch = int(engine.state.epoch)
        seconds, speed = time.monotonic() - self._epoch_start, self._speed()
        self.progress.finished = self.clock.progress(self.progress.iteration) >= 1.0
        due = epoch % self.config.validation.every == 0 or self.progress.finished
        result = self._validate(validation) if due and validation else None
        if self.stop:
            engine.terminate()
            self.save()
            return
        best = result is not None and self._note_best(result, epoch)
        summary = EpochSummary(
            epoch=epoch,
            iteration=self.progress.iteration,
            loss=sum(self._losses) / max(1, len(self._losses)),
            lr=engine.state.output["lr"],
            seconds=seconds,
            elapsed=self.clock.elapsed,
            iterations_per_second=speed,
            wait_share=self._waited / max(seconds, 1e-9),
            dice_mean=result.mean if result else None,
            dice=result.dice if result else {},
            best=best,
        )
        self.log.write(summary)
        logger.info(summary.line())
        self.observer.epoch(summary)
        self.save(best=best)
        if self.progress.finished:
            engine.terminate()

    def _validate(self, cases: Sequence[CachedCase]) -> Validation:
        limit = self.config.validation.cases
        return self.validator.run(cases if limit is None else cases[:limit])

    def _note_best(self, result: Validation, epoch: int) -> bool:
        self._dice = result.mean
        if result.mean is None or (self.progress.best is not None and result.mean <= self.progress.best):
            return False
        self.progress.best, self.progress.best_epoch = result.mean, epoch
        return True

    def save(self, *, best: bool = False) -> None:
        """Write checkpoints/last.pt, and best.pt when asked; each replaces the old one only when it is whole."""
        self.progress.elapsed = self.clock.elapsed
        folder = self.folder / "checkpoints"
        save_checkpoint(folder / "last.pt", {**self.parts.state(), "progress": vars(self.progress)})
        if best:
            weights = self.parts.network.state_dict()
            save_checkpoint(folder / "best.pt", {"network": weights, "progress": vars(self.progress)})


def automatic_workers(wish: int | str, device: torch.device, cores: Callable[[], int]) -> int:
    """Processes that prepare patches: as wished, or none on a CPU and up to 8 beside a GPU."""
    if isinstance(wish, int):
        return wish
    return 0 if device.type == "cpu" else max(1, min(8, cores() - 1))
