"""Changes of how patches look: finite, drawn from one generator alone, and what they are called."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medunet.config.schema import AugmentConfig
from medunet.transforms.appearance import Appearance, IntensityAugment, draw_colours, intensity_augment

PHOTO = AugmentConfig(preset="none", colour_strength=1.0)


@pytest.mark.parametrize("shape", [(1, 20, 22), (3, 20, 22), (1, 12, 14, 16), (2, 12, 14, 16)])
def test_every_intensity_change_works_in_two_and_three_dimensions(shape: tuple[int, ...]) -> None:
    image = torch.rand(shape)
    before = image.clone()
    augment = IntensityAugment(1000.0)  # every probability becomes 1
    result = augment(image, np.random.default_rng(0))
    assert type(result) is Tensor
    assert result.shape == image.shape
    assert result.dtype == torch.float32
    assert torch.isfinite(result).all()
    assert not torch.equal(result, image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_a_constant_patch_stays_finite(value: float) -> None:
    for seed in range(20):
        result = IntensityAugment(1000.0)(torch.full((1, 8, 8, 8), value), np.random.default_rng(seed))
        assert torch.isfinite(result).all()


def test_the_same_generator_gives_the_same_intensity_whatever_came_before() -> None:
    augment, image = IntensityAugment(3.0), torch.rand(1, 16, 16, 16)
    first = augment(image, np.random.default_rng(7))
    for seed in range(5):
        augment(image, np.random.default_rng(seed))
    torch.rand(5)
    assert torch.equal(augment(image, np.random.default_rng(7)), first)


def test_several_threads_do_not_disturb_each_other() -> None:
    """Two threads have both seeded the change before either of them uses its generator."""

    class AddSeed:
        meeting = threading.Barrier(2, timeout=30)

        def set_random_state(self, seed: int) -> None:
            self.seed = seed

        def __call__(self, image: Tensor) -> Tensor:
            self.meeting.wait()
            return image + self.seed

    augment = IntensityAugment()
    augment.transforms = {2: [AddSeed()]}  # type: ignore[list-item]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda seed: augment(torch.zeros(1, 1, 1), np.random.default_rng(seed)), (1, 2)))
    assert [int(r) for r in results] == pytest.approx(
        [int(np.random.default_rng(seed).integers(2**32)) for seed in (1, 2)], rel=1e-6
    )


@pytest.mark.parametrize(
    ("keys", "changes"),
    [({}, True), ({"preset": "mirror"}, False), ({"preset": "none"}, False), ({"intensity_strength": 0.0}, False),
     ({"preset": "none", "intensity_strength": 1.0}, True)],
)  # fmt: skip
def test_presets_and_strength_decide_whether_intensity_changes(keys: dict[str, Any], changes: bool) -> None:
    augment, image = intensity_augment(AugmentConfig(**keys)), torch.rand(1, 8, 8)
    results = [augment(image, np.random.default_rng(seed)) for seed in range(30)]
    assert any(not torch.equal(result, image) for result in results) is changes


def test_strength_multiplies_how_often_it_changes() -> None:
    image = torch.rand(1, 6, 6)
    shares = []
    for strength in (0.3, 1.0):
        augment = IntensityAugment(strength)
        shares.append(np.mean([not torch.equal(augment(image, np.random.default_rng(s)), image) for s in range(400)]))
    expected = [1 - np.prod([1 - s * p for p in (0.1, 0.1, 0.15, 0.15, 0.125, 0.1, 0.3)]) for s in (0.3, 1.0)]
    np.testing.assert_allclose(shares, expected, atol=0.07)


# colours


def test_a_map_of_colours_keeps_grey_grey_up_to_the_balance_of_channels() -> None:
    for seed in range(50):
        matrix, offset = draw_colours(3, 1.0, np.random.default_rng(seed))
        grey = matrix @ np.ones(3) + offset
        assert np.ptp(grey) < 1.0
        assert np.isfinite(matrix).all()


def test_no_strength_means_no_change() -> None:
    matrix, offset = draw_colours(3, 0.0, np.random.default_rng(0))
    assert matrix == pytest.approx(np.eye(3), abs=1e-6)
    assert offset == pytest.approx(np.zeros(3))


def test_hue_and_saturation_leave_the_mean_of_the_channels() -> None:
    rng = np.random.default_rng(3)
    matrix, _ = draw_colours(3, 1.0, rng)
    balance = matrix.sum(axis=1)  # what grey becomes: contrast times balance
    colour = np.asarray([1.0, -1.0, 0.0])
    assert float((matrix @ colour / balance).sum()) == pytest.approx(0.0, abs=1e-5)
    assert not np.allclose(matrix @ colour / balance, colour)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_is_recoloured(channels: int) -> None:
    image = torch.randn(channels, 8, 8)
    results = [Appearance(PHOTO, (8, 8))(image, np.random.default_rng(seed)) for seed in range(20)]
    changed = [result for result in results if not torch.equal(result, image)]
    assert 10 <= len(changed) < 20
    assert all(result.shape == image.shape and result.dtype == torch.float32 for result in results)


def test_padding_stays_as_it_is() -> None:
    image = torch.randn(3, 8, 8)
    image[:, :, 5:] = 0.0
    for seed in range(10):
        assert (Appearance(PHOTO, (8, 8))(image, np.random.default_rng(seed))[:, :, 5:] == 0).all()


# blanked rectangles


def test_blanked_rectangles_come_as_often_as_asked_and_stay_small() -> None:
    config = AugmentConfig(preset="none", cutout_probability=0.5)
    appearance, image = Appearance(config, (40, 40)), torch.ones(2, 40, 40)
    shares = []
    for seed in range(200):
        result = appearance(image, np.random.default_rng(seed))
        assert torch.equal(result[0], result[1])
        shares.append(float((result[0] == 0).float().mean()))
    assert np.mean(np.asarray(shares) > 0) == pytest.approx(0.5, abs=0.12)
    assert max(shares) <= 4 * 0.3**2 + 1e-6


def test_the_same_generator_gives_the_same_photograph_whatever_came_before() -> None:
    appearance, image = Appearance(AugmentConfig(preset="photo"), (16, 16)), torch.randn(3, 16, 16)
    first = appearance(image, np.random.default_rng(7))
    for seed in range(5):
        appearance(image, np.random.default_rng(seed))
    assert torch.equal(appearance(image, np.random.default_rng(7)), first)


def test_nothing_is_changed_where_nothing_is_asked_for() -> None:
    image = torch.randn(3, 8, 8)
    for seed in range(20):
        assert torch.equal(
            Appearance(AugmentConfig(preset="mirror"), (8, 8))(image, np.random.default_rng(seed)), image
        )
