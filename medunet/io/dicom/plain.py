"""The header of a well-formed file, quickly, and where its uncompressed pixels lie.

What almost every file of an export is: a preamble, file meta information, little endian, pixel data last. For anything
else, and at the first oddity, there is no plain header, and pydicom reads the file; both find the same elements.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement, convert_raw_data_element, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import AllTransferSyntaxes, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from medunet.io.dicom.elements import count, text
from medunet.io.dicom.opening import stamp_of
from medunet.io.dicom.slices import Native

_BLOCKS = (2**15, 2**20)
"""Bytes from the start of a file in which its header has to lie; most lie in the first."""
_SHORT = {vr.encode(): str(vr) for vr in EXPLICIT_VR_LENGTH_16}
_LONG = {vr.encode(): str(vr) for vr in EXPLICIT_VR_LENGTH_32}
_EXPLICIT = frozenset({ExplicitVRLittleEndian, *(uid for uid in AllTransferSyntaxes if uid.is_encapsulated)})
_CHARACTERS, _SYNTAX, _PIXELS = 0x00080005, 0x00020010, 0x7FE00010
_ITEM, _END = 0xFFFEE000, 0xFFFEE0DD
_ITEM_END = b"\xfe\xff\x0d\xe0"
_UNDEFINED = 0xFFFFFFFF
_DEEPEST = 8
_Elements = dict[BaseTag, RawDataElement]

_explicit = struct.Struct("<HH2sH").unpack_from
_implicit = struct.Struct("<HHI").unpack_from
_length = struct.Struct("<I").unpack_from


class PlainHeader(Dataset):
    """The wanted elements of a plain file, as pydicom would hand them out; `file_meta` is there as well."""


class _OddError(Exception):
    """Something that pydicom has to look at."""


def plain_header(handle: BinaryIO, wanted: Collection[int]) -> PlainHeader | None:
    """Elements of a file before its pixel data; the handle ends at the start of these.

    Args:
        handle: at the first byte of the file.
        wanted: tags of the elements.

    Returns:
        None if the file is not plain; the handle then lies anywhere.
    """
    block = b""
    for size in _BLOCKS:
        block += handle.read(size - len(block))
        try:
            header, end = _parsed(block, wanted)
        except _OddError:
            return None
        except struct.error:  # the header reaches beyond the block
            if len(block) < size:
                return None
            continue
        handle.seek(end)
        return header
    return None


def _parsed(block: bytes, wanted: Collection[int]) -> tuple[PlainHeader, int]:
    """The header, and where the pixel data begin."""
    meta, at = _meta(block)
    explicit = _is_explicit(meta, block[at + 4 : at + 6])
    found: _Elements = {}
    while True:
        start = at
        tag, vr, length, at = _element(block, at, explicit)
        if tag == _PIXELS:
            break
        if not 0x00080000 <= tag < 0x7FE00000:
            raise _OddError
        if length == _UNDEFINED:
            if tag in wanted or not _is_sequence(tag, vr):
                raise _OddError
            at = _after_sequence(block, at, explicit)
            continue
        if tag in wanted or tag == _CHARACTERS:
            found[BaseTag(tag)] = _raw(block, tag, vr, length, at, not explicit)
        at += length
    return _header(meta, found, explicit), start


def _header(meta: _Elements, found: _Elements, explicit: bool) -> PlainHeader:
    header = PlainHeader(found)
    header.file_meta = Dataset(meta)
    characters = found.get(BaseTag(_CHARACTERS))
    encodings = _encodings(characters.value or b"", characters.VR) if characters else default_encoding
    header.set_original_encoding(not explicit, True, encodings)
    return header


def _is_explicit(meta: _Elements, first: bytes) -> bool:
    """Whether elements state their VR, by the transfer syntax and by the first of them."""
    stated = meta.get(BaseTag(_SYNTAX))
    syntax = "" if stated is None else (stated.value or b"").rstrip(b"\0 ").decode("latin-1")
    explicit = syntax in _EXPLICIT
    if not explicit and syntax != ImplicitVRLittleEndian:
        raise _OddError
    if (first.isalpha() and first.isupper()) != explicit:  # some state one and write the other
        raise _OddError
    return explicit


def _meta(block: bytes) -> tuple[_Elements, int]:
    """The file meta information, and where it ends."""
    if block[128:132] != b"DICM":
        raise _OddError
    meta: _Elements = {}
    at = 132
    while block[at : at + 2] == b"\x02\x00":
        tag, vr, length, at = _element(block, at, True)
        if length == _UNDEFINED:
            raise _OddError
        meta[BaseTag(tag)] = _raw(block, tag, vr, length, at, False)
        at += length
    return meta, at


def _element(block: bytes, at: int, explicit: bool) -> tuple[int, str | None, int, int]:
    """Tag, VR, length and start of the value of the element at a place."""
    if not explicit:
        group, element, length = _implicit(block, at)
        return group << 16 | element, None, length, at + 8
    group, element, code, length = _explicit(block, at)
    vr = _SHORT.get(code)
    if vr is not None:
        return group << 16 | element, vr, length, at + 8
    vr = _LONG.get(code)
    if vr is None:
        raise _OddError
    return group << 16 | element, vr, _length(block, at + 8)[0], at + 12


def _raw(block: bytes, tag: int, vr: str | None, length: int, at: int, implicit: bool) -> RawDataElement:
    if at + length > len(block):
        raise struct.error
    value = block[at : at + length] if length else empty_value_for_VR(vr, raw=True)
    return RawDataElement(BaseTag(tag), vr, length, value, at, implicit, True)


def _is_sequence(tag: int, vr: str | None) -> bool:
    try:
        return (vr or dictionary_VR(tag)) == "SQ"
    except KeyError:
        return False


def _after_sequence(block: bytes, at: int, explicit: bool, depth: int = _DEEPEST) -> int:
    """Where a sequence of undefined length ends, from the place of its first item."""
    while True:
        group, element, length = _implicit(block, at)
        tag, at = group << 16 | element, at + 8
        if tag == _END:
            return at
        if tag != _ITEM:
            raise _OddError
        at = at + length if length != _UNDEFINED else _after_item(block, at, explicit, depth)


def _after_item(block: bytes, at: int, explicit: bool, depth: int) -> int:
    """Where an item of undefined length ends, from the place of its first element."""
    while block[at : at + 4] != _ITEM_END:
        tag, vr, length, at = _element(block, at, explicit)
        if length != _UNDEFINED:
            at += length
        elif depth and _is_sequence(tag, vr):
            at = _after_sequence(block, at, explicit, depth - 1)
        else:
            raise _OddError
    return at + 8


@lru_cache(maxsize=64)
def _encodings(value: bytes, vr: str | None) -> list[str]:
    """Python's names of what Specific Character Set names."""
    raw = RawDataElement(BaseTag(_CHARACTERS), vr, len(value), value, 0, vr is None, True)
    try:
        encodings: list[str] = convert_encodings(convert_raw_data_element(raw).value)
    except Exception as error:  # pydicom raises several types for what names no set
        raise _OddError from error
    return encodings


