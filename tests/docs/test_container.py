"""The container's recipe: the same installation as a checkout, and no root inside."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", RECIPE, flags=re.MULTILINE)


def test_there_is_a_target_with_and_one_without_cuda() -> None:
    assert {"cpu", "cuda"} <= {line.split(" AS ")[-1] for line in instructions("FROM")}


def test_the_user_is_not_root() -> None:
    assert instructions("USER")
    assert not {"root", "0"} & {line.split(":")[0] for line in instructions("USER")}


def test_the_makefile_installs_and_nothing_else_does() -> None:
    assert any("make setup" in line for line in instructions("RUN"))
    assert "pip install" not in RECIPE


def test_the_entry_point_is_the_command() -> None:
    assert instructions("ENTRYPOINT") == ['["medunet"]']


def test_what_is_copied_exists_and_is_sent_to_the_engine() -> None:
    copied = [part for line in instructions("COPY") if "--from" not in line for part in line.split()[:-1]]
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied
    assert [name for name in copied if not (ROOT / name).exists() or f"!{name}" not in sent] == []
