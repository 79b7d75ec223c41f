"""A table of exports that are right, odd or wrong in one way each: exactly the volume that was written, or the refusal.

The truth comes from what was written, never from the reader: every pixel has its place in the patient and its value,
and both have to be found in the volume, within a micrometre. Nothing else may be there.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_seeds import compressed, fragmented, in_syntax, item
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    LegacyConvertedEnhancedCTImageStorage,
    MRImageStorage,
    RLELossless,
    SegmentationStorage,
    generate_uid,
)

from medunet.errors import DicomError
from medunet.io.dicom import read_dicom, scan
from medunet.io.selection import Selection
from medunet.io.volume import Volume

COSINE, SINE = float(np.cos(0.3)), float(np.sin(0.3))
ROWS, COLUMNS = 36, 40
"""As large as encoders of JPEG 2000 want them."""


@dataclass(frozen=True)
class Image:
    """One slice as it is to be written.

    Attributes:
        position, row, column: of the first pixel, and unit vectors, in LPS.
        spacing: between rows and between columns.
        stored: (rows, columns) of whole numbers.
        slope, intercept: to values.
        more: other elements; None takes one away.
    """

    position: NDArray[np.float64]
    stored: NDArray[np.int64]
    row: tuple[float, float, float] = (1.0, 0.0, 0.0)
    column: tuple[float, float, float] = (0.0, 1.0, 0.0)
    spacing: tuple[float, float] = (0.5, 0.5)
    slope: float = 1.0
    intercept: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> NDArray[np.float64]:
        """(rows, columns)."""
        return self.stored * self.slope + self.intercept

    @property
    def points(self) -> NDArray[np.float64]:
        """(rows, columns, 3) of LPS millimetres."""
        rows, columns = np.indices(self.stored.shape)[..., None]
        down, right = self.spacing
        return self.position + rows * down * np.asarray(self.column) + columns * right * np.asarray(self.row)

    def having(self, **more: Any) -> Image:
        return replace(self, more=self.more | more)


def stack(
    heights: Iterable[float] = (0, 2, 4, 6, 8, 10), shear: float = 0.0, seed: int = 0, **same: Any
) -> list[Image]:
    """Slices at these heights along the normal, each moved along the columns by `shear` times its height."""
    row, column = np.asarray(same.get("row", Image.row)), np.asarray(same.get("column", Image.column))
    start, random = np.array([-30.5, -20.25, -40.0]), np.random.default_rng(seed)
    found = []
    for height in heights:
        stored = random.integers(0, 2500, (ROWS, COLUMNS))
        found.append(Image(start + height * np.cross(row, column) + shear * height * column, stored, **same))
    return found


def dataset_of(image: Image, number: int) -> Dataset:
    """The object of one slice."""
    dataset = item(
        SOPClassUID=CTImageStorage,
        SOPInstanceUID=generate_uid(entropy_srcs=[str(number), str(image.more), str(image.position)]),
        PatientID="derived",
        StudyInstanceUID="1.2.3",
        SeriesInstanceUID="1.2.3.4",
        FrameOfReferenceUID="1.2.3.5",
        Modality="CT",
        SeriesDescription="Derived",
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        InstanceNumber=number + 1,
        SliceThickness=2,
        Rows=image.stored.shape[0],
        Columns=image.stored.shape[1],
        PixelSpacing=list(image.spacing),
        ImagePositionPatient=[f"{value:.9f}"[:16] for value in image.position],
        ImageOrientationPatient=[f"{value:.12f}"[:16] for value in (*image.row, *image.column)],
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=0,
        RescaleSlope=str(image.slope),
        RescaleIntercept=str(image.intercept),
        PixelData=image.stored.astype(np.int32).astype("<u2").tobytes(),
    )
    dataset["PixelData"].VR = "OW"
    for keyword, value in image.more.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def write(folder: Path, images: Sequence[Image], prefix: str = "IM") -> list[Path]:
    """One file per slice; their names are not in the order of the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, image in enumerate(images):
        paths.append(folder / f"{prefix}{number * 7919 % 101:03d}")
        dataset_of(image, number).save_as(paths[-1], enforce_file_format=True)
    return paths


