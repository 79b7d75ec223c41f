"""Layers that stand still for whole epochs or for ever, then learn, also over a resume."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from medunet.errors import Interrupted, UsageError
from medunet.labels import LabelMap
from medunet.model import load_model
from medunet.networks.registry import build_network
from medunet.training.freeze import check_frozen
from medunet.training.observe import Observer, Step
from medunet.training.parts import Parts, build_parts
from medunet.training.progress import Progress
from medunet.training.run import train
from medunet.training.schedule import Clock
from medunet.training.step import Stepper

CPU = torch.device("cpu")
pytestmark = pytest.mark.xdist_group("frozen")  # the runs are made once, not once per worker
SMALL = {
    "network": {
        "name": "efficient_unet",
        "dims": 2,
        "backbone": "b0",  # leaves blocks out at random, so that the random numbers count as well
        "decoder_channels": [8, 8, 8, 8, 8],
        "frozen_epochs": 2,
    },
    "train.patch_size": [32, 32],
    "train.epochs": 3,
    "train.iterations_per_epoch": 2,
    "train.optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.5},
    "validate": {"every": 10},
}


def encoder_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {n.removeprefix("encoder."): v.clone() for n, v in network.state_dict().items() if n.startswith("encoder.")}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())


Update = Callable[[int], Any]


@pytest.fixture
def made(make_config: Callable[..., Any]) -> Callable[..., tuple[Parts, Update]]:
    def make(changes: dict[str, Any] | None = None) -> tuple[Parts, Update]:
        config = make_config(Path("unused"), {**SMALL, **(changes or {})})
        torch.manual_seed(0)
        parts = build_parts(config, CPU, labels=LabelMap.from_mapping(config.labels))
        update = Stepper(parts, config, Clock(config.train), Progress())

        def step(iteration: int) -> Any:
            image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(iteration))
            batch = {"image": image, "label": (image > 0.5).long() + (image > 1.2).long()}
            return update(SimpleNamespace(state=SimpleNamespace(iteration=iteration)), batch)

        return parts, step

    return make


OPTIMIZERS = [
    {"name": "adamw", "lr": 0.01, "weight_decay": 0.5},
    {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.01},
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["adamw", "sgd"])
def test_the_encoder_stands_still_for_the_warm_up_and_then_learns(
    made: Callable[..., tuple[Parts, Update]], optimizer: dict[str, Any]
) -> None:
    """Not even the decay of weights touches it, nor the running statistics of its norms."""
    parts, step = made({"train.optimizer": optimizer})
    start = encoder_of(parts.network)
    head = parts.network.segmentation_head[0].weight.detach().clone()
    for iteration in (1, 2, 3, 4):
        step(iteration)
        assert same(encoder_of(parts.network), start), iteration
    assert not torch.equal(parts.network.segmentation_head[0].weight, head)
    assert not any(parameter in parts.optimizer.state for parameter in parts.network.encoder.parameters())
    step(5)
    after = encoder_of(parts.network)
    assert not torch.equal(after["_conv_stem.weight"], start["_conv_stem.weight"])
    assert not torch.equal(after["_bn0.running_mean"], start["_bn0.running_mean"])
    assert all(parameter.requires_grad for parameter in parts.network.parameters())


def test_a_validation_between_does_not_wake_the_encoder(made: Callable[..., tuple[Parts, Update]]) -> None:
    parts, step = made()
    start = encoder_of(parts.network)
    parts.network.eval()
    step(1)
    assert parts.network.training
    assert not parts.network.encoder.training
    parts.network.eval()
    step(2)
    assert same(encoder_of(parts.network), start)
    step(5)
    assert parts.network.encoder.training


@pytest.mark.parametrize("backbone", ["b0", "r18"])
def test_a_held_encoder_gives_the_same_answer_twice(made: Callable[..., tuple[Parts, Update]], backbone: str) -> None:
    """It leaves no blocks out."""
    parts, step = made({"network": {**SMALL["network"], "backbone": backbone}})  # type: ignore[dict-item]
    step(1)
    images = torch.randn(2, 1, 32, 32)
    first, again = parts.network.encoder(images), parts.network.encoder(images)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_without_a_warm_up_the_encoder_learns_at_once(made: Callable[..., tuple[Parts, Update]]) -> None:
    parts, step = made({"network": {**SMALL["network"], "frozen_epochs": 0}})  # type: ignore[dict-item]
    start = encoder_of(parts.network)
    step(1)
    assert not same(encoder_of(parts.network), start)


def test_the_state_of_a_warm_up_is_taken_over(made: Callable[..., tuple[Parts, Update]]) -> None:
    """The optimizer has no state for the encoder yet when it is saved."""
    parts, step = made()
    for iteration in (1, 2, 3):
        step(iteration)
    state = parts.state()
    torch.save(state, buffer := io.BytesIO())
    losses = [step(iteration)["loss"] for iteration in (4, 5, 6)]
    again, repeated = made()
    again.load(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    assert [repeated(iteration)["loss"] for iteration in (4, 5, 6)] == losses
    assert same(encoder_of(again.network), encoder_of(parts.network))


# train.freeze

PLAIN = {
    "network": {"name": "unet", "dims": 2, "channels": [4, 8], "deep_supervision": False, "norm": "batch"},
    "train.patch_size": [32, 32],
}


def changed_names(parts: Parts, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in parts.network.state_dict().items() if not torch.equal(value, before[name])}


def state_of(parts: Parts) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in parts.network.state_dict().items()}


def test_a_pattern_holds_layers_for_ever(made: Callable[..., tuple[Parts, Update]]) -> None:
    """Their running statistics stand still as well."""
    parts, step = made({**PLAIN, "train.freeze": [{"layers": "encoder*"}]})
    before = state_of(parts)
    for iteration in (1, 2, 3, 7):
        step(iteration)
    changed = changed_names(parts, before)
    assert changed
    assert not any(name.startswith("encoder") for name in changed)
    assert any("running_mean" in name for name in changed)


def test_a_pattern_with_epochs_lets_go_after_them(made: Callable[..., tuple[Parts, Update]]) -> None:
    parts, step = made({**PLAIN, "train.freeze": {"layers": "encoder*", "epochs": 1}})
    before = state_of(parts)
    step(1)
    step(2)
    assert not any(name.startswith("encoder") for name in changed_names(parts, before))
    step(3)
    assert {name for name in before if name.startswith("encoder")} <= changed_names(parts, before)
    assert all(parameter.requires_grad for parameter in parts.network.parameters())


def test_the_longest_of_several_patterns_counts_and_the_rest_learns(
    made: Callable[..., tuple[Parts, Update]],
) -> None:
    freeze = [{"layers": "encoder*", "epochs": 1}, {"layers": "*.bias"}, {"layers": "encoder*.weight", "epochs": 2}]
    parts, step = made({**PLAIN, "train.freeze": freeze})
    names = {name for name, _ in parts.network.named_parameters()}
    biases, encoder = {n for n in names if n.endswith(".bias")}, {n for n in names if n.startswith("encoder")}
    assert biases
    before = state_of(parts)
    step(1)
    assert changed_names(parts, before) & names == names - biases - encoder
    step(3)
    assert changed_names(parts, before) & names == names - biases - encoder
    step(5)
    assert changed_names(parts, before) & names == names - biases


def test_a_layer_with_some_weights_held_still_learns_its_statistics(
    made: Callable[..., tuple[Parts, Update]],
) -> None:
    parts, step = made({**PLAIN, "train.freeze": [{"layers": "*.bias"}]})
    before = state_of(parts)
    step(1)
    assert any("running_mean" in name for name in changed_names(parts, before))


def test_a_warm_up_and_patterns_add_up(made: Callable[..., tuple[Parts, Update]]) -> None:
    network = {**SMALL["network"], "frozen_epochs": 1}  # type: ignore[dict-item]
    parts, step = made({"network": network, "train.freeze": [{"layers": "encoder._conv_stem*"}]})
    start = encoder_of(parts.network)
    step(3)
    after = encoder_of(parts.network)
    assert torch.equal(after.pop("_conv_stem.weight"), start["_conv_stem.weight"])
    assert not any(torch.equal(value, start[name]) for name, value in after.items() if name.endswith(".weight"))


def test_a_moving_average_of_held_layers_is_what_they_are(made: Callable[..., tuple[Parts, Update]]) -> None:
    parts, step = made({**PLAIN, "train.freeze": [{"layers": "encoder*"}], "train.ema": 0.9})
    before = state_of(parts)
    for iteration in (1, 2, 3):
        step(iteration)
    found = parts.judged.state_dict()
    assert all(torch.allclose(found[name], value) for name, value in before.items() if name.startswith("encoder"))


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ([{"layers": "encodr*"}], r'names the layers "encodr\*", but no parameter of unet is called so.*encoder'),
        ([{"layers": "Encoder*"}], "no parameter of unet is called so"),
        ([{"layers": "*"}], "holds every layer in the first epoch, so nothing would learn"),
        ([{"layers": "*", "epochs": 1}], "holds every layer in the first epoch"),
        ([{"layers": "*.weight"}, {"layers": "*.bias", "epochs": 2}], "holds every layer in the first epoch"),
    ],
    ids=["a slip", "capitals count", "everything", "everything for a while", "everything in pieces"],
)
def test_what_makes_no_sense_is_told_before_anything_is_read(
    freeze: list[dict[str, Any]], message: str, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    config = make_config(tmp_path / "nowhere", {**PLAIN, "train.freeze": freeze})
    with pytest.raises(UsageError, match=message):
        check_frozen(config)
    with pytest.raises(UsageError, match=message):
        train(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


# whole runs


class _StopAt(Observer):
    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, step: Step) -> None:
        if step.iteration == self.at:
            os.kill(os.getpid(), signal.SIGINT)


def encoder_in(path: Path) -> dict[str, torch.Tensor]:
    state = torch.load(path, weights_only=True)["network"]
    return {name.removeprefix("encoder."): v for name, v in state.items() if name.startswith("encoder.")}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., Any]) -> Path:
    """Weights of a b0 for one channel."""
    path = tmp_path_factory.mktemp("weights") / "b0.pth"
    torch.manual_seed(3)
    network = build_network(make_config(path, SMALL).network, 1, 2)
    torch.save({"state_dict": network.encoder.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path, make_config: Callable[..., Any], start: Path
) -> tuple[Path, Any]:
    """A run that was never stopped, and its configuration."""
    folder = tmp_path_factory.mktemp("frozen")
    network = {**SMALL["network"], "encoder_weights": str(start)}  # type: ignore[dict-item]
    changes = {**SMALL, "network": network, "data.cache": str(folder / "cache"), "inference.overlap": 0.0}
    config = make_config(tiny_dataset, changes)
    train(config, folder / "never", device="cpu")
    return folder, config


@pytest.mark.parametrize("stop", [3, 5], ids=["inside the warm-up", "after the warm-up"])
def test_a_run_stopped_around_the_warm_up_resumes_to_the_same_bits_without_the_file(
    runs: tuple[Path, Any], start: Path, stop: int
) -> None:
    folder, config = runs
    run, last = folder / f"stopped_{stop}", Path("checkpoints", "last.pt")
    with pytest.raises(Interrupted):
        train(config, run, device="cpu", observer=_StopAt(stop))
    stands_still = same(encoder_in(run / last), torch.load(start, weights_only=True)["state_dict"])
    assert stands_still == (stop == 3)
    away = start.rename(start.with_suffix(".away"))
    try:
        train(config, run, resume=True, device="cpu")
    finally:
        away.rename(start)
    expected = torch.load(folder / "never" / last, weights_only=True)
    found = torch.load(run / last, weights_only=True)
    assert same(found["network"], expected["network"])
    assert not same(encoder_in(run / last), torch.load(start, weights_only=True)["state_dict"])


def test_the_finished_model_works_without_the_file(runs: tuple[Path, Any]) -> None:
    folder, config = runs
    model = load_model(folder / "never")
    assert model.spec.network.encoder_weights is None
    assert model.spec.network.backbone == config.network.backbone
    assert model.build()(torch.zeros(1, 1, 32, 32)).shape == (1, 3, 32, 32)
