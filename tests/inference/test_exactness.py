"""A prediction is what the plain method gives, which holds all logits on both grids in float32.

Where the two best labels are as likely as rounding can tell, either may win; everywhere else they must agree.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from medunet.config.schema import Config
from medunet.geometry import Geometry
from medunet.inference.predictor import Predictor
from medunet.io.volume import Volume
from medunet.model import Model, load_model, save_model
from medunet.networks.registry import build_network
from medunet.sliding_window.spans import gaussian_weights, window_starts
from medunet.sliding_window.stream import outer
from medunet.transforms.preprocess import preprocess

ROUNDING = 1e-4
"""Difference of logits, which are of the size of 1, below which either label may win."""


def model(folder: Path, dims: int, patch: tuple[int, ...], spacing: tuple[float, ...] | None) -> Model:
    """A random network that tells four labels apart."""
    config = Config.model_validate_json(
        json.dumps(
            {
                "name": "random",
                "data": {"root": str(folder), "modality": ["CT"]},
                "labels": {"background": 0, "a": 1, "b": 2, "c": 7},
                "preprocess": {"spacing": spacing, "intensity": [{"name": "zscore"}]},
                "network": {"name": "unet", "dims": dims, "channels": [4, 8]},
                "train": {"patch_size": patch},
            }
        )
    )
    torch.manual_seed(0)
    network = build_network(config.network, 1, 4)
    return load_model(save_model(folder / "model", config, network.state_dict(), {}))


def plain(volume: Volume, model: Model) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels on the original grid and how far the best one leads; nothing is streamed."""
    array, record = preprocess(volume, model.spec.preprocess)
    logits = plain_logits(torch.from_numpy(array), model)
    mode = {2: "bilinear", 3: "trilinear"}[logits.ndim - 1]
    native = torch.nn.functional.interpolate(logits[None], record.crop_shape, mode=mode, align_corners=False)[0]
    best = native.topk(2, dim=0)
    places = record.change.apply(np.arange(np.prod(record.original.shape)).reshape(record.original.shape))
    labels, lead = np.zeros(record.original.shape, np.uint8), np.zeros(record.original.shape, np.float32)
    labels.reshape(-1)[places] = best.indices[0].numpy()
    lead.reshape(-1)[places] = (best.values[0] - best.values[1]).numpy()
    return labels, lead


def plain_logits(image: Tensor, model: Model) -> Tensor:
    """With buffers for the logits and for the weights of the whole image."""
    patch, network = model.spec.inference.patch_size, model.build()
    flat = image.ndim - 1 - len(patch)
    windows, shape = (*patch, *(1,) * flat), tuple(image.shape[1:])
    padded = [max(n, p) for n, p in zip(shape, windows, strict=True)]
    inside = [slice((big - n) // 2, (big - n) // 2 + n) for n, big in zip(shape, padded, strict=True)]
    whole = torch.zeros(1, *padded)
    whole[(slice(None), *inside)] = image
    total, count = torch.zeros(4, *padded), torch.zeros(padded)
    weight = outer([gaussian_weights(p) for p in windows])
    starts = (window_starts(n, p, model.spec.inference.overlap) for n, p in zip(padded, windows, strict=True))
    for corner in itertools.product(*starts):
        box = tuple(slice(a, a + p) for a, p in zip(corner, windows, strict=True))
        window = whole[(slice(None), *box)][None]
        with torch.no_grad():
            found = network.interior(window[..., 0])[..., None] if flat else network.interior(window)
        total[(slice(None), *box)] += weight * found[0]
        count[box] += weight
    return (total / count)[(slice(None), *inside)]


def turned(rng: np.random.Generator, shape: tuple[int, ...], oblique: bool) -> Geometry:
    """A grid with axes in any order and direction, tilted a little if it shall be."""
    if len(shape) == 2:
        return Geometry.plain(shape, tuple(rng.uniform(0.5, 2, 2)))
    axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    angle = rng.uniform(-0.3, 0.3) if oblique else 0.0
    tilt = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = tilt @ axes.T @ np.diag(rng.uniform(0.5, 3, 3))
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return Geometry.from_affine(affine, shape)


@pytest.mark.parametrize(
    "kind", [(3, 3, (16, 8, 12)), (2, 3, (16, 12)), (2, 2, (8, 16))], ids=["3D", "slice by slice", "2D"]
)
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16), oblique=st.booleans(), resampled=st.booleans())
def test_labels_are_those_of_the_plain_method(
    tmp_path: Path, kind: tuple[int, int, tuple[int, ...]], seed: int, oblique: bool, resampled: bool
) -> None:
    dims, rank, patch = kind
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(5, 36, rank).tolist())
    spacing = tuple(rng.uniform(0.6, 2.5, rank).tolist()) if resampled else None
    volume = Volume(rng.normal(size=(1, *shape)).astype(np.float32), turned(rng, shape, oblique))
    network = model(tmp_path, dims, patch, spacing)
    labels, lead = plain(volume, network)
    found = Predictor(network, device="cpu", precision="fp32", engine="torch")(volume).array
    sure = lead > ROUNDING
    event(f"unsure: {(~sure).mean():.2%} of the voxels")
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(found[sure], labels[sure])
