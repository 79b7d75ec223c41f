"""The pixels of a `Series`, decoded, rescaled and put on its grid.

Values are physical ones (HU for CT): each slice by its own slope and intercept. MONOCHROME1 is never inverted, for it
says how to show values, not what they are.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from medunet.errors import DicomError, ReadError
from medunet.io.dicom.choice import choose
from medunet.io.dicom.codestream import check_frames
from medunet.io.dicom.colour import PALETTE_TAGS, luma
from medunet.io.dicom.elements import quiet, reason_of, text
from medunet.io.dicom.opening import opened
from medunet.io.dicom.plain import native_values
from medunet.io.dicom.series import Series, scan
from medunet.io.dicom.slices import Slice
from medunet.io.dicom.threads import in_order
from medunet.io.selection import ANY, Selection
from medunet.io.volume import Source, Volume

_TAGS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration", "PixelData", "FloatPixelData"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *PALETTE_TAGS,
)
_INTEGERS = (np.int16, np.int32, np.int64)
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FASTER = dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), "pyjpegls")
"""Codecs that are not pydicom's first choice: CharLS without GDCM around it takes two thirds of the time."""
_CODECS = "Install the decoders: pip install 'medunet[codecs]'."


def read_dicom(path: Path, selection: Selection = ANY, referred: Sequence[str] = ()) -> Volume:
    """Read the one volume of a DICOM file or folder.

    Args:
        path: a folder at any depth, or one (multi-frame) file.
        selection: which volume is meant.
        referred: Series Instance UIDs that a label refers to. One of them that is here is meant, unless `selection`
            names another.

    Returns:
        Volume (1, columns, rows, slices), slices along row x column. `source.notes` tells what was left out.

    Raises:
        ReadError: no such path, or pixel data that cannot be decoded.
        DicomError: not exactly one regular volume.
    """
    export = scan(path)
    if not export.series:
        raise DicomError(f"There is no DICOM image in {path}.", export.remarks())
    here = {series.uid for series in export.series}.intersection(referred)
    if selection.series is None and len(here) == 1:
        selection = replace(selection, series=here.pop())
    volume = read_chosen(export.series, selection)
    return replace(volume, source=replace(volume.source, path=path, notes=volume.source.notes + export.ignored))


def read_chosen(series: Sequence[Series], selection: Selection = ANY) -> Volume:
    """Read the one volume that is meant among the series of an export; as `read_dicom`."""
    chosen = choose(series, selection)
    read = {(item.path, item.frame) for item in chosen.slices}
    others = tuple(
        f"Series {other.title} was left out{': ' if other.verdict else ''}{other.verdict}."
        for other in series
        if (other.slices[0].path, other.slices[0].frame) not in read
    )
    volume = read_series(chosen)
    return replace(volume, source=replace(volume.source, notes=volume.source.notes + others))


def read_series(series: Series) -> Volume:
    """Read a plausible series.

    Returns:
        Volume (1, columns, rows, slices): int16 (or wider where values need it) if every slope is 1 and every
        intercept whole, else float32.

    Raises:
        DicomError: the series is no plausible volume, or needs decoders that are not installed.
        ReadError: pixel data that cannot be decoded.
    """
    if series.geometry is None or not series.plausible:
        raise DicomError(f"The series {series.title} cannot be read as a volume: {series.verdict}.", series.remedy)
    try:
        array = _array(series)
    except MemoryError as error:
        raise DicomError(
            f"The series {series.title} does not fit into memory.", "Read it on a machine with more memory."
        ) from error
    source = Source(
        series.files[0].parent,
        "dicom",
        series_uid=series.uid,
        files=series.files,
        notes=series.notes,
        series=series,
    )
    return Volume(array.transpose(2, 1, 0)[None], series.geometry, source)


def _array(series: Series) -> NDArray[Any]:
    """(slices, rows, columns) on the series' grid."""
    files = _Files()
    if series.resampled and series.upright is not None:
        with closing(in_order(lambda item: _physical(item, files.stored(item)), series.slices)) as planes:
            return series.upright.values(planes)
    exact = all(_is_exact(*item.rescale) for item in series.slices)
    columns, rows, count = series.shape
    try:
        array: NDArray[Any] = np.empty((count, rows, columns), dtype=_INTEGERS[0] if exact else np.float32)
    except ValueError as error:  # more bytes than an address holds
        raise MemoryError from error
    done = 0
    while done < count:
        done, dtype = _fill(array, series.slices, done, files)
        array = array.astype(dtype, copy=False)
    return array


def _fill(array: NDArray[Any], slices: tuple[Slice, ...], start: int, files: _Files) -> tuple[int, np.dtype[Any]]:
    """Write the slices from one on to (slices, rows, columns).

    Returns:
        The number of the first that the type of the array does not hold, and the type that it needs; all before it
        are written.
    """
    with closing(in_order(lambda k: _put(array[k], slices[k], files), range(start, len(slices)))) as types:
        for k, dtype in enumerate(types, start):
            if dtype != array.dtype:
                return k, dtype
    return len(slices), array.dtype


