"""`predict`: all cases of an input to an output folder; one bad case does not stop the others.

`predict.json` is rewritten after every case, so that a killed run leaves a true record.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from medunet.atomic import make_folder, write_json
from medunet.errors import DeviceError, MedunetError, UsageError
from medunet.export.nifti import write_nifti_array
from medunet.inference.inputs import Input, find_inputs
from medunet.inference.memory import peak_bytes, reset_peak
from medunet.inference.predictor import MASKS, Predictor
from medunet.io.files import NIFTI, image_ending, stem
from medunet.model import library_versions

logger = logging.getLogger("medunet")

FORMATS = {"nifti": ".nii.gz", "nrrd": ".nrrd"}
REPORT_FILE = "predict.json"
_UNSEEN = "The model does not say what training saw, so that unusual cases are not flagged."
_ENDINGS = {"nifti": NIFTI, "nrrd": (".nrrd", ".mha")}


@dataclass
class CaseReport:
    """What became of one case; a row of predict.json.

    Attributes:
        case: id.
        input: path it was read from.
        status: "done", "failed" or "skipped" (its outputs were there already; they are listed all the same).
        seconds: from reading to the last byte written.
        peak_memory_bytes: of the process while working on it; null where the system does not tell.
        forecast_memory_bytes: what that was expected to be, told before the networks began.
        engine: library that ran the networks.
        volumes_ml: per structure.
        warnings: sentences about the input and the result.
        flags: reasons not to trust the result: name, structure (null: the image) and message of each.
        outputs: path and SHA-256 of each file written.
        error, hint: why it failed and what to do.
    """

    case: str
    input: str
    status: str = "failed"
    seconds: float = 0.0
    peak_memory_bytes: int | None = None
    forecast_memory_bytes: int | None = None
    engine: str = ""
    volumes_ml: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    flags: list[dict[str, str | None]] = field(default_factory=list)
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
        skip_existing: leave cases alone whose outputs are all there.
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
        UsageError: no input, an unknown format, a single output file for several cases, output over input.
        OutputError: the output folder or report cannot be written.
    """
    source, output, options = Path(source), Path(output), options or Options()
    _check_output(source, output, options)
    inputs = find_inputs(source, channels=len(predictor.spec.modality))
    targets = _targets(inputs, output, options)
    report_path = options.report or (None if _is_file(output) else output / REPORT_FILE)
    header = _header(predictor)
    for note in header["notes"]:
        logger.info("%s", note)
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
    return image_ending(output) != "" and not output.is_dir()


def _check_output(source: Path, output: Path, options: Options) -> None:
    """Refuse before anything is computed what could only end in a lost or misnamed file."""
    unknown = [name for name in options.formats if name not in FORMATS]
    if unknown or not options.formats:
        what = f'"{unknown[0]}" is no output format.' if unknown else "No output format was given."
        raise UsageError(what, f"The formats are {', '.join(FORMATS)}.")
    if source.resolve() == output.resolve():
        raise UsageError(
            f"{output} is input and output; images would be overwritten, or masks taken for images next time.",
            "Give another path with -o.",
        )
    if not _is_file(output):
        return
    if image_ending(output) not in MASKS:
        raise UsageError(f"A mask cannot be written to {output}.", f"Use {', '.join(MASKS)}, or give a folder.")
    wanted = options.formats[0]
    if wanted != Options().formats[0] and image_ending(output) not in _ENDINGS[wanted]:
        raise UsageError(f"{output} has not the ending of the format {wanted}.", "Leave out -f, or change the name.")


@dataclass(frozen=True)
class _Targets:
    """Files that one case becomes."""

    masks: tuple[Path, ...]
    probabilities: Path | None

    def all_there(self) -> bool:
        return all(path.is_file() for path in self.paths())

    def paths(self) -> list[Path]:
        return [*self.masks, *([self.probabilities] if self.probabilities else [])]


