"""`train.start_from`: weights of another training, taken where name and shape agree."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor

from medunet.config.schema import Config
from medunet.errors import ModelError
from medunet.networks.contract import Network
from medunet.networks.weights import difference, first_of
from medunet.training.outline import outline
from medunet.training.transfer import weights_of

logger = logging.getLogger("medunet")


def check_start(config: Config) -> None:
    """Make sure, without memory for the network, that the weights of `train.start_from` are there and some fit.

    Raises:
        UsageError: there is no such file.
        ModelError: it holds no weights, or none that fit.
    """
    if config.train.start_from is not None:
        _matching(outline(config), Path(config.train.start_from))


def start(network: Network, config: Config) -> None:
    """Take the weights that fit; the log says which do not.

    Args:
        network: as built from the config; changed in place.
        config: the whole configuration.

    Raises:
        UsageError, ModelError: as `check_start`.
    """
    if config.train.start_from is None:
        return
    path = Path(config.train.start_from)
    taken, left = _matching(network, path)
    network.load_state_dict(taken, strict=False)
    logger.info("%d of %d tensors start as in %s.", len(taken), len(taken) + len(left), path)
    if left:
        logger.warning("%d tensors start from random weights: %s.", len(left), first_of(left))
        logger.info("All of them: %s.", "; ".join(left))


def _matching(network: Network, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Weights by name that fit, and a sentence's part about each of the network's that has none."""
    given = weights_of(path, "train.start_from")
    own = network.state_dict()
    taken = {name: given[name] for name in own if name in given and given[name].shape == own[name].shape}
    left = [difference(name, given.get(name), value) for name, value in own.items() if name not in taken]
    learned = {name for name, _ in network.named_parameters()}
    if not learned.intersection(taken):
        raise ModelError(
            f"No layer of {path} fits this network: {first_of(left)}.",
            "Check network.name and its options, or leave train.start_from out.",
        )
    return taken, left
