"""The moving parts of a training run, built from the config: network, loss, optimizer, moving average."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from medunet.config.derived import network_channels
from medunet.config.finding import in_brackets
from medunet.config.schema import Config
from medunet.engines.device import is_out_of_memory, place, resolve_precision
from medunet.errors import DeviceError, MedunetError, TrainingError
from medunet.labels import LabelMap
from medunet.losses.registry import build_loss
from medunet.networks.contract import Network
from medunet.networks.recompute import recompute_stages
from medunet.networks.registry import build_network
from medunet.networks.weights import differences, first_of
from medunet.training.optimizer import build_optimizer, load_optimizer, optimizer_state
from medunet.training.randomness import python_state, seed_python, set_python_state
from medunet.training.ranks import ALONE, Ranks
from medunet.training.rates import Pace, paces, paces_in_words
from medunet.training.torchrun import lost

logger = logging.getLogger("medunet")

REMEDY = (
    "The last good checkpoint is kept: go on with --resume and a lower train.optimizer.lr, with train.clip_norm set, "
    "or in train.precision fp32."
)


@dataclass(frozen=True)
class Parts:
    """What is trained and with what.

    Attributes:
        network: on `device`, channels last.
        loss: of the network's training output against a `Truth`.
        optimizer: over all parameters, with a group for each of `paces`.
        scaler: scales the loss in fp16, does nothing otherwise.
        average: moving average of the network's weights; None without.
        device, precision: where and in which arithmetic.
        ranks: the processes that train together.
        paces: which parameters learn at which rate.
    """

    network: Network
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    precision: torch.dtype
    average: AveragedModel | None = None
    ranks: Ranks = ALONE
    paces: tuple[Pace, ...] = ()

    @property
    def judged(self) -> Network:
        """The network that is validated and becomes the model: the moving average if there is one."""
        return self.network if self.average is None else cast("Network", self.average.module)

    def set_rate(self, rate: float) -> None:
        """Let all learn at `rate`, each group times its factor."""
        for group, pace in zip(self.optimizer.param_groups, self.paces, strict=True):
            group["lr"] = rate * pace.factor

    @property
    def rates(self) -> dict[str, float]:
        """The rates that are not that of the schedule, by pattern of the layers."""
        groups = zip(self.paces[1:], self.optimizer.param_groups[1:], strict=True)
        return {pace.layers: float(group["lr"]) for pace, group in groups}

    def state(self) -> dict[str, Any]:
        """Everything that changes while training, for a checkpoint; every process has to ask."""
        return {
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": optimizer_state(self.optimizer, self.network.parameters()),
            "scaler": self.scaler.state_dict(),
            **self._generators(),
            "others": self.ranks.each(self._generators)[1:],
        }

    def _generators(self) -> dict[str, Any]:
        """The random generators of this process."""
        return {
            "rng": torch.get_rng_state(),
            **python_state(),
            "device_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go back to `state()`, with the options of the optimizer that the config has now.

        An optimizer of another kind and a moving average that was not there before start anew (`--force`).

        Raises:
            TrainingError: it belongs to another network.
        """
        try:
            wrong = differences(state["network"], self.network)
            if not wrong:
                self.network.load_state_dict(state["network"])
                load_optimizer(self.optimizer, self.network.parameters(), state["optimizer"])
                if self.average is not None and state["average"] is not None:
                    self.average.load_state_dict(state["average"])
                else:
                    self.restart_average()
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
        self._load_generators([state, *state.get("others", [])])

    def _load_generators(self, states: Sequence[dict[str, Any]]) -> None:
        """Those of this process; where there were fewer processes before, it keeps its own."""
        if len(states) != self.ranks.size:
            logger.warning(
                "The checkpoint was written with another number of processes (%d, now %d): dropout will draw other "
                "numbers than without the break; nothing else changes.",
                len(states),
                self.ranks.size,
            )
        if self.ranks.rank >= len(states):
            return
        state = states[self.ranks.rank]
        torch.set_rng_state(state["rng"].cpu())
        set_python_state(state)
        if self.device.type == "cuda" and state["device_rng"] is not None:
            torch.cuda.set_rng_state(state["device_rng"].cpu(), self.device)

    def draw_apart(self, seed: int) -> None:
        """Seed this process anew if it is not the first one, or all would drop the same features out."""
        if not self.ranks.first:
            torch.manual_seed(seed + self.ranks.rank)
            seed_python(seed + self.ranks.rank)

    def align(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Let weights or buffers, by name, be what they are in the first process."""
        if tensors and self.ranks.size > 1:
            first = self.ranks.tell(lambda: {name: value.cpu() for name, value in tensors.items()})
            with torch.no_grad():
                for name, value in tensors.items():
                    value.copy_(first[name])

    def restart_average(self) -> None:
        """Begin the moving average anew, from the weights as they are."""
        if self.average is not None:
            self.average.module.load_state_dict(self.network.state_dict())

    def check_finite(self) -> None:
        """Make sure that every weight is a number, before they are saved.

        Raises:
            TrainingError: one is not.
        """
        for name, value in self.network.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise self.ranks.alike(TrainingError(f"The weights {name} became infinite or NaN.", REMEDY))


def build_parts(config: Config, device: torch.device, *, labels: LabelMap, ranks: Ranks = ALONE) -> Parts:
    """Build from a config; weights are drawn from torch's global generator.

    Args:
        config: the whole configuration.
        device: where to train.
        labels: names and indices.
        ranks: the processes that train together.
    """
    precision = resolve_precision(config.train.precision, device)
    network = build_network(config.network, network_channels(config.data.modality, config.preprocess), labels.outputs)
    network = place(_normed_together(network, device, ranks), config.network.dims, device)
    average = _average(network, config.train.ema)
    if config.train.activation_checkpointing:
        recompute_stages(network)
    groups = paces(network, config)
    if len(groups) > 1:
        logger.info("Layers that learn at another rate: %s.", paces_in_words(groups))
    return Parts(
        network=network,
        loss=build_loss(config.loss, labels, network.training_outputs).to(device),
        optimizer=build_optimizer(config.train.optimizer, groups),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == torch.float16),
        device=device,
        precision=precision,
        average=average,
        ranks=ranks,
        paces=groups,
    )


def _normed_together(network: Network, device: torch.device, ranks: Ranks) -> Network:
    """Let batch norms use the statistics of the whole batch, not of the part that one process has."""
    if ranks.size == 1 or not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return network
    if device.type == "cuda":
        return cast("Network", nn.SyncBatchNorm.convert_sync_batchnorm(network))
    logger.warning(
        "torch has no batch norm over several processes on a CPU: each normalises its own part of the batch, and the "
        "running statistics are those of the first process. An instance norm does not mind."
    )
    return network


def _average(network: Network, decay: float | None) -> AveragedModel | None:
    """Exponential moving average of weights and buffers, on the network's device."""
    if decay is None:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def explain(error: RuntimeError, config: Config, device: torch.device, processes: int = 1) -> MedunetError | None:
    """What torch's error means to a user; None if it is none of the known ones."""
    if is_out_of_memory(error):
        return out_of_memory(config, device, processes)
    return lost(error)


def out_of_memory(config: Config, device: torch.device, processes: int = 1) -> DeviceError:
    """What to say when training does not fit; `processes` share a batch."""
    train = config.train
    own = train.batch_size // processes
    advice = []
    if train.accumulate < own:
        parts = min(own, 2 * train.accumulate)
        advice.append(f"--set train.accumulate={parts} (the batch in {parts} parts, one after the other)")
    if not train.activation_checkpointing:
        advice.append("--set train.activation_checkpointing=true (slower)")
    if own > 1:
        advice.append(f"--set train.batch_size={own // 2 * processes}")
    smaller = config.network.nearest_patch(tuple(n * 4 // 5 for n in train.patch_size), own)
    if math.prod(smaller) < math.prod(train.patch_size):
        advice.append(f"--set train.patch_size='{in_brackets(smaller)}'")
    advice.append("a smaller network")
    return DeviceError(
        f"{device} ran out of memory with train.batch_size {train.batch_size}, train.accumulate {train.accumulate} "
        f"and train.patch_size {list(train.patch_size)}.",
        f"Try {'; or '.join(advice)}.",
    )
