"""Masks that are pictures: colours, smoothed edges, other sizes, regions of interest, masks of single structures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medunet.errors import DataError, GeometryError
from medunet.io.case import Case, Drawn, Part, Reading
from medunet.io.labelled import Truth, read_case_label, sum_up
from medunet.io.read import read_volume
from medunet.labels import LabelMap

PERSON = LabelMap.from_mapping({"background": 0, "person": 255})
STREET = LabelMap.from_mapping({"background": 0, "road": 7, "car": [3, 4], "ignore": 255})
COLOURS = Reading(
    colours=(
        ("background", ("#000000",)),
        ("road", ("#804080",)),
        ("car", ("#00008e", "#00003c")),
        ("ignore", ("#ffffff",)),
    )
)


def save(path: Path, array: NDArray[Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def disc(size: tuple[int, int] = (200, 160), *, smooth: bool = False) -> NDArray[np.uint8]:
    """A white ellipse on black (rows, columns), maybe with smoothed edges."""
    factor = 4 if smooth else 1
    width, height = (side * factor for side in size)
    picture = Image.new("L", (width, height))
    ImageDraw.Draw(picture).ellipse((width // 5, height // 5, width * 4 // 5, height * 4 // 5), fill=255)
    return np.asarray(picture.resize(size, Image.Resampling.BOX))


def read(
    tmp_path: Path, label: Path | Drawn, labels: LabelMap, shape: tuple[int, int] = (160, 200), **more: Any
) -> Truth:
    image = save(tmp_path / "image.png", np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape))
    return read_case_label(Case("x", (image,), label, **more), read_volume(image), labels)


# smoothed edges


def test_smoothed_edges_go_to_the_nearer_value_and_are_told(tmp_path: Path) -> None:
    soft = disc(smooth=True)
    truth = read(tmp_path, save(tmp_path / "m.png", soft), PERSON)
    np.testing.assert_array_equal(truth.values, np.where(soft >= 128, 255, 0).T)
    odd = np.mean((soft > 0) & (soft < 255))
    assert truth.remarks.smoothed == pytest.approx(odd)
    assert 0 < odd < 0.05
    assert sum_up([truth.remarks])[0].startswith(f"Smoothed edges of masks, up to {odd:.2%} of their pixels, went to")


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_a_jpeg_is_a_mask_again(tmp_path: Path, quality: int) -> None:
    truth = read(tmp_path, save(tmp_path / "m.jpg", disc(), quality=quality), PERSON)
    assert set(np.unique(truth.values)) == {0, 255}
    assert np.mean(truth.values != disc().T) < 0.01


def test_an_exact_mask_is_left_and_nothing_is_told(tmp_path: Path) -> None:
    truth = read(tmp_path, save(tmp_path / "m.png", disc()), PERSON)
    np.testing.assert_array_equal(truth.values, disc().T)
    assert sum_up([truth.remarks]) == []


@pytest.mark.parametrize("value", [2, 128, 250])
def test_an_area_of_another_value_is_a_structure_and_no_edge(tmp_path: Path, value: int) -> None:
    mask = disc()
    mask = np.where(np.pad(np.ones((5, 5), bool), ((9, 146), (9, 186))), value, mask).astype(np.uint8)
    with pytest.raises(DataError, match=f"areas of the value {value}, which no label names"):
        read(tmp_path, save(tmp_path / "m.png", mask), PERSON)


def test_too_many_odd_values_are_an_error_with_their_share(tmp_path: Path) -> None:
    mask = np.where(np.indices((160, 200)).sum(axis=0) % 4 == 0, 100, 0).astype(np.uint8)
    with pytest.raises(DataError, match=r"values between 0 and 255 in 25\.\d% of its pixels; up to 20% are taken"):
        read(tmp_path, save(tmp_path / "m.png", mask), PERSON)


def test_the_edges_of_a_small_mask_may_be_a_large_part_of_it(tmp_path: Path) -> None:
    smooth = Image.fromarray(disc()).resize((40, 32), Image.Resampling.BOX)
    smooth.save(tmp_path / "m.png")
    image = save(tmp_path / "small.png", np.arange(1280, dtype=np.uint16).reshape(40, 32).T)
    truth = read_case_label(Case("x", (image,), tmp_path / "m.png"), read_volume(image), PERSON)
    assert truth.remarks.smoothed > 0.05
    assert set(np.unique(truth.values)) == {0, 255}


def test_a_mask_of_one_bit_is_told_by_its_value(tmp_path: Path) -> None:
    Image.fromarray(disc()).convert("1").save(tmp_path / "m.png")
    with pytest.raises(DataError, match="areas of the value 1, which no label names"):
        read(tmp_path, tmp_path / "m.png", PERSON)


@pytest.mark.parametrize(
    ("labels", "reading"),
    [
        ({"background": 0, "person": 255}, Reading(grey_edges=False)),
        ({"background": 0, "car": 100, "person": 255}, Reading()),
        ({"background": 0, "person": [200, 255]}, Reading()),
        ({"background": 0, "person": 255, "ignore": 128}, Reading()),
        ({"background": 0, "person": 40}, Reading()),
    ],
)
def test_nothing_is_bent_where_it_is_not_asked_for_or_where_the_values_are_not_two(
    tmp_path: Path, labels: dict[str, Any], reading: Reading
) -> None:
    soft = disc(smooth=True)
    truth = read(tmp_path, save(tmp_path / "m.png", soft), LabelMap.from_mapping(labels), reading=reading)
    np.testing.assert_array_equal(truth.values, soft.T)


def test_a_value_outside_of_the_two_is_left_for_the_check(tmp_path: Path) -> None:
    soft = disc(smooth=True)
    truth = read(tmp_path, save(tmp_path / "m.png", soft), LabelMap.from_mapping({"background": 0, "person": 180}))
    np.testing.assert_array_equal(truth.values, soft.T)


# colours


def street() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A picture of colours (rows, columns, 3), and the values that they mean (columns, rows)."""
    colours = np.array([[0, 0, 0], [128, 64, 128], [0, 0, 142], [0, 0, 60], [255, 255, 255]], np.uint8)
    chosen = np.random.default_rng(0).integers(0, 5, (160, 200))
    return colours[chosen], np.array([0, 7, 3, 3, 255])[chosen].T


