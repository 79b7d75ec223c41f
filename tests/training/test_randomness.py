"""The global generators of Python and NumPy: the same numbers for the same seed, and after a checkpoint."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch

from medunet.training.randomness import python_state, seed_python, set_python_state


def draw() -> list[float]:
    return [random.random(), random.gauss(0, 1), *np.random.normal(size=3), *np.random.randint(0, 2**31, 2)]


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_a_seed_decides_what_is_drawn(seed: int) -> None:
    seed_python(seed)
    first = draw()
    assert draw() != first
    seed_python(seed)
    assert draw() == first


def test_the_state_goes_through_a_checkpoint_and_goes_on_where_it_was() -> None:
    seed_python(3)
    draw()
    torch.save(python_state(), buffer := io.BytesIO())
    expected = [draw(), draw()]
    seed_python(0)
    set_python_state(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    assert [draw(), draw()] == expected
