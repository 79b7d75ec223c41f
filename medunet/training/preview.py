"""What augmentation does to a data set, as one picture: patches as they are, and as training would see them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medunet.atomic import atomic_file
from medunet.config.schema import AugmentConfig, Config
from medunet.errors import UsageError
from medunet.export.picture import coloured, to_bytes
from medunet.io.manifest import read_manifest
from medunet.labels import Label, LabelMap
from medunet.training.cache import CachedCase, prepare_cases, prepare_weights
from medunet.training.material import median_spacing
from medunet.training.patches import PatchDataset
from medunet.transforms.border_weights import weight_term

_GAP, _TILE = 4, (96, 320)
_PAPER = (255, 255, 255)


def preview_augmentation(config: Config, path: str | Path, *, cases: int = 4, draws: int = 6) -> Path:
    """Write a PNG: a row per case, its patch without augmentation first, then as many as are drawn with it.

    Of volumes the middle slice of each patch is shown, along the last axis. Structures are outlined and tinted. The
    patches are drawn as training draws them, from the config's seed; collages, and what is pasted, are of the cases
    that are shown.

    Args:
        config: with `data.root`.
        path: of the picture.
        cases: how many; the first ones of the data set.
        draws: augmented patches per case.

    Raises:
        UsageError: the name of the picture has another ending.
        DatasetError: the data set cannot be used.
        DataError: a case cannot be read.
        OutputError: the picture cannot be written.
    """
    if Path(path).suffix.lower() != ".png":
        raise UsageError(f"The picture is a PNG, and {path} is not called so.", "Give a name that ends in .png.")
    labels, channels = LabelMap.from_mapping(config.labels), len(config.data.modality)
    manifest = read_manifest(
        Path(config.data.root), config.data.format, channels=channels, options=config.data
    ).by_rules(config.data.series)
    chosen = manifest.cases[:cases]
    with tempfile.TemporaryDirectory() as folder:
        cached: Sequence[CachedCase] = prepare_cases(
            chosen, Path(folder), config.preprocess, labels, channels=channels, flat=config.network.dims == 2
        )
        term = weight_term(config.loss)
        if term is not None:
            cached = prepare_weights(cached, labels, term)
        plain = config.model_copy(update={"augment": AugmentConfig(preset="none")})
        spacing, structures, aside = median_spacing(cached), labels.foreground, config.preprocess.neighbours
        samples = PatchDataset(cached, config, spacing)
        rows = {case.id: [_tile(PatchDataset([case], plain, spacing)[0], structures, aside)] for case in cached}
        for index in range(draws * len(cached)):
            rows[samples.case_of(index).id].append(_tile(samples[index], structures, aside))
    sheet = _sheet(list(rows.values()))
    with atomic_file(path) as part:
        sheet.save(part, format="PNG")
    return Path(path)


def _tile(item: dict[str, Tensor], labels: Sequence[Label], neighbours: int) -> Image.Image:
    image, mask = item["image"].numpy()[neighbours :: 2 * neighbours + 1], item["label"].numpy()[0]
    if mask.ndim == 3:
        image, mask = image[..., mask.shape[-1] // 2], mask[..., mask.shape[-1] // 2]
    shown = image if len(image) == 3 else np.repeat(image[:1], 3, axis=0)
    pixels = np.stack([to_bytes(channel.T, _window(shown)) for channel in shown], axis=-1)
    known = [label.index for label in labels]
    drawn = coloured(pixels, np.where(np.isin(mask, known), mask, 0).T.astype(np.int32), None, labels)
    longest = max(drawn.shape[:2])
    factor = min(max(longest, _TILE[0]), _TILE[1]) / longest
    return Image.fromarray(drawn).resize((round(drawn.shape[1] * factor), round(drawn.shape[0] * factor)))


def _window(shown: NDArray[Any]) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(shown, (1.0, 99.0)))
    return (low, high) if high > low else (low, low + 1.0)


def _sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    width, height = rows[0][0].size
    size = (len(rows[0]) * (width + _GAP) + _GAP, len(rows) * (height + _GAP) - _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    for number, row in enumerate(rows):
        for place, tile in enumerate(row):
            sheet.paste(tile, (place * (width + _GAP) + (_GAP if place else 0), number * (height + _GAP)))
    return sheet
