"""`medunet predict`: masks for files, folders and DICOM exports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medunet.cli.options import ColourOption, IrregularOption, SeriesOption, VolumeOption, seconds_from, selection_of

if TYPE_CHECKING:
    from medunet.inference.report import CaseReport


def predict(
    model: Annotated[
        list[Path], typer.Option("--model", "-m", help="Model folder or zip; several are averaged.", show_default=False)
    ],
    source: Annotated[
        Path,
        typer.Option(
            "--input", "-i", metavar="INPUT", help="Image file, DICOM folder, or a folder of them.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUTPUT",
            help="File for one case, or folder for CASE_seg.nii.gz (pictures: CASE_mask.png) and predict.json.",
            show_default=False,
        ),
    ],
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="auto, png, nifti, nrrd, dicom-seg (also -labelmap, -fractional, -grid), rtstruct, dicom-sr, "
            "dicom-preview.",
        ),
    ] = "auto",
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    engine: Annotated[str, typer.Option("--engine", help="auto, torch, openvino, openvino-int8 or onnx.")] = "auto",
    tta: Annotated[
        bool | None, typer.Option("--tta/--no-tta", help="Average over mirrored views; default: as the model says.")
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option("--memory-limit", metavar="SIZE", help="Most memory to take, such as 4GB; default: what is free."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change inference.*, postprocess or terms.*."),
    ] = None,
    series: SeriesOption = None,
    volume: VolumeOption = None,
    irregular: IrregularOption = "refuse",
    colour: ColourOption = "refuse",
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Write CASE_prob.nii.gz, one volume per label.")
    ] = False,
    save_uncertainty: Annotated[
        bool, typer.Option("--save-uncertainty", help="Write CASE_entropy.nii.gz, and where networks disagree.")
    ] = False,
    overlay: Annotated[bool, typer.Option("--overlay", help="Write CASE_overlay.png, the mask on the image.")] = False,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave finished cases alone.")] = False,
    report: Annotated[Path | None, typer.Option("--report", help="Where the JSON report goes.")] = None,
    show_identifiers: Annotated[
        bool, typer.Option("--show-identifiers", help="Write UIDs and Patient IDs into the report.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay, and segment what comes into the folder, until stopped.")
    ] = False,
    settle: Annotated[
        float, typer.Option("--settle", metavar="SECONDS", help="With --watch: no change for so long is complete.")
    ] = 5.0,
    monitor: Annotated[
        str,
        typer.Option("--monitor", metavar="TIME", help="A line about the machine after each such time; 0: none."),
    ] = "60s",
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="Use a Ray cluster: HOST:PORT, or auto.")
    ] = None,
) -> None:
    """Segment images; masks lie on exactly the grid that came in.

    Prints the paths of the masks. Exit code 3: some cases failed (see predict.json), the others are written.
    """
    from medunet.cli.startup import importing

    with importing():
        from medunet.cli.progress import counted
        from medunet.inference.batch import Options
        from medunet.inference.batch import predict as run
        from medunet.inference.predictor import Predictor
        from medunet.model import load_model

    options = Options(
        formats=tuple(part.strip() for part in formats.split(",") if part.strip()),
        selection=selection_of(series, volume, irregular, colour),
        probabilities=save_probabilities,
        uncertainty=save_uncertainty,
        overlay=overlay,
        skip_existing=skip_existing,
        report=report,
        show_identifiers=show_identifiers,
        monitor=seconds_from("--monitor", "0s" if monitor == "0" else monitor) or 0.0,
    )
    models = [load_model(path) for path in model]
    if overrides:
        models = [loaded.changed(overrides) for loaded in models]
    settings: dict[str, Any] = {"device": device, "tta": tta, "engine": engine, "memory_limit": memory_limit}
    if watch:
        _watch(Predictor(models, **settings), source, output, options, settle, ray)
        return
    with counted("cases", rate=True) as advance:

        def progress(done: int, total: int, _: object) -> None:
            advance(done, total)

        if ray is None:
            reports = run(Predictor(models, **settings), source, output, options, progress=progress)
        else:
            from medunet.inference.cluster import predict_on_cluster as on_cluster

            reports = on_cluster(models, source, output, options, address=ray, settings=settings, progress=progress)
    _finish(reports)


def _finish(reports: list[CaseReport]) -> None:
    """Print each mask; the exit code tells of cases that failed."""
    failed = [entry for entry in reports if entry.status == "failed"]
    for entry in reports:
        for written in entry.outputs:
            print(written["path"])
    if failed and len(reports) > 1:
        print(f"medunet: {len(failed)} of {len(reports)} cases failed.", file=sys.stderr)
    if failed:
        raise typer.Exit(1 if len(failed) == len(reports) else 3)


def _watch(predictor: Any, source: Path, output: Path, options: Any, settle: float, ray: str | None) -> None:
    """Print each mask as it is written."""
    from medunet.errors import UsageError
    from medunet.inference.watch import watch

    if ray is not None:
        raise UsageError("--watch works on one machine, not with --ray.", "Leave one of them out.")

    def told(report: Any) -> None:
        for written in report.outputs:
            print(written["path"], flush=True)

    watch(predictor, source, output, options, settle=settle, told=told)
