"""`predict`: all cases of an input to an output folder; one bad case does not stop the others.

`predict.json` is rewritten after every case, so that a killed run leaves a true record.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from medunet.atomic import make_folder, write_json
from medunet.errors import DeviceError, MedunetError, UsageError
from medunet.export.nifti import write_nifti_array
from medunet.inference.inputs import Input, find_inputs
from medunet.inference.memory import peak_bytes, reset_peak
from medunet.inference.predictor import Prediction, Predictor
from medunet.io.files import ITK, NIFTI, image_ending
from medunet.model import library_versions

logger = logging.getLogger("medunet")

FORMATS = {"nifti": ".nii.gz", "nrrd": ".nrrd"}
REPORT_FILE = "predict.json"


@dataclass
class CaseReport:
    """What became of one case; a row of predict.json.

    Attributes:
        case: id.
        input: path it was read from.
        status: "done", "failed" or "skipped" (its outputs were there).
        seconds: from reading to the last byte written.
        peak_memory_bytes: of the process while working on it; null where the system does not tell.
        volumes_ml: per structure.
        warnings: sentences about the input and the result.
        outputs: path and SHA-256 of each file written.
        error, hint: why it failed and what to do.
    """

    case: str
    input: str
    status: str = "failed"
    seconds: float = 0.0
    peak_memory_bytes: int | None = None
    volumes_ml: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    outputs: list[dict[str, str]] = field(default_factory=list)
    error: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Options:
    """How a batch is run.

    Attributes:
        formats: keys of `FORMATS`.
        series: which DICOM series: UID, text of its description, or "largest".
        probabilities: write `CASE_prob.nii.gz` too, one volume per label on the fourth axis.
        skip_existing: leave cases alone whose outputs are there.
        report: where the report goes; None: `predict.json` in an output folder, none beside a single file.
    """

    formats: tuple[str, ...] = ("nifti",)
    series: str | None = None
    probabilities: bool = False
    skip_existing: bool = False
    report: Path | None = None


Progress = Callable[[int, int, CaseReport | None], None]


def predict(
    predictor: Predictor,
    source: str | Path,
    output: str | Path,
    options: Options | None = None,
    *,
    progress: Progress | None = None,
) -> list[CaseReport]:
    """Segment every case of `source` and write the masks.

    Args:
        predictor: loaded model(s).
        source: file or folder, see `inference.inputs`.
        output: a file for one case in one format, else a folder.
        options: formats and switches.
        progress: called with (cases done, cases in all, last report).

    Returns:
        One report per case, failed ones included.

    Raises:
        UsageError: no input, an unknown format, a single output file for several cases.
        OutputError: the output folder or report cannot be written.
    """
    options = options or Options()
    output = Path(output)
    unknown = [name for name in options.formats if name not in FORMATS]
    if unknown:
        raise UsageError(f'"{unknown[0]}" is no output format.', f"The formats are {', '.join(FORMATS)}.")
    inputs = find_inputs(Path(source), channels=len(predictor.spec.modality))
    targets = _targets(inputs, output, options)
    report_path = options.report or (None if _is_file(output) else output / REPORT_FILE)
    header = _header(predictor)
    reports: list[CaseReport] = []
    for number, entry in enumerate(inputs):
        if progress is not None:
            progress(number, len(inputs), reports[-1] if reports else None)
        reports.append(_predict_case(predictor, entry, targets[number], options))
        if report_path is not None:
            write_json(report_path, {**header, "cases": [asdict(report) for report in reports]})
    if progress is not None:
        progress(len(inputs), len(inputs), reports[-1])
    return reports


def _is_file(output: Path) -> bool:
    return image_ending(output) in NIFTI + ITK and not output.is_dir()


def _targets(inputs: Sequence[Input], output: Path, options: Options) -> list[list[Path]]:
    """Output files per case."""
    if _is_file(output):
        if len(inputs) > 1 or len(options.formats) > 1:
            raise UsageError(
                f"{output} is one file, but there are {len(inputs)} cases and {len(options.formats)} formats.",
                "Give a folder with -o.",
            )
        make_folder(output.parent)
        return [[output]]
    make_folder(output)
    return [[output / f"{entry.id}_seg{FORMATS[name]}" for name in options.formats] for entry in inputs]


def _header(predictor: Predictor) -> dict[str, Any]:
    return {
        "format": 1,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "models": [
            {"path": str(model.path), "name": model.spec.name, "weights_sha256": model.id} for model in predictor.models
        ],
        "labels": predictor.labels.to_mapping(),
        "device": str(predictor.device),
        "precision": str(predictor.precision).removeprefix("torch."),
        "tta": predictor.tta,
        "versions": library_versions(),
    }


def _predict_case(predictor: Predictor, entry: Input, targets: list[Path], options: Options) -> CaseReport:
    report = CaseReport(entry.id, str(entry.paths[0]))
    if options.skip_existing and all(target.is_file() for target in targets):
        report.status = "skipped"
        return report
    start = time.monotonic()
    reset_peak()
    try:
        volume = entry.read(options.series, channels=len(predictor.spec.modality))
        report.warnings.extend([*entry.notes, *volume.source.notes])
        prediction = predictor(volume, probabilities=options.probabilities)
        for target in targets:
            _note(report, prediction.save(target))
        if options.probabilities:
            _note(report, _write_probabilities(prediction, targets[0]))
        report.volumes_ml = {name: round(ml, 3) for name, ml in prediction.volumes_ml().items()}
        if not any(report.volumes_ml.values()):
            report.warnings.append("No structure was found; the mask is empty.")
        report.status = "done"
    except (MedunetError, MemoryError, OSError) as error:
        _note_failure(report, error)
    report.seconds = round(time.monotonic() - start, 3)
    report.peak_memory_bytes = peak_bytes()
    return report


def _note(report: CaseReport, path: Path) -> None:
    report.outputs.append({"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})


def _note_failure(report: CaseReport, error: Exception) -> None:
    if isinstance(error, MemoryError):
        error = DeviceError("The computer ran out of memory.", "Close other programs, or predict on a larger one.")
    report.error = error.message if isinstance(error, MedunetError) else f"{type(error).__name__}: {error}"
    report.hint = error.hint if isinstance(error, MedunetError) else ""
    logger.error("%s failed: %s %s", report.case, report.error, report.hint)


def _write_probabilities(prediction: Prediction, target: Path) -> Path:
    ending = image_ending(target)
    name = target.name[: len(target.name) - len(ending)].removesuffix("_seg")
    if prediction.probabilities is None:
        raise UsageError("Probabilities were not kept.")
    return write_nifti_array(
        prediction.probabilities, prediction.geometry, prediction.source, target.with_name(f"{name}_prob.nii.gz")
    )
