"""One training step: what it changes, and what it refuses to go on with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from medunet.errors import TrainingError
from medunet.losses.truth import Truth
from medunet.training.parts import Parts

Made = Callable[..., tuple[Parts, Callable[..., dict[str, float]]]]
MakeBatch = Callable[..., dict[str, torch.Tensor]]


def weights(parts: Parts) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in parts.network.state_dict().items()}


def gradient(parts: Parts) -> torch.Tensor:
    """All of it, as one vector."""
    return torch.cat([p.grad.flatten() for p in parts.network.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train.optimizer": {"name": "sgd", "lr": 0.05}},
        {"train.optimizer": {"name": "adam", "lr": 0.02}},
        {"train.optimizer": {"name": "novograd", "lr": 0.02}},
        {"network.deep_supervision": True, "network.channels": [4, 8, 8, 8]},
        {"loss": [{"name": "tversky"}, {"name": "focal", "weight": 2.0}]},
        {"train.precision": "bf16"},
        {"train.clip_norm": None},
        {"train.accumulate": 2},
        {"train.activation_checkpointing": True},
    ],
    ids=lambda changes: ", ".join(changes) or "adamw",
)
def test_steps_on_one_batch_lower_its_loss(made: Made, make_batch: MakeBatch, changes: dict[str, Any]) -> None:
    _, update = made(changes)
    losses = [update(make_batch(), step)["loss"] for step in range(1, 13)]
    assert losses[-1] < losses[0]


def test_the_learning_rate_follows_the_schedule(made: Made, make_batch: MakeBatch) -> None:
    parts, update = made({"train.epochs": 1, "train.iterations_per_epoch": 10})
    rates = [update(make_batch(), step)["lr"] for step in (1, 6, 10)]
    assert rates == pytest.approx([0.02, 0.02 * 0.5**0.9, 0.02 * 0.1**0.9])
    assert parts.optimizer.param_groups[0]["lr"] == rates[-1]


@pytest.mark.parametrize("limit", [0.001, 0.1])
def test_a_gradient_that_is_too_long_is_made_as_long_as_allowed(
    made: Made, make_batch: MakeBatch, limit: float
) -> None:
    parts, update = made({"train.clip_norm": limit})
    free, untouched = made({"train.clip_norm": None})
    update(make_batch())
    untouched(make_batch())
    length = gradient(free).norm()
    assert length > limit
    torch.testing.assert_close(gradient(parts).norm(), torch.tensor(limit), rtol=1e-4, atol=0.0)
    torch.testing.assert_close(gradient(parts), gradient(free) * limit / length, rtol=1e-3, atol=1e-7)


def test_a_short_gradient_is_left_alone(made: Made, make_batch: MakeBatch) -> None:
    parts, update = made({"train.clip_norm": 1000.0})
    free, untouched = made({"train.clip_norm": None})
    update(make_batch())
    untouched(make_batch())
    assert torch.equal(gradient(parts), gradient(free))


@pytest.mark.parametrize(
    "loss", [[{"name": "cross_entropy"}], [{"name": "focal"}], [{"name": "dice", "batch": False}, {"name": "bce"}]]
)
@pytest.mark.parametrize(("size", "parts_of_batch"), [(4, 2), (4, 4), (5, 3)], ids=["halves", "each", "uneven"])
def test_a_batch_in_parts_gives_the_loss_and_gradient_of_the_whole(
    made: Made, make_batch: MakeBatch, loss: list[dict[str, Any]], size: int, parts_of_batch: int
) -> None:
    """For losses that are means over the batch; instance norm does not mix its patches."""
    changes = {"train.batch_size": size, "train.clip_norm": None, "loss": loss}
    whole, at_once = made(changes)
    split, in_parts = made({**changes, "train.accumulate": parts_of_batch})
    batch = make_batch(1, size=size)
    assert in_parts(batch)["loss"] == pytest.approx(at_once(batch)["loss"], rel=1e-5)
    torch.testing.assert_close(gradient(split), gradient(whole), rtol=1e-4, atol=1e-6)


def test_everything_that_a_batch_holds_is_split(made: Made, make_batch: MakeBatch, monkeypatch: Any) -> None:
    parts, update = made({"train.batch_size": 3, "train.accumulate": 2})
    seen: list[Truth] = []

    def loss(output: torch.Tensor, truth: Truth) -> torch.Tensor:
        seen.append(truth)
        return output.mean()

    monkeypatch.setattr(parts.loss, "forward", loss)
    known = {"annotated": torch.tensor([[True, True, False]] * 3), "weight": torch.rand(3, 1, 16, 16, 16)}
    update({**make_batch(size=3), **known})
    assert [len(truth.labels) for truth in seen] == [1, 2]
    for name in ("annotated", "weight"):
        assert torch.equal(torch.cat([getattr(truth, name) for truth in seen]), known[name])


def test_the_loss_gets_all_that_a_batch_knows_of_the_truth(made: Made, make_batch: MakeBatch, monkeypatch: Any) -> None:
    parts, update = made()
    seen: list[Truth] = []

    def loss(output: torch.Tensor, truth: Truth) -> torch.Tensor:
        seen.append(truth)
        return output.mean()

    monkeypatch.setattr(parts.loss, "forward", loss)
    plain = make_batch()
    update(plain)
    assert torch.equal(seen[0].labels, plain["label"])
    assert seen[0].annotated is None
    assert seen[0].weight is None
    known = {"annotated": torch.tensor([[True, True, False]] * 2), "weight": torch.rand(2, 1, 16, 16, 16)}
    update({**plain, **known})
    assert torch.equal(seen[1].annotated, known["annotated"])
    assert torch.equal(seen[1].weight, known["weight"])


# What ends a training


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_no_number_changes_no_weight(made: Made, make_batch: MakeBatch, accumulate: int) -> None:
    parts, update = made({"train.accumulate": accumulate})
    before = weights(parts)
    with pytest.raises(TrainingError, match=r"The loss became nan in step 7\."):
        update(make_batch(scale=float("inf")), 7)
    assert all(torch.equal(value, before[name]) for name, value in parts.network.state_dict().items())


@pytest.mark.parametrize("clip", [12.0, None])
def test_a_gradient_that_is_no_number_changes_no_weight(made: Made, make_batch: MakeBatch, clip: float | None) -> None:
    parts, update = made({"train.clip_norm": clip})
    first = next(parts.network.parameters())
    first.register_hook(lambda gradient: gradient * float("nan"))
    before = first.detach().clone()
    with pytest.raises(TrainingError, match="The gradient became infinite or NaN"):
        update(make_batch())
    assert torch.equal(first, before)


def test_the_cases_of_the_batch_are_named_once_each(made: Made, make_batch: MakeBatch) -> None:
    asked: list[int] = []

    def cases_of(step: int) -> list[str]:
        asked.append(step)
        return ["liver_3", "liver_7", "liver_3"]

    _, update = made(cases_of=cases_of)
    update(make_batch(), 6)
    assert asked == []
    with pytest.raises(TrainingError, match=r"in step 7, with patches of liver_3, liver_7\. .*lower train.optimizer"):
        update(make_batch(scale=float("inf")), 7)
    assert asked == [7]


# torch.compile


def test_where_torch_cannot_compile_the_network_runs_as_it_is_and_the_log_says_why(
    made: Made, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    """With the real compiler of torch, whose C++ compiler is not there."""
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (str(tmp_path / "no_compiler"),))
    monkeypatch.setattr(config, "fx_graph_cache", False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    _, expected = made()
    _, update = made({"train.compile": True})
    with caplog.at_level(logging.WARNING, "medunet"):
        found = [update(make_batch(step), step)["loss"] for step in (1, 2)]
    assert found == [expected(make_batch(step), step)["loss"] for step in (1, 2)]
    told = [record.message for record in caplog.records if "cannot compile" in record.message]
    assert len(told) == 1
    assert told[0].startswith("torch cannot compile this network here, so it runs as it is: ")
    assert "\n" not in told[0]


def test_an_error_that_has_nothing_to_do_with_the_compiler_comes_through(
    made: Made, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda network: network.__call__)  # a compiler that changes nothing
    parts, update = made({"train.compile": True})

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a defect of the network")

    monkeypatch.setattr(parts.network, "outputs", broken)
    with pytest.raises(ZeroDivisionError, match="a defect"):
        update(make_batch())


# The moving average


def test_the_moving_average_is_that_of_its_formula(made: Made, make_batch: MakeBatch) -> None:
    """It starts with the weights after the first step; integers (counters of batch norm) are averaged as torch does."""
    parts, update = made({"train.ema": 0.75, "network.norm": "batch"})
    expected: dict[str, torch.Tensor] = {}
    for step in range(1, 6):
        update(make_batch(step), step)
        now = {name: value.double() for name, value in weights(parts).items() if value.is_floating_point()}
        expected = {name: 0.75 * expected[name] + 0.25 * now[name] for name in now} if expected else now
    found = parts.judged.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-7)
    assert any("running_mean" in name for name in expected)
    assert not any(torch.equal(found[name], value) for name, value in weights(parts).items() if "conv" in name)


def test_without_a_moving_average_the_network_itself_is_judged(made: Made) -> None:
    parts, _ = made()
    assert parts.judged is parts.network
