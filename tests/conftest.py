"""A tiny data set and a tiny model, made once per session; small enough for one core and a few seconds.

The images are two blobs of different brightness in noise, so a small network learns them within some dozen steps.
Label values are not contiguous on purpose.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell's background; children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _package_log_as_imported() -> Iterator[None]:
    """The command line sets the package's log up, in fixtures of a module too; a test begins with it as imported."""
    _fresh_log()
    yield
    _fresh_log()


def _fresh_log() -> None:
    logger = logging.getLogger("medunet")
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
    logger.handlers[:] = []


SHAPE = (24, 24, 16)
SPACING = (1.5, 1.5, 2.0)
LABELS = {"background": 0, "organ": 4, "core": 205}


def blob_case(seed: int, shape: tuple[int, ...] = SHAPE) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """An image (*shape) with a bright ellipsoid and a brighter one inside, and its mask in file values."""
    rng = np.random.default_rng(seed)
    centre = [rng.uniform(0.4, 0.6) * n for n in shape]
    radius = [rng.uniform(0.25, 0.32) * n for n in shape]
    grid = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    axes = [axis for axis, n in enumerate(shape) if n > 1]
    distance = sum(((grid[axis] - centre[axis]) / radius[axis]) ** 2 for axis in axes)
    mask = np.where(distance < 0.3, LABELS["core"], np.where(distance < 1, LABELS["organ"], 0)).astype(np.uint8)
    image = np.select([mask == LABELS["organ"], mask == LABELS["core"]], [200.0, 400.0], 0.0)
    return (image + rng.normal(0, 20, shape)).astype(np.int16), mask


