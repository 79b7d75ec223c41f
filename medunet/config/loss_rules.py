"""Rules for the `loss:` section; those that depend on the labels stand in `config.label_rules`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from medunet.config.finding import Finding
from medunet.config.losses import BoundaryWeightedConfig, TverskyOptions
from medunet.config.schema import Config


def _tversky(config: Config) -> Iterator[Finding]:
    for index, term in enumerate(config.loss):
        if isinstance(term, TverskyOptions) and term.alpha == term.beta == 0:
            yield Finding(
                (("loss", index, "beta"), ("loss", index, "alpha")),
                "alpha and beta cannot both be 0: no error would count.",
            )


def _one_weight_map(config: Config) -> Iterator[Finding]:
    places = [index for index, term in enumerate(config.loss) if isinstance(term, BoundaryWeightedConfig)]
    for index in places[1:]:
        yield Finding(
            (("loss", index, "name"), ("loss", places[0], "name")),
            "can stand in the sum once: a case has one weight map.",
            "boundary_weighted_ce",
            "Leave one of them out.",
        )


LOSS_RULES: tuple[Callable[[Config], Iterator[Finding]], ...] = (_tversky, _one_weight_map)
