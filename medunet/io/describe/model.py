"""What a model folder (or a zip of one) holds, and whether its files are those that were written.

Looks at `model.yaml`, hashes and the header of the weights; needs no torch and builds no network.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from medunet.config.networks import NetworkConfig, option_classes
from medunet.config.schema import PreprocessConfig
from medunet.errors import DataError, ReadError, UsageError
from medunet.io.describe.description import Description, megabytes
from medunet.labels import LabelMap

SPEC_FILE = "model.yaml"
WEIGHTS_FILE = "weights.safetensors"
_HEADER_LIMIT = 100_000_000
_MEASURED = ("running_mean", "running_var")
"""Tensors of batch norm that are measured, not learned."""
_DAMAGED = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, zipfile.BadZipFile)

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
    with _opened(path) as opener:
        _describe(result, opener)
    return result


def layers_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's parameters by name, as `train.freeze` takes them; of an ensemble, of its first network.

    Args:
        path: model folder, a zip of one, or the folder of a run that has a model.

    Raises:
        UsageError: there is no model.
        ReadError: it is damaged.
    """
    folder = next((each for each in (path, path / "model") if (each / SPEC_FILE).is_file()), None)
    if folder is None and not (path.is_file() and model_in_zip(path) is not None):
        raise UsageError(f"{path} is no model, and no run that has one.", f"Give a folder that holds {SPEC_FILE}.")
    try:
        with _opened(folder or path) as opener, opener(SPEC_FILE) as handle:
            names = yaml.safe_load(handle).get("weights", [WEIGHTS_FILE])
            header = _header(opener, PurePosixPath(names[0]).name).items()
        shapes = {name: tuple(map(int, tensor["shape"])) for name, tensor in header if _learns(name, tensor["dtype"])}
    except (*_DAMAGED, yaml.YAMLError) as error:
        raise ReadError(f"{path} cannot be read.", f"medunet info {path} says what is damaged.") from error
    return {name: shapes[name] for name in sorted(shapes, key=_natural)}


def _learns(name: str, kind: str) -> bool:
    """Whether a tensor is a parameter: counters are whole numbers."""
    return "F" in kind and name.rpartition(".")[2] not in _MEASURED


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer 10 behind layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


@contextmanager
def _opened(path: Path) -> Iterator[Opener]:
    """Opens the files of a model folder, or those of one in a zip."""
    if path.is_dir():
        yield lambda name: (path / name).open("rb")
        return
    inside = model_in_zip(path) or ""
    with zipfile.ZipFile(path) as archive:
        yield lambda name: archive.open(f"{inside}{name}")


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
        "seen": _seen(result, spec.get("seen")),
        "versions": spec.get("versions"),
    }
    _check_section(result, "network", NetworkConfig, network)
    _check_section(result, "preprocess", PreprocessConfig, spec.get("preprocess"))
    try:
        LabelMap.from_mapping(spec.get("labels") or {})
    except (DataError, AttributeError, TypeError) as error:
        result.problems.append(f"{SPEC_FILE}: labels are not understood: {error}")
    files, networks = spec.get("files"), spec.get("weights", [WEIGHTS_FILE])
    if not isinstance(networks, list) or not networks or not all(isinstance(name, str) for name in networks):
        result.problems.append(f"{SPEC_FILE} is not understood at weights: it must list files.")
        return
    missing = [name for name in networks if not isinstance(files, dict) or name not in files]
    if missing or not isinstance(files, dict):
        result.problems.append(f"{SPEC_FILE} states no hash for {missing[0]}; the model cannot be verified.")
        return
    result.facts["networks"] = len(networks)
    rows = []
    for name, entry in files.items():
        rows.append(_verify(result, opener, str(name), entry))
        if rows[-1]["verified"] and name in networks:
            _count_parameters(result, opener, str(name))
    result.facts["files"] = rows


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


def _seen(result: Description, seen: Any) -> dict[str, Any] | None:
    """What training saw, with a row per channel and structure; None where the model does not say."""
    if seen is None:
        return None
    try:
        rows = [{"structure": name, **row} for name, row in seen["structures"].items()]
        return {**seen, "channels": [{**row} for row in seen["channels"]], "structures": rows}
    except (KeyError, TypeError, AttributeError):
        result.problems.append(f"{SPEC_FILE} is not understood at seen: it must say what training saw.")
        return None


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
    return row


def _header(opener: Opener, name: str) -> dict[str, Any]:
    """Of a safetensors file, 8 bytes of length, then JSON: shape and kind of number by the name of a tensor.

    Raises:
        ValueError, TypeError, AttributeError: it is none.
    """
    with opener(name) as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(min(length, _HEADER_LIMIT)))
    return {key: tensor for key, tensor in header.items() if key != "__metadata__"}


def _count_parameters(result: Description, opener: Opener, name: str) -> None:
    """Add the number of parameters."""
    try:
        count = sum(math.prod(map(int, tensor["shape"])) for tensor in _header(opener, name).values())
        result.facts["parameters"] = result.facts.get("parameters", 0) + count
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        result.problems.append(f"{name} is no safetensors file: {error}.")
