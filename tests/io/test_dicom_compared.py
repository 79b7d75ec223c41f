"""Real exports through medunet and through dcm2niix: one grid and one set of values, or a difference that is explained.

What differs, and why, stands in docs/explanation/dicom-compared.md.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from medunet.io.dicom import read_dicom, read_series, scan
from medunet.io.selection import Selection
from medunet.io.volume import Volume

FOLDER = Path(__file__).resolve().parents[2] / "../shared/data/dicom"
CONVERTER = shutil.which("dcm2niix", path=str(Path(sys.executable).parent)) or shutil.which("dcm2niix")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the real scans are not beside this checkout"),
    pytest.mark.skipif(CONVERTER is None, reason="dcm2niix is not installed"),
]
VOLUMES = {
    "ct_philips_study_noext": 1,
    "dicomdir_cd": 18,
    "enh_ct_2f": 1,
    "enh_mr_hyperfine_nonsq": 1,
    "enh_mr_philips": 1,
    "enh_mr_siemens_xa30": 1,
    "fragmented_jpeg": 2,
    "legacy_enh_ct_3f": 1,
    "misc_single": 1,
    "mr_j2k": 1,
    "mr_jpegll": 1,
    "mr_philips_4d": 3,
    "mr_philips_orient_mixed4": 2,
    "mr_rle": 1,
    "pet_slope_nonsquare": 1,
    "seg_ct_highdicom": 1,
}
"""How many volumes medunet finds in each export: dcm2niix has to give every one of them."""
REFUSED = {
    "ct_ge_gap4",
    "ct_ge_tilt_varspace",
    "ct_notavolume4",
    "hostile",
    "mono1_nonsquare_dx",
    "mr_12bit",
    "mr_rgb_j2k",
    "siemens_sr_in_folder",
    "transfer_syntaxes_mosaic",
}
SLOPES_LOST = {"pet_slope_nonsquare": "y"}
"""Where `-p n`, which gives the values that a viewer shows, drops the slopes of all slices but one."""
Grid = tuple[NDArray[np.float64], NDArray[np.float64]]


def converted(export: Path, folder: Path, values: str = "n") -> Iterator[tuple[str, Grid]]:
    """Name, values (i, j, k) and RAS affine of all volumes that dcm2niix makes of an export."""
    assert CONVERTER is not None
    call = [CONVERTER, "-p", values, "-b", "n", "-z", "n", "-f", "%j_%s", "-o", str(folder), str(export)]
    subprocess.run(call, capture_output=True, check=False)
    for path in sorted(folder.glob("*.nii")):
        image = nibabel.load(path)
        array = np.asarray(image.dataobj, dtype=np.float64)
        if array.ndim in (3, 4):
            parts = np.moveaxis(array.reshape(*array.shape[:3], -1), 3, 0)
            yield from ((path.name, (part, image.affine)) for part in parts)


def agrees(volume: Volume, other: Grid) -> bool:
    """Whether both have the same corners within a micrometre, and there and between the same values."""
    array, affine = other
    wanted = volume.geometry.affine
    axes = np.rint(np.linalg.inv(affine) @ wanted)[:3, :3]
    if not all((np.abs(axes).sum(axis) == 1).all() for axis in (0, 1)):
        return False
    order = np.abs(axes).argmax(axis=0)
    turned = np.transpose(array, order)
    turned = np.flip(turned, [axis for axis in range(3) if axes[order[axis], axis] < 0])
    if turned.shape != volume.geometry.shape:
        return False
    corners = np.asarray(list(itertools.product(*((0, length - 1) for length in turned.shape))))
    there = corners @ axes.T
    there = there - (there.min(axis=0))
    mine = corners @ wanted[:3, :3].T + wanted[:3, 3]
    its = there @ affine[:3, :3].T + affine[:3, 3]
    same = np.allclose(turned, volume.array[0], rtol=1e-6, atol=1e-6 * np.abs(turned).max())
    return bool(np.abs(mine - its).max() < 1e-3 and same)


def test_every_export_is_accounted_for() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.is_dir()} == VOLUMES.keys() | REFUSED


@pytest.mark.parametrize("case", VOLUMES)
def test_every_volume_is_one_that_dcm2niix_gives_too(case: str, tmp_path: Path) -> None:
    volumes = [series for series in scan(FOLDER / case).series if series.plausible]
    assert len(volumes) == VOLUMES[case]
    grids = list(converted(FOLDER / case, tmp_path, SLOPES_LOST.get(case, "n")))
    for series in volumes:
        volume = read_series(series)
        assert any(agrees(volume, grid) for _, grid in grids), series.title
    if case in SLOPES_LOST:
        (tmp_path / "other").mkdir()
        others = list(converted(FOLDER / case, tmp_path / "other"))
        assert others
        assert not any(agrees(read_series(series), grid) for series in volumes for _, grid in others)


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_medunet_refuses_holds_no_volume_for_it(case: str) -> None:
    assert not any(series.plausible for series in scan(FOLDER / case).series)


@pytest.mark.parametrize(
    ("case", "ending", "mean"), [("ct_ge_gap4", "_Eq_1.nii", 0.2), ("ct_ge_tilt_varspace", "_Tilt_Eq_1.nii", 2.2)]
)
def test_resampled_volumes_agree_but_for_their_interpolation(
    case: str, ending: str, mean: float, tmp_path: Path
) -> None:
    """Mean difference in Hounsfield units; the file that dcm2niix makes without resampling is far off."""
    volume = read_dicom(FOLDER / case, Selection(irregular="resample"))
    differences = {}
    for name, (array, affine) in converted(FOLDER / case, tmp_path):
        to_mine = np.linalg.inv(volume.geometry.affine) @ affine
        indices = np.indices(array.shape)[:, ::4, ::4].reshape(3, -1)
        points = to_mine[:3, :3] @ indices + to_mine[:3, 3:]
        inside = ((points > -0.01) & (points < np.subtract(volume.geometry.shape, 0.99)[:, None])).all(axis=0)
        mine = map_coordinates(volume.array[0].astype(np.float32), points[:, inside], order=1, mode="nearest")
        its = array[::4, ::4].reshape(-1)[inside]
        differences[name.endswith(ending)] = float(np.abs(mine - its).mean())
    assert differences[True] < mean
    assert differences[False] > 10