@pytest.mark.parametrize("palette", [False, True])
def test_colours_stand_for_labels_in_rgb_and_in_palettes(tmp_path: Path, palette: bool) -> None:
    picture, values = street()
    image = Image.fromarray(picture)
    (image.quantize(8) if palette else image).save(tmp_path / "m.png")
    truth = read(tmp_path, tmp_path / "m.png", STREET, reading=COLOURS)
    np.testing.assert_array_equal(truth.values, values)


def test_a_colour_without_a_label_is_named_and_counted(tmp_path: Path) -> None:
    picture, _ = street()
    picture[3, 5:9] = (1, 2, 3)
    picture[7, 7] = (9, 9, 9)
    with pytest.raises(DataError, match=r"holds #010203 \(4 pixels\), #090909 \(1 pixel\); no label has such a colour"):
        read(tmp_path, save(tmp_path / "m.png", picture), STREET, reading=COLOURS)


def test_a_grey_mask_has_grey_colours(tmp_path: Path) -> None:
    mask = disc()
    truth = read(tmp_path, save(tmp_path / "m.png", mask), STREET, reading=COLOURS)
    np.testing.assert_array_equal(truth.values, mask.T)  # white is ignore, 255


# transparency


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_of_a_mask_is_not_looked_at(tmp_path: Path, mode: str) -> None:
    veil = np.random.default_rng(0).integers(0, 255, (160, 200), dtype=np.uint8)
    mask = save(tmp_path / "m.png", np.dstack([disc()] * (len(mode) - 1) + [veil]))
    np.testing.assert_array_equal(read(tmp_path, mask, PERSON).values, disc().T)
    part = Part("person", "mask", str(mask), str(mask))
    np.testing.assert_array_equal(read(tmp_path, Drawn(tmp_path, (part,)), PERSON).values, disc().T)


def test_colours_with_transparency_stand_for_labels(tmp_path: Path) -> None:
    picture, values = street()
    veiled = np.dstack([picture, np.random.default_rng(0).integers(0, 255, (160, 200), dtype=np.uint8)])
    truth = read(tmp_path, save(tmp_path / "m.png", veiled), STREET, reading=COLOURS)
    np.testing.assert_array_equal(truth.values, values)


def test_a_mask_of_transparency_alone_is_refused(tmp_path: Path) -> None:
    mask = save(tmp_path / "m.png", np.dstack([np.full((160, 200), 255, np.uint8)] * 3 + [disc()]))
    with pytest.raises(DataError, match="of one colour, and only its transparency differs"):
        read(tmp_path, mask, PERSON)


# other sizes, regions


def test_a_mask_of_another_size_is_resized_where_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.kron(np.array([[0, 255], [255, 0]], np.uint8), np.ones((40, 50), np.uint8)))
    truth = read(tmp_path, path, PERSON, reading=Reading(resize_label=True))
    expected = np.kron(np.array([[0, 255], [255, 0]]), np.ones((80, 100)))
    np.testing.assert_array_equal(truth.values, expected.T)
    assert truth.geometry.shape == (200, 160)
    assert sum_up([truth.remarks] * 2) == ["Masks of another size than their picture were resized (2 cases)."]
    assert read(tmp_path, path, PERSON).geometry.shape == (100, 80)  # which the check refuses


