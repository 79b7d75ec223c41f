"""The sum over terms and outputs, and values computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from medunet.losses.registry import supervision_weights
from medunet.losses.truth import Truth

TERMS: list[dict[str, Any]] = [
    {"name": "dice"},
    {"name": "tversky", "alpha": 0.5, "beta": 0.5, "batch": True},
    {"name": "focal"},
    {"name": "hausdorff"},
]
EVERY = pytest.mark.parametrize("term", TERMS, ids=[term["name"] for term in TERMS])
SHAPES = pytest.mark.parametrize("shape", [(8, 6), (8, 6, 4)], ids=["2D", "3D"])
TYPES = pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64])

Make = Callable[..., Any]


def organs(count: int) -> dict[str, int]:
    return {"background": 0, **{f"organ {index}": index for index in range(1, count)}}


def halves(shape: tuple[int, ...], batch: int = 2) -> Tensor:
    """Label 1 in the first half of the first axis, 0 in the other."""
    index = torch.zeros(batch, 1, *shape, dtype=torch.uint8)
    index[:, :, : shape[0] // 2] = 1
    return index


@SHAPES
@pytest.mark.parametrize("batch", [False, True])
def test_dice_of_ignorance(make_scene: Make, shape: tuple[int, ...], batch: bool) -> None:
    # p = 1/2 everywhere, half of N voxels are foreground: 1 - 2 (N/4) / (N/2 + N/2) = 1/2
    loss = make_scene(organs(2), shape).loss({"name": "dice", "batch": batch})
    assert loss(torch.zeros(2, 2, *shape), Truth(halves(shape))).item() == pytest.approx(0.5, abs=1e-5)


def test_tversky_weighs_false_positives_by_alpha_and_false_negatives_by_beta(make_scene: Make) -> None:
    scene = make_scene(organs(2), (4, 4))
    index = halves((4, 4), batch=1)
    too_much = scene.certain(torch.ones(1, 1, 4, 4, dtype=torch.int64))  # hit 8, 8 too many
    too_little = scene.certain((index * torch.tensor([[1], [0], [0], [0]])).long())  # hit 4, 4 missed
    loss = scene.loss({"name": "tversky", "alpha": 0.2, "beta": 0.6})
    assert loss(too_much, Truth(index)).item() == pytest.approx(1 - 8 / (8 + 0.2 * 8), abs=1e-4)
    assert loss(too_little, Truth(index)).item() == pytest.approx(1 - 4 / (4 + 0.6 * 4), abs=1e-4)


def test_dice_leaves_the_background_out_unless_told_otherwise(make_scene: Make) -> None:
    """Two labels change places with each other, the background is right: all of the foreground is wrong."""
    scene = make_scene(organs(3), (6, 4))
    index = torch.zeros(1, 1, 6, 4, dtype=torch.int64)
    index[0, 0, :2], index[0, 0, 2:4] = 1, 2
    swapped = scene.certain(torch.tensor([0, 2, 1])[index])
    assert scene.loss({"name": "dice"})(swapped, Truth(index)).item() == pytest.approx(1, abs=1e-4)
    whole = scene.loss({"name": "dice", "background": True})
    assert whole(swapped, Truth(index)).item() == pytest.approx(2 / 3, abs=1e-4)


def test_dice_over_the_batch_is_not_the_mean_of_cases(make_scene: Make) -> None:
    scene = make_scene(organs(2), (4, 4))
    index = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    index[0] = 1  # all foreground in one case, none in the other
    logits = torch.zeros(2, 2, 4, 4)
    # case by case: 1 - 2*8/(8+16) = 1/3 and 1 - 0/8 = 1; together: 1 - 2*8/(16+16) = 1/2
    assert scene.loss({"name": "dice"})(logits, Truth(index)).item() == pytest.approx(2 / 3, abs=1e-5)
    assert scene.loss({"name": "dice", "batch": True})(logits, Truth(index)).item() == pytest.approx(0.5, abs=1e-5)


def test_generalised_dice_counts_a_small_label_as_much_as_a_large_one(make_scene: Make) -> None:
    """Label 2 has one voxel, label 1 twelve; missing the one costs far more than a share of the voxels."""
    scene = make_scene(organs(3), (4, 4))
    index = torch.zeros(1, 1, 4, 4, dtype=torch.int64)
    index[0, 0, :3], index[0, 0, 3, 0] = 1, 2
    missed = scene.certain(index.masked_fill(index == 2, 0))
    plain, generalised = (
        scene.loss({"name": "dice", "generalised": flag})(missed, Truth(index)).item() for flag in (False, True)
    )
    assert plain == pytest.approx(1 / 2, abs=1e-4)
    assert generalised == pytest.approx(1 - 2 * 12 / 144 / (24 / 144 + 1), abs=1e-4)


@SHAPES
@pytest.mark.parametrize("labels", [2, 5])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_of_ignorance(make_scene: Make, shape: tuple[int, ...], labels: int, gamma: float) -> None:
    loss = make_scene(organs(labels), shape).loss({"name": "focal", "gamma": gamma})
    expected = (1 - 1 / labels) ** gamma * math.log(labels)
    assert loss(torch.zeros(2, labels, *shape), Truth(halves(shape))).item() == pytest.approx(expected, rel=1e-5)


def test_the_hardest_voxels_are_taken_from_the_batch(make_scene: Make) -> None:
    """One of two cases is all wrong: the hardest half of the batch is that case."""
    scene = make_scene(organs(2), (4, 4))
    index = torch.zeros(2, 1, 4, 4, dtype=torch.int64)
    logits = scene.certain(torch.stack([index[0], 1 - index[1]]), sure=5.0)
    hardest = scene.loss({"name": "topk_ce", "percent": 50.0})(logits, Truth(index))
    assert hardest.item() == pytest.approx(5 + math.log1p(math.exp(-5)), abs=1e-6)


def test_the_height_of_the_weight_map_matters(make_scene: Make) -> None:
    scene = make_scene(organs(2), (4, 4))
    truth = scene.truth(labels=2)
    loss, logits = scene.loss({"name": "boundary_weighted_ce"}), scene.logits()
    doubled = Truth(truth.labels, weight=truth.weight * 2)
    torch.testing.assert_close(loss(logits, doubled), 2 * loss(logits, truth))


def test_a_missing_weight_map_is_told(make_scene: Make) -> None:
    scene = make_scene(organs(2), (4, 4))
    with pytest.raises(ValueError, match=r"boundary_weighted_ce needs Truth\.weight"):
        scene.loss({"name": "boundary_weighted_ce"})(scene.logits(), Truth(halves((4, 4))))


@EVERY
def test_terms_add_up_with_their_weights(make_scene: Make, term: dict[str, Any]) -> None:
    scene = make_scene(organs(4), (8, 6))
    logits, truth = scene.logits(), scene.truth()
    single, entropy = (scene.loss(each)(logits, truth) for each in (term, {"name": "cross_entropy"}))
    both = scene.loss({**term, "weight": 0.25}, {"name": "cross_entropy", "weight": 3.0})(logits, truth)
    torch.testing.assert_close(both, 0.25 * single + 3.0 * entropy)


@pytest.mark.parametrize(("heads", "weights"), [(1, [1.0]), (2, [2 / 3, 1 / 3]), (4, [8 / 15, 4 / 15, 2 / 15, 1 / 15])])
def test_supervision_weights_halve_and_sum_to_one(heads: int, weights: list[float]) -> None:
    assert supervision_weights(heads) == pytest.approx(weights)


@SHAPES
@TYPES
def test_deep_supervision_is_the_weighted_sum_over_outputs(
    make_scene: Make, shape: tuple[int, ...], kind: torch.dtype
) -> None:
    """The truth is constant in blocks of the coarser output, so that shrinking it has one right answer."""
    scene = make_scene(organs(4), shape)
    small = tuple(n // 2 for n in shape)
    coarse = scene.truth(small)
    blocks = [coarse.labels, coarse.weight]
    for axis in range(2, 2 + len(shape)):
        blocks = [block.repeat_interleave(2, dim=axis) for block in blocks]
    fine = Truth(blocks[0].to(kind), weight=blocks[1])
    terms = ({"name": "dice"}, {"name": "cross_entropy"}, {"name": "boundary_weighted_ce"})
    outputs = scene.logits(), scene.logits(small, seed=4)
    single = scene.loss(*terms)
    expected = single(outputs[0], fine) * 2 / 3 + single(outputs[1], coarse) / 3
    torch.testing.assert_close(scene.loss(*terms, heads=2)(outputs, fine), expected)


def test_a_truth_is_resampled_to_the_nearest_centre(make_scene: Make) -> None:
    """5 rows to 2: centres at 1.25 and 3.75 lie in rows 1 and 3; the ignored row 4 is not met."""
    scene = make_scene({**organs(3), "ignore": 9}, (5, 4))
    rows = torch.tensor([0, 1, 2, 2, 255]).reshape(1, 1, 5, 1)
    loss = scene.loss({"name": "cross_entropy"}, heads=2)
    coarse = scene.certain(torch.tensor([1, 2]).reshape(1, 1, 2, 1).expand(1, 1, 2, 4))
    fine = scene.certain(rows.masked_fill(rows == 255, 0).expand(1, 1, 5, 4))
    assert loss((fine, coarse), Truth(rows.expand(1, 1, 5, 4))).item() == pytest.approx(0, abs=1e-6)


@SHAPES
def test_labels_beyond_a_byte_are_kept(make_scene: Make, shape: tuple[int, ...]) -> None:
    scene = make_scene(organs(300), shape)
    index = torch.full((1, 1, *shape), 299, dtype=torch.int16)
    logits = tuple(torch.zeros(1, 300, *(n // step for n in shape)) for step in (1, 2))
    for output in logits:
        output[:, 299] = 30
    assert scene.loss({"name": "cross_entropy"}, heads=2)(logits, Truth(index)).item() == pytest.approx(0, abs=1e-4)


@SHAPES
@pytest.mark.parametrize("heads", [1, 2])
def test_a_smaller_single_output_is_compared_with_the_middle_of_the_truth(
    make_scene: Make, shape: tuple[int, ...], heads: int
) -> None:
    scene = make_scene(organs(4), tuple(n - 2 for n in shape))
    truth = scene.truth(shape)
    middle = (slice(None), slice(None), *(slice(1, n - 1) for n in shape))
    loss = scene.loss({"name": "dice"}, {"name": "boundary_weighted_ce"}, heads=heads)
    cropped = Truth(truth.labels[middle], weight=truth.weight[middle])
    assert loss(scene.logits(), truth) == loss(scene.logits(), cropped)


def test_a_single_output_of_a_network_with_several_is_the_finest(make_scene: Make) -> None:
    scene = make_scene(organs(4), (8, 6))
    several = scene.loss({"name": "dice"}, heads=3)
    assert several(scene.logits(), scene.truth()) == scene.loss({"name": "dice"})(scene.logits(), scene.truth())


def test_what_is_known_of_the_labels_moves_with_the_loss_and_is_not_saved(make_scene: Make) -> None:
    scene = make_scene({"background": 0, "a": [1, 2], "b": 2}, (4, 4))
    loss = scene.loss({"name": "bce", "class_weights": {"b": 3.0}}, {"name": "dice"})
    held = dict(loss.named_buffers())
    assert held["membership"].tolist() == scene.labels.membership.tolist()
    assert held["terms.0.class_weights"].tolist() == [1, 1, 3]
    assert len(held) == 2
    assert {buffer.device.type for buffer in loss.to("meta").buffers()} == {"meta"}
    assert loss.state_dict() == {}


def test_what_does_not_fit_is_refused(make_scene: Make) -> None:
    scene = make_scene(organs(4), (4, 4))
    loss = scene.loss({"name": "dice"})
    with pytest.raises(ValueError, match=r"size \[5, 4\] is larger than its truth, \[4, 4\]"):
        loss(scene.logits((5, 4)), scene.truth())
    with pytest.raises(ValueError, match="need 4 channels, but got 3"):
        loss(scene.logits()[:, :3], scene.truth())
    with pytest.raises(ValueError, match="built for 2 outputs, but got 3"):
        scene.loss({"name": "dice"}, heads=2)((scene.logits(),) * 3, scene.truth())


def test_the_usual_pair_holds_little_for_many_labels(make_scene: Make) -> None:
    """Log-probabilities and probabilities, but no one-hot copy of the truth."""
    scene = make_scene(organs(60), (24, 24))
    logits, truth = scene.logits().float().requires_grad_(), scene.truth(labels=60)
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = scene.loss({"name": "dice"}, {"name": "cross_entropy"})(logits, truth)
    assert sum(held.values()) < 2.2 * logits.untyped_storage().nbytes()
    assert torch.isfinite(loss)
