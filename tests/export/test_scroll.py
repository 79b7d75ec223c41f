"""Pages to scroll through: how many, which slices, and that what lies below a contour stays visible."""

from __future__ import annotations

import numpy as np

from medunet.export.scroll import draw_scroll
from medunet.geometry import Geometry
from medunet.io.volume import Segmentation, Volume
from medunet.labels import LabelMap

LABELS = LabelMap.from_mapping({"background": 0, "liver": 1})
RED, GREEN, BLUE = LABELS.labels[1].colour


def pair(shape: tuple[int, int, int], **grid: object) -> tuple[Volume, Segmentation]:
    geometry = Geometry.plain(shape, (2.0, 2.0, 4.0))
    mask = np.zeros(shape, np.uint8)
    mask[5:15, 6:14, 1:-1] = 1
    return Volume(np.full((1, *shape), 50, np.int16), geometry), Segmentation(mask, geometry, LABELS)


def test_pages_have_one_size_and_are_not_too_many() -> None:
    pages = draw_scroll(*pair((20, 18, 60)), window=(0, 100), most=7)
    assert len(pages) == 1 + 7
    assert len({page.size for page in pages}) == 1


def test_a_single_slice_is_one_page() -> None:
    geometry = Geometry.plain((20, 18, 1), (2.0, 2.0, 4.0))
    mask = np.zeros((20, 18, 1), np.uint8)
    mask[5:15, 6:14] = 1
    volume = Volume(np.full((1, 20, 18, 1), 50, np.int16), geometry)
    assert len(draw_scroll(volume, Segmentation(mask, geometry, LABELS), window=(0, 100))) == 1


def test_only_outlines_are_drawn() -> None:
    page = np.asarray(draw_scroll(*pair((20, 18, 9)), window=(0, 100))[-1]).astype(int)
    outlined = (page == LABELS.labels[1].colour).all(axis=-1)[:510]
    rows, columns = np.nonzero(outlined)
    inside = page[rows.min() + 5 : rows.max() - 5, columns.min() + 5 : columns.max() - 5]
    assert (inside == 128).all()  # the grey of 50 between 0 and 100
    assert outlined.sum() > 400


def test_slices_without_structures_are_shown_where_there_are_no_others() -> None:
    volume, segmentation = pair((20, 18, 9))
    empty = Segmentation(np.zeros_like(segmentation.array), volume.geometry, LABELS)
    assert len(draw_scroll(volume, empty, window=(0, 100), most=5)) == 6
