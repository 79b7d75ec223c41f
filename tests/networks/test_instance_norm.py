"""Instance norm against torch's own, in both orders of memory, and against double precision on large maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medunet.networks.instance_norm import EPSILON, InstanceNorm
from medunet.networks.layout import channels_last


def image(*shape: int, mean: float = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(0)
    x = (3 * torch.randn(shape) + mean).to(dtype)
    return x.contiguous(memory_format=channels_last(len(shape) - 2)).requires_grad_()


def layer(channels: int) -> InstanceNorm:
    torch.manual_seed(1)
    result = InstanceNorm(channels)
    nn.init.normal_(result.weight)
    nn.init.normal_(result.bias)
    return result


def torchs(x: Tensor, norm: InstanceNorm) -> Tensor:
    return nn.functional.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=EPSILON)


def with_gradients(output: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    torch.manual_seed(2)
    return (output.detach(), *torch.autograd.grad(output, of, torch.randn(output.shape, dtype=output.dtype)))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(6, 5, 7), (1, 1, 2), (2, 1, 1), (9, 8), (1, 3), (70, 50, 20)])
def test_result_and_gradients_are_those_of_torch(size: tuple[int, ...], batch: int) -> None:
    x, norm = image(batch, 4, *size), layer(4)
    found, expected = (with_gradients(f(x), x, norm.weight, norm.bias) for f in (norm, lambda x: torchs(x, norm)))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(6, 5), (40, 30, 60)])
def test_gradients_are_those_of_the_formula(size: tuple[int, ...]) -> None:
    """The larger map is cut into slabs, in double precision as well."""
    x, norm = image(2, 2, *size, dtype=torch.float64), layer(2).double()
    mean, deviation = (f(x, dim=tuple(range(2, x.ndim)), keepdim=True) for f in (torch.mean, _deviation))
    shape = (1, 2, *[1] * len(size))
    formula = (x - mean) / deviation * norm.weight.view(shape) + norm.bias.view(shape)
    parameters = (x, norm.weight, norm.bias)
    for one, other in zip(with_gradients(norm(x), *parameters), with_gradients(formula, *parameters), strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def _deviation(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    return (torch.var(x, dim, correction=0, keepdim=keepdim) + EPSILON).sqrt()


@pytest.mark.parametrize("mean", [0, 30])
def test_a_large_map_is_normalised_to_float_error(mean: float) -> None:
    """Batch norm's kernel for channels last is off by 1e-3 here: it adds up a million numbers one after the other."""
    x, norm = image(1, 4, 96, 96, 96, mean=mean), layer(4)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), torchs(x.double(), norm.double()).float(), atol=2e-5, rtol=0)


def test_a_sample_has_the_same_bits_alone_and_in_a_batch() -> None:
    x, norm = image(3, 4, 6, 5, 7), layer(4)
    with torch.no_grad():
        assert torch.equal(norm(x), torch.cat([norm(sample) for sample in x.split(1)]))


@pytest.mark.parametrize("batch", [1, 3])
def test_the_order_of_memory_is_kept(batch: int) -> None:
    """torch's is not, so that the next convolution copies."""
    x = image(batch, 4, 6, 5, 7)
    output = layer(4)(x)
    (by_x,) = torch.autograd.grad(output.sum(), x)
    assert output.is_contiguous(memory_format=torch.channels_last_3d)
    assert by_x.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_off_by_its_own_rounding_only(dtype: torch.dtype) -> None:
    x, norm = image(2, 4, 40, 30, 50, dtype=dtype), layer(4)
    found = with_gradients(norm(x), x, norm.weight, norm.bias)
    exact = x.detach().double().requires_grad_()
    double = layer(4).double()
    torch.manual_seed(2)
    noise = torch.randn(x.shape, dtype=dtype).double()
    output = torchs(exact, double)
    expected = (output.detach(), *torch.autograd.grad(output, (exact, double.weight, double.bias), noise))
    assert found[0].dtype == found[1].dtype == dtype
    assert found[2].dtype == torch.float32
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).abs().max()) < 0.01 * float(other.abs().max())


def test_memory_in_torchs_order_is_left_in_it() -> None:
    x = torch.randn(2, 4, 6, 5, 7)
    assert layer(4)(x).is_contiguous()