def assert_volume(volume: Volume, images: Sequence[Image], tolerance: float = 1e-3) -> None:
    """Shape, spacing, place of every pixel within a tolerance in mm, and every value, exactly."""
    first = images[0]
    rows, columns = first.stored.shape
    assert volume.geometry.shape == (columns, rows, len(images))
    assert volume.geometry.spacing[:2] == pytest.approx(first.spacing[::-1], abs=1e-6)
    inverse = np.linalg.inv(np.diag([-1.0, -1, 1, 1]) @ volume.geometry.affine)
    steps = volume.geometry.spacing
    for image in images:
        found = image.points @ inverse[:3, :3].T + inverse[:3, 3]
        i, j, k = np.rint(found).astype(int).transpose(2, 0, 1)
        assert np.abs((found - np.rint(found)) * steps).max() < tolerance
        assert np.array_equal(volume.array[0][i, j, k], image.values.astype(volume.array.dtype))


Made = tuple[Sequence[Image], str | None] | Sequence[Image]
"""The slices that have to be read, and how the series is named if it has to be."""


# ---------------------------------------------------------------------------------------------- read exactly


def shuffled_numbers(folder: Path) -> Made:
    images = [image.having(InstanceNumber=(5 * k) % 6 + 1) for k, image in enumerate(stack())]
    write(folder, images)
    return images


def no_numbers(folder: Path) -> Made:
    images = [image.having(InstanceNumber=None) for image in stack()]
    write(folder, images)
    return images


def wrong_locations(folder: Path) -> Made:
    images = [image.having(SliceLocation=99 - 3 * (k % 4)) for k, image in enumerate(stack())]
    write(folder, images)
    return images


def subfolders(folder: Path) -> Made:
    images = stack()
    write(folder / "1", images[:2])
    write(folder / "2" / "deep", images[2:])
    return images


def repeated_file(folder: Path) -> Made:
    images = stack()
    write(folder, images)
    write(folder, images[3:4], "again")
    return images


def repeated_image(folder: Path) -> Made:
    images = stack()
    write(folder, images)
    write(folder, [images[3].having(SOPInstanceUID="1.2.3.999")], "again")
    return images


def every_second(folder: Path) -> Made:
    images = stack()[::2]
    write(folder, images)
    return images


def thin_and_thick(folder: Path) -> Made:
    images = [image.having(SliceThickness=1 + k % 2) for k, image in enumerate(stack())]
    write(folder, images)
    return images


def rounded_gaps(folder: Path) -> Made:
    images = stack((0, 4.999, 10, 14.999, 20, 25))
    write(folder, images)
    return images


def one_slice(folder: Path) -> Made:
    images = stack((0,))
    write(folder, images)
    return images


def slope_per_slice(folder: Path) -> Made:
    """The first slope is 1, so that a reader that looks at the first slice alone would keep whole numbers."""
    images = [replace(image, slope=1 + 0.125 * k, intercept=-3.5 * k) for k, image in enumerate(stack())]
    write(folder, images)
    return images


def no_rescaling(folder: Path) -> Made:
    images = [image.having(RescaleSlope=None, RescaleIntercept=None) for image in stack()]
    write(folder, images)
    return images


def monochrome1(folder: Path) -> Made:
    images = [image.having(PhotometricInterpretation="MONOCHROME1") for image in stack()]
    write(folder, images)
    return images


def _signed(bits: int = 16) -> list[Image]:
    images = [replace(image, stored=image.stored - 1250) for image in stack()]
    return [image.having(PixelRepresentation=1, BitsStored=bits, HighBit=bits - 1) for image in images]


def signed(folder: Path) -> Made:
    write(folder, _signed())
    return _signed()


def _soiled(images: Sequence[Image], dirt: int) -> list[Image]:
    """With bits above the twelve that count."""
    return [
        image.having(PixelData=((image.stored & 0x0FFF) | dirt).astype("<u2").tobytes(), BitsStored=12, HighBit=11)
        for image in images
    ]


def dirty_unsigned(folder: Path) -> Made:
    write(folder, _soiled(stack(), 0xA000))
    return stack()


def dirty_signed(folder: Path) -> Made:
    write(folder, _soiled(_signed(12), 0x5000))
    return _signed(12)


