"""Windows that hold nothing get the logits that the network would give them, without running it."""

from __future__ import annotations

import torch
from torch import Tensor

from medunet.sliding_window.blank import Air, Blanks
from medunet.sliding_window.network import Way, network_logits
from medunet.sliding_window.stream import HeldImage


class Counted:
    """A network that notes how many windows it was given; zero padding makes its logits differ at the border."""

    def __init__(self, channels: int = 1) -> None:
        torch.manual_seed(0)
        self.layer = torch.nn.Conv3d(channels, 3, 3, padding=1)
        self.windows = 0

    def __call__(self, patches: Tensor) -> Tensor:
        self.windows += len(patches)
        with torch.no_grad():
            return self.layer(patches)


def streamed(image: Tensor, network: Counted, blanks: Blanks | None, batch_size: int) -> Tensor:
    way = Way((8, 8, 8), 0.5, batch_size)
    return torch.cat([rows.clone() for rows in way.rows(HeldImage(image), network, 0, blanks=blanks)], 1)


def body_in_air(channels: int = 1) -> Tensor:
    image = torch.full((channels, 40, 24, 24), -1.0)
    image[:, 10:20, 8:16, 8:16] = torch.randn(channels, 10, 8, 8)
    return image


def test_constant_windows_are_computed_once_and_the_logits_stay_the_same() -> None:
    for channels in (1, 2):
        for batch_size in (1, 3):
            image = body_in_air(channels)
            plain, blanks = Counted(channels), Blanks()
            expected = network_logits(image, plain, Way((8, 8, 8)))
            seen = Counted(channels)
            torch.testing.assert_close(streamed(image, seen, blanks, batch_size), expected)
            assert seen.windows + blanks.skipped == plain.windows
            assert blanks.skipped > plain.windows / 2


def test_two_constants_are_not_taken_for_each_other() -> None:
    image = torch.zeros(1, 40, 8, 8)
    image[:, 20:] = 5
    torch.testing.assert_close(
        streamed(image, Counted(), Blanks(), 1), network_logits(image, Counted(), Way((8, 8, 8)))
    )


def always(one: Tensor, other: Tensor) -> bool:
    return True


def test_noise_below_the_level_is_taken_for_air() -> None:
    image = body_in_air()
    noisy = torch.where(image == -1, image + 0.1 * torch.rand_like(image), image)
    still, seen, blanks = Counted(), Counted(), Blanks(Air(level=-0.8, value=-1.0), agree=always)
    found = streamed(noisy, seen, blanks, 2)
    assert blanks.skipped > 0
    assert seen.windows + blanks.skipped == (40 // 4 - 1) * 5 * 5 + 2  # both ways, once
    far = (slice(None), slice(30, None))  # windows of air only
    torch.testing.assert_close(found[far], streamed(image, still, None, 1)[far])


def test_a_level_between_air_and_body_does_not_hide_the_body() -> None:
    image, blanks = torch.full((1, 8, 8, 8), -1.0), Blanks(Air(level=-0.8, value=-1.0), agree=always)
    streamed(image, Counted(), blanks, 1)
    image[0, 4, 4, 4] = -0.79
    seen = Counted()
    torch.testing.assert_close(streamed(image, seen, blanks, 1), network_logits(image, Counted(), Way((8, 8, 8))))
    assert seen.windows == 1


def test_a_network_that_sees_something_in_noise_is_asked_each_time() -> None:
    image = body_in_air()
    noisy = torch.where(image == -1, image + 0.1 * torch.rand_like(image), image)
    seen, blanks = Counted(), Blanks(Air(level=-0.8, value=-1.0), agree=lambda *_: False)
    found = streamed(noisy, seen, blanks, 2)
    assert (blanks.refused, blanks.skipped) == (True, 0)
    torch.testing.assert_close(found, network_logits(noisy, Counted(), Way((8, 8, 8))))
    assert seen.windows == (40 // 4 - 1) * 5 * 5 + 2


def test_noise_is_shown_to_the_network_once_beside_what_it_would_be_without() -> None:
    shown: list[tuple[Tensor, Tensor]] = []

    def agree(one: Tensor, other: Tensor) -> bool:
        shown.append((one, other))
        return True

    noisy = -1 + 0.1 * torch.rand(1, 40, 24, 24)
    streamed(noisy, Counted(), Blanks(Air(level=-0.8, value=-1.0), agree), 2)
    ((found, still),) = shown
    torch.testing.assert_close(found, Counted()(noisy[None, :, :8, :8, :8])[0])
    torch.testing.assert_close(still, Counted()(torch.full((1, 1, 8, 8, 8), -1.0))[0])
