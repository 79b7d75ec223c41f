"""Reading a CT of many slices: medunet, SimpleITK's series reader and MONAI's ITKReader, in turns on one machine.

SLICES sets how many of 512 x 512, COMPRESSED how many compressed ones; the files lie in the cache of the disk. All
give the same values.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pydicom
import pytest
import SimpleITK
from monai.data import ITKReader
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless

from medunet.demo.dicom_export import CT_FOLDER, write_ct_export
from medunet.geometry import Geometry
from medunet.io.dicom import read_dicom

SLICES = int(os.environ.get("SLICES", "500"))
COMPRESSED = int(os.environ.get("COMPRESSED", "100"))
REPEATS = 5
Ways = dict[str, Callable[[Path], np.ndarray]]


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


def measured(ways: Ways, folder: Path, values: np.ndarray) -> dict[str, float]:
    """Median seconds of each way, in turns; every reading is exact."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(REPEATS + 1):
            for name, read in ways.items():
                start = time.perf_counter()
                found = read(folder)
                seconds[name].append(time.perf_counter() - start)
                assert found.shape == values.shape
                assert np.array_equal(found[..., ::10], values[..., ::10])
    medians = {name: median(times[1:]) for name, times in seconds.items()}
    for name, time_taken in medians.items():
        print(f"{name:18} {time_taken:6.2f} s  {time_taken / medians['medunet']:.2f} times medunet's")
    return medians


def export(values: np.ndarray, folder: Path) -> Path:
    shape = (values.shape[0], values.shape[1], values.shape[2])
    geometry = Geometry(shape, (0.7, 0.7, 1.0), (0.0, 0.0, 0.0), ((-1.0, 0, 0), (0, -1.0, 0), (0, 0, 1.0)))
    return write_ct_export(values, geometry, folder, localizer=False) / CT_FOLDER


@pytest.mark.benchmark
@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore")  # itk's
def test_reading_is_as_fast_as_simpleitk_and_twice_as_fast_as_monai(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-1000, 1500, (512, 512, SLICES), dtype=np.int16)
    print(f"\n{SLICES} slices of 512 x 512")
    seconds = measured(
        {"medunet": with_medunet, "SimpleITK": with_simpleitk, "MONAI's ITKReader": with_monai},
        export(values, tmp_path / "export"),
        values,
    )
    assert seconds["medunet"] <= seconds["SimpleITK"]
    assert 2 * seconds["medunet"] <= seconds["MONAI's ITKReader"]


def disk_in_noise(slices: int) -> np.ndarray:
    """A body and an organ in the noise of a CT, (512, 512, slices): what codecs make of white noise tells little."""
    across, down = np.mgrid[:512, :512]
    body = np.where(np.hypot(across - 256, down - 256) < 200, 0, -1000)
    body[np.hypot(across - 200, down - 256) < 60] += 80
    noise = np.random.default_rng(0).normal(0, 25, (512, 512, slices))
    return np.clip(body[..., None] + noise, -1024, 2000).astype(np.int16)


@pytest.mark.benchmark
@pytest.mark.timeout(0)
@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless], ids=lambda uid: uid.keyword)
def test_reading_compressed_slices_is_as_fast_as_simpleitk(tmp_path: Path, syntax: UID) -> None:
    values = disk_in_noise(COMPRESSED)
    folder = export(values, tmp_path / "export")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax)
        dataset.save_as(path)
    print(f"\n{COMPRESSED} slices of 512 x 512, {syntax.name}")
    seconds = measured({"medunet": with_medunet, "SimpleITK": with_simpleitk}, folder, values)
    assert seconds["medunet"] <= 1.1 * seconds["SimpleITK"]  # both spend their time in the same libraries
