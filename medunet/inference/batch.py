"""`predict`: all cases of an input to an output folder; one bad case does not stop the others.

While one case is in the network the next one is read and the last one is written, in threads of this process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from medunet.atomic import make_folder, remove_leftovers
from medunet.errors import UsageError
from medunet.export.formats import FORMATS, format_of
from medunet.inference.case import CaseWork, Targets
from medunet.inference.doubt import MAPS as DOUBTS
from medunet.inference.identity import as_filed
from medunet.inference.inputs import Input, about_unread, about_volumes, find_inputs, unread_in, volumes_below
from medunet.inference.memory import PeakMeter
from medunet.inference.pipeline import run, stoppable
from medunet.inference.predictor import Predictor, rules_of
from medunet.inference.pulse import Pulse, Tally
from medunet.inference.report import REPORT_FILE, CaseReport, Report
from medunet.io.files import image_ending, stem
from medunet.io.selection import ANY, Selection
from medunet.model import Model, library_versions

logger = logging.getLogger("medunet")

AUTO = "auto"
_VOLUME, _PICTURE = "nifti", "png"
_UNSEEN = "The model does not say what training saw, so that unusual cases are not flagged."


@dataclass(frozen=True)
class Options:
    """How a batch is run.

    Attributes:
        formats: keys of `export.formats.FORMATS`, or `AUTO`: PNG for pictures, NIfTI for volumes.
        selection: which volume of DICOM studies, and how they are read.
        probabilities: write `CASE_prob.nii.gz` too, one volume per label on the fourth axis.
        uncertainty: write `CASE_entropy.nii.gz` too, and of several networks `CASE_disagreement.nii.gz`.
        overlay: write `CASE_overlay.png` too, the image with the mask on it.
        skip_existing: leave cases alone whose outputs are all there and are those that the report lists.
        show_identifiers: UIDs and Patient IDs may stand in the report.
        report: where the report goes; None: `predict.json` in an output folder, none beside a single file.
        ahead: read the next case and write the last one while one is computed; False: one at a time, in the memory
            of one.
        monitor: seconds between lines about the machine in the log, the last one of the whole run, where there are
            several cases; 0: none.
    """

    formats: tuple[str, ...] = (AUTO,)
    selection: Selection = ANY
    probabilities: bool = False
    uncertainty: bool = False
    overlay: bool = False
    skip_existing: bool = False
    report: Path | None = None
    show_identifiers: bool = False
    ahead: bool = True
    monitor: float = 60.0


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
    source, output = Path(source), Path(output)
    options = for_models(options or Options(), predictor.models)
    plan = plan_cases(source, output, options, predictor.models)
    inputs = {entry.id: entry for entry, _ in plan}
    meter, tally = PeakMeter(), Tally(waiting=len(plan))
    pulse = Pulse(options.monitor if len(plan) > 1 else 0.0, output, predictor.device, tally)
    reports: dict[str, CaseReport] = {}
    about = header(predictor.models, facts_of(predictor))
    for note in about["notes"]:
        logger.info("%s", note)
    about["notes"] += left_out(source, plan, output)
    with stoppable(), open_report(plan, output, options, about) as report, pulse:
        works = (
            CaseWork(
                predictor,
                entry,
                targets,
                selection=options.selection,
                meter=meter,
                finished=report.finished if options.skip_existing else None,
            )
            for entry, targets in plan
        )

        def done(work: CaseWork) -> None:
            reports[work.report.case] = work.report
            report.add(as_filed(work.report, inputs[work.report.case], show=options.show_identifiers))
            tally.count(work.report.status)
            tally.waiting -= 1
            work.tell()
            if progress is not None:
                progress(len(reports), len(plan), work.report)

        if progress is not None:
            progress(0, len(plan), None)
        run(works, done, ahead=options.ahead and predictor.memory_limit is None)
    return list(reports.values())


def for_models(options: Options, models: Sequence[Model]) -> Options:
    """The options, with what the models say of the series that they want."""
    selection = options.selection
    rules = selection.rules or rules_of(models)
    return replace(options, selection=replace(selection, rules=rules))


def plan_cases(source: Path, output: Path, options: Options, models: Sequence[Model]) -> list[tuple[Input, Targets]]:
    """All cases of `source` and the files they become; makes the output folder.

    Raises:
        UsageError, OutputError: as `predict`.
    """
    check_output(source, output, options)
    channels = len(models[0].spec.modality)
    inputs = find_inputs(source, channels=channels, selection=options.selection, without=output)
    networks = sum(model.size for model in models)
    return list(zip(inputs, _targets(inputs, output, options, networks), strict=True))


def left_out(source: Path, plan: Sequence[tuple[Input, Targets]], output: Path) -> list[str]:
    """What lies among the inputs and is not segmented, as notes for the report, which are warnings, too."""
    below = not any(entry.series for entry, _ in plan)  # pictures below DICOM are thumbnails
    unread = about_unread(unread_in(source, below=below, without=output))
    notes = [note for note in (unread, about_volumes(volumes_below(source, without=output))) if note]
    for note in notes:
        logger.warning("%s", note)
    return notes


def open_report(
    plan: Sequence[tuple[Input, Targets]], output: Path, options: Options, header: Mapping[str, Any]
) -> Report:
    """The report where `options` wants it; with `skip_existing` it goes on from what is there.

    What a killed run left half-written of these cases is removed.

    Raises:
        OutputError: it cannot be written.
    """
    path = options.report or (None if _is_file(output) else output / REPORT_FILE)
    remove_leftovers([*([path] if path else []), *(each for _, targets in plan for each in targets.paths())])
    return Report(path, header, [entry.id for entry, _ in plan], resume=options.skip_existing)


def _is_file(output: Path) -> bool:
    return (image_ending(output) != "" or output.suffix.lower() == ".dcm") and not output.is_dir()


def _file_format(output: Path, options: Options) -> str:
    """Of a single file: what its ending says, unless a format is asked for."""
    return format_of(output, None if options.formats[0] == AUTO else options.formats[0])


def check_output(source: Path, output: Path, options: Options) -> None:
    """Refuse before anything is computed what could only end in a lost or misnamed file.

    Raises:
        UsageError: it could.
    """
    unknown = [name for name in options.formats if name not in (AUTO, *FORMATS)]
    if unknown or not options.formats:
        what = f'"{unknown[0]}" is no output format.' if unknown else "No output format was given."
        raise UsageError(what, f"The formats are {AUTO}, {', '.join(FORMATS)}.")
    if source.resolve() == output.resolve():
        raise UsageError(
            f"{output} is input and output; images would be overwritten, or masks taken for images next time.",
            "Give another path with -o.",
        )
    if _is_file(output):
        _file_format(output, options)


def _targets(inputs: Sequence[Input], output: Path, options: Options, networks: int) -> list[Targets]:
    """Output files per case."""

    if _is_file(output):
        if len(inputs) > 1 or len(options.formats) > 1:
            raise UsageError(
                f"{output} is one file, but there are {len(inputs)} cases and {len(options.formats)} formats.",
                "Give a folder with -o.",
            )
        make_folder(output.parent)
        name = stem(output).removesuffix("_seg").removesuffix("_mask")
        return [
            replace(beside_masks(output.parent, name, options, networks), masks={_file_format(output, options): output})
        ]
    make_folder(output)
    return [targets_of(entry, output, options, networks) for entry in inputs]


def beside_masks(folder: Path, name: str, options: Options, networks: int) -> Targets:
    """The files of a case that are not its mask."""
    wanted = DOUBTS[: min(2, networks)] if options.uncertainty else ()
    return Targets(
        {},
        folder / f"{name}_prob.nii.gz" if options.probabilities else None,
        {doubt: folder / f"{name}_{doubt}.nii.gz" for doubt in wanted},
        folder / f"{name}_overlay.png" if options.overlay else None,
    )


def targets_of(entry: Input, output: Path, options: Options, networks: int) -> Targets:
    """The files that a case becomes in an output folder."""

    def masks(auto: str) -> dict[str, Path]:
        names = dict.fromkeys(auto if name == AUTO else name for name in options.formats)
        return {name: output / f"{entry.id}{FORMATS[name].suffix}" for name in names}

    others = beside_masks(output, entry.id, options, networks)
    if not entry.is_picture or AUTO not in options.formats:
        return replace(others, masks=masks(_VOLUME))
    return replace(others, masks=masks(_PICTURE), of_volume=masks(_VOLUME))


def header(models: Sequence[Model], facts: Mapping[str, Any]) -> dict[str, Any]:
    """All of a report but the cases.

    Args:
        models: of one task.
        facts: what is computed with: `device`, `precision` and `tta`.
    """
    spec = models[0].spec
    return {
        "format": 1,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "models": [{"path": str(model.path), "name": model.spec.name, "weights_sha256": model.id} for model in models],
        "labels": replace(models[0].labels, ignore=()).to_mapping(),  # a mask holds no unknown voxel
        **facts,
        "overlap": spec.inference.overlap,
        "postprocess": [step.model_dump(mode="json", exclude_none=True) for step in spec.postprocess],
        "notes": [] if any(model.spec.seen for model in models) else [_UNSEEN],
        "versions": library_versions(),
    }


def facts_of(predictor: Predictor) -> dict[str, Any]:
    """What is computed with."""
    return {
        "device": str(predictor.device),
        "precision": str(predictor.precision).removeprefix("torch."),
        "tta": predictor.tta,
    }
