"""What may well be meant otherwise, though it works. Knows nothing of files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from medunet.config.network_options import EncoderOptions
from medunet.config.rules import MEDICAL
from medunet.config.schema import Config, IntensityFixed, IntensityImageNet

_FILES = (".pt", ".pth", ".bin", ".safetensors")


def advice(config: Config) -> Iterator[str]:
    """A sentence or two about each such thing in a configuration."""
    network = config.network
    weights = getattr(network, "encoder_weights", None) if isinstance(network, EncoderOptions) else None
    pictures = network.dims == 2 and not MEDICAL.intersection(name.lower() for name in config.data.modality)
    rules = [rule for rule in config.preprocess.intensity if not isinstance(rule, IntensityFixed | IntensityImageNet)]
    if weights and PurePath(weights).suffix.lower() in _FILES and pictures and rules:
        yield (
            "Weights of torchvision and timm were trained on pictures that were normalised with fixed figures, but "
            f"preprocess.intensity is {rules[0].name}. If network.encoder_weights are such, write "
            "intensity: {name: imagenet}."
        )
