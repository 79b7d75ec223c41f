"""Weights of another training: taken where name and shape agree, from whatever holds them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from medunet.errors import MedunetError, ModelError, UsageError
from medunet.model import load_model
from medunet.networks.registry import build_network
from medunet.training.observe import Observer, Step
from medunet.training.run import train
from medunet.training.start import check_start, start

SHORT = {
    "train.epochs": 1,
    "train.iterations_per_epoch": 1,
    "train.optimizer.lr": 1e-12,
    "logging": {"monitor": None, "tensorboard": False},
}
"""One step that hardly changes anything."""


def zipped(model: Path, folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder / "tiny"), "zip", model))


def tensors(model: Path, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    safetensors.torch.save_file(dict(load_model(model).weights), path)
    return path


SOURCES: dict[str, Callable[[Path, Path], Path]] = {
    "a model folder": lambda run, _: run / "model",
    "a run folder": lambda run, _: run,
    "a zipped model": lambda run, folder: zipped(run / "model", folder),
    "the best checkpoint": lambda run, _: run / "checkpoints" / "best.pt",
    "a state dict": lambda run, folder: tensors(run / "model", folder),
}


def fresh(config: Any) -> Any:
    torch.manual_seed(1)
    return build_network(config.network, len(config.data.modality), 3)


def same(one: nn.Module, weights: Any, names: Any = None) -> bool:
    state = one.state_dict()
    return all(torch.equal(state[name], weights[name]) for name in (state if names is None else names))


@pytest.mark.parametrize("source", SOURCES)
def test_weights_are_taken_from_whatever_holds_them(
    source: str, tiny_run: Path, tmp_path: Path, make_config: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = SOURCES[source](tiny_run, tmp_path)
    config = make_config(tmp_path, {"train.start_from": str(path)})
    check_start(config)
    network = fresh(config)
    with caplog.at_level(logging.INFO, "medunet"):
        start(network, config)
    weights = load_model(tiny_run).weights
    assert same(network, weights)
    assert f"{len(weights)} of {len(weights)} tensors start as in {path}." in caplog.text
    assert "random weights" not in caplog.text


def test_the_last_checkpoint_gives_the_weights_of_the_last_step(
    tiny_run: Path, tmp_path: Path, make_config: Callable[..., Any]
) -> None:
    path = tiny_run / "checkpoints" / "last.pt"
    network = fresh(config := make_config(tmp_path, {"train.start_from": str(path)}))
    start(network, config)
    assert same(network, torch.load(path, weights_only=True)["network"])


def test_without_the_key_nothing_is_read_or_changed(tmp_path: Path, make_config: Callable[..., Any]) -> None:
    config = make_config(tmp_path)
    check_start(config)
    network, other = fresh(config), fresh(config)
    start(network, config)
    assert same(network, other.state_dict())


def test_what_does_not_fit_starts_at_random_and_all_of_it_is_listed(
    tiny_run: Path, tmp_path: Path, make_config: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """One level more and another number of labels: the first level is the same."""
    changes = {"network.channels": [4, 8, 16], "labels": {"background": 0, "blob": 4}}
    config = make_config(tmp_path, {**changes, "train.start_from": str(tiny_run)})
    torch.manual_seed(1)
    network, other = build_network(config.network, 1, 2), None
    torch.manual_seed(1)
    other = build_network(config.network, 1, 2)
    with caplog.at_level(logging.INFO, "medunet"):
        check_start(config)
        start(network, config)
    weights = load_model(tiny_run).weights
    state = network.state_dict()
    taken = {name for name in state if name in weights and weights[name].shape == state[name].shape}
    left = set(state) - taken
    assert taken
    assert left
    assert same(network, weights, taken)
    assert same(network, other.state_dict(), left)
    info = [record for record in caplog.records if record.levelno == logging.INFO]
    warning = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert info[0].message == f"{len(taken)} of {len(state)} tensors start as in {tiny_run}."
    assert len(warning) == 1
    assert warning[0].startswith(f"{len(left)} tensors start from random weights: ")
    assert all(name in info[1].message for name in left)
    assert "in the file and" in info[1].message
    assert "is missing from the file" in info[1].message


WRONG: dict[str, tuple[dict[str, Any], Callable[[Path], object], type[MedunetError], str]] = {
    "no such file": ({}, lambda _: None, UsageError, "There is no file"),
    "an empty folder": ({}, lambda path: path.mkdir(), UsageError, "is no model"),
    "no weights": ({}, lambda path: path.write_text("hello"), ModelError, "no file of weights"),
    "other layers": (
        {},
        lambda path: torch.save({"a.weight": torch.zeros(3)}, path),
        ModelError,
        r"No layer of .* fits this network: .* is missing from the file",
    ),
    "only what is not learned": (
        {"network.norm": "batch"},
        lambda path: torch.save({"encoder.running_mean": torch.zeros(4)}, path),
        ModelError,
        "No layer of",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_started_from_is_told_before_anything_is_read(
    what: str, tmp_path: Path, tiny_dataset: Path, make_config: Callable[..., Any]
) -> None:
    changes, write, error, message = WRONG[what]
    path = tmp_path / "start.pt"
    write(path)
    config = make_config(tiny_dataset, {**changes, "train.start_from": str(path)})
    stages: list[str] = []

    class Stages(Observer):
        def stage(self, name: str, done: int, total: int) -> None:  # noqa: ARG002
            stages.append(name)

    with pytest.raises(error, match=message):
        train(config, tmp_path / "run", device="cpu", observer=Stages())
    assert stages == []
    assert not (tmp_path / "run").exists()


def test_a_run_starts_with_them_its_average_too_and_train_log_has_the_list(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, make_config: Callable[..., Any]
) -> None:
    changes = {**SHORT, "labels": {"background": 0, "blob": [4, 205]}, "train.ema": 0.9}
    result = train(make_config(tiny_dataset, {**changes, "train.start_from": str(tiny_run)}), tmp_path / "run")
    found, weights = load_model(result.model).weights, load_model(tiny_run).weights
    fits = [name for name in found if found[name].shape == weights[name].shape]
    assert 0 < len(fits) < len(found)
    for name in fits:
        torch.testing.assert_close(found[name], weights[name], rtol=1e-5, atol=1e-6)
    log = (result.run / "train.log").read_text()
    assert f"{len(fits)} of {len(found)} tensors start as in {tiny_run}." in log
    assert all(name in log for name in found if name not in fits)


def test_a_training_that_goes_on_from_a_model_is_better_from_the_start(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, make_config: Callable[..., Any]
) -> None:
    def first_loss(name: str, source: str | None) -> float:
        losses: list[float] = []

        class Look(Observer):
            def step(self, step: Step) -> None:
                losses.append(step.loss)

        config = make_config(tiny_dataset, {**SHORT, "train.start_from": source})
        train(config, tmp_path / name, device="cpu", observer=Look())
        return losses[0]

    assert first_loss("again", str(tiny_run)) < 0.5 * first_loss("anew", None)


def test_a_resumed_run_needs_the_source_no_more(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, make_config: Callable[..., Any]
) -> None:
    source = Path(shutil.copytree(tiny_run / "model", tmp_path / "source"))
    config = make_config(tiny_dataset, {**SHORT, "train.start_from": str(source)})
    train(config, tmp_path / "run", device="cpu")
    shutil.rmtree(source)
    longer = make_config(tiny_dataset, {**SHORT, "train.start_from": str(source), "train.epochs": 2})
    assert train(longer, tmp_path / "run", device="cpu", resume=True).model.is_dir()