def write_decathlon(root: Path, cases: dict[str, tuple[NDArray[Any], NDArray[Any]]], affine: NDArray[Any]) -> Path:
    """A data set in the Decathlon layout: imagesTr, labelsTr and dataset.json."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    entries = []
    for name, (image, mask) in cases.items():
        nibabel.save(nibabel.Nifti1Image(image, affine), root / "imagesTr" / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask, affine), root / "labelsTr" / f"{name}.nii.gz")
        entries.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    labels = {str(value): name for name, value in LABELS.items()}
    content = {"name": "tiny", "modality": {"0": "CT"}, "labels": labels, "training": entries}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def settings(root: Path) -> dict[str, Any]:
    """The configuration of the tiny model as plain data."""
    return {
        "name": "tiny",
        "deterministic": True,
        "data": {"root": str(root), "format": "decathlon", "modality": ["CT"], "fold": 0, "folds": 3},
        "labels": dict(LABELS),
        "preprocess": {"orientation": "RAS", "intensity": {"name": "ct_window", "low": -100, "high": 500}},
        "augment": {"preset": "mirror"},
        "network": {"name": "unet", "dims": 3, "channels": [4, 8], "deep_supervision": False},
        "train": {
            "patch_size": [16, 16, 16],
            "batch_size": 2,
            "epochs": 3,
            "iterations_per_epoch": 50,
            "optimizer": {"name": "adamw", "lr": 0.02},
            "precision": "fp32",
            "workers": 0,
        },
        "validate": {"every": 1},
    }


@pytest.fixture(scope="session")
def blob() -> Callable[..., Any]:
    """`blob(seed, shape)` gives an image and its mask; see `blob_case`."""
    return blob_case


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., Path]:
    """`write_dataset(root, count=6, first_seed=0, shape=..., affine=...)` makes a data set of blobs."""

    def write(
        root: Path,
        count: int = 6,
        first_seed: int = 0,
        shape: tuple[int, ...] = SHAPE,
        affine: NDArray[Any] | None = None,
    ) -> Path:
        cases = {f"case_{n:02d}": blob_case(first_seed + n, shape) for n in range(count)}
        return write_decathlon(root, cases, np.diag([*SPACING, 1.0]) if affine is None else affine)

    return write


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Any]:
    """`make_config(root, {"train.epochs": 5, ...})` gives the tiny configuration with some keys changed."""

    def make(root: Path, changes: dict[str, Any] | None = None) -> Any:
        from medunet.config.schema import Config

        data = settings(root)
        for path, value in (changes or {}).items():
            *sections, key = path.split(".")
            section = data
            for name in sections:
                section = section.setdefault(name, {})
            section[key] = value
        return Config.model_validate_json(json.dumps(data))

    return make


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Path:
    """Six cases in the Decathlon layout; labels background 0, organ 4, core 205. Read it only."""
    return write_dataset(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path, make_config: Callable[..., Any]) -> Path:
    """The folder of a finished run on `tiny_dataset`. Read it only."""
    from medunet.training.run import train

    return train(make_config(tiny_dataset), tmp_path_factory.mktemp("tiny") / "run", device="cpu").run


@pytest.fixture(scope="session")
def tiny_model(tiny_run: Path) -> Path:
    """The model folder of `tiny_run`. Read it only."""
    return tiny_run / "model"


@pytest.fixture(scope="session")
def make_picture_model() -> Callable[..., Path]:
    """`make_picture_model(folder, patch=32)` saves a model of random weights that takes RGB; person is 255 in files."""

    def make(folder: Path, patch: int = 32, **changes: Any) -> Path:
        import torch

        from medunet.config.schema import Config
        from medunet.labels import LabelMap
        from medunet.model import save_model
        from medunet.networks.registry import build_network

        content: dict[str, Any] = {
            "name": "pictures",
            "data": {"root": str(folder), "modality": ["R", "G", "B"]},
            "labels": {"background": 0, "person": 255},
            "preprocess": {"intensity": [{"name": "zscore"}]},
            "network": {"name": "unet", "dims": 2, "channels": [4, 8]},
            "train": {"patch_size": [patch, patch]},
            "inference": {"overlap": 0.25},
            **changes,
        }
        config = Config.model_validate_json(json.dumps(content))
        torch.manual_seed(0)
        outputs = LabelMap.from_mapping(content["labels"]).outputs
        return save_model(folder / "model", config, build_network(config.network, 3, outputs).state_dict(), {})

    return make


@pytest.fixture(scope="session")
def picture_model(tmp_path_factory: pytest.TempPathFactory, make_picture_model: Callable[..., Path]) -> Path:
    """A model of random weights for RGB pictures. Read it only."""
    return make_picture_model(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`full_disk("name")`: from then on nothing can be flushed to a file with `name` in its path."""
    open_files, original = Path("/proc/self/fd"), os.fsync
    if not open_files.exists():
        pytest.skip("the names of open files are in /proc only")

    def start(name: str) -> None:
        def fsync(number: int) -> None:
            if name in str((open_files / str(number)).readlink()):
                raise OSError(errno.ENOSPC, "No space left on device")
            original(number)

        monkeypatch.setattr("os.fsync", fsync)

    return start


@pytest.fixture(scope="session")
def write_study() -> Callable[..., Path]:
    """`write_study(folder, seed)` exports the image of `blob_case(seed)` as CT of the patient `seed`."""
    from medunet.demo.dicom_export import write_ct_export
    from medunet.geometry import Geometry

    def write(folder: Path, seed: int, **options: Any) -> Path:
        image, _ = blob_case(seed)
        grid = Geometry(SHAPE, SPACING, (5.0, -3.0, 7.0), ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)))
        return write_ct_export(image, grid, folder, seed=seed, **options)

    return write


