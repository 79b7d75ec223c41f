"""What this machine offers: processor, memory, devices, disks. Writes nothing."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

_FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
_CGROUP = Path("/sys/fs/cgroup")


def processor() -> dict[str, Any]:
    """Model, cores that this process may use, and the instructions that make networks fast."""
    model, flags = platform.processor() or platform.machine(), ""
    info = _text(Path("/proc/cpuinfo"))
    for line in info.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name in ("model name", "Model"):
            model = value
        elif name in ("flags", "Features"):
            flags = value
    here = set(flags.split())
    return {
        "model": model,
        "cores": usable_cores(),
        "features": [name for name in _FEATURES if name in here] or None,
        "bf16": "native (AMX)" if "amx_bf16" in here else "native (AVX-512)" if "avx512_bf16" in here else "emulated",
    }


def usable_cores() -> float:
    """Cores, by the process's affinity and the container's quota."""
    cores: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _text(_CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cores = min(cores, round(int(quota) / int(period), 1))
    return int(cores) if cores == int(cores) else cores


def memory() -> dict[str, Any]:
    """Main memory in GB (10^9 bytes), and the limit of the container if there is one."""
    import psutil

    state = psutil.virtual_memory()
    limit = _text(_CGROUP / "memory.max").strip()
    return {
        "total_GB": round(state.total / 1e9, 1),
        "free_GB": round(state.available / 1e9, 1),
        "container_limit_GB": round(int(limit) / 1e9, 1) if limit.isdigit() else None,
    }


def available_bytes() -> int:
    """Main memory that can still be taken, by the system and by the container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = _text(_CGROUP / "memory.max").strip(), _text(_CGROUP / "memory.current").strip()
    return max(0, min(free, int(limit) - int(used))) if limit.isdigit() and used.isdigit() else free


def devices() -> list[dict[str, Any]]:
    """Accelerators that torch sees."""
    import torch

    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        found.append(
            {
                "device": f"cuda:{index}",
                "name": properties.name,
                "memory_GB": round(properties.total_memory / 1e9, 1),
                "capability": f"{properties.major}.{properties.minor}",
            }
        )
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": platform.processor(), "memory_GB": None, "capability": None})
    return found


def nvidia_driver() -> bool:
    """Whether the driver of an NVIDIA card is loaded (Linux)."""
    return Path("/proc/driver/nvidia/version").exists()


def disks() -> list[dict[str, Any]]:
    """Free space where results and temporary files go."""
    rows = []
    for what, path in (("current folder", Path.cwd()), ("temporary files", temporary_folder())):
        try:
            free: float | None = round(shutil.disk_usage(path).free / 1e9, 1)
        except OSError:
            free = None
        rows.append({"disk": what, "free_GB": free, "path": str(path)})
    return rows


def temporary_folder() -> Path:
    """As `tempfile.gettempdir`, which however writes a file to try it."""
    for name in ("TMPDIR", "TEMP", "TMP"):
        value = os.environ.get(name)
        if value and Path(value).is_dir():
            return Path(value)
    return Path("/tmp")  # noqa: S108 - looked at, never written


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
