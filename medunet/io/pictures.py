"""Reads pictures as they are shown: turned by their EXIF orientation, palettes and CMYK as colours, all bits kept.

Pillow reads them; 16 bits per colour, of which it would drop eight, are read from PNG by SimpleITK and from TIFF by
`io.tiff`. `read_picture` is the one door; masks and images go through it alike, so that they are turned alike.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DataError
from medunet.geometry import Geometry
from medunet.io.damage import broken
from medunet.io.mapped import blocks
from medunet.io.volume import Source, Volume

if TYPE_CHECKING:
    from PIL import Image

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
MOST_PIXELS = 2 * 89_478_485
"""Of what is decoded as a whole, as in Pillow: a PNG of some kilobytes may state any number and fill the memory."""

MOST_OF_MASKS = 500_000_000
"""Of a mask with one band: those of pictures of 20,000 x 20,000 are written as PNG, and have to be read again."""

_ORIENTATION = 0x0112
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LIMIT = threading.Lock()
_LEFT_OUT = "Transparency was left out, since data.modality names no channel for it."


@dataclass(frozen=True)
class Pages:
    """What a file holds.

    Attributes:
        arrays: (rows, columns) or (rows, columns, C), all alike.
        notes: what was noticed.
        alpha: whether the last channel is transparency.
    """

    arrays: tuple[NDArray[np.generic], ...]
    notes: tuple[str, ...] = ()
    alpha: bool = False


def read_picture(path: Path, *, mask: bool = False, scratch: Path | None = None) -> Volume:
    """A picture as (C, width, height): array axis 0 runs right, axis 1 down the picture as it is shown.

    The pages of a TIFF are slices of a volume (C, width, height, pages). An alpha channel is the last channel, and the
    source says so; see `fit_alpha`.

    Args:
        path: of the file.
        mask: keep the indices of a palette of colours (as in PASCAL VOC) instead of the colours.
        scratch: folder that takes a large TIFF, see `io.large`; None: that of the system for temporary files.

    Raises:
        ReadError: it is truncated, or no picture.
        OutputError: a large TIFF finds no room on the disk.
        DataError: too many pixels, an animation, or pages that are no slices of one volume.
    """
    from PIL import Image, UnidentifiedImageError

    from medunet.io.large import read_large

    try:
        with open(path, "rb") as file:
            head = file.read(32)
        large = read_large(path, partial(shown, mask=mask), scratch) if head.startswith(_TIFF) else None
        pages = large or _read(path, head, mask=mask)
    except UnidentifiedImageError as error:
        raise broken(path, "a picture", ValueError("its bytes are those of no picture")) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise broken(path, "a picture", error) from error
    array = pages.arrays[0] if len(pages.arrays) == 1 else np.stack(pages.arrays, axis=-1)  # (y, x), C, page
    if pages.arrays[0].ndim == 2:
        array = array[:, :, None]
    stack, native = array.ndim > 3, array.dtype.newbyteorder("=")
    if large is None and not stack:  # a small picture lies in memory as a large one does on the disk, row by row
        array = np.ascontiguousarray(array, native)
    array = array.transpose(2, 1, 0, *range(3, array.ndim))
    if stack:
        array = np.ascontiguousarray(array, native)
    source = Source(path, "picture", files=(path,), notes=pages.notes, alpha=pages.alpha)
    return Volume(array, Geometry.plain(array.shape[1:]), source)


def _read(path: Path, head: bytes, *, mask: bool) -> Pages:
    if head.startswith(_TIFF):
        from medunet.io.tiff import read_tiff

        return read_tiff(path, mask=mask)
    with open_picture(path) as picture:
        check_size(path, *picture.size, MOST_OF_MASKS if mask and len(picture.getbands()) == 1 else MOST_PIXELS)
        frames: int = getattr(picture, "n_frames", 1)
        notes: tuple[str, ...] = ()
        if frames > 1 and picture.format == "MPO":  # of phones: the picture, then previews or a second view
            notes = (f"The file holds {frames} pictures; the first is the one that is shown.",)
        elif frames > 1:
            raise DataError(
                f"{path} is an animation of {frames} frames; one picture is needed.", "Save the frame that is meant."
            )
        if _deep_colours(head):
            deep = turned(_with_simpleitk(path), orientation(picture))
            return Pages((deep,), notes, alpha=deep.shape[-1] in (2, 4))
        upright = shown(picture, mask=mask)
        return Pages((np.asarray(upright),), notes, has_alpha(upright))


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """A file that Pillow has opened and not yet decoded, of any size."""
    from PIL import Image

    with _LIMIT:  # Pillow's own limit is a global that warns or refuses from 179 million pixels on
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            picture = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    with picture:
        yield picture


def check_size(path: Path, width: int, height: int, most: int) -> None:
    """Refuse what states too many pixels to be decoded as a whole.

    Raises:
        DataError: with their number.
    """
    if width * height > most:
        raise DataError(
            f"{path} states {width} x {height} pixels; at most {most:,} are decoded as a whole.",
            "Save it as a TIFF in tiles with 8 bits per colour, which is read part by part, or scale it down.",
        )


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is shown, from its header; a PNG may say at its end how it lies.

    Raises:
        DataError: no TIFF, and more than `MOST_PIXELS`.
        OSError, SyntaxError, ValueError: it is damaged, or no picture.
    """
    with open_picture(path) as picture:
        if picture.format == "TIFF":  # of which Pillow gives the size as shown, and never decodes it for that
            return picture.size
        width, height = picture.size
        check_size(path, width, height, MOST_PIXELS)
        return (height, width) if orientation(picture) >= 5 else (width, height)


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where none is stated."""
    value = picture.getexif().get(_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def shown(picture: Image.Image, *, mask: bool) -> Image.Image:
    """Upright, grey or RGB, maybe with alpha; a mask keeps its palette's indices."""
    from PIL import ImageOps

    plain = _plain(picture, mask=mask)
    return ImageOps.exif_transpose(plain) if orientation(plain) != 1 else plain


