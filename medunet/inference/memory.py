"""Peak memory of this process, where the system tells."""

from __future__ import annotations

import sys
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
