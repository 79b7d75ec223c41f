"""Panels show the slice and each mask in the labels' colours, in true proportion."""

from __future__ import annotations

import numpy as np
import pytest

from medunet.export.panels import draw_panels, percentile_window
from medunet.labels import LabelMap

LABELS = LabelMap.from_mapping({"background": 0, "organ": 4, "core": 205, "ignore": 7})


def test_each_mask_has_a_panel_beside_the_plain_slice() -> None:
    image = np.zeros((60, 40))
    truth, found = np.zeros((2, 60, 40), dtype=np.uint8)
    truth[10:30, 10:30], found[40:50, 10:30] = 1, 2
    picture = np.asarray(draw_panels(image, [truth, found], LABELS.foreground)).astype(int)
    height, width = picture.shape[:2]
    panel = (width - 8) // 3
    assert height / panel == pytest.approx(60 / 40, rel=0.02)
    plain, first, second = (picture[:, start : start + panel] for start in (0, panel + 4, 2 * (panel + 4)))
    assert plain.max() == 0
    for drawn, mask, label in ((first, truth, LABELS.labels[1]), (second, found, LABELS.labels[2])):
        rows = np.flatnonzero(drawn.any(axis=(1, 2))) * 60 / height
        inside = np.flatnonzero(mask.any(axis=1))
        assert rows.min() == pytest.approx(inside.min(), abs=1)
        assert rows.max() == pytest.approx(inside.max() + 1, abs=1)
        assert tuple(drawn.reshape(-1, 3).max(axis=0)) == label.colour  # the contour


def test_pixels_are_square_millimetres() -> None:
    width, height = draw_panels(np.eye(20), [], LABELS.foreground, spacing=(3.0, 1.0)).size
    assert height == 3 * width


def test_what_no_label_names_is_not_drawn() -> None:
    mask = np.full((20, 20), LABELS.ignore_index)
    picture = np.asarray(draw_panels(np.eye(20), [mask], LABELS.foreground))
    side = picture.shape[0]
    assert np.array_equal(picture[:, :side], picture[:, side + 4 :])


def test_a_bright_speck_does_not_darken_the_slice() -> None:
    image = np.tile(np.linspace(0.0, 1.0, 100), (100, 1))
    image[0, 0] = 1e6
    assert percentile_window(image)[1] < 1.1
    assert percentile_window(np.zeros((4, 4))) == (0.0, 1.0)
