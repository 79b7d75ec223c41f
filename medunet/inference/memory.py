"""Memory of this process, where the system tells, and sizes as users write them."""

from __future__ import annotations

import ctypes
import re
import sys
import threading
from contextlib import suppress
from pathlib import Path

from medunet.errors import UsageError

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def bytes_of(text: str) -> int:
    """`4GB`, `512 MB`, `1.5GiB` in bytes; GB is 10^9 bytes, GiB 2^30.

    Raises:
        UsageError: it is no size above 0.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([KMGT]I?|)B?", text.strip().upper())
    if match is None or float(match[1]) == 0:
        raise UsageError(f'"{text}" is no size of memory.', "Write a number and a unit, such as 4GB or 512MB.")
    return int(float(match[1]) * _UNITS[match[2]])


def as_size(count: int, *, up: bool = False) -> str:
    """Bytes for people, 3.2 GB or 120 MB; rounded down, or up where a number is what is needed."""
    unit, name = (10**8, "GB") if count >= 10**9 else (10**6, "MB")
    whole = -(-count // unit) if up else count // unit
    return f"{whole / 10:.1f} GB" if name == "GB" else f"{whole} MB"


def resident_bytes() -> int:
    """Main memory that this process holds now; what its heap only keeps for later is given back first (glibc)."""
    import psutil

    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def reset_peak() -> None:
    """Start measuring anew (Linux); elsewhere the peak stays that of the whole process."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return


def peak_bytes() -> int | None:
    """Largest resident size since `reset_peak`, or since the start of the process; None where it is unknown."""
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class PeakMeter:
    """Peak memory of this process during spans that overlap; safe to be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._peaks: dict[object, int | None] = {}

    def begin(self, span: object) -> None:
        """Measure from now on."""
        with self._lock:
            self._note()
            self._peaks[span] = None

    def end(self, span: object) -> int | None:
        """Largest resident size in bytes since `begin`; None where it is unknown."""
        with self._lock:
            self._note()
            return self._peaks.pop(span)

    def _note(self) -> None:
        """Give the peak so far to all open spans and start anew."""
        peak = peak_bytes()
        for span, before in self._peaks.items():
            self._peaks[span] = peak if before is None or peak is None else max(before, peak)
        reset_peak()
