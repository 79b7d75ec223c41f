"""Label maps, truths and losses that the tests of losses share."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from medunet.config.losses import LossTerm
from medunet.labels import LabelMap
from medunet.losses.registry import build_loss
from medunet.losses.truth import Truth

TERM: TypeAdapter[Any] = TypeAdapter(LossTerm)
EXCLUSIVE = {"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 9}
NESTED = {"background": 0, "a": [1, 2, 3], "b": [2, 3], "c": 3, "ignore": 9}


class Scene:
    """Labels, and what fits them."""

    def __init__(self, labels: dict[str, Any], spatial: tuple[int, ...]) -> None:
        self.labels = LabelMap.from_mapping(labels)
        self.nested = self.labels.nested
        self.spatial = spatial

    def loss(self, *terms: dict[str, Any], heads: int = 1) -> nn.Module:
        return build_loss([TERM.validate_python(term) for term in terms], self.labels, heads)

    def logits(self, spatial: tuple[int, ...] | None = None, seed: int = 0, batch: int = 2) -> Tensor:
        shape = (batch, self.labels.outputs, *(spatial or self.spatial))
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2

    def truth(self, spatial: tuple[int, ...] | None = None, seed: int = 1, batch: int = 2, labels: int = 4) -> Truth:
        """Every label somewhere, and a weight map from 1 to 3."""
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, 1, *(spatial or self.spatial))
        index = torch.randint(0, labels, shape, generator=generator)
        return Truth(index, weight=torch.rand(shape, generator=generator) * 2 + 1)

    def certain(self, index: Tensor, sure: float = 60.0) -> Tensor:
        """Logits (B, C, *S) that are sure of `index` (B, 1, *S)."""
        rows = torch.as_tensor(self.labels.membership)[:, index.squeeze(1)].movedim(0, 1)
        return (rows[:, 1:] * 2.0 - 1).double() * sure if self.nested else rows.double() * sure


@pytest.fixture(params=[EXCLUSIVE, NESTED], ids=["softmax", "sigmoid"])
def labels(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On arrays this small, threads wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def spatial() -> tuple[int, ...]:
    """Of `scene`, where a test says nothing else."""
    return (3, 3, 4)


@pytest.fixture
def scene(labels: dict[str, Any], spatial: tuple[int, ...]) -> Scene:
    return Scene(labels, spatial)


@pytest.fixture
def make_scene() -> Callable[[dict[str, Any], tuple[int, ...]], Scene]:
    return Scene


@pytest.fixture(scope="session")
def formulas() -> ModuleType:
    path = Path(__file__).with_name("formulas.py")
    spec = importlib.util.spec_from_file_location("loss_formulas", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
