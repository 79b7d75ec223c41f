"""Random changes of patches: the same draw is the same change, image and label stay together, millimetres hold."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from medunet.config.schema import AugmentConfig
from medunet.transforms.augment import (
    IntensityAugment,
    SpatialDraw,
    SpatialSettings,
    apply_spatial,
    cut_size,
    draw_spatial,
    intensity_augment,
    spatial_settings,
    thick_axis,
)

PATCH, SPACING = (10, 12, 8), (1.0, 1.0, 1.0)
ALWAYS = {"rotation_probability": 1.0, "scale_probability": 1.0}


def always(patch: Sequence[int], spacing: Sequence[float], **keys: Any) -> SpatialSettings:
    """Settings that rotate and zoom every patch and flip none."""
    return spatial_settings(AugmentConfig(**{**ALWAYS, "mirror_axes": (), **keys}), patch, spacing)


def quarter_turn(rank: int = 3, axis: int = 2) -> NDArray[np.float64]:
    matrix = np.eye(rank)
    a, b = (i for i in range(rank) if i != axis) if rank == 3 else (0, 1)
    matrix[a, a] = matrix[b, b] = 0.0
    matrix[a, b], matrix[b, a] = -1.0, 1.0
    return matrix


def around_centre(patch: Sequence[int], cut: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice((c - p) // 2, (c - p) // 2 + p) for p, c in zip(patch, cut, strict=True))


def coordinates(cut: Sequence[int]) -> Tensor:
    """Image (rank, *cut) that holds each voxel's offset from the centre."""
    return torch.stack(
        torch.meshgrid(*(torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in cut), indexing="ij")
    )


# drawing


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 50))
def test_a_seed_gives_one_draw_whatever_was_drawn_before(seed: int, before: int) -> None:
    chosen = always(PATCH, SPACING, mirror_axes=(0, 1, 2))
    first = draw_spatial(chosen, np.random.default_rng(seed))
    for _ in range(before % 3):
        draw_spatial(chosen, np.random.default_rng(before))
    second = draw_spatial(chosen, np.random.default_rng(seed))
    assert first.flips == second.flips
    np.testing.assert_array_equal(first.matrix, second.matrix)


@pytest.mark.parametrize("preset", ["none", "mirror"])
def test_presets_without_rotation_never_interpolate(preset: Any) -> None:
    chosen = spatial_settings(AugmentConfig(preset=preset), PATCH, SPACING)
    draws = [draw_spatial(chosen, np.random.default_rng(seed)) for seed in range(50)]
    assert all(draw.matrix is None for draw in draws)
    flips = {draw.flips for draw in draws}
    assert flips == {()} if preset == "none" else len(flips) == 8


def test_the_default_rotates_and_zooms_as_often_as_nnunet() -> None:
    chosen = spatial_settings(AugmentConfig(), PATCH, SPACING)
    assert (chosen.rotation_probability, chosen.scale_probability, chosen.scale) == (0.2, 0.2, (0.7, 1.4))
    np.testing.assert_allclose(chosen.rotation, np.deg2rad([30, 30, 30]))
    draws = [draw_spatial(chosen, np.random.default_rng(seed)) for seed in range(2000)]
    assert np.mean([draw.matrix is not None for draw in draws]) == pytest.approx(1 - 0.8 * 0.8, abs=0.04)
    assert np.mean([0 in draw.flips for draw in draws]) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("patch", "spacing", "degrees"),
    [
        ((64, 64), (1.0, 1.0), [180]),
        ((64, 40), (1.0, 1.0), [15]),
        ((64, 64, 64), (1.0, 1.0, 3.5), [0, 0, 180]),
        ((64, 64, 16), (1.0, 1.0, 1.0), [0, 0, 180]),
        ((16, 64, 64), (1.0, 1.0, 1.0), [180, 0, 0]),
        ((64, 64, 32), (1.0, 1.0, 3.0), [30, 30, 30]),
    ],
)
def test_thick_slices_turn_in_their_plane_only(
    patch: tuple[int, ...], spacing: tuple[float, ...], degrees: list[float]
) -> None:
    chosen = spatial_settings(AugmentConfig(), patch, spacing)
    np.testing.assert_allclose(np.rad2deg(chosen.rotation), degrees)
    assert len(chosen.scale_axes) == (len(patch) if 0 not in degrees else 2)


