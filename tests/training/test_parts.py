"""What a training is made of, and that a checkpoint brings all of it back."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medunet.errors import DeviceError, TrainingError
from medunet.labels import LabelMap
from medunet.training.parts import Parts, build_parts, explain

CPU = torch.device("cpu")
Made = Callable[..., tuple[Parts, Callable[..., dict[str, float]]]]
MakeBatch = Callable[..., dict[str, torch.Tensor]]

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.05},
    "adam": {"name": "adam", "lr": 0.02},
    "adamw": {"name": "adamw", "lr": 0.02},
    "novograd": {"name": "novograd", "lr": 0.02},
}


def saved(parts: Parts) -> dict[str, Any]:
    """The state as a checkpoint gives it back: a copy, of tensors and plain values only."""
    torch.save(parts.state(), buffer := io.BytesIO())
    state: dict[str, Any] = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    return state


def test_the_loss_is_moved_to_the_device(make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[torch.device] = []

    class Loss(torch.nn.Module):
        def to(self, device: torch.device) -> Any:  # type: ignore[override]
            moved.append(device)
            return self

    monkeypatch.setattr("medunet.training.parts.build_loss", lambda *_: Loss())
    config = make_config(Path("unused"))
    build_parts(config, CPU, labels=LabelMap.from_mapping(config.labels))
    assert moved == [CPU]


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("sgd", "SGD", {"momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}),
        ("adam", "Adam", {"betas": (0.9, 0.999), "weight_decay": 0.0}),
        ("adamw", "AdamW", {"betas": (0.9, 0.999), "weight_decay": 0.01}),
        ("novograd", "Novograd", {"betas": (0.95, 0.98), "weight_decay": 0.001}),
    ],
)
def test_an_optimizer_is_the_one_that_its_name_says(made: Made, name: str, kind: str, options: dict[str, Any]) -> None:
    parts, _ = made({"train.optimizer": OPTIMIZERS[name]})
    assert type(parts.optimizer).__name__ == kind
    (group,) = parts.optimizer.param_groups
    assert {key: tuple(group[key]) if key == "betas" else group[key] for key in options} == options
    assert len(group["params"]) == len(list(parts.network.parameters()))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_brings_back_weights_momentum_average_and_random_numbers(
    made: Made, make_batch: MakeBatch, name: str
) -> None:
    changes = {"network.dropout": 0.2, "train.ema": 0.9, "train.optimizer": OPTIMIZERS[name]}
    parts, update = made(changes)
    for step in (1, 2):
        update(make_batch(step), step)
    state = saved(parts)
    expected = [update(make_batch(step), step)["loss"] for step in (3, 4)]
    other, again = made({**changes, "seed": 5})
    torch.manual_seed(99)
    other.load(state)
    assert [again(make_batch(step), step)["loss"] for step in (3, 4)] == expected
    for one, two in ((parts.network, other.network), (parts.judged, other.judged)):
        assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())


def test_the_generators_of_python_and_numpy_go_on_where_they_were(made: Made) -> None:
    parts, _ = made()
    random.seed(3)
    np.random.seed(4)
    random.gauss(0, 1)
    np.random.normal(size=3)
    state = saved(parts)
    expected = [random.gauss(0, 1), random.random(), *np.random.normal(size=3), np.random.rand()]
    random.seed(0)
    np.random.seed(0)
    parts.load(state)
    assert [random.gauss(0, 1), random.random(), *np.random.normal(size=3), np.random.rand()] == expected


def test_the_options_of_the_optimizer_are_those_of_the_config_and_its_momentum_that_of_the_state(
    made: Made, make_batch: MakeBatch
) -> None:
    """Of a run that is resumed with `--force`; else a changed weight decay would be ignored without a word."""
    parts, update = made({"train.optimizer": {"name": "adamw", "weight_decay": 0.1}})
    update(make_batch())
    state = saved(parts)
    other, _ = made({"train.optimizer": {"name": "adamw", "weight_decay": 0.3, "betas": [0.5, 0.6]}})
    other.load(state)
    group = other.optimizer.param_groups[0]
    assert (group["weight_decay"], tuple(group["betas"])) == (0.3, (0.5, 0.6))
    assert group["lr"] == parts.optimizer.param_groups[0]["lr"]
    first, again = next(parts.network.parameters()), next(other.network.parameters())
    assert torch.equal(parts.optimizer.state[first]["exp_avg"], other.optimizer.state[again]["exp_avg"])


@pytest.mark.parametrize(("before", "now"), [("sgd", "adamw"), ("adam", "novograd"), ("novograd", "sgd")])
def test_another_optimizer_starts_anew_and_says_so(
    made: Made, make_batch: MakeBatch, before: str, now: str, caplog: pytest.LogCaptureFixture
) -> None:
    parts, update = made({"train.optimizer": OPTIMIZERS[before]})
    update(make_batch())
    other, again = made({"train.optimizer": OPTIMIZERS[now]})
    other.load(saved(parts))
    assert "this one starts without momentum" in caplog.text
    assert not other.optimizer.state
    assert again(make_batch(2), 2)["loss"] > 0


def test_a_moving_average_that_was_not_there_starts_with_the_weights(made: Made, make_batch: MakeBatch) -> None:
    parts, update = made()
    update(make_batch())
    other, _ = made({"train.ema": 0.9})
    other.load(saved(parts))
    assert all(torch.equal(value, other.judged.state_dict()[key]) for key, value in parts.network.state_dict().items())
    without, _ = made()
    without.load(saved(other))
    assert without.average is None


def test_a_state_of_another_network_is_refused(made: Made) -> None:
    small, _ = made()
    large, _ = made({"network.channels": [4, 16]})
    with pytest.raises(TrainingError, match="does not fit the network of the config: encoder"):
        large.load(small.state())
    with pytest.raises(TrainingError, match="does not fit"):
        small.load({})


def test_weights_that_are_no_numbers_are_not_saved(made: Made) -> None:
    parts, _ = made()
    parts.check_finite()
    with torch.no_grad():
        next(parts.network.parameters()).view(-1)[0] = float("inf")
    with pytest.raises(TrainingError, match="became infinite or NaN"):
        parts.check_finite()


def test_only_known_errors_are_explained(make_config: Callable[..., Any]) -> None:
    config = make_config(Path("unused"))
    full = explain(torch.OutOfMemoryError("CUDA out of memory"), config, torch.device("cuda"))
    assert isinstance(full, DeviceError)
    assert explain(RuntimeError("a defect"), config, CPU) is None


@pytest.mark.parametrize(
    ("changes", "told", "not_told"),
    [
        ({}, ["train.accumulate=2", "train.activation_checkpointing=true", "train.batch_size=1"], []),
        ({"train.batch_size": 8, "train.accumulate": 6}, ["train.accumulate=8", "train.batch_size=4"], []),
        ({"train.accumulate": 2}, ["train.batch_size=1"], ["train.accumulate="]),
        (
            {"train.batch_size": 1, "train.activation_checkpointing": True},
            ["--set train.patch_size='[12, 12, 12]'; or a smaller network"],
            ["train.accumulate=", "train.batch_size=", "checkpointing=true"],
        ),
    ],
)
def test_a_full_memory_is_told_with_what_to_change_and_to_which_value(
    make_config: Callable[..., Any], changes: dict[str, Any], told: list[str], not_told: list[str]
) -> None:
    config = make_config(Path("unused"), changes)
    full = explain(torch.OutOfMemoryError("CUDA out of memory"), config, torch.device("cuda"))
    assert full is not None
    assert all(part in full.hint for part in told)
    assert not any(part in full.hint for part in not_told)


@pytest.mark.parametrize(
    ("labels", "channels"),
    [({"background": 0, "organ": 4, "core": 205}, 3), ({"background": 0, "organ": [4, 205], "core": 205}, 2)],
    ids=["side by side", "nested"],
)
def test_the_network_has_an_output_for_every_label_that_is_told_apart(
    made: Made, make_batch: MakeBatch, labels: dict[str, Any], channels: int
) -> None:
    parts, update = made({"labels": labels})
    assert parts.network.eval()(torch.zeros(1, 1, 16, 16, 16)).shape[1] == channels
    assert update(make_batch())["loss"] > 0
