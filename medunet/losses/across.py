"""Sums over the batches of several processes, so that a loss is that of the whole batch in each of them.

Every loss here is a function L of sums over voxels or cases, and a process has a part of them: S = S_1 + ... + S_R.
While `across(R)` lasts, `total` gives S, so that all processes get the same L. Each knows only its own S_r as a
function of the weights w. DistributedDataParallel gives the mean of their gradients; what is wanted is

    dL/dw = dL/dS (dS_1/dw + ... + dS_R/dw) = mean over r of (R dL/dS dS_r/dw),

so that the gradient of `total` is R times the identity, without any communication. On its way from the logits to the
loss a value goes through `total` once: sums of sums would count R twice.

Outside of `across`, as in any training with one process, nothing is computed at all. Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_PROCESSES: ContextVar[int] = ContextVar("_PROCESSES", default=1)


@contextmanager
def across(processes: int) -> Iterator[None]:
    """Let sums be those of all processes of torch's default group, which has to be on. Each has to do the same.

    Args:
        processes: their number; 1: as without.
    """
    token = _PROCESSES.set(processes)
    try:
        yield
    finally:
        _PROCESSES.reset(token)


def processes() -> int:
    """How many processes share the batch; 1 outside of `across`."""
    return _PROCESSES.get()


def total(values: Tensor) -> Tensor:
    """Sum over the processes, element by element; `values` themselves if there is one."""
    number = processes()
    if number == 1:
        return values
    result: Tensor = _Total.apply(values, number)
    return result


def totals(*values: Tensor) -> tuple[Tensor, ...]:
    """`total` of several tensors of one shape and type, by one message."""
    if processes() == 1:
        return values
    return total(torch.stack(values)).unbind()


def gathered(values: Tensor) -> tuple[Tensor, int]:
    """(R, *shape), the values of all processes, and which row is one's own. No gradient goes through.

    Args:
        values: of the same shape everywhere.
    """
    if processes() == 1:
        return values.detach()[None], 0
    rows = [torch.empty_like(values) for _ in range(processes())]
    torch.distributed.all_gather(rows, values.detach().contiguous())
    return torch.stack(rows), torch.distributed.get_rank()


class _Total(torch.autograd.Function):
    """See `total`, and the module for its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, number: int) -> Tensor:
        ctx.number = number
        result = values.detach().clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.number, None
