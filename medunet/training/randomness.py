"""Random generators of Python and NumPy: nothing in medunet draws from the global ones, a network of yours may.

Those of torch are saved beside the weights (`medunet.training.parts`), those of patches need no saving
(`medunet.training.patches`).
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_python(seed: int) -> None:
    """Set the global generators of Python and NumPy."""
    random.seed(seed)
    np.random.seed(seed)


def python_state() -> dict[str, Any]:
    """`python_rng` and `numpy_rng`, as numbers and tensors for a checkpoint."""
    found: dict[str, Any] = dict(np.random.get_state(legacy=False))
    keys = torch.from_numpy(found["state"]["key"].astype(np.int64))
    return {"python_rng": random.getstate(), "numpy_rng": {**found, "state": {**found["state"], "key": keys}}}


def set_python_state(state: dict[str, Any]) -> None:
    """Inverse of `python_state`."""
    version, numbers, gauss = state["python_rng"]
    random.setstate((version, tuple(numbers), gauss))
    found = state["numpy_rng"]
    keys = found["state"]["key"].cpu().numpy().astype(np.uint32)
    np.random.set_state({**found, "state": {**found["state"], "key": keys}})
