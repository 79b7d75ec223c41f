"""PNG previews of a segmentation.

Previews follow radiological convention: the patient's right is on the left of the picture, anterior or
superior is up; pixels are square millimetres, whatever the voxels are. Two-dimensional pictures are shown
as stored: array axis 0 runs right, axis 1 runs down. Knows nothing of networks or of how the mask was made.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medunet.atomic import atomic_file
from medunet.errors import GeometryError, UsageError
from medunet.io.mapped import blocks, let_go
from medunet.io.volume import Segmentation, Volume
from medunet.labels import Label

Window = tuple[float, float]

CT_WINDOW: Window = (-160.0, 240.0)
"""Abdominal soft tissue, Hounsfield units."""

_CT_AIR = -500.0
_SMALLEST_TILE, _LARGEST_TILE, _LARGEST_PICTURE = 300, 512, 1024
_AXIAL_SLICES, _COLUMNS = 5, 3
_FILL = 0.35
_THINNED = 4  # times the largest picture, from which on only some rows and columns are looked at
CAPTION, _LINE, _GAP, _FONT_SIZE = 20, 22, 6, 13
_MOST_LABELS = 40
PAPER, INK, _REFERENCE = (16, 16, 16), (215, 215, 215), (255, 255, 255)


def write_overlay(
    path: str | Path,
    volume: Volume,
    segmentation: Segmentation,
    *,
    window: Window | None = None,
    reference: Segmentation | None = None,
) -> None:
    """Write what `draw_overlay` draws as a PNG file.

    Raises:
        OutputError: the file cannot be written.
        GeometryError, UsageError: as `draw_overlay`.
    """
    picture = draw_overlay(volume, segmentation, window=window, reference=reference)
    with atomic_file(path) as part:
        picture.save(part, format="PNG")


def draw_overlay(
    volume: Volume,
    segmentation: Segmentation,
    *,
    window: Window | None = None,
    reference: Segmentation | None = None,
) -> Image.Image:
    """Draw slices of an image with the mask on top, and a legend.

    Of a volume: up to five axial slices, those that show most out of as many equal bands of the segmented
    height, and the coronal one that shows most. Of a picture: the whole.

    Args:
        volume: any orientation; the first channel is shown, of pictures with three or more the colours.
        segmentation: on the grid of `volume`; filled and outlined in the labels' colours.
        window: lowest and highest value shown; None takes `CT_WINDOW` where values below -500 occur (air in
            Hounsfield units), bytes as they are for 8-bit pictures, else percentiles 1 to 99.
        reference: on the same grid; outlined in white.

    Returns:
        RGB picture.

    Raises:
        GeometryError: the grids differ.
        UsageError: a window whose low end is not below its high end.
    """
    for mask in (segmentation, reference):
        difference = volume.geometry.difference(mask.geometry) if mask is not None else ""
        if difference:
            raise GeometryError(
                f"An overlay needs image and mask on one grid, but the mask has {difference}.",
                "Resample the mask to the image first.",
            )
    scene = Scene.of(volume, segmentation, reference, window).thinned()
    tiles = [tile(scene, axis, index) for axis, index in _views(scene)]
    return with_legend(montage(tiles), legend(segmentation, reference))


@dataclass(frozen=True)
class Scene:
    """What is drawn, in RAS order for volumes.

    Attributes:
        image: (*spatial), or (*spatial, 3) for a colour picture.
        mask: label indices.
        reference: label indices, or None.
        spacing: millimetres per axis.
        origin: RAS millimetres of the first voxel.
        labels: foreground labels.
        window: values shown black and white.
    """

    image: NDArray[np.generic]
    mask: NDArray[np.generic]
    reference: NDArray[np.generic] | None
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    labels: tuple[Label, ...]
    window: Window

    @classmethod
    def of(
        cls, volume: Volume, segmentation: Segmentation, reference: Segmentation | None, window: Window | None
    ) -> Scene:
        """What is drawn of an image and masks on its grid; a window of None is found."""
        image, geometry = volume.array[0], volume.geometry
        mask, truth = _known(segmentation), _known(reference) if reference is not None else None
        chosen = _window(image, window, picture=geometry.rank == 2)
        if geometry.rank == 3:
            change = geometry.reorientation("RAS")
            image, mask = change.apply(image), change.apply(mask)
            truth = change.apply(truth) if truth is not None else None
            geometry = geometry.reoriented(change)
        elif volume.channels >= 3:
            image = np.moveaxis(volume.array[:3], 0, -1)
        labels = segmentation.labels.foreground
        return cls(image, mask, truth, geometry.spacing, geometry.origin, labels, chosen)

    def thinned(self) -> Scene:
        """Of a picture that is far larger than what is drawn, every second or third row and column, and so on."""
        step = max(self.mask.shape) // (_THINNED * _LARGEST_PICTURE) + 1
        if self.mask.ndim > 2 or step == 1:
            return self
        every = (slice(None, None, step),) * 2
        image, mask = np.ascontiguousarray(self.image[every]), np.ascontiguousarray(self.mask[every])
        for array in (self.image, self.mask):
            let_go(array)
        return replace(
            self, image=image, mask=mask, reference=None if self.reference is None else self.reference[every]
        )


def _known(segmentation: Segmentation) -> NDArray[np.generic]:
    """Label indices; ignored voxels are shown as background."""
    array, ignored = segmentation.array, segmentation.labels.ignore_index
    return array if ignored is None else np.where(array == ignored, array.dtype.type(0), array)


def _window(image: NDArray[np.generic], window: Window | None, *, picture: bool) -> Window:
    if window is not None:
        if not window[0] < window[1]:
            raise UsageError(f"A window goes from a low to a higher value, not from {window[0]:g} to {window[1]:g}.")
        return window
    if picture and image.dtype == np.uint8:
        return (0.0, 255.0)
    step = tuple(slice(None, None, max(1, n // 128)) for n in image.shape)
    sample = image[step].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return (0.0, 1.0)
    if sample.min() < _CT_AIR:
        return CT_WINDOW
    low, high = np.percentile(sample, [1.0, 99.0]).tolist()
    return (low, high) if high > low else (low, low + 1.0)


def _views(scene: Scene) -> list[tuple[int, int]]:
    """(axis across the slice, index) of every slice to show; axis -1 is the whole picture."""
    shape = scene.mask.shape
    if len(shape) == 2:
        return [(-1, 0)]
    if 1 in shape:
        return [(max(axis for axis in range(3) if shape[axis] == 1), 0)]
    axial, coronal = weights_along(scene, 2), weights_along(scene, 1)
    views = [(2, index) for index in spread(axial, _AXIAL_SLICES)]
    return [*views, (1, int(coronal.argmax()) if coronal.any() else shape[1] // 2)]


def weights_along(scene: Scene, axis: int) -> NDArray[np.float64]:
    """How much each slice shows: areas of the labels, each relative to its largest, so that small ones count."""
    count = max(label.index for label in scene.labels) + 1
    total = np.zeros(scene.mask.shape[axis])
    for mask in (scene.mask, scene.reference):
        if mask is not None:
            slices = np.moveaxis(mask, axis, 0)
            areas = np.stack([np.bincount(plane.ravel(), minlength=count)[1:] for plane in slices])
            total += (areas / np.maximum(areas.max(axis=0), 1)).sum(axis=1)
    return total


def spread(weights: NDArray[np.float64], count: int) -> list[int]:
    """Up to `count` slices, rising: the fullest of each equal band of those with structures, or of all if none has."""
    filled = np.flatnonzero(weights)
    if filled.size == 0:
        edges = np.linspace(0, len(weights), min(count, len(weights)) + 1)
        return [int((a + b) / 2) for a, b in itertools.pairwise(edges)]
    first, last = int(filled[0]), int(filled[-1])
    bands = np.array_split(np.arange(first, last + 1), min(count, last + 1 - first))
    return [int(band[weights[band].argmax()]) for band in bands if weights[band].any()]


@dataclass(frozen=True)
class Tile:
    """A slice as drawn, and the words above it."""

    caption: str
    picture: Image.Image


def tile(scene: Scene, axis: int, index: int, *, longest: int | None = None, fill: float = _FILL) -> Tile:
    """One slice at its true aspect; the longer side is as long as the tile, or `longest` pixels."""
    name, place = ("", "") if axis < 0 else (("sagittal", "x"), ("coronal", "y"), ("axial", "z"))[axis]
    keep = [a for a in range(2 if axis < 0 else 3) if a != axis]
    extent = [scene.mask.shape[a] * scene.spacing[a] for a in keep]
    most = _LARGEST_PICTURE if axis < 0 else _LARGEST_TILE
    side = longest or min(max(*(scene.mask.shape[a] for a in keep), _SMALLEST_TILE), most)
    size = (max(1, round(side * extent[0] / max(extent))), max(1, round(side * extent[1] / max(extent))))
    grey = _upright(scene.image, axis, index)
    shown = to_bytes(grey, scene.window)
    pixels = np.asarray(Image.fromarray(shown).resize(size, Image.Resampling.BICUBIC).convert("RGB"))
    mask = resized(_upright(scene.mask, axis, index), size)
    truth = resized(_upright(scene.reference, axis, index), size) if scene.reference is not None else None
    picture = Image.fromarray(coloured(pixels, mask, truth, scene.labels, fill))
    if axis < 0:
        return Tile("", picture)
    _mark_sides(picture, "AP" if axis == 0 else "RL")
    return Tile(f"{name}, {place} = {round(scene.origin[axis] + index * scene.spacing[axis])} mm", picture)


def _upright(array: NDArray[np.generic], axis: int, index: int) -> NDArray[np.generic]:
    """Rows and columns of a slice as seen on a screen; a colour axis stays last."""
    if axis < 0:
        return np.ascontiguousarray(array.swapaxes(0, 1))
    plane = array[(slice(None),) * axis + (index,)]
    return np.ascontiguousarray(plane[::-1, ::-1].T)


def to_bytes(values: NDArray[np.generic], window: Window) -> NDArray[np.uint8]:
    """Grey values: the low end of the window is 0, its high end 255."""
    low, high = window
    scaled = (np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low) - low) / (high - low)
    return np.asarray(np.rint(np.clip(scaled, 0.0, 1.0) * 255.0), dtype=np.uint8)


def resized(mask: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.int32]:
    """Label indices (rows, columns) at another size (columns, rows), none of them mixed."""
    picture = Image.fromarray(np.ascontiguousarray(mask, dtype=np.int32))
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST), dtype=np.int32)


def coloured(
    pixels: NDArray[np.uint8],
    mask: NDArray[np.int32],
    reference: NDArray[np.int32] | None,
    labels: Sequence[Label],
    fill: float = _FILL,
) -> NDArray[np.uint8]:
    """Translucent fill (a share of the colour) and one-pixel contours over (rows, columns, 3)."""
    colours = np.zeros((max(label.index for label in labels) + 1, 3))
    for label in labels:
        colours[label.index] = label.colour
    inside = mask > 0
    result = pixels.astype(np.float64)
    result[inside] = (1.0 - fill) * result[inside] + fill * colours[mask[inside]]
    line = _contour(mask)
    result[line] = colours[mask[line]]
    if reference is not None:
        result[_contour(reference)] = _REFERENCE
    return np.asarray(np.rint(result), dtype=np.uint8)


def _contour(mask: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels of a structure with a neighbour (of four) of another label; the picture's edge is no neighbour."""
    padded = np.pad(mask, 1, mode="edge")
    rows, columns = mask.shape
    shifts = ((0, 1), (2, 1), (1, 0), (1, 2))
    differs = [padded[r : r + rows, c : c + columns] != mask for r, c in shifts]
    return np.asarray(np.logical_or.reduce(differs) & (mask > 0))


