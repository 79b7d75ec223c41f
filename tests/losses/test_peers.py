"""Where MONAI and torch have the same loss, the values are the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.losses import DiceLoss, FocalLoss, GeneralizedDiceLoss, HausdorffDTLoss, SoftclDiceLoss, TverskyLoss
from monai.losses.cldice import soft_skel
from monai.networks.utils import one_hot
from torch import Tensor
from torch.nn import functional

from medunet.losses import overlap
from medunet.losses.centreline import soft_skeleton
from medunet.losses.evidence import Exclusive, evidence
from medunet.losses.overlap import label_sums, sums_by_mask
from medunet.losses.targets import Targets

SHAPES = pytest.mark.parametrize("shape", [(9, 7), (6, 5, 7)], ids=["2D", "3D"])
LABELS = {"background": 0, "a": 1, "b": 2, "c": 3}
SMOOTH = {"smooth_nr": 1e-5, "smooth_dr": 1e-5}
Make = Callable[..., Any]


def pair(scene: Any) -> tuple[Tensor, Tensor]:
    """Logits and index (B, 1, *S)."""
    return scene.logits(), scene.truth().labels


@SHAPES
@pytest.mark.parametrize(("background", "batch"), list(itertools.product([False, True], repeat=2)))
def test_overlaps_are_those_of_monai(make_scene: Make, shape: tuple[int, ...], background: bool, batch: bool) -> None:
    scene = make_scene(LABELS, shape)
    logits, index = pair(scene)
    options = {"background": background, "batch": batch}
    common = {"include_background": background, "batch": batch, "to_onehot_y": True, "softmax": True, **SMOOTH}
    peers = [
        ({"name": "dice"}, DiceLoss(**common)),
        ({"name": "dice", "squared": True}, DiceLoss(squared_pred=True, **common)),
        (
            {"name": "dice", "generalised": True},
            GeneralizedDiceLoss(**{**common, "smooth_nr": 1e-9, "smooth_dr": 1e-9}),
        ),
        ({"name": "iou"}, DiceLoss(jaccard=True, **{**common, "smooth_nr": 2e-5, "smooth_dr": 2e-5})),
        ({"name": "tversky", "alpha": 0.2, "beta": 0.9}, TverskyLoss(alpha=0.2, beta=0.9, **common)),
    ]
    for term, peer in peers:
        ours = scene.loss({**term, **options})(logits, scene.truth())
        torch.testing.assert_close(ours, peer(logits, index), rtol=1e-5, atol=1e-6)


@SHAPES
def test_sigmoid_dice_is_that_of_monai(make_scene: Make, shape: tuple[int, ...]) -> None:
    scene = make_scene({"background": 0, "a": [1, 2], "b": 2}, shape)
    logits, truth = scene.logits(), scene.truth(labels=3)
    nested = torch.cat([truth.labels >= 1, truth.labels >= 2], dim=1)
    expected = DiceLoss(sigmoid=True, **SMOOTH)(logits, nested)
    torch.testing.assert_close(scene.loss({"name": "dice"})(logits, truth), expected)


@SHAPES
def test_cross_entropy_is_that_of_torch(make_scene: Make, shape: tuple[int, ...]) -> None:
    scene = make_scene({**LABELS, "ignore": 9}, shape)
    logits, truth = scene.logits(), scene.truth()
    truth.labels[:, :, :2] = 255
    weights = {"a": 3.0, "c": 0.25}
    for smoothing, weighted in itertools.product([0.0, 0.3], [None, weights]):
        term = {"name": "cross_entropy", "label_smoothing": smoothing, "class_weights": weighted}
        vector = None if weighted is None else torch.tensor([1, 3, 1, 0.25], dtype=torch.float64)
        expected = functional.cross_entropy(
            logits, truth.labels.squeeze(1), weight=vector, ignore_index=255, label_smoothing=smoothing
        )
        torch.testing.assert_close(scene.loss(term)(logits, truth), expected)


@SHAPES
def test_binary_cross_entropy_is_that_of_torch(make_scene: Make, shape: tuple[int, ...]) -> None:
    scene = make_scene({"background": 0, "a": [1, 2], "b": 2}, shape)
    logits, truth = scene.logits(), scene.truth(labels=3)
    nested = torch.cat([truth.labels >= 1, truth.labels >= 2], dim=1).double()
    expected = functional.binary_cross_entropy_with_logits(logits, nested)
    for name in ("bce", "cross_entropy"):
        torch.testing.assert_close(scene.loss({"name": name})(logits, truth), expected)
    positive = functional.binary_cross_entropy_with_logits(logits, nested, pos_weight=torch.tensor(3.0))
    torch.testing.assert_close(scene.loss({"name": "bce", "positive_weight": 3.0})(logits, truth), positive)


@SHAPES
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_is_that_of_monai_but_for_the_mean_over_labels(
    make_scene: Make, shape: tuple[int, ...], gamma: float
) -> None:
    scene = make_scene(LABELS, shape)
    logits, index = pair(scene)
    expected = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=gamma)(logits, index) * 4
    torch.testing.assert_close(scene.loss({"name": "focal", "gamma": gamma})(logits, scene.truth()), expected.double())


@SHAPES
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_hausdorff_is_that_of_monai(make_scene: Make, shape: tuple[int, ...], alpha: float) -> None:
    scene = make_scene(LABELS, shape)
    logits, index = pair(scene)
    expected = HausdorffDTLoss(alpha=alpha, softmax=True, to_onehot_y=True)(logits, index)
    ours = scene.loss({"name": "hausdorff", "alpha": alpha})(logits, scene.truth())
    torch.testing.assert_close(ours, expected.double(), rtol=1e-5, atol=1e-6)


@SHAPES
@pytest.mark.parametrize("iterations", [1, 3])
def test_skeletons_are_those_of_monai(shape: tuple[int, ...], iterations: int) -> None:
    array = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(soft_skeleton(array, iterations), soft_skel(array, iterations))


def test_the_skeleton_of_a_bar_is_its_middle_line() -> None:
    bar = torch.zeros(1, 1, 9, 20)
    bar[0, 0, 2:7, 2:18] = 1
    skeleton = soft_skeleton(bar, 5)
    assert (skeleton[0, 0, 4, 4:16] == 1).all()
    assert skeleton[0, 0, :4].sum() + skeleton[0, 0, 5:].sum() <= 8  # the bar's corners


@SHAPES
def test_cldice_of_one_structure_is_that_of_monai(make_scene: Make, shape: tuple[int, ...]) -> None:
    scene = make_scene({"background": 0, "a": 1}, shape)
    logits, truth = scene.logits(), scene.truth(labels=2)
    target = one_hot(truth.labels, 2)[:, 1:].double()
    probability = logits.softmax(1)[:, 1:]
    expected = SoftclDiceLoss(iter_=3, smooth=1e-12)(probability, target)
    torch.testing.assert_close(scene.loss({"name": "cldice", "iterations": 3})(logits, truth), expected)


def test_the_complement_is_exact_where_a_label_is_nearly_certain(make_scene: Make) -> None:
    """log(1 - p) of a label with p = 1 - 1e-17, which rounds to 1, and of its rivals."""
    scene = make_scene(LABELS, (1, 1))
    logits = torch.tensor([0.0, 40.0, 0.0, 1.0]).reshape(1, 4, 1, 1)
    found = evidence(logits, Targets.from_truth(scene.truth(batch=1), scene.labels, logits.device), None)
    assert isinstance(found, Exclusive)
    rest = torch.log(torch.tensor(2 + torch.e).double()) - 40
    expected = torch.tensor([0.0, rest, 0.0, 0.0]).reshape(1, 4, 1, 1)
    torch.testing.assert_close(found.log_complements, expected.float())


@pytest.mark.parametrize("labels", [1, 5])
def test_sums_by_label_are_sums_over_masks(labels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values, index = torch.rand(3, 200, generator=generator), torch.randint(0, labels, (3, 200), generator=generator)
    expected = torch.stack(
        [
            values.new_tensor([row[which == label].sum() for label in range(labels)])
            for row, which in zip(values, index, strict=True)
        ]
    )
    torch.testing.assert_close(label_sums(values, index, labels), expected)
    torch.testing.assert_close(sums_by_mask(values, index, labels), expected)


def test_a_gpu_sums_over_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is not the CPU, but has no values."""
    asked: list[int] = []
    monkeypatch.setattr(overlap, "sums_by_mask", lambda *call: asked.append(call[2]))
    overlap.label_sums(torch.zeros(1, 4, device="meta"), torch.zeros(1, 4, dtype=torch.int64, device="meta"), 3)
    assert asked == [3]


def test_more_voxels_are_counted_than_float32_can_count_one_by_one() -> None:
    count = 2**24 + 2
    ones, index = torch.ones(1, 1).expand(1, count), torch.zeros(1, 1, dtype=torch.int64).expand(1, count)
    assert label_sums(ones, index, 2).tolist() == [[count, 0]]
