"""Out of memory: fewer windows, then the CPU; anything else is an error as it was."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from medunet.engines.backoff import BackingOff
from medunet.errors import ModelError, OutOfMemoryError


class Small:
    """A device with room for `most` windows."""

    name = "torch"
    precision = torch.float32
    at_once = 4

    def __init__(self, most: int, device: str = "meta") -> None:
        self.most = most
        self.device = torch.device(device)
        self.calls: list[int] = []

    def __call__(self, patches: Tensor) -> Tensor:
        self.calls.append(len(patches))
        if len(patches) > self.most:
            raise OutOfMemoryError(f"{self.device} is full.")
        return 2 * patches

    def working_bytes(self, shape: tuple[int, ...]) -> int:
        return shape[0]


PATCHES = torch.arange(6.0).view(6, 1, 1, 1)


def refuse() -> Small:
    raise AssertionError("the CPU is not needed")


def test_what_fits_is_left_alone() -> None:
    small = Small(6)
    engine = BackingOff(small, refuse)
    assert torch.equal(engine(PATCHES), 2 * PATCHES)
    assert small.calls == [6]
    assert (engine.name, engine.at_once, engine.precision, engine.device.type) == ("torch", 4, torch.float32, "meta")
    assert engine.working_bytes((3, 1, 8)) == 3


def test_fewer_windows_are_tried_and_remembered(caplog: pytest.LogCaptureFixture) -> None:
    small = Small(2)
    engine = BackingOff(small, refuse)
    with caplog.at_level(logging.WARNING, "medunet"):
        assert torch.equal(engine(PATCHES), 2 * PATCHES)
        assert torch.equal(engine(PATCHES), 2 * PATCHES)
    assert small.calls == [6, 3, *[1] * 12]
    assert "at a time" in caplog.text


def test_when_not_even_one_fits_the_cpu_takes_over() -> None:
    cpu = Small(10, "cpu")
    engine = BackingOff(Small(0), lambda: cpu)
    assert torch.equal(engine(PATCHES[:2]), 2 * PATCHES[:2])
    assert engine.device.type == "cpu"
    assert cpu.calls


def test_a_cpu_without_memory_is_the_end() -> None:
    with pytest.raises(OutOfMemoryError, match="cpu is full"):
        BackingOff(Small(0, "cpu"), refuse)(PATCHES)


def test_other_errors_are_not_taken_for_it() -> None:
    class Broken(Small):
        def __call__(self, patches: Tensor) -> Tensor:
            raise RuntimeError(f"probably due to a lack of memory, {len(patches)}")

    with pytest.raises(RuntimeError, match="probably"):
        BackingOff(Broken(1), refuse)(PATCHES)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_an_error_and_no_mask(value: float) -> None:
    patches = PATCHES.clone()
    patches[3] = value
    with pytest.raises(ModelError, match="infinite numbers or NaN for this image in float32"):
        BackingOff(Small(6), refuse)(patches)
