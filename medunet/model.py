"""The model folder: `model.yaml` + `weights.safetensors`, checked by hash, free of code and pickles.

A folder or a zip of it. Everything that prediction needs stands in model.yaml, typed: network, preprocessing,
labels, inference defaults, post-processing, and what training saw.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
import safetensors.torch
import yaml
from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails
from torch import Tensor

from medunet.atomic import atomic_folder
from medunet.config.derived import mirror_axes
from medunet.config.layers import holds
from medunet.config.networks import NetworkConfig
from medunet.config.schema import Config, PostprocessStep, PreprocessConfig
from medunet.config.section import Positive, Section
from medunet.errors import DataError, ModelError, UsageError
from medunet.labels import LabelMap
from medunet.networks.contract import Network
from medunet.networks.registry import build_network
from medunet.networks.weights import differences, first_of

SPEC_FILE = "model.yaml"
WEIGHTS_FILE = "weights.safetensors"


class FileEntry(Section):
    """Size and hash of one file of the model folder."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class InferenceSpec(Section):
    """How the model is applied unless the caller says otherwise."""

    patch_size: tuple[Positive, ...]
    overlap: Annotated[float, Field(ge=0, lt=1)]
    batch_size: Positive = 1
    tta: bool = False
    mirror_axes: tuple[int, ...] = ()


class ModelSpec(Section):
    """The content of model.yaml."""

    format: Literal[1] = 1
    name: str
    created: str
    modality: tuple[str, ...]
    labels: dict[str, int | tuple[int, ...]]
    network: NetworkConfig
    preprocess: PreprocessConfig
    inference: InferenceSpec
    postprocess: tuple[PostprocessStep, ...] = ()
    training: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Model:
    """A trained network and all that is needed to apply it.

    Attributes:
        spec: content of model.yaml.
        weights: state dict, float32 on the CPU.
        path: where it was loaded from.
    """

    spec: ModelSpec
    weights: Mapping[str, Tensor]
    path: Path

    @cached_property
    def labels(self) -> LabelMap:
        """Names, indices and file values."""
        return LabelMap.from_mapping(self.spec.labels)

    @property
    def id(self) -> str:
        """Hash of the weights: the identity of the model."""
        return self.spec.files[WEIGHTS_FILE].sha256

    def build(self) -> Network:
        """A new network with these weights, in evaluation mode.

        Raises:
            ModelError: the weights do not fit the network that model.yaml describes.
        """
        problem = f"The weights of {self.path} do not fit the network in its model.yaml"
        remedy = "The folder was edited or mixed up; copy it again."
        try:
            network = build_network(self.spec.network, len(self.spec.modality), self.labels.outputs)
        except (RuntimeError, ValueError, IndexError) as error:  # torch's words for lists that disagree
            raise ModelError(f"{problem}.", remedy) from error
        wrong = differences(self.weights, network)
        if wrong:
            raise ModelError(f"{problem}: {first_of(wrong)}.", remedy)
        network.load_state_dict(dict(self.weights))
        return network.eval()


def library_versions() -> dict[str, str]:
    """Versions of what decides a result."""
    names = ("medunet", "torch", "monai", "pytorch-ignite", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def save_model(folder: str | Path, config: Config, weights: Mapping[str, Tensor], training: Mapping[str, Any]) -> Path:
    """Write a model folder atomically.

    Args:
        folder: target; replaced as a whole if it exists.
        config: the configuration it was trained with.
        weights: state dict of the network.
        training: what training saw and reached; plain numbers and strings.

    Raises:
        OutputError: the folder cannot be written.
    """
    plain = {name: tensor.detach().cpu().float().contiguous() for name, tensor in weights.items()}
    data = safetensors.torch.save(plain)
    spec = ModelSpec(
        name=config.name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        modality=config.data.modality,
        labels=config.labels,
        network=config.network.as_trained(),
        preprocess=config.preprocess,
        inference=InferenceSpec(
            patch_size=config.train.patch_size,
            overlap=config.inference.overlap,
            batch_size=config.inference.batch_size,
            tta=config.inference.tta,
            mirror_axes=mirror_axes(config.augment, config.network.dims),
        ),
        postprocess=config.postprocess,
        training=dict(training),
        versions=library_versions(),
        files={WEIGHTS_FILE: FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))},
    )
    folder = Path(folder)
    with atomic_folder(folder) as part:
        (part / WEIGHTS_FILE).write_bytes(data)
        text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        (part / SPEC_FILE).write_text(text, encoding="utf-8")
    return folder