def _plain(picture: Image.Image, *, mask: bool) -> Image.Image:
    picture.load()
    if picture.mode in ("P", "PA"):
        if mask:
            picture.info.pop("transparency", None)
        veil = "A" if picture.has_transparency_data and not mask else ""
        colours = np.asarray(picture.getpalette("RGB")).reshape(-1, 3)
        if (colours == colours[:, :1]).all() and not (mask and _shows_alike(picture, colours[:, 0])):
            return picture.convert("L" + veil)
        return picture.convert("P" if mask else "RGB" + veil)
    return picture.convert("RGB") if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV") else picture


def _shows_alike(picture: Image.Image, greys: NDArray[np.uint8]) -> bool:
    """Whether a palette of greys hides what its picture holds: all entries are one, or two that occur are."""
    occurring = greys[np.flatnonzero(picture.histogram()[: len(greys)])]
    return len(np.unique(greys)) == 1 or len(np.unique(occurring)) < len(occurring)


def turned(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Rows and columns as they are shown, of an array as it is stored."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    down, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return array[:: -1 if down else 1, :: -1 if right else 1]


def has_alpha(picture: Image.Image) -> bool:
    """Whether the last band is transparency."""
    return picture.mode in ("LA", "RGBA")


def fit_alpha(volumes: Sequence[Volume], wanted: int | None) -> list[Volume]:
    """Images whose alpha channels stay only where they have the wanted number of channels, all together, with them.

    Else those go that are opaque everywhere. Where a number is wanted and there are still not so many, the others go,
    too, with a note.
    """
    if sum(volume.channels for volume in volumes) == wanted:
        return list(volumes)
    less = [without_alpha(volume) if volume.source.alpha and _is_opaque(volume) else volume for volume in volumes]
    if wanted is None or sum(volume.channels for volume in less) == wanted:
        return less
    return [without_alpha(volume, _LEFT_OUT) if volume.source.alpha else volume for volume in less]


def without_alpha(volume: Volume, *notes: str) -> Volume:
    """Without its last channel, an alpha channel; `notes` say so."""
    source = replace(volume.source, alpha=False, notes=(*volume.source.notes, *notes))
    return replace(volume, array=volume.array[:-1], source=source)


def _is_opaque(volume: Volume) -> bool:
    alpha = volume.array[-1]
    return alpha.dtype.kind == "u" and all((part == np.iinfo(alpha.dtype).max).all() for part in blocks(alpha))


def about_channels(volume: Volume, wanted: int) -> str:
    """What to do where a picture has colours or a further channel that nobody asked for; "" where it is neither."""
    if volume.source.kind != "picture" or volume.channels <= wanted:
        return ""
    if volume.channels in (2, 4) and volume.channels == wanted + 1:
        return "The last is not said to be transparency: save the picture without it, or name it in data.modality."
    if wanted == 1 and volume.channels == 3:
        return "Pictures in colour take data.modality: [R, G, B]; or save them in grey."
    return ""


def _deep_colours(head: bytes) -> bool:
    """Whether a PNG has 16 bits per colour, or with alpha; its header follows the first 16 bytes."""
    return head.startswith(_PNG) and head[24] == 16 and head[25] != 0


def _with_simpleitk(path: Path) -> NDArray[Any]:
    import SimpleITK

    try:
        array: NDArray[Any] = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    except RuntimeError as error:
        raise broken(path, "a picture", ValueError("its pixels cannot be decoded")) from error
    return array
