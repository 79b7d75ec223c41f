"""Instance normalisation that keeps the order of memory, and is exact in it.

torch's own copies a channels-last tensor, and what it gives is not channels last, so that the next convolution copies
it again. Batch norm of a single sample is the same formula and takes memory as it lies, but torch adds up a whole map
in float32, one number after the other: at 128 x 128 x 128 voxels its result is off by 3e-3 of a standard deviation. So
the sums of a map larger than a slab that stays in the processor's cache are taken slab by slab here and joined by the
formula of Chan, Golub and LeVeque (1979). That is exact to float error and reads memory once less (docs/benchmarks.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from medunet.networks.layout import channels_last, is_recorded

EPSILON = 1e-5
_SLAB = 1 << 17
"""Numbers of a slab: 512 kB in float32, read twice from the cache of a core."""

_gradients = torch.ops.aten.native_batch_norm_backward


class InstanceNorm(nn.Module):
    """Instance normalisation with affine parameters, named as torch's, so that weights are interchangeable.

    Beside a GPU, for memory that is not channels last, and where a network is exported or compiled, it is torch's own.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S), every sample and channel to mean 0 and deviation 1, then scaled and shifted."""
        if _lies_in_rows(x):
            if isinstance(x, FakeTensor):  # a forecast of the memory, which is that of batch norm
                return nn.functional.batch_norm(x, None, None, self.weight, self.bias, training=True)
            return _InRows.apply(x, self.weight, self.bias)  # type: ignore[no-any-return]
        return nn.functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=EPSILON)


def _lies_in_rows(x: Tensor) -> bool:
    """Channels last and nothing else, on a CPU, and run rather than recorded."""
    if x.device.type != "cpu" or is_recorded():
        return False
    return x.is_contiguous(memory_format=channels_last(x.ndim - 2)) and not x.is_contiguous()


class _InRows(torch.autograd.Function):
    """Instance norm of channels-last memory, seen as rows (B, voxels, C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        result = torch.empty_like(x)
        means, inverses = (weight.new_empty(len(x), x.shape[1]) for _ in range(2))
        normalise = _in_one if _is_small(x[0]) else _in_slabs
        for sample in zip(_rows(x), _rows(result), means, inverses, strict=True):
            normalise(weight, bias, *sample)
        ctx.save_for_backward(x, weight, means, inverses)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, means, inverses = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=channels_last(x.ndim - 2))
        result = torch.empty_like(x)
        samples = zip(_rows(x), _rows(gradient), _rows(result), means, inverses, strict=True)
        sums = [_of_sample(weight, *sample) for sample in samples]
        by_weight, by_bias = (torch.stack(each).sum(0) for each in zip(*sums, strict=True))
        return result, by_weight, by_bias


def _rows(x: Tensor) -> Tensor:
    """(B, C, *S), channels last, as (B, voxels, C) of the same memory."""
    return x.movedim(1, -1).flatten(1, -2)


def _is_small(sample: Tensor) -> bool:
    """Whether a sample is one slab, for which batch norm's kernels are exact enough."""
    return sample.numel() <= _SLAB


def _slabs(sample: Tensor) -> tuple[Tensor, ...]:
    return torch.split(sample, max(1, _SLAB // sample.shape[1]))


def _in_one(weight: Tensor, bias: Tensor, sample: Tensor, out: Tensor, mean: Tensor, inverse: Tensor) -> None:
    """Writes the normalised rows of a sample, their mean and inverse standard deviation (C,)."""
    torch.native_batch_norm(sample, weight, bias, None, None, True, 0.0, EPSILON, out=(out, mean, inverse))


def _in_slabs(weight: Tensor, bias: Tensor, sample: Tensor, out: Tensor, mean: Tensor, inverse: Tensor) -> None:
    """As `_in_one`, with sums slab by slab."""
    for target, found in zip((mean, inverse), _statistics(sample, weight), strict=True):
        target.copy_(found)
    if sample.dtype == weight.dtype:
        scale = inverse * weight
        torch.addcmul(bias - mean * scale, sample, scale, out=out)
    else:  # half precision, for which only batch norm has a kernel that needs no copy in float32
        variance = inverse**-2 - EPSILON
        out.copy_(torch.native_batch_norm(sample, weight, bias, mean, variance, False, 0.0, EPSILON)[0])


def _statistics(sample: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and inverse standard deviation (C,) of the rows of a sample, in the type of `like`."""
    slabs = _slabs(sample)
    running = (torch.zeros_like(like), torch.zeros_like(like))  # that sums of half precision come in single
    found = [torch.batch_norm_update_stats(slab, *running, 0.0) for slab in slabs]
    means, variances = (torch.stack(each).double() for each in zip(*found, strict=True))
    shares = torch.tensor([len(slab) for slab in slabs], dtype=torch.float64)[:, None] / len(sample)
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean) ** 2)).sum(0)
    return mean.to(like.dtype), (variance + EPSILON).rsqrt().to(like.dtype)


def _of_sample(
    weight: Tensor, x: Tensor, gradient: Tensor, out: Tensor, mean: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """Writes the gradient by the rows of one sample to `out`; returns those by weight and bias.

    By x it is weight * inverse * (g - mean of g - normalised x * mean of (g * normalised x)): a number for each
    channel times g, plus one times x, plus one.
    """
    known = (weight, None, None, mean, inverse, True, EPSILON)
    if x.dtype != weight.dtype or _is_small(x):
        by_x, by_weight, by_bias = _gradients(gradient, x, *known, (True, True, True))
        out.copy_(by_x)
        return by_weight, by_bias
    pairs = zip(_slabs(gradient), _slabs(x), strict=True)
    found = [_gradients(*pair, *known, (False, True, True))[1:] for pair in pairs]
    by_weight, by_bias = (torch.stack(each).sum(0) for each in zip(*found, strict=True))
    scale = weight * inverse
    slope = -scale * inverse * by_weight / len(x)
    shift = -scale * by_bias / len(x) - mean * slope
    for g, values, target in zip(*map(_slabs, (gradient, x, out)), strict=True):
        torch.addcmul(shift, values, slope, out=target).addcmul_(g, scale)
    return by_weight, by_bias
