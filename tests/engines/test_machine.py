"""What the machine offers, read from files of the system."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from medunet.engines import machine


@pytest.mark.parametrize(("limit", "cores"), [("max 100000", 8), ("150000 100000", 1.5), ("200000 100000", 2), ("", 8)])
def test_the_quota_of_a_container_counts(monkeypatch, limit, cores):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "_text", lambda path: limit if path.name == "cpu.max" else "")
    assert machine.usable_cores() == cores


@pytest.mark.parametrize(
    ("flags", "bf16"),
    [("avx2 amx_bf16 avx512_bf16", "native (AMX)"), ("avx512_bf16", "native (AVX-512)"), ("", "emulated")],
)
def test_the_processor_tells_how_it_computes_bf16(monkeypatch, flags, bf16):
    info = f"model name\t: Xeon\nflags\t\t: fpu {flags}\n"
    monkeypatch.setattr(machine, "_text", lambda path: info if path.name == "cpuinfo" else "")
    found = machine.processor()
    assert (found["model"], found["bf16"]) == ("Xeon", bf16)


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [("max", "100", 800), ("500", "100", 400), ("5000", "100", 800), ("500", "600", 0), ("", "", 800)],
)
def test_the_memory_limit_of_a_container_counts(monkeypatch, limit, used, free):
    texts = {"memory.max": limit, "memory.current": used}
    monkeypatch.setattr(machine, "_text", lambda path: texts[path.name])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=800))
    assert machine.available_bytes() == free


def test_no_more_memory_is_available_than_there_is():
    assert 0 < machine.available_bytes() <= psutil.virtual_memory().total
