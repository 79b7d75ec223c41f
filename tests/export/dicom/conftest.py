"""A CT export with a mask on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medunet.demo.dicom_export import write_ct_export
from medunet.geometry import Geometry
from medunet.io.dicom import read_dicom
from medunet.io.selection import Selection
from medunet.io.volume import Segmentation
from medunet.labels import LabelMap

DIRECTION = ((-0.8, 0.0, 0.6), (0.0, -1.0, 0.0), (0.6, 0.0, 0.8))
GRID = Geometry((20, 16, 9), (0.75, 0.5, 2.0), (30.0, 20.0, -40.0), DIRECTION)
LABELS = LabelMap.from_mapping({"background": 0, "liver": 1, "kidney_left": 3, "spot": 7})


@pytest.fixture
def grid() -> Geometry:
    """Of the study."""
    return GRID


@pytest.fixture
def labels() -> LabelMap:
    """Two organs and something that nobody has a code for."""
    return LABELS


@pytest.fixture
def nested() -> LabelMap:
    """One inside of the other."""
    return LabelMap.from_mapping({"background": 0, "liver": [1, 2], "tumour": 2})


@pytest.fixture
def mask() -> np.ndarray:
    """Indices of `labels` on the grid: a box with a hole, a rod through all slices, one voxel."""
    array = np.zeros(GRID.shape, dtype=np.uint8)
    array[2:12, 3:12, 2:6] = 1
    array[5:8, 5:8, 3:5] = 0
    array[15:18, 10:12] = 2
    array[18, 2, 8] = 3
    return array


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Oblique, nine slices."""
    values = np.random.default_rng(0).integers(-1000, 1500, GRID.shape).astype(np.int16)
    return write_ct_export(values, GRID, tmp_path / "study")


@pytest.fixture
def segmented(study: Path, mask: np.ndarray) -> Callable[..., Segmentation]:
    """Makes a segmentation of the study as it lies on the disk, of `mask` if nothing else is given."""

    def make(array: np.ndarray | None = None, labels: LabelMap = LABELS, **selection: str) -> Segmentation:
        volume = read_dicom(study, Selection(**selection))
        return Segmentation(mask if array is None else array, volume.geometry, labels, volume.source)

    return make


@pytest.fixture(scope="session")
def winding() -> Callable[[np.ndarray, tuple[int, ...]], np.ndarray]:
    """Counts how often a polygon (row, column) along pixel edges runs around each pixel centre."""

    def count(polygon: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        rows, columns = np.indices(shape)
        total = np.zeros(shape, dtype=int)
        for one, other in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if one[1] == other[1]:
                crossed = (min(one[0], other[0]) < rows) & (rows < max(one[0], other[0])) & (columns < one[1])
                total += crossed * int(np.sign(other[0] - one[0]))
        return total

    return count
