"""Label maps: any integers in files, contiguous indices inside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.errors import DataError
from medunet.labels import LabelMap, format_values

ODD = LabelMap.from_mapping({"background": 0, "liver": 205, "lesion": [4, -1, 40000], "vein": 255})

VALUES = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=12, unique=True)


@st.composite
def label_maps(draw: st.DrawFn) -> LabelMap:
    """One to three values per label, in any order."""
    values = draw(VALUES)
    mapping: dict[str, int | list[int]] = {"background": values.pop()}
    while values:
        count = draw(st.integers(1, 3))
        group, values = values[:count], values[count:]
        mapping[f"label {len(mapping)}"] = group[0] if len(group) == 1 else group
    return LabelMap.from_mapping(mapping)


@settings(deadline=None)
@given(label_maps(), st.data())
def test_indices_and_back_give_the_first_value_of_each_label(labels: LabelMap, data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(st.sampled_from(labels.values), min_size=1, max_size=20)), dtype=np.int64)
    indices = labels.to_indices(values)
    assert indices.dtype == labels.index_dtype
    for value, index in zip(values, indices, strict=True):
        assert value in labels.labels[index].values
    back = labels.to_values(indices)
    assert back.dtype == labels.file_dtype
    np.testing.assert_array_equal(labels.to_indices(back), indices)
    single = all(len(label.values) == 1 for label in labels.labels)
    assert not single or np.array_equal(back, values)


@settings(deadline=None)
@given(label_maps())
def test_a_mapping_and_back_is_the_same_label_map(labels: LabelMap) -> None:
    assert LabelMap.from_mapping(labels.to_mapping()) == labels


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64, ">i4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_dtype_and_memory_order_is_translated(dtype: str, order: str) -> None:
    values = np.array([[[0, 205, 4], [-1, 40000, 255]], [[0, 0, 0], [4, 4, 205]]])
    expected = [[[0, 1, 2], [2, 2, 3]], [[0, 0, 0], [2, 2, 1]]]
    np.testing.assert_array_equal(ODD.to_indices(np.asarray(values, dtype=dtype, order=order)), expected)


@pytest.mark.parametrize("order", ["C", "F"])
def test_indices_in_either_memory_order_become_values(order: str) -> None:
    indices = np.array([[[0, 1], [2, 3]], [[3, 2], [1, 0]]], dtype=np.uint8)
    expected = [[[0, 205], [4, 255]], [[255, 4], [205, 0]]]
    np.testing.assert_array_equal(ODD.to_values(np.asarray(indices, order=order)), expected)


def test_two_dimensional_masks_and_booleans_are_translated() -> None:
    labels = LabelMap.from_mapping({"background": 0, "vessel": 1})
    np.testing.assert_array_equal(labels.to_indices(np.array([[True, False]])), [[1, 0]])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, 7], "holds value 7, which no label names"),
        ([0, 7, -3], "holds values -3, 7, which"),
        ([0.5, 205.0], "holds value 0.5, which"),
        ([np.nan, 0.0], "holds value nan, which"),
        ([123456789], "holds value 123456789, which"),
    ],
)
def test_a_value_that_no_label_names_is_an_error_that_lists_the_labels(values: list[float], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        ODD.to_indices(np.array(values))
    assert caught.value.hint == "The labels are background 0, liver 205, lesion 4/-1/40000, vein 255."


def test_many_unknown_values_are_counted() -> None:
    with pytest.raises(DataError, match=r"values 1000, .*\.\.\. \(50 in all\)"):
        ODD.to_indices(np.arange(1000, 1050))


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({}, "background first"),
        ({"background": 0}, "at least one structure"),
        ({"liver": 1, "tumour": 2}, "background first"),
        ({"background": 0, "liver": 1, "tumour": 1}, "may occur once"),
        ({"background": 0, "liver": [1, 1]}, "may occur once"),
        ({"background": 0, "liver": []}, "liver has none"),
    ],
)
def test_an_impossible_label_map_is_refused(mapping: dict[str, int | list[int]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        LabelMap.from_mapping(mapping)


def test_background_comes_first_and_the_others_keep_their_order() -> None:
    labels = LabelMap.from_mapping({"tumour": 2, "background": 0, "liver": 1})
    assert labels.names == ("background", "tumour", "liver")
    assert [label.index for label in labels.labels] == [0, 1, 2]
    assert [label.name for label in labels.foreground] == ["tumour", "liver"]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([0, 255], "uint8"), ([0, 256], "uint16"), ([0, -1], "int16"), ([0, 65536], "int32"), ([-1, 40000], "int32")],
)
def test_files_get_the_smallest_type_that_holds_every_value(values: list[int], dtype: str) -> None:
    assert LabelMap.from_mapping({"background": values[0], "x": values[1]}).file_dtype == np.dtype(dtype)


def test_a_value_beyond_32_bits_is_refused() -> None:
    with pytest.raises(DataError, match="do not fit into 32 bits"):
        _ = LabelMap.from_mapping({"background": 0, "x": 2**31}).file_dtype


@pytest.mark.parametrize(("count", "dtype"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (1000, "uint16")])
def test_indices_of_more_than_256_labels_take_two_bytes(count: int, dtype: str) -> None:
    labels = LabelMap.from_mapping({"background": 0, **{f"l{n}": n for n in range(1, count)}})
    assert labels.index_dtype == np.dtype(dtype)
    values = np.array([[count - 1, 0]])
    np.testing.assert_array_equal(labels.to_values(labels.to_indices(values)), values)


def test_colours_are_bytes_and_background_is_black() -> None:
    labels = LabelMap.from_mapping({"background": 0, **{f"l{n}": n for n in range(1, 120)}})
    colours = [label.colour for label in labels.labels]
    assert colours[0] == (0, 0, 0)
    assert all(0 <= channel <= 255 for colour in colours for channel in colour)
    assert len(set(colours[:12])) == 12


def test_values_are_written_for_people() -> None:
    assert format_values([7]) == "value 7"
    assert format_values([7, 0.5]) == "values 7, 0.5"
