"""Drawn pictures: masks that say what is drawn, textures that colour does not give away, files that can be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medunet.demo.textures import TEXTURES, islands, patchwork, write_islands, write_patchwork
from medunet.io.files import read_mask
from medunet.io.read import read_volume


@pytest.mark.parametrize("make", [patchwork, islands])
def test_a_picture_follows_from_its_seed(make: type) -> None:
    first, again, other = (make(np.random.default_rng(seed), 48) for seed in (1, 1, 2))
    assert first[0].shape == (48, 48, 3)
    assert first[0].dtype == first[1].dtype == np.uint8
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_every_texture_occurs_and_the_masks_hold_no_other_value() -> None:
    masks = [patchwork(np.random.default_rng(seed))[1] for seed in range(20)]
    assert set(np.unique(masks)) == set(range(len(TEXTURES) + 1))
    masks = [islands(np.random.default_rng(seed))[1] for seed in range(20)]
    assert set(np.unique(masks)) == {0, 1}
    assert all(0 < mask.mean() < 0.5 for mask in masks if mask.any())
    assert sum(mask.any() for mask in masks) >= 18


def test_colour_does_not_give_the_texture_away() -> None:
    """Between two textures of a picture the mean colour differs by less than the texture swings."""
    for seed in range(8):
        picture, mask = patchwork(np.random.default_rng(seed), 128)
        means = [picture[mask == value].mean(axis=0) for value in np.unique(mask) if (mask == value).sum() > 2000]
        assert np.ptp(means, axis=0).max() < 45


def test_the_texture_is_where_the_mask_says() -> None:
    """A plain place has grain only."""
    differences = []
    for seed in range(12):
        picture, mask = patchwork(np.random.default_rng(seed), 96)
        for plain in (True, False):
            place = (mask == 0) == plain
            if place.sum() > 500:
                differences.append((plain, picture[place].std(axis=0).mean()))
    plain_places = np.mean([value for plain, value in differences if plain])
    assert plain_places < 0.8 * np.mean([value for plain, value in differences if not plain])


@pytest.mark.parametrize(("write", "make"), [(write_patchwork, patchwork), (write_islands, islands)])
def test_the_files_hold_what_was_drawn(tmp_path: Path, write: type, make: type) -> None:
    folder = write(tmp_path / "set", 2, seed=3)
    picture, mask = make(np.random.default_rng([3, 1]))
    np.testing.assert_array_equal(read_volume(folder / "images" / "p001.png").array, picture.transpose(2, 1, 0))
    np.testing.assert_array_equal(np.squeeze(read_mask(folder / "labels" / "p001.png")[0]), mask.T)
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["p000.png", "p001.png"]
