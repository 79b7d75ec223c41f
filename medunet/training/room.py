"""How much disk the preprocessed cases will take, told from what the checks saw, before hours are spent on them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from medunet.config.schema import Config
from medunet.errors import OutputError
from medunet.io.check import CaseStatistics
from medunet.labels import LabelMap
from medunet.transforms.border_weights import weight_term

_FLOAT = 4
_GB = 10**9


def cache_bytes(statistics: Sequence[CaseStatistics], config: Config) -> int:
    """Bytes of the arrays of these cases; cropping is not foreseen, so it is the most they take."""
    labels = LabelMap.from_mapping(config.labels)
    maps = weight_term(config.loss) is not None
    total = 0
    for entry in statistics:
        voxels = math.prod(entry.shape)
        if config.preprocess.size is not None:
            voxels = math.prod((*config.preprocess.size, *entry.shape[len(config.preprocess.size) :]))
        elif config.preprocess.spacing is not None:
            voxels = math.ceil(voxels * math.prod(entry.spacing) / math.prod(config.preprocess.spacing))
        total += voxels * (_FLOAT * (entry.channels + maps) + labels.index_dtype.itemsize)
    return total


def check_room(statistics: Sequence[CaseStatistics], config: Config, folder: Path) -> None:
    """Make sure that cases fit on the disk of a folder.

    Args:
        statistics: of the cases that are not in the cache yet.
        config: the whole configuration.
        folder: of the cache; it exists.

    Raises:
        OutputError: they need more than is free.
    """
    needed, free = cache_bytes(statistics, config), shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"The preprocessed cases need up to {needed / _GB:.1f} GB in {folder}, where {free / _GB:.1f} GB are free.",
            "Set data.cache to a folder on a larger disk, or preprocess.spacing to larger voxels.",
        )
