"""`medunet demo`: the whole path on synthetic patients, from training cases to a scored DICOM export.

data/        training patients in the Decathlon layout (NIfTI, dataset.json)
scanner/     a held-out patient as a scanner exports it: a CT series with a localizer beside it
run/         what `medunet train` leaves
predictions/ the mask of the held-out patient
evaluation/  its scores
pictures/    overlays to look at
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medunet.atomic import make_folder, write_json
from medunet.config.load import load_config
from medunet.demo.dicom_export import write_ct_export
from medunet.demo.phantom import Patient, make_patient
from medunet.errors import MedunetError, UsageError
from medunet.evaluation.folders import evaluate
from medunet.evaluation.summary import Evaluation
from medunet.export.nifti import write_nifti, write_nifti_array
from medunet.export.picture import write_overlay
from medunet.inference.batch import predict
from medunet.inference.predictor import Predictor
from medunet.io.files import read_mask
from medunet.io.read import read_volume
from medunet.io.volume import Segmentation, Source
from medunet.labels import LabelMap
from medunet.training.observe import Observer
from medunet.training.run import TrainingResult, train

logger = logging.getLogger("medunet")

TRAINING_PATIENTS = 8
HELD_OUT = "patient"
_HELD_OUT_SEED = 1003


@dataclass(frozen=True)
class DemoResult:
    """What the demo made.

    Attributes:
        folder: everything is below it.
        training: the run.
        evaluation: scores of the held-out patient.
        mask: its segmentation.
        pictures: overlays.
        seconds: the whole took.
    """

    folder: Path
    training: TrainingResult
    evaluation: Evaluation
    mask: Path
    pictures: tuple[Path, ...]
    seconds: float


def run_demo(
    out: str | Path, *, device: str = "auto", observer: Observer | None = None, say: Callable[[str], None] | None = None
) -> DemoResult:
    """Make synthetic patients, train on them, segment a DICOM export, score it, draw it.

    Args:
        out: folder; must be empty or new.
        device: auto, cpu, cuda, cuda:N or mps.
        observer: receives the events of the training.
        say: called with one sentence before each step.

    Raises:
        UsageError: the folder holds something already.
    """
    folder = Path(out)
    start = time.monotonic()
    say = say or logger.info
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty.", "Remove it or choose another folder with --out.")
    make_folder(folder)
    config = load_config("demo.yaml", data=folder / "data")
    labels = LabelMap.from_mapping(config.labels)
    say(f"1/5  Making {TRAINING_PATIENTS} synthetic abdominal CTs as NIfTI, and one more as a DICOM export.")
    write_dataset(folder / "data", labels, TRAINING_PATIENTS)
    held_out = make_patient(_HELD_OUT_SEED)
    export = write_ct_export(held_out.image, held_out.geometry, folder / "scanner", localizer=True)
    reference = _write_labels(held_out, labels, folder / "reference" / f"{HELD_OUT}.nii.gz")
    say(f"2/5  Training a 3D U-Net for about {config.train.budget} (medunet train --config demo.yaml).")
    training = train(config, folder / "run", device=device, observer=observer)
    say("3/5  Segmenting the DICOM export (medunet predict).")
    mask = folder / "predictions" / f"{HELD_OUT}_seg.nii.gz"
    reports = predict(Predictor(training.model, device=device), export, mask)
    if reports[0].status != "done":
        raise MedunetError(f"The export could not be segmented: {reports[0].error}", reports[0].hint)
    say("4/5  Scoring it against the truth (medunet evaluate).")
    evaluation = evaluate(mask, reference, folder / "evaluation", labels=labels.to_mapping())
    say("5/5  Drawing overlays.")
    pictures = _draw(folder, export, mask, reference, labels)
    return DemoResult(folder, training, evaluation, mask, pictures, time.monotonic() - start)


def write_dataset(folder: Path, labels: LabelMap, patients: int, *, first_seed: int = 0) -> Path:
    """Write synthetic patients in the Decathlon layout: imagesTr, labelsTr, dataset.json.

    Args:
        folder: target.
        labels: names and values of the masks.
        patients: how many.
        first_seed: of the first patient; the others count up.
    """
    entries = []
    for number in range(patients):
        name = f"ct_{number:03d}"
        patient = make_patient(first_seed + number)
        image = make_folder(folder / "imagesTr") / f"{name}.nii.gz"
        write_nifti_array(patient.image, patient.geometry, Source(image, "array"), image)
        _write_labels(patient, labels, folder / "labelsTr" / f"{name}.nii.gz")
        entries.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    description = {
        "name": "synthetic abdomen",
        "modality": {"0": "CT"},
        "labels": {str(label.values[0]): label.name for label in labels.labels},
        "numTraining": patients,
        "training": entries,
    }
    write_json(folder / "dataset.json", description)
    return folder


def _write_labels(patient: Patient, labels: LabelMap, path: Path) -> Path:
    return write_nifti(Segmentation(patient.labels, patient.geometry, labels, Source(path, "array")), path)


def _draw(folder: Path, export: Path, mask: Path, reference: Path, labels: LabelMap) -> tuple[Path, ...]:
    volume = read_volume(export)

    def load(path: Path) -> Segmentation:
        values, geometry = read_mask(path)
        return Segmentation(labels.to_indices(values), geometry, labels)

    prediction, truth = load(mask), load(reference)
    pictures = folder / "pictures"
    write_overlay(pictures / "prediction.png", volume, prediction, reference=truth)
    write_overlay(pictures / "truth.png", volume, truth)
    return (pictures / "prediction.png", pictures / "truth.png")