def _mark_sides(picture: Image.Image, letters: str) -> None:
    draw = ImageDraw.Draw(picture)
    middle = picture.height / 2
    for letter, x, anchor in ((letters[0], 4, "lm"), (letters[1], picture.width - 4, "rm")):
        draw.text((x, middle), letter, fill=INK, font=caption_font(), anchor=anchor)


def caption_font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Of all words."""
    return ImageFont.load_default(_FONT_SIZE)


def montage(tiles: Sequence[Tile], columns: int = _COLUMNS) -> Image.Image:
    """Tiles in rows of three, or `columns`, each centred below its caption."""
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    width = max(tile.picture.width for tile in tiles)
    height = max(tile.picture.height for tile in tiles)
    strip = CAPTION if any(tile.caption for tile in tiles) else 0
    sheet = Image.new("RGB", (columns * (width + _GAP) - _GAP, rows * (height + strip)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        left, top = (number % columns) * (width + _GAP), (number // columns) * (height + strip)
        draw.text((left + 4, top + 2), tile.caption, fill=INK, font=caption_font())
        shift = ((width - tile.picture.width) // 2, (height - tile.picture.height) // 2)
        sheet.paste(tile.picture, (left + shift[0], top + strip + shift[1]))
    return sheet


def legend(segmentation: Segmentation, reference: Segmentation | None) -> list[tuple[str, tuple[int, int, int] | None]]:
    """Text and colour of each entry: the structures that occur, with millilitres for volumes."""
    members = segmentation.labels.membership
    indices = sorted({int(index) for part in blocks(_known(segmentation)) for index in np.unique(part)})
    present = set(np.flatnonzero(members[:, indices].any(axis=1)).tolist())
    volumes = segmentation.volumes_ml() if segmentation.geometry.rank == 3 else {}
    entries: list[tuple[str, tuple[int, int, int] | None]] = [
        (f"{label.name}, {_format_ml(volumes[label.name])}" if volumes else label.name, label.colour)
        for label in segmentation.labels.foreground
        if label.index in present
    ]
    if not entries:
        entries.append(("no structure found", None))
    if len(entries) > _MOST_LABELS:
        entries[_MOST_LABELS:] = [(f"and {len(entries) - _MOST_LABELS} more", None)]
    if reference is not None:
        entries.append(("reference", _REFERENCE))
    return entries


def _format_ml(volume: float) -> str:
    return f"{volume:.0f} ml" if volume >= 10 else f"{volume:.1f} ml"


def with_legend(sheet: Image.Image, entries: Sequence[tuple[str, tuple[int, int, int] | None]]) -> Image.Image:
    """The sheet above its legend, in as many lines as the entries need."""
    font = caption_font()
    places, x, y = [], _GAP, 0
    for text, _ in entries:
        needed = round(font.getlength(text)) + 34
        if x + needed > sheet.width and x > _GAP:
            x, y = _GAP, y + _LINE
        places.append((x, y))
        x += needed
    result = Image.new("RGB", (sheet.width, sheet.height + y + _LINE), PAPER)
    result.paste(sheet, (0, 0))
    draw = ImageDraw.Draw(result)
    for (text, colour), (left, top) in zip(entries, places, strict=True):
        middle = sheet.height + top + _LINE // 2
        if colour is not None:
            draw.rectangle((left, middle - 5, left + 10, middle + 5), fill=colour)
        draw.text((left + 16, middle), text, fill=INK, font=font, anchor="lm")
    return result
