"""`medunet demo`: see everything once, on synthetic patients."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medunet.demo.run import DemoResult

_NEXT = """
What next, on real data:
  medunet info DATASET                                    is the data set healthy?
  medunet train --config ct_liver.yaml --data DATASET     train on Decathlon Task03 or your own
  medunet predict -m runs/ct_liver/model -i EXPORT -o OUT segment a scanner's export
  medunet config show ct_liver.yaml > mine.yaml           start a config of your own"""


def demo(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for everything the demo makes; default demo-out or telemetry.")
    ] = None,
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    telemetry: Annotated[
        bool, typer.Option("--telemetry", help="Only draw pictures of server telemetry, a data set to train on.")
    ] = False,
) -> None:
    """Train on synthetic CTs, segment a DICOM export, score and draw it: about two minutes on two cores."""
    if telemetry:
        from medunet.demo.pictures import write_telemetry

        print(write_telemetry(out or Path("telemetry")))
        return
    from medunet.cli.progress import training_bar
    from medunet.demo.run import run_demo

    with training_bar() as observer:
        result = run_demo(
            out or Path("demo-out"),
            device=device,
            observer=observer,
            say=lambda sentence: print(sentence, file=sys.stderr, flush=True),
        )
    _print(result)


def _print(result: DemoResult) -> None:
    print(f"\nHeld-out patient, {result.seconds:.0f} s in all:")
    for row in result.evaluation.rows:
        score = row.score
        if score is None or score.dice is None:
            print(f"  {row.label:<10} {row.status}")
            continue
        volumes = f"{score.prediction_ml:7.1f} ml (truth {score.reference_ml:.1f} ml)"
        print(f"  {row.label:<10} Dice {score.dice:.3f}   {volumes}")
    if any(row.score is not None and (row.score.dice or 0.0) < 0.5 for row in result.evaluation.rows):
        print("  (What is small needs a longer training than a demo's: medunet train ... --set train.budget=30min)")
    print(f"\nMask      {result.mask}")
    print(f"Pictures  {', '.join(str(path) for path in result.pictures)}")
    print(f"Model     {result.training.model}")
    print(_NEXT)
