"""What every loss of the table keeps, for softmax and sigmoid, in 2D and 3D."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medunet.config.losses import LossTerm
from medunet.losses.registry import LOSSES
from medunet.losses.truth import Truth

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "cross_entropy": [
        {},
        {"class_weights": {"a": 3.0, "c": 0.5}},
        {"label_smoothing": 0.2},
        {"label_smoothing": 0.1, "class_weights": {"b": 2.0}},
    ],
    "bce": [
        {},
        {"class_weights": {"a": 3.0, "c": 0.5}},
        {"positive_weight": 4.0},
        {"label_smoothing": 0.2, "positive_weight": 2.0},
    ],
    "dice": [
        {},
        {"background": True},
        {"batch": True},
        {"squared": True},
        {"generalised": True},
        {"generalised": True, "batch": True, "background": True},
    ],
    "iou": [{}, {"batch": True}],
    "tversky": [{}, {"batch": True, "alpha": 0.0}],
    "focal_tversky": [{}, {"gamma": 3.0, "background": True}],
    "focal": [{}, {"gamma": 0.5}, {"class_weights": {"a": 3.0, "c": 0.5}}],
    "topk_ce": [{}, {"percent": 55.0}],
    "boundary_weighted_ce": [{}],
    "hausdorff": [{}, {"alpha": 1.0}],
    "cldice": [{"iterations": 2}],
    "surface": [{}],
}
"""Options to test each loss with: the first are its own, or cheap."""

TERMS = [{"name": name, **options} for name, variants in VARIANTS.items() for options in variants]
FIRST = [{"name": name, **variants[0]} for name, variants in VARIANTS.items()]
DIVIDING = {"batch", "generalised", "class_weights", "label_smoothing"}
"""Options that change what a mean divides by."""

FLAT, SOLID = (5, 4), (3, 3, 4)
GEOMETRIC = {"hausdorff", "surface", "cldice"}
"""To all others a voxel is a voxel, whatever its neighbours: what they do in 3D they do in 2D."""


def over(terms: list[dict[str, Any]]) -> pytest.MarkDecorator:
    """Each term in 3D, and those that look at neighbours in 2D too."""
    pairs = [(term, shape) for term in terms for shape in (SOLID, FLAT) if shape is SOLID or term["name"] in GEOMETRIC]
    names = [f"{len(shape)}D-" + "-".join(str(value) for value in term.values()) for term, shape in pairs]
    return pytest.mark.parametrize(("term", "spatial"), pairs, ids=names)


EVERY = over(TERMS)
SHARP = over([term for term in TERMS if "label_smoothing" not in term])
EACH = over(FIRST)
MOST = over([term for term in TERMS if term in FIRST or term.keys() & DIVIDING])

IGNORED = 255
SOME = torch.tensor([[True, True, False, True], [True, False, True, True]])
"""Which of the four labels two cases were annotated for."""


FP16_SCALE = 2.0**16
"""What training in fp16 multiplies the loss by at first."""


def gradient(loss: Any, logits: Tensor, truth: Truth, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Value and gradient; the gradient is that of `scale` times the loss."""
    leaf = logits.detach().clone().requires_grad_()
    value = loss(leaf, truth)
    (value * scale).backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def sample(formulas: ModuleType, scene: Any, logits: Tensor, truth: Truth) -> Any:
    """What the formulas take."""
    assert truth.weight is not None
    return formulas.sample(
        logits.numpy(),
        truth.labels.numpy(),
        scene.labels.names,
        membership=scene.labels.membership,
        nested=scene.nested,
        ignore=IGNORED,
        annotated=None if truth.annotated is None else truth.annotated.numpy(),
        weight=truth.weight.numpy(),
    )


SIDES = dict.fromkeys(GEOMETRIC, 48) | dict.fromkeys(["dice", "iou", "tversky", "focal_tversky", "topk_ce"], 96)
"""Of large volumes: more where sums over voxels are compared, less where a voxel costs more; else 64."""

Large = Callable[[dict[str, Any]], tuple[Tensor, Truth, Any]]