def test_a_mask_of_other_proportions_is_stretched_with_a_warning_that_names_the_first(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{name}.png", disc((100, 200))) for name in "mn"]
    truths = [read(tmp_path, path, PERSON, reading=Reading(resize_label=True)) for path in paths]
    np.testing.assert_array_equal(
        truths[0].values, disc((100, 200))[(np.arange(160) * 2 + 1) * 200 // 320].repeat(2, 1).T
    )
    same = read(tmp_path, save(tmp_path / "s.png", disc((100, 80))), PERSON, reading=Reading(resize_label=True))
    assert sum_up(truth.remarks for truth in [same, *truths]) == [
        "Masks of another size than their picture were resized (3 cases).",
        "Of these, masks whose proportions differ by more than 2% were stretched (2 cases); "
        f"the first is {paths[0]} (100x200 pixels, its picture 200x160).",
    ]


def test_a_mask_that_lies_on_its_side_is_never_resized(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", disc((160, 200)))
    turned = r"160x200 pixels and its picture 200x160: width and height are exchanged"
    with pytest.raises(GeometryError, match=turned):
        read(tmp_path, path, PERSON, reading=Reading(resize_label=True))
    with pytest.raises(GeometryError, match=turned):
        read(tmp_path, layered(tmp_path, person=disc((160, 200))), PERSON, reading=Reading(resize_label=True))


def test_masks_of_single_structures_and_regions_are_resized_too(tmp_path: Path) -> None:
    labels = LabelMap.from_mapping({"background": 0, "road": 7, "car": 3, "ignore": 255})
    left, top, region = np.zeros((3, 80, 100), np.uint8)
    left[:, :50], top[:40], region[:, 10:] = 255, 255, 255
    drawn = layered(tmp_path, road=left, car=top[:, ::2])
    reading = Reading(resize_label=True)
    truth = read(tmp_path, drawn, labels, reading=reading, region=save(tmp_path / "r.png", region))
    x, y = np.indices((200, 160))
    np.testing.assert_array_equal(truth.values, np.select([x < 20, y < 80, x < 100], [255, 3, 7], 0))
    _, resized, stretched = sum_up([truth.remarks])  # the first tells that they overlap
    assert resized == "Masks of another size than their picture were resized (1 case)."
    assert "x_car.png (50x80 pixels, its picture 200x160)" in stretched


def test_outside_of_the_region_nothing_is_known(tmp_path: Path) -> None:
    labels = LabelMap.from_mapping({"background": 0, "vessel": 255, "ignore": 300})
    region = np.zeros((160, 200), np.uint8)
    region[20:140, 30:150] = 255
    mask = save(tmp_path / "m.png", disc())
    truth = read(tmp_path, mask, labels, region=save(tmp_path / "r.png", region))
    np.testing.assert_array_equal(truth.values, np.where(region > 0, disc().astype(int), 300).T)
    with pytest.raises(DataError, match="Add `ignore` to the labels"):
        read(tmp_path, mask, PERSON, region=tmp_path / "r.png")
    with pytest.raises(GeometryError, match="has 100x80 pixels"):
        read(tmp_path, mask, labels, region=save(tmp_path / "s.png", region[::2, ::2]))


# masks of single structures


def layered(tmp_path: Path, **masks: NDArray[Any]) -> Drawn:
    parts = []
    for name, mask in masks.items():
        path = save(tmp_path / f"x_{name}.png", mask)
        parts.append(Part(name, "mask", str(path), str(path)))
    return Drawn(tmp_path, tuple(parts))


def test_masks_of_single_structures_are_united_and_the_later_label_wins(tmp_path: Path) -> None:
    car, road = np.zeros((2, 160, 200), np.uint8)
    car[10:50, 10:50], road[40:90, 40:90] = 1, 255
    truth = read(tmp_path, layered(tmp_path, road=road, car=car, tree=car), STREET)
    np.testing.assert_array_equal(truth.values, np.where(car, 3, np.where(road, 7, 0)).T)
    assert truth.remarks.unnamed == ("tree",)
    assert "road and car overlap in 100 voxels of 1 case; car, the later label, got them." in sum_up([truth.remarks])


def test_of_nested_labels_the_inner_one_wins_without_a_word(tmp_path: Path) -> None:
    nested = LabelMap.from_mapping({"background": 0, "core": 2, "whole": [1, 2]})
    core, whole = np.zeros((2, 160, 200), np.uint8)
    core[20:30, 20:30], whole[10:50, 10:50] = 1, 1
    truth = read(tmp_path, layered(tmp_path, core=core, whole=whole), nested)
    np.testing.assert_array_equal(truth.values, (whole + core).T)
    assert sum_up([truth.remarks]) == []


def test_the_mask_of_one_structure_has_two_values_and_the_size_of_the_picture(tmp_path: Path) -> None:
    three = np.zeros((160, 200), np.uint8)
    three[:9, :9], three[20:40] = 1, 2
    with pytest.raises(DataError, match=r"holds 3 values \(0, 1, 2"):
        read(tmp_path, layered(tmp_path, car=three), STREET)
    with pytest.raises(DataError, match="100x80 pixels, and the picture has 200x160"):
        read(tmp_path, layered(tmp_path, car=disc((100, 80))), STREET)
