"""Rules for the `loss:` section; those about names of labels stand in `config.label_rules`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from medunet.config.finding import Finding
from medunet.config.losses import BoundaryWeightedConfig, FocalTverskyConfig, OverlapOptions, TverskyConfig
from medunet.config.schema import Config


def _tversky(config: Config) -> Iterator[Finding]:
    for index, term in enumerate(config.loss):
        if isinstance(term, TverskyConfig | FocalTverskyConfig) and term.alpha == term.beta == 0:
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


def _nested_background(config: Config) -> Iterator[Finding]:
    sets = ({values} if isinstance(values, int) else set(values) for values in config.labels.values())
    values = [value for numbers in sets for value in numbers]
    if len(set(values)) == len(values):
        return
    for index, term in enumerate(config.loss):
        if isinstance(term, OverlapOptions) and term.background:
            yield Finding(
                (("loss", index, "background"), ("labels",)),
                "would have no effect: of labels that lie inside of each other each is compared with the rest, and "
                "there is no output for the background.",
                "true",
                "Leave it out.",
            )


LOSS_RULES: tuple[Callable[[Config], Iterator[Finding]], ...] = (_tversky, _one_weight_map, _nested_background)
