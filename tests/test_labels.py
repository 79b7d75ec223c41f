"""Label maps: any integers in files, contiguous indices inside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.errors import DataError
from medunet.labels import LabelMap, clashes, format_values

ODD = LabelMap.from_mapping({"background": 0, "liver": 205, "lesion": [4, -1, 40000], "vein": 255})

BRATS = LabelMap.from_mapping({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": -1})

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


@st.composite
def nested_maps(draw: st.DrawFn) -> LabelMap:
    """A forest: every structure has values of its own, and those of the structures that were put into it."""
    pool = draw(VALUES)
    background = pool.pop()
    ignore = pool[:1] if len(pool) > 1 and draw(st.booleans()) else []
    pool = pool[len(ignore) :]
    values: list[list[int]] = []
    parents: list[int | None] = []
    for number, value in enumerate(pool):
        parents.append(draw(st.none() | st.integers(0, number - 1)) if number else None)
        values.append([value])
        above = parents[-1]
        while above is not None:
            values[above].insert(draw(st.integers(0, len(values[above]))), value)
            above = parents[above]
    mapping: dict[str, int | list[int]] = {f"label {n}": numbers for n, numbers in enumerate(values)}
    order = draw(st.permutations([*mapping, "background", *(["ignore"] if ignore else [])]))
    mapping |= {"background": background, "ignore": ignore}
    return LabelMap.from_mapping({name: mapping[name] for name in order})


ANY_MAP = label_maps() | nested_maps()


@settings(deadline=None)
@given(label_maps(), st.data())
def test_indices_and_back_give_the_first_value_of_each_label(labels: LabelMap, data: st.DataObject) -> None:
    assert labels.written == tuple(label.values[0] for label in labels.labels)
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
@given(ANY_MAP, st.data())
def test_a_voxel_belongs_to_exactly_the_labels_that_name_its_value(labels: LabelMap, data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(st.sampled_from(labels.values), min_size=1, max_size=20)), dtype=np.int64)
    indices = labels.to_indices(values)
    assert indices.dtype == labels.index_dtype
    for value, index in zip(values, indices, strict=True):
        if value in labels.ignore:
            assert index == labels.ignore_index
            continue
        expected = [value in label.values for label in labels.labels]
        assert labels.membership[:, index].tolist() == expected
    np.testing.assert_array_equal(labels.to_indices(labels.to_values(indices)), indices)


@settings(deadline=None)
@given(ANY_MAP)
def test_levels_and_enclosing_labels_follow_from_the_values(labels: LabelMap) -> None:
    assert sorted(index for level in labels.levels for index in level) == list(range(1, len(labels)))
    for depth, level in enumerate(labels.levels):
        for index in level:
            around = [other for other in labels.foreground if set(other.values) > set(labels.labels[index].values)]
            assert len(around) == depth
            smallest = min(around, key=lambda other: len(other.values), default=labels.labels[0])
            assert labels.enclosing[index] == smallest.index
            own = set(labels.labels[index].values) - {
                v
                for o in labels.labels
                for v in o.values
                if o.index != index and set(o.values) < set(labels.labels[index].values)
            }
            assert labels.written[index] in own
    assert labels.nested == (len(labels.levels) > 1)
    assert labels.outputs == len(labels) - labels.nested
    assert labels.membership[0].tolist() == labels.membership[:, 0].tolist() == [True] + [False] * (len(labels) - 1)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefg"), st.lists(st.integers(1, 6), min_size=1, unique=True), min_size=1))
def test_a_label_map_is_refused_exactly_where_labels_cannot_be_told_apart(mapping: dict[str, list[int]]) -> None:
    sets = {name: set(values) for name, values in mapping.items()}
    names = sorted(sets)
    fits = all(
        not sets[a] & sets[b] or sets[a] < sets[b] or sets[b] < sets[a] for a in names for b in names if a < b
    ) and all(sets[a] - {value for b in names if sets[b] < sets[a] for value in sets[b]} for a in names)
    assert (not clashes(mapping)) == fits
    if fits:
        assert len(LabelMap.from_mapping({"background": 0, **mapping})) == len(names) + 1
    else:
        with pytest.raises(DataError, match=r"The label [a-g] (shares|has) "):
            LabelMap.from_mapping({"background": 0, **mapping})


def test_the_labels_of_brats_are_nested() -> None:
    assert (len(BRATS), BRATS.nested, BRATS.outputs) == (4, True, 3)
    expected = [[1, 0, 0, 0], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]
    np.testing.assert_array_equal(BRATS.membership, np.array(expected, bool))
    assert BRATS.levels == ((1,), (2,), (3,))
    assert BRATS.enclosing == (0, 0, 1, 2)
    assert BRATS.written == (0, 1, 2, 3)
    np.testing.assert_array_equal(BRATS.to_indices(np.array([0, 1, 2, 3, -1])), [0, 1, 2, 3, 255])
    old = LabelMap.from_mapping({"background": 0, "whole": [4, 1, 2], "core": [4, 1], "enhancing": 4})
    assert old.written == (0, 2, 1, 4)
    np.testing.assert_array_equal(old.to_values(np.array([0, 1, 2, 3], np.uint8)), [0, 2, 1, 4])


def test_ignored_voxels_are_no_label() -> None:
    labels = LabelMap.from_mapping({"background": 0, "ignore": [255, -1], "liver": 1})
    assert labels.names == ("background", "liver")
    assert (len(labels), labels.outputs, labels.nested, labels.ignore_index) == (2, 2, False, 255)
    assert [label.name for label in labels.foreground] == ["liver"]
    assert labels.to_mapping() == {"background": 0, "liver": 1, "ignore": [255, -1]}
    assert labels.describe() == "background 0, liver 1, ignore 255/-1"
    assert labels.unknown_values(np.array([0, 1, 255, -1, 7])) == [7]
    np.testing.assert_array_equal(labels.to_indices(np.array([[0, 1], [255, -1]])), [[0, 1], [255, 255]])


def test_a_value_that_only_means_unknown_does_not_widen_the_masks_that_are_written() -> None:
    labels = LabelMap.from_mapping({"background": 0, "liver": 1, "ignore": -1})
    assert labels.to_values(np.array([0, 1], np.uint8)).dtype == np.uint8
    reference = labels.to_values(np.array([[0, 1, 255]], np.uint8))
    assert reference.dtype == np.int16
    assert reference.tolist() == [[0, 1, -1]]


def test_an_index_that_no_label_has_is_never_translated() -> None:
    for labels in (ODD, BRATS):
        with pytest.raises(IndexError):
            labels.to_values(np.array([[0, 9, 255 if labels.ignore else 9]], np.uint8))


@pytest.mark.parametrize(("count", "dtype", "index"), [(255, "uint8", 255), (256, "uint16", 32767)])
def test_the_index_of_ignored_voxels_is_never_that_of_a_label(count: int, dtype: str, index: int) -> None:
    labels = LabelMap.from_mapping({"background": 0, "ignore": -1, **{f"l{n}": n for n in range(1, count)}})
    assert (labels.index_dtype, labels.ignore_index) == (np.dtype(dtype), index)
    values = np.array([[count - 1, 0, -1]])
    np.testing.assert_array_equal(labels.to_indices(values), [[count - 1, 0, index]])
    np.testing.assert_array_equal(labels.to_values(labels.to_indices(values)), values)


@settings(deadline=None)
@given(ANY_MAP)
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
        ({"background": 0, "liver": 1, "tumour": 1}, "tumour has the same values as liver"),
        ({"background": 0, "liver": [1, 1]}, "each value once per label"),
        ({"background": 0, "liver": []}, "liver has none"),
        ({"background": 0, "liver": [0, 1]}, "liver shares value 0 with background"),
        ({"background": 0, "liver": 1, "ignore": []}, "ignore has none"),
        ({"background": 0, "liver": 1, "ignore": [1, 2]}, "ignore shares value 1 with liver"),
        ({"background": 0, "ignore": 1}, "at least one structure"),
        ({"background": 0, "a": [1, 2], "b": [2, 3]}, "b shares value 2 with a"),
        ({"background": 0, "a": [1, 2], "b": 1, "c": 2}, r"a has no value of its own.*\(b, c\)"),
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
