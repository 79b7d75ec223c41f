"""Random changes of patches: the same draw is the same change, image and label stay together, millimetres hold."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from medunet.config.schema import AugmentConfig, ElasticConfig
from medunet.transforms.augment import (
    SpatialDraw,
    SpatialSettings,
    apply_spatial,
    cut_size,
    draw_spatial,
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


def test_all_flips_are_drawn_independently() -> None:
    chosen = spatial_settings(AugmentConfig(preset="mirror", mirror_axes=(0, 2)), PATCH, SPACING)
    seen = {draw_spatial(chosen, np.random.default_rng(seed)).flips for seed in range(100)}
    assert seen == {flips for n in range(3) for flips in itertools.combinations((0, 2), n)}


# shift, shear, elastic deformation


def test_a_shift_moves_image_and_label_by_whole_voxels() -> None:
    draw = SpatialDraw(None, (), shift=(3.0, -2.0))
    cut = cut_size((8, 6), draw)
    image = coordinates(cut)
    moved, label = apply_spatial(image, (image[0] > 0).to(torch.uint8), (8, 6), draw)
    still, _ = apply_spatial(image, torch.zeros(cut, dtype=torch.uint8), (8, 6), SpatialDraw(np.eye(2), ()))
    assert torch.allclose(moved[0], still[0] + 3, atol=1e-4)
    assert torch.allclose(moved[1], still[1] - 2, atol=1e-4)
    assert torch.equal(label.bool(), moved[0] > 0)


def test_shifts_stay_within_their_share_of_the_patch() -> None:
    chosen = spatial_settings(AugmentConfig(preset="none", shift=0.25), (40, 80), (1.0, 1.0))
    drawn = np.asarray([draw_spatial(chosen, np.random.default_rng(seed)).shift for seed in range(200)])
    assert (np.abs(drawn) <= (10, 20)).all()
    assert (np.abs(drawn).max(axis=0) > (8, 16)).all()


def test_a_shear_keeps_areas() -> None:
    keys = {"rotation_probability": 1.0, "rotation_degrees": 0.0, "scale_probability": 0.0, "shear_degrees": 20.0}
    chosen = spatial_settings(AugmentConfig(preset="none", **keys), (8, 8), (1.0, 1.0))
    matrices = [draw_spatial(chosen, np.random.default_rng(seed)).matrix for seed in range(50)]
    slopes = [matrix[0, 1] for matrix in matrices if matrix is not None]
    assert len(slopes) == 50
    assert all(np.linalg.det(matrix) == pytest.approx(1.0) for matrix in matrices if matrix is not None)
    assert 0.8 * np.tan(np.deg2rad(20)) < max(np.abs(slopes)) <= np.tan(np.deg2rad(20))


def test_displacements_pass_through_their_points() -> None:
    bend = np.random.default_rng(0).normal(0, 2, (2, 3, 3))
    patch = (21, 31)
    draw = SpatialDraw(None, (), bend=bend)
    cut = cut_size(patch, draw)
    bent, _ = apply_spatial(coordinates(cut), torch.zeros(cut, dtype=torch.uint8), patch, draw)
    offsets = bent - coordinates(patch)
    assert offsets[:, ::10, ::15].numpy() == pytest.approx(bend, abs=1e-3)


@pytest.mark.parametrize("patch", [(24, 18), (12, 10, 9)])
@given(seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_bent_patch_sees_nothing_beyond_its_cut(patch: tuple[int, ...], seed: int) -> None:
    keys = {**ALWAYS, "shift": 0.3, "shear_degrees": 10.0, "elastic": ElasticConfig(probability=1.0, sigma=3.0)}
    chosen = spatial_settings(AugmentConfig(**keys), patch, (1.0,) * len(patch))
    draw = draw_spatial(chosen, np.random.default_rng(seed))
    cut = cut_size(patch, draw)
    flat = SpatialDraw(draw.matrix, (), draw.shift, draw.bend)
    seen, _ = apply_spatial(coordinates(cut), torch.zeros(cut, dtype=torch.uint8), patch, flat)
    inside = torch.tensor([(c - 1) / 2 for c in cut]).view(-1, *(1,) * len(patch))
    assert (seen.abs() < inside).all()  # border values would be repeated there


def test_elastic_deformation_comes_as_often_and_as_far_as_asked() -> None:
    chosen = spatial_settings(
        AugmentConfig(preset="none", elastic=ElasticConfig(probability=0.4, sigma=5)), (64, 64), (1, 1)
    )
    bends = [draw_spatial(chosen, np.random.default_rng(seed)).bend for seed in range(400)]
    there = [bend for bend in bends if bend is not None]
    assert len(there) / 400 == pytest.approx(0.4, abs=0.08)
    assert {bend.shape for bend in there} == {(2, 3, 3)}
    assert np.std(there) == pytest.approx(5.0, rel=0.05)


def test_photographs_keep_their_top_and_are_always_changed() -> None:
    chosen = spatial_settings(AugmentConfig(preset="photo"), (64, 64), (1.0, 1.0))
    assert chosen.mirror_axes == (0,)
    assert np.rad2deg(chosen.rotation[0]) == pytest.approx(25)
    assert all(draw_spatial(chosen, np.random.default_rng(seed)).moves for seed in range(50))
