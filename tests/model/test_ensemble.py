"""A model folder of several networks: whole or refused, and applied as their mean."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from medunet.config.schema import Config
from medunet.errors import ModelError, OutputError
from medunet.inference.predictor import Predictor
from medunet.io.describe.path import describe
from medunet.labels import LabelMap
from medunet.model import SPEC_FILE, Model, join_models, load_model, save_model
from medunet.networks.registry import build_network

NAMES = ("fold_0.safetensors", "fold_1.safetensors")


def save_random(folder: Path, config: Config, seed: int) -> Model:
    torch.manual_seed(seed)
    network = build_network(config.network, len(config.data.modality), LabelMap.from_mapping(config.labels).outputs)
    return load_model(save_model(folder, config, network.state_dict(), {}))


@pytest.fixture(scope="module")
def config(make_config: Callable[..., Any]) -> Any:
    return make_config(Path("data"))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, config: Config) -> tuple[Model, Model]:
    folder = tmp_path_factory.mktemp("single")
    return save_random(folder / "a", config, 0), save_random(folder / "b", config, 1)


@pytest.fixture
def folder(single: tuple[Model, Model], config: Config, tmp_path: Path) -> Path:
    """An ensemble that may be damaged: its weights are copies."""
    models = {f"fold_{n}": model for n, model in enumerate(single)}
    joined = join_models(tmp_path / "joined", config, models, {"cases": 6})
    return Path(shutil.copytree(joined, tmp_path / "model"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = folder / SPEC_FILE
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(spec)
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return folder


def test_the_networks_are_those_that_were_joined(folder: Path, single: tuple[Model, Model]) -> None:
    model = load_model(folder)
    assert (model.size, model.spec.weights, model.spec.training) == (2, NAMES, {"cases": 6})
    for number, alone in enumerate(single):
        expected, found = alone.build().state_dict(), model.build(number).state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert sorted(path.name for path in folder.iterdir()) == [*NAMES, SPEC_FILE]


def test_joining_takes_no_second_place_on_disk(single: tuple[Model, Model], config: Config, tmp_path: Path) -> None:
    models = {f"fold_{n}": model for n, model in enumerate(single)}
    if single[0].path.stat().st_dev != tmp_path.stat().st_dev:
        pytest.skip("the temporary folders are on two disks")
    joined = join_models(tmp_path / "joined", config, models, {})
    for name, model in zip(NAMES, single, strict=True):
        assert (joined / name).samefile(model.path / "weights.safetensors")


def test_files_are_copied_where_a_disk_has_no_links(
    single: tuple[Model, Model], config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", link)
    joined = join_models(tmp_path / "joined", config, {"a": single[0], "b": single[1]}, {})
    assert load_model(joined).size == 2
    assert (joined / "a.safetensors").stat().st_nlink == 1


def test_the_identity_depends_on_all_networks_and_on_nothing_else(
    folder: Path, single: tuple[Model, Model], config: Config, tmp_path: Path
) -> None:
    again = join_models(tmp_path / "again", config, {"x": single[0], "y": single[1]}, {"other": 1})
    swapped = join_models(tmp_path / "swapped", config, {"x": single[1], "y": single[0]}, {})
    assert load_model(folder).id == load_model(again).id
    assert len({load_model(folder).id, load_model(swapped).id, single[0].id, single[1].id}) == 4


def test_prediction_is_that_of_the_single_models_given_together(
    folder: Path, single: tuple[Model, Model], tmp_path: Path, blob: Callable[..., Any]
) -> None:
    import nibabel

    image = nibabel.Nifti1Image(blob(3)[0], np.diag([1.5, 1.5, 2.0, 1.0]))
    ensemble = Predictor(folder, device="cpu", precision="fp32")(image, probabilities=True)
    together = Predictor(list(single), device="cpu", precision="fp32")(image, probabilities=True)
    assert ensemble.probabilities is not None
    assert together.probabilities is not None
    assert np.array_equal(ensemble.probabilities, together.probabilities)
    alone = Predictor(single[0], device="cpu", precision="fp32")(image, probabilities=True)
    assert alone.probabilities is not None
    assert not np.allclose(ensemble.probabilities, alone.probabilities)


def test_every_network_counts_once_in_an_ensemble_beside_a_single_model(
    folder: Path, single: tuple[Model, Model], blob: Callable[..., Any]
) -> None:
    import nibabel

    image = nibabel.Nifti1Image(blob(3)[0], np.diag([1.5, 1.5, 2.0, 1.0]))
    mixed = Predictor([folder, single[1]], device="cpu", precision="fp32")(image, probabilities=True)
    plain = Predictor([single[0], single[1], single[1]], device="cpu", precision="fp32")(image, probabilities=True)
    assert mixed.probabilities is not None
    assert plain.probabilities is not None
    assert np.array_equal(mixed.probabilities, plain.probabilities)


def test_a_zip_is_as_good_as_the_folder(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, f"run/model/{file.name}")
        archive.writestr("run/fold_0/model/nested/model.yaml", "another")
        archive.writestr("run/fold_0/model/nested/fold_0.safetensors", "another")
    zipped = load_model(path)
    assert zipped.id == load_model(folder).id
    expected = load_model(folder).read(1)
    assert all(torch.equal(expected[name], value) for name, value in zipped.read(1).items())
    assert describe(path).healthy


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_bit_in_any_network_is_found_and_named(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelError, match=f"{name} was changed or damaged"):
        load_model(folder)
    assert any(f"{name} was changed or damaged" in problem for problem in describe(folder).problems)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_is_gone_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"lacks {name}"):
        load_model(folder)
    assert any(name in problem for problem in describe(folder).problems)


def test_networks_that_were_exchanged_are_found(folder: Path) -> None:
    (folder / NAMES[0]).replace(folder / "third")
    (folder / NAMES[1]).replace(folder / NAMES[0])
    (folder / "third").replace(folder / NAMES[1])
    with pytest.raises(ModelError, match="was changed or damaged"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda spec: spec["files"].pop(NAMES[1]), f"states no hash for {NAMES[1]}"),
        (lambda spec: spec.update(weights=[]), "not understood at weights"),
        (lambda spec: spec.update(weights="fold_0.safetensors"), "not understood at weights"),
        (lambda spec: spec.update(weights=[["a"]]), "not understood at weights"),
        (lambda spec: spec.pop("weights"), r"states no hash for weights\.safetensors"),
        (lambda spec: spec.update(weights=[*NAMES, "../other"]), r"states no hash for \.\./other"),
    ],
)
def test_an_edited_list_of_networks_is_a_sentence(folder: Path, change: Any, words: str) -> None:
    import re

    with pytest.raises(ModelError, match=words):
        load_model(edit(folder, change))
    assert any(re.search(words, problem) for problem in describe(folder).problems)


@pytest.mark.parametrize("name", ["", "..", "a/../b", "a\\b", "a\0b"])
def test_files_outside_of_the_folder_are_never_opened(folder: Path, name: str) -> None:
    def add(spec: dict[str, Any]) -> None:
        spec["files"][name] = spec["files"][NAMES[0]]

    with pytest.raises(ModelError, match="lacks"):
        load_model(edit(folder, add))


def test_an_ensemble_describes_itself(folder: Path, single: tuple[Model, Model]) -> None:
    found = describe(folder)
    parameters = describe(single[0].path).facts["parameters"]
    assert found.healthy
    assert (found.facts["networks"], found.facts["parameters"]) == (2, 2 * parameters)
    assert [row["file"] for row in found.facts["files"]] == list(NAMES)


def test_one_set_of_weights_is_not_taken_from_several(folder: Path) -> None:
    with pytest.raises(ModelError, match="is an ensemble of 2 networks, and one is needed"):
        _ = load_model(folder).weights


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"network.channels": [4, 16]}, "network"),
        ({"labels": {"background": 0, "core": 205, "organ": 4}}, "labels"),
        ({"preprocess.spacing": [2.0, 2.0, 2.0]}, "preprocess"),
        ({"data.modality": ["MR"]}, "modality"),
    ],
)
def test_models_of_different_tasks_are_not_joined(
    single: tuple[Model, Model], make_config: Callable[..., Any], config: Config, tmp_path: Path, changes: Any, key: str
) -> None:
    other = save_random(tmp_path / "other", make_config(Path("data"), changes), 0)
    with pytest.raises(ModelError, match=f"another {key} than"):
        join_models(tmp_path / "joined", config, {"a": single[0], "b": other}, {})
    assert not (tmp_path / "joined").exists()


def test_an_ensemble_that_cannot_be_written_leaves_the_old_one(
    folder: Path, single: tuple[Model, Model], config: Config, full_disk: Callable[[str], None]
) -> None:
    before = load_model(folder)
    full_disk("model.yaml")
    with pytest.raises(OutputError, match="No space left"):
        join_models(folder, config, {"only": single[0]}, {})
    assert load_model(folder).spec == before.spec