def padding(folder: Path) -> Made:
    """What lies outside of the field of view keeps the value that the scanner wrote."""
    images = [replace(image, stored=np.where(np.tri(ROWS, COLUMNS) > 0, image.stored, -2000)) for image in stack()]
    images = [image.having(PixelRepresentation=1, PixelPaddingValue=-2000) for image in images]
    write(folder, images)
    return images


def _with_overlay(paths: Sequence[Path], bits: int, position: int, data: bytes = b"") -> None:
    """Add the overlay plane module (PS3.3 section C.9.2) to files."""
    plane = {
        (0x10, "US"): ROWS,
        (0x11, "US"): COLUMNS,
        (0x40, "CS"): "G",
        (0x50, "SS"): [1, 1],
        (0x100, "US"): bits,
        (0x102, "US"): position,
        (0x3000, "OW"): data,
    }
    for path in paths:
        dataset = pydicom.dcmread(path)
        for (number, vr), value in plane.items():
            if value != b"":
                dataset.add_new(0x60000000 | number, vr, value)
        dataset.save_as(path)


def overlay(folder: Path) -> Made:
    _with_overlay(write(folder, stack()), 1, 0, os.urandom(ROWS * COLUMNS // 8))
    return stack()


def overlay_in_high_bits(folder: Path) -> Made:
    """As old scanners wrote them: each pixel's bit 12 is a line of text, and no part of its value."""
    _with_overlay(write(folder, _soiled(stack(), 0x1000)), 16, 12)
    return stack()


def trash(folder: Path) -> Made:
    """Text, a half-written image, a segmentation and a screenshot lie among the images."""
    images = stack()
    paths = write(folder, images)
    (folder / "IM000.txt").write_text("This is a report. " * 50)
    (folder / "DICOMDIR").write_bytes(os.urandom(3000))
    (folder / "000").write_bytes(paths[2].read_bytes()[:-500])
    seg = images[0].having(SOPClassUID=SegmentationStorage, Modality="SEG", SeriesInstanceUID="1.2.3.6")
    shot = images[1].having(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", SeriesInstanceUID="1.2.3.7")
    scout = images[2].having(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write(folder, [seg, shot, scout], "AA")
    return images


def long_decimals(folder: Path) -> Made:
    """Decimal strings of up to 24 characters, and rows and columns of other spacing."""
    images = stack(
        (0, 1.2, 2.4, 3.6), row=(COSINE, SINE, 0.0), column=(0.0, 0.0, -1.0), spacing=(0.9765625123456789, 1.2)
    )
    for path, image in zip(write(folder, images), images, strict=True):
        dataset = pydicom.dcmread(path)
        for keyword, values in (
            ("ImagePositionPatient", image.position),
            ("ImageOrientationPatient", (*image.row, *image.column)),
            ("PixelSpacing", image.spacing),
        ):
            text = "\\".join(f"{value:.20f}" for value in values).encode()
            tag = pydicom.datadict.tag_for_keyword(keyword)
            dataset[tag] = pydicom.dataelem.RawDataElement(
                pydicom.tag.Tag(tag), "DS", len(text) + len(text) % 2, text + b" " * (len(text) % 2), 0, False, True
            )
        dataset.save_as(path)
    return images


def character_sets(folder: Path) -> Made:
    images = [
        image.having(
            SpecificCharacterSet=["", "ISO 2022 IR 87"],
            PatientName="Yamada^Tarou=山田^太郎",
            SeriesDescription="頭部",
        )
        for image in stack()
    ]
    write(folder, images)
    return images, "頭部"


def unknown_character_set(folder: Path) -> Made:
    for path in write(folder, [image.having(SpecificCharacterSet="ISO_IR 100") for image in stack()]):
        path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"NO SUCH 10"))
    return stack()


def _oriented(row: Sequence[float], column: Sequence[float], **more: Any) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        images = stack(row=tuple(row), column=tuple(column), **more)
        write(folder, images)
        return images

    return make


def _in_syntax(syntax: UID, signed: bool = False) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        images = _signed(12) if signed else [image.having(BitsStored=12, HighBit=11) for image in stack()]
        for path in write(folder, images):
            save = compressed if syntax.is_compressed and not syntax.is_deflated else in_syntax
            save(pydicom.dcmread(path), path, syntax)
        return images

    return make


def in_fragments(folder: Path) -> Made:
    images = stack()
    for path in write(folder, images):
        fragmented(pydicom.dcmread(path), path)
    return images


def _enhanced(path: Path, images: Sequence[Image], frame: Callable[[int], dict[str, Any]] = lambda _: {}) -> None:
    """One multi-frame object; `frame(k)` gives more functional groups of frame k."""
    whole = dataset_of(images[0].having(SOPInstanceUID=generate_uid(entropy_srcs=[path.name])), 0)
    whole.SOPClassUID = images[0].more.get("SOPClassUID", EnhancedMRImageStorage)
    for keyword in ("ImagePositionPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept", "ImageType"):
        del whole[keyword]
    del whole.ImageOrientationPatient, whole.SliceThickness
    whole.NumberOfFrames = len(images)
    whole.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=[*images[0].row, *images[0].column])],
            PixelMeasuresSequence=[item(PixelSpacing=list(images[0].spacing), SliceThickness=2)],
        )
    ]
    whole.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=list(image.position))],
            PixelValueTransformationSequence=[
                item(RescaleSlope=image.slope, RescaleIntercept=image.intercept, RescaleType="US")
            ],
            **frame(k),
        )
        for k, image in enumerate(images)
    ]
    whole.PixelData = b"".join(image.stored.astype("<u2").tobytes() for image in images)
    path.parent.mkdir(exist_ok=True)
    whole.save_as(path, enforce_file_format=True)