@pytest.mark.parametrize("scale_range", [(0.7, 1.4), (0.5, 0.8), (1.2, 1.5), (1.0, 1.0), (1.0, 1.3), (0.8, 1.0)])
def test_the_zoom_stays_in_its_range(scale_range: tuple[float, float]) -> None:
    chosen = always(PATCH, SPACING, scale_range=scale_range, rotation_degrees=0.0)
    zooms = []
    for seed in range(200):
        matrix = draw_spatial(chosen, np.random.default_rng(seed)).matrix
        assert matrix is not None
        np.testing.assert_allclose(matrix, np.eye(3) * matrix[0, 0], atol=1e-12)
        zooms.append(1 / matrix[0, 0])
    low, high = scale_range
    assert low - 1e-9 <= min(zooms) <= max(zooms) <= high + 1e-9
    if low < 1 < high:
        assert np.mean(np.array(zooms) < 1) == pytest.approx(0.5, abs=0.1)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.floats(0.5, 1.4)] * 3))
def test_a_rotation_keeps_lengths_in_millimetres(seed: int, spacing: tuple[float, float, float]) -> None:
    chosen = always((32, 32, 32), spacing, scale_probability=0.0, rotation_degrees=90.0)
    matrix = draw_spatial(chosen, np.random.default_rng(seed)).matrix
    assert matrix is not None
    in_mm = np.diag(spacing) @ matrix @ np.linalg.inv(np.diag(spacing))
    np.testing.assert_allclose(in_mm.T @ in_mm, np.eye(3), atol=1e-9)
    assert np.linalg.det(in_mm) == pytest.approx(1)


def test_the_thick_axis_is_named() -> None:
    assert thick_axis((64, 64), (1.0, 5.0)) is None
    assert thick_axis((64, 64, 64), (1.0, 1.0, 1.0)) is None
    assert thick_axis((64, 64, 64), (5.0, 1.0, 1.0)) == 0
    assert thick_axis((64, 20, 64), (1.0, 1.0, 1.0)) == 1


# applying


def test_a_draw_that_changes_nothing_leaves_every_bit() -> None:
    image, label = torch.randn(2, *PATCH), torch.randint(0, 3, PATCH)
    draw = SpatialDraw(None, ())
    assert cut_size(PATCH, draw) == PATCH
    result = apply_spatial(image, label, PATCH, draw)
    assert torch.equal(result[0], image)
    assert torch.equal(result[1], label)


def test_the_identity_matrix_cuts_the_middle_out() -> None:
    draw = SpatialDraw(np.eye(3), ())
    cut = cut_size(PATCH, draw)
    image, label = torch.randn(2, *cut), torch.randint(0, 3, cut)
    result = apply_spatial(image, label, PATCH, draw)
    middle = around_centre(PATCH, cut)
    torch.testing.assert_close(result[0], image[(slice(None), *middle)], atol=1e-4, rtol=0)
    assert torch.equal(result[1], label[middle])


@pytest.mark.parametrize("flips", [(0,), (2,), (0, 1, 2)])
def test_flips_turn_image_and_label_alike(flips: tuple[int, ...]) -> None:
    image, label = torch.randn(2, *PATCH), torch.randint(0, 3, PATCH)
    flipped, flipped_label = apply_spatial(image, label, PATCH, SpatialDraw(None, flips))
    np.testing.assert_array_equal(flipped.numpy(), np.flip(image.numpy(), [axis + 1 for axis in flips]))
    np.testing.assert_array_equal(flipped_label.numpy(), np.flip(label.numpy(), flips))


@pytest.mark.parametrize("patch", [(9, 9, 5), (8, 8, 6), (8, 8)])
def test_a_quarter_turn_is_that_of_numpy(patch: tuple[int, ...]) -> None:
    """Output offsets (x, y) look at input offsets (-y, x)."""
    draw = SpatialDraw(quarter_turn(len(patch)), ())
    cut = cut_size(patch, draw)
    image, label = torch.randn(2, *cut), torch.randint(0, 3, cut)
    turned, turned_label = apply_spatial(image, label, patch, draw)
    middle = around_centre(patch, cut)
    expected = np.rot90(image[(slice(None), *middle)].numpy(), k=-1, axes=(1, 2))
    np.testing.assert_allclose(turned.numpy(), expected, atol=1e-4)
    np.testing.assert_array_equal(turned_label.numpy(), np.rot90(label[middle].numpy(), k=-1, axes=(0, 1)))


