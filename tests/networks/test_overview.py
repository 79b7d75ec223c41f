"""One line per network: what it costs, or that nobody knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from medunet.config.networks import UNet2015Config, UNetConfig
from medunet.networks import overview
from medunet.networks.contract import Network
from medunet.networks.overview import usual_patch
from medunet.networks.registry import NETWORKS, Row


class Flat(UNetConfig):
    """Comes in 2D only."""

    name: str = "unet"  # type: ignore[assignment]
    dims: Literal[2] = 2  # type: ignore[assignment]
    channels: tuple[int, ...] = (4, 8)


class Curious(torch.nn.Module):
    """Looks at a value, which a tensor without memory has not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


def curious(config: Any, in_channels: int, out_channels: int) -> Network:
    network = NETWORKS["unet"].build(config, in_channels, out_channels)
    network.stem = Curious()
    return network


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, Row]:
    """The table of the overview, to be filled."""
    rows: dict[str, Row] = {}
    monkeypatch.setattr(overview, "NETWORKS", rows)
    monkeypatch.setattr("medunet.networks.forecast.NETWORKS", rows)
    return rows


def test_ranks_are_those_that_the_options_allow(table: dict[str, Row]) -> None:
    table["unet"] = replace(NETWORKS["unet"], options=Flat)
    (row,) = overview.overview()
    assert row.ranks == (2,)
    assert row.stride == (2, 2)
    assert {"unet": NETWORKS["unet"].options.model_fields["dims"].annotation} == {"unet": Literal[2, 3]}


def test_a_network_that_looks_at_values_has_no_costs_and_the_others_have(table: dict[str, Row]) -> None:
    table["curious"] = Row(Flat, curious, "nobody")
    table["unet"] = replace(NETWORKS["unet"], options=Flat)
    unknown, known = overview.overview()
    costs = ("parameters", "forward_flops", "training_bytes", "inference_bytes")
    assert [getattr(unknown, name) for name in costs] == [None] * 4
    assert all(getattr(known, name) > 0 for name in costs)
    assert (unknown.source, unknown.stride, unknown.patch) == ("nobody", (2, 2), (64, 64))


def test_the_usual_patch_tiles_an_image() -> None:
    assert usual_patch(UNetConfig(), (60, 64, 65)) == (64, 64, 80)
    assert usual_patch(UNet2015Config(name="unet2015"), (64, 64, 64)) == (100, 100, 100)
    assert usual_patch(UNet2015Config(name="unet2015", dims=2), (512, 572)) == (524, 572)
