"""What an image or mask file holds: grid, type, values, and what in its header asks for doubt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DataError, GeometryError
from medunet.geometry import Geometry, format_mm
from medunet.io.check import PERCENTILES, count_values, sampled_percentiles
from medunet.io.describe.description import Description, megabytes
from medunet.io.files import image_ending, read_image
from medunet.io.volume import Volume
from medunet.labels import format_values

_MASK_VALUES = 256
_SMOOTH = 0.6


def describe_image(path: Path) -> Description:
    """Describe an image or mask file; what keeps it from being read becomes a problem."""
    result = Description("image", path, {"format": image_ending(path).lstrip(".")})
    result.facts["size"] = megabytes(path.stat().st_size)
    try:
        volume = read_image(path, check_values=False)
    except DataError as error:
        result.blame(error)
        return result
    geometry = volume.geometry
    result.facts |= {
        "shape": list(geometry.shape),
        "channels": volume.channels,
        "spacing_mm": [round(value, 6) for value in geometry.spacing],
        "orientation": geometry.axcodes if volume.source.kind != "picture" else "picture (x right, y down)",
        "extent_mm": [round(s * n, 2) for s, n in zip(geometry.spacing, geometry.shape, strict=True)],
        "dtype": str(volume.array.dtype),
    }
    if volume.source.kind == "nifti":
        _add_header(result, volume)
    if volume.source.kind != "picture":
        _add_spacing_notes(result, geometry)
    add_values(result, volume)
    return result


def add_values(result: Description, volume: Volume) -> None:
    """Range and percentiles of the voxels, how many are not finite, and what they look like."""
    array = volume.array
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        bad = int(array.size - np.count_nonzero(finite))
        if bad:
            result.problems.append(f"{bad} of {array.size} voxels are NaN or infinite.")
            array = array[finite][None]
        if not array.size:
            return
    low, high = float(array.min()), float(array.max())
    percentiles = sampled_percentiles(array)
    result.facts["range"] = [low, high]
    result.facts["mean"] = round(float(array.mean(dtype=np.float64)), 4)
    result.facts["percentiles"] = {f"{p:g}": round(v, 4) for p, v in zip(PERCENTILES, percentiles, strict=True)}
    values = _mask_values(volume.array) if volume.channels == 1 else []
    if low == high:
        result.notes.append(f"Every voxel is {low:g}.")
    elif values:
        result.facts["mask_values"] = values
        result.notes.append(f"It looks like a mask with {format_values(values, limit=16)}.")
    elif volume.geometry.rank == 3 and -8200 <= low <= -500 and high >= 200:
        result.notes.append("The values look like CT in Hounsfield units.")


def _mask_values(array: NDArray[np.generic]) -> list[int]:
    """The values of an array (1, *spatial) that looks like a mask: few, whole, and equal in neighbours; else []."""
    voxels = array[0]
    if voxels.dtype.kind == "f" and not np.array_equal(np.rint(voxels), voxels):
        return []
    if voxels.dtype.kind == "f" and np.abs(voxels).max() > np.iinfo(np.int32).max:
        return []
    counts = count_values(voxels)
    if not 2 <= len(counts) <= _MASK_VALUES or 0 not in counts:
        return []
    here, there = voxels[:-1], voxels[1:]
    inside = here != 0
    total = np.count_nonzero(inside)
    alike = np.count_nonzero(inside & (here == there))
    return sorted(counts) if len(counts) == 2 or (total and alike / total > _SMOOTH) else []


def _add_spacing_notes(result: Description, geometry: Geometry) -> None:
    ordered = sorted(geometry.spacing)
    if geometry.rank == 3 and ordered[2] > 3 * ordered[0]:
        result.notes.append(f"The voxels are far from cubes ({format_mm(geometry.spacing)}).")
    elif geometry.spacing[0] != geometry.spacing[1] and abs(geometry.spacing[0] / geometry.spacing[1] - 1) > 0.01:
        result.notes.append(f"The pixels of a slice are not square ({format_mm(geometry.spacing[:2])}).")


def _add_header(result: Description, volume: Volume) -> None:
    """sform, qform, units and stored type of a NIfTI header."""
    header: Any = volume.source.header
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    units = header.get_xyzt_units()[0]
    stored = header.get_data_dtype()
    scaled = stored.kind in "iu" and volume.array.dtype.kind == "f"
    result.facts["dtype"] = f"{stored}, scaled on reading" if scaled else str(stored)
    result.facts["nifti"] = {"sform_code": sform, "qform_code": qform, "units": units}
    if sform == 0 and qform == 0:
        result.notes.append("Neither sform nor qform is set (both codes are 0): left and right are a guess.")
    if sform and qform and volume.geometry.rank == 3:
        _compare_forms(result, header, volume.geometry.shape)
    if units in ("meter", "micron"):
        result.notes.append(f"The header states {units} as its unit, but spacings are taken as millimetres.")


def _compare_forms(result: Description, header: Any, shape: tuple[int, ...]) -> None:
    try:
        qform = Geometry.from_affine(header.get_qform(), shape)
        difference = Geometry.from_affine(header.get_sform(), shape).difference(qform)
    except (GeometryError, ValueError) as error:
        result.notes.append(f"The qform is not usable ({error}); the sform is used.")
        return
    if difference:
        result.notes.append(f"sform and qform disagree: the qform has {difference}. The sform is used.")
