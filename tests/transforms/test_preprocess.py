"""The chain from a volume to the network and back: one way for every storage order, undone by its record."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter

from medunet.config.schema import PreprocessConfig
from medunet.errors import DataError, GeometryError
from medunet.geometry import Geometry
from medunet.io.volume import Volume
from medunet.labels import LabelMap
from medunet.transforms.preprocess import PreparedImage, Record, network_shape, preprocess, preprocess_labels
from medunet.transforms.restore import (
    LabelRows,
    ProbabilityRows,
    empty_labels,
    empty_probabilities,
    restore,
    restore_probabilities,
)

RNG = np.random.default_rng(0)
AFFINE = np.array([[0.9, 0.02, 0, 10], [-0.02, 0.9, 0, -20], [0, 0, 2.0, 30], [0, 0, 0, 1.0]])
SHAPE = (20, 18, 12)
NONE, ZSCORE = {"name": "none"}, {"name": "zscore"}
PERCENTILE, WINDOW = {"name": "percentile"}, {"name": "ct_window", "low": -100, "high": 100}


def config(**keys: Any) -> PreprocessConfig:
    return TypeAdapter(PreprocessConfig).validate_json(json.dumps(keys))


def volume(array: NDArray[Any] | None = None, affine: NDArray[np.float64] = AFFINE) -> Volume:
    if array is None:
        array = RNG.normal(0, 100, (1, *SHAPE)).astype(np.float32)
        array[:, :3], array[:, :, -4:] = -1000, -1000  # something to crop
    return Volume(array, Geometry.from_affine(affine, array.shape[1:]))


def stored_as(original: Volume, codes: str) -> Volume:
    """The same patient in another storage order."""
    change = original.geometry.reorientation(codes)
    array, geometry = change.apply(original.array), original.geometry.reoriented(change)
    return Volume(np.asfortranarray(array) if codes.endswith("S") else array, geometry)


CHAINS: dict[str, dict[str, Any]] = {
    "as it is": {"intensity": NONE},
    "z-score, resampled": {"spacing": [1.1, 1.0, 1.5], "intensity": ZSCORE},
    "percentile, resampled linearly": {"spacing": [0.6, 1.3, 2.0], "interpolation": "linear", "intensity": PERCENTILE},
    "window, to LPS": {"orientation": "LPS", "intensity": WINDOW},
    "crop": {"crop": {"above": 40.0, "margin": 1}, "spacing": [1.0, 1.0, 1.0]},
    "nonzero": {"intensity": {"name": "zscore", "nonzero": True}, "orientation": "ASR", "spacing": [2.0, 1.0, 1.0]},
}
EVERY_CHAIN = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)


@EVERY_CHAIN
@pytest.mark.parametrize("codes", ["LPS", "ASR", "PIL", "SAR", "LIP"])
def test_the_storage_order_changes_no_bit_of_what_the_network_sees(chain: dict[str, Any], codes: str) -> None:
    original = volume()
    expected, _ = preprocess(original, config(**chain))
    array, record = preprocess(stored_as(original, codes), config(**chain))
    assert array.tobytes() == expected.tobytes()
    assert array.shape == expected.shape
    assert record.network.axcodes == chain.get("orientation", "RAS")


@EVERY_CHAIN
@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASR"])
def test_the_recorded_grid_lies_where_the_voxels_came_from(chain: dict[str, Any], codes: str) -> None:
    """An image that holds its own world coordinates is resampled to the coordinates of the new grid."""
    geometry = stored_as(volume(), codes).geometry
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"))
    world = np.tensordot(geometry.affine[:3, :3], grid, axes=1) + geometry.affine[:3, 3][:, None, None, None]
    keys = {**chain, "intensity": NONE, "interpolation": "linear"}
    array, record = preprocess(Volume(world, geometry), config(**keys))
    there = np.stack(np.meshgrid(*(np.arange(n) for n in record.network.shape), indexing="ij"))
    affine = record.network.affine
    expected = np.tensordot(affine[:3, :3], there, axes=1) + affine[:3, 3][:, None, None, None]
    assert "crop" not in chain or min(record.crop_shape) < min(SHAPE)
    inside = (slice(None), *[slice(2, -2)] * 3)  # beyond the outer voxel centres the edge is repeated
    np.testing.assert_allclose(array[inside], expected[inside], atol=1e-3)


@EVERY_CHAIN
def test_the_result_is_contiguous_float32_and_the_volume_is_not_changed(chain: dict[str, Any]) -> None:
    original = volume()
    before = original.array.copy()
    array, _ = preprocess(original, config(**chain))
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(original.array, before)


@pytest.mark.parametrize("dtype", ["u1", ">i2", "u2", "i8", "f8", "?"])
def test_every_stored_type_is_accepted(dtype: str) -> None:
    array = RNG.integers(0, 2, (1, *SHAPE)).astype(dtype)
    result, _ = preprocess(volume(array), config(intensity=NONE, spacing=[1.0, 1.0, 1.0]))
    assert result.dtype == np.float32


def test_arrays_that_cannot_be_written_to_are_accepted() -> None:
    array = RNG.normal(size=(1, *SHAPE)).astype(np.float32)
    array.flags.writeable = False
    for intensity in (NONE, ZSCORE):
        preprocess(volume(array), config(intensity=intensity))


# intensity


def test_a_window_becomes_zero_to_one() -> None:
    array = np.array([-1000, -100, 0, 50, 100, 3000], np.int16).reshape(1, 6, 1, 1)
    result, _ = preprocess(volume(array), config(intensity=WINDOW))
    np.testing.assert_allclose(result.ravel(), [0, 0, 0.5, 0.75, 1, 1])


def test_a_z_score_has_mean_zero_and_deviation_one() -> None:
    array = RNG.normal(1e4, 300, (1, 70, 60, 300))  # more than one block of the sums
    result, _ = preprocess(volume(array), config(intensity=ZSCORE))
    assert result.mean(dtype=np.float64) == pytest.approx(0, abs=1e-3)
    assert result.std(dtype=np.float64) == pytest.approx(1, abs=1e-4)
    expected = (array - array.mean()) / array.std()
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_a_z_score_over_nonzero_voxels_leaves_zero_alone() -> None:
    array = RNG.normal(50, 5, (1, *SHAPE)).astype(np.float32)
    array[:, :10] = 0
    result, _ = preprocess(volume(array), config(intensity={"name": "zscore", "nonzero": True}))
    assert (result[:, :10] == 0).all()
    assert result[:, 10:].mean() == pytest.approx(0, abs=1e-4)
    assert result[:, 10:].std() == pytest.approx(1, abs=1e-4)


def test_percentiles_cut_outliers_before_the_z_score() -> None:
    array = RNG.normal(0, 1, (1, *SHAPE)).astype(np.float32)
    with_outlier = array.copy()
    with_outlier[0, 0, 0, 0] = 1e6
    rule = {"name": "percentile", "low": 1, "high": 99}
    clean, _ = preprocess(volume(array), config(intensity=rule))
    result, _ = preprocess(volume(with_outlier), config(intensity=rule))
    np.testing.assert_allclose(result.ravel()[1:], clean.ravel()[1:], atol=0.02)
    assert result.max() < 5


@pytest.mark.parametrize("value", [0, 1, -1024, 1e6, 0.1])
@pytest.mark.parametrize("rule", [ZSCORE, {"name": "zscore", "nonzero": True}, PERCENTILE])
def test_a_constant_image_becomes_zero(value: float, rule: dict[str, Any]) -> None:
    array = np.full((1, *SHAPE), value, np.float32)
    result, _ = preprocess(volume(array), config(intensity=rule, spacing=[1.0, 1.0, 1.0]))
    assert (result == 0).all()


def test_each_channel_has_its_own_statistics_and_may_have_its_own_rule() -> None:
    array = np.stack([RNG.normal(1000, 5, SHAPE), RNG.normal(0, 100, SHAPE)]).astype(np.float32)
    same, _ = preprocess(volume(array), config(intensity=ZSCORE))
    np.testing.assert_allclose(same.mean(axis=(1, 2, 3)), 0, atol=1e-3)
    own, _ = preprocess(volume(array), config(intensity=[ZSCORE, WINDOW]))
    np.testing.assert_array_equal(own[0], same[0])
    assert own[1].min() == 0
    assert own[1].max() == 1


def test_rules_for_another_number_of_channels_are_refused() -> None:
    with pytest.raises(DataError, match="has 2 entries, but the image has 1 channel"):
        preprocess(volume(), config(intensity=[ZSCORE, ZSCORE]))


# geometry


def test_a_picture_keeps_its_axes() -> None:
    picture = Volume(RNG.integers(0, 255, (3, 40, 30), dtype=np.uint8), Geometry.plain((40, 30)))
    result, record = preprocess(picture, config(intensity=NONE))
    np.testing.assert_array_equal(result, picture.array)
    np.testing.assert_array_equal(record.change.undo(result[0]), picture.array[0])


def test_an_orientation_of_another_rank_is_refused() -> None:
    with pytest.raises(GeometryError, match="3 axes"):
        preprocess(volume(), config(orientation="RA"))


def test_a_spacing_of_another_rank_is_refused() -> None:
    with pytest.raises(DataError, match="has 2 numbers, but the image has 3 axes"):
        preprocess(volume(), config(spacing=[1.0, 1.0]))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_of_one_slice_is_a_volume(axis: int) -> None:
    shape = [10, 11, 12]
    shape[axis] = 1
    single = volume(RNG.normal(size=(1, *shape)))
    result, record = preprocess(single, config(spacing=[2.0, 2.0, 10.0]))
    assert min(result.shape) >= 1
    labels = RNG.integers(0, 2, shape).astype(np.uint8)
    network = preprocess_labels(labels, record)
    assert network.shape == result.shape[1:]
    assert restore(torch.eye(2)[torch.from_numpy(network).long()].movedim(-1, 0), record, plain(2)).shape == tuple(
        shape
    )


@settings(deadline=None)
@given(
    st.integers(1, 600), st.sampled_from([0.5, 0.7, 0.75, 0.8, 1.0, 1.25, 2.5, 3.0, 5.0]),
    st.sampled_from([0.5, 0.75, 1.0, 1.5, 2.0, 2.5]), st.floats(-1e-7, 1e-7),
)  # fmt: skip
def test_header_noise_never_decides_the_size(size: int, here: float, wanted: float, noise: float) -> None:
    """As NIfTI's float32 against DICOM's text."""
    chain = config(spacing=[wanted, 1.0])
    exact = Geometry.plain((size, 4), (here, 1.0))
    for value in (here * (1 + noise), float(np.float32(here))):
        assert network_shape(Geometry.plain((size, 4), (value, 1.0)), chain) == network_shape(exact, chain)


@pytest.mark.parametrize("here", [0.9995, 1.0, 1.0005, 1.001, 0.999])
def test_a_spacing_that_fits_to_a_thousandth_is_not_resampled(here: float) -> None:
    assert network_shape(Geometry.plain((4000, 4), (here, 1.0)), config(spacing=[1.0, 1.0])) == (4000, 4)


def test_the_field_of_view_decides_the_size() -> None:
    chain = config(spacing=[1.0, 1.0, 5.0])
    assert network_shape(Geometry.plain((10, 5, 2), (2.0, 0.5, 1.0)), chain) == (20, 3, 1)
    assert network_shape(Geometry.plain((10, 5, 2)), config()) == (10, 5, 2)


def test_pictures_of_any_size_become_one_size_and_slices_too() -> None:
    chain = config(size=[32, 24], intensity=NONE)
    assert network_shape(Geometry.plain((100, 60)), chain) == (32, 24)
    assert network_shape(Geometry.plain((100, 60, 7)), chain) == (32, 24, 7)
    picture = Volume(RNG.integers(0, 255, (3, 100, 17), dtype=np.uint8), Geometry.plain((100, 17)))
    result, record = preprocess(picture, chain)
    assert result.shape == (3, 32, 24)
    assert record.network.shape == (32, 24)


def test_every_pixel_of_a_picture_that_shrinks_counts() -> None:
    """A picture of a single bright pixel in turn: none of them is skipped over, as interpolation would."""
    for place in range(40):
        array = np.zeros((1, 40, 1), np.float32)
        array[0, place] = 40
        result, _ = preprocess(Volume(array, Geometry.plain((40, 1))), config(size=[4, 1], intensity=NONE))
        assert 2.4 < result.sum() < 5.7  # 4 but for the edges, where the weights are cut off


# and back


def blobs(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Two nested ellipsoids and a box."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    labels = np.zeros(shape, np.uint8)
    labels[(grid**2).sum(0) < 0.6] = 1
    labels[(grid**2).sum(0) < 0.2] = 2
    labels[tuple(slice(1, 1 + n // 4) for n in shape)] = 3
    return labels


NESTED = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def plain(count: int) -> LabelMap:
    """So many labels beside each other, background included."""
    return LabelMap.from_mapping({"background": 0, **{f"label {n}": n for n in range(1, count)}})


def logits_of(labels: NDArray[np.generic], count: int) -> torch.Tensor:
    return torch.eye(count)[torch.from_numpy(labels.astype(np.int64))].movedim(-1, 0).contiguous() * 5


def dice(a: NDArray[np.generic], b: NDArray[np.generic], label: int) -> float:
    return 2 * float(((a == label) & (b == label)).sum()) / float((a == label).sum() + (b == label).sum())


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASR", "SPL"])
@pytest.mark.parametrize("orientation", ["RAS", "LIP"])
def test_without_resampling_labels_come_back_exactly(codes: str, orientation: str) -> None:
    original = stored_as(volume(), codes)
    labels = blobs(original.geometry.shape)
    _, record = preprocess(original, config(orientation=orientation))
    network = preprocess_labels(labels, record)
    assert network.dtype == np.uint8
    np.testing.assert_array_equal(restore(logits_of(network, 4), record, plain(4)), labels)
    np.testing.assert_array_equal(record.change.undo(network), labels)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASR"])
@pytest.mark.parametrize("spacing", [[1.2, 1.2, 2.5], [0.6, 0.7, 1.1]])
def test_with_resampling_labels_come_back_nearly(codes: str, spacing: list[float]) -> None:
    original = stored_as(volume(np.zeros((1, 48, 44, 30))), codes)
    labels = blobs(original.geometry.shape)
    _, record = preprocess(original, config(spacing=spacing))
    assert record.network.shape != original.geometry.shape
    back = restore(logits_of(preprocess_labels(labels, record), 4), record, plain(4))
    assert back.shape == labels.shape
    for label, least in ((1, 0.95), (2, 0.95), (3, 0.9)):  # the corners of the box suffer most
        assert dice(back, labels, label) > least


@pytest.mark.parametrize("shape", [(64, 50), (20, 90), (64, 50, 3)])
def test_masks_come_back_in_the_size_of_the_picture(shape: tuple[int, ...]) -> None:
    labels = blobs(shape[:2]) if len(shape) == 2 else np.stack([blobs(shape[:2])] * shape[2], axis=-1)
    _, record = preprocess(Volume(np.zeros((1, *shape)), Geometry.plain(shape)), config(size=[48, 48]))
    back = restore(logits_of(preprocess_labels(labels, record), 4), record, plain(4))
    assert back.shape == labels.shape
    assert all(dice(back, labels, label) > least for label, least in ((1, 0.95), (2, 0.95)))


@pytest.mark.parametrize("codes", ["RAS", "PIL"])
@pytest.mark.parametrize("margin", [0, 2])
def test_a_crop_is_undone_with_background_around(codes: str, margin: int) -> None:
    array = np.zeros((1, *SHAPE), np.float32)
    array[0, 5:12, 6:10, 3:9] = 7
    original = stored_as(volume(array), codes)
    _, record = preprocess(original, config(crop={"above": 0.0, "margin": margin}, intensity=NONE))
    assert sorted(record.crop_shape) == sorted((7 + 2 * margin, 4 + 2 * margin, 6 + 2 * margin))
    labels = (original.array[0] > 0).astype(np.uint8)
    back = restore(logits_of(preprocess_labels(labels, record), 2), record, plain(2))
    np.testing.assert_array_equal(back, labels)
    logits = torch.zeros(2, *record.crop_shape)
    shares = restore_probabilities(logits, record, plain(2))
    assert shares.shape == (2, *original.geometry.shape)
    assert shares[0].max() == 1
    assert shares[1].max() == 0.5
    nested = restore_probabilities(
        logits - 9, record, LabelMap.from_mapping({"background": 0, "whole": [1, 2], "core": 2})
    )
    assert nested.max() == pytest.approx(float(torch.sigmoid(torch.tensor(-9.0))))  # nothing has 1 outside
    assert nested.min() == 0


def test_a_crop_at_the_edge_stops_there_and_one_of_nothing_keeps_all() -> None:
    array = np.zeros((1, *SHAPE), np.float32)
    array[0, 0, 0, 0] = 1
    _, record = preprocess(volume(array), config(crop={"above": 0.5, "margin": 3}))
    assert (record.crop_start, record.crop_shape) == ((0, 0, 0), (4, 4, 4))
    _, record = preprocess(volume(array), config(crop={"above": 5.0, "margin": 3}))
    assert record.crop_shape == SHAPE


def test_any_channel_keeps_a_voxel_from_being_cropped() -> None:
    array = np.zeros((2, *SHAPE), np.float32)
    array[0, 2], array[1, 5] = 1, 1
    _, record = preprocess(volume(array), config(crop={"above": 0.5}))
    assert (record.crop_start[0], record.crop_shape[0]) == (2, 4)


def test_probabilities_on_the_original_grid_still_sum_to_one() -> None:
    original = stored_as(volume(), "ASR")
    _, record = preprocess(original, config(spacing=[1.3, 1.3, 1.3], crop={"above": 150.0}))
    shares = restore_probabilities(torch.randn(4, *record.network.shape), record, plain(4))
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)


def test_more_than_256_labels_come_back() -> None:
    _, record = preprocess(volume(), config())
    labels = RNG.integers(0, 300, SHAPE).astype(np.uint16)
    network = preprocess_labels(labels, record)
    assert network.dtype == np.uint16
    logits = torch.zeros(300, *SHAPE).scatter_(0, torch.from_numpy(network.astype(np.int64))[None], 1.0)
    np.testing.assert_array_equal(restore(logits, record, plain(300)), labels)


@pytest.mark.parametrize("spacing", [None, [1.2, 1.2, 2.5]])
@pytest.mark.parametrize("mapping", [NESTED, {"enhancing": 3, "core": [2, 3], "background": 0, "whole": [2, 3, 1]}])
def test_nested_structures_come_back(mapping: dict[str, Any], spacing: list[float] | None) -> None:
    nested = LabelMap.from_mapping(mapping)
    original = stored_as(volume(np.zeros((1, 48, 44, 30))), "LPS")
    whole = blobs(original.geometry.shape)
    values = np.where(whole == 1, 1, np.where(whole == 2, 3, 0))
    values[20:24, 20:24, 5:25] = np.where(values[20:24, 20:24, 5:25], 2, 0)
    indices = nested.to_indices(values)
    _, record = preprocess(original, config(spacing=spacing))
    network = torch.from_numpy(preprocess_labels(indices, record).astype(np.int64))
    logits = (torch.from_numpy(nested.membership[1:])[:, network] * 8.0) - 4.0
    back = restore(logits, record, nested)
    assert back.dtype == np.uint8
    if spacing is None:
        np.testing.assert_array_equal(back, indices)
    for row in nested.membership[1:]:
        assert dice(row[back], row[indices], True) > 0.95


def test_ignored_voxels_are_resampled_as_one_more_label() -> None:
    labels = LabelMap.from_mapping({"background": 0, "organ": 1, "ignore": 9})
    values = np.zeros(SHAPE, np.uint8)
    values[2:8], values[8:] = 1, 9
    _, record = preprocess(volume(), config(spacing=[2.0, 1.3, 4.0]))
    network = preprocess_labels(labels.to_indices(values), record)
    assert set(np.unique(network)) == {0, 1, 255}
    share = np.mean(network == 255)
    assert share == pytest.approx(np.mean(values == 9), abs=1 / network.shape[0])


@pytest.mark.parametrize("nested", [False, True])
def test_a_label_without_the_probability_asked_for_is_not_restored(nested: bool) -> None:
    labels = LabelMap.from_mapping(NESTED) if nested else plain(4)
    _, record = preprocess(stored_as(volume(), "ASR"), config(spacing=[1.3, 0.9, 2.0], crop={"above": 150.0}))
    logits = torch.randn(labels.outputs, *record.network.shape, generator=torch.Generator().manual_seed(1))
    least = [0.5 if nested else 0.0] * labels.outputs
    least[-1] = 0.8
    shares = restore_probabilities(logits, record, labels)
    before, after = restore(logits, record, labels), restore(logits, record, labels, least)
    last = len(labels) - 1
    unsure = shares[-1] < 0.8 - 1e-5
    assert ((before == last) & unsure).any()
    assert not ((after == last) & unsure).any()
    sure = shares[-1] > 0.8 + 1e-5
    np.testing.assert_array_equal(after[sure], before[sure])
    np.testing.assert_array_equal(after[before != last], before[before != last])


@EVERY_CHAIN
def test_a_record_survives_json(chain: dict[str, Any]) -> None:
    _, record = preprocess(stored_as(volume(), "ASR"), config(**chain))
    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record


# a few rows at a time


@EVERY_CHAIN
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rows_of_an_image_are_those_of_the_whole_bit_for_bit(chain: dict[str, Any], axis: int) -> None:
    original = stored_as(volume(), "PIL")
    expected, record = preprocess(original, config(**chain))
    image = PreparedImage(original, config(**chain))
    assert image.record == record
    assert image.shape == expected.shape[1:]
    size = image.shape[axis]
    for low, high in [(0, 5), (3, 8), (3, 8), (7, 9), (size - 2, size), (0, size), (2, 3)]:
        if high > size:
            continue
        found = image.rows(axis, low, high)
        assert torch.equal(found, torch.from_numpy(expected).narrow(axis + 1, low, high - low))


def test_rows_of_another_axis_are_no_rows_of_this_one() -> None:
    image = PreparedImage(volume(), config(intensity=NONE))
    assert image.rows(0, 0, 4).shape == (1, 4, *SHAPE[1:])
    assert image.rows(1, 0, 4).shape == (1, SHAPE[0], 4, SHAPE[2])


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_labels_from_pieces_are_those_from_the_whole(data: st.DataObject) -> None:
    codes, axis = data.draw(st.sampled_from(["RAS", "LPS", "SPL"])), data.draw(st.integers(0, 2))
    spacing = data.draw(st.sampled_from([None, [0.6, 1.3, 3.1], [1.2, 0.9, 1.0]]))
    labels = LabelMap.from_mapping(NESTED) if data.draw(st.booleans()) else plain(4)
    crop = {"above": -900.0, "margin": 1}
    _, record = preprocess(stored_as(volume(), codes), config(spacing=spacing, crop=crop, intensity=NONE))
    logits = torch.randn(labels.outputs, *record.network.shape, generator=torch.Generator().manual_seed(0))
    segmented, shares = empty_labels(record, labels), empty_probabilities(record, labels)
    sinks = (
        LabelRows(segmented, record, labels, axis),
        ProbabilityRows(shares, record, labels, axis),
    )
    left = logits
    while left.shape[axis + 1]:
        step = data.draw(st.integers(1, left.shape[axis + 1]))
        for sink in sinks:
            sink.add(left.narrow(axis + 1, 0, step))
        left = left.narrow(axis + 1, step, left.shape[axis + 1] - step)
    expected = restore(logits, record, labels)
    assert segmented.dtype == expected.dtype
    assert np.mean(segmented == expected) > 0.999  # where two labels are as likely, rounding decides
    np.testing.assert_allclose(shares, restore_probabilities(logits, record, labels), atol=1e-5)
