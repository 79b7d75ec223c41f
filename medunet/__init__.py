"""medunet: train and run U-Nets on CT, MR and pictures.

The names below are the public door; each is imported when it is first used, so that `import medunet`
costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import medunet.environment  # noqa: F401 - before any library that would call home

if TYPE_CHECKING:  # what type checkers and editors see
    from medunet.config.load import load_config
    from medunet.config.schema import Config
    from medunet.errors import MedunetError
    from medunet.evaluation.folders import evaluate
    from medunet.geometry import Geometry
    from medunet.inference.predictor import Predictor
    from medunet.io.volume import Segmentation, Volume
    from medunet.labels import LabelMap
    from medunet.model import Model, load_model
    from medunet.training.folds import train_folds
    from medunet.training.run import train

__version__ = "0.1.0"

_PUBLIC = {
    "Config": "medunet.config.schema",
    "Geometry": "medunet.geometry",
    "LabelMap": "medunet.labels",
    "MedunetError": "medunet.errors",
    "Model": "medunet.model",
    "Predictor": "medunet.inference.predictor",
    "Segmentation": "medunet.io.volume",
    "Volume": "medunet.io.volume",
    "evaluate": "medunet.evaluation.folders",
    "load_config": "medunet.config.load",
    "load_model": "medunet.model",
    "train": "medunet.training.run",
    "train_folds": "medunet.training.folds",
}

__all__ = [
    "Config",
    "Geometry",
    "LabelMap",
    "MedunetError",
    "Model",
    "Predictor",
    "Segmentation",
    "Volume",
    "__version__",
    "evaluate",
    "load_config",
    "load_model",
    "train",
    "train_folds",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'medunet' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
