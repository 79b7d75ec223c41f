"""Damages one DICOM file: its elements, its counts, its fragments, its codestreams or just its bytes.

A module of the script `dicom_mutants.py`. It reads files itself, on purpose: what is damaged is any field of the
encoding (PS3.5 chapter 7), and pydicom would write whole files only.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV")
_SHORT = (b"US", b"UI", b"DS", b"IS", b"CS", b"FD", b"FL", b"LO", b"PN", b"AT", b"SS", b"UL", b"DA", b"??", b"\0\0")
_VRS = (*_LONG, *_SHORT)
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END, _PIXELS = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00010
SYNTAXES = (
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"),
    *("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57"),
    *("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90"),
    *("1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.203", "1.2.840.10008.1.2.4.100", "1.2"),
)
_COUNTS = {
    0x00280010: "Rows",
    0x00280011: "Columns",
    0x00280002: "SamplesPerPixel",
    0x00280006: "PlanarConfiguration",
    0x00280100: "BitsAllocated",
    0x00280101: "BitsStored",
    0x00280102: "HighBit",
    0x00280103: "PixelRepresentation",
    0x00280008: "NumberOfFrames",
    0x00620004: "SegmentNumber",
    0x0062000B: "ReferencedSegmentNumber",
    0x30060022: "ROINumber",
    0x30060084: "ReferencedROINumber",
}
_NUMBERS = (0, 1, 2, 3, 4, 7, 8, 9, 12, 13, 15, 16, 17, 31, 32, 33, 36, 40, 64, 255, 256, 4096, 16384, 32767, 65535)
_TEXTS = (
    *(b"", b"0", b"-1", b"1e308", b"-1E308", b"1e-308", b"nan", b"inf", b"1\\2\\3", b"0\\0\\0\\0\\0\\0"),
    *(b"\\", b"\\\\", b"2147483648", b"99999999999999999999", b"0.5", b"1,5", b"\xff\xfe\x00"),
    *(b"1_000", b"MONOCHROME1", b"RGB", b"PALETTE COLOR", b"LABELMAP", b"FRACTIONAL", b"CLOSED_PLANAR"),
    *(
        b"POINT",
        b"1\\0\\0\\0\\1\\0",
        b"A" * 300,
        b"0.001\\0.001",
        b"1000\\1000",
        b"\x1b$B",
        b"ISO 2022 IR 87\\ISO_IR 192",
    ),
)
_LENGTHS = (0, 1, 2, 3, 4, 8, 100, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, _UNDEFINED)


@dataclass(frozen=True)
class Element:
    """Where one element lies in the bytes: its tag, VR (None in implicit syntaxes), length, value."""

    tag: int
    start: int
    vr: int | None
    length_at: int
    length_size: int
    value: int
    end: int


_MOST_ELEMENTS = 20_000


class Layout:
    """The elements of a file, those within sequences and fragments too, as far as they can be followed."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.elements: list[Element] = []
        start = 132 if raw[128:132] == b"DICM" else 0
        self.order = "<"
        self.implicit = raw[start : start + 2] != b"\x02\0" and not raw[start + 4 : start + 6].isalpha()
        try:
            if raw[start : start + 2] == b"\x02\0":
                start = self._meta(start)
            self._run(start, len(raw))
        except (struct.error, IndexError, RecursionError):
            return  # the rest is not to be followed

    def _meta(self, start: int) -> int:
        while self.raw[start : start + 2] == b"\x02\0":
            element = self._one(start)
            if element.tag == 0x00020010:
                syntax = self.raw[element.value : element.end].rstrip(b"\0 ")
                self.next = (">" if syntax == b"1.2.840.10008.1.2.2" else "<", syntax == b"1.2.840.10008.1.2")
            start = element.end
        self.order, self.implicit = getattr(self, "next", ("<", False))
        return start

    def _one(self, start: int) -> Element:
        group, number = struct.unpack_from(self.order + "HH", self.raw, start)
        tag, vr, at, size = group << 16 | number, None, start + 4, 4
        if group != 0xFFFE and not self.implicit:
            vr = start + 4
            at, size = (start + 8, 4) if self.raw[vr : vr + 2] in _LONG else (start + 6, 2)
        (length,) = struct.unpack_from(self.order + ("I" if size == 4 else "H"), self.raw, at)
        value = at + size
        end = value + (0 if length == _UNDEFINED else length)
        element = Element(tag, start, vr, at, size, value, min(end, len(self.raw)))
        self.elements.append(element)
        if len(self.elements) > _MOST_ELEMENTS:  # damage that was damaged can lead in circles
            raise RecursionError
        return element

    def _run(self, start: int, end: int) -> int:
        """Follow elements to an end, or to the delimiter of what they lie in."""
        while start < end:
            element = self._one(start)
            (length,) = struct.unpack_from(
                self.order + ("I" if element.length_size == 4 else "H"), self.raw, element.length_at
            )
            start = element.end
            if element.tag in (_ITEM_END, _SEQUENCE_END):
                return start
            nested = element.vr is not None and self.raw[element.vr : element.vr + 2] == b"SQ"
            nested = nested or self.raw[element.value : element.value + 4] == b"\xfe\xff\x00\xe0"
            nested = nested or (element.tag == _ITEM and self.raw[element.value + 4 : element.value + 6].isalpha())
            if length == _UNDEFINED:
                start = self._run(element.value, end)
            elif nested and length:
                self._run(element.value, element.end)
        return start