def load_model(path: str | Path) -> Model:
    """Read and verify a model folder or a zip of one.

    Raises:
        UsageError: there is no such path, or it is no model.
        ModelError: a file is missing, changed since it was written, or not understood.
    """
    path = _find_model(Path(path))
    try:
        files = _read_zip(path) if path.is_file() else _read_folder(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.", "Check its permissions.") from error
    spec = _parse_spec(files[SPEC_FILE], path)
    for name, entry in spec.files.items():
        if name not in files:
            raise ModelError(f"{path} lacks {name}, which its model.yaml lists.", "Copy the whole folder again.")
        digest = hashlib.sha256(files[name]).hexdigest()
        if digest != entry.sha256:
            raise ModelError(
                f"{path}/{name} was changed or damaged: its SHA-256 is {digest[:12]}..., "
                f"but model.yaml states {entry.sha256[:12]}....",
                "Copy the model again from where it was trained.",
            )
    if WEIGHTS_FILE not in spec.files:
        raise ModelError(f"The model.yaml of {path} states no hash for {WEIGHTS_FILE}.", "Copy the model again.")
    try:
        weights = safetensors.torch.load(files[WEIGHTS_FILE])
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path}/{WEIGHTS_FILE} is not readable: {error}.", "Copy the model again.") from error
    return Model(spec, weights, path)


def _find_model(path: Path) -> Path:
    """The file or folder that holds the model: `path`, or its model/ where `path` is a run."""
    if not path.exists():
        raise UsageError(f"There is no model {path}.", "Give the model/ folder of a run.")
    if path.is_file() and path.suffix.lower() != ".zip" and not zipfile.is_zipfile(path):
        raise UsageError(f"{path} is neither a model folder nor a zip of one.", "Give the model/ folder of a run.")
    if path.is_file() or (path / SPEC_FILE).is_file():
        return path
    if (path / "model" / SPEC_FILE).is_file():
        return path / "model"
    raise UsageError(
        f"{path} is no model: it has no {SPEC_FILE}.", "Give the model/ folder of a run (or the run folder)."
    )


def _read_folder(path: Path) -> dict[str, bytes]:
    if not (path / WEIGHTS_FILE).is_file():
        raise ModelError(f"{path} lacks {WEIGHTS_FILE}.", "Copy the whole folder again.")
    return {name: (path / name).read_bytes() for name in (SPEC_FILE, WEIGHTS_FILE)}


def _read_zip(path: Path) -> dict[str, bytes]:
    """Read the two files of a zipped model in memory; nothing is extracted to disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {Path(name).name: name for name in archive.namelist() if not name.endswith("/")}
            missing = [name for name in (SPEC_FILE, WEIGHTS_FILE) if name not in found]
            if missing:
                raise ModelError(f"{path} lacks {' and '.join(missing)}.", "Zip the whole model folder.")
            return {name: archive.read(found[name]) for name in (SPEC_FILE, WEIGHTS_FILE)}
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: it has a password
        raise ModelError(f"{path} is a damaged zip: {error}.", "Copy the model again.") from error


def _parse_spec(data: bytes, path: Path) -> ModelSpec:
    try:
        content = yaml.safe_load(io.BytesIO(data))
        spec = ModelSpec.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(
            f"{path}/{SPEC_FILE} is not understood at {_place(first, content) or 'its top'}: {_rule(first)}.",
            "It was edited, or written by a newer medunet.",
        ) from error
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ModelError(f"{path}/{SPEC_FILE} is no valid YAML: {error}.", "Copy the model again.") from error
    problem = _contradiction(spec)
    if problem:
        raise ModelError(f"{path}/{SPEC_FILE} contradicts itself: {problem}", "It was edited; correct it.")
    return spec


def _place(detail: ErrorDetails, content: Any) -> str:
    """The dotted key as written: names of variants, which pydantic puts between, are left out."""
    path: list[str] = []
    for part in detail["loc"]:
        if holds(content, part):
            path, content = [*path, str(part)], content[part]
    if detail["type"] == "missing":
        path.append(str(detail["loc"][-1]))
    if detail["type"].startswith("union_tag"):
        path.append("name")
    return ".".join(path)


def _rule(detail: ErrorDetails) -> str:
    if detail["type"] == "union_tag_invalid":
        return f"{detail['ctx']['tag']} is none of {detail['ctx']['expected_tags']}"
    return detail["msg"]


def _contradiction(spec: ModelSpec) -> str:
    """What does not fit together in a model.yaml, as a sentence; empty if all does."""
    try:
        names = LabelMap.from_mapping(spec.labels).names[1:]
    except DataError as error:
        return error.message
    strange = next((step.label for step in spec.postprocess if step.label not in names), None)
    if strange is not None:
        return f'postprocess names "{strange}", which is none of the structures {", ".join(names)}.'
    patch, axes, dims = spec.inference.patch_size, spec.inference.mirror_axes, spec.network.dims
    if len(patch) != dims or any(not 0 <= axis < dims for axis in axes):
        return f"patch_size {patch} and mirror_axes {axes} do not fit a network of {dims} axes."
    return ""
