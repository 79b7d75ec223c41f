"""Peak memory of this process, where the system tells."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


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
