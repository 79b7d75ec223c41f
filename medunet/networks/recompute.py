"""Activation checkpointing: activations inside of a network's stages are computed again in the backward pass.

Only what goes into a stage is kept (Chen 2016, arXiv 1604.06174), so that a step needs less memory and about a third
more time. Weights, gradients and random numbers are those of a network without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from medunet.networks.contract import Network


def recompute_stages(network: Network) -> None:
    """Let every stage of a network forget its activations until the backward pass; names of weights stay.

    A copy of the network would share the stages of the original: copy first.

    Args:
        network: changed in place.
    """
    for stage in network.stages():
        if sum(1 for _ in stage.modules()) > 2:  # a single operation keeps no more than what goes in
            stage.forward = functools.partial(_recomputed, stage, stage.forward)


def _recomputed(stage: nn.Module, forward: Callable[..., Any], *args: Any) -> Any:
    if not (stage.training and torch.is_grad_enabled()):
        return forward(*args)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_stand_still(stage)

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_stand_still(stage: nn.Module) -> Iterator[None]:
    """Batch norms normalise as in training, but their running statistics, which saw the batch already, stay."""
    norms = [module for module in stage.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counters = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    counts = [counter.clone() for counter in counters]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for counter, count in zip(counters, counts, strict=True):
            counter.copy_(count)
