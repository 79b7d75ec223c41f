"""Layers that learn at another rate: the steps that they make, with every optimizer and schedule, after a thaw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medunet.errors import UsageError
from medunet.labels import LabelMap
from medunet.networks.registry import build_network
from medunet.training.parts import Parts, build_parts
from medunet.training.progress import Progress
from medunet.training.rates import check_rates, paces, paces_in_words
from medunet.training.run import train
from medunet.training.schedule import Clock
from medunet.training.step import Stepper

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "network": {"name": "unet", "dims": 2, "channels": [4, 8], "deep_supervision": False},
    "train.patch_size": [32, 32],
    "train.epochs": 3,
    "train.iterations_per_epoch": 2,
    "train.precision": "fp32",
}
ENCODER = [{"layers": "encoder*", "factor": 0.1}]
OPTIMIZERS = ["sgd", "adam", "adamw", "novograd"]
SCHEDULES: list[dict[str, Any]] = [
    {"name": "poly"},
    {"name": "cosine", "warmup": 0.5},
    {"name": "constant"},
    {"name": "one_cycle"},
    {"name": "plateau"},
]

Update = Callable[[int], dict[str, float]]
Made = Callable[[dict[str, Any]], tuple[Parts, Update]]


@pytest.fixture
def made(make_config: Callable[..., Any]) -> Made:
    def make(changes: dict[str, Any]) -> tuple[Parts, Update]:
        config = make_config(Path("unused"), {**SMALL, **changes})
        torch.manual_seed(0)
        parts = build_parts(config, CPU, labels=LabelMap.from_mapping(config.labels))
        update = Stepper(parts, config, Clock(config.train), Progress())

        def step(iteration: int) -> dict[str, float]:
            image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(iteration))
            batch: Any = {"image": image, "label": (image > 0.5).long() + (image > 1.2).long()}
            return update(SimpleNamespace(state=SimpleNamespace(iteration=iteration)), batch)

        return parts, step

    return make


def values(parts: Parts) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in parts.network.named_parameters()}


def moves(parts: Parts, before: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value - before[name] for name, value in values(parts).items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_first_step_of_slow_layers_is_that_much_shorter(made: Made, optimizer: str) -> None:
    """Each optimizer's step is proportional to the rate."""
    changes = {"train.optimizer": {"name": optimizer, "lr": 0.01, "weight_decay": 0.0}}
    steps = []
    for rates in ([], ENCODER):
        parts, step = made({**changes, "train.rates": rates})
        before = values(parts)
        step(1)
        steps.append(moves(parts, before))
    plain, slow = steps
    assert any(move.any() for name, move in plain.items() if name.startswith("encoder"))
    for name, move in plain.items():
        factor = 0.1 if name.startswith("encoder") else 1.0
        torch.testing.assert_close(slow[name], factor * move, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=[schedule["name"] for schedule in SCHEDULES])
def test_slow_layers_follow_every_schedule(made: Made, schedule: dict[str, Any]) -> None:
    parts, step = made({"train.schedule": schedule, "train.rates": ENCODER})
    for iteration in (1, 2, 5):
        rate = step(iteration)["lr"]
        assert [group["lr"] for group in parts.optimizer.param_groups] == [rate, pytest.approx(rate * 0.1)]
        assert parts.rates == {"encoder*": pytest.approx(rate * 0.1)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_layers_stand_still_and_then_learn_slowly(made: Made, optimizer: str) -> None:
    """The optimizer has no state for them until then, and a group without a single gradient."""
    parts, step = made(
        {
            "train.optimizer": {"name": optimizer, "lr": 0.01, "weight_decay": 0.1},
            "train.rates": ENCODER,
            "train.freeze": [{"layers": "encoder*", "epochs": 1}],
        }
    )
    before = values(parts)
    for iteration in (1, 2):
        step(iteration)
    held = moves(parts, before)
    assert not any(move.any() for name, move in held.items() if name.startswith("encoder"))
    assert any(move.any() for move in held.values())
    for iteration in (3, 4):
        step(iteration)
    assert all(
        move.any() for name, move in moves(parts, before).items() if name.startswith("encoder") and "weight" in name
    )


def test_the_last_pattern_counts_and_every_parameter_stands_in_one_group(make_config: Callable[..., Any]) -> None:
    rates = [*ENCODER, {"layers": "*.bias", "factor": 2.0}]
    config = make_config(Path("unused"), {**SMALL, "train.rates": rates})
    network = build_network(config.network, 1, 3)
    groups = paces(network, config)
    assert [(group.layers, group.factor) for group in groups] == [("", 1.0), ("encoder*", 0.1), ("*.bias", 2.0)]
    names = [name for group in groups for name in group.parameters]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())
    assert all(name.endswith(".bias") for name in groups[2].parameters)
    assert any(name.startswith("encoder") for name in groups[2].parameters)
    text = paces_in_words(groups)
    assert f"encoder* at 0.1 times the rate ({len(groups[1].parameters)} of {len(names)} parameters)" in text
    assert "*.bias at 2 times the rate" in text


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([{"layers": "encodr*"}], r'train\.rates names the layers "encodr\*", but no parameter of unet is called so'),
        ([{"layers": "*"}], r"train\.rates names every layer"),
        ([{"layers": "*.weight"}, {"layers": "*.bias"}], r"train\.rates names every layer"),
    ],
    ids=["a slip", "everything", "everything in pieces"],
)
def test_what_makes_no_sense_is_told_before_anything_is_read(
    rates: list[dict[str, Any]], message: str, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    config = make_config(tmp_path / "nowhere", {**SMALL, "train.rates": rates})
    with pytest.raises(UsageError, match=message):
        check_rates(config)
    with pytest.raises(UsageError, match=message):
        train(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
