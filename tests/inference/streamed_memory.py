"""Prints what segmenting 96 x 96 x LENGTH voxels into CLASSES labels takes at most beside its result, in bytes.

A script and not a function of the test, because a heap that was used before hides what is taken from it.
"""

from __future__ import annotations

import sys

import numpy as np
import psutil
import torch

from medunet.config.schema import IntensityZScore, PreprocessConfig
from medunet.geometry import Geometry
from medunet.inference.memory import peak_bytes, reset_peak
from medunet.io.volume import Volume
from medunet.labels import LabelMap
from medunet.sliding_window.network import Way, best_axis
from medunet.transforms.preprocess import PreparedImage
from medunet.transforms.restore import LabelRows, empty_labels


def segment(length: int, classes: int) -> int:
    """Bytes beside the result; the labels are steps of the intensity."""
    labels = LabelMap.from_mapping({"background": 0} | {f"organ {index}": index for index in range(1, classes)})
    array = np.random.default_rng(0).integers(-100, 100, (1, 96, 96, length)).astype(np.int16)
    volume = Volume(array, Geometry.plain(array.shape[1:], (1.0, 1.0, 1.0)))
    steps = torch.linspace(-2, 2, classes).view(1, -1, 1, 1, 1)
    reset_peak()
    before = psutil.Process().memory_info().rss
    image = PreparedImage(
        volume, PreprocessConfig(spacing=(1.5, 1.5, 1.0), intensity=(IntensityZScore(name="zscore"),))
    )
    way = Way((32, 32, 32))
    axis = best_axis([way], image.shape)
    result = empty_labels(image.record, labels)
    rows = LabelRows(result, image.record, labels, axis)
    for logits in way.rows(image, lambda patches: -((patches - steps) ** 2), axis):
        rows.add(logits)
    peak = peak_bytes() or 0
    assert len(np.unique(result)) > classes / 2
    return peak - before - result.nbytes


if __name__ == "__main__":
    sys.stdout.write(str(segment(int(sys.argv[1]), int(sys.argv[2]))))
