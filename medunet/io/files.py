"""Reads image files into `Volume`: NIfTI with nibabel, NRRD/MHA with SimpleITK, pictures by `io.pictures`.

What a file is, is decided by its ending for the choice of reader and by its bytes for the rest: text
renamed to .nii, a truncated .nii.gz, an impossible header end in one sentence. Files only; DICOM
folders are `io.dicom`.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DataError, GeometryError, ReadError
from medunet.geometry import RAS_FROM_LPS, Geometry, format_shape
from medunet.io.damage import broken
from medunet.io.mapped import blocks
from medunet.io.pictures import PICTURES, fit_alpha, read_picture, without_alpha
from medunet.io.volume import Source, Volume

NIFTI = (".nii.gz", ".nii")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
ENDINGS = NIFTI + ITK + PICTURES

UNREAD = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".jfif", ".svg", ".psd", ".tga"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"),  # cameras
    *(".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".czi", ".vsi", ".lif", ".nd2", ".oib", ".ims"),  # microscopes
    *(".hdr", ".mgh", ".mgz", ".mnc", ".gipl"),  # volumes
)
"""Endings of pictures and volumes that are not read, to be told of where they lie among others."""

_BLOCK = 1 << 20
_LARGEST_LABEL = 2**31 - 1


def image_ending(path: Path) -> str:
    """The image ending of a file name in lower case (".nii.gz", ".png", ...), or "" if it is none of them."""
    name = path.name.lower()
    return next((ending for ending in ENDINGS if name.endswith(ending) and not name.startswith(".")), "")


def is_unread(path: Path) -> bool:
    """Whether a file looks like a picture or volume of a kind that is not read, by its name; hidden ones do not."""
    return path.suffix.lower() in UNREAD and not path.name.startswith(".")


def stem(path: Path) -> str:
    """File name without its image ending: `case.01.nii.gz` gives `case.01`."""
    ending = image_ending(path)
    return path.name[: len(path.name) - len(ending)] if ending else path.stem


def read_image(
    paths: Path | Sequence[Path], *, check_values: bool = True, scratch: Path | None = None, opaque: bool = False
) -> Volume:
    """Read one image; several paths are its channels, all on one grid.

    Args:
        paths: one file, or one per channel.
        check_values: refuse NaN and infinite voxels.
        scratch: folder that takes large pictures, see `io.large`; None: that of the system for temporary files.
        opaque: keep alpha channels that are opaque everywhere.

    Returns:
        Volume of (C, *spatial) in the file's own axis order and dtype (float32 after scl_slope).

    Raises:
        ReadError: missing, truncated or unknown file.
        DataError: 4D images, complex numbers, NaN or infinite voxels, channels that differ in grid.
        GeometryError: an impossible spacing or affine.
    """
    parts = [paths] if isinstance(paths, Path) else list(paths)
    volumes = [_read_one(path, scratch=scratch) for path in parts]
    if check_values:
        for path, volume in zip(parts, volumes, strict=True):
            check_finite(volume.array, path)
    return stack_channels(volumes if opaque else fit_alpha(volumes, None))


def stack_channels(volumes: Sequence[Volume]) -> Volume:
    """One volume with the channels and notes of all of them; geometry and source are those of the first.

    Raises:
        GeometryError: they do not lie on one grid.
    """
    first = volumes[0]
    for other in volumes[1:]:
        difference = first.geometry.difference(other.geometry)
        if difference:
            raise GeometryError(
                "The channels of one case must lie on one grid, "
                f"but {other.source.path.name} has {difference} ({first.source.path.name}).",
                "Register and resample them first.",
            )
    if len(volumes) == 1:
        return first
    notes = tuple(dict.fromkeys(note for volume in volumes for note in volume.source.notes))
    source = replace(first.source, notes=notes, alpha=volumes[-1].source.alpha)
    return Volume(np.concatenate([volume.array for volume in volumes]), first.geometry, source)


def read_mask(path: Path) -> tuple[NDArray[np.generic], Geometry]:
    """Read a mask as written: integer array (*spatial) of file values, and its grid.

    Of a picture with a palette of colours the indices are the values (as in PASCAL VOC); three equal channels
    are one. Transparency is not looked at.

    Raises:
        ReadError, GeometryError: as `read_image`.
        DataError: several channels, nothing but transparency that differs, or values that are not integers of 32 bits.
    """
    volume = _read_one(path, mask=True)
    if volume.source.alpha:
        volume = _without_veil(volume)
    array = volume.array[0]
    if volume.channels != 1 and not (volume.channels == 3 and (volume.array == array).all()):
        hint = "If its colours stand for labels, say which in data.colours." if volume.source.kind == "picture" else ""
        raise DataError(f"{path} has {volume.channels} channels; a mask has one value per voxel.", hint)
    if array.dtype.kind == "f":
        check_finite(array, path)
        rounded = np.rint(array)
        if not np.array_equal(rounded, array):
            fraction = array[rounded != array].flat[0]
            raise DataError(f"{path} holds fractions such as {fraction:g}; labels are whole numbers.")
        if np.abs(rounded).max() > _LARGEST_LABEL:
            raise DataError(f"{path} holds values up to {np.abs(rounded).max():g}; labels have 32 bits.")
        array = rounded.astype(np.int32)
    elif array.dtype.kind == "b":
        array = array.astype(np.uint8)
    return array, volume.geometry


def _without_veil(volume: Volume) -> Volume:
    """A mask without its alpha channel."""
    colours, alpha = volume.array[:-1], volume.array[-1]
    if (colours == colours.flat[0]).all() and (alpha != alpha.flat[0]).any():
        raise DataError(
            f"{volume.source.path} is of one colour, and only its transparency differs, which is not read of masks.",
            "Save it as white on black.",
        )
    return without_alpha(volume)


def read_geometry(path: Path) -> Geometry:
    """Grid of an image from its header, without its voxels where the format allows.

    Raises:
        ReadError, GeometryError, DataError: as `read_image`.
    """
    if image_ending(path) in NIFTI:
        image = _open_nifti(path)
        return _nifti_geometry(image, path)
    return _read_one(path).geometry


def check_finite(array: NDArray[np.generic], path: Path) -> None:
    """Refuse NaN and infinite voxels.

    Raises:
        DataError: with their number.
    """
    if array.dtype.kind != "f":
        return
    bad = sum(int(np.count_nonzero(~np.isfinite(part))) for part in blocks(array))
    if bad:
        raise DataError(
            f"{path} holds {bad} of {array.size} voxels that are NaN or infinite; every voxel needs a value.",
            "Replace them (numpy.nan_to_num) if you know what they stand for.",
        )


def _read_one(path: Path, *, mask: bool = False, scratch: Path | None = None) -> Volume:
    ending = image_ending(path)
    if not path.is_file():
        raise ReadError(f"There is no file {path}.", "Check the path.")
    if not ending:
        raise ReadError(f"{path} is no image that can be read; the endings are {', '.join(ENDINGS)}.")
    if path.stat().st_size == 0:
        raise ReadError(f"{path} cannot be read as an image: it is empty (0 bytes).", "Copy or export it again.")
    if ending in PICTURES:
        volume = read_picture(path, mask=mask, scratch=scratch)
    else:
        volume = _read_nifti(path) if ending in NIFTI else _read_itk(path)
    if volume.array.dtype.kind not in "biuf":
        kind = "colour" if volume.array.dtype.names else "complex"
        raise DataError(f"{path} holds {kind} voxels ({volume.array.dtype}); one real number per voxel is needed.")
    return volume


def _open_nifti(path: Path) -> Any:
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        image = nibabel.load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        raise broken(path, "NIfTI", error) from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise ReadError(f"{path} holds {type(image).__name__} data (surfaces, for example), which is no NIfTI volume.")
    return image


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """Drop trailing axes of length 1 beyond the third."""
    result = tuple(int(n) for n in shape)
    while len(result) > 3 and result[-1] == 1:
        result = result[:-1]
    return result


def _stated_spacing(image: Any, path: Path) -> NDArray[np.float64]:
    """The seven spacings as they stand in the file; nibabel turns 0 into 1 and drops signs when it opens one."""
    from nibabel.openers import ImageOpener

    with ImageOpener(path) as handle:
        header = type(image.header).from_fileobj(handle, check=False)
    return np.asarray(header["pixdim"][1:], dtype=float)


def _nifti_geometry(image: Any, path: Path) -> Geometry:
    shape = _squeezed(image.shape)
    if len(shape) > 3:
        raise DataError(
            f"{path} is {len(shape)}D ({format_shape(shape)}); one image is a 3D volume.",
            "Split time points or channels into files of their own.",
        )
    if len(shape) < 2 or min(shape) < 1:
        raise DataError(f"{path} has the shape {format_shape(shape)}; an image has two or three axes with voxels.")
    zooms = _stated_spacing(image, path)[: len(shape)]
    bad = ~np.isfinite(zooms) | (zooms == 0) | ((zooms < 0) & (int(image.header["sform_code"]) == 0))
    if bad.any():
        raise GeometryError(
            f"{path} states a spacing of {' x '.join(f'{z:g}' for z in zooms)} mm; every axis needs a positive one.",
            "Repair pixdim in the header.",
        )
    try:
        if len(shape) == 2:
            return Geometry.plain(shape, zooms.tolist())
        return Geometry.from_affine(image.affine, shape)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error.message}", error.hint) from error


def _read_nifti(path: Path) -> Volume:
    image = _open_nifti(path)
    geometry = _nifti_geometry(image, path)
    try:
        if path.name.lower().endswith(".gz"):
            with gzip.open(path) as handle:
                array = _voxels(type(image).from_stream(handle))
                while handle.read(_BLOCK):  # the checksum stands at the end, and is compared there only
                    continue
        else:
            array = _voxels(image)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise broken(path, "NIfTI", error) from error
    array = array.astype(array.dtype.newbyteorder("="), copy=False).reshape(geometry.shape)
    return Volume(array[None], geometry, Source(path, "nifti", header=image.header, files=(path,)))


def _voxels(image: Any) -> NDArray[np.generic]:
    """The stored numbers, times scl_slope plus scl_inter where the header has them."""
    proxy = image.dataobj
    if (proxy.slope, proxy.inter) == (1.0, 0.0):
        return np.asarray(proxy.get_unscaled())
    return np.asarray(proxy, dtype=np.float32)


def _read_itk(path: Path) -> Volume:
    import SimpleITK

    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise broken(path, "an ITK image", error) from error
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() not in (2, 3):
        raise DataError(f"{path} is {image.GetDimension()}D; one image is a 3D volume or a 2D picture.")
    try:
        return from_simpleitk(image, Source(path, "nrrd", files=(path,)))
    except GeometryError as error:
        raise GeometryError(f"{path}: {error.message}", error.hint) from error


def from_simpleitk(image: Any, source: Source) -> Volume:
    """A SimpleITK image (LPS, z-y-x arrays) as a `Volume` (RAS, x-y-z arrays)."""
    import SimpleITK

    direction = np.asarray(image.GetDirection()).reshape(image.GetDimension(), -1)
    return _from_lps(SimpleITK.GetArrayFromImage(image), direction, image.GetSpacing(), image.GetOrigin(), source)


def from_itk(image: Any, source: Source) -> Volume:
    """An `itk.Image` (LPS, z-y-x arrays) as a `Volume` (RAS, x-y-z arrays)."""
    import itk

    direction = itk.array_from_matrix(image.GetDirection())
    return _from_lps(itk.array_from_image(image), direction, image.GetSpacing(), image.GetOrigin(), source)


def _from_lps(
    data: NDArray[np.generic], direction: NDArray[np.floating], spacing: Any, origin: Any, source: Source
) -> Volume:
    """A (z, y, x) or (z, y, x, C) array with its LPS frame."""
    rank = direction.shape[0]
    if data.ndim == rank:
        data = data[..., None]
    array = np.ascontiguousarray(data.transpose(*range(rank, -1, -1)))
    lps = np.eye(rank + 1)
    lps[:-1, :-1] = direction * np.asarray(spacing)
    lps[:-1, -1] = origin
    flip = RAS_FROM_LPS if rank == 3 else np.diag([-1.0, -1.0, 1.0])
    return Volume(array, Geometry.from_affine(flip @ lps, array.shape[1:]), source)
