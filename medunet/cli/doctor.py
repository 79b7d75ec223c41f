"""`medunet doctor`: versions, devices, memory, codecs; what is missing and how to get it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

REQUIRED = {
    "monai": "monai",
    "nibabel": "nibabel",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "nvidia-ml-py": "pynvml",
    "openvino": "openvino",
    "pillow": "PIL",
    "psutil": "psutil",
    "pydantic": "pydantic",
    "pydicom": "pydicom",
    "pytorch-ignite": "ignite",
    "PyYAML": "yaml",
    "rich": "rich",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "SimpleITK": "SimpleITK",
    "tifffile": "tifffile",
    "itk": "itk",
    "einops": "einops",
    "highdicom": "highdicom",
    "torch": "torch",
    "typer": "typer",
}
"""Distribution name to import name of every dependency."""

OPTIONAL = {
    "codecs": ("pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "python-gdcm"),
    "int8": ("nncf",),
    "mlflow": ("mlflow",),
    "onnx": ("onnx", "onnxruntime"),
    "ray": ("ray",),
    "tensorboard": ("tensorboard",),
    "tune": ("optuna",),
}
"""Extra to the distributions it installs."""

TRANSFER_SYNTAXES = {
    "1.2.840.10008.1.2.5": "RLE lossless",
    "1.2.840.10008.1.2.4.50": "JPEG baseline",
    "1.2.840.10008.1.2.4.51": "JPEG extended (12 bit)",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless SV1",
    "1.2.840.10008.1.2.4.80": "JPEG-LS lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS near-lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "HTJ2K lossless",
    "1.2.840.10008.1.2.4.202": "HTJ2K lossless RPCL",
    "1.2.840.10008.1.2.4.203": "HTJ2K",
}
"""Compressed transfer syntaxes (DICOM PS3.5 section 10); uncompressed ones need no decoder."""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, devices, memory and codecs, what is missing and how to get it; writes nothing."""
    from medunet.cli.facts import show_facts, show_json, show_sentences
    from medunet.engines import machine

    packages = [check_package(name, module) for name, module in REQUIRED.items()]
    broken = [row for row in packages if row["problem"]]
    report: dict[str, Any] = {
        "medunet": installed_version("medunet"),
        "python": _python(),
        "processor": machine.processor(),
        "memory": machine.memory(),
        "devices": None if "torch" in {row["package"] for row in broken} else machine.devices() or None,
        "disks": machine.disks(),
        "packages": packages,
        "extras": extras(),
        "codecs": codecs(),
    }
    advice = [f"{row['package']} {row['problem']}. Get it: pip install '{row['package']}'" for row in broken]
    advice += [
        f"The extra {row['extra']} is not complete. Get it: {row['get']}" for row in report["extras"] if row["get"]
    ]
    if machine.nvidia_driver() and not report["devices"]:
        advice.append("There is an NVIDIA driver, but torch sees no CUDA device. Install a CUDA build of torch.")
    if as_json:
        show_json({**report, "healthy": not broken, "advice": advice})
    else:
        show_facts(report)
        show_sentences("advice", advice or ["Nothing is missing."])
    if broken:
        typer.echo(f"medunet: {', '.join(row['package'] for row in broken)} missing or broken.", err=True)
        raise typer.Exit(1)


def _python() -> str:
    import platform
    import sys

    return f"{platform.python_version()} ({platform.platform()}, {sys.executable})"


def installed_version(name: str) -> str | None:
    """Version of an installed distribution; None if there is none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_package(name: str, module: str) -> dict[str, Any]:
    """Version of a distribution and, if it cannot be imported, why."""
    import importlib
    import warnings

    found = installed_version(name)
    problem = None if found else "is missing"
    if found:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(module)
        except Exception as error:  # a broken package may raise anything; saying so is the purpose here
            reason = " ".join(str(error).split())[:200]
            problem = f"is installed but cannot be imported: {type(error).__name__}: {reason}"
    return {"package": name, "version": found, "problem": problem}


def extras() -> list[dict[str, Any]]:
    """Optional parts: which are installed, which are not, and the command that installs them."""
    rows = []
    for extra, names in OPTIONAL.items():
        missing = [name for name in names if installed_version(name) is None]
        get = f"pip install 'medunet[{extra}]'" if missing else None
        rows.append({"extra": extra, "installed": not missing, "missing": missing or None, "get": get})
    return rows


def codecs() -> list[dict[str, Any]]:
    """Which decoders pydicom can use for each compressed transfer syntax."""
    try:
        from pydicom.pixels import get_decoder
    except ImportError:
        return []
    rows = []
    for uid, name in TRANSFER_SYNTAXES.items():
        try:
            plugins = list(get_decoder(uid).available_plugins)
        except NotImplementedError:
            plugins = []
        rows.append({"syntax": name, "readable": bool(plugins), "decoders": plugins or None, "uid": uid})
    return rows
