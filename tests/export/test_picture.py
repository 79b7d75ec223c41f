from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medunet.errors import GeometryError, OutputError, UsageError
from medunet.export.picture import draw_overlay, write_overlay
from medunet.geometry import Geometry
from medunet.io.volume import Segmentation, Volume
from medunet.labels import LabelMap

LABELS = LabelMap.from_mapping({"background": 0, "liver": 1, "tumour": 7})
LIVER = LABELS.labels[1].colour
LEGEND = 30


def pair(
    mask: np.ndarray, spacing: tuple[float, ...] | None = None, image: np.ndarray | None = None
) -> tuple[Volume, Segmentation]:
    geometry = Geometry.plain(mask.shape, spacing)
    array = np.zeros(mask.shape, np.int16) if image is None else image
    channels = array if array.ndim > mask.ndim else array[None]
    return Volume(channels, geometry), Segmentation(mask.astype(np.uint8), geometry, LABELS)


def places(picture: Image.Image, colour: tuple[int, int, int], *, skip_legend: bool = True) -> np.ndarray:
    """(row, column) of pixels of exactly this colour, as fractions of the picture."""
    pixels = np.asarray(picture)
    end = len(pixels) - LEGEND if skip_legend else len(pixels)
    return np.argwhere((pixels[:end] == colour).all(axis=-1)) / pixels.shape[:2]


def block(shape: tuple[int, ...], *ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(*r) for r in ranges)] = 1
    return mask


def in_orientation(volume: Volume, mask: Segmentation, axcodes: str) -> tuple[Volume, Segmentation]:
    change = volume.geometry.reorientation(axcodes)
    geometry = volume.geometry.reoriented(change)
    return Volume(change.apply(volume.array), geometry), Segmentation(change.apply(mask.array), geometry, mask.labels)


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "LPI", "RAI", "ASR", "SPL", "IAL"])
def test_right_anterior_is_at_the_top_left_of_an_axial_slice(axcodes: str, tmp_path: Path) -> None:
    volume, mask = pair(block((40, 40, 1), (30, 38), (28, 36), (0, 1)))
    volume, mask = in_orientation(volume, mask, axcodes)
    write_overlay(tmp_path / "preview.png", volume, mask)
    found = places(Image.open(tmp_path / "preview.png"), LIVER)
    assert len(found) > 20
    assert found.max() < 0.5


@pytest.mark.parametrize("axcodes", ["RAS", "LPI", "SAR"])
def test_right_superior_is_at_the_top_left_of_a_coronal_slice(axcodes: str) -> None:
    volume, mask = pair(block((40, 1, 40), (30, 38), (0, 1), (28, 36)))
    found = places(draw_overlay(*in_orientation(volume, mask, axcodes)), LIVER)
    assert len(found) > 20
    assert found.max() < 0.5


def test_anterior_superior_is_at_the_top_left_of_a_sagittal_slice() -> None:
    found = places(draw_overlay(*pair(block((1, 40, 40), (0, 1), (30, 38), (28, 36)))), LIVER)
    assert len(found) > 20
    assert found.max() < 0.5


def test_the_image_is_turned_as_the_mask_is() -> None:
    mask = block((48, 40, 1), (30, 42), (24, 36), (0, 1))
    image = np.where(mask, 200, 0).astype(np.int16)
    volume, segmentation = pair(np.zeros_like(mask), image=image)
    pixels = np.asarray(draw_overlay(volume, segmentation).convert("L"))
    bright = np.argwhere(pixels[30:-LEGEND, 30:-30] > 240) / pixels.shape
    assert len(bright) > 100
    assert bright.max() < 0.5


def test_a_picture_is_shown_as_stored() -> None:
    found = places(draw_overlay(*pair(block((60, 40), (4, 20), (3, 12)))), LIVER)
    assert len(found) > 20
    assert found.max() < 0.5


def test_voxels_are_shown_at_their_aspect() -> None:
    tall = draw_overlay(*pair(block((50, 50, 1), (10, 40), (10, 40), (0, 1)), (1.0, 2.0, 5.0)))
    rows, columns = np.ptp(places(tall, LIVER) * [tall.height, tall.width], axis=0)
    assert rows / columns == pytest.approx(2.0, rel=0.05)


