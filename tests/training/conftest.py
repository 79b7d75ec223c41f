"""Steps without a run: the parts of a tiny training, and batches for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

Batch = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """`make_batch(seed, scale, size=2)`: noise (size, 1, 16, 16, 16) and indices by its value."""

    def make(seed: int = 0, scale: float = 1.0, size: int = 2) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        image = torch.randn(size, 1, 16, 16, 16, generator=generator) * scale
        return {"image": image, "label": (image > 0.5).long() + (image > 1.2).long()}

    return make


@pytest.fixture
def made(make_config: Callable[..., Any]) -> Callable[..., tuple[Any, Callable[..., dict[str, float]]]]:
    """`made(changes, **options of Stepper)` gives parts, and `update(batch, step=1)` that makes a step with them."""
    from medunet.labels import LabelMap
    from medunet.training.parts import build_parts
    from medunet.training.progress import Progress
    from medunet.training.schedule import Clock
    from medunet.training.step import Stepper

    def make(changes: dict[str, Any] | None = None, **options: Any) -> tuple[Any, Callable[..., dict[str, float]]]:
        config = make_config(Path("unused"), changes)
        torch.manual_seed(0)
        parts = build_parts(config, torch.device("cpu"), labels=LabelMap.from_mapping(config.labels))
        update = Stepper(parts, config, Clock(config.train), Progress(), **options)
        return parts, lambda batch, step=1: update(SimpleNamespace(state=SimpleNamespace(iteration=step)), batch)

    return make
