"""Reads TIFF: one page is a picture, several are the slices of a volume, or a pyramid, whose first page is the picture.

Pillow decodes the pages where it loses nothing. It would drop 8 of 16 bits per colour and the second of two channels,
knows no 64-bit numbers, and turns uncompressed pages wrongly (Pillow 13); those are read with tifffile, which has all
compressions but LZW, JPEG and CCITT without further packages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DataError, ReadError
from medunet.io.pictures import Pages, check_size, has_alpha, open_picture, shown, turned

if TYPE_CHECKING:
    from tifffile import TiffFile

_BLACK, _RGB = (0, 1), 2
_UNSIGNED, _FLOAT = 1, 3
_RAW = 1
_ALPHA = (1, 2)
_REDUCED = 1

PYRAMID = "Smaller pages of the file were left out; its first page is the picture."
"""What is told of a pyramid."""

_MOST_PIXELS = 500_000_000
"""Of a page that is decoded as a whole: 22,000 x 22,000."""

_MOST_VOXELS = 4_000_000_000


def read_tiff(path: Path, *, mask: bool) -> Pages:
    """The pages of a TIFF, all of one size and kind.

    Raises:
        ReadError: it is damaged, or compressed in a way that needs a package.
        DataError: pages of several sizes, time points or channels as pages, palettes in a stack, too many pixels.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            notes = (PYRAMID,) if is_pyramid(file) else ()
            pages = [page.aspage() for page in (file.pages[:1] if notes else file.pages)]
            _check(path, file, pages)
            if not all(map(_fits_pillow, pages)):
                return Pages(tuple(_decoded(path, page) for page in pages), notes, _has_alpha(pages[0]))
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from error
    return replace(_with_pillow(path, len(pages), mask=mask), notes=notes)


def is_pyramid(file: TiffFile) -> bool:
    """Whether the first of several pages is a picture and the others are reduced versions of it.

    They are smaller, and say so (NewSubfileType), or have its proportions.
    """
    pages = (page.aspage() for page in file.pages)
    first, second = next(pages, None), next(pages, None)
    return second is not None and _is_reduced(second, first) and all(_is_reduced(page, first) for page in pages)


def _is_reduced(page: Any, first: Any) -> bool:
    width, height, whole_width, whole_height = page.imagewidth, page.imagelength, first.imagewidth, first.imagelength
    if width * height >= whole_width * whole_height:
        return False
    if page.subfiletype & _REDUCED:
        return True
    off = abs(width * whole_height - height * whole_width)  # sides are rounded to whole pixels
    like = page.samplesperpixel == first.samplesperpixel
    return bool(like and 3 * width <= 2 * whole_width and off <= whole_width + whole_height)


def _check(path: Path, file: Any, pages: Sequence[Any]) -> None:
    """Refuse what is no picture and no stack of slices."""
    if not pages:
        raise ValueError("it holds no page")
    for page in pages:
        check_size(path, page.imagewidth, page.imagelength, _MOST_PIXELS)
    sizes = {(page.imagewidth, page.imagelength, page.samplesperpixel) for page in pages}
    if len(sizes) > 1:
        told = ", ".join(f"{width} x {height}" for width, height, _ in sorted(sizes, reverse=True)[:4])
        raise DataError(
            f"{path} holds pages that differ ({told} pixels); the pages of a stack are slices of one size.",
            "Save the page that is meant.",
        )
    if len(pages) * pages[0].imagewidth * pages[0].imagelength > _MOST_VOXELS:
        raise DataError(f"{path} states {len(pages)} pages; more than {_MOST_VOXELS // 10**9} thousand million voxels.")
    stated = file.imagej_metadata or {}
    several = [f"{stated[key]} {key}" for key in ("channels", "frames") if stated.get(key, 1) > 1]
    if several:
        raise DataError(f"{path} holds {' and '.join(several)}; one image is a 3D volume.", "Save each as a file.")
    if stated.get("images", len(pages)) != len(pages):
        raise DataError(f"{path} is an ImageJ stack whose slices have no pages.", "Save it again, or as NIfTI.")
    if len(pages) > 1 and any(page.photometric == 3 for page in pages):
        raise DataError(f"{path} is a stack of pages with palettes; slices hold grey values or colours.")


def _fits_pillow(page: Any) -> bool:
    """Whether Pillow reads a page as it is."""
    bits, kind, samples = page.bitspersample, page.sampleformat, page.samplesperpixel
    if _orientation(page) >= 5 and page.compression == _RAW:
        return False
    if page.photometric in _BLACK:
        return samples == 1 and ((bits <= 16 and kind == _UNSIGNED) or (bits, kind) == (32, _FLOAT))
    return bits == 8 if page.photometric == _RGB else True


def _orientation(page: Any) -> int:
    value = page.tags.valueof(274, default=1)
    return int(value) if value in range(1, 9) else 1


def _decoded(path: Path, page: Any) -> NDArray[Any]:
    """(rows, columns) or (rows, columns, C) with tifffile."""
    if page.photometric not in (*_BLACK, _RGB):
        raise DataError(f"{path} holds colours of {page.bitspersample} bits that are no RGB.", "Save it as RGB.")
    try:
        array = page.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        raise ReadError(
            f"{path} holds {page.samplesperpixel} x {page.bitspersample} bits per pixel with {page.compression.name} "
            "compression, which cannot be decoded without loss.",
            "Save it uncompressed or with deflate.",
        ) from error
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        array = np.moveaxis(array, 0, -1)
    return turned(array, _orientation(page))


def _has_alpha(page: Any) -> bool:
    return bool(page.extrasamples) and int(page.extrasamples[-1]) in _ALPHA


def _with_pillow(path: Path, count: int, *, mask: bool) -> Pages:
    arrays, alpha = [], False
    with open_picture(path) as picture:
        for number in range(count):
            picture.seek(number)
            upright = shown(picture, mask=mask)
            arrays.append(np.asarray(upright))
            alpha = has_alpha(upright)
    return Pages(tuple(arrays), alpha=alpha)
