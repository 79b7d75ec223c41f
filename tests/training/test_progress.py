"""Counters of a run: what an epoch does to them, and that a checkpoint brings them back."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from medunet.training.progress import Progress

PLATEAU = {"name": "plateau", "metric": "loss", "factor": 0.5, "patience": 1, "min_delta": 0.0}


def test_a_checkpoint_brings_every_counter_back(make_config: Callable[..., Any]) -> None:
    config = make_config(Path("unused"), {"train.schedule": PLATEAU, "train.early_stop": {"patience": 3}})
    progress = Progress(iteration=7, elapsed=1.5, epoch=1, losses=[0.5, 0.25])
    for epoch, (loss, dice) in enumerate([(1.0, 0.5), (2.0, 0.6), (3.0, 0.4)], start=1):
        progress.judge({"loss": loss, "dice": dice}, epoch, config)
    assert (progress.best.best, progress.best_epoch) == (0.6, 2)
    assert (progress.lowered, progress.plateau.since) == (1, 0)
    assert progress.stopping.since == 1
    torch.save(asdict(progress), buffer := io.BytesIO())
    found = Progress.from_state(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    assert found == progress
    found.judge({"loss": 1.5, "dice": 0.1}, 4, config)
    assert progress.stopping.since == 1  # nothing is shared


def test_each_rule_watches_its_own_metric(make_config: Callable[..., Any]) -> None:
    config = make_config(
        Path("unused"),
        {
            "train.schedule": {**PLATEAU, "metric": "validation_loss", "patience": 0},
            "train.early_stop": {"metric": "dice/core", "patience": 9, "min_delta": 0.0},
            "validate.metric": "dice/organ",
        },
    )
    progress = Progress()
    measured = [
        {"loss": 1.0, "validation_loss": 1.0, "dice": 0.5, "dice/organ": 0.5, "dice/core": 0.5},
        {"loss": 0.5, "validation_loss": 0.5, "dice": 0.6, "dice/organ": 0.4, "dice/core": 0.4},
        {"loss": 0.4, "validation_loss": 0.6, "dice": 0.7, "dice/organ": 0.9, "dice/core": None},
    ]
    assert [progress.judge(metrics, epoch, config) for epoch, metrics in enumerate(measured, 1)] == [True, False, True]
    assert (progress.lowered, progress.stopping.since, progress.best_epoch) == (1, 1, 3)


def test_an_epoch_without_a_validation_counts_for_nothing_but_the_loss(make_config: Callable[..., Any]) -> None:
    config = make_config(Path("unused"), {"train.schedule": PLATEAU, "train.early_stop": {"patience": 3}})
    progress = Progress()
    progress.judge({"loss": 1.0, "dice": 0.5}, 1, config)
    for epoch in range(2, 6):
        assert not progress.judge({"loss": 1.0}, epoch, config)
    assert progress.stopping.since == 0
    assert progress.lowered == 2


def test_the_log_tells_when_the_rate_falls(make_config: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    config = make_config(Path("unused"), {"train.schedule": {**PLATEAU, "patience": 0}})
    progress = Progress()
    with caplog.at_level(logging.INFO, "medunet"):
        progress.judge({"loss": 1.0}, 1, config)
        assert caplog.text == ""
        progress.judge({"loss": 1.0}, 2, config)
    assert "loss has not got better for a while: the learning rate falls." in caplog.text
