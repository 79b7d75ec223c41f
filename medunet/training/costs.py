"""What a training will cost, told from its configuration before anything is allocated."""

from __future__ import annotations

import torch

from medunet.config.derived import network_channels
from medunet.config.schema import Config
from medunet.config.training import NovoGradConfig, SgdConfig, TrainConfig
from medunet.engines.device import resolve_precision
from medunet.labels import LabelMap
from medunet.networks.forecast import Forecast, Work, forecast

_LARGE = 1000
"""Mebibytes from which on gibibytes are told."""


def training_forecast(config: Config, device: torch.device) -> Forecast:
    """Costs of one training step, as `networks.forecast` tells them; takes a second or a few and no memory.

    Args:
        config: from `load_config`. Whatever its loss, that of dice and cross-entropy is counted.
        device: where to train.
    """
    train = config.train
    work = Work(
        size=train.patch_size,
        batch=-(-train.batch_size // train.accumulate),
        training=True,
        precision=resolve_precision(train.precision, device),
        states=_states(train),
        device=device.type,
        recompute=train.activation_checkpointing,
    )
    outputs = LabelMap.from_mapping(config.labels).outputs
    return forecast(config.network, network_channels(config.data.modality, config.preprocess), outputs, work)


def _states(train: TrainConfig) -> int:
    """Numbers that are kept per parameter between the steps."""
    optimizer = train.optimizer
    if isinstance(optimizer, SgdConfig):
        own = int(optimizer.momentum > 0)
    else:
        own = 1 if isinstance(optimizer, NovoGradConfig) else 2  # NovoGrad's second moment is one number per layer
    return own + (train.ema is not None)


def costs_in_words(config: Config, device: torch.device) -> str:
    """One sentence for the log; says so where the network cannot be run without values.

    Away from a CPU the tensors alone are counted, and in the types that they have on a CPU: that is the least it takes.
    """
    try:
        cost = training_forecast(config, device)
    except RuntimeError:  # torch's for operations whose outcome depends on values
        return "What a step will take cannot be told for this network."
    mebibytes = cost.total_bytes / 2**20
    memory = f"{mebibytes:.0f} MiB" if mebibytes < _LARGE else f"{mebibytes / 2**10:.1f} GiB"
    how = "about" if device.type == "cpu" else "at least"
    return f"{cost.parameters:,} parameters; a step will take {how} {memory} of memory."
