"""What pyproject.toml asks for, constraints.txt pins, the code imports and `doctor` checks is one and the same."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from medunet.cli.doctor import OPTIONAL, REQUIRED

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"pydantic_core": "pydantic", "itk-core": "itk"}
"""A module that comes with a declared distribution under a name of its own."""

OPTIONAL_IMPORTS = {
    "pylibjpeg",
    "gdcm",
    "openjpeg",
    "rle",
    "jpeg_ls",
    "tensorboard",
    "mlflow",
    "onnxruntime",
    "nncf",
    "optuna",
    "ray",
}


def declared() -> dict[str, list[Requirement]]:
    """Requirements of the installed package by extra; the plain ones under ``."""
    result: dict[str, list[Requirement]] = {}
    for line in requires("medunet") or []:
        requirement = Requirement(line)
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        result.setdefault(extra[1] if extra else "", []).append(requirement)
    return result


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_pin_is_one_exact_version() -> None:
    loose = [str(pin) for pin in pins() if not re.fullmatch(r"==[\w.]+", str(pin.specifier))]
    assert loose == []
    assert len(pins()) > 60


def test_each_python_gets_one_pin_of_every_dependency() -> None:
    for version in ("3.10.0", "3.11.2", "3.11.9", "3.12.0", "3.13.0"):
        here = {"python_version": ".".join(version.split(".")[:2]), "python_full_version": version}
        chosen = [canonicalize_name(pin.name) for pin in pins() if pin.marker is None or pin.marker.evaluate(here)]
        assert len(chosen) == len(set(chosen))
        assert names([r for group in declared().values() for r in group]) - {"medunet"} <= set(chosen)


def test_every_pin_lies_in_its_declared_range() -> None:
    ranges = {canonicalize_name(r.name): r.specifier for group in declared().values() for r in group}
    outside = []
    for pin in pins():
        version = str(pin.specifier).removeprefix("==")
        allowed = ranges.get(canonicalize_name(pin.name))
        if allowed is not None and not allowed.contains(version, prereleases=True):
            outside.append(str(pin))
    assert outside == []


def test_doctor_checks_exactly_what_is_declared() -> None:
    assert {canonicalize_name(name) for name in REQUIRED} == names(declared()[""])
    for extra, listed in OPTIONAL.items():
        assert {canonicalize_name(name) for name in listed} == names(declared()[extra])


def test_every_import_belongs_to_a_declared_dependency() -> None:
    owners = packages_distributions()
    allowed = names(declared()[""])
    strangers = set()
    for file in (ROOT / "medunet").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            tops = {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names) - {"medunet"}
            for top in tops - OPTIONAL_IMPORTS:
                if not {canonicalize_name(PARTS.get(owner, owner)) for owner in owners.get(top, [])} & allowed:
                    strangers.add(f"{file.relative_to(ROOT)}: {top}")
    assert strangers == set()
