"""Who may import whom, read from the source with `ast`: nothing is imported, so lazy imports count too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "medunet"

LAYERS = (
    ("atomic", "environment", "errors", "geometry", "hashing", "labels", "mirror"),
    ("config",),
    ("io",),
    ("export", "losses", "metrics", "networks", "postprocess", "sliding_window", "transforms"),
    ("engines", "model"),
    ("evaluation", "inference", "planning", "training"),
    ("demo", "interop", "report", "service"),
    ("cli",),
    ("__main__",),
)
"""The packages and single modules of each layer; one may import from the layers above it in this table."""

FLOOR = "errors"
"""The exception tree, which the rest of layer 0 may import too."""

ALLOWED = {
    0: {"numpy"},
    1: {"numpy", "pydantic", "pydantic_core", "yaml"},
    2: {
        "numpy",
        "scipy",
        "pydantic",
        "pydantic_core",
        "yaml",
        "nibabel",
        "SimpleITK",
        "itk",
        "pydicom",
        "PIL",
        "tifffile",
    },
}
"""All that the lowest layers may import from outside, beside the standard library."""

FORBIDDEN = {"torch": {"export"}, "monai": {"export"}, "ignite": {"export"}}
"""What single packages above layer 2 may not import."""

FREE_TO_COMPUTE = {"", "cli"}
"""Who may import a module whose name is not a literal: the public door and the top layer."""

ONLY_CLI = {"typer", "rich", "click"}

LAYER_OF = {unit: number for number, units in enumerate(LAYERS) for unit in units}
LAZY_DOOR = {"__getattr__", "__dir__"}


def unit_of(module: str) -> str:
    """`medunet.io.files` belongs to the unit `io`; the top package itself to ``."""
    return module.split(".")[1] if "." in module else ""


def module_name(file: Path, root: Path) -> str:
    parts = [root.name, *file.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and module of every import: statements anywhere, `import_module` calls with a literal name.

    `from medunet import x` is given as `medunet`, a relative import as its dots and name, a computed
    `import_module` as `?`.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
            name = node.args[0] if node.args else None
            yield node.lineno, str(name.value) if isinstance(name, ast.Constant) else "?"


def import_problem(unit: str, target: str) -> str:
    """Why a module of `unit` may not import `target`, or an empty string."""
    top = target.split(".", maxsplit=1)[0]
    if target.startswith("."):
        return f"relative import {target}"
    if target == "?":
        return "" if unit in FREE_TO_COMPUTE else "import_module with a computed name"
    if target == "medunet":
        return "import from the public door; import from the module that defines the name"
    if not unit or unit not in LAYER_OF:
        return ""
    if top == "medunet":
        return _inner_problem(unit, unit_of(target))
    return _outer_problem(unit, top)


def _inner_problem(unit: str, other: str) -> str:
    if other in {unit, FLOOR}:
        return ""
    if other not in LAYER_OF:
        return f"medunet.{other} is in no layer"
    if LAYER_OF[other] < LAYER_OF[unit]:
        return ""
    return f"{unit} (layer {LAYER_OF[unit]}) imports {other} (layer {LAYER_OF[other]})"


def _outer_problem(unit: str, top: str) -> str:
    if top in sys.stdlib_module_names:
        return ""
    allowed = ALLOWED.get(LAYER_OF[unit])
    cli_only = top in ONLY_CLI and unit != "cli"
    if cli_only or unit in FORBIDDEN.get(top, ()) or (allowed is not None and top not in allowed):
        return f"{unit} (layer {LAYER_OF[unit]}) may not import {top}"
    return ""


def door_problems(tree: ast.Module, is_top: bool) -> Iterator[tuple[int, str]]:
    """What an `__init__.py` holds beyond its docstring, imports, `__all__` and one literal table."""
    tables = 0
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if is_top and isinstance(node, ast.FunctionDef) and node.name in LAZY_DOOR:
            continue
        if is_top and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Assign | ast.AnnAssign):
            name = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            if name == "__all__" or (is_top and name == "__version__"):
                continue
            if isinstance(node.value, ast.Dict | ast.Tuple | ast.List | ast.Set):
                tables += 1
                if tables == 1:
                    continue
        yield node.lineno, f"__init__.py holds more than re-exports and one table: {ast.unparse(node).splitlines()[0]}"


def problems(root: Path) -> list[str]:
    """Every breach below the package folder `root`, as `file:line: what`."""
    found = []
    for file in sorted(root.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        unit = unit_of(module_name(file, root))
        here: list[tuple[int, str]] = [(line, import_problem(unit, target)) for line, target in imports(tree)]
        if unit and unit not in LAYER_OF:
            here.append((1, f"medunet.{unit} is in no layer"))
        if file.name == "__init__.py":
            here.extend(door_problems(tree, is_top=not unit))
        found += [f"{file.relative_to(root)}:{line}: {text}" for line, text in here if text]
    return found


def test_every_import_goes_down_the_layers() -> None:
    assert problems(PACKAGE) == []


def test_the_guard_saw_the_package() -> None:
    files = list(PACKAGE.rglob("*.py"))
    seen = {target for file in files for _, target in imports(ast.parse(file.read_text(encoding="utf-8")))}
    assert len(files) > 30
    assert {"numpy", "torch", "typer", "medunet.errors", "medunet.geometry"} <= seen


def test_each_unit_stands_in_one_layer() -> None:
    assert len(LAYER_OF) == sum(map(len, LAYERS))


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package that breaks no rule."""
    root = tmp_path / "medunet"
    lines = {
        "__init__.py": '"""Door."""\n_PUBLIC = {"a": "medunet.io"}\n__all__ = ["a"]\ndef __getattr__(name): ...\n',
        "errors.py": "class MedunetError(Exception): ...\n",
        "geometry.py": "import numpy as np\nimport math\nfrom medunet.errors import MedunetError\n",
        "io/__init__.py": "from medunet.io.files import read\n__all__ = ['read']\nREADERS = {'nifti': read}\n",
        "io/files.py": "import nibabel\nfrom medunet.geometry import np\ndef read(): ...\n",
        "networks/unet.py": "import torch\nfrom medunet.errors import MedunetError\n",
        "cli/main.py": "import typer\ndef run():\n    from medunet.networks.unet import torch\n",
    }
    for name, text in lines.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_house_in_order_is_not_reported(house: Path) -> None:
    assert problems(house) == []


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("geometry.py", "from medunet.io.files import read", "geometry (layer 0) imports io (layer 2)"),
        ("geometry.py", "from medunet.labels import LabelMap", "geometry (layer 0) imports labels (layer 0)"),
        ("networks/unet.py", "from medunet.losses import dice", "networks (layer 3) imports losses (layer 3)"),
        ("networks/unet.py", "import medunet.cli.main", "networks (layer 3) imports cli (layer 7)"),
        ("networks/unet.py", "def f():\n    from medunet.model import load", "networks (layer 3) imports model"),
        (
            "networks/unet.py",
            "if TYPE_CHECKING:\n    from medunet.model import Model",
            "networks (layer 3) imports model",
        ),
        ("networks/unet.py", "importlib.import_module('medunet.model')", "networks (layer 3) imports model"),
        ("networks/unet.py", "import_module(name)", "computed name"),
        ("networks/unet.py", "from . import blocks", "relative import"),
        ("networks/unet.py", "from ..errors import MedunetError", "relative import"),
        ("networks/unet.py", "from medunet import Volume", "public door"),
        ("networks/unet.py", "import medunet", "public door"),
        ("networks/unet.py", "from medunet.nowhere import x", "medunet.nowhere is in no layer"),
        ("networks/unet.py", "from rich.table import Table", "networks (layer 3) may not import rich"),
        ("training/loop.py", "import typer", "training (layer 5) may not import typer"),
        ("nowhere.py", "x = 1", "medunet.nowhere is in no layer"),
        ("nowhere/part.py", "x = 1", "medunet.nowhere is in no layer"),
        ("errors.py", "import yaml", "errors (layer 0) may not import yaml"),
        ("geometry.py", "def f():\n    import torch", "geometry (layer 0) may not import torch"),
        ("config/load.py", "import monai.data", "config (layer 1) may not import monai"),
        ("io/files.py", "from torch import Tensor", "io (layer 2) may not import torch"),
        ("io/files.py", "from ignite.engine import Engine", "io (layer 2) may not import ignite"),
        ("export/nifti.py", "import torch", "export (layer 3) may not import torch"),
        ("export/nifti.py", "from monai.data import MetaTensor", "export (layer 3) may not import monai"),
        ("io/__init__.py", "def read_all(): ...", "more than re-exports"),
        ("io/__init__.py", "WRITERS = {'nifti': 1}", "more than re-exports"),
        ("io/__init__.py", "x = read()", "more than re-exports"),
        ("__init__.py", "def helper(): ...", "more than re-exports"),
        ("__init__.py", "from medunet import io", "public door"),
    ],
)
def test_a_planted_breach_is_reported_with_its_place(house: Path, file: str, line: str, complaint: str) -> None:
    target = house / file
    target.parent.mkdir(exist_ok=True)
    before = target.read_text() if target.exists() else ""
    target.write_text(f"{before}{line}\n")
    found = problems(house)
    assert len(found) == 1
    assert found[0].startswith(f"{file}:")
    assert complaint in found[0]
