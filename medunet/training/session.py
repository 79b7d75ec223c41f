"""The training loop: MONAI's SupervisedTrainer, and what happens after each step and epoch."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
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
from medunet.training.patches import Batch, PatchDataset, patch_loader
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
        epoch: last epoch that is complete: its steps done, validated if due, logged.
        losses: of the steps since then, so that a resumed epoch has the same mean.
        finished: whether `epoch` was the last one planned.
    """

    iteration: int = 0
    elapsed: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    epoch: int = 0
    losses: list[float] = field(default_factory=list)
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
        self._dice: float | None = progress.best
        self._epoch_start = 0.0
        self._steps = 0
        self._waited = 0.0
        self._wait_start = 0.0

    @property
    def finished(self) -> bool:
        """Whether all planned steps (or the budget) are done; a resumed run may have a longer plan than before."""
        return self.progress.finished and self.clock.progress(self.progress.iteration) >= 1.0

    def _epoch_is_open(self) -> bool:
        """Whether all steps of an epoch are done, but not yet its validation."""
        length, iteration = self.config.train.iterations_per_epoch, self.progress.iteration
        last_step = iteration % length == 0 or self.clock.progress(iteration) >= 1.0
        return last_step and -(-iteration // length) > self.progress.epoch

    def run(self, dataset: PatchDataset, validation: Sequence[CachedCase], *, workers: int) -> None:
        """Train; returns when done or stopped (`self.stop`).

        Raises:
            TrainingError: the loss or gradient is not a number.
        """
        train = self.config.train
        self.clock = Clock(train, self.progress.elapsed)
        self.log.keep_until(min(self.progress.epoch, self.progress.iteration // train.iterations_per_epoch))
        self.validator.interrupted = lambda: bool(self.stop)
        self.progress.finished = False
        try:
            with (
                self.stop.listening(),
                patch_loader(
                    dataset,
                    first_sample=self.progress.iteration * train.batch_size,
                    workers=workers,
                    pin_memory=self.parts.device.type == "cuda",
                ) as batches,
            ):
                self._epoch_started()
                if self._epoch_is_open():
                    self._close_epoch(validation)
                if not self.stop and not self.finished and self.progress.iteration < self.clock.total:
                    self._trainer(batches, validation).run()
        finally:
            self.log.close()

    def _trainer(self, batches: Iterable[Batch], validation: Sequence[CachedCase]) -> SupervisedTrainer:
        """MONAI's trainer with our step, set to where the run stands."""
        length, epochs = self.config.train.iterations_per_epoch, self.config.train.epochs
        trainer = SupervisedTrainer(
            device=self.parts.device,
            max_epochs=epochs,
            train_data_loader=batches,
            network=self.parts.network,
            optimizer=self.parts.optimizer,
            loss_function=self.parts.loss,
            epoch_length=length,
            iteration_update=make_update(self.parts, self.config, self.clock),
            decollate=False,
        )
        trainer.logger.setLevel("CRITICAL")  # what ends a run is raised; ignite would log it as well
        if self.progress.iteration:
            trainer.load_state_dict(
                {"iteration": self.progress.iteration, "max_epochs": epochs, "epoch_length": length}
            )
        self._attach(trainer, validation)
        return trainer

    def _attach(self, trainer: SupervisedTrainer, validation: Sequence[CachedCase]) -> None:
        trainer.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._batch_wanted)
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, self._batch_came)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._step_done)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_done, validation)

    def _epoch_started(self, *_: Any) -> None:
        self._epoch_start = time.monotonic()
        self._steps = 0
        self._waited = 0.0

    def _batch_wanted(self, engine: Any) -> None:  # noqa: ARG002
        self._wait_start = time.monotonic()

    def _batch_came(self, engine: Any) -> None:  # noqa: ARG002
        self._waited += time.monotonic() - self._wait_start

    def _step_done(self, engine: Any) -> None:
        iteration = int(engine.state.iteration)
        loss, lr = engine.state.output["loss"], engine.state.output["lr"]
        self.progress.iteration = iteration
        self.progress.losses.append(loss)
        self._steps += 1
        share = self.clock.progress(iteration)
        self.observer.step(
            Step(
                iteration=iteration,
                total=self.clock.total,
                epoch=int(engine.state.epoch),
                loss=loss,
                lr=lr,
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
        return self._steps / max(time.monotonic() - self._epoch_start, 1e-9)

    def _epoch_done(self, engine: Any, validation: Sequence[CachedCase]) -> None:
        self._close_epoch(validation)
        if self.stop or self.finished:
            engine.terminate()

    def _close_epoch(self, validation: Sequence[CachedCase]) -> None:
        """What follows the last step of an epoch: validation if due, a line in the logs, checkpoints.

        A signal during the validation leaves the epoch open; a resumed run starts here.
        """
        progress, train = self.progress, self.config.train
        epoch = -(-progress.iteration // train.iterations_per_epoch)
        seconds, speed = time.monotonic() - self._epoch_start, self._speed()
        last = self.clock.progress(progress.iteration) >= 1.0
        due = bool(validation) and (last or epoch % self.config.validation.every == 0)
        result = self._validate(validation) if due else None
        if self.stop:
            self.save()
            return
        best = result is not None and self._note_best(result, epoch)
        summary = EpochSummary(
            epoch=epoch,
            iteration=progress.iteration,
            loss=sum(progress.losses) / max(1, len(progress.losses)),
            lr=float(self.parts.optimizer.param_groups[0]["lr"]),
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
        progress.epoch = epoch
        progress.losses.clear()
        progress.finished = last
        self.save(best=best)

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
        """Write checkpoints/last.pt, and best.pt when asked; each replaces the old one only when it is whole.

        best.pt comes first: a run killed between the two repeats the epoch and writes both again. The other way
        round last.pt would know of a best epoch whose weights were never written.

        Raises:
            TrainingError: a weight is not a number; the checkpoints stay as they are.
            OutputError: they cannot be written.
        """
        self.parts.check_finite()
        self.progress.elapsed = self.clock.elapsed
        folder, progress = self.folder / "checkpoints", asdict(self.progress)
        if best:
            save_checkpoint(folder / "best.pt", {"network": self.parts.network.state_dict(), "progress": progress})
        save_checkpoint(folder / "last.pt", {**self.parts.state(), "progress": progress})


def automatic_workers(wish: int | str, device: torch.device, cores: Callable[[], int]) -> int:
    """Processes that prepare patches: as wished, or none on a CPU and up to 8 beside a GPU."""
    if isinstance(wish, int):
        return wish
    return 0 if device.type == "cpu" else max(1, min(8, cores() - 1))
