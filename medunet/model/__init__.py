"""The model folder: `model.yaml` + `weights.safetensors`, checked by hash, free of code and pickles.

A folder or a zip of it. Everything that prediction needs stands in model.yaml, typed: network, preprocessing,
labels, inference defaults, post-processing, and what training saw. An ensemble has one file of weights per network.
"""

from medunet.model.seen import Seen
from medunet.model.spec import SPEC_FILE, WEIGHTS_FILE, ModelSpec, library_versions
from medunet.model.trained import Model, join_models, load_model, save_model

__all__ = [
    "SPEC_FILE",
    "WEIGHTS_FILE",
    "Model",
    "ModelSpec",
    "Seen",
    "join_models",
    "library_versions",
    "load_model",
    "save_model",
]
