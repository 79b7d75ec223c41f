"""Of a batch that two processes share, each gets the loss of the whole, and its part of the gradient."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from medunet.config.losses import LossTerm
from medunet.labels import LabelMap
from medunet.losses.across import across, gathered, processes, total, totals
from medunet.losses.registry import LOSSES, build_loss
from medunet.losses.truth import Truth

SCRIPT = Path(__file__).with_name("shared_batches.py")
EXCLUSIVE = {"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 9}
NESTED = {"background": 0, "a": [1, 2, 3], "b": [2, 3], "c": 3, "ignore": 9}
TERM: TypeAdapter[Any] = TypeAdapter(LossTerm)
TERMS: tuple[dict[str, Any], ...] = (
    {"name": "cross_entropy"},
    {"name": "cross_entropy", "label_smoothing": 0.1, "class_weights": {"b": 2.0}},
    {"name": "bce", "positive_weight": 4.0, "label_smoothing": 0.2},
    {"name": "dice"},
    {"name": "dice", "batch": True, "background": True},
    {"name": "dice", "generalised": True},
    {"name": "dice", "generalised": True, "batch": True},
    {"name": "iou", "batch": True},
    {"name": "tversky", "alpha": 0.2},
    {"name": "focal_tversky"},
    {"name": "focal"},
    {"name": "topk_ce"},
    {"name": "topk_ce", "percent": 55.0},
    {"name": "boundary_weighted_ce"},
    {"name": "hausdorff"},
    {"name": "cldice", "iterations": 2},
    {"name": "surface"},
)
NOTHING = (TERMS[0], TERMS[4], TERMS[11])
"""Losses that are tried where nothing is known at all."""

SIZE, BATCH, SHAPE = 2, 4, (4, 3, 4)
ANNOTATED = torch.tensor([[True, True, False, True], [True, False, True, True], [True] * 4, [True, False, False, True]])

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks"),
    pytest.mark.xdist_group("across"),  # the script runs once, not once per worker
]


def jobs() -> dict[str, dict[str, Any]]:
    """By name, all that a loss is computed from: everything known, and most of it unknown in one half of the batch."""
    found: dict[str, dict[str, Any]] = {}
    for kind, labels in (("softmax", EXCLUSIVE), ("sigmoid", NESTED)):
        known = LabelMap.from_mapping(labels)
        draw = torch.Generator().manual_seed(1)
        index = torch.randint(0, len(known), (BATCH, 1, *SHAPE), generator=draw)
        logits = torch.randn(BATCH, known.outputs, *SHAPE, generator=draw, dtype=torch.float64)
        coarse = torch.randn(BATCH, known.outputs, 2, 2, 2, generator=draw, dtype=torch.float64)
        weight = torch.rand(BATCH, 1, *SHAPE, generator=draw) + 1
        partly = index.clone()
        partly[0::2, :, 1:] = known.ignore_index
        partly[2] = known.ignore_index
        nothing = torch.full_like(index, known.ignore_index)

        def add(name: str, term: dict[str, Any], truth: tuple[Any, ...], *more: Tensor) -> None:
            found[name] = {"labels": labels, "term": term, "truth": truth, "outputs": [logits, *more]}  # noqa: B023

        for term in TERMS:
            name = "-".join([kind, *map(str, term.values())])
            add(f"{name}-known", term, (index, None, weight))
            add(f"{name}-partly", term, (partly, ANNOTATED, weight))
        for term in NOTHING:
            add(f"{kind}-{term['name']}-nothing", term, (nothing, None, None))
        add(f"{kind}-heads", {"name": "dice", "batch": True}, (partly, ANNOTATED, weight), coarse)
    return found


JOBS = jobs()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes got, by name of the job."""
    folder = tmp_path_factory.mktemp("shared")
    torch.save(list(JOBS.values()), folder / "jobs")
    done = subprocess.run(
        [sys.executable, SCRIPT, folder / "jobs", folder], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [dict(zip(JOBS, torch.load(folder / str(rank)), strict=True)) for rank in range(SIZE)]


def alone(job: dict[str, Any]) -> tuple[float, list[Tensor]]:
    """Value and gradients of the whole batch in this process."""
    outputs = [logits.clone().requires_grad_() for logits in job["outputs"]]
    loss = build_loss([TERM.validate_python(job["term"])], LabelMap.from_mapping(job["labels"]), len(outputs))
    value = loss(outputs[0] if len(outputs) == 1 else tuple(outputs), Truth(*job["truth"]))
    value.backward()
    return float(value.detach()), [output.grad for output in outputs if output.grad is not None]


@pytest.mark.parametrize("name", JOBS)
def test_both_processes_get_the_loss_of_the_whole_batch(shared: list[dict[str, Any]], name: str) -> None:
    value, _ = alone(JOBS[name])
    found = [results[name][0] for results in shared]
    assert found[0] == found[1]
    assert found[0] == pytest.approx(value, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", JOBS)
def test_the_mean_over_processes_is_the_gradient_of_the_whole_batch(shared: list[dict[str, Any]], name: str) -> None:
    """DistributedDataParallel takes that mean, in which each process's own samples count 1/R."""
    _, whole = alone(JOBS[name])
    for rank, results in enumerate(shared):
        gradients = results[name][1]
        assert len(gradients) == len(whole)
        for gradient, expected in zip(gradients, whole, strict=True):
            torch.testing.assert_close(gradient / SIZE, expected[rank::SIZE], rtol=1e-9, atol=1e-12)


def test_every_loss_of_the_table_is_shared() -> None:
    assert {term["name"] for term in TERMS} == set(LOSSES)


def test_a_half_of_the_batch_is_not_the_whole() -> None:
    """Guards the guard: means of two halves, which averaging gradients alone would give, are another number."""
    job = JOBS["softmax-cross_entropy-partly"]
    halves = [
        alone({**job, "outputs": [job["outputs"][0][rank::SIZE]], "truth": [part[rank::SIZE] for part in job["truth"]]})
        for rank in range(SIZE)
    ]
    assert sum(value for value, _ in halves) / SIZE != pytest.approx(alone(job)[0], rel=1e-3)


def test_with_one_process_sums_are_what_they_are() -> None:
    """No process group is there: any message would raise."""
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    with across(1):
        assert processes() == 1
        assert total(values) is values
        assert totals(values, values)[1] is values
        assert gathered(values)[0].shape == (1, 2)
    with across(2):
        assert processes() == 2
    assert processes() == 1
