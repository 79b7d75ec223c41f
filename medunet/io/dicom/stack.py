"""Slices to one regular volume: their order, and the grid they lie on, or the reason why they lie on none.

Everything follows from positions and orientation (PS3.3 section C.7.6.2.1.1). Instance numbers, slice locations and
the stated gantry tilt are not used: scanners and archives write them wrong. Knows nothing of files or pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DicomError
from medunet.geometry import Geometry
from medunet.io.dicom.grouping import places, positions
from medunet.io.dicom.planes import grid_of
from medunet.io.dicom.slices import Plane, Slice

_ROUNDING_MM = 0.01
_RELATIVE_GAP = 0.01
_TILT = 1e-3
_ON_GRID_MM, _ON_GRID_RELATIVE = 0.02, 0.05


@dataclass(frozen=True)
class Stack:
    """Slices in the order of their positions along the normal, and the grid they form.

    Attributes:
        slices: ordered; array axis k runs along row x column.
        geometry: the grid (columns, rows, slices) in RAS.
        notes: what was noticed, as sentences.
    """

    slices: tuple[Slice, ...]
    geometry: Geometry
    notes: tuple[str, ...] = ()


class IrregularError(DicomError):
    """Slices, each at a place of its own, that form no regular grid.

    Args:
        message: why not, with the numbers.
        slices: in the order of their positions along the normal.
    """

    def __init__(self, message: str, slices: tuple[Slice, ...]) -> None:
        super().__init__(message)
        self.slices = slices


def stack(slices: Sequence[Slice]) -> Stack:
    """Put slices of one orientation and size in order and check that they form a regular grid.

    Raises:
        IrregularError: missing slices, unequal gaps, a tilted gantry; with the numbers.
        DicomError: several images at one position, or a single slice of unknown thickness.
    """
    plane = slices[0].plane
    if plane is None:
        raise DicomError("where the slices lie is not stated")
    _check_places(slices)
    along = positions(slices) @ plane.normal
    ordered = tuple(slices[index] for index in np.argsort(along, kind="stable"))
    step, notes = _single_step(ordered[0]) if len(ordered) == 1 else _step(ordered, plane)
    shape = (ordered[0].columns, ordered[0].rows, len(ordered))
    geometry = grid_of(plane, shape, positions(ordered[:1])[0], step)
    return Stack(ordered, geometry, notes)


def _check_places(slices: Sequence[Slice]) -> None:
    counts = np.bincount(places(slices))
    if counts.max() == 1:
        return
    if len(counts) == 1:
        raise DicomError(
            f"{len(slices)} different images lie at one position, so they are no volume",
            "It may be a time series of one slice, or a repeat; export the slices of one volume only.",
        )
    crowded = int((counts > 1).sum())
    kind = f"{counts[0]} images lie at each" if (counts == counts[0]).all() else f"{counts.max()} images lie at some"
    raise DicomError(
        f"{kind} of the {len(counts)} positions ({crowded} with more than one), and nothing in their headers tells "
        "which of them belong together",
        "Export one time point, echo, b-value or reconstruction as a series of its own.",
    )


def _single_step(only: Slice) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    if only.plane is None or only.thickness is None:
        raise DicomError(
            "it is a single slice whose thickness is not stated, so its size in millimetres is unknown",
            "Check that the whole series was exported.",
        )
    note = f"A single slice; its stated thickness of {only.thickness:g} mm is used."
    return only.plane.normal * only.thickness, (note,)


def _step(ordered: tuple[Slice, ...], plane: Plane) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """LPS vector from one slice to the next."""
    where = positions(ordered)
    gaps = np.diff(where @ plane.normal)
    usual = float(np.median(gaps))
    reasons = [*_tilted(where, plane.normal), *_uneven(gaps, usual, where @ plane.normal)]
    if reasons:
        raise IrregularError("; ".join(reasons), ordered)
    step = (where[-1] - where[0]) / (len(where) - 1)
    sideways = step - (step @ plane.normal) * plane.normal
    if np.linalg.norm(sideways) * (len(where) - 1) <= _ROUNDING_MM:
        step = step - sideways
    off = float(np.linalg.norm(where - where[0] - np.arange(len(where))[:, None] * step, axis=1).max())
    if off > max(_ON_GRID_MM, _ON_GRID_RELATIVE * usual):
        raise IrregularError(
            f"a slice lies {off:.3g} mm beside its place on the regular grid of {usual:.4g} mm steps", ordered
        )
    return step, _thin(ordered[0], usual)


def _thin(first: Slice, gap: float) -> tuple[str, ...]:
    if first.thickness is None or gap <= 1.5 * first.thickness:
        return ()
    return (f"Slices of {first.thickness:g} mm lie {gap:.4g} mm apart: what lies between them was not imaged.",)


def _tilted(where: NDArray[np.float64], normal: NDArray[np.float64]) -> list[str]:
    """The gantry tilt out of the positions: how far the last slice is moved within its plane."""
    whole = where[-1] - where[0]
    height = float(whole @ normal)
    drift = float(np.linalg.norm(whole - height * normal))
    if drift <= max(_ROUNDING_MM, _TILT * height):
        return []
    angle = np.degrees(np.arctan2(drift, height))
    return [
        f"the slices are tilted by {angle:.2f} degrees against their stacking direction "
        f"(shifted by {drift:.4g} mm over {height:.4g} mm), as with a tilted gantry"
    ]


def _uneven(gaps: NDArray[np.float64], usual: float, along: NDArray[np.float64]) -> list[str]:
    """Unequal gaps, told as missing slices where they are whole multiples of the usual one."""
    tolerance = min(max(_ROUNDING_MM, _RELATIVE_GAP * usual), 0.1 * usual)
    odd = np.flatnonzero(np.abs(gaps - usual) > tolerance + 1e-9)
    if not len(odd):
        return []
    steps = gaps[odd] / usual
    if (np.rint(steps) >= 2).all() and (steps < 20).all() and (np.abs(steps - np.rint(steps)) < 0.05).all():
        missing = int((np.rint(steps) - 1).sum())
        first = int(odd[0])
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        return [
            f"{missing} slice{'s are' if missing > 1 else ' is'} missing: a gap of {gaps[first]:.4g} mm where "
            f"{usual:.4g} mm is usual, between {along[first]:.4g} and {along[first + 1]:.4g} mm along the normal{more}"
        ]
    return [
        f"the gaps between slices run from {gaps.min():.4g} to {gaps.max():.4g} mm (usual {usual:.4g} mm, "
        f"{len(odd)} of {len(gaps)} differ by more than {tolerance:.2g} mm)"
    ]
