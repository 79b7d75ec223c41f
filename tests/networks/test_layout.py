"""The order in memory has a name per rank."""

from __future__ import annotations

import pytest
import torch

from medunet.networks.layout import channels_last


@pytest.mark.parametrize("dims", [2, 3])
def test_the_channels_of_a_voxel_lie_side_by_side(dims: int) -> None:
    image = torch.zeros(2, 5, *(4, 6, 7)[:dims]).contiguous(memory_format=channels_last(dims))
    assert image.stride()[1] == 1
    assert image.stride()[-1] == 5
