"""Counts the bytes that tensors hold, and what a processor needs beside them, operation by operation.

Works on tensors without memory (torch's FakeTensorMode) as on real ones. Knows nothing of networks.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HEAP_BLOCK = 32 * 2**20
"""Bytes from which the C library of Linux gives every tensor memory of its own; smaller ones share a heap."""
HEAP_GAPS = 0.35
"""Part of the heap that lies idle between tensors; fitted (docs/networks.md)."""
LIBRARY_BYTES = 25 * 2**20
"""Machine code and buffers that oneDNN makes for each new shape; fitted (docs/networks.md)."""

_FORWARD = torch.ops.aten.convolution.default
_BACKWARD = torch.ops.aten.convolution_backward.default
_STRIDE, _TRANSPOSED = 3, 6
"""Positions among the arguments of a convolution."""
_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Ledger(TorchDispatchMode):
    """Bytes of all storages that are made while it is active, until they are freed.

    Operations that torch makes of others are seen only outside of inference mode; use `no_grad` instead.

    Args:
        processor: the tensors lie in a computer's own memory and oneDNN computes: count what comes on top.

    Attributes:
        live: bytes held now.
        peak: the most that tensors and working copies (`workspace`) held at once.
        copies: bytes of the peak that are working copies.
        heap_peak: the most that blocks smaller than `HEAP_BLOCK` held at once.
    """

    def __init__(self, *, processor: bool) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.copies = 0
        self.heap_peak = 0
        self._heap = 0
        self._processor = processor
        self._known: set[int] = set()

    @property
    def beside(self) -> int:
        """Bytes on top of the tensors at the peak: working copies, libraries, gaps in the heap."""
        if not self._processor:
            return 0
        return self.copies + LIBRARY_BYTES + int(HEAP_GAPS * self.heap_peak)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and enter what it made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf)
        copies = workspace(func, args, result) if self._processor else 0
        if self.live + copies > self.peak:
            self.peak, self.copies = self.live + copies, copies
        self.heap_peak = max(self.heap_peak, self._heap)
        return result

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()  # the storage's address: views share it
        if key not in self._known:
            self._known.add(key)
            self._count(size)
            weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._count(-size)

    def _count(self, size: int) -> None:
        self.live += size
        self._heap += size if abs(size) < HEAP_BLOCK else 0


def workspace(func: Any, args: Any, result: Any) -> int:
    """Bytes that oneDNN, which computes convolutions on a CPU, holds while it does; 0 for other operations.

    It copies what is not channels last, and weights into blocks. In half precision transposed convolutions and
    gradients, and transposed convolutions whose steps overlap in any, are added up in float32. Found operation by
    operation (docs/networks.md).
    """
    if func is _FORWARD:
        x, weight = args[0], args[1]
        overlap = tuple(args[_STRIDE]) != tuple(weight.shape[2:]) or x.dtype != torch.float32
        sums = 4 * result.numel() if args[_TRANSPOSED] and overlap else 0
        return (0 if _channels_last(x) and _channels_last(result) else _bytes(x)) + _bytes(weight) + sums
    if func is _BACKWARD:
        gradient, x, weight = args[:3]
        sums = _bytes(gradient) if x.dtype != torch.float32 else 0
        return sum(_bytes(tensor) for tensor in (gradient, x) if not _channels_last(tensor)) + 2 * _bytes(weight) + sums
    return 0


def _bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * tensor.element_size()


def _channels_last(tensor: Tensor) -> bool:
    layout = _LAYOUTS.get(tensor.ndim)
    return layout is not None and tensor.is_contiguous(memory_format=layout)
