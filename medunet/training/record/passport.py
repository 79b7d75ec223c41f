"""run.json: what a run was made with. Command, code, versions, machine, data; one entry per start.

Knows nothing of how the run goes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from medunet.atomic import write_json
from medunet.config.schema import Config
from medunet.engines.device import resolve_precision
from medunet.io.check import CaseStatistics
from medunet.model import library_versions

logger = logging.getLogger("medunet")

RUN_FILE = "run.json"

_PASSWORD = re.compile(r"//[^/@\s]*@")
_PACKAGE = Path(__file__).resolve().parents[2]

_MORE_VERSIONS = ("scipy", "nibabel", "SimpleITK", "pydicom", "safetensors")


def write_passport(
    folder: Path, config: Config, device: torch.device, statistics: Sequence[CaseStatistics]
) -> dict[str, Any]:
    """Add an entry to run.json and return it; a warning if the data is no longer that of the entry before.

    Args:
        folder: of the run.
        config: what is trained.
        device: where.
        statistics: of all cases, with the hashes of their files.

    Raises:
        OutputError: the file cannot be written.
    """
    earlier = read_passports(folder)
    data = {"root": str(Path(config.data.root).absolute()), "cases": len(statistics), "sha256": fingerprint(statistics)}
    entry: dict[str, Any] = {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": [_PASSWORD.sub("//", word) for word in sys.argv],
        "git": git_state(),
        "versions": versions(),
        "platform": platform.platform(),
        "hardware": hardware(device),
        "device": str(device),
        "processes": int(os.environ.get("WORLD_SIZE") or 1),
        "precision": str(resolve_precision(config.train.precision, device)).removeprefix("torch."),
        "seed": config.seed,
        "deterministic": config.deterministic,
        "data": data,
    }
    if earlier and earlier[-1].get("data", {}).get("sha256") != data["sha256"]:
        logger.warning("The files of the data set are not those that this run was started with (see %s).", RUN_FILE)
    write_json(folder / RUN_FILE, {"starts": [*earlier, entry]})
    return entry


def read_passports(folder: Path) -> list[dict[str, Any]]:
    """The entries of run.json, first start first; none where it is missing or damaged."""
    try:
        starts = json.loads((folder / RUN_FILE).read_bytes())["starts"]
        return [dict(entry) for entry in starts]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def fingerprint(statistics: Sequence[CaseStatistics]) -> str:
    """SHA-256 over ids and hashes of the cases, in the order of the ids."""
    lines = sorted(f"{entry.id} {entry.sha256}\n" for entry in statistics)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of Python, medunet and the libraries that decide a result."""
    found = library_versions()
    for name in _MORE_VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    cuda = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version() if torch.version.cuda else None}
    return found | {name: str(value) for name, value in cuda.items() if value is not None}


def git_state(package: Path = _PACKAGE) -> dict[str, Any] | None:
    """Commit and whether files were changed since, if the package lies in a checkout; None otherwise.

    Args:
        package: folder of the package.
    """
    root = package.parent
    if not (root / ".git").exists():
        return None

    def ask(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        changed = ask("status", "--porcelain", "--untracked-files=no", "--", package.name)
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None


def hardware(device: torch.device) -> Mapping[str, Any]:
    """Processor, cores that this process may use, torch's threads (sums depend on their number), memory in GB, GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_GB": round(psutil.virtual_memory().total / 1e9, 1),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "gpu_memory_GB": round(properties.total_memory / 1e9, 1)}
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
