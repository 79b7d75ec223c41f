"""How many processes prepare patches."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medunet.training.workers import automatic_workers, shared_room

PLENTY = 1 << 30
FLAT = {
    "network.dims": 2,
    "preprocess.orientation": "RA",
    "preprocess.spacing": None,
    "train.patch_size": [64, 64],
    "train.batch_size": 8,
}
NEEDED = 2 * 5 * 8 * 2 * 64 * 64 * 4
"""Bytes of twice five batches of patches with one channel and their labels."""


@pytest.fixture
def workers(tiny_dataset: Path, make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "fork")

    def count(changes: dict[str, Any], device: str, cores: float, processes: int = 1, room: int = PLENTY) -> int:
        config = make_config(tiny_dataset, {"train.workers": "auto", **changes})
        return automatic_workers(config, torch.device(device), processes, lambda: cores, lambda: room)

    return count


@pytest.mark.parametrize(("cores", "processes", "expected"), [(16, 1, 8), (4, 1, 3), (1, 1, 1), (16, 4, 3)])
def test_a_gpu_has_up_to_eight_of_its_share(
    workers: Callable[..., int], cores: float, processes: int, expected: int
) -> None:
    assert workers({}, "cuda", cores, processes) == expected


def test_a_processor_has_none_in_3d_and_one_in_2d(workers: Callable[..., int]) -> None:
    assert workers({}, "cpu", 16) == 0
    assert workers(FLAT, "cpu", 16) == 1
    assert workers(FLAT, "cpu", 2) == 1


def test_a_wish_is_followed(workers: Callable[..., int]) -> None:
    assert workers({"train.workers": 5}, "cpu", 2) == 5
    assert workers({**FLAT, "train.workers": 0}, "cpu", 16) == 0


def test_one_core_is_the_networks_alone(workers: Callable[..., int]) -> None:
    assert workers(FLAT, "cpu", 1.5) == 0
    assert workers(FLAT, "cpu", 4, processes=4) == 0


def test_batches_have_to_find_room_in_shared_memory(workers: Callable[..., int]) -> None:
    assert workers(FLAT, "cpu", 16, room=NEEDED) == 1
    assert workers(FLAT, "cpu", 16, room=NEEDED - 1) == 0
    assert workers(FLAT, "cpu", 16, processes=2, room=2 * NEEDED - 1) == 0


def test_a_process_that_would_need_a_copy_of_the_cases_is_none(
    workers: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    assert workers(FLAT, "cpu", 16) == 0


def test_the_room_of_this_machine_is_told() -> None:
    assert shared_room() >= 0
