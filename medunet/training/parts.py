"""The moving parts of a training run, built from the config: network, loss, optimizer, and one step of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medunet.config.schema import Config, OptimizerConfig
from medunet.engines.device import is_out_of_memory, place, resolve_precision
from medunet.errors import DeviceError, MedunetError, TrainingError
from medunet.labels import LabelMap
from medunet.losses.registry import build_loss
from medunet.losses.truth import Truth
from medunet.networks.contract import Network
from medunet.networks.layout import channels_last
from medunet.networks.registry import build_network
from medunet.networks.weights import differences, first_of
from medunet.training.schedule import Clock, learning_rate
from medunet.training.transfer import hold_encoder

_REMEDY = (
    "The last good checkpoint is kept: go on with --resume and a lower train.optimizer.lr, with train.clip_norm set, "
    "or in train.precision fp32."
)


@dataclass(frozen=True)
class Parts:
    """What is trained and with what.

    Attributes:
        network: on `device`, channels last.
        loss: of the network's training output against a `Truth`.
        optimizer: over all parameters.
        scaler: scales the loss in fp16, does nothing otherwise.
        device, precision: where and in which arithmetic.
    """

    network: Network
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    precision: torch.dtype

    def state(self) -> dict[str, Any]:
        """Everything that changes while training, for a checkpoint."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go back to `state()`.

        Raises:
            TrainingError: it belongs to another network or optimizer.
        """
        try:
            wrong = differences(state["network"], self.network)
            if not wrong:
                self.network.load_state_dict(state["network"])
                self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise TrainingError(
                "The checkpoint does not fit the network or optimizer of the config.",
                "Resume with the config in the run folder.",
            ) from error
        if wrong:
            raise TrainingError(
                f"The checkpoint does not fit the network of the config: {first_of(wrong)}.",
                "Resume with the config in the run folder.",
            )
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"].cpu())
        if self.device.type == "cuda" and state["device_rng"] is not None:
            torch.cuda.set_rng_state(state["device_rng"].cpu(), self.device)

    def check_finite(self) -> None:
        """Make sure that every weight is a number, before they are saved.

        Raises:
            TrainingError: one is not.
        """
        for name, value in self.network.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise TrainingError(f"The weights {name} became infinite or NaN.", _REMEDY)


def build_parts(config: Config, device: torch.device, *, labels: LabelMap) -> Parts:
    """Build from a config; weights are drawn from torch's global generator.

    Args:
        config: the whole configuration.
        device: where to train.
        labels: names and indices.
    """
    precision = resolve_precision(config.train.precision, device)
    network = build_network(config.network, len(config.data.modality), labels.outputs)
    network = place(network, config.network.dims, device)
    return Parts(
        network=network,
        loss=build_loss(config.loss, labels, network.training_outputs).to(device),
        optimizer=_optimizer(config.train.optimizer, network),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == torch.float16),
        device=device,
        precision=precision,
    )


def _optimizer(config: OptimizerConfig, network: nn.Module) -> torch.optim.Optimizer:
    if config.name == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov and config.momentum > 0,
            weight_decay=config.weight_decay,
        )
    return torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)


def make_update(parts: Parts, config: Config, clock: Clock) -> Callable[[Any, dict[str, Tensor]], dict[str, float]]:
    """One training step as ignite's process function: `update(engine, batch)` gives `{"loss", "lr"}`.

    Given to MONAI's SupervisedTrainer as `iteration_update`, because its own step hard-codes CUDA autocast,
    has no place for gradient clipping and goes on after a loss that is not a number.
    """
    memory = channels_last(config.network.dims)
    base, schedule = config.train.optimizer.lr, config.train.schedule

    def update(engine: Any, batch: dict[str, Tensor]) -> dict[str, float]:
        lr = learning_rate(schedule, base, clock.progress(engine.state.iteration - 1))
        for group in parts.optimizer.param_groups:
            group["lr"] = lr
        image = batch["image"].to(parts.device, non_blocking=True).contiguous(memory_format=memory)
        truth = _truth(batch, parts.device)
        parts.network.train()
        hold_encoder(parts.network, config, engine.state.iteration)
        parts.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(parts.device.type, parts.precision, enabled=parts.precision != torch.float32):
            output = parts.network(image)
        loss = parts.loss(output, truth)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"The loss became {value} in step {engine.state.iteration} (learning rate {lr:.2e}).",
                _REMEDY,
            )
        _apply_gradient(parts, loss, config.train.clip_norm)
        return {"loss": value, "lr": lr}

    return update


def _truth(batch: dict[str, Tensor], device: torch.device) -> Truth:
    """The right answer in a batch, on the device; what the config does not need is not there."""
    there = {key: batch[key].to(device, non_blocking=True) for key in ("label", "annotated", "weight") if key in batch}
    return Truth(there["label"], there.get("annotated"), there.get("weight"))


def _apply_gradient(parts: Parts, loss: Tensor, clip_norm: float | None) -> None:
    parts.scaler.scale(loss).backward()
    parts.scaler.unscale_(parts.optimizer)
    limit = math.inf if clip_norm is None else clip_norm
    norm = torch.nn.utils.clip_grad_norm_(parts.network.parameters(), limit)
    # In fp16 the scaler leaves out steps with an infinite gradient and lowers its factor.
    if not parts.scaler.is_enabled() and not bool(torch.isfinite(norm)):
        raise TrainingError("The gradient became infinite or NaN.", _REMEDY)
    parts.scaler.step(parts.optimizer)
    parts.scaler.update()


def explain(error: RuntimeError, config: Config, device: torch.device) -> MedunetError | None:
    """What torch's error means to a user; None if it is none of the known ones.

    torch has no class of its own for a worker process that was killed.
    """
    if "DataLoader worker" in str(error):
        return TrainingError(
            "A process that prepares patches was killed, most likely for lack of memory or shared memory (/dev/shm).",
            "Go on with --resume --set train.workers=0, or give a container more with --shm-size.",
        )
    if is_out_of_memory(error):
        return out_of_memory(config, device)
    return None


def out_of_memory(config: Config, device: torch.device) -> DeviceError:
    """What to say when training does not fit."""
    smaller = max(1, config.train.batch_size // 2)
    return DeviceError(
        f"{device} ran out of memory with train.batch_size {config.train.batch_size} and train.patch_size "
        f"{list(config.train.patch_size)}.",
        f"Try --set train.batch_size={smaller}, a smaller patch, or a smaller network.",
    )