def test_small_volumes_are_enlarged_and_large_pictures_reduced() -> None:
    small = draw_overlay(*pair(block((96, 96, 1), (10, 40), (10, 40), (0, 1))))
    large = draw_overlay(*pair(block((3000, 1000), (10, 900), (10, 400))))
    assert small.width == 300
    assert large.width == 1024


def test_a_volume_gives_five_axial_slices_and_a_coronal_one() -> None:
    picture = draw_overlay(*pair(block((30, 30, 20), (5, 15), (5, 15), (2, 18))))
    assert picture.width == 3 * 300 + 2 * 6
    assert picture.height > 2 * 300
    third = picture.width // 3
    pixels = np.asarray(picture)
    for row in (0, 1):
        for column in range(3):
            tile = pixels[row * 320 : (row + 1) * 320, column * third : (column + 1) * third]
            assert (tile == LIVER).all(axis=-1).any(), (row, column)


def test_a_small_structure_decides_which_slice_is_shown() -> None:
    mask = block((30, 30, 40), (5, 25), (5, 25), (0, 40))
    mask[10:13, 10:13, 21] = 2
    colour = LABELS.labels[2].colour
    assert len(places(draw_overlay(*pair(mask)), colour)) > 20


def test_fill_lets_the_image_shine_through() -> None:
    mask = block((40, 40), (5, 35), (5, 35))
    dark, light = (draw_overlay(*pair(mask, image=np.full((40, 40), v, np.uint8))) for v in (0, 255))
    one, two = (np.asarray(p)[140, 140].astype(int) for p in (dark, light))
    assert np.all(one < two)
    assert not np.array_equal(one, LIVER)


def test_the_reference_is_outlined_in_white() -> None:
    mask = block((40, 40, 1), (5, 20), (5, 20), (0, 1))
    volume, segmentation = pair(mask)
    reference = Segmentation(block((40, 40, 1), (22, 35), (22, 35), (0, 1)), volume.geometry, LABELS)
    without = places(draw_overlay(volume, segmentation), (255, 255, 255))
    drawn = places(draw_overlay(volume, segmentation, reference=reference), (255, 255, 255))
    assert len(without) == 0
    assert len(drawn) > 100
    assert drawn.max() < 0.6


@pytest.mark.parametrize("shape", [(20, 20, 10), (20, 20, 1), (20, 20), (3, 2, 2), (1, 1, 1)])
def test_an_empty_mask_is_drawn_without_structures(shape: tuple[int, ...]) -> None:
    picture = draw_overlay(*pair(np.zeros(shape, np.uint8)))
    assert len(places(picture, LIVER, skip_legend=False)) == 0


def test_the_legend_names_only_what_occurs() -> None:
    picture = draw_overlay(*pair(block((20, 20, 1), (5, 15), (5, 15), (0, 1))))
    legend = np.asarray(picture)[-20:]
    assert (legend == LIVER).all(axis=-1).any()
    assert not (legend == LABELS.labels[2].colour).all(axis=-1).any()


NESTED = LabelMap.from_mapping({"background": 0, "whole": [1, 2], "core": 2, "ignore": 255})


def test_ignored_voxels_of_a_reference_are_shown_as_background() -> None:
    array = block((40, 40, 3), (10, 20), (10, 20), (1, 2))
    volume, _ = pair(array)
    unknown = np.where(np.arange(40)[:, None, None] > 25, 255, array).astype(np.uint8)
    nothing = Segmentation(np.zeros_like(array), volume.geometry, NESTED)
    known = draw_overlay(volume, nothing, reference=Segmentation(array, volume.geometry, NESTED))
    partly = draw_overlay(volume, nothing, reference=Segmentation(unknown, volume.geometry, NESTED))
    assert known.tobytes() == partly.tobytes()
    shown = draw_overlay(volume, Segmentation(unknown, volume.geometry, NESTED))
    assert len(places(shown, NESTED.labels[1].colour)) > 10


def test_the_legend_names_what_encloses_a_structure_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(
        "medunet.export.picture.with_legend", lambda sheet, entries: shown.extend(text for text, _ in entries) or sheet
    )
    volume, _ = pair(array := block((10, 10, 10), (1, 6), (1, 6), (1, 5)))
    draw_overlay(volume, Segmentation(array * 2, volume.geometry, NESTED))
    assert shown == ["whole, 0.1 ml", "core, 0.1 ml"]


