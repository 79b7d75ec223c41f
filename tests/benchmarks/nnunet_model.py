"""A trained nnU-Net folder as a medunet model folder, as far as the benchmarks need it: one plain U-Net, z-scores.

    python nnunet_model.py nnUNetTrainer__nnUNetPlans__3d_fullres MODEL

nnU-Net's arrays run z, y, x and medunet's x, y, z, so patches and kernels are turned round.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from torch import Tensor

from medunet.config.schema import Config
from medunet.model import save_model
from medunet.networks.registry import build_network

LAYER = {"0": "conv", "1": "norm"}


def nnunet_name(name: str, levels: int) -> str:
    """nnU-Net's name of one of our weights; it counts the levels of its decoder from the coarsest."""
    layer, _, weight = name.rpartition(".")
    if match := re.fullmatch(r"encoder\.(\d+)\.(\d+)\.([01])", layer):
        return f"encoder.stages.{match[1]}.0.convs.{match[2]}.{LAYER[match[3]]}.{weight}"
    if match := re.fullmatch(r"decoder\.(\d+)\.(\d+)\.([01])", layer):
        return f"decoder.stages.{levels - 2 - int(match[1])}.convs.{match[2]}.{LAYER[match[3]]}.{weight}"
    if match := re.fullmatch(r"(up|heads)\.(\d+)", layer):
        kind = {"up": "transpconvs", "heads": "seg_layers"}[match[1]]
        return f"decoder.{kind}.{levels - 2 - int(match[2])}.{weight}"
    raise KeyError(name)


def read(folder: Path) -> tuple[Config, dict[str, Tensor]]:
    """The configuration and the weights of fold 0."""
    plan = json.loads((folder / "plans.json").read_text())["configurations"]["3d_fullres"]
    dataset = json.loads((folder / "dataset.json").read_text())
    network = plan["architecture"]["arch_kwargs"]
    config = Config.model_validate_json(json.dumps(settings(plan, dataset, network)))
    numbers = [type(np.dtype(name)) for name in ("float32", "float64", "int64")]
    with torch.serialization.safe_globals([scalar, np.dtype, *numbers]):
        held = torch.load(folder / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=True)
    theirs = held["network_weights"]
    ours = build_network(config.network, len(dataset["channel_names"]), len(dataset["labels"])).state_dict()
    weights = {}
    for name, tensor in ours.items():
        value = theirs[nnunet_name(name, network["n_stages"])]
        value = value.permute(0, 1, 4, 3, 2) if value.ndim == 5 else value
        assert value.shape == tensor.shape, name
        weights[name] = value.contiguous()
    return config, weights


def settings(plan: dict[str, Any], dataset: dict[str, Any], network: dict[str, Any]) -> dict[str, Any]:
    """The YAML of the plan."""
    return {
        "name": "nnunet",
        "data": {"root": ".", "modality": list(dataset["channel_names"].values())},
        "labels": dataset["labels"],
        "preprocess": {"spacing": plan["spacing"][::-1], "intensity": [{"name": "zscore"}]},
        "network": {"name": "unet", "dims": 3, "channels": network["features_per_stage"]},
        "train": {"patch_size": plan["patch_size"][::-1]},
    }


if __name__ == "__main__":
    config, weights = read(Path(sys.argv[1]))
    save_model(sys.argv[2], config, weights, {"from": "nnU-Net"})
