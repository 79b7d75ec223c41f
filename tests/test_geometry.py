"""Grids: affines, orientation, crops and resampling keep every voxel where it is in the patient."""

from __future__ import annotations

import itertools

import hypothesis.extra.numpy as arrays
import nibabel
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medunet.errors import GeometryError
from medunet.geometry import RAS_FROM_LPS, Geometry, Reorientation, format_mm, format_shape

AXCODES_3D = [
    "".join(letters) for order in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*order)
]
AXCODES_2D = ["RA", "LP", "AR", "PL", "LA", "RP", "AL", "PR"]


def rotation(rank: int, angles: tuple[float, ...]) -> NDArray[np.float64]:
    result = np.eye(rank)
    for (a, b), angle in zip(itertools.combinations(range(rank), 2), angles, strict=False):
        turn = np.eye(rank)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        result = result @ turn
    return result


@st.composite
def geometries(draw: st.DrawFn, ranks: tuple[int, ...] = (2, 3), aligned: bool = False) -> Geometry:
    """Oblique grids with flips and swapped axes, 2D and 3D."""
    rank = draw(st.sampled_from(ranks))
    shape = draw(st.tuples(*[st.integers(1, 7)] * rank))
    spacing = draw(st.tuples(*[st.floats(0.05, 20)] * rank))
    origin = draw(st.tuples(*[st.floats(-1000, 1000)] * rank))
    angles = draw(st.tuples(*[st.floats(-4, 4)] * 3)) if not aligned else (0.0, 0.0, 0.0)
    direction = rotation(rank, angles)[:, list(draw(st.permutations(range(rank))))]
    direction = direction * np.array(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * rank)))
    return Geometry(shape, spacing, origin, tuple(tuple(float(v) for v in row) for row in direction))


def world(geometry: Geometry, index: NDArray[np.float64] | tuple[float, ...]) -> NDArray[np.float64]:
    """RAS millimetres of array indices (n, rank)."""
    indices = np.atleast_2d(np.asarray(index, dtype=float))
    return indices @ geometry.affine[:-1, :-1].T + geometry.affine[:-1, -1]


