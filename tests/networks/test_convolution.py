"""A single small image is convolved as it would be in a batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medunet.networks.convolution import Conv2d, Conv3d
from medunet.networks.layout import channels_last

PAIRS = {2: (Conv2d, nn.Conv2d), 3: (Conv3d, nn.Conv3d)}
EVERY_RANK = pytest.mark.parametrize("dims", [2, 3])


def pair(dims: int, **options: object) -> tuple[nn.Module, nn.Module]:
    """Ours and torch's, with the same weights."""
    ours, torchs = PAIRS[dims]
    torch.manual_seed(0)
    reference = torchs(4, 6, 3, padding=1, **options)  # type: ignore[arg-type]
    layer = ours(4, 6, 3, padding=1, **options)  # type: ignore[arg-type]
    layer.load_state_dict(reference.state_dict())
    return layer, reference


def image(dims: int, batch: int = 1) -> Tensor:
    x = torch.randn(batch, 4, *(9, 8, 10)[:dims], generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=channels_last(dims)).requires_grad_()


@EVERY_RANK
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"bias": False}, {"dilation": 2}, {"padding_mode": "circular"}])
def test_result_and_gradients_are_those_of_torch(dims: int, options: dict[str, object]) -> None:
    layer, reference = pair(dims, **options)
    x = image(dims)
    found, expected = layer(x), reference(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    by_ours = torch.autograd.grad(found.square().sum(), (x, *layer.parameters()))
    by_torchs = torch.autograd.grad(expected.square().sum(), (x, *reference.parameters()))
    for one, other in zip(by_ours, by_torchs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


@EVERY_RANK
def test_an_image_has_the_same_bits_alone_and_in_a_batch(dims: int) -> None:
    layer, _ = pair(dims)
    batch = image(dims, 2)
    assert torch.equal(layer(batch)[:1], layer(batch[:1]))


@EVERY_RANK
def test_the_order_of_memory_is_kept(dims: int) -> None:
    layer, _ = pair(dims)
    layer.to(memory_format=channels_last(dims))  # type: ignore[call-overload]
    assert layer(image(dims)).is_contiguous(memory_format=channels_last(dims))


@EVERY_RANK
def test_what_is_traced_or_half_precision_is_torchs(dims: int) -> None:
    layer, reference = pair(dims)
    traced = torch.jit.trace(layer, image(dims))
    assert "mkldnn" not in str(traced.graph)
    torch.testing.assert_close(traced(image(dims)), reference(image(dims)), atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(image(dims)).dtype == torch.bfloat16