def test_a_legend_of_a_hundred_labels_takes_more_lines() -> None:
    labels = LabelMap.from_mapping({"background": 0, **{f"structure {n}": n for n in range(1, 101)}})
    mask = (np.arange(400) % 101).astype(np.uint8).reshape(20, 20)
    volume, _ = pair(mask)
    picture = draw_overlay(volume, Segmentation(mask, volume.geometry, labels))
    assert picture.height > 300 + 10 * 20


def grey_at_middle(values: np.ndarray, **options: tuple[float, float]) -> int:
    volume, mask = pair(np.zeros(values.shape, np.uint8), image=values)
    return int(np.asarray(draw_overlay(volume, mask, **options).convert("L"))[170, 150])


def test_hounsfield_units_get_the_soft_tissue_window() -> None:
    values = np.full((40, 40, 1), 40, np.int16)
    values[0] = -1000
    assert grey_at_middle(values) == pytest.approx(128, abs=2)


def test_other_values_are_stretched_between_their_percentiles() -> None:
    values = np.tile(np.linspace(0, 5000, 40)[None, :, None], (40, 1, 1)).astype(np.float32)
    assert grey_at_middle(values) == pytest.approx(128, abs=8)


def test_a_window_can_be_given() -> None:
    assert grey_at_middle(np.full((40, 40, 1), 30.0), window=(0.0, 40.0)) == pytest.approx(191, abs=2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.0])
def test_constant_and_impossible_values_are_drawn(value: float) -> None:
    assert grey_at_middle(np.full((40, 40, 1), value, np.float32)) in range(256)


def test_colours_of_a_picture_are_kept() -> None:
    image = np.zeros((3, 40, 30), np.uint8)
    image[0], image[2] = 200, 40
    volume, mask = pair(np.zeros((40, 30), np.uint8), image=image)
    assert np.asarray(draw_overlay(volume, mask))[100, 100].tolist() == [200, 0, 40]


def test_a_mask_on_another_grid_is_refused() -> None:
    volume, mask = pair(np.zeros((20, 20, 4), np.uint8))
    moved = Segmentation(mask.array, mask.geometry.cropped((5, 0, 0), mask.geometry.shape), LABELS)
    with pytest.raises(GeometryError, match="on one grid"):
        draw_overlay(volume, moved)
    with pytest.raises(GeometryError, match="on one grid"):
        draw_overlay(volume, mask, reference=moved)


@pytest.mark.parametrize("window", [(10.0, 10.0), (40.0, -40.0), (float("nan"), 1.0)])
def test_an_upside_down_window_is_refused(window: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="from a low to a higher value"):
        draw_overlay(*pair(np.zeros((20, 20, 4), np.uint8)), window=window)


def test_a_folder_in_the_way_is_reported_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "preview.png").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_overlay(tmp_path / "preview.png", *pair(np.zeros((20, 20), np.uint8)))
    assert [path.name for path in tmp_path.iterdir()] == ["preview.png"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            write_overlay(tmp_path / "preview.png", *pair(np.zeros((20, 20), np.uint8)))
    finally:
        tmp_path.chmod(0o700)


def test_a_file_where_the_folder_should_be_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        write_overlay(tmp_path / "file" / "preview.png", *pair(np.zeros((20, 20), np.uint8)))


def test_a_large_picture_is_thinned_before_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.broadcast_to(np.arange(240, dtype=np.uint8)[:, None], (3, 240, 200))
    mask = np.zeros((240, 200), np.uint8)
    mask[80:160, 40:160] = 1
    labels, grid = LabelMap.from_mapping({"background": 0, "vessel": 255}), Geometry.plain((240, 200))
    drawn = []
    for times in (1000, 1):
        monkeypatch.setattr("medunet.export.picture._LARGEST_PICTURE", 60)
        monkeypatch.setattr("medunet.export.picture._THINNED", times)
        drawn.append(np.asarray(draw_overlay(Volume(pixels, grid), Segmentation(mask, grid, labels)), float))
    assert drawn[0].shape == drawn[1].shape
    assert 0 < np.abs(drawn[0] - drawn[1]).mean() < 12