def enhanced(folder: Path) -> Made:
    images = [replace(image, slope=1 + 0.5 * k, intercept=k) for k, image in enumerate(stack())]
    _enhanced(folder / "one", [images[k] for k in (3, 0, 5, 1, 4, 2)])
    return images


def enhanced_in_two_files(folder: Path) -> Made:
    images = stack()
    _enhanced(folder / "one", images[:4])
    _enhanced(folder / "two", images[4:])
    return images


def enhanced_twice(folder: Path) -> Made:
    images = stack()
    _enhanced(folder / "one", images)
    (folder / "again").write_bytes((folder / "one").read_bytes())
    return images


def enhanced_with_one_slope(folder: Path) -> Made:
    """The rescaling stands where classic objects have it, and nowhere else."""
    images = [replace(image, slope=0.5, intercept=-3.0) for image in stack()]
    _enhanced(folder / "one", images)
    dataset = pydicom.dcmread(folder / "one")
    dataset.RescaleSlope, dataset.RescaleIntercept = 0.5, -3
    for group in dataset.PerFrameFunctionalGroupsSequence:
        del group.PixelValueTransformationSequence
    dataset.save_as(folder / "one")
    return images


def legacy_converted(folder: Path) -> Made:
    images = [image.having(SOPClassUID=LegacyConvertedEnhancedCTImageStorage) for image in stack()[::-1]]
    _enhanced(folder / "one", images)
    return images


def enhanced_two_kinds(folder: Path) -> Made:
    """A field map beside its magnitude, position by position, each kind with a slope of its own."""
    magnitude = [replace(image, slope=1.277167277) for image in stack()]
    field_map = [replace(image, slope=0.244200244, intercept=-500) for image in stack(seed=1)]
    both = [image for pair in zip(magnitude, field_map, strict=True) for image in pair]

    def frame(k: int) -> dict[str, Any]:
        kind = ("M_FFE", "B0")[k % 2]
        return {"MRImageFrameTypeSequence": [item(FrameType=["ORIGINAL", "PRIMARY", kind, "NONE"])]}

    _enhanced(folder / "one", both, frame)
    return field_map, "B0"


def _two(more: dict[str, Any], other: dict[str, Any], wanted: str, **shape: Any) -> Callable[[Path], Made]:
    """Two volumes of one series; the second is wanted."""

    def make(folder: Path) -> Made:
        first = [image.having(**more) for image in stack()]
        second = [image.having(**other) for image in stack(seed=1, **shape)]
        write(folder, first)
        write(folder, second, "other")
        return second, wanted

    return make


def three_times(folder: Path) -> Made:
    """Nine positions at three times, interleaved as they were acquired."""
    volumes = [stack(range(9), seed=time) for time in range(3)]
    for time, images in enumerate(volumes):
        written = [
            image.having(TemporalPositionIdentifier=time + 1, InstanceNumber=3 * k + time + 1, SliceThickness=1)
            for k, image in enumerate(images)
        ]
        write(folder, written, f"time{time}")
    return volumes[1], "temporal position 2"


