"""Reading a CT of many slices: medunet, SimpleITK's series reader and MONAI's ITKReader, in turns on one machine.

SLICES sets how many of 512 x 512; the files lie in the cache of the disk. All three give the same values.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import SimpleITK
from monai.data import ITKReader

from medunet.demo.dicom_export import CT_FOLDER, write_ct_export
from medunet.geometry import Geometry
from medunet.io.dicom import read_dicom

SLICES = int(os.environ.get("SLICES", "500"))
REPEATS = 5


def with_simpleitk(folder: Path) -> np.ndarray:
    reader = SimpleITK.ImageSeriesReader()
    (uid,) = reader.GetGDCMSeriesIDs(str(folder))
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), uid))
    return SimpleITK.GetArrayFromImage(reader.Execute()).transpose(2, 1, 0)


def with_monai(folder: Path) -> np.ndarray:
    reader = ITKReader()
    array, _ = reader.get_data(reader.read(str(folder)))
    return np.asarray(array)


def with_medunet(folder: Path) -> np.ndarray:
    return np.asarray(read_dicom(folder).array[0])


@pytest.mark.benchmark
@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore")  # itk's
def test_reading_is_as_fast_as_simpleitk_and_twice_as_fast_as_monai(tmp_path: Path) -> None:
    shape = (512, 512, SLICES)
    values = np.random.default_rng(0).integers(-1000, 1500, shape, dtype=np.int16)
    geometry = Geometry(shape, (0.7, 0.7, 1.0), (0.0, 0.0, 0.0), ((-1.0, 0, 0), (0, -1.0, 0), (0, 0, 1.0)))
    folder = write_ct_export(values, geometry, tmp_path / "export", localizer=False) / CT_FOLDER
    ways: dict[str, Callable[[Path], np.ndarray]] = {
        "medunet": with_medunet,
        "SimpleITK": with_simpleitk,
        "MONAI's ITKReader": with_monai,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(REPEATS + 1):
            for name, read in ways.items():
                start = time.perf_counter()
                found = read(folder)
                seconds[name].append(time.perf_counter() - start)
                assert found.shape == shape
                assert np.array_equal(found[..., ::100], values[..., ::100])
    own = median(seconds["medunet"][1:])
    print(f"\n{SLICES} slices of 512 x 512")
    for name, times in seconds.items():
        print(f"{name:18} {median(times[1:]):6.2f} s  {median(times[1:]) / own:.2f} times medunet's")
    assert own <= median(seconds["SimpleITK"][1:])
    assert 2 * own <= median(seconds["MONAI's ITKReader"][1:])
