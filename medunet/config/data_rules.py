"""Rules for `data:`: file names with places for the case, colours of labels that exist, keys that need each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from medunet.config.document import as_written
from medunet.config.finding import Finding
from medunet.config.schema import Config
from medunet.labels import IGNORE

CASE, LABEL, GROUP = "{case}", "{label}", "{group}"


def _pairs(config: Config) -> Iterator[Finding]:
    data = config.data
    if data.format == "pairs" and data.pairs is None:
        yield Finding(
            (("data", "format"), ("data", "pairs")),
            "needs data.pairs, which says how the files are named.",
            "pairs",
            'Write pairs: {images: "images/{case}.*", labels: "masks/{case}.*"}.',
        )
    if data.pairs is None:
        return
    if data.format not in ("pairs", "auto"):
        yield Finding(
            (("data", "pairs"), ("data", "format")),
            f"is for data.format: pairs, and the format is {data.format}.",
            hint="Remove one of them.",
        )
    names = [("images", name) for name in data.pairs.images] + [("labels", data.pairs.labels)]
    for key, name in [*names, *([("region", data.pairs.region)] if data.pairs.region else [])]:
        for rule in _name_rules(key, name):
            yield Finding((("data", "pairs", key),), rule, as_written(name))
    if data.pairs.region and IGNORE not in config.labels:
        yield Finding(
            (("data", "pairs", "region"), ("labels",)),
            "needs a label for the pixels outside of it.",
            as_written(data.pairs.region),
            "Add to labels `ignore` with a value that the masks do not use, such as 7.",
        )


def _name_rules(key: str, name: str) -> Iterator[str]:
    if name.count(CASE) != 1:
        yield f"must hold {CASE} once: what the names of a case have in common."
    if name.count(LABEL) > (key == "labels"):
        yield f"may hold {LABEL} once, in data.pairs.labels only."
    if name.startswith(("/", "\\", "~")) or ".." in name.replace("\\", "/").split("/"):
        yield "must stay inside data.root."


def _colours(config: Config) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    for name, colours in config.data.colours.items():
        place = (("data", "colours", name),)
        if name not in config.labels:
            yield Finding(place, f"is no label; the labels are {', '.join(config.labels)}.")
        for colour in colours:
            owner = owners.setdefault(colour, name)
            if owner != name:
                yield Finding(place, f"is the colour of {owner} too.", as_written(colour))


def _group(config: Config) -> Iterator[Finding]:
    pattern = config.data.group
    if pattern is not None and pattern.count(GROUP) != 1:
        rule = f"must hold {GROUP} once: what the ids of a group have in common."
        yield Finding((("data", "group"),), rule, as_written(pattern), f'Write "{GROUP}_*", for instance.')


DATA_RULES: tuple[Callable[[Config], Iterator[Finding]], ...] = (_pairs, _colours, _group)
