"""What operations hold beside their tensors."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from medunet.networks.ledger import Ledger


def copies_of_a_step(groups: int, dims: int) -> int:
    """Bytes that a convolution of 32 channels with kernels of 5 holds beside its tensors, forward and backward."""
    convolve = torch.nn.functional.conv3d if dims == 3 else torch.nn.functional.conv2d
    layout = torch.channels_last_3d if dims == 3 else torch.channels_last
    with FakeTensorMode(), Ledger(processor=True) as ledger:
        weight = torch.empty(32, 32 // groups, *(5,) * dims, requires_grad=True)
        image = torch.empty(1, 32, *(4,) * dims).contiguous(memory_format=layout).requires_grad_()
        convolve(image, weight, padding=2, groups=groups).sum().backward()
    return ledger.copies


@pytest.mark.parametrize(("groups", "blocks"), [(1, 1), (2, 1), (32, 256)])
def test_weights_of_3d_groups_are_held_in_whole_blocks_of_channels(groups: int, blocks: int) -> None:
    weight = 32 * (32 // groups) * 5**3 * 4
    assert copies_of_a_step(groups, 3) == pytest.approx((1 + blocks) * weight, rel=0.1)


def test_in_2d_depth_wise_weights_are_held_as_they_are() -> None:
    assert copies_of_a_step(32, 2) < 4 * 32 * 5**2 * 4 + 2 * 32 * 4**2 * 4
