"""`Model`: one trained network or several, saved, joined and loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from medunet.atomic import atomic_folder, link_or_copy
from medunet.config.applied import changed
from medunet.config.schema import Config, InferenceConfig
from medunet.config.terms import with_terms
from medunet.errors import ModelError
from medunet.labels import LabelMap
from medunet.model.files import blocks, check_hash, find_model
from medunet.model.seen import Seen, union
from medunet.model.spec import SPEC_FILE, WEIGHTS_FILE, FileEntry, ModelSpec, new_spec, parse_spec, write_spec
from medunet.networks.contract import Network
from medunet.networks.registry import build_network
from medunet.networks.weights import differences, first_of


@dataclass(frozen=True)
class Model:
    """A trained network, or an ensemble of several, and all that is needed to apply it.

    The weights are read when they are asked for, one network at a time.

    Attributes:
        spec: content of model.yaml.
        path: of the folder or zip.
    """

    spec: ModelSpec
    path: Path

    @cached_property
    def labels(self) -> LabelMap:
        """Names, indices and file values."""
        return with_terms(LabelMap.from_mapping(self.spec.labels), self.spec.terms)

    @property
    def size(self) -> int:
        """Number of networks: 1, or more for an ensemble."""
        return len(self.spec.weights)

    @property
    def id(self) -> str:
        """Hash of the weights: the identity of the model. That of an ensemble is made of those of its networks."""
        hashes = [self.spec.files[name].sha256 for name in self.spec.weights]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

    @cached_property
    def weights(self) -> Mapping[str, Tensor]:
        """State dict of the only network, float32 on the CPU; stays in memory.

        Raises:
            ModelError: it is an ensemble, or the file changed since it was loaded.
        """
        if self.size > 1:
            raise ModelError(
                f"{self.path} is an ensemble of {self.size} networks, and one is needed.",
                "Give the model of one fold, for example RUN/fold_0.",
            )
        return self.read()

    def changed(self, overrides: Sequence[str]) -> Model:
        """The same networks, applied in another way; nothing is written.

        Args:
            overrides: `key=value` as after `--set`, of `inference` (`overlap`, `tta`, `batch_size`), `postprocess`
                and `terms`.

        Raises:
            ConfigError: one of them cannot be; `problems` holds everything that is wrong.
        """
        known = self.spec.model_dump(mode="json", include={"name", "labels", "terms", "postprocess"})
        inference = self.spec.inference.model_dump(mode="json", include=set(InferenceConfig.model_fields))
        config = changed({**known, "inference": inference}, overrides, str(self.path))
        applied = self.spec.inference.model_copy(update=dict(config.inference))
        update = {"inference": applied, "postprocess": config.postprocess, "terms": config.terms}
        return replace(self, spec=self.spec.model_copy(update=update))

    def read(self, number: int = 0) -> dict[str, Tensor]:
        """State dict of one network, float32 on the CPU, read and verified now.

        Args:
            number: which one, from 0.

        Raises:
            ModelError: the file is missing, changed or not readable.
        """
        name = self.spec.weights[number]
        data = b"".join(blocks(self.path, name, -1))
        check_hash(self.path, name, hashlib.sha256(data).hexdigest(), self.spec.files[name])
        try:
            weights: dict[str, Tensor] = safetensors.torch.load(data)
        except safetensors.SafetensorError as error:
            raise ModelError(f"{self.path}/{name} is not readable: {error}.", "Copy the model again.") from error
        return weights

    def build(self, number: int = 0) -> Network:
        """A new network with these weights, in evaluation mode.

        Args:
            number: which one of an ensemble, from 0.

        Raises:
            ModelError: as `read`, or the weights do not fit the network that model.yaml describes.
        """
        problem = f"The weights of {self.path} do not fit the network in its model.yaml"
        remedy = "The folder was edited or mixed up; copy it again."
        try:
            network = build_network(self.spec.network, self.spec.network_channels, self.labels.outputs)
        except (RuntimeError, ValueError, IndexError) as error:  # torch's words for lists that disagree
            raise ModelError(f"{problem}.", remedy) from error
        weights = self.read(number)
        wrong = differences(weights, network)
        if wrong:
            raise ModelError(f"{problem}: {first_of(wrong)}.", remedy)
        network.load_state_dict(weights)
        return network.eval()


def save_model(
    folder: str | Path,
    config: Config,
    weights: Mapping[str, Tensor],
    training: Mapping[str, Any],
    seen: Seen | None = None,
) -> Path:
    """Write a model folder atomically.

    Args:
        folder: target; replaced as a whole if it exists.
        config: the configuration it was trained with.
        weights: state dict of the network.
        training: what training took and reached; plain numbers and strings.
        seen: what its cases were like; None if that is not known.

    Raises:
        OutputError: the folder cannot be written.
    """
    plain = {name: tensor.detach().cpu().float().contiguous() for name, tensor in weights.items()}
    data = safetensors.torch.save(plain)
    files = {WEIGHTS_FILE: FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))}
    folder = Path(folder)
    with atomic_folder(folder) as part:
        (part / WEIGHTS_FILE).write_bytes(data)
        write_spec(part, new_spec(config, files, training, seen))
    return folder


def join_models(folder: str | Path, config: Config, models: Mapping[str, Model], training: Mapping[str, Any]) -> Path:
    """Write a model folder that holds the networks of several; what it predicts is their mean.

    The files of weights are hard links where the disk allows it. What their trainings saw is put together.

    Args:
        folder: target; replaced as a whole if it exists.
        config: the configuration that all were trained with; inference and post-processing are taken from it.
        models: of one network each, loaded from folders, by the name that their file of weights gets.
        training: what training took and reached; plain numbers and strings.

    Raises:
        ModelError: they differ in labels, channels, preprocessing or network.
        OutputError: the folder cannot be written.
    """
    files = {f"{name}.safetensors": model.spec.files[model.spec.weights[0]] for name, model in models.items()}
    spec = new_spec(config, files, training)
    for model in models.values():
        _check_same_task(model, spec)
    spec = spec.model_copy(update={"seen": union(model.spec.seen for model in models.values())})
    folder = Path(folder)
    with atomic_folder(folder) as part:
        for name, model in zip(spec.weights, models.values(), strict=True):
            link_or_copy(model.path / model.spec.weights[0], part / name)
        write_spec(part, spec)
    return folder


def _check_same_task(model: Model, spec: ModelSpec) -> None:
    own = model.spec
    for key, same in (
        ("labels", list(own.labels.items()) == list(spec.labels.items())),  # in order: it is that of the outputs
        ("modality", own.modality == spec.modality),
        ("preprocess", own.preprocess == spec.preprocess),
        ("network", own.network == spec.network),
    ):
        if not same:
            raise ModelError(
                f"{model.path} was trained with another {key} than the other networks of the ensemble.",
                "Train all of them with one config.",
            )


def load_model(path: str | Path) -> Model:
    """Verify a model folder, a zip of one, or the model of a run folder.

    Raises:
        UsageError: there is no such path, or it is no model.
        ModelError: a file is missing, changed since it was written, or not understood.
    """
    path = find_model(Path(path))
    spec = parse_spec(b"".join(blocks(path, SPEC_FILE)), path)
    for name in spec.weights:
        if name not in spec.files:
            raise ModelError(f"The model.yaml of {path} states no hash for {name}.", "Copy the model again.")
    for name, entry in spec.files.items():
        digest = hashlib.sha256()
        for block in blocks(path, name):
            digest.update(block)
        check_hash(path, name, digest.hexdigest(), entry)
    return Model(spec, path)