@pytest.fixture
def large(make_scene: Callable[..., Any]) -> Large:
    """Logits from -60 to 60, which every type holds exactly."""

    def build(term: dict[str, Any]) -> tuple[Tensor, Truth, Any]:
        side = SIDES.get(term["name"], 64)
        scene = make_scene({"background": 0, "a": 1}, (side, side, side))
        generator = torch.Generator().manual_seed(2)
        index = torch.zeros(1, 1, side, side, side, dtype=torch.uint8)
        index[..., side // 4 : side // 2] = 1
        logits = torch.randint(-60, 61, (1, 2, side, side, side), generator=generator).float()
        return logits, Truth(index, weight=torch.ones(index.shape)), scene.loss({"name": term["name"]})

    return build


def with_ignored(truth: Truth) -> Truth:
    """A third of the voxels becomes unknown."""
    hidden = torch.rand(truth.labels.shape, generator=torch.Generator().manual_seed(5)) < 1 / 3
    return dataclasses.replace(truth, labels=truth.labels.masked_fill(hidden, IGNORED))


def test_every_loss_of_the_config_is_in_the_table_and_is_tested(formulas: ModuleType) -> None:
    union, _ = typing.get_args(LossTerm)
    options = {typing.get_args(option.model_fields["name"].annotation)[0]: option for option in typing.get_args(union)}
    assert {name: row.options for name, row in LOSSES.items()} == options
    assert set(VARIANTS) == set(LOSSES)
    assert set(formulas.FORMULAS) == set(LOSSES)


@EVERY
@pytest.mark.parametrize("partial", [False, True], ids=["known", "ignored and partly annotated"])
def test_it_is_what_the_formula_says(term: dict[str, Any], scene: Any, formulas: ModuleType, partial: bool) -> None:
    check_formula(term, scene, formulas, partial=partial)


@pytest.mark.parametrize("term", FIRST, ids=VARIANTS)
@pytest.mark.parametrize("spatial", [FLAT])
def test_it_is_what_the_formula_says_in_2d(term: dict[str, Any], scene: Any, formulas: ModuleType) -> None:
    assert len(scene.spatial) == 2
    check_formula(term, scene, formulas, partial=True)


def check_formula(term: dict[str, Any], scene: Any, formulas: ModuleType, *, partial: bool) -> None:
    logits, truth = scene.logits(), scene.truth()
    truth = dataclasses.replace(with_ignored(truth), annotated=SOME) if partial else truth
    options = {key: value for key, value in term.items() if key != "name"}
    expected = formulas.FORMULAS[term["name"]](sample(formulas, scene, logits, truth), **options)
    assert scene.loss(term)(logits, truth).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@SHARP
def test_a_perfect_prediction_costs_least(term: dict[str, Any], scene: Any, formulas: ModuleType) -> None:
    """Nothing; the surface loss has a minimum below 0."""
    loss, truth = scene.loss(term), scene.truth()
    perfect = scene.certain(truth.labels)
    value, slope = gradient(loss, perfect, truth)
    least = formulas.surface(sample(formulas, scene, perfect, truth)) if term["name"] == "surface" else 0
    assert value.item() == pytest.approx(least, abs=1e-6)
    assert (least < 0) == (term["name"] == "surface")
    assert slope.abs().max() < 1e-6
    assert loss(perfect + scene.logits(seed=3) * 20, truth) > value
    assert loss(-perfect, truth) > loss(torch.zeros_like(perfect), truth) > value


@EVERY
def test_its_gradient_is_that_of_finite_differences(term: dict[str, Any], scene: Any) -> None:
    spatial = (3, 2) if len(scene.spatial) == 2 else (2, 2, 2)
    truth = with_ignored(scene.truth(spatial))
    truth = dataclasses.replace(truth, annotated=SOME)
    loss = scene.loss(term)
    logits = scene.logits(spatial).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, truth), (logits,), fast_mode=True)


