"""Compressed frames, looked at before a codec gets them: a codec believes them, and may end the process.

A codec makes room for as many pixels as the frame states, whatever the DICOM header does, and GDCM aborts on markers in
the wrong place. So both have to agree, and markers have to follow one another as the standards say: JPEG in ISO/IEC
10918-1 annex B, JPEG-LS in 14495-1 annex C, JPEG 2000 in 15444-1 annex A. Knows nothing of what the pixels mean.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

from pydicom.encaps import generate_frames

from medunet.errors import ReadError
from medunet.io.dicom.elements import count, text

_JPEG, _JPEG_LS, _JPEG_2000 = "JPEG", "JPEG-LS", "JPEG 2000"
_FAMILIES = {
    "1.2.840.10008.1.2.4.50": (_JPEG, b"\xc0\xc1"),
    "1.2.840.10008.1.2.4.51": (_JPEG, b"\xc0\xc1"),
    "1.2.840.10008.1.2.4.57": (_JPEG, b"\xc3"),
    "1.2.840.10008.1.2.4.70": (_JPEG, b"\xc3"),
    "1.2.840.10008.1.2.4.80": (_JPEG_LS, b"\xf7"),
    "1.2.840.10008.1.2.4.81": (_JPEG_LS, b"\xf7"),
    "1.2.840.10008.1.2.4.90": (_JPEG_2000, b""),
    "1.2.840.10008.1.2.4.91": (_JPEG_2000, b""),
    "1.2.840.10008.1.2.4.201": (_JPEG_2000, b""),
    "1.2.840.10008.1.2.4.202": (_JPEG_2000, b""),
    "1.2.840.10008.1.2.4.203": (_JPEG_2000, b""),
}
"""Family of a transfer syntax, and the markers that may start a frame of it."""
_FRAME_STARTS = frozenset(b"\xc0\xc1\xc2\xc3\xc5\xc6\xc7\xc9\xca\xcb\xcd\xce\xcf\xf7")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_BOXED = b"\0\0\0\x0cjP  \r\n\x87\n"
_AFTER_JPEG = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_AFTER_JPEG_LS = re.compile(rb"\xff+[\x80-\xcf\xd8-\xfe]")


@dataclass(frozen=True)
class Stated:
    """What a compressed frame states of itself: pixels, components and bits of each."""

    rows: int
    columns: int
    components: int
    bits: int


def check_frames(dataset: Any) -> None:
    """Look at all compressed frames of a data set with pixels; other data sets pass.

    Raises:
        ReadError: a frame is damaged, or states another size than the header; the message is the reason alone.
        ValueError: the fragments make no frames.
    """
    family, starts = _FAMILIES.get(text(dataset.file_meta, "TransferSyntaxUID"), ("", b""))
    if not family or "PixelData" not in dataset:
        return
    number = max(1, count(dataset, "NumberOfFrames", 1))
    wanted = (count(dataset, "Rows"), count(dataset, "Columns"), count(dataset, "SamplesPerPixel", 1))
    frames = generate_frames(dataset.PixelData, number_of_frames=number)
    for index, frame in enumerate(frames):
        stated = _jpeg_2000(frame) if family == _JPEG_2000 else _jpeg(frame, starts)
        if (stated.rows, stated.columns, stated.components) != wanted:
            raise ReadError(
                f"its compressed frame {index + 1} is of {stated.rows} x {stated.columns} pixels and "
                f"{stated.components} component(s), the header states {wanted[0]} x {wanted[1]} and {wanted[2]}"
            )
        if not 0 < stated.bits <= count(dataset, "BitsAllocated"):
            raise ReadError(f"its compressed frame {index + 1} is of {stated.bits} bits, more than the header states")


def _jpeg(frame: bytes, starts: bytes) -> Stated:
    """Follow the markers of JPEG and JPEG-LS to the end of the only scan."""
    at, stated = 2, None
    if frame[:2] != b"\xff\xd8":
        raise ReadError("a compressed frame does not begin as one")
    while True:
        marker, content, at = _segment(frame, at)
        if marker in _FRAME_STARTS:
            if stated is not None or marker not in starts:
                raise ReadError("a compressed frame is not coded as the transfer syntax says")
            stated = _sizes(content)
        elif marker == _SOS:
            break
    if stated is None or content[:1] != bytes([stated.components]):
        raise ReadError("a compressed frame is damaged: its scan lacks components")
    end = (_AFTER_JPEG_LS if starts == b"\xf7" else _AFTER_JPEG).search(frame, at)
    if end is None or end.group()[-1] != _EOI:
        raise ReadError("a compressed frame is damaged: its scan does not end")
    return stated


def _segment(frame: bytes, at: int) -> tuple[int, bytes, int]:
    """Marker, content and end of the marker segment at a place."""
    while frame[at : at + 2] == b"\xff\xff":  # fill bytes
        at += 1
    head = frame[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] in (0, _SOI, _EOI):
        raise ReadError("a compressed frame is damaged: its markers do not follow one another")
    (length,) = struct.unpack(">H", head[2:])
    end = at + 2 + length
    if length < 2 or end > len(frame):
        raise ReadError("a compressed frame is damaged: a marker segment does not end")
    return head[1], frame[at + 4 : end], end


def _sizes(content: bytes) -> Stated:
    if len(content) < 6 or len(content) != 6 + 3 * content[5]:
        raise ReadError("a compressed frame is damaged: its frame header has a wrong length")
    bits, rows, columns, components = struct.unpack(">BHHB", content[:6])
    return Stated(rows, columns, components, bits)


def _jpeg_2000(frame: bytes) -> Stated:
    """The SIZ marker segment; the codestream may lie in boxes, which the standard forbids and some write."""
    start = frame.find(b"\xff\x4f\xff\x51") if frame[:12] == _BOXED else 0
    if start < 0 or frame[start : start + 4] != b"\xff\x4f\xff\x51" or len(frame) < start + 43:
        raise ReadError("a compressed frame does not begin as one")
    right, bottom, left, top, tile_w, tile_h = struct.unpack_from(">6I", frame, start + 8)
    (components,) = struct.unpack_from(">H", frame, start + 40)
    depth, across, down = frame[start + 42 : start + 45] if len(frame) >= start + 45 else (0, 0, 0)
    if (across, down) != (1, 1) or not tile_w or not tile_h:
        raise ReadError("a compressed frame is damaged: its pixels have no size")
    return Stated(bottom - top, right - left, components, (depth & 0x7F) + 1)