def _with_value(layout: Layout, element: Element, value: bytes) -> bytes:
    """The bytes with another value and the length that it has."""
    value += b" " * (len(value) % 2)
    code = layout.order + ("I" if element.length_size == 4 else "H")
    raw = layout.raw
    length = struct.pack(code, min(len(value), 0xFFFF if element.length_size == 2 else _UNDEFINED))
    return raw[: element.length_at] + length + value + raw[element.end :]


def _some(layout: Layout, rng: random.Random) -> Element:
    return rng.choice(layout.elements)


def change_vr(layout: Layout, rng: random.Random) -> bytes:
    """Another VR, with the bytes as they are."""
    element, raw = _some(layout, rng), bytearray(layout.raw)
    if element.vr is not None:
        raw[element.vr : element.vr + 2] = rng.choice(_VRS)
    return bytes(raw)


def change_length(layout: Layout, rng: random.Random) -> bytes:
    """Another length, of an element, a sequence, an item or a fragment."""
    element, raw = _some(layout, rng), bytearray(layout.raw)
    largest = 0xFFFF if element.length_size == 2 else _UNDEFINED
    length = rng.choice((*_LENGTHS, element.end - element.value + rng.randint(-9, 9))) & largest
    struct.pack_into(layout.order + ("I" if element.length_size == 4 else "H"), raw, element.length_at, length)
    return bytes(raw)


def change_value(layout: Layout, rng: random.Random) -> bytes:
    """Another value, of a right length."""
    element = _some(layout, rng)
    old = layout.raw[element.value : element.end]
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: rng.choice(_TEXTS),
        lambda: struct.pack(layout.order + "H", rng.choice(_NUMBERS)),
        lambda: struct.pack(layout.order + "d", rng.choice((0.0, -1.0, 1e300, float("nan"), float("inf")))),
        lambda: rng.randbytes(rng.randint(0, 20)),
        lambda: old[: rng.randint(0, len(old))],
        lambda: old + b"\\" + old,
        lambda: b"\\".join(reversed(old.split(b"\\"))),
        lambda: rng.choice((b"-", b"1", b"9" * 9)) + old,
    )
    return _with_value(layout, element, rng.choice(kinds)())


def change_count(layout: Layout, rng: random.Random) -> bytes:
    """Another number of rows, frames, bits and the like."""
    counts = [element for element in layout.elements if element.tag in _COUNTS]
    if not counts:
        return change_value(layout, rng)
    element, number = rng.choice(counts), rng.choice(_NUMBERS)
    is_text = _COUNTS[element.tag] in ("NumberOfFrames", "ROINumber", "ReferencedROINumber")
    text = str(rng.choice((number, -number, number * 65537))).encode()
    return _with_value(layout, element, text if is_text else struct.pack(layout.order + "H", number))


def delete(layout: Layout, rng: random.Random) -> bytes:
    """Without an element."""
    element = _some(layout, rng)
    return layout.raw[: element.start] + layout.raw[element.end :]


def duplicate(layout: Layout, rng: random.Random) -> bytes:
    """With an element again, there or elsewhere, once or often."""
    element, target, raw = _some(layout, rng), _some(layout, rng), layout.raw
    at = rng.choice((element.end, target.start))
    return raw[:at] + raw[element.start : element.end] * rng.choice((1, 1, 2, 50)) + raw[at:]