def test_a_drawn_rotation_about_an_axis_leaves_that_axis_alone() -> None:
    chosen = always((40, 40, 8), (1.0, 1.0, 5.0))
    for seed in range(20):
        matrix = draw_spatial(chosen, np.random.default_rng(seed)).matrix
        assert matrix is not None
        np.testing.assert_array_equal(matrix[2], [0, 0, 1])
        np.testing.assert_array_equal(matrix[:, 2], [0, 0, 1])


def test_thick_slices_are_never_mixed() -> None:
    """Every slice has one value, so any mixing of neighbours would show."""
    patch, spacing = (40, 36, 8), (1.0, 1.0, 5.0)
    chosen = always(patch, spacing)
    for seed in range(5):
        draw = draw_spatial(chosen, np.random.default_rng(seed))
        cut = cut_size(patch, draw)
        slices = torch.arange(cut[2]).expand(cut)
        image, label = apply_spatial(slices[None].float() * 100, slices.to(torch.int32), patch, draw)
        expected = slices[: patch[0], : patch[1], around_centre(patch, cut)[2]]
        torch.testing.assert_close(image[0], expected.float() * 100, atol=0.05, rtol=0)
        assert torch.equal(label, expected.to(torch.int32))


def test_a_zoom_above_one_makes_things_larger() -> None:
    patch = (32, 32)
    blob = (coordinates((64, 64)) ** 2).sum(0) < 36
    areas = []
    for zoom in (0.7, 1.0, 1.4):
        chosen = always(patch, (1.0, 1.0), scale_range=(zoom, zoom), rotation_degrees=0.0)
        draw = draw_spatial(chosen, np.random.default_rng(0))
        cut = cut_size(patch, draw)
        part = blob[around_centre(cut, blob.shape)]
        _, label = apply_spatial(part[None].float(), part.to(torch.uint8), patch, draw)
        areas.append(int(label.sum()))
    assert areas[0] / areas[1] == pytest.approx(0.7**2, rel=0.1)
    assert areas[2] / areas[1] == pytest.approx(1.4**2, rel=0.1)


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**32 - 1), st.data())
def test_the_cut_is_large_enough_and_keeps_the_centre(seed: int, data: st.DataObject) -> None:
    """A linear image comes out as the linear function: no voxel was taken from beyond the cut."""
    rank = data.draw(st.sampled_from([2, 3]))
    patch = data.draw(st.tuples(*[st.integers(1, 14)] * rank))
    spacing = data.draw(st.tuples(*[st.floats(0.4, 5)] * rank))
    chosen = always(patch, spacing, rotation_degrees=180.0)
    draw = draw_spatial(chosen, np.random.default_rng(seed))
    assert draw.matrix is not None
    cut = cut_size(patch, draw)
    assert all((c - p) % 2 == 0 for c, p in zip(cut, patch, strict=True))
    image, _ = apply_spatial(coordinates(cut), torch.zeros(cut, dtype=torch.uint8), patch, draw)
    expected = torch.tensordot(torch.from_numpy(draw.matrix).float(), coordinates(patch), dims=1)
    torch.testing.assert_close(image, expected, atol=2e-4 * max(cut), rtol=0)


