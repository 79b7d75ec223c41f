"""The names of the public door, and what opening it costs."""

from __future__ import annotations

import subprocess
import sys

import medunet


def test_the_public_names_are_these() -> None:
    assert sorted(medunet.__all__) == [
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


def test_every_public_name_can_be_imported() -> None:
    missing = [name for name in medunet.__all__ if not hasattr(medunet, name)]
    assert missing == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(medunet, "Trainer")


def test_opening_the_door_loads_nothing_heavy() -> None:
    code = "import sys, medunet; print({'torch', 'monai', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