def _put(target: NDArray[Any], item: Slice, files: _Files) -> np.dtype[Any]:
    """Write the values of a slice to (rows, columns); returns the type they need: if it is another, they are not there.

    Whole numbers are not to be written to a type that is too narrow: `target` then holds anything.
    """
    stored = files.stored(item, target)
    if target.dtype.kind == "f":
        target[...] = _physical(item, stored)
        return target.dtype
    if stored.dtype.kind not in "iu":
        return np.dtype(np.float32)
    shift = int(item.rescale[1])
    needed = _widened(target.dtype, *(limit + shift for limit in item.native.range)) if item.native else None
    if needed != target.dtype:
        needed = _widened(target.dtype, int(stored.min()) + shift, int(stored.max()) + shift)
    if needed == target.dtype:
        # The sum fits; that a summand may not does not matter, for whole numbers of fixed width wrap round.
        if not np.may_share_memory(stored, target):
            target[...] = stored
        target += np.asarray(shift).astype(target.dtype)
    return needed


def _physical(item: Slice, stored: NDArray[Any]) -> NDArray[np.float64]:
    slope, intercept = item.rescale
    values = stored.astype(np.float64)
    values *= slope
    values += intercept
    if not max(-values.min(), values.max()) <= _FLOAT32_MAX:
        raise ReadError(f"{item.name} holds values that are not finite after rescaling.", "Export it again.")
    return values


def _is_exact(slope: float, intercept: float) -> bool:
    """Whether whole stored values stay whole."""
    return slope == 1.0 and intercept.is_integer() and abs(intercept) < 2**31


def _widened(dtype: np.dtype[Any], low: int, high: int) -> np.dtype[Any]:
    """The smallest type that holds such values and those of another type of whole numbers."""
    for wider in _INTEGERS:
        info = np.iinfo(wider)
        if info.min <= low and high <= info.max and info.bits >= dtype.itemsize * 8:
            return np.dtype(wider)
    return np.dtype(np.float32)


class _Files:
    """Stored values of slices, for several threads; a multi-frame file is opened once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._dataset: Any = None

    def stored(self, item: Slice, target: NDArray[Any] | None = None) -> NDArray[Any]:
        """(rows, columns), in the memory of `target` if that fits and the pixels lie in the file as they are.

        Raises:
            DicomError, ReadError: as `read_series`.
        """
        values = (
            None if item.native is None else native_values(item.native, item.path, (item.rows, item.columns), target)
        )
        return _decode(self._opened(item), item) if values is None else values

    def _opened(self, item: Slice) -> Any:
        if item.frame is None:
            return _open(item.path)
        with self._lock:
            if item.path != self._path:
                self._path, self._dataset = item.path, _open(item.path)
            return self._dataset


def _open(path: Path) -> Any:
    try:
        with quiet(), opened(path) as handle:
            dataset = pydicom.dcmread(handle, force=True, specific_tags=list(_TAGS))
            if "TransferSyntaxUID" not in dataset.file_meta:
                implicit, little = dataset.original_encoding
                plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain
            check_frames(dataset)
            return dataset
    except Exception as error:  # pydicom raises a dozen types for damaged files
        raise _undecodable(path.name, error) from error


def _decode(dataset: Any, item: Slice) -> NDArray[Any]:
    with quiet():
        syntax = UID(text(dataset.file_meta, "TransferSyntaxUID"))
    _check_decoder(syntax, item)
    try:
        with quiet():
            stored = luma(dataset, item.frame or 0) if item.colour else _decoded(dataset, item.frame or 0)
    except BaseException as error:  # and so do its codecs; that of RLE panics beside the tree of Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise _undecodable(item.name, error) from error
    if stored.shape != (item.rows, item.columns):
        raise ReadError(
            f"{item.name} decodes to {stored.shape} pixels where the header states {item.rows} x {item.columns}.",
            "Export it again.",
        )
    return stored


def _decoded(dataset: Any, index: int) -> NDArray[Any]:
    """What the faster codec makes of a frame, or else the first of the others that can."""
    first = _FASTER.get(dataset.file_meta.TransferSyntaxUID, "")
    try:
        frame: NDArray[Any] = pixel_array(dataset, index=index, raw=True, decoding_plugin=first)
    except Exception:  # it is not installed, or cannot decode this frame
        if not first:
            raise
        frame = pixel_array(dataset, index=index, raw=True)
    return frame


def _check_decoder(syntax: Any, item: Slice) -> None:
    known = syntax.name != str(syntax)
    stored = f'stored as "{syntax.name}"' if known else "stored in an unknown transfer syntax"
    try:
        with quiet():
            available = get_decoder(syntax).is_available
    except NotImplementedError as error:
        raise DicomError(f"{item.name} is {stored}, which cannot be decoded.", "Export it uncompressed.") from error
    if not available:
        raise DicomError(f"{item.name} is {stored} and no decoder for it is installed.", _CODECS)


def _undecodable(name: str, error: BaseException) -> ReadError:
    return ReadError(
        f"The pixels of {name} cannot be decoded: {reason_of(error)}.", "Export it again, or uncompressed."
    )