@pytest.fixture(scope="session")
def draw_segments() -> Callable[..., Path]:
    """`draw_segments(images, path, {"liver": mask})` writes a SEG with highdicom.

    Masks are (columns, rows, slices) from the lowest slice up; frames without a voxel are left out.
    """
    import pydicom
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    def draw(images: Path, path: Path, masks: dict[str, NDArray[Any]], kind: str = "BINARY", **changes: Any) -> Path:
        sources = sorted((pydicom.dcmread(file) for file in images.iterdir()), key=lambda s: s.ImagePositionPatient[2])
        described = [
            SegmentDescription(number, name, codes.SCT.AnatomicalStructure, codes.SCT.Organ, "MANUAL")
            for number, name in enumerate(masks, start=1)
        ]
        pixels = np.stack([mask.transpose(2, 1, 0) for mask in masks.values()], axis=-1)
        if kind == "LABELMAP":
            pixels = (pixels * np.arange(1, len(masks) + 1, dtype=np.uint8)).max(axis=-1)
        seg = Segmentation(
            sources, pixels, kind, described, pydicom.uid.generate_uid(), 1, pydicom.uid.generate_uid(), 1,
            "another maker", "another model", "1", "1",
        )  # fmt: skip
        for keyword, value in changes.items():
            setattr(seg, keyword, value)
        seg.save_as(path)
        return path

    return draw


@pytest.fixture(scope="session")
def draw_contours() -> Callable[..., Path]:
    """`draw_contours(images, path, {"liver": mask})` writes a structure set with pydicom alone.

    Masks as for `draw_segments`; every row of pixels is a rectangle of its own along the pixels' edges.
    """
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset

    def some(**values: Any) -> Dataset:
        result = Dataset()
        for keyword, value in values.items():
            setattr(result, keyword, value)
        return result

    def rectangles(mask: NDArray[Any], sources: list[Any]) -> Iterator[Dataset]:
        for k, source in enumerate(sources):
            down, right = (float(value) for value in source.PixelSpacing)
            row_way, column_way = np.reshape(source.ImageOrientationPatient, (2, 3)).astype(float)
            for row in np.flatnonzero(mask[:, :, k].any(axis=0)):
                edges = np.flatnonzero(np.diff(np.pad(mask[:, row, k].astype(int), 1)))
                for first, stop in edges.reshape(-1, 2):
                    corners = [(first, row), (stop, row), (stop, row + 1), (first, row + 1)]
                    points = [
                        np.asarray(source.ImagePositionPatient, float)
                        + (column - 0.5) * right * row_way
                        + (line - 0.5) * down * column_way
                        for column, line in corners
                    ]
                    data = [f"{value:.4f}" for value in np.ravel(points)]
                    yield some(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=4, ContourData=data)

    def draw(images: Path, path: Path, masks: dict[str, NDArray[Any]], **changes: Any) -> Path:
        sources = sorted((pydicom.dcmread(file) for file in images.iterdir()), key=lambda s: s.ImagePositionPatient[2])
        first, names = sources[0], list(enumerate(masks, start=1))
        series = some(SeriesInstanceUID=first.SeriesInstanceUID)
        result = some(
            SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3", SOPInstanceUID=pydicom.uid.generate_uid(),
            PatientID=first.PatientID, StudyInstanceUID=first.StudyInstanceUID, Modality="RTSTRUCT",
            SeriesInstanceUID=pydicom.uid.generate_uid(), StructureSetLabel="RT",
            ReferencedFrameOfReferenceSequence=[some(
                FrameOfReferenceUID=first.FrameOfReferenceUID,
                RTReferencedStudySequence=[some(RTReferencedSeriesSequence=[series])],
            )],
            StructureSetROISequence=[some(ROINumber=number, ROIName=name) for number, name in names],
            ROIContourSequence=[
                some(ReferencedROINumber=number, ContourSequence=list(rectangles(masks[name], sources)))
                for number, name in names
            ],
            RTROIObservationsSequence=[some(ObservationNumber=n, ReferencedROINumber=n) for n, _ in names],
        )  # fmt: skip
        for keyword, value in changes.items():
            setattr(result, keyword, value)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = result.SOPClassUID, result.SOPInstanceUID
        meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        result.file_meta = meta
        result.save_as(path, enforce_file_format=True)
        return path

    return draw
