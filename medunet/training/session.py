"""The training loop: MONAI's SupervisedTrainer, and what happens after each step and epoch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from ignite.engine import Events
from monai.engines import SupervisedTrainer

from medunet.config.schema import Config
from medunet.errors import OutputError
from medunet.training.keeper import Keeper, not_written
from medunet.training.loader import patch_loader
from medunet.training.observe import EpochSummary, Observer, Step
from medunet.training.parts import Parts
from medunet.training.patches import Batch, PatchDataset
from medunet.training.progress import Progress
from medunet.training.record.runlog import RunLog
from medunet.training.schedule import Clock
from medunet.training.step import Stepper
from medunet.training.stop import StopFlag
from medunet.training.validate import Validation, Validator

logger = logging.getLogger("medunet")


class Session:
    """Trains `parts` on cases until the config's epochs or budget are done, or a signal comes.

    Args:
        config: the whole configuration.
        parts: network, loss, optimizer.
        validator: scores held-out cases.
        keeper: of the checkpoints.
        progress: where to start; updated in place.
        log: takes a line per epoch.
        observer: receives events.
    """

    def __init__(
        self,
        config: Config,
        parts: Parts,
        validator: Validator,
        keeper: Keeper,
        progress: Progress,
        log: RunLog,
        observer: Observer,
    ) -> None:
        self.config = config
        self.parts = parts
        self.validator = validator
        self.keeper = keeper
        self.progress = progress
        self.log = log
        self.observer = observer
        self.clock = Clock(config.train, progress.elapsed)
        self.stop = StopFlag()
        self._dice: dict[str, float | None] = {}
        self._epoch_start = 0.0
        self._steps = 0
        self._waited = 0.0
        self._wait_start = 0.0
        self._due = False

    @property
    def finished(self) -> bool:
        """Whether all planned steps (or the budget) are done; a resumed run may have a longer plan than before."""
        return self.progress.finished and (self._stops_early() or self._planned(self.progress.iteration))

    def _planned(self, iteration: int) -> bool:
        """Whether the plan ends with this step."""
        return self.clock.progress(iteration) >= 1.0

    def _stops_early(self) -> bool:
        """Whether the watched metric has not got better for long enough."""
        rule = self.config.train.early_stop
        return rule is not None and self.progress.stopping.since >= rule.patience

    def _epoch_is_open(self) -> bool:
        """Whether all steps of an epoch are done, but not yet its validation."""
        length, iteration = self.config.train.iterations_per_epoch, self.progress.iteration
        last_step = iteration % length == 0 or self._planned(iteration)
        return last_step and -(-iteration // length) > self.progress.epoch

    def run(self, dataset: PatchDataset, *, workers: int) -> None:
        """Train; returns when done or stopped (`self.stop`).

        Raises:
            TrainingError: the loss or gradient is not a number, or a process that prepares patches died.
        """
        train = self.config.train
        self.clock = Clock(train, self.progress.elapsed)
        self.log.keep_until(min(self.progress.epoch, self.progress.iteration // train.iterations_per_epoch))
        self.validator.interrupted = lambda: self.stop.signal != 0
        self.progress.finished = False
        stepper = Stepper(self.parts, self.config, self.clock, self.progress, dataset.cases_of)
        try:
            with (
                self.stop.listening(),
                patch_loader(
                    dataset,
                    first_sample=self.progress.iteration * train.batch_size,
                    workers=workers,
                    pin_memory=self.parts.device.type == "cuda",
                    ranks=self.parts.ranks,
                ) as batches,
            ):
                self._agree()
                self._epoch_started()
                if self._epoch_is_open():
                    self._close_epoch()
                if not self.stop and not self.finished and self.progress.iteration < self.clock.total:
                    self._trainer(batches, stepper).run()
        finally:
            self.log.close()

    def _trainer(self, batches: Iterable[Batch], stepper: Stepper) -> SupervisedTrainer:
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
            iteration_update=stepper,
            decollate=False,
        )
        trainer.logger.setLevel("CRITICAL")  # what ends a run is raised; ignite would log it as well
        if self.progress.iteration:
            trainer.load_state_dict(
                {"iteration": self.progress.iteration, "max_epochs": epochs, "epoch_length": length}
            )
        trainer.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._batch_wanted)
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, self._batch_came)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._step_done)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_done)
        return trainer

    def _epoch_started(self, *_: Any) -> None:
        self._epoch_start = time.monotonic()
        self._steps = 0
        self._waited = 0.0

    def _agree(self) -> None:
        """Several processes take the clock of the first, and stop all if one was told to."""
        ranks = self.parts.ranks
        if not ranks.many:
            self._due = self.keeper.due
            return
        mine = [self.clock.own, float(self.keeper.due)] if ranks.first else [0.0, 0.0]
        stopped, elapsed, due = ranks.sums([float(self.stop.signal != 0), *mine])
        self.stop.agreed, self.clock.agreed, self._due = stopped > 0, elapsed, due > 0

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
        self._agree()
        share = self.clock.progress(iteration)
        seconds = max(time.monotonic() - self._epoch_start, 1e-9)
        self.observer.step(
            Step(
                iteration=iteration,
                total=self.clock.total,
                epoch=int(engine.state.epoch),
                loss=loss,
                lr=lr,
                progress=share,
                iterations_per_second=self._steps / seconds,
                wait_share=self._waited / seconds,
                remaining=self.clock.remaining(iteration),
                dice=self._dice,
                patches_per_second=self._steps * self.config.train.batch_size / seconds,
                resources=self.log.resources(self._waited / seconds),
            )
        )
        if self.stop:
            engine.terminate()
            self.save()
        elif share >= 1.0:
            engine.terminate_epoch()  # a budget may end inside an epoch; EPOCH_COMPLETED still fires
        elif self._due and iteration % self.config.train.iterations_per_epoch:
            self._tried(self.save)

    def _epoch_done(self, engine: Any) -> None:
        self._close_epoch()
        if self.stop or self.finished:
            engine.terminate()

    def _close_epoch(self) -> None:
        """What follows the last step of an epoch: validation if due, a line in the logs, checkpoints.

        A signal during the validation leaves the epoch open; a resumed run starts here.
        """
        progress, train = self.progress, self.config.train
        epoch = -(-progress.iteration // train.iterations_per_epoch)
        seconds = max(time.monotonic() - self._epoch_start, 1e-9)
        speed, wait_share = self._steps / seconds, self._waited / seconds
        last = self._planned(progress.iteration)
        due = bool(self.validator.cases) and (last or epoch % self.config.validation.every == 0)
        result = self._validated() if due else None
        self._agree()
        if self.stop:
            self.save()
            return
        before = asdict(progress)
        loss = sum(progress.losses) / max(1, len(progress.losses))
        best = self._judge(loss, result, epoch)
        summary = EpochSummary(
            epoch=epoch,
            iteration=progress.iteration,
            loss=loss,
            lr=float(self.parts.optimizer.param_groups[0]["lr"]),
            seconds=seconds,
            elapsed=self.clock.elapsed,
            iterations_per_second=speed,
            wait_share=wait_share,
            validation_loss=result.loss if result else None,
            dice_mean=result.mean if result else None,
            dice=result.dice if result else {},
            best=best,
            rates=self.parts.rates,
        )
        summary = self.log.write(summary)
        logger.info(summary.line())
        self.observer.epoch(summary)
        progress.epoch = epoch
        progress.losses.clear()
        progress.finished = last or self._stops_early()
        if train.early_stop is not None and progress.finished and not last:
            logger.info("%s has not got better for long enough; the training ends here.", train.early_stop.metric)
        if best and not self._tried(self._save_best):  # the weights of the best epoch before are still there
            self.progress.best, self.progress.best_epoch = Progress.from_state(before).best, before["best_epoch"]
        self._tried(self.save)

    def _validated(self) -> Validation:
        """Scores; the first process gets what the others saw of the cases that the log shows."""
        result, slices = self.validator.run(), self.log.slices
        for seen in self.parts.ranks.collect({} if slices is None else slices.predictions):
            if slices is not None:
                slices.predictions.update(seen)
        return result

    def _judge(self, loss: float, result: Validation | None, epoch: int) -> bool:
        """Take the metrics of an epoch in; True if it is the best so far."""
        metrics: dict[str, float | None] = {"loss": loss}
        if result is not None:
            self._dice = result.dice
            metrics.update(result.metrics())
        return self.progress.judge(metrics, epoch, self.config)

    def _tried(self, save: Callable[[], None]) -> bool:
        """Save, if there is room; a disk that is full does not end the training."""
        try:
            save()
        except OutputError as error:
            not_written(error)
            return False
        return True

    def _save_best(self) -> None:
        """Write best.pt; raises what `save` raises."""
        self.parts.check_finite()
        self.progress.elapsed = self.clock.elapsed
        state = {"network": self.parts.judged.state_dict(), "progress": asdict(self.progress)}
        self.parts.ranks.lead(lambda: self.keeper.save_best(state))

    def save(self) -> None:
        """Write last.pt.

        Raises:
            TrainingError: a weight is not a number; the checkpoints stay as they are.
            OutputError: it cannot be written.
        """
        self.parts.check_finite()
        self.progress.elapsed = self.clock.elapsed
        state = {**self.parts.state(), "progress": asdict(self.progress)}
        self.parts.ranks.lead(lambda: self.keeper.save(state))