def voxels(geometry: Geometry) -> NDArray[np.float64]:
    """World coordinates (*shape, rank) of every voxel."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), -1)
    return world(geometry, grid.reshape(-1, geometry.rank)).reshape(*geometry.shape, geometry.rank)


@settings(deadline=None)
@given(geometries())
def test_an_affine_and_back_is_the_same_grid(geometry: Geometry) -> None:
    again = Geometry.from_affine(geometry.affine, geometry.shape)
    np.testing.assert_allclose(again.affine, geometry.affine, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(again.spacing, geometry.spacing, rtol=1e-12)
    assert geometry.difference(again) == ""


@settings(deadline=None)
@given(geometries(ranks=(3,)))
def test_axis_codes_are_those_of_nibabel(geometry: Geometry) -> None:
    cosines = np.sort(np.abs(np.asarray(geometry.direction)).ravel())
    assume(np.diff(cosines[cosines > 0.4]).min(initial=1) > 1e-6 or cosines[-3] > 0.99)  # a tie may go either way
    assert geometry.axcodes == "".join(nibabel.aff2axcodes(geometry.affine))


@pytest.mark.parametrize("codes", AXCODES_3D)
def test_every_storage_order_is_named_as_nibabel_names_it(codes: str) -> None:
    change = Geometry.plain((2, 3, 4)).reorientation(codes)
    geometry = Geometry.plain((2, 3, 4)).reoriented(change)
    assert geometry.axcodes == codes
    assert "".join(nibabel.aff2axcodes(geometry.affine)) == codes


@settings(deadline=None)
@given(geometries(), st.data())
def test_reorientation_keeps_every_voxel_at_its_place_in_the_patient(geometry: Geometry, data: st.DataObject) -> None:
    target = data.draw(st.sampled_from(AXCODES_3D if geometry.rank == 3 else AXCODES_2D))
    change = geometry.reorientation(target)
    moved = geometry.reoriented(change)
    assert moved.axcodes == target
    before, after = voxels(geometry), voxels(moved)
    placed = np.stack([change.apply(before[..., axis]) for axis in range(geometry.rank)], -1)
    np.testing.assert_allclose(after, placed, atol=1e-8)


@st.composite
def arrays_and_changes(draw: st.DrawFn) -> tuple[NDArray[np.int16], Reorientation]:
    rank = draw(st.sampled_from((2, 3)))
    shape = draw(st.tuples(*[st.integers(1, 5)] * (rank + draw(st.integers(0, 1)))))
    array = draw(arrays.arrays(np.int16, shape))
    axes = draw(st.permutations(range(rank)))
    flips = draw(st.tuples(*[st.booleans()] * rank))
    return array, Reorientation(tuple(axes), flips)


@settings(deadline=None)
@given(arrays_and_changes())
def test_undoing_a_reorientation_gives_the_array_back(case: tuple[NDArray[np.int16], Reorientation]) -> None:
    array, change = case
    there = change.apply(array)
    assert there.flags.c_contiguous
    np.testing.assert_array_equal(change.undo(there), array)
    np.testing.assert_array_equal(change.apply(change.undo(there)), there)


@pytest.mark.parametrize("codes", AXCODES_3D)
def test_reorientation_agrees_with_nibabel(codes: str) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    image = nibabel.Nifti1Image(array.astype(np.int16), np.diag([1.0, 2.0, 3.0, 1.0]))
    expected = image.as_reoriented(nibabel.orientations.axcodes2ornt(codes))
    geometry = Geometry.from_affine(image.affine, array.shape)
    change = geometry.reorientation("".join(nibabel.aff2axcodes(expected.affine)))
    np.testing.assert_array_equal(change.apply(array), np.asarray(expected.dataobj))
    np.testing.assert_allclose(geometry.reoriented(change).affine, expected.affine)


@settings(deadline=None)
@given(geometries(), st.data())
def test_a_crop_keeps_its_voxels_where_they_are(geometry: Geometry, data: st.DataObject) -> None:
    start = tuple(data.draw(st.integers(0, n - 1)) for n in geometry.shape)
    shape = tuple(data.draw(st.integers(1, n - s)) for n, s in zip(geometry.shape, start, strict=True))
    cropped = geometry.cropped(start, shape)
    box = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
    np.testing.assert_allclose(voxels(cropped), voxels(geometry)[box], atol=1e-8)


@settings(deadline=None)
@given(geometries(), st.data())
def test_resampling_keeps_the_field_of_view(geometry: Geometry, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.integers(1, 20)) for _ in geometry.shape)
    resampled = geometry.resampled(shape)
    for corner in itertools.product((0, 1), repeat=geometry.rank):
        here = world(geometry, tuple(c * n - 0.5 for c, n in zip(corner, geometry.shape, strict=True)))
        there = world(resampled, tuple(c * n - 0.5 for c, n in zip(corner, shape, strict=True)))
        np.testing.assert_allclose(there, here, atol=1e-7)
    np.testing.assert_allclose(
        np.prod(resampled.spacing) * np.prod(shape), np.prod(geometry.spacing) * np.prod(geometry.shape)
    )


@settings(deadline=None)
@given(geometries())
def test_a_grid_agrees_with_its_float32_header(geometry: Geometry) -> None:
    rounded = Geometry.from_affine(geometry.affine.astype(np.float32), geometry.shape)
    assert geometry.difference(rounded) == ""


def moved(**changes: object) -> Geometry:
    fields = {
        "shape": (4, 5, 6), "spacing": (0.8, 0.8, 2.5), "origin": (-10.0, 5.0, 30.0),
        "direction": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    }  # fmt: skip
    return Geometry(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (moved(shape=(4, 5, 7)), "shape 4x5x7 instead of 4x5x6"),
        (moved(spacing=(0.8, 0.8, 2.6)), "spacing 0.8 x 0.8 x 2.6 mm instead of 0.8 x 0.8 x 2.5 mm"),
        (moved(origin=(-10.0, 5.0, 30.5)), "an affine that puts a corner 0.50 mm away"),
        (moved(direction=((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))), "orientation LAS instead of RAS"),
        (moved(direction=((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))), "orientation ARS instead of RAS"),
        (Geometry.plain((4, 5)), "shape 4x5 instead of 4x5x6"),
    ],
)
def test_a_difference_is_said_in_words(other: Geometry, words: str) -> None:
    assert moved().difference(other) == words


def test_a_rotation_is_a_difference() -> None:
    turned = rotation(3, (0.05, 0.0, 0.0))
    other = moved(direction=tuple(map(tuple, turned.tolist())))
    assert "corner" in moved(shape=(40, 50, 60)).difference(moved(shape=(40, 50, 60), direction=other.direction))


def test_header_rounding_is_no_difference() -> None:
    assert moved().difference(moved(origin=(-10.001, 5.0, 30.0), spacing=(0.8, 0.8, 2.5001))) == ""


def test_the_thickness_of_a_single_slice_is_compared_too() -> None:
    thin = moved(shape=(4, 5, 1), spacing=(0.8, 0.8, 1.0))
    assert "spacing" in moved(shape=(4, 5, 1)).difference(thin)


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.diag([0.0, 1.0, 1.0, 1.0]), "singular"),
        (np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "singular"),
        (np.array([[1.0, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "sheared"),
        (np.diag([np.nan, 1.0, 1.0, 1.0]), "not finite"),
        (np.diag([1.0, np.inf, 1.0, 1.0]), "not finite"),
        (np.array([[1.0, 0, 0, np.nan], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "not finite"),
    ],
)
def test_an_impossible_affine_is_refused(affine: NDArray[np.float64], words: str) -> None:
    with pytest.raises(GeometryError, match=words) as caught:
        Geometry.from_affine(affine, (3, 4, 5))
    assert caught.value.hint


@pytest.mark.parametrize(
    "spacing", [(1.0, 1.0, 0.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan")), (float("inf"), 1.0, 1.0)]
)
def test_an_impossible_spacing_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(GeometryError, match="positive, finite"):
        moved(spacing=spacing)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": (4, 5)}, "one spacing and origin each"),
        ({"shape": (4,), "spacing": (1.0,), "origin": (0.0,), "direction": ((1.0,),)}, "2 or 3 axes"),
        ({"shape": (4, 0, 6)}, "at least one voxel"),
        ({"origin": (0.0, float("nan"), 0.0)}, "not finite"),
        ({"direction": ((1.0, 0.0), (0.0, 1.0))}, "another rank"),
        ({"direction": ((2.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))}, "not perpendicular"),
    ],
)
def test_a_grid_that_contradicts_itself_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(GeometryError, match=words):
        moved(**changes)


def test_the_small_obliqueness_of_rounded_headers_is_accepted() -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.004
    assert Geometry.from_affine(affine, (3, 3, 3)).axcodes == "RAS"


@pytest.mark.parametrize(
    ("geometry", "codes"),
    [(moved(), "RAR"), (moved(), "RA"), (moved(), "XYZ"), (Geometry.plain((3, 4)), "RAS"), (moved(), "ras")],
)
def test_an_orientation_that_does_not_name_each_axis_once_is_refused(geometry: Geometry, codes: str) -> None:
    with pytest.raises(GeometryError, match=f'Orientation "{codes}"'):
        geometry.reorientation(codes)


def test_left_and_posterior_of_dicom_are_negative_right_and_anterior() -> None:
    np.testing.assert_array_equal(RAS_FROM_LPS @ [10, 20, 30, 1], [-10, -20, 30, 1])
    np.testing.assert_array_equal(RAS_FROM_LPS @ RAS_FROM_LPS, np.eye(4))


def test_the_affine_cannot_be_changed_by_who_reads_it() -> None:
    with pytest.raises(ValueError, match="read-only"):
        moved().affine[0, 0] = 5


def test_volumes_are_in_millilitres() -> None:
    assert moved(spacing=(10.0, 10.0, 10.0)).voxel_volume_ml == pytest.approx(1.0)


def test_the_tilt_is_the_largest_angle_to_the_axes_of_the_patient() -> None:
    assert Geometry.from_affine(np.diag([-1.0, 2.0, -3.0, 1.0]), (3, 4, 5)).tilt_degrees == 0
    angle = np.deg2rad(20)
    turned = np.array([[0, 0, 1, 0], [np.cos(angle), -np.sin(angle), 0, 0], [np.sin(angle), np.cos(angle), 0, 0]])
    geometry = Geometry.from_affine(np.vstack([turned, [0, 0, 0, 1]]), (3, 4, 5))
    assert geometry.tilt_degrees == pytest.approx(20)


def test_plain_grids_have_one_millimetre_unless_told_otherwise() -> None:
    assert Geometry.plain((3, 4)).spacing == (1.0, 1.0)
    assert Geometry.plain((3, 4, 5), (1, 2, 3)).spacing == (1.0, 2.0, 3.0)
    assert Geometry.plain((3, 4, 5)).axcodes == "RAS"


def test_sizes_are_written_for_people() -> None:
    assert format_mm((0.70312, 0.70312, 5.0)) == "0.7031 x 0.7031 x 5 mm"
    assert format_shape((512, 512, 90)) == "512x512x90"
