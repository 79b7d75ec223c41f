"""`model.yaml`: everything that prediction needs beside the weights, typed. Knows nothing of tensors."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from medunet.config.derived import mirror_axes, network_channels
from medunet.config.layers import holds
from medunet.config.networks import NetworkConfig
from medunet.config.postprocess import PostprocessStep, misfits, nameable
from medunet.config.schema import Config, PreprocessConfig
from medunet.config.section import Positive, Section
from medunet.config.series import SeriesRules
from medunet.config.terms import TermConfig
from medunet.errors import DataError, ModelError
from medunet.labels import LabelMap
from medunet.model.seen import Seen

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
    skip_air: bool = True
    series: SeriesRules | None = None


class ModelSpec(Section):
    """The content of model.yaml."""

    format: Literal[1] = 1
    name: str
    created: str
    modality: tuple[str, ...]
    labels: dict[str, int | tuple[int, ...]]
    terms: dict[str, TermConfig] = Field(default_factory=dict)
    network: NetworkConfig
    preprocess: PreprocessConfig
    inference: InferenceSpec
    postprocess: tuple[PostprocessStep, ...] = ()
    weights: Annotated[tuple[str, ...], Field(min_length=1)] = (WEIGHTS_FILE,)
    training: dict[str, Any] = Field(default_factory=dict)
    seen: Seen | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    files: dict[str, FileEntry]

    @property
    def network_channels(self) -> int:
        """That the networks see."""
        return network_channels(self.modality, self.preprocess)


def library_versions() -> dict[str, str]:
    """Versions of what decides a result."""
    names = ("medunet", "torch", "monai", "pytorch-ignite", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def new_spec(
    config: Config, files: Mapping[str, FileEntry], training: Mapping[str, Any], seen: Seen | None = None
) -> ModelSpec:
    """The content of model.yaml for weights in `files`."""
    return ModelSpec(
        name=config.name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        modality=config.data.modality,
        labels=config.labels,
        terms=config.terms,
        network=config.network.as_trained(),
        preprocess=config.preprocess,
        inference=InferenceSpec(
            patch_size=config.train.patch_size,
            overlap=config.inference.overlap,
            batch_size=config.inference.batch_size,
            tta=config.inference.tta,
            mirror_axes=mirror_axes(config.augment, config.network.dims),
            skip_air=config.inference.skip_air,
            series=config.data.series,
        ),
        postprocess=config.postprocess,
        weights=tuple(files),
        training=dict(training),
        seen=seen,
        versions=library_versions(),
        files=dict(files),
    )


def spec_text(spec: ModelSpec) -> str:
    """The content of model.yaml; what a model has nothing to say of is left out, so that older versions read it."""
    unsaid = {"weights": spec.weights == (WEIGHTS_FILE,), "seen": spec.seen is None, "terms": not spec.terms}
    content = spec.model_dump(mode="json", exclude={key for key, unneeded in unsaid.items() if unneeded})
    if spec.inference.series is None:
        del content["inference"]["series"]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def write_spec(folder: Path, spec: ModelSpec) -> None:
    """Write model.yaml."""
    (folder / SPEC_FILE).write_text(spec_text(spec), encoding="utf-8")


def parse_spec(data: bytes, path: Path) -> ModelSpec:
    """Content of the model.yaml of a model at `path`.

    Raises:
        ModelError: it is not understood, or contradicts itself.
    """
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
        labels = LabelMap.from_mapping(spec.labels)
    except DataError as error:
        return error.message
    names = labels.names[1:]
    strange = sorted(set(spec.terms) - set(names))
    if strange:
        return f'terms name "{strange[0]}", which is none of the structures {", ".join(names)}.'
    problem = _strange_step(spec.postprocess, labels)
    if problem:
        return problem
    patch, axes, dims = spec.inference.patch_size, spec.inference.mirror_axes, spec.network.dims
    if len(patch) != dims or any(not 0 <= axis < dims for axis in axes):
        return f"patch_size {patch} and mirror_axes {axes} do not fit a network of {dims} axes."
    return spec.seen.contradiction(spec.modality, names) if spec.seen is not None else ""


def _strange_step(steps: Sequence[PostprocessStep], labels: LabelMap) -> str:
    """What is wrong with the first step that cannot work, as a sentence; empty if all can."""
    names = labels.names[1:]
    for index, step in enumerate(steps):
        for misfit in misfits(step):
            return f"postprocess.{index}.{misfit.keys[0]} {misfit.rule}"
        for name in step.structures:
            if name not in nameable(step, names, nested=labels.nested):
                return f'postprocess names "{name}", which is none of the structures {", ".join(names)}.'
    return ""
