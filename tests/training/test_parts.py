"""One training step: what it changes, and what it refuses to go on with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medunet.errors import DeviceError, TrainingError
from medunet.labels import LabelMap
from medunet.losses.truth import Truth
from medunet.training.parts import Parts, build_parts, explain, make_update
from medunet.training.schedule import Clock

CPU = torch.device("cpu")


@pytest.fixture
def made(make_config: Callable[..., Any]) -> Callable[..., tuple[Parts, Callable[..., dict[str, float]]]]:
    def make(changes: dict[str, Any] | None = None) -> tuple[Parts, Callable[..., dict[str, float]]]:
        config = make_config(Path("unused"), changes)
        torch.manual_seed(0)
        parts = build_parts(config, CPU, labels=LabelMap.from_mapping(config.labels))
        update = make_update(parts, config, Clock(config.train))
        return parts, lambda batch, step=1: update(SimpleNamespace(state=SimpleNamespace(iteration=step)), batch)

    return make


def batch(seed: int = 0, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 1, 16, 16, 16, generator=generator) * scale
    return {"image": image, "label": (image > 0.5).long() + (image > 1.2).long()}


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
    "changes",
    [
        {},
        {"train.optimizer": {"name": "sgd", "lr": 0.05}},
        {"network.deep_supervision": True, "network.channels": [4, 8, 8]},
        {"loss": [{"name": "tversky"}, {"name": "focal", "weight": 2.0}]},
        {"train.precision": "bf16"},
        {"train.clip_norm": None},
    ],
    ids=["adamw", "sgd", "deep supervision", "other losses", "bf16", "no clipping"],
)
def test_steps_on_one_batch_lower_its_loss(made: Callable[..., Any], changes: dict[str, Any]) -> None:
    _, update = made(changes)
    losses = [update(batch(), step)["loss"] for step in range(1, 13)]
    assert losses[-1] < losses[0]


def test_the_learning_rate_follows_the_schedule(made: Callable[..., Any]) -> None:
    parts, update = made({"train.epochs": 1, "train.iterations_per_epoch": 10})
    rates = [update(batch(), step)["lr"] for step in (1, 6, 10)]
    assert rates == pytest.approx([0.02, 0.02 * 0.5**0.9, 0.02 * 0.1**0.9])
    assert parts.optimizer.param_groups[0]["lr"] == rates[-1]


def test_the_gradient_is_clipped(made: Callable[..., Any]) -> None:
    parts, update = made({"train.clip_norm": 0.001})
    update(batch())
    norm = torch.stack([p.grad.norm() for p in parts.network.parameters() if p.grad is not None]).norm()
    assert norm <= 0.00101


def test_a_loss_that_is_no_number_changes_no_weight(made: Callable[..., Any]) -> None:
    parts, update = made()
    before = {name: value.clone() for name, value in parts.network.state_dict().items()}
    with pytest.raises(TrainingError, match="The loss became nan in step 7"):
        update(batch(scale=float("inf")), 7)
    assert all(torch.equal(value, before[name]) for name, value in parts.network.state_dict().items())


@pytest.mark.parametrize("clip", [12.0, None])
def test_a_gradient_that_is_no_number_changes_no_weight(made: Callable[..., Any], clip: float | None) -> None:
    parts, update = made({"train.clip_norm": clip})
    first = next(parts.network.parameters())
    first.register_hook(lambda gradient: gradient * float("nan"))
    before = first.detach().clone()
    with pytest.raises(TrainingError, match="The gradient became infinite or NaN"):
        update(batch())
    assert torch.equal(first, before)


def test_weights_that_are_no_numbers_are_not_saved(made: Callable[..., Any]) -> None:
    parts, _ = made()
    parts.check_finite()
    with torch.no_grad():
        next(parts.network.parameters()).view(-1)[0] = float("inf")
    with pytest.raises(TrainingError, match="became infinite or NaN"):
        parts.check_finite()


def test_the_state_brings_back_weights_momentum_and_random_numbers(made: Callable[..., Any]) -> None:
    changes = {"network.dropout": 0.2}
    parts, update = made(changes)
    for step in (1, 2):
        update(batch(step), step)
    state = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in parts.state().items()}
    saved = {"network": {k: v.clone() for k, v in state["network"].items()}}
    import copy

    saved = {**copy.deepcopy({k: v for k, v in state.items() if k != "network"}), **saved}
    expected = [update(batch(step), step)["loss"] for step in (3, 4)]
    other, again = made({**changes, "seed": 5})
    torch.manual_seed(99)
    other.load(saved)
    assert [again(batch(step), step)["loss"] for step in (3, 4)] == expected


def test_a_state_of_another_network_is_refused(made: Callable[..., Any]) -> None:
    small, _ = made()
    large, _ = made({"network.channels": [4, 16]})
    with pytest.raises(TrainingError, match="does not fit the network of the config: encoder"):
        large.load(small.state())
    with pytest.raises(TrainingError, match="does not fit"):
        small.load({})


def test_only_known_errors_are_explained(make_config: Callable[..., Any]) -> None:
    config = make_config(Path("unused"))
    full = explain(torch.OutOfMemoryError("CUDA out of memory"), config, torch.device("cuda"))
    assert isinstance(full, DeviceError)
    assert "train.batch_size=1" in full.hint
    assert explain(RuntimeError("a defect"), config, CPU) is None


def test_the_loss_gets_all_that_a_batch_knows_of_the_truth(made: Callable[..., Any], monkeypatch: Any) -> None:
    parts, update = made()
    seen: list[Truth] = []

    def loss(output: torch.Tensor, truth: Truth) -> torch.Tensor:
        seen.append(truth)
        return output.mean()

    monkeypatch.setattr(parts.loss, "forward", loss)
    plain = batch()
    update(plain)
    assert torch.equal(seen[0].labels, plain["label"])
    assert seen[0].annotated is None
    assert seen[0].weight is None
    known = {"annotated": torch.tensor([[True, True, False]] * 2), "weight": torch.rand(2, 1, 16, 16, 16)}
    update({**plain, **known})
    assert torch.equal(seen[1].annotated, known["annotated"])
    assert torch.equal(seen[1].weight, known["weight"])


@pytest.mark.parametrize(
    ("labels", "channels"),
    [({"background": 0, "organ": 4, "core": 205}, 3), ({"background": 0, "organ": [4, 205], "core": 205}, 2)],
    ids=["side by side", "nested"],
)
def test_the_network_has_an_output_for_every_label_that_is_told_apart(
    made: Callable[..., Any], labels: dict[str, Any], channels: int
) -> None:
    parts, update = made({"labels": labels})
    assert parts.network.eval()(torch.zeros(1, 1, 16, 16, 16)).shape[1] == channels
    assert update(batch())["loss"] > 0