def native(header: Any, start: int, length: int, stamp: tuple[int, int] | None) -> Native | None:
    """Where the pixels lie, if they can be read as they are.

    Args:
        header: of a file of one frame, which is known to hold as many pixels as it states.
        start: first byte of the pixel data.
        length: of the pixel data, in bytes.
        stamp: of the file; None if it lies in a zip.

    Returns:
        None for what pydicom has to decode, or to refuse.
    """
    if not isinstance(header, PlainHeader) or stamp is None or sys.byteorder != "little":
        return None
    try:
        signed = count(header, "PixelRepresentation", -1)
    except ValueError:
        return None
    allocated = count(header, "BitsAllocated")
    uncompressed = text(header.file_meta, "TransferSyntaxUID") in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    alone = "NumberOfFrames" not in header and count(header, "SamplesPerPixel") == 1
    last = start + length == stamp[0]
    if not (uncompressed and alone and last and allocated in (8, 16) and signed in (0, 1)):
        return None
    return Native(start, np.dtype(f"{'i' if signed else 'u'}{allocated // 8}"), count(header, "BitsStored"), stamp)


def native_values(
    native: Native, path: Path, shape: tuple[int, int], target: NDArray[Any] | None = None
) -> NDArray[Any] | None:
    """Stored values of a file, unused high bits removed.

    Args:
        native: where they lie.
        path: of the file.
        shape: rows and columns.
        target: contiguous; the values are read into its memory where they have the size of its own.

    Returns:
        (rows, columns); None if the file is not as it was.
    """
    if target is not None and target.dtype.itemsize == native.dtype.itemsize:
        values = target.view(native.dtype)
    else:
        values = np.empty(shape, native.dtype)
    try:
        with open(path, "rb", buffering=0) as handle:
            if stamp_of(handle) != native.stamp:
                return None
            handle.seek(native.offset)
            if handle.readinto(values.data) != values.nbytes:
                return None
    except OSError:
        return None
    unused = native.dtype.itemsize * 8 - native.bits
    if unused and native.dtype.kind == "u":
        values &= values.dtype.type(native.range[1])
    elif unused:
        values <<= unused
        values >>= unused
    return values
