"""Small DICOM objects of every kind that medunet reads, made by the project itself, as seeds of damaged ones.

A module of scripts beside the tests, not a test: `write_seeds(folder)` writes one folder per kind.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from pathlib import Path

import gdcm
import highdicom
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from medunet.demo.dicom_export import CT_FOLDER, write_ct_export
from medunet.export.dicom.rtstruct import write_rtstruct
from medunet.geometry import Geometry
from medunet.io.dicom import read_dicom
from medunet.io.volume import Segmentation
from medunet.labels import LabelMap

GRID = Geometry((40, 36, 3), (0.75, 0.5, 2.0), (30.0, 20.0, -40.0), ((-1.0, 0, 0), (0, -1.0, 0), (0, 0, 1.0)))
HTJ2K = base64.b85decode(
    "|4;u>04YEK0000e0000a00000000000000e0000a0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&kdTm&kdTmwh="
    "~7W02crOPjF>!N>E53R%LP^FfKASE-)_tkN^q*00000r2ql{lfVEg0LcK80e<m+@d06!0KfnffMbvS0t<8izyKA1K73fW?t}FMnF6%{zyKD|t}8F"
    "Uu;At<FTb$h$}ji;10KdvEQ1i@djP-y7eD}m4;CY4@L(}w1`ie^X7FG!Vg`%(--P~w&^iYYNt*z`04|gtKYsl9@#DvjA3uKl`0?Y%j~_q&@Bc*cJ"
    "WmtE@jOoxkOFW4|Je"
)
"""36 x 40 pixels of 16 bits, 100 in the first 20 columns and 900 in the others, by OpenJPH: pydicom has no encoder."""


def values() -> np.ndarray:
    """(columns, rows, slices) of Hounsfield units."""
    columns, rows, slices = np.indices(GRID.shape)
    return (100 + 7 * rows + 5 * columns + 40 * slices - 1024).astype(np.int16)


def plain(folder: Path, _: object = None) -> Path:
    """Three CT slices in explicit little endian."""
    study = write_ct_export(values(), GRID, folder.with_suffix(".study"), localizer=False)
    (study / CT_FOLDER).rename(folder)
    study.rmdir()
    return folder


def _each(folder: Path, change: Callable[[Dataset, Path], object]) -> None:
    for path in sorted(plain(folder).iterdir()):
        change(pydicom.dcmread(path), path)


def in_syntax(dataset: Dataset, path: Path, syntax: UID) -> None:
    """Save in one of the syntaxes that do not compress single frames, without preamble."""
    bare = Dataset()
    bare.update({element.tag: element for element in dataset})
    bare.file_meta = dataset.file_meta
    bare.file_meta.TransferSyntaxUID = syntax
    if not syntax.is_little_endian:
        bare.PixelData = np.frombuffer(bare.PixelData, "<u2").astype(">u2").tobytes()
    bare.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)


def compressed(dataset: Dataset, path: Path, syntax: UID) -> None:
    """Save with frames compressed."""
    if syntax == JPEGLosslessSV1:
        jpeg_lossless(path)
        return
    if syntax == HTJ2KLossless:
        dataset.BitsStored, dataset.HighBit = 16, 15
        dataset.PixelData = encapsulate([HTJ2K])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax)
    dataset.save_as(path)


def jpeg_lossless(path: Path) -> None:
    """Compress a file in place; GDCM alone has such an encoder."""
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def fragmented(dataset: Dataset, path: Path) -> None:
    """JPEG 2000, each frame in several fragments, with an offset table."""
    dataset.compress(JPEG2000Lossless)
    (frame,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([frame], fragments_per_frame=3)
    dataset.save_as(path)


def item(**elements: object) -> Dataset:
    """A data set of these elements."""
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def enhanced(folder: Path, syntax: UID) -> Path:
    """One enhanced MR object of six frames: two kinds at three positions, each with a slope of its own."""
    folder.mkdir()
    stored = np.random.default_rng(0).integers(0, 4000, (6, 36, 40)).astype("<u2")
    dataset = item(
        SOPClassUID=EnhancedMRImageStorage,
        SOPInstanceUID=generate_uid(entropy_srcs=["enhanced"]),
        StudyInstanceUID="1.2.3",
        SeriesInstanceUID="1.2.3.4",
        Modality="MR",
        SeriesDescription="T1 enhanced",
        Rows=36,
        Columns=40,
        NumberOfFrames=6,
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16,
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=0,
        SharedFunctionalGroupsSequence=[
            item(
                PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
                PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.75], SliceThickness=2.0)],
            )
        ],
        PerFrameFunctionalGroupsSequence=[
            item(
                PlanePositionSequence=[item(ImagePositionPatient=[-30, -20, -40 + 2 * (n % 3)])],
                PixelValueTransformationSequence=[item(RescaleSlope=1 + n, RescaleIntercept=0, RescaleType="US")],
                FrameContentSequence=[item(TemporalPositionIndex=1 + n // 3, InStackPositionNumber=1 + n % 3)],
                MRImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "T1", "NONE"])],
            )
            for n in range(6)
        ],
        PixelData=stored.tobytes(),
    )
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax)
    dataset.save_as(folder / "enhanced", enforce_file_format=True)
    return folder


def segmentation(folder: Path, kind: str) -> Path:
    """A SEG of two segments on three slices."""
    images = [pydicom.dcmread(path) for path in sorted(plain(folder.with_suffix(".ct")).iterdir())]
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    mask = np.zeros((3, 36, 40), np.uint8)
    mask[:, 2:19, 3:18], mask[1:, 25:30, 9:34] = 1, 2
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=code,
            algorithm_type="MANUAL",
        )
        for number, name, code in ((1, "liver", codes.SCT.Liver), (2, "spleen", codes.SCT.Spleen))
    ]
    pixels = mask if kind != "FRACTIONAL" else np.stack([mask == 1, mask == 2], -1).astype(np.float32) * 0.75
    seg = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=generate_uid(entropy_srcs=[kind]),
        series_number=9,
        sop_instance_uid=generate_uid(entropy_srcs=[kind, "instance"]),
        instance_number=1,
        manufacturer="medunet",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
    )
    shutil.rmtree(folder.with_suffix(".ct"))
    folder.mkdir()
    seg.save_as(folder / "seg")
    return folder


def structures(folder: Path, _: object) -> Path:
    """A structure set of two regions, and the series it was drawn on."""
    volume = read_dicom(plain(folder))
    mask = np.zeros(GRID.shape, np.uint8)
    mask[3:18, 2:19], mask[9:34, 25:30, 1:] = 1, 2
    labels = LabelMap.from_mapping({"background": 0, "liver": 1, "spleen": 2})
    write_rtstruct(Segmentation(mask, volume.geometry, labels, volume.source), folder / "rtstruct")
    return folder


def _series(save: Callable[..., None]) -> Callable[[Path, object], Path]:
    def write(folder: Path, argument: object) -> Path:
        more = () if argument is None else (argument,)
        _each(folder, lambda dataset, path: save(dataset, path, *more))
        return folder

    return write


SEEDS: dict[str, tuple[Callable[[Path, object], Path], object]] = {
    "explicit": (plain, None),
    "implicit": (_series(in_syntax), ImplicitVRLittleEndian),
    "big_endian": (_series(in_syntax), ExplicitVRBigEndian),
    "deflated": (_series(in_syntax), DeflatedExplicitVRLittleEndian),
    "rle": (_series(compressed), RLELossless),
    "jpeg_lossless": (_series(compressed), JPEGLosslessSV1),
    "jpeg_ls": (_series(compressed), JPEGLSLossless),
    "jpeg_2000": (_series(compressed), JPEG2000Lossless),
    "ht_jpeg_2000": (_series(compressed), HTJ2KLossless),
    "fragmented": (_series(fragmented), None),
    "enhanced": (enhanced, ExplicitVRLittleEndian),
    "enhanced_rle": (enhanced, RLELossless),
    "enhanced_jpeg_ls": (enhanced, JPEGLSLossless),
    "seg_binary": (segmentation, "BINARY"),
    "seg_fractional": (segmentation, "FRACTIONAL"),
    "seg_labelmap": (segmentation, "LABELMAP"),
    "rtstruct": (structures, None),
}
"""How each is written, and with what."""


def write_seeds(folder: Path) -> Path:
    """Write `folder/KIND/FILES` of every kind."""
    for name, (write, argument) in SEEDS.items():
        write(folder / name, argument)
    return folder
