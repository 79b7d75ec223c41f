"""Large TIFF files, decoded part by part to the disk: a picture of 20,000 x 20,000 takes a few MB of memory.

Pillow decodes a picture as a whole. But each tile or strip of a TIFF is compressed by itself, so each is handed to
Pillow as a TIFF of its own, with all that says how to decode it: what comes out is what Pillow makes of the whole.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from medunet.errors import DataError, OutputError
from medunet.io.mapped import let_go, mapped_zeros
from medunet.io.pictures import Pages, has_alpha
from medunet.io.tiff import PYRAMID, is_pyramid

LARGE = 1 << 28
"""Bytes of a picture, decoded, from which on it goes to the disk: 256 MB, some 90 million pixels in colour."""

_PART = 1 << 26
"""Bytes that a part may have: a picture that is one compressed strip gains nothing."""

_RAW_PART = 1 << 22
"""Bytes into which strips are cut that are not compressed."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOURS = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _ORIENTATION, _BANDS, _STRIP_ROWS, _STRIP_SIZES = 273, 274, 277, 278, 279
_PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES = 284, 322, 323, 324, 325

_DECODING = (_BITS, _COMPRESSION, _COLOURS, 266, _BANDS, 317, 320, 338, 339, 347, 529, 530, 531, 532)
"""Tags (TIFF 6.0) that say what the bytes of a part mean: fill order, predictor, palette, JPEG tables and so on."""

_FORMAT, _UNSIGNED, _BLACK, _RGB = 339, 1, (0, 1), 2

MOST_PIXELS = 4_000_000_000
"""Of a picture: a file of some kilobytes may state any number and fill the disk."""

Plain = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class _Part:
    """A tile or strip: where it lies in the picture, how large it is decoded, and its bytes in the file."""

    left: int
    top: int
    width: int
    height: int
    offset: int
    size: int


def read_large(path: Path, plain: Plain, scratch: Path | None = None) -> Pages | None:
    """A large TIFF of one page, or a pyramid, its array on the disk; None of any other picture.

    Args:
        path: of the file.
        plain: makes a part grey or RGB; what it does must not depend on what the part shows.
        scratch: folder for what is decoded; None: that of the system for temporary files.

    Raises:
        OutputError: there is no room for it.
        DataError: more than `MOST_PIXELS`.
        OSError, SyntaxError, ValueError: it is damaged.
    """
    with open(path, "rb") as file:
        try:
            picture = TiffImagePlugin.TiffImageFile(file)
        except (OSError, SyntaxError, ValueError):
            return None  # reading it as any other picture says what is wrong
        several = bool(picture.tag_v2.next)
        parts = list(_parts(picture)) if _is_plain(picture) and (not several or _is_pyramid(path)) else []
        bands = len(picture.getbands())
        if not parts or max(part.width * part.height for part in parts) * bands > _PART:
            return None
        shown = _decoded(file, picture, parts[0], plain)
        first = np.asarray(shown)
        columns, rows = picture.size
        if rows * columns > MOST_PIXELS:
            raise DataError(
                f"{path} states {columns} x {rows} pixels; at most {MOST_PIXELS // 10**9} thousand million."
            )
        if rows * columns * math.prod(first.shape[2:]) * first.itemsize < LARGE:
            return None
        folder = Path(tempfile.gettempdir()) if scratch is None else scratch
        try:
            result = mapped_zeros(folder, (rows, columns, *first.shape[2:]), first.dtype.newbyteorder("="))
        except OSError as error:
            raise OutputError(
                f"{folder} has no room to unpack {path}: {error.strerror}.",
                f"It takes {rows * columns * first.itemsize * math.prod(first.shape[2:]) / 1e9:.1f} GB there.",
            ) from error
        _fill(result, file, picture, parts, plain)
    return Pages((result,), (PYRAMID,) if several else (), has_alpha(shown))


def _is_pyramid(path: Path) -> bool:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return is_pyramid(file)
    except tifffile.TiffFileError:
        return False


def _is_plain(picture: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether the colours of its first page lie beside each other, it need not be turned, and Pillow keeps its bits."""
    tags = picture.tag_v2
    bits, kept = set(tags.get(_BITS, (1,))), True
    if tags.get(_COLOURS) in _BLACK:
        whole = tags.get(_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED
        kept = len(picture.getbands()) == 1 and (max(bits) <= 16 if whole else bits == {32})
    elif tags.get(_COLOURS) == _RGB:
        kept = bits == {8}
    return kept and bool(tags.get(_PLANAR, 1) == 1 and tags.get(_ORIENTATION, 1) == 1)


def _parts(picture: TiffImagePlugin.TiffImageFile) -> Iterator[_Part]:
    tags = picture.tag_v2
    columns, rows = picture.size
    tiled = _TILE_OFFSETS in tags
    width, height = (
        (tags[_TILE_WIDTH], tags[_TILE_HEIGHT]) if tiled else (columns, min(rows, tags.get(_STRIP_ROWS, rows)))
    )
    offsets, sizes = (
        tags.get(key, ()) for key in ((_TILE_OFFSETS, _TILE_SIZES) if tiled else (_STRIP_OFFSETS, _STRIP_SIZES))
    )
    across = -(-columns // width)
    if len(offsets) != across * -(-rows // height) or len(sizes) != len(offsets):
        return
    for number, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        top, left = height * (number // across), width * (number % across)
        part = _Part(left, top, width, height if tiled else min(height, rows - top), offset, size)
        yield from [part] if tiled or tags.get(_COMPRESSION, 1) != 1 else _cut(part)


def _cut(strip: _Part) -> Iterator[_Part]:
    """Some rows of a strip that is not compressed are a strip, too."""
    row = strip.size // strip.height
    step = max(1, _RAW_PART // max(1, row))
    for first in range(0, strip.height, step):
        height = min(step, strip.height - first)
        yield _Part(strip.left, strip.top + first, strip.width, height, strip.offset + first * row, height * row)


def _fill(
    result: NDArray[Any], file: IO[bytes], picture: TiffImagePlugin.TiffImageFile, parts: list[_Part], plain: Plain
) -> None:
    touched = 0
    for part in parts:
        if not part.size:  # left out, as some programs do where there is nothing
            continue
        values = np.asarray(_decoded(file, picture, part, plain))
        place = result[part.top : part.top + part.height, part.left : part.left + part.width]
        place[...] = values[: place.shape[0], : place.shape[1]]
        touched += values.nbytes
        if touched > _PART:
            let_go(result)
            touched = 0
    let_go(result)


def _decoded(file: IO[bytes], picture: TiffImagePlugin.TiffImageFile, part: _Part, plain: Plain) -> Image.Image:
    file.seek(part.offset)
    data = file.read(part.size)
    head = TiffImagePlugin.ImageFileDirectory_v2(prefix=picture.tag_v2.prefix)
    for tag in _DECODING:
        if tag in picture.tag_v2:
            head.tagtype[tag] = picture.tag_v2.tagtype[tag]
            head[tag] = picture.tag_v2[tag]
    for tag, value in ((_WIDTH, part.width), (_HEIGHT, part.height), (_STRIP_ROWS, part.height)):
        head[tag] = value
    head[_STRIP_SIZES] = len(data)
    head[_STRIP_OFFSETS] = 0  # from the end of the directory on, which is where the bytes follow
    whole = io.BytesIO()
    head.save(whole)
    whole.write(data)
    whole.seek(0)
    with TiffImagePlugin.TiffImageFile(whole) as own:
        return plain(own)