def _targets(inputs: Sequence[Input], output: Path, options: Options) -> list[_Targets]:
    """Output files per case."""

    def probabilities(folder: Path, name: str) -> Path | None:
        return folder / f"{name}_prob.nii.gz" if options.probabilities else None

    if _is_file(output):
        if len(inputs) > 1 or len(options.formats) > 1:
            raise UsageError(
                f"{output} is one file, but there are {len(inputs)} cases and {len(options.formats)} formats.",
                "Give a folder with -o.",
            )
        make_folder(output.parent)
        return [_Targets((output,), probabilities(output.parent, stem(output).removesuffix("_seg")))]
    make_folder(output)
    return [
        _Targets(
            tuple(output / f"{entry.id}_seg{FORMATS[name]}" for name in dict.fromkeys(options.formats)),
            probabilities(output, entry.id),
        )
        for entry in inputs
    ]


def _header(predictor: Predictor) -> dict[str, Any]:
    return {
        "format": 1,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "models": [
            {"path": str(model.path), "name": model.spec.name, "weights_sha256": model.id} for model in predictor.models
        ],
        "labels": replace(predictor.labels, ignore=()).to_mapping(),  # a mask holds no unknown voxel
        "device": str(predictor.device),
        "precision": str(predictor.precision).removeprefix("torch."),
        "tta": predictor.tta,
        "notes": [_UNSEEN] if predictor.seen is None else [],
        "overlap": predictor.spec.inference.overlap,
        "postprocess": [step.model_dump(mode="json", exclude_none=True) for step in predictor.spec.postprocess],
        "versions": library_versions(),
    }


def _predict_case(predictor: Predictor, entry: Input, targets: _Targets, options: Options) -> CaseReport:
    report = CaseReport(entry.id, str(entry.paths[0]))
    if options.skip_existing and targets.all_there():
        report.status = "skipped"
        for path in targets.paths():
            _note(report, path)
        return report
    start = time.monotonic()
    reset_peak()
    try:
        volume = entry.read(options.series, channels=len(predictor.spec.modality))
        report.warnings.extend([*entry.notes, *volume.source.notes])
        prediction = predictor(volume, probabilities=options.probabilities)
        report.forecast_memory_bytes, report.engine = prediction.forecast_bytes, prediction.engine
        for target in targets.masks:
            _note(report, prediction.save(target))
        if targets.probabilities is not None and prediction.probabilities is not None:
            values, path = prediction.probabilities, targets.probabilities
            _note(report, write_nifti_array(values, prediction.geometry, prediction.source, path))
        report.volumes_ml = {name: round(ml, 3) for name, ml in prediction.volumes_ml().items()}
        if not prediction.array.any():
            report.warnings.append("No structure was found; the mask is empty.")
        report.flags = [asdict(flag) for flag in prediction.flags]
        report.status = "done"
        for warning in (*report.warnings, *(flag.message for flag in prediction.flags)):
            logger.warning("%s: %s", entry.id, warning)
    except Exception as error:  # whatever is wrong with one case, the others are worth their masks
        _note_failure(report, error)
    report.seconds = round(time.monotonic() - start, 3)
    report.peak_memory_bytes = peak_bytes()
    return report


def _note(report: CaseReport, path: Path) -> None:
    report.outputs.append({"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})


def _note_failure(report: CaseReport, error: Exception) -> None:
    if isinstance(error, MemoryError):
        error = DeviceError("The computer ran out of memory.", "Close other programs, or predict on a larger one.")
    if isinstance(error, MedunetError):
        report.error, report.hint = error.message, error.hint
    else:
        report.error = f"Something unexpected went wrong: {type(error).__name__}: {error}"
        report.hint = "Please report this, with what -v prints."
        logger.debug("%s", report.case, exc_info=error)
    logger.error("%s failed: %s", report.case, error if isinstance(error, MedunetError) else report.error)