def _in_turn(keyword: str, *values: Any, heights: Iterable[float] = range(0, 22, 2)) -> Callable[[Path], Made]:
    """Volumes whose slices lie between each other; the last one is wanted."""

    def make(folder: Path) -> Made:
        images = [image.having(**{keyword: values[k % len(values)]}) for k, image in enumerate(stack(heights))]
        write(folder, images)
        return images[len(values) - 1 :: len(values)], str(
            values[-1] if isinstance(values[-1], str) else f" {values[-1]:g}"
        )

    return make


def packages(folder: Path) -> Made:
    """One volume: every second slice was acquired later, as numbers and times say."""
    turns = [
        {"AcquisitionNumber": 1, "AcquisitionTime": "101500", "TriggerTime": 20, "InstanceNumber": 1},
        {"AcquisitionNumber": 2, "AcquisitionTime": "101700", "TriggerTime": 520, "InstanceNumber": 2},
    ]
    images = [image.having(**turns[k % 2]) for k, image in enumerate(stack())]
    write(folder, images)
    return images


def stations(folder: Path) -> Made:
    """One volume: the echo time of its upper half is another one."""
    images = [image.having(EchoTime=(4.6, 4.7)[k // 3]) for k, image in enumerate(stack())]
    write(folder, images)
    return images


def two_series(folder: Path) -> Made:
    write(folder, stack())
    images = [image.having(SeriesInstanceUID="1.2.3.8", SeriesDescription="Bone") for image in stack((0, 1, 2), seed=1)]
    write(folder, images, "other")
    return images, "Bone"


EXACT: dict[str, Callable[[Path], Made]] = {
    "shuffled instance numbers": shuffled_numbers,
    "no instance numbers": no_numbers,
    "wrong slice locations": wrong_locations,
    "one series in several folders": subfolders,
    "a file twice": repeated_file,
    "an image twice, under another UID": repeated_image,
    "every second slice is missing": every_second,
    "two slice thicknesses": thin_and_thick,
    "gaps of 4.999 and 5.001 mm": rounded_gaps,
    "a single slice": one_slice,
    "a slope per slice, the first 1": slope_per_slice,
    "no slope and intercept": no_rescaling,
    "MONOCHROME1": monochrome1,
    "signed": signed,
    "twelve bits and dirt above": dirty_unsigned,
    "twelve bits with sign and dirt above": dirty_signed,
    "a padding value": padding,
    "an overlay": overlay,
    "an overlay in the high bits": overlay_in_high_bits,
    "trash in the folder": trash,
    "decimal strings that are too long, non-square pixels": long_decimals,
    "Japanese": character_sets,
    "an unknown character set": unknown_character_set,
    "sagittal": _oriented((0, 1, 0), (0, 0, -1)),
    "coronal": _oriented((1, 0, 0), (0, 0, -1)),
    "oblique": _oriented((COSINE, SINE, 0), (-SINE * COSINE, COSINE * COSINE, SINE)),
    "head first, on the left side, sagittal": _oriented((1, 0, 0), (0, 0, -1), heights=(0, 1.5, 3, 4.5)),
    "head first, prone": _oriented((-1, 0, 0), (0, -1, 0)),
    "feet first": _oriented((-1, 0, 0), (0, 1, 0)),
    "written against the normal": _oriented((1, 0, 0), (0, 1, 0), heights=(10, 8, 6, 4, 2, 0)),
    "sagittal, written against the normal": _oriented((0, 1, 0), (0, 0, -1), heights=(4.5, 3, 1.5, 0)),
    "non-square pixels": _oriented((1, 0, 0), (0, 1, 0), spacing=(6.4, 4.0)),
    "enhanced, a slope per frame": enhanced,
    "enhanced, one slope for all": enhanced_with_one_slope,
    "enhanced, a file twice": enhanced_twice,
    "enhanced, in two files": enhanced_in_two_files,
    "enhanced, two kinds at each position": enhanced_two_kinds,
    "legacy converted, against the normal": legacy_converted,
    "frames in fragments": in_fragments,
    "three times": three_times,
    "two series": two_series,
    "two orientations": _two({}, {}, "sagittal", row=(0.0, 1.0, 0.0), column=(0.0, 0.0, -1.0)),
    "two pixel spacings": _two({}, {}, "part 2", spacing=(0.75, 0.75)),
    "two echoes": _two(
        {"EchoTime": "4.92", "EchoNumbers": 1}, {"EchoTime": "7.38", "EchoNumbers": 2}, "echo time 7.38"
    ),
    "two echoes in turn": _in_turn("EchoTime", 4.6, 9.2),
    "two echoes in turn, closer to one another": _in_turn("EchoTime", 4.6, 9.2, heights=(0, 1, 5, 6, 10, 11, 15, 16)),
    "three b-values in turn": _in_turn("DiffusionBValue", 0.0, 500.0, 1000.0),
    "two kernels in turn": _in_turn("ConvolutionKernel", "B30f", "B70f"),
    "every second slice later": packages,
    "two halves": stations,
    "two b-values": _two({"DiffusionBValue": 0.0}, {"DiffusionBValue": 1000.0}, "b-value 1000"),
    "two times": _two({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}, "temporal position 2"),
    "magnitude and phase": _two(
        {"ImageType": ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"], "SOPClassUID": MRImageStorage},
        {"ImageType": ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"], "SOPClassUID": MRImageStorage},
        "phase",
    ),
}
SYNTAXES = (
    *(ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
    *(RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless),
)
for _syntax, _is_signed in itertools.product(SYNTAXES, (False, True)):
    EXACT[f"{_syntax.name}{', signed' * _is_signed}"] = _in_syntax(_syntax, _is_signed)


@pytest.mark.parametrize("case", EXACT)
def test_what_was_written_is_read(case: str, tmp_path: Path) -> None:
    made = EXACT[case](tmp_path / "export")
    images, wanted = made if isinstance(made, tuple) else (made, None)
    assert_volume(read_dicom(tmp_path / "export", Selection(wanted)), images)
    if wanted and case != "Japanese":
        with pytest.raises(DicomError, match=r"2 series fit|holds [23] volumes"):
            read_dicom(tmp_path / "export")


def test_jitter_of_four_micrometres_moves_nothing_farther_than_twice_that(tmp_path: Path) -> None:
    images = stack([2 * k + 0.004 * (-1) ** k for k in range(6)])
    write(tmp_path / "export", images)
    assert_volume(read_dicom(tmp_path / "export"), images, tolerance=0.0081)


# ---------------------------------------------------------------------------------------------------- refused


def _written(*images: Image) -> Callable[[Path], object]:
    return lambda folder: write(folder, images)


def _and(images: Sequence[Image], *others: Image) -> Callable[[Path], object]:
    return lambda folder: (write(folder, images), write(folder, others, "other"))


SIX = stack()
TILTED = stack(shear=0.35)
TAGGED = [image.having(GantryDetectorTilt="19.29") for image in TILTED]
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing slice": (_written(*SIX[:2], *SIX[3:]), "1 slice is missing: a gap of 4 mm where 2 mm is usual"),
    "missing slices": (_written(*SIX[:2], *stack((8, 10, 12))), "2 slices are missing: a gap of 6 mm"),
    "uneven gaps": (_written(*stack((0, 1.1, 4, 5.2, 8.8))), "gaps between slices run from 1.1 to 3.6 mm"),
    "a tilted gantry": (_written(*TILTED), r"tilted by 19\.29 degrees"),
    "a tilted gantry that is stated": (_written(*TAGGED), r"tilted by 19\.29 degrees"),
    "tilted the other way": (_written(*stack(shear=-0.3305)), r"tilted by 18\.29 degrees"),
    "tilted and uneven": (_written(*stack((0, 1, 4, 5.3), shear=0.3)), "tilted by 16.70 degrees.*; the gaps"),
    "an image twice with other pixels": (
        _and(SIX, replace(SIX[3], stored=SIX[3].stored + 1)),
        "2 images lie at some of the 6 positions",
    ),
    "an image twice with another slope": (_and(SIX, replace(SIX[3], slope=2)), "2 images lie at some"),
    "two volumes that nothing tells apart": (_and(SIX, *stack(seed=1)), "2 images lie at each of the 6 positions"),
    "all at one place": (_written(*stack((0,) * 4), *stack((0,), seed=1)), "lie at one position"),
    "a mosaic": (
        _written(*(image.having(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]) for image in SIX)),
        "a mosaic",
    ),
    "patients are mixed": (_and(SIX, *(image.having(PatientID="other") for image in stack(seed=1))), "2 volumes"),
    "a slope of 0": (_written(*(replace(image, slope=0) for image in SIX)), "Rescale Slope is 0"),
    "more pixels than are stated": (
        _written(*(image.having(Rows=ROWS - 1) for image in SIX)),
        "it holds 2880 bytes where 1 x 35 x 40 pixels need 2800",
    ),
    "no orientation": (_written(*(image.having(ImageOrientationPatient=None) for image in SIX)), "no Image Orient"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_volume_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    make, reason = REFUSED[case]
    make(tmp_path / "export")
    with pytest.raises(DicomError, match=reason):
        read_dicom(tmp_path / "export")
    assert not any(series.plausible for series in scan(tmp_path / "export").series) or "2 volumes" in reason


# ------------------------------------------------------------------------------------- ends that are missing


def test_a_missing_first_slice_is_told_by_the_instance_numbers(tmp_path: Path) -> None:
    images = stack()
    write(tmp_path / "export", [image.having(InstanceNumber=k + 1) for k, image in enumerate(images)][1:])
    volume = read_dicom(tmp_path / "export")
    assert_volume(volume, images[1:])
    assert "Instance numbers run from 2 to 6, so 1 image may be missing at one end." in volume.source.notes


def test_a_missing_last_slice_is_told_by_the_number_of_images(tmp_path: Path) -> None:
    images = stack()
    write(tmp_path / "export", [image.having(NumberOfSeriesRelatedInstances=6) for image in images[:5]])
    volume = read_dicom(tmp_path / "export")
    assert_volume(volume, images[:5])
    assert "The series states 6 images; 5 are here." in volume.source.notes


# ------------------------------------------------------------------------------------------------- resampled


def ramp(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Linear in LPS millimetres: interpolation along a line gives it exactly, but for rounding to tenths."""
    return np.rint(10 * (4 * points[..., 0] - 3 * points[..., 1] + 2 * points[..., 2]) + 10000).astype(np.int64)


IRREGULAR: dict[str, list[Image]] = {
    "a missing slice": SIX[:2] + SIX[3:],
    "uneven gaps": stack((0, 1.1, 4, 5.2, 8.8)),
    "a tilted gantry": TILTED,
    "tilted the other way": stack(shear=-0.3305),
    "tilted and a slice is missing": [*TILTED[:2], *TILTED[3:]],
    "tilted, sagittal": stack(shear=0.25, row=(0.0, 1.0, 0.0), column=(0.0, 0.0, -1.0)),
}


@pytest.mark.parametrize("case", IRREGULAR)
def test_resampled_values_are_right_where_slices_reach(case: str, tmp_path: Path) -> None:
    images = [replace(image, stored=ramp(image.points), slope=0.1, intercept=-1000) for image in IRREGULAR[case]]
    write(tmp_path / "export", images)
    volume = read_dicom(tmp_path / "export", Selection(irregular="resample"))
    to_grid = np.linalg.inv(np.diag([-1.0, -1, 1, 1]) @ volume.geometry.affine)
    grid = np.moveaxis(np.indices(volume.geometry.shape), 0, -1)
    points = grid @ np.linalg.inv(to_grid)[:3, :3].T + np.linalg.inv(to_grid)[:3, 3]
    truth = 4 * points[..., 0] - 3 * points[..., 1] + 2 * points[..., 2]
    reached = np.ones(volume.geometry.shape, dtype=bool)
    margin = volume.geometry.shape[1] - ROWS
    reached[:, : margin + 1] = reached[:, ROWS - 1 :] = not margin
    assert np.abs(volume.array[0] - truth)[reached].max() < 0.11
    assert reached.mean() > 0.5
    middle = len(images) // 2  # and a slice keeps its own pixels where the grid passes through them
    found = images[middle].points @ to_grid[:3, :3].T + to_grid[:3, 3]
    if np.abs(found - np.rint(found)).max() < 1e-3:
        i, j, k = np.rint(found).astype(int).transpose(2, 0, 1)
        assert np.allclose(volume.array[0][i, j, k], images[middle].values, atol=0.11)
