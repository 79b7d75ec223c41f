"""Transfer learning: encoder weights from a local file, or from a model that was trained before.

It is read when a training starts and never again: neither to resume it nor to use the model.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from medunet.config.finding import in_brackets
from medunet.config.network_options import EncoderOptions
from medunet.config.schema import Config
from medunet.errors import ModelError, UsageError
from medunet.model import load_model
from medunet.networks.contract import Network
from medunet.networks.encoder_weights import encoder_state
from medunet.training.outline import outline

logger = logging.getLogger("medunet")

_INNER = ("state_dict", "model", "network", "model_state_dict")
"""Keys under which a checkpoint may keep its weights."""

_REMEDY = "Give a .safetensors file, or a .pt or .pth file with a state dict."
_NOT_READABLE = (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, ImportError, TypeError)


def check_encoder(config: Config) -> None:
    """Make sure, without building the network, that the encoder weights of a config are there and fit.

    Raises:
        UsageError: there is no such file.
        ModelError: it holds no weights, or those of another encoder.
    """
    options = config.network
    if isinstance(options, EncoderOptions) and options.encoder_weights is not None:
        _fitted(_encoder(outline(config), options), options)


def load_encoder(network: Network, config: Config) -> None:
    """Load the encoder weights that a config names, if it names any.

    Args:
        network: as built from the config; changed in place.
        config: the whole configuration.

    Raises:
        UsageError, ModelError: as `check_encoder`.
    """
    options = config.network
    if isinstance(options, EncoderOptions) and options.encoder_weights is not None:
        encoder = _encoder(network, options)
        encoder.load_state_dict(_fitted(encoder, options))
        logger.info("The encoder starts with the weights of %s.", options.encoder_weights)
        _compare_intensity(Path(options.encoder_weights), config)


def _encoder(network: Network, options: EncoderOptions) -> nn.Module:
    encoder = network.encoder_module()
    if encoder is None:
        raise TypeError(f"{options.name} has the options of an encoder, but its encoder_module gives none.")
    return encoder


def _fitted(encoder: nn.Module, options: EncoderOptions) -> dict[str, Tensor]:
    path = Path(options.encoder_weights or "")
    tensors = weights_of(path, "network.encoder_weights")
    return encoder_state(encoder, tensors, str(getattr(options, "backbone", options.name)), str(path))


def _compare_intensity(path: Path, config: Config) -> None:
    """Warn where the encoder learned from images that were normalised otherwise."""
    if not _is_model(path):
        return
    before, now = load_model(path).spec.preprocess.intensity, config.preprocess.intensity
    if before != now:
        logger.warning(
            "The encoder was trained with preprocess.intensity %s; here it is %s. The same one gives it what it knows.",
            *(in_brackets([entry.model_dump(mode="json") for entry in rules]) for rules in (before, now)),
        )


def _is_model(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() == ".zip"


def weights_of(path: Path, key: str) -> Mapping[str, Tensor]:
    """Of a model folder, a run folder, a zipped model, or a file of tensors (`read_tensors`)."""
    return load_model(path).weights if _is_model(path) else read_tensors(path, key)


def read_tensors(path: Path, key: str) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU; nothing in the file is run.

    Args:
        path: safetensors, or what `torch.save` wrote: a state dict, or a checkpoint that holds one.
        key: of the configuration, that names the file.

    Raises:
        UsageError: there is no such file.
        ModelError: it holds no tensors.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path} ({key}).", "Check the path, or set it to null to do without.")
    try:
        content = safetensors.torch.load_file(path) if path.suffix.lower() == ".safetensors" else _unpickled(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.", "Check its permissions.") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is no file of weights, or holds Python objects beside them, which are not opened.",
            "Save the state dict alone, with torch.save or as safetensors.",
        ) from error
    except (*_NOT_READABLE, safetensors.SafetensorError) as error:
        raise ModelError(f"{path} is no file of weights, or a damaged one.", _REMEDY) from error
    tensors = _tensors_in(content)
    if not tensors:
        raise ModelError(f"{path} holds no tensors by name.", _REMEDY)
    return tensors


def _unpickled(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old pickles and TorchScript; what cannot be read is refused
        return torch.load(path, map_location="cpu", weights_only=True)


def _tensors_in(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    inner = next((content[key] for key in _INNER if isinstance(content.get(key), Mapping)), content)
    return {name: value for name, value in inner.items() if isinstance(name, str) and isinstance(value, Tensor)}
