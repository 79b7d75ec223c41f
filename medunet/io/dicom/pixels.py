"""The pixels of a `Series`, decoded, rescaled and put on its grid.

Values are physical ones (HU for CT): each slice by its own slope and intercept. MONOCHROME1 is never inverted, for it
says how to show values, not what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medunet.errors import DicomError, ReadError
from medunet.io.dicom.elements import quiet
from medunet.io.dicom.opening import opened
from medunet.io.dicom.series import Series, choose, scan
from medunet.io.dicom.slices import Slice
from medunet.io.selection import ANY, Selection
from medunet.io.volume import Source, Volume

_TAGS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration", "PixelData", "FloatPixelData"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
_INTEGERS = (np.int16, np.int32, np.int64)
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_CODECS = "Install the decoders: pip install 'medunet[codecs]'."


def read_dicom(path: Path, selection: Selection = ANY) -> Volume:
    """Read the one volume of a DICOM file or folder.

    Args:
        path: a folder at any depth, or one (multi-frame) file.
        selection: which volume is meant.

    Returns:
        Volume (1, columns, rows, slices), slices along row x column. `source.notes` tells what was left out.

    Raises:
        ReadError: no such path, or pixel data that cannot be decoded.
        DicomError: not exactly one regular volume.
    """
    export = scan(path)
    if not export.series:
        raise DicomError(f"There is no DICOM image in {path}.", " ".join(export.ignored[:5]))
    volume = read_chosen(export.series, selection)
    return replace(volume, source=replace(volume.source, path=path, notes=volume.source.notes + export.ignored))


def read_chosen(series: Sequence[Series], selection: Selection = ANY) -> Volume:
    """Read the one volume that is meant among the series of an export; as `read_dicom`."""
    chosen = choose(series, selection)
    others = tuple(
        f"Series {other.title} was left out{': ' if other.verdict else ''}{other.verdict}."
        for other in series
        if other.slices != chosen.slices
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
    if series.resampled and series.upright is not None:
        return series.upright.values(_physical(item, stored) for item, stored in _stored(series.slices))
    exact = all(_is_exact(*item.rescale) for item in series.slices)
    columns, rows, count = series.shape
    try:
        array: NDArray[Any] = np.empty((count, rows, columns), dtype=np.int16 if exact else np.float32)
    except ValueError as error:  # more bytes than an address holds
        raise MemoryError from error
    for k, (item, stored) in enumerate(_stored(series.slices)):
        shift = int(item.rescale[1]) if exact else 0
        if exact and stored.dtype.kind in "iu":
            array = _wide_enough(array, int(stored.min()) + shift, int(stored.max()) + shift)
        if exact and stored.dtype.kind in "iu" and array.dtype.kind == "i":
            # The sum fits; that a summand may not does not matter, for whole numbers of fixed width wrap round.
            array[k] = stored
            array[k] += np.asarray(shift).astype(array.dtype)
        else:
            array = array if array.dtype.kind == "f" else array.astype(np.float32)
            array[k] = _physical(item, stored)
    return array


def _physical(item: Slice, stored: NDArray[Any]) -> NDArray[np.float64]:
    slope, intercept = item.rescale
    values: NDArray[np.float64] = stored.astype(np.float64) * slope + intercept
    if not np.abs(values).max() <= _FLOAT32_MAX:
        raise ReadError(f"{item.name} holds values that are not finite after rescaling.", "Export it again.")
    return values


def _is_exact(slope: float, intercept: float) -> bool:
    """Whether whole stored values stay whole."""
    return slope == 1.0 and intercept.is_integer() and abs(intercept) < 2**31


def _wide_enough(array: NDArray[Any], low: int, high: int) -> NDArray[Any]:
    """The array in the smallest type that holds such values, and what it holds."""
    if array.dtype.kind == "f":
        return array
    for dtype in _INTEGERS:
        info = np.iinfo(dtype)
        if info.min <= low and high <= info.max and info.bits >= array.dtype.itemsize * 8:
            return array.astype(dtype, copy=False)
    return array.astype(np.float32)


def _stored(slices: tuple[Slice, ...]) -> Iterator[tuple[Slice, NDArray[Any]]]:
    """Every slice with its stored values (rows, columns); a multi-frame file is opened once."""
    path, dataset = None, None
    for item in slices:
        if item.path != path:
            path, dataset = item.path, _open(item.path)
        yield item, _decode(dataset, item)


def _open(path: Path) -> Any:
    try:
        with quiet(), opened(path) as handle:
            dataset = pydicom.dcmread(handle, force=True, specific_tags=list(_TAGS))
            if "TransferSyntaxUID" not in dataset.file_meta:
                implicit, little = dataset.original_encoding
                plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain
            return dataset
    except Exception as error:  # pydicom raises a dozen types for damaged files
        raise _undecodable(path.name, error) from error


def _decode(dataset: Any, item: Slice) -> NDArray[Any]:
    syntax = dataset.file_meta.TransferSyntaxUID
    _check_decoder(syntax, item)
    try:
        with quiet():
            stored: NDArray[Any] = pixel_array(dataset, index=item.frame or 0, raw=True)
    except Exception as error:  # and so do its codecs
        raise _undecodable(item.name, error) from error
    if stored.shape != (item.rows, item.columns):
        raise ReadError(
            f"{item.name} decodes to {stored.shape} pixels where the header states {item.rows} x {item.columns}.",
            "Export it again.",
        )
    return stored


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


def _undecodable(name: str, error: Exception) -> ReadError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return ReadError(f"The pixels of {name} cannot be decoded: {reason}.", "Export it again, or uncompressed.")
