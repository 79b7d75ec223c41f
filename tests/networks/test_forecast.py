"""The forecast tells what real tensors hold, what a step computes and what a process takes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from medunet.config.networks import UNet2015Config, UNetConfig
from medunet.engines.device import place
from medunet.errors import DataError
from medunet.networks import forecast as module
from medunet.networks.contract import parameter_count
from medunet.networks.forecast import Work, forecast
from medunet.networks.layout import channels_last
from medunet.networks.ledger import HEAP_BLOCK, Ledger
from medunet.networks.overview import usual_patch
from medunet.networks.registry import NETWORKS, build_network

MEASURE = Path(__file__).resolve().parents[1] / "benchmarks" / "memory_of.py"
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"channels": (4, 8, 12)},
    "unet2015": {"channels": (4, 8)},
    "attention_unet": {"channels": (4, 8, 12)},
    "residual_unet": {"channels": (4, 8, 12)},
    "unetpp": {"channels": (4, 4, 8, 8, 12)},
    "segresnet": {"filters": 8, "blocks": (1, 2)},
    "dynunet": {"channels": (4, 8, 12)},
    "swin_unetr": {"feature_size": 12},
}
"""Options that make a network small; the others are used as they are."""


def small(name: str, dims: int = 2) -> Any:
    return NETWORKS[name].options(name=name, dims=dims, **SMALL.get(name, {}))


def patch_of(options: Any) -> tuple[int, ...]:
    return usual_patch(options, (32,) * options.dims)


def real_peak(options: Any, work: Work) -> int:
    """Bytes that tensors hold at most in the same work, done with real ones."""
    with Ledger(processor=False) as ledger:
        network = place(build_network(options, 1, 3), options.dims, torch.device("cpu"))
        image = torch.rand(work.batch, 1, *work.size).contiguous(memory_format=channels_last(options.dims))
        ledger.peak = ledger.live
        (module._train if work.training else module._infer)(network, image, work)
    return ledger.peak


@pytest.mark.parametrize(
    ("name", "training"), [*((name, False) for name in NETWORKS), ("unet", True), ("unet2015", True), ("dynunet", True)]
)
def test_tensors_without_memory_add_up_to_what_real_ones_hold(name, training):
    options = small(name)
    work = Work(size=patch_of(options), batch=2, training=training, device="cuda")
    assert forecast(options, 1, 3, work).tensor_bytes == pytest.approx(real_peak(options, work), rel=0.01)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_same_in_half_precision(dims):
    options = small("unet", dims)
    work = Work(size=(16,) * dims, batch=2, training=True, precision=torch.bfloat16, device="cuda")
    assert forecast(options, 1, 3, work).tensor_bytes == pytest.approx(real_peak(options, work), rel=0.01)


@pytest.mark.parametrize("name", ["unet", "efficient_unet"])
def test_parameters_are_those_of_the_real_network(name):
    options = small(name)
    counted = parameter_count(build_network(options, 2, 3))
    assert forecast(options, 2, 3, Work(size=patch_of(options))).parameters == counted


def test_the_network_of_2015_has_the_parameters_of_the_paper():
    work = Work(size=(572, 572))
    assert forecast(UNet2015Config(name="unet2015", dims=2), 1, 2, work).parameters == 31_030_658


def convolution_flops(options: Any, size: tuple[int, ...]) -> tuple[int, int]:
    """Two operations per weight and place, from a real forward pass: of all convolutions, and of the first."""
    found: list[int] = []

    def count(layer: nn.Module, inputs: Any, output: Any) -> None:
        places = (inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output).shape
        found.append(2 * places[0] * math.prod(places[2:]) * layer.weight.numel())

    network = build_network(options, 1, 3).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network(torch.rand(1, 1, *size))
    return sum(found), found[0]


@pytest.mark.parametrize("name", ["unet", "efficient_unet"])
def test_operations_are_those_of_the_convolutions(name):
    """Backward costs twice as much as forward, but for the gradient of the image; grouped convolutions included."""
    options = small(name) if name != "unet" else small(name).model_copy(update={"deep_supervision": False})
    size = (64, 64)  # more than one voxel at the deepest level: nothing is padded
    forward, first = convolution_flops(options, size)
    assert forecast(options, 1, 3, Work(size=size)).flops == pytest.approx(forward, rel=1e-6)
    trained = forecast(options, 1, 3, Work(size=size, training=True))
    assert trained.flops == pytest.approx(3 * forward - first, rel=1e-6)


def test_a_network_that_no_computer_holds_is_told_without_memory():
    before = psutil.Process().memory_info().rss
    found = forecast(UNetConfig(), 1, 3, Work(size=(2048, 2048, 2048), batch=2, training=True))
    assert found.total_bytes > 2**44
    assert psutil.Process().memory_info().rss - before < 2**28


def test_random_numbers_stay_as_they_are():
    before = torch.get_rng_state()
    forecast(small("unet"), 1, 3, Work(size=(16, 16), training=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_optimizer_adds_its_numbers_per_parameter():
    costs = {
        states: forecast(small("unet"), 1, 3, Work(size=(32, 32), training=True, states=states)) for states in range(3)
    }
    state = 4 * costs[0].parameters
    assert costs[1].tensor_bytes - costs[0].tensor_bytes == state
    assert costs[2].tensor_bytes - costs[1].tensor_bytes == state


def test_half_precision_needs_less_and_training_more():
    def total(**changes: Any) -> int:
        return forecast(small("unet"), 1, 3, Work(**{"size": (64, 64), "batch": 2, **changes})).total_bytes

    assert total(precision=torch.bfloat16, training=True) < total(training=True)
    assert total() < total(training=True) < total(training=True, batch=4)


def test_only_a_cpu_has_bytes_beside_the_tensors():
    cpu, cuda = (forecast(small("unet"), 1, 3, Work(size=(32, 32), device=device)) for device in ("cpu", "cuda"))
    assert cpu.beside_bytes > 0
    assert (cuda.beside_bytes, cuda.total_bytes) == (0, cuda.tensor_bytes)


def test_a_size_off_the_grid_costs_what_the_next_one_does():
    assert forecast(small("unet"), 1, 3, Work(size=(29, 32))) == forecast(small("unet"), 1, 3, Work(size=(32, 32)))


def test_a_size_of_another_rank_is_refused():
    with pytest.raises(DataError, match=r"takes sizes of 2 numbers, but got \(32, 32, 32\)"):
        forecast(small("unet"), 1, 3, Work(size=(32, 32, 32)))


def test_views_are_counted_once_and_freed_memory_no_more():
    with Ledger(processor=False) as ledger:
        kept = torch.empty(1000)
        view = kept[10:].view(9, 110)
        assert ledger.live == 4000
        del kept
        assert ledger.live == 4000
        del view
        torch.empty(500)
    assert (ledger.live, ledger.peak) == (0, 4000)


def test_large_blocks_leave_no_gaps():
    with Ledger(processor=True) as ledger:
        torch.empty(HEAP_BLOCK, dtype=torch.uint8)
        assert ledger.heap_peak == 0
        torch.empty(HEAP_BLOCK - 1, dtype=torch.uint8)
    assert ledger.heap_peak == HEAP_BLOCK - 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="how memory is counted and given is that of Linux")
def test_the_forecast_is_within_a_quarter_of_the_measured():
    """One small case; tests/benchmarks/test_forecast.py has all networks."""
    options = {"name": "unet", "channels": [16, 32, 64]}
    case = {"network": options, "size": [48] * 3, "batch": 2, "training": True, "precision": "fp32", "optimizer": "sgd"}
    done = subprocess.run([sys.executable, MEASURE, json.dumps(case)], capture_output=True, text=True, check=True)
    work = Work(size=(48,) * 3, batch=2, training=True)
    ratio = forecast(UNetConfig(channels=(16, 32, 64)), 1, 3, work).total_bytes / json.loads(done.stdout)["bytes"]
    assert 0.75 < ratio < 1.25