def nest(layout: Layout, rng: random.Random) -> bytes:
    """With an element inside of sequences within one another."""
    element, raw = _some(layout, rng), layout.raw
    tag = rng.choice((0x00081140, 0x52009230, 0x52009229, 0x30060039, 0x00283000, element.tag))
    head = struct.pack(layout.order + "HH", tag >> 16, tag & 0xFFFF)
    head += b"" if layout.implicit else b"SQ\0\0"
    head += struct.pack(layout.order + "IHHI", _UNDEFINED, 0xFFFE, 0xE000, _UNDEFINED)
    tail = struct.pack(layout.order + "HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    depth = rng.choice((1, 1, 2, 10, 2000))
    tail = tail if rng.random() < 0.8 else b""
    return raw[: element.start] + head * depth + raw[element.start : element.end] + tail * depth + raw[element.end :]


def swap(layout: Layout, rng: random.Random) -> bytes:
    """Two elements in each other's place."""
    one, other = sorted((_some(layout, rng), _some(layout, rng)), key=lambda element: element.start)
    raw = layout.raw
    if one.end > other.start:
        return raw
    first, second = raw[one.start : one.end], raw[other.start : other.end]
    return raw[: one.start] + second + raw[one.end : other.start] + first + raw[other.end :]


def change_syntax(layout: Layout, rng: random.Random) -> bytes:
    """Another transfer syntax, with the data as they are."""
    element = next((element for element in layout.elements if element.tag == 0x00020010), None)
    if element is None:
        return flip(layout, rng)
    value = rng.choice(SYNTAXES).encode()
    return _with_value(layout, element, value + b"\0" * (len(value) % 2))


def change_codestream(layout: Layout, rng: random.Random) -> bytes:
    """Other sizes, bits or components in the header of a compressed frame; or damage to its bytes."""
    raw = bytearray(layout.raw)
    marks = (b"\xff\x51", b"\xff\xf7", b"\xff\xc3", b"\xff\xc0", b"\xff\xda", b"\xff\x52", b"\xff\x5c", b"\xff\x90")
    at = [raw.find(mark) for mark in marks]
    at = [where for where in at if where > 132]
    pixels = [element for element in layout.elements if element.tag in (_ITEM, _PIXELS) and element.end > element.value]
    if not at and not pixels:
        return flip(layout, rng)
    if at and rng.random() < 0.7:
        start = rng.choice(at) + rng.randint(2, 44)
        size = rng.choice((1, 2, 2, 4))
        value = rng.choice((*_NUMBERS, 0x00010000, 0x7FFFFFFF, _UNDEFINED, rng.getrandbits(32)))
        raw[start : start + size] = (value % 256**size).to_bytes(size, "big")
    elif pixels:
        element = rng.choice(pixels)
        for _ in range(rng.choice((1, 2, 8, 40))):
            raw[rng.randrange(element.value, element.end)] = rng.getrandbits(8)
    return bytes(raw)


def change_fragments(layout: Layout, rng: random.Random) -> bytes:
    """Fragments that are lost, doubled, empty, longer or shorter, or an offset table that points elsewhere."""
    fragments = [element for element in layout.elements if element.tag == _ITEM]
    if not fragments:
        return change_length(layout, rng)
    element, raw = rng.choice(fragments[-8:] if rng.random() < 0.7 else fragments), bytearray(layout.raw)
    way = rng.randrange(5)
    if way == 0:
        del raw[element.start : element.end]
    elif way == 1:
        raw[element.end : element.end] = raw[element.start : element.end] * rng.choice((1, 3, 200))
    elif way == 2:
        return _with_value(layout, element, b"")
    elif way == 3:
        at = rng.randint(element.value, element.end)
        length = struct.pack("<I", rng.choice(_LENGTHS))
        raw[at:at] = b"\xfe\xff\x00\xe0" + length
    else:
        offsets = b"".join(struct.pack("<I", rng.choice(_LENGTHS)) for _ in range(rng.randint(1, 8)))
        return _with_value(layout, fragments[0], offsets)
    return bytes(raw)


def flip(layout: Layout, rng: random.Random) -> bytes:
    """Other bytes anywhere."""
    raw = bytearray(layout.raw)
    for _ in range(rng.choice((1, 2, 5, 30))):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(raw)


def cut(layout: Layout, rng: random.Random) -> bytes:
    """Without the end, or without something in the middle."""
    raw, at = layout.raw, rng.randrange(len(layout.raw))
    return raw[:at] if rng.random() < 0.6 else raw[:at] + raw[at + rng.randint(1, 300) :]


def insert(layout: Layout, rng: random.Random) -> bytes:
    """With zeros, noise or its own bytes put in between."""
    raw, at, size = layout.raw, rng.randrange(len(layout.raw)), rng.choice((1, 2, 100, 5000))
    return raw[:at] + rng.choice((bytes(size), rng.randbytes(size), raw[at : at + size])) + raw[at:]


_DAMAGES = (
    *(change_vr, change_length, change_length, change_value, change_value, change_value, change_count, change_count),
    *(delete, duplicate, nest, swap, change_syntax, change_codestream, change_codestream, change_codestream),
    *(change_fragments, flip, cut, insert),
)


def damaged(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A file with one to four damages.

    Args:
        content: a file.
        rng: decides everything.
        others: files whose ends it may get.
    """
    deflated = b"1.2.840.10008.1.2.1.99" in content[:400] and rng.random() < 0.8
    content = _inflated(content) if deflated else content
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        layout = Layout(content)
        if layout.elements and rng.random() < 0.97:
            content = rng.choice(_DAMAGES)(layout, rng)
        elif content:
            other = rng.choice(others)
            content = content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]
        if not content:
            return content
    return _deflated(content) if deflated else content


def _start_of_data(content: bytes) -> int:
    meta = [element for element in Layout(content).elements if element.tag >> 16 == 2]
    return meta[-1].end if meta else len(content)


def _inflated(content: bytes) -> bytes:
    start = _start_of_data(content)
    return content[:start] + zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[start:])


def _deflated(content: bytes) -> bytes:
    start = _start_of_data(content)
    squeezed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return content[:start] + squeezed.compress(content[start:]) + squeezed.flush()
