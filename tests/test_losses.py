"""Losses against values computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from medunet.config.schema import LossTerm
from medunet.losses import LOSSES, build_loss, supervision_weights

TERMS: dict[str, dict[str, Any]] = {
    "dice": {"name": "dice"},
    "batch dice": {"name": "dice", "batch": True},
    "cross-entropy": {"name": "cross_entropy"},
    "tversky": {"name": "tversky"},
    "batch tversky": {"name": "tversky", "batch": True, "alpha": 0.5, "beta": 0.5},
    "focal": {"name": "focal"},
    "weak focal": {"name": "focal", "gamma": 0.5},
}
EVERY = pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
SHAPES = pytest.mark.parametrize("shape", [(8, 6), (8, 6, 4)], ids=["2D", "3D"])
TARGET_TYPES = pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])


def loss_of(*terms: dict[str, Any], heads: int = 1) -> Callable[..., Tensor]:
    adapter: TypeAdapter[Any] = TypeAdapter(LossTerm)
    return build_loss([adapter.validate_python(term) for term in terms], heads)


def perfect(target: Tensor, labels: int, sure: float = 30.0) -> Tensor:
    """Logits that are certain of `target` (B, 1, *S)."""
    return torch.nn.functional.one_hot(target.squeeze(1).long(), labels).movedim(-1, 1).float() * sure


def halves(shape: tuple[int, ...], batch: int = 2) -> Tensor:
    """Label 1 in the first half of the first axis, 0 in the other."""
    target = torch.zeros(batch, 1, *shape, dtype=torch.uint8)
    target[:, :, : shape[0] // 2] = 1
    return target


def test_the_table_names_every_loss_that_a_config_may_name() -> None:
    assert set(LOSSES) == {term["name"] for term in TERMS.values()}


@EVERY
@SHAPES
def test_a_certain_and_right_prediction_costs_nothing(term: dict[str, Any], shape: tuple[int, ...]) -> None:
    target = torch.randint(0, 3, (2, 1, *shape))
    assert loss_of(term)(perfect(target, 3), target).item() == pytest.approx(0, abs=1e-4)


@EVERY
@SHAPES
def test_a_certain_and_wrong_prediction_costs_more_than_ignorance(term: dict[str, Any], shape: tuple[int, ...]) -> None:
    target = halves(shape)
    wrong = loss_of(term)(perfect(1 - target, 2), target)
    assert wrong > loss_of(term)(torch.zeros(2, 2, *shape), target) > 0


@SHAPES
@pytest.mark.parametrize("batch", [False, True])
def test_dice_of_ignorance(shape: tuple[int, ...], batch: bool) -> None:
    # p = 1/2 everywhere, half of N voxels are foreground: 1 - 2 (N/4) / (N/2 + N/2) = 1/2
    loss = loss_of({"name": "dice", "batch": batch})(torch.zeros(2, 2, *shape), halves(shape))
    assert loss.item() == pytest.approx(0.5, abs=1e-5)


@SHAPES
def test_tversky_of_ignorance(shape: tuple[int, ...]) -> None:
    # tp = fp = fn = N/4: 1 - 1 / (1 + alpha + beta)
    loss = loss_of({"name": "tversky", "alpha": 0.3, "beta": 0.9})(torch.zeros(2, 2, *shape), halves(shape))
    assert loss.item() == pytest.approx(1 - 1 / 2.2, abs=1e-5)


def test_tversky_weighs_false_positives_by_alpha_and_false_negatives_by_beta() -> None:
    target = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    target[0, 0, :2] = 1
    too_much = perfect(torch.ones_like(target), 2)  # tp 8, fp 8
    too_little = perfect(target * torch.tensor([[1], [0], [0], [0]]), 2)  # tp 4, fn 4
    loss = loss_of({"name": "tversky", "alpha": 0.2, "beta": 0.6})
    assert loss(too_much, target).item() == pytest.approx(1 - 8 / (8 + 0.2 * 8), abs=1e-4)
    assert loss(too_little, target).item() == pytest.approx(1 - 4 / (4 + 0.6 * 4), abs=1e-4)


@SHAPES
@pytest.mark.parametrize("labels", [2, 5])
def test_cross_entropy_of_ignorance(shape: tuple[int, ...], labels: int) -> None:
    loss = loss_of({"name": "cross_entropy"})(torch.zeros(2, labels, *shape), halves(shape))
    assert loss.item() == pytest.approx(math.log(labels), rel=1e-5)


@SHAPES
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_of_ignorance(shape: tuple[int, ...], gamma: float) -> None:
    loss = loss_of({"name": "focal", "gamma": gamma})(torch.zeros(2, 4, *shape), halves(shape))
    assert loss.item() == pytest.approx(0.75**gamma * math.log(4), rel=1e-5)


@SHAPES
def test_focal_with_gamma_zero_is_cross_entropy(shape: tuple[int, ...]) -> None:
    logits, target = torch.randn(2, 3, *shape), torch.randint(0, 3, (2, 1, *shape))
    focal = loss_of({"name": "focal", "gamma": 0.0})(logits, target)
    torch.testing.assert_close(focal, loss_of({"name": "cross_entropy"})(logits, target))


def test_dice_leaves_background_out() -> None:
    """Two labels change places with each other, the background is right: all of the foreground is wrong."""
    target = torch.zeros(1, 1, 6, 4, dtype=torch.uint8)
    target[0, 0, :2], target[0, 0, 2:4] = 1, 2
    swapped = torch.tensor([0, 2, 1], dtype=torch.uint8)[target.long()]
    assert loss_of({"name": "dice"})(perfect(swapped, 3), target).item() == pytest.approx(1, abs=1e-4)


def test_an_absent_structure_that_is_not_predicted_costs_nothing() -> None:
    target = torch.zeros(1, 1, 6, 4, dtype=torch.uint8)
    for name in ("dice", "tversky"):
        assert loss_of({"name": name})(perfect(target, 3, sure=60), target).item() == pytest.approx(0, abs=1e-3)


def test_dice_over_the_batch_is_not_the_mean_of_patches() -> None:
    target = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    target[0] = 1  # all foreground in one patch, none in the other
    logits = torch.zeros(2, 2, 4, 4)
    # patch by patch: 1 - 2*8/(8+16) = 1/3 and 1 - 0/8 = 1; together: 1 - 2*8/(16+16) = 1/2
    assert loss_of({"name": "dice"})(logits, target).item() == pytest.approx(2 / 3, abs=1e-5)
    assert loss_of({"name": "dice", "batch": True})(logits, target).item() == pytest.approx(0.5, abs=1e-5)


@EVERY
@SHAPES
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_gradients_are_finite(
    term: dict[str, Any], shape: tuple[int, ...], precision: torch.dtype, scale: float
) -> None:
    logits = (torch.randn(2, 4, *shape) * scale).to(precision).requires_grad_()
    target = halves(shape)  # labels 2 and 3 are absent
    loss = loss_of(term)(logits, target)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@EVERY
def test_terms_add_up_with_their_weights(term: dict[str, Any]) -> None:
    logits, target = torch.randn(2, 3, 8, 6), torch.randint(0, 3, (2, 1, 8, 6))
    single, entropy = loss_of(term)(logits, target), loss_of({"name": "cross_entropy"})(logits, target)
    both = loss_of({**term, "weight": 0.25}, {"name": "cross_entropy", "weight": 3.0})(logits, target)
    torch.testing.assert_close(both, 0.25 * single + 3.0 * entropy)


@EVERY
@TARGET_TYPES
def test_targets_of_every_integer_type_are_understood(term: dict[str, Any], dtype: torch.dtype) -> None:
    logits, target = torch.randn(2, 3, 8, 6), torch.randint(0, 3, (2, 1, 8, 6))
    torch.testing.assert_close(loss_of(term)(logits, target.to(dtype)), loss_of(term)(logits, target))


@pytest.mark.parametrize(("heads", "weights"), [(1, [1.0]), (2, [2 / 3, 1 / 3]), (4, [8 / 15, 4 / 15, 2 / 15, 1 / 15])])
def test_supervision_weights_halve_and_sum_to_one(heads: int, weights: list[float]) -> None:
    assert supervision_weights(heads) == pytest.approx(weights)


@SHAPES
@TARGET_TYPES
def test_deep_supervision_is_the_weighted_sum_over_outputs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """The target is constant in blocks of the coarser output, so that shrinking it has one right answer."""
    coarse_shape = tuple(n // 2 for n in shape)
    coarse = torch.randint(0, 300, (2, 1, *coarse_shape)).remainder(3).to(dtype)
    target = coarse
    for axis in range(2, 2 + len(shape)):
        target = target.repeat_interleave(2, dim=axis)
    fine_logits, coarse_logits = torch.randn(2, 3, *shape), torch.randn(2, 3, *coarse_shape)
    terms = ({"name": "dice"}, {"name": "cross_entropy"})
    single = loss_of(*terms)
    both = loss_of(*terms, heads=2)((fine_logits, coarse_logits), target)
    torch.testing.assert_close(both, single(fine_logits, target) * 2 / 3 + single(coarse_logits, coarse) / 3)


@SHAPES
def test_deep_supervision_keeps_labels_beyond_a_byte(shape: tuple[int, ...]) -> None:
    target = torch.full((1, 1, *shape), 299, dtype=torch.int16)
    logits = tuple(torch.zeros(1, 300, *(n // step for n in shape)) for step in (1, 2))
    for output in logits:
        output[:, 299] = 30
    assert loss_of({"name": "cross_entropy"}, heads=2)(logits, target).item() == pytest.approx(0, abs=1e-4)
