"""`make bench-networks`: trains every network on the hippocampus and writes the table of docs/networks.md.

Each network is trained from configs/hippocampus/NAME.yaml in a process of its own, one after the other, so that times
are not shared and peak memory is that of one network. A network that fails stands in the table with its reason.

    python tests/benchmarks/networks.py --data /data/Task04_Hippocampus [--only unet,vnet] [--iterations 200] [--print]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "networks.md"
START, END = "<!-- measured: start -->", "<!-- measured: end -->"
MIB = 2**20


def measure(name: str, data: str, iterations: int) -> dict[str, Any]:
    """Train one network here and give its row."""
    import torch

    from medunet.config.load import load_config
    from medunet.engines.device import resolve_precision
    from medunet.labels import LabelMap
    from medunet.networks.forecast import Work, forecast
    from medunet.training.costs import training_forecast
    from medunet.training.observe import Observer, Step
    from medunet.training.run import train

    class Watch(Observer):
        """When the steps were done."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def step(self, step: Step) -> None:  # noqa: ARG002
            self.times.append(time.monotonic())

    per_epoch = max(1, iterations // 2)
    config = load_config(
        f"hippocampus/{name}.yaml", data=data, overrides=[f"train.iterations_per_epoch={per_epoch}", "train.epochs=2"]
    )
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, Path(folder) / "run", device="cpu", observer=watch)
    gaps = [b - a for a, b in zip(watch.times, watch.times[1:], strict=False)]
    cpu = torch.device("cpu")
    cost = training_forecast(config, cpu)
    outputs = LabelMap.from_mapping(config.labels).outputs
    single = forecast(config.network, len(config.data.modality), outputs, Work(size=config.train.patch_size))
    return {
        "name": name,
        "patch": "x".join(map(str, config.train.patch_size)),
        "batch": config.train.batch_size,
        "precision": str(resolve_precision(config.train.precision, cpu)).removeprefix("torch."),
        "parameters": cost.parameters,
        "gflop": single.flops / 1e9,
        "seconds": statistics.median(gaps) if gaps else None,
        "measured": memory_of_a_step(config),
        "forecast": cost.total_bytes,
        "dice": result.validation.mean if result.validation else None,
        "iterations": len(watch.times),
    }


def memory_of_a_step(config: Any) -> int:
    """Bytes that training steps take, measured in a process of their own (`memory_of.py`)."""
    train = config.train
    case = {
        "network": config.network.model_dump(mode="json"),
        "size": list(train.patch_size),
        "batch": train.batch_size,
        "training": True,
        "precision": train.precision,
        "optimizer": train.optimizer.name,
    }
    command = [sys.executable, str(Path(__file__).with_name("memory_of.py")), json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["bytes"])


def row(entry: dict[str, Any]) -> str:
    """One line of the table."""
    if "error" in entry:
        return f"| `{entry['name']}` | failed: {entry['error']} | | | | | | |"
    return (
        f"| `{entry['name']}` | {entry['batch']} x {entry['patch']} "
        f"| {entry['parameters'] / 1e6:.2f} | {entry['gflop']:.1f} | "
        f"{entry['seconds']:.2f} | {entry['measured'] / MIB:.0f} | {entry['forecast'] / MIB:.0f} "
        f"({entry['forecast'] / entry['measured']:.2f}) | {entry['dice']:.3f} |"
    )


def table(entries: list[dict[str, Any]], command: str) -> str:
    """Heading, rows, and how they were made."""
    good = [entry for entry in entries if "error" not in entry]
    steps = sorted({entry["iterations"] for entry in good})
    precisions = ", ".join(sorted({entry["precision"] for entry in good}))
    lines = [
        "| network | batch x patch | parameters (M) | GFLOP per patch | s/iteration | memory (MiB) "
        "| forecast (MiB, ratio) | Dice |",
        "|---|---|---|---|---|---|---|---|",
        *(row(entry) for entry in entries),
        "",
        f"Made with `{command}` ({', '.join(map(str, steps))} iterations, {precisions}) on {machine()}.",
    ]
    return "\n".join(lines)


def machine() -> str:
    """Processor and cores."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores of {model}, torch {_version('torch')}, MONAI {_version('monai')}"


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def in_a_process(name: str, data: str, iterations: int) -> dict[str, Any]:
    """`measure` in a fresh Python."""
    command = [sys.executable, __file__, "--measure", name, "--data", data, "--iterations", str(iterations)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"name": name, "error": (done.stderr.strip().splitlines() or ["no message"])[-1][:160]}
    entry: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return entry


def networks() -> list[str]:
    """Those of the registry that have a configuration, in its order; all must have one."""
    from medunet.networks.registry import NETWORKS

    return list(NETWORKS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("HIPPOCAMPUS"), help="Task04_Hippocampus")
    parser.add_argument("--only", default="", help="names, separated by commas; the page is left alone")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--print", action="store_true", help="leave the page alone")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.data or not Path(given.data).is_dir():
        parser.error("--data must be the folder of Task04_Hippocampus (or set HIPPOCAMPUS).")
    if given.measure:
        print(json.dumps(measure(given.measure, given.data, given.iterations)))
        return
    names = given.only.split(",") if given.only else networks()
    entries = []
    for name in names:
        entries.append(in_a_process(name, given.data, given.iterations))
        print(row(entries[-1]), flush=True)
    text = table(entries, "make bench-networks")
    if given.print or given.only:
        print(text)
        return
    page = PAGE.read_text(encoding="utf-8")
    head, tail = page.split(START)[0], page.split(END)[1]
    PAGE.write_text(f"{head}{START}\n\n{text}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
