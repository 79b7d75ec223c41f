"""What a model folder (or a zip of one) holds, and whether its files are those that were written.

Looks at `model.yaml`, hashes and the header of the weights; needs no torch and builds no network.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from medunet.config.networks import NetworkConfig, option_classes
from medunet.config.schema import PreprocessConfig
from medunet.errors import DataError
from medunet.io.describe.description import Description, megabytes
from medunet.labels import LabelMap

SPEC_FILE = "model.yaml"
WEIGHTS_FILE = "weights.safetensors"
_HEADER_LIMIT = 100_000_000

Opener = Callable[[str], IO[bytes]]


def model_in_zip(path: Path) -> str | None:
    """Folder inside a zip that holds `model.yaml` ("" for its top); None if it holds none or is no zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = [PurePosixPath(name) for name in archive.namelist() if PurePosixPath(name).name == SPEC_FILE]
    except (OSError, zipfile.BadZipFile):
        return None
    if not found:
        return None
    parent = str(min(found, key=lambda name: len(name.parts)).parent)
    return "" if parent == "." else f"{parent}/"


def describe_model(path: Path) -> Description:
    """Describe a model folder or a zip of one; whatever would keep it from loading becomes a problem."""
    result = Description("model", path)
    if path.is_dir():
        _describe(result, lambda name: (path / name).open("rb"))
        return result
    inside = model_in_zip(path) or ""
    with zipfile.ZipFile(path) as archive:
        _describe(result, lambda name: archive.open(f"{inside}{name}"))
    return result


def _describe(result: Description, opener: Opener) -> None:
    spec = _read_spec(result, opener)
    if spec is None:
        return
    network = spec.get("network")
    inference = spec.get("inference")
    result.facts |= {
        "name": spec.get("name"),
        "created": spec.get("created"),
        "modality": spec.get("modality"),
        "labels": spec.get("labels"),
        "network": network,
        "patch_size": inference.get("patch_size") if isinstance(inference, dict) else None,
        "preprocess": spec.get("preprocess"),
        "training": spec.get("training"),
        "versions": spec.get("versions"),
    }
    _check_section(result, "network", NetworkConfig, network)
    _check_section(result, "preprocess", PreprocessConfig, spec.get("preprocess"))
    try:
        LabelMap.from_mapping(spec.get("labels") or {})
    except (DataError, AttributeError, TypeError) as error:
        result.problems.append(f"{SPEC_FILE}: labels are not understood: {error}")
    files = spec.get("files")
    if not isinstance(files, dict) or WEIGHTS_FILE not in files:
        result.problems.append(f"{SPEC_FILE} states no hash for {WEIGHTS_FILE}; the model cannot be verified.")
        return
    result.facts["files"] = [_verify(result, opener, str(name), entry) for name, entry in files.items()]


def _read_spec(result: Description, opener: Opener) -> dict[str, Any] | None:
    try:
        with opener(SPEC_FILE) as handle:
            spec = yaml.safe_load(handle)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        result.problems.append(f"{SPEC_FILE} cannot be read: {error}.")
        return None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        result.problems.append(f"{SPEC_FILE} is no valid YAML: {' '.join(str(error).split())}.")
        return None
    if not isinstance(spec, dict):
        result.problems.append(f"{SPEC_FILE} must hold keys and values.")
        return None
    return spec


def _check_section(result: Description, name: str, kind: Any, value: Any) -> None:
    try:
        TypeAdapter(kind).validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([name, *(str(part) for part in first["loc"] if part not in option_classes())])
        result.problems.append(f"{SPEC_FILE} is not understood at {where}: {first['msg']}.")
    except (TypeError, ValueError) as error:
        result.problems.append(f"{SPEC_FILE} is not understood at {name}: {error}.")


def _verify(result: Description, opener: Opener, name: str, entry: Any) -> dict[str, Any]:
    """Hash one file and compare."""
    stated = entry.get("sha256") if isinstance(entry, dict) else None
    row: dict[str, Any] = {"file": name, "size": None, "sha256": stated, "verified": False}
    if PurePosixPath(name).name != name or name in ("", "..") or "\\" in name:
        result.problems.append(f"{SPEC_FILE} lists {name}, which is not inside the folder.")
        return row
    digest, size = hashlib.sha256(), 0
    try:
        with opener(name) as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
                size += len(block)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        reason = "it is missing" if isinstance(error, (FileNotFoundError, KeyError)) else str(error)
        result.problems.append(f"{name} cannot be read: {reason}. Copy the whole model again.")
        return row
    row |= {"size": megabytes(size), "verified": digest.hexdigest() == stated}
    if not row["verified"]:
        result.problems.append(
            f"{name} was changed or damaged: its SHA-256 is {digest.hexdigest()[:12]}..., but {SPEC_FILE} states "
            f"{str(stated)[:12]}.... Copy the model again from where it was trained."
        )
    elif name == WEIGHTS_FILE:
        _count_parameters(result, opener, name)
    return row


def _count_parameters(result: Description, opener: Opener, name: str) -> None:
    """Number of parameters from the header of a safetensors file: 8 bytes of length, then JSON."""
    try:
        with opener(name) as handle:
            length = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(min(length, _HEADER_LIMIT)))
        shapes = [tensor["shape"] for key, tensor in header.items() if key != "__metadata__"]
        result.facts["parameters"] = sum(_product(shape) for shape in shapes)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        result.problems.append(f"{name} is no safetensors file: {error}.")


def _product(shape: list[int]) -> int:
    total = 1
    for length in shape:
        total *= int(length)
    return total
