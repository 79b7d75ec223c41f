"""Damages DICOM objects and reads them: `python dicom_mutants.py FIRST COUNT [FOLDER OF MORE SEEDS]`.

A script and not a fixture, because a decoder may take its process down. Mutant number N is made from N alone. All are
read as a user's calls would, in forks of this process with 2 GB to themselves and some seconds for each. Prints one
JSON object: how the mutants ended, and of each that did not end in a volume, a mask or an error of medunet, what
happened. `python dicom_mutants.py N 1` does that one again.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from dicom_damage import damaged
from dicom_seeds import write_seeds

from medunet.errors import MedunetError
from medunet.io.describe.path import describe
from medunet.io.dicom import Series, read_dicom, scan
from medunet.io.dicom.contoured import read_rtstruct
from medunet.io.dicom.segments import read_seg
from medunet.io.selection import Selection

CPU_SECONDS, SECONDS = 5, 60
MEMORY = 2 * 10**9
_SMALL = 80_000
_FILES = 4
_EVERYWHERE = 0.3
"""How often all files of a series get the same damage."""


@dataclass
class Tally:
    """What became of the mutants.

    Attributes:
        ended: how often each call ended how.
        mutants: how they ended as a whole: in something that was read, or in errors only.
        failures: of those that ended in neither.
        peak_mb: most memory above that of an idle process.
        slowest_s: seconds of CPU of the slowest mutant, and its number.
    """

    ended: dict[str, Counter[str]] = field(default_factory=dict)
    mutants: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    peak_mb: float = 0.0
    slowest_s: tuple[float, int] = (0.0, -1)

    def add(self, number: int, told: dict[str, Any]) -> None:
        """Count one mutant."""
        for call, how in told["ended"].items():
            self.ended.setdefault(call, Counter())[how] += 1
        if told["failures"]:
            self.failures.append({"number": number, "seed": told["seed"], "what": told["failures"]})
        read = any(how in ("a volume", "a mask") for how in told["ended"].values())
        self.mutants["failed" if told["failures"] else "read" if read else "refused"] += 1
        self.peak_mb = max(self.peak_mb, told["peak_mb"])
        self.slowest_s = max(self.slowest_s, (told["seconds"], number))


class Seeds:
    """The objects that mutants are made of, by name; files by name, each as bytes."""

    def __init__(self, folder: Path, more: Path | None) -> None:
        write_seeds(folder)
        found = {path.name: self._files(path) for path in sorted(folder.iterdir())}
        if more is not None:
            for path in sorted({file.parent for file in more.rglob("*") if file.is_file()}):
                found |= {str(path.relative_to(more)): files for files in [self._files(path)] if files}
        self.files = found
        self.names = list(found)
        self.tails = [content for files in found.values() for content in files.values()]
        (self.series,) = scan(folder / "rtstruct").series

    @staticmethod
    def _files(folder: Path) -> dict[str, bytes]:
        small = [path for path in sorted(folder.iterdir()) if path.is_file() and path.stat().st_size < _SMALL]
        return {path.name: path.read_bytes() for path in small[:_FILES]}

    def mutant(self, number: int, folder: Path) -> tuple[str, list[Path]]:
        """Write mutant `number` into a folder; its seed, and the files that were damaged."""
        rng = random.Random(number)
        name = self.names[number % len(self.names)]
        files = self.files[name]
        chosen = list(files) if rng.random() < _EVERYWHERE else [rng.choice(list(files))]
        if {"seg", "rtstruct"} & files.keys() and rng.random() < 0.8:
            chosen = [next(file for file in ("seg", "rtstruct") if file in files)]
        state = rng.getstate()
        for file, content in files.items():
            rng.setstate(state)
            (folder / file).write_bytes(damaged(content, rng, self.tails) if file in chosen else content)
        return name, [folder / file for file in chosen]


def _checked_volume(folder: Path, selection: Selection) -> str:
    volume = read_dicom(folder, selection)
    assert volume.array.shape[1:] == volume.geometry.shape
    assert np.isfinite(volume.array).all()
    return "a volume"


def _checked_mask(read: Callable[..., Any], *arguments: object) -> str:
    mask = read(*arguments)
    assert mask.array.shape == mask.geometry.shape
    return "a mask"


def calls(folder: Path, file: Path, series: Series) -> Iterator[tuple[str, Callable[[], str]]]:
    """What users do with a folder and with the file in it that was damaged."""
    yield "scan", lambda: f"{min(len(scan(folder).series), 1)} series or more"
    yield "read_dicom", lambda: _checked_volume(folder, Selection())
    yield "read_dicom, largest", lambda: _checked_volume(folder, Selection("largest"))
    yield "read_dicom of one file, resampled", lambda: _checked_volume(file, Selection("largest", "resample"))
    yield "read_seg", lambda: _checked_mask(read_seg, file)
    yield "read_rtstruct", lambda: _checked_mask(read_rtstruct, file, series)
    yield "describe", lambda: "described" if describe(folder).facts else "described as nothing"
    yield "describe of one file", lambda: "described" if describe(file).facts else "described as nothing"


def _out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def read(folder: Path, file: Path, series: Series) -> tuple[dict[str, str], list[str]]:
    """How each call ended, and what is no way to end."""
    ended, failures = {}, []
    for name, call in calls(folder, file, series):
        try:
            ended[name] = call()
        except MedunetError as error:
            ended[name] = type(error).__name__
            if _out_of_memory(error):
                failures.append(f"{name}: out of memory: {error}")
        except Exception as error:  # the very thing that is looked for
            ended[name] = "a traceback"
            failures.append(f"{name}: {''.join(traceback.format_exception(error)[-4:])}")
    return ended, failures


def _status(key: str) -> int:
    """Bytes out of /proc/self/status."""
    with open("/proc/self/status") as handle:
        return next(int(line.split()[1]) * 1024 for line in handle if line.startswith(key + ":"))


def work(numbers: range, seeds: Seeds, out: BinaryIO) -> None:
    """In a process of its own: read mutants, and write a line before and after each."""
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    idle = _status("VmRSS")
    for number in numbers:
        out.write(f"{number}\n".encode())
        out.flush()
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        began = time.process_time()
        with tempfile.TemporaryDirectory() as name:
            seed, files = seeds.mutant(number, Path(name))
            ended, failures = read(Path(name), files[0], seeds.series)
        told = {
            "seed": seed,
            "ended": ended,
            "failures": failures,
            "seconds": round(time.process_time() - began, 3),
            "peak_mb": max(0, _status("VmHWM") - idle) / 1e6,
        }
        out.write(json.dumps(told).encode() + b"\n")
        out.flush()
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)


def fork(numbers: range, seeds: Seeds) -> tuple[int, BinaryIO]:
    """A process that works through numbers, and what it writes. What codecs print is thrown away."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.dup2(os.open(os.environ.get("DICOM_MUTANTS_STDERR", os.devnull), os.O_WRONLY | os.O_APPEND), 2)
        with os.fdopen(writing, "wb") as out:
            work(numbers, seeds, out)
        os._exit(0)
    os.close(writing)
    return child, os.fdopen(reading, "rb")


def run(first: int, count: int, seeds: Seeds) -> Tally:
    """Read mutants; after a crash, go on with the next in another process."""
    tally, number = Tally(), first
    while number < first + count:
        child, lines = fork(range(number, first + count), seeds)
        begun = -1
        with lines:
            for line in lines:
                if line.startswith(b"{"):
                    tally.add(begun, json.loads(line))
                    number = begun + 1
                else:
                    begun = int(line)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code or number <= begun:
            ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            tally.failures.append({"number": begun, "seed": seeds.names[begun % len(seeds.names)], "what": [ended]})
            tally.mutants["failed"] += 1
            number = begun + 1
    return tally


def main() -> None:
    first, count = int(sys.argv[1]), int(sys.argv[2])
    more = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seeds = Seeds(Path(folder), more)
        gc.freeze()
        tally = run(first, count, seeds)
    told = vars(tally) | {
        "seeds": len(seeds.names),
        "seconds": round(time.monotonic() - began, 1),
        "torch": "torch" in sys.modules,
    }
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    sys.exit(bool(tally.failures))


if __name__ == "__main__":
    main()
