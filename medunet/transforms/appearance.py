"""Random changes of how training patches look: noise, blur, contrast and the like, colours, blanked rectangles.

The list and the probabilities of the intensity changes are nnU-Net's (v2, `nnUNetTrainer.get_training_transforms`);
its second coin per channel for blur and low resolution is folded into the probability. They and the blanked rectangles
are MONAI's transforms. Changes of colour are done here: MONAI has none, and torchvision's take pictures in 8 bits.
Knows nothing of files or batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    RandAdjustContrast,
    RandCoarseDropout,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandomizableTransform,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
    RandSimulateLowResolution,
)
from numpy.typing import NDArray
from torch import Tensor

from medunet.config.schema import AugmentConfig

_COLOUR_PROBABILITY = 0.8
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _BALANCE = 0.4, 0.4, 0.5, 0.3, 0.1
_HOLES, _HOLE = 4, (0.05, 0.3)
_GREY = 1 / math.sqrt(3)


class IntensityAugment:
    """Noise, blur, brightness, contrast, low resolution and gamma, in nnU-Net's order, on (C, *patch) float32.

    Args:
        strength: multiplies every probability; 0 switches all off.
    """

    def __init__(self, strength: float = 1.0) -> None:
        self.transforms = {rank: _intensity_chain(strength, rank) for rank in (2, 3)} if strength > 0 else {}

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Apply with randomness from `rng` alone, whatever was drawn before, from several threads at once."""
        for shared in self.transforms.get(image.ndim - 1, ()):
            transform = copy(shared)
            transform.set_random_state(seed=int(rng.integers(2**32)))
            image = transform(image)
        return image.as_tensor() if isinstance(image, MetaTensor) else image


def _intensity_chain(strength: float, rank: int) -> list[RandomizableTransform]:
    def share(probability: float) -> float:
        return min(1.0, probability * strength)

    blur, linear = (0.5, 1.0), "trilinear" if rank == 3 else "bilinear"
    return [
        RandGaussianNoise(prob=share(0.1), mean=0.0, std=0.1),
        RandGaussianSmooth(sigma_x=blur, sigma_y=blur, sigma_z=blur, prob=share(0.1)),
        RandScaleIntensity(factors=0.25, prob=share(0.15)),
        RandScaleIntensityFixedMean(factors=0.25, prob=share(0.15), fixed_mean=True, preserve_range=True),
        RandSimulateLowResolution(prob=share(0.125), zoom_range=(0.5, 1.0), upsample_mode=linear),
        RandAdjustContrast(prob=share(0.1), gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
        RandAdjustContrast(prob=share(0.3), gamma=(0.7, 1.5), invert_image=False, retain_stats=True),
    ]


def intensity_augment(config: AugmentConfig) -> IntensityAugment:
    """The intensity changes of a preset."""
    default = 1.0 if config.preset in ("nnunet", "photo") else 0.0
    return IntensityAugment(default if config.intensity_strength is None else config.intensity_strength)


class Appearance:
    """All changes of how a patch looks that a config asks for, on (C, *patch) float32.

    Args:
        config: the `augment:` section.
        patch: voxels per axis.
    """

    def __init__(self, config: AugmentConfig, patch: Sequence[int]) -> None:
        photo = config.preset == "photo"
        self.intensity = intensity_augment(config)
        self.colour = (1.0 if photo else 0.0) if config.colour_strength is None else config.colour_strength
        share = (0.3 if photo else 0.0) if config.cutout_probability is None else config.cutout_probability
        low, high = (tuple(max(1, round(side * size)) for size in patch) for side in _HOLE)
        self.holes = (
            RandCoarseDropout(
                holes=1, spatial_size=low, max_holes=_HOLES, max_spatial_size=high, fill_value=0, prob=share
            )
            if share
            else None
        )

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Apply with randomness from `rng` alone, from several threads at once."""
        if self.colour and rng.random() < _COLOUR_PROBABILITY:
            image = _recoloured(image, *draw_colours(image.shape[0], self.colour, rng))
        image = self.intensity(image, rng)
        if self.holes is not None:
            holes = copy(self.holes)
            holes.set_random_state(seed=int(rng.integers(2**32)))
            image = holes(image.clone())  # MONAI's writes into what it is given
        return image.as_tensor() if isinstance(image, MetaTensor) else image


def draw_colours(
    channels: int, strength: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A map of colours: matrix (C, C) and offset (C,), for values of deviation about 1.

    Contrast and brightness of all channels, the balance between them, and, of three, saturation (mixing with their
    mean) and hue (a turn about the grey axis).
    """
    contrast = math.exp(rng.uniform(-_CONTRAST, _CONTRAST) * strength)
    balance = np.exp(rng.uniform(-_BALANCE, _BALANCE, channels) * strength)
    matrix = np.diag(contrast * balance)
    if channels == 3:
        saturation = max(0.0, 1.0 + rng.uniform(-1.0, _SATURATION) * min(strength, 1.0))
        grey = np.full((3, 3), 1 / 3)
        matrix = matrix @ (saturation * _hue(rng.uniform(-_HUE, _HUE) * strength) @ (np.eye(3) - grey) + grey)
    offset = np.full(channels, rng.uniform(-_BRIGHTNESS, _BRIGHTNESS) * strength)
    offset += rng.uniform(-_BALANCE, _BALANCE, channels) * strength
    return matrix.astype(np.float32), offset.astype(np.float32)


def _hue(angle: float) -> NDArray[np.float64]:
    """A turn of RGB about its grey axis (Rodrigues' formula)."""
    cross = _GREY * np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    turn: NDArray[np.float64] = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return turn


def _recoloured(image: Tensor, matrix: NDArray[np.float32], offset: NDArray[np.float32]) -> Tensor:
    """Every voxel's channels through the map; voxels of 0 in all channels, which padding is, stay so."""
    flat = image.reshape(image.shape[0], -1)
    mapped = torch.from_numpy(matrix) @ flat + torch.from_numpy(offset)[:, None]
    return mapped.masked_fill_((flat == 0).all(dim=0), 0.0).reshape(image.shape)