@pytest.mark.parametrize(
    ("patch", "spacing"), [((20, 24, 16), (1.0, 1.0, 1.5)), ((24, 24), (0.5, 0.8)), ((24, 24, 8), (1, 1, 5))]
)
def test_image_and_label_stay_together(patch: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    chosen = always(patch, spacing, mirror_axes=tuple(range(len(patch))))
    for seed in range(8):
        draw = draw_spatial(chosen, np.random.default_rng(seed))
        cut = cut_size(patch, draw)
        inside = ((coordinates(cut) - 2) ** 2).sum(0) < 30
        image, label = apply_spatial(inside[None].float(), inside.to(torch.uint8) * 3, patch, draw)
        assert label.any()
        assert torch.equal(image[0] > 0.5, label == 3)


def test_labels_are_interpolated_share_by_share() -> None:
    """As `argmax` of all shares, whatever the order of the values, and in the type that came in."""
    patch = (12, 12)
    draw = draw_spatial(always(patch, (1.0, 1.0)), np.random.default_rng(3))
    cut = cut_size(patch, draw)
    label = torch.randint(0, 4, cut).mul(70).to(torch.int16)
    shares = torch.stack([(label == value).float() for value in (0, 70, 140, 210)])
    expected, result = apply_spatial(shares, label, patch, draw)
    assert result.dtype == torch.int16
    assert torch.equal(result.long(), expected.argmax(0) * 70)


def test_a_patch_of_one_label_stays_one_label() -> None:
    draw = draw_spatial(always(PATCH, SPACING), np.random.default_rng(0))
    _, label = apply_spatial(torch.zeros(1, *cut_size(PATCH, draw)), torch.full(cut_size(PATCH, draw), 7), PATCH, draw)
    assert label.unique().tolist() == [7]


# intensity


@pytest.mark.parametrize("shape", [(1, 20, 22), (3, 20, 22), (1, 12, 14, 16), (2, 12, 14, 16)])
def test_every_intensity_change_works_in_two_and_three_dimensions(shape: tuple[int, ...]) -> None:
    image = torch.rand(shape)
    before = image.clone()
    augment = IntensityAugment(1000.0)  # every probability becomes 1
    result = augment(image, np.random.default_rng(0))
    assert type(result) is Tensor
    assert result.shape == image.shape
    assert result.dtype == torch.float32
    assert torch.isfinite(result).all()
    assert not torch.equal(result, image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_a_constant_patch_stays_finite(value: float) -> None:
    for seed in range(20):
        result = IntensityAugment(1000.0)(torch.full((1, 8, 8, 8), value), np.random.default_rng(seed))
        assert torch.isfinite(result).all()


def test_the_same_generator_gives_the_same_intensity_whatever_came_before() -> None:
    augment, image = IntensityAugment(3.0), torch.rand(1, 16, 16, 16)
    first = augment(image, np.random.default_rng(7))
    for seed in range(5):
        augment(image, np.random.default_rng(seed))
    torch.rand(5)
    assert torch.equal(augment(image, np.random.default_rng(7)), first)


def test_several_threads_do_not_disturb_each_other() -> None:
    """Two threads have both seeded the change before either of them uses its generator."""

    class AddSeed:
        meeting = threading.Barrier(2, timeout=30)

        def set_random_state(self, seed: int) -> None:
            self.seed = seed

        def __call__(self, image: Tensor) -> Tensor:
            self.meeting.wait()
            return image + self.seed

    augment = IntensityAugment()
    augment.transforms = {2: [AddSeed()]}  # type: ignore[list-item]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda seed: augment(torch.zeros(1, 1, 1), np.random.default_rng(seed)), (1, 2)))
    assert [int(r) for r in results] == pytest.approx(
        [int(np.random.default_rng(seed).integers(2**32)) for seed in (1, 2)], rel=1e-6
    )


@pytest.mark.parametrize(
    ("keys", "changes"),
    [({}, True), ({"preset": "mirror"}, False), ({"preset": "none"}, False), ({"intensity_strength": 0.0}, False),
     ({"preset": "none", "intensity_strength": 1.0}, True)],
)  # fmt: skip
def test_presets_and_strength_decide_whether_intensity_changes(keys: dict[str, Any], changes: bool) -> None:
    augment, image = intensity_augment(AugmentConfig(**keys)), torch.rand(1, 8, 8)
    results = [augment(image, np.random.default_rng(seed)) for seed in range(30)]
    assert any(not torch.equal(result, image) for result in results) is changes


def test_strength_multiplies_how_often_it_changes() -> None:
    image = torch.rand(1, 6, 6)
    shares = []
    for strength in (0.3, 1.0):
        augment = IntensityAugment(strength)
        shares.append(np.mean([not torch.equal(augment(image, np.random.default_rng(s)), image) for s in range(400)]))
    expected = [1 - np.prod([1 - s * p for p in (0.1, 0.1, 0.15, 0.15, 0.125, 0.1, 0.3)]) for s in (0.3, 1.0)]
    np.testing.assert_allclose(shares, expected, atol=0.07)


def test_all_flips_are_drawn_independently() -> None:
    chosen = spatial_settings(AugmentConfig(preset="mirror", mirror_axes=(0, 2)), PATCH, SPACING)
    seen = {draw_spatial(chosen, np.random.default_rng(seed)).flips for seed in range(100)}
    assert seen == {flips for n in range(3) for flips in itertools.combinations((0, 2), n)}