@MOST
def test_ignored_voxels_change_nothing(term: dict[str, Any], scene: Any) -> None:
    truth = with_ignored(scene.truth())
    loss = scene.loss(term)
    hidden = (truth.labels == IGNORED).expand_as(scene.logits())
    value, slope = gradient(loss, scene.logits(), truth)
    assert (slope[hidden] == 0).all()
    assert (slope[~hidden] != 0).any()
    changed = torch.where(hidden, scene.logits(seed=9) * 10, scene.logits())
    value_changed, slope_changed = gradient(loss, changed, truth)
    torch.testing.assert_close(value_changed, value, rtol=0, atol=0)
    torch.testing.assert_close(slope_changed, slope, rtol=0, atol=0)


@MOST
def test_ignoring_the_last_rows_is_cropping_them(term: dict[str, Any], scene: Any) -> None:
    rows = scene.spatial[0] - 1
    truth = scene.truth()
    hidden = truth.labels.clone()
    hidden[:, :, rows:] = IGNORED
    crop = Truth(truth.labels[:, :, :rows], weight=truth.weight[:, :, :rows])
    value, slope = gradient(scene.loss(term), scene.logits(), dataclasses.replace(truth, labels=hidden))
    cropped, crop_slope = gradient(scene.loss(term), scene.logits()[:, :, :rows], crop)
    torch.testing.assert_close(value, cropped)
    torch.testing.assert_close(slope[:, :, :rows], crop_slope)


@MOST
def test_a_batch_without_a_known_voxel_costs_nothing(term: dict[str, Any], scene: Any) -> None:
    truth, logits = scene.truth(), scene.logits().float()
    for annotated in (None, torch.tensor([[True, False, False, False]] * 2)):
        hidden = Truth(torch.full_like(truth.labels, IGNORED), annotated, truth.weight)
        value, slope = gradient(scene.loss(term), logits, hidden, FP16_SCALE)
        assert value == 0
        assert (slope == 0).all()


