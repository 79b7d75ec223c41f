"""One optimizer step: forward, loss, backward, clip, update, moving average."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from medunet.config.schema import Config
from medunet.errors import TrainingError
from medunet.losses.across import across
from medunet.losses.truth import Truth
from medunet.networks.layout import channels_last
from medunet.training.forward import Forward
from medunet.training.freeze import Frozen
from medunet.training.parts import REMEDY, Parts
from medunet.training.patches import Batch
from medunet.training.progress import Progress
from medunet.training.schedule import Clock, learning_rate


class Stepper:
    """`stepper(engine, batch)` makes one step and gives `{"loss", "lr"}`; ignite's process function.

    Given to MONAI's SupervisedTrainer as `iteration_update`, because its own step hard-codes CUDA autocast,
    has no place for gradient clipping and goes on after a loss that is not a number.

    Args:
        parts: what is trained.
        config: the whole configuration.
        clock: how far the training is.
        progress: how often the learning rate was lowered.
        cases_of: ids of the cases that a step (from 1) sees, for messages.
    """

    def __init__(
        self,
        parts: Parts,
        config: Config,
        clock: Clock,
        progress: Progress,
        cases_of: Callable[[int], Sequence[str]] = lambda _: (),
    ) -> None:
        self.parts = parts
        self.config = config
        self.clock = clock
        self.progress = progress
        self.cases_of = cases_of
        self.frozen = Frozen(parts.network, config)
        self._memory = channels_last(config.network.dims)
        self._forward = Forward(parts, config)

    def __call__(self, engine: Any, batch: Batch) -> dict[str, float]:
        """One step.

        Raises:
            TrainingError: loss or gradient are no numbers; no weight was changed.
        """
        parts, train, iteration = self.parts, self.config.train, int(engine.state.iteration)
        lr = learning_rate(
            train.schedule, train.optimizer.lr, self.clock.progress(iteration - 1), self.progress.lowered
        )
        parts.set_rate(lr)
        parts.network.train()
        if self.frozen.hold((iteration - 1) // train.iterations_per_epoch):
            self._forward.renew()
        parts.optimizer.zero_grad(set_to_none=True)
        losses = []
        for number, (part, share) in enumerate(_parts_of(batch, train.accumulate), start=1):
            with self._forward.exchange(now=number == train.accumulate):
                loss = self._loss(part) * share
                parts.scaler.scale(loss).backward()
            losses.append(loss.detach())
        value = self._apply(torch.stack(losses).sum(), iteration)
        if parts.average is not None:
            parts.average.update_parameters(parts.network)
        return {"loss": value, "lr": lr}

    def _loss(self, batch: Batch) -> Tensor:
        """Of one part of a batch, that of all processes, in the precision of the training."""
        parts = self.parts
        image = batch["image"].to(parts.device, non_blocking=True).contiguous(memory_format=self._memory)
        truth = truth_of(batch, parts.device)
        with torch.autocast(parts.device.type, parts.precision, enabled=parts.precision != torch.float32):
            output = self._forward(image)
        with across(parts.ranks.size):
            loss: Tensor = parts.loss(output, truth)
        return loss

    def _apply(self, loss: Tensor, iteration: int) -> float:
        """Clip the gradient and change the weights; gives the loss, for which the device is waited for only here."""
        parts, limit = self.parts, self.config.train.clip_norm
        parts.scaler.unscale_(parts.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parts.network.parameters(), math.inf if limit is None else limit)
        value, length = torch.stack([loss, norm.to(loss)]).tolist()
        # In fp16 the scaler leaves out steps with an infinite gradient and lowers its factor.
        if not math.isfinite(value) or not (parts.scaler.is_enabled() or math.isfinite(length)):
            what = f"loss became {value}" if not math.isfinite(value) else "gradient became infinite or NaN"
            cases = ", ".join(dict.fromkeys(self.cases_of(iteration)))
            where = f"in step {iteration}" + (f", with patches of {cases}" if cases else "")
            raise parts.ranks.alike(TrainingError(f"The {what} {where}.", REMEDY))
        parts.scaler.step(parts.optimizer)
        parts.scaler.update()
        return float(value)


def _parts_of(batch: Batch, number: int) -> Iterator[tuple[Batch, float]]:
    """A batch in `number` parts of nearly equal size, each with its share of the whole."""
    if number == 1:
        yield batch, 1.0
        return
    size = len(batch["image"])
    bounds = [size * index // number for index in range(number + 1)]
    for begin, end in itertools.pairwise(bounds):
        yield {key: value[begin:end] for key, value in batch.items()}, (end - begin) / size


def truth_of(batch: Batch, device: torch.device) -> Truth:
    """The right answer in a batch, on the device; what the config does not need is not there."""
    there = {key: batch[key].to(device, non_blocking=True) for key in ("label", "annotated", "weight") if key in batch}
    return Truth(there["label"], there.get("annotated"), there.get("weight"))
