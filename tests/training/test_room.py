"""What the cache will take is known before it is made."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from medunet.config.load import parse_config
from medunet.errors import OutputError
from medunet.io.case import Case
from medunet.io.check import CaseStatistics, check_cases
from medunet.io.manifest import survey
from medunet.labels import LabelMap
from medunet.training.cache import prepare_cases, prepare_weights
from medunet.training.room import cache_bytes, check_room
from medunet.transforms.border_weights import weight_term

TEXT = "name: t\nlabels: {background: 0, organ: 4, core: 205}\ndata: {modality: [CT]}\n"
WEIGHTED = "loss: {name: boundary_weighted_ce}\n"
Usage = namedtuple("Usage", "total used free")


def statistics(folder: Path, labels: LabelMap) -> tuple[list[CaseStatistics], list[Case]]:
    manifest, problems = survey(folder, "auto", channels=1)
    assert not problems
    return check_cases(manifest.cases, labels, channels=1, annotated={}), manifest.cases


@pytest.mark.parametrize("more", ["", "preprocess: {spacing: [1.5, 0.7, 2.0]}\n", WEIGHTED])
def test_the_forecast_is_what_the_cache_takes(tiny_dataset: Path, tmp_path: Path, more: str) -> None:
    config = parse_config(TEXT + more)
    labels = LabelMap.from_mapping(config.labels)
    seen, cases = statistics(tiny_dataset, labels)
    cached = prepare_cases(cases, tmp_path, config.preprocess, labels)
    term = weight_term(config.loss)
    if term is not None:
        cached = prepare_weights(cached, labels, term)
    assert cache_bytes(seen, config) == pytest.approx(sum(case.nbytes for case in cached), rel=0.1)


def test_a_disk_that_is_too_small_is_told_beforehand(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(TEXT)
    seen, _ = statistics(tiny_dataset, LabelMap.from_mapping(config.labels))
    check_room(seen, config, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, cache_bytes(seen, config) - 1))
    with pytest.raises(OutputError, match=r"need up to 0\.0 GB in .* where 0\.0 GB are free"):
        check_room(seen, config, tmp_path)
    check_room([], config, tmp_path)