@MOST
def test_an_output_without_a_known_voxel_costs_nothing(term: dict[str, Any], scene: Any) -> None:
    """The first row is known, which the coarser output does not meet."""
    truth = scene.truth()
    labels = truth.labels.clone()
    labels[:, :, 1:] = IGNORED
    truth = dataclasses.replace(truth, labels=labels)
    small = tuple(size // 2 for size in scene.spatial)
    fine, coarse = (logits.float().requires_grad_() for logits in (scene.logits(), scene.logits(small)))
    (scene.loss(term, heads=2)((fine, coarse), truth) * FP16_SCALE).backward()
    _, slope = gradient(scene.loss(term), fine, truth, FP16_SCALE)
    assert coarse.grad is not None
    assert (coarse.grad == 0).all()
    torch.testing.assert_close(fine.grad, slope * 2 / 3, rtol=1e-4, atol=1e-7 * FP16_SCALE)


@EVERY
def test_empty_foreground_is_learned_as_such(term: dict[str, Any], scene: Any) -> None:
    """No NaN, nothing pushes towards structures that are not there, and a step downhill costs less.

    The soft skeleton of a smooth blob is thinner than that of a rough one, so clDice may raise a probability.
    """
    truth = scene.truth(labels=1)
    loss = scene.loss(term)
    present = torch.full_like(truth.labels, 3)
    for sure in (0.0, 3.0, 80.0):
        logits = scene.certain(present, sure) + scene.logits() / 10
        value, slope = gradient(loss, logits, truth)
        assert torch.isfinite(value)
        assert torch.isfinite(slope).all()
        structures = slope if scene.nested else slope[:, 1:]
        if "label_smoothing" not in term and term["name"] != "cldice":
            assert structures.sum() >= -1e-12
        if sure < 80 and (slope != 0).any():
            assert loss(logits - 1e-3 * slope / slope.abs().max(), truth) < value


@EACH
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_the_gradient_of_half_precision_is_finite(term: dict[str, Any], scene: Any, kind: torch.dtype) -> None:
    truth = dataclasses.replace(with_ignored(scene.truth(labels=2)), annotated=SOME)
    for scale in (1.0, 300.0, 30000.0):
        logits = (scene.logits() * scale / 8).to(kind)
        value, slope = gradient(scene.loss(term), logits, truth)
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert torch.isfinite(slope).all()
        # As float32, since fp16 may be too small for the product: then training lowers the factor.
        _, scaled = gradient(scene.loss(term), logits.float(), truth, FP16_SCALE)
        assert torch.isfinite(scaled).all()


@pytest.mark.parametrize("term", FIRST, ids=VARIANTS)
def test_large_volumes_in_half_precision_do_not_overflow(term: dict[str, Any], large: Large) -> None:
    logits, truth, loss = large(term)
    value, slope = gradient(loss, logits.half(), truth, FP16_SCALE)
    torch.testing.assert_close(value.double(), loss(logits.double(), truth), rtol=1e-5, atol=1e-6)
    assert torch.isfinite(slope).all()


@EVERY
def test_a_label_without_annotation_is_not_pushed_away(term: dict[str, Any], scene: Any) -> None:
    """Softmax: only the sum of its and the background's probability matters. Sigmoid: nothing about it matters."""
    annotated = torch.tensor([[True, True, False, True]] * 2)
    index = scene.truth().labels
    truth = dataclasses.replace(scene.truth(), labels=index.masked_fill(index == 2, 0), annotated=annotated)
    loss, logits = scene.loss(term), scene.logits()
    value, slope = gradient(loss, logits, truth)
    if scene.nested:
        assert (slope[:, 1] == 0).all()
        return
    probability = logits.softmax(1)
    torch.testing.assert_close(slope[:, 0] * probability[:, 2], slope[:, 2] * probability[:, 0])
    both = logits[:, [0, 2]].logsumexp(1)
    moved = logits.clone()
    moved[:, 2] = both - 0.1
    moved[:, 0] = both + np.log1p(-np.exp(-0.1))
    torch.testing.assert_close(loss(moved, truth), value)


@EVERY
def test_a_label_that_the_case_was_not_annotated_for_counts_as_background(
    term: dict[str, Any], make_scene: Callable[..., Any], spatial: tuple[int, ...]
) -> None:
    """For softmax; for sigmoid its channel does not count at all."""
    scene = make_scene({"background": 0, "a": 1, "b": 2, "c": 3}, spatial)
    annotated = torch.tensor([[True, True, False, True]] * 2)
    found = dataclasses.replace(scene.truth(), annotated=annotated)
    left_out = dataclasses.replace(found, labels=found.labels.masked_fill(found.labels == 2, 0))
    loss, logits = scene.loss(term), scene.logits()
    torch.testing.assert_close(loss(logits, found), loss(logits, left_out))


@EACH
def test_annotated_for_all_is_the_same_as_nothing_said(term: dict[str, Any], scene: Any) -> None:
    loss, logits, truth = scene.loss(term), scene.logits(), scene.truth()
    all_of_them = dataclasses.replace(truth, annotated=torch.ones(2, 4, dtype=torch.bool))
    value, slope = gradient(loss, logits, truth)
    value_again, slope_again = gradient(loss, logits, all_of_them)
    torch.testing.assert_close(value_again, value)
    torch.testing.assert_close(slope_again, slope)


@EACH
def test_truths_of_every_integer_type_are_understood(term: dict[str, Any], scene: Any) -> None:
    truth = with_ignored(scene.truth())
    loss = scene.loss(term)
    for kind in (torch.uint8, torch.int16, torch.uint16, torch.int32):
        typed = dataclasses.replace(truth, labels=truth.labels.to(kind))
        assert loss(scene.logits(), typed) == loss(scene.logits(), truth)


@pytest.mark.gpu
@EACH
def test_it_is_deterministic_on_a_gpu_and_equals_the_cpu(term: dict[str, Any], scene: Any) -> None:
    truth = dataclasses.replace(with_ignored(scene.truth()), annotated=SOME)
    loss, logits = scene.loss(term), scene.logits().float()
    expected, expected_slope = gradient(loss, logits, truth)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        runs = [gradient(loss, logits.cuda(), truth) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(before)
    for value, slope in runs:
        torch.testing.assert_close(value.cpu(), expected)
        torch.testing.assert_close(slope.cpu(), expected_slope)
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
