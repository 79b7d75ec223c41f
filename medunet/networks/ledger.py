"""Counts operation by operation: the bytes that tensors hold, what a processor needs beside them, the arithmetic.

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
from torch.utils.flop_counter import flop_registry

from medunet.networks.layout import channels_last

HEAP_BLOCK = 32 * 2**20
"""Bytes from which the C library of Linux gives every tensor memory of its own; smaller ones share a heap."""
_FORWARD = torch.ops.aten.convolution.default
_BACKWARD = torch.ops.aten.convolution_backward.default
_PRODUCTS = frozenset({torch.ops.aten.addmm.default, torch.ops.aten.mm.default})
_POINTWISE = frozenset(
    getattr(torch.ops.aten, name).Tensor for name in ("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_")
)
_STRIDE, _TRANSPOSED = 3, 6
"""Positions among the arguments of a convolution."""
_GROUPS = 9
"""Position among the arguments of its backward step."""
_LANES = 16
"""Channels that oneDNN works on at once with AVX-512; half as many with AVX2, where the count is an upper bound."""
_SINGLE = 4
"""Bytes of a float32."""


class Ledger(TorchDispatchMode):
    """Bytes of all storages that are made while it is active, until they are freed.

    Operations that torch makes of others are seen only outside of inference mode; use `no_grad` instead.

    Args:
        processor: a CPU computes: count its working copies.
        block: bytes from which a tensor counts as one with memory of its own.

    Attributes:
        live: bytes held now.
        peak: the most that tensors and working copies (`workspace`) held at once.
        copies: bytes of the peak that are working copies.
        heap: bytes in tensors smaller than `block` held now.
        heap_peak: the most that was.
        flops: floating-point operations of convolutions and matrix products, a multiplication and an addition being
            two, by torch's formulas. Its own FlopCounterMode follows modules too, which keeps their tensors alive.
    """

    def __init__(self, *, processor: bool, block: float = HEAP_BLOCK) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.copies = 0
        self.heap = 0
        self.heap_peak = 0
        self.flops = 0
        self._processor = processor
        self._block = block
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not: torch would import its compiler, which takes a second, to hide this from it."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and enter what it made."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.flops += _flops(func, args, kwargs, result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf)
        copies = workspace(func, args, result) if self._processor else 0
        if self.live + copies > self.peak:
            self.peak, self.copies = self.live + copies, copies
        self.heap_peak = max(self.heap_peak, self.heap)
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
        self.heap += size if abs(size) < self._block else 0


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    if func is _BACKWARD:
        return _of_gradients(args)
    count = flop_registry.get(func.overloadpacket)
    return 0 if count is None else int(count(*args, **kwargs, out_val=result))


def _of_gradients(args: Any) -> int:
    """Operations of a convolution's gradients: each costs what the convolution does.

    torch's own count takes every group for a whole convolution.
    """
    gradient, x, weight = args[:3]
    transposed, wanted = args[7], args[10]
    places = math.prod((x if transposed else gradient).shape[2:]) * x.shape[0]
    return int(2 * places * weight.numel() * sum(map(bool, wanted[:2])))


def workspace(func: Any, args: Any, result: Any) -> int:
    """Bytes that an operation holds on a CPU only while it runs; 0 for those that hold nothing of note.

    Found operation by operation (docs/networks.md): oneDNN copies what is not channels last, and weights into blocks;
    half precision is added up in float32; operands of another type than the result are converted first.
    """
    if func is _FORWARD:
        return _of_convolution(args, result)
    if func is _BACKWARD:
        gradient, x, weight = args[:3]
        sums = _bytes(gradient) if x.dtype != torch.float32 else 0
        copied = sum(_bytes(tensor) for tensor in (gradient, x) if not _channels_last(tensor))
        return copied + _bytes(weight) + _in_blocks(weight, args[_GROUPS]) + sums
    if func in _PRODUCTS and result.dtype != torch.float32:
        return _SINGLE * int(result.numel())
    if func in _POINTWISE:
        return sum(_converted(operand, result) for operand in args[:2])
    return 0


def _in_blocks(weight: Tensor, groups: int) -> int:
    """Bytes of the weights of a convolution as its backward step holds them.

    In 3D every group is filled up to whole blocks of channels: 256 times the weights where each channel is a group.
    """
    if groups == 1 or weight.ndim < 5:
        return _bytes(weight)
    channels = (weight.shape[0] // groups, weight.shape[1])
    filled = math.prod(math.ceil(n / _LANES) * _LANES for n in channels)
    return int(groups * filled * math.prod(weight.shape[2:]) * _SINGLE)


def _of_convolution(args: Any, result: Tensor) -> int:
    x, weight = args[0], args[1]
    copied = 0 if _channels_last(x) and _channels_last(result) else _bytes(x)
    overlap = tuple(args[_STRIDE]) != tuple(weight.shape[2:]) or x.dtype != torch.float32
    return copied + _bytes(weight) + (_SINGLE * result.numel() if args[_TRANSPOSED] and overlap else 0)


def _converted(operand: Any, result: Tensor) -> int:
    other = isinstance(operand, Tensor) and operand.ndim > 0 and operand.dtype != result.dtype
    return int(operand.numel()) * result.element_size() if other else 0


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _channels_last(tensor: Tensor) -> bool:
    dims = tensor.ndim - 2
    return dims in {2, 3} and tensor.is_contiguous(memory_format=channels_last(dims))
