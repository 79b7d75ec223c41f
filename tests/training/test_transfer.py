"""Files of encoder weights: read without running anything, found where the configuration says, needed once."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from medunet.config.load import dump_config, load_config, parse_config
from medunet.errors import ConfigError, MedunetError, ModelError, UsageError
from medunet.model import load_model, save_model
from medunet.networks.registry import build_network
from medunet.training.observe import Observer
from medunet.training.run import train
from medunet.training.transfer import check_encoder, load_encoder, read_tensors

NETWORK = {"name": "efficient_unet", "dims": 2, "backbone": "r18", "decoder_channels": [8, 8, 8, 8, 8]}
KEY = "network.encoder_weights"
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}


def written(path: Path) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.SAFETENSORS", "w.pt", "w.pth", "w.bin"])
def test_a_state_dict_is_read_from_either_kind_of_file(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name.lower()).rename(tmp_path / name)
    found = read_tensors(path, KEY)
    assert found.keys() == TENSORS.keys()
    assert torch.equal(found["a.weight"], TENSORS["a.weight"])


@pytest.mark.parametrize("key", ["state_dict", "model", "network", "model_state_dict"])
def test_a_checkpoint_may_hold_the_weights_beside_plain_values(tmp_path: Path, key: str) -> None:
    torch.save({"epoch": 3, "loss": 0.5, "optimizer": {"x": torch.rand(1)}, key: TENSORS}, tmp_path / "w.pth")
    assert read_tensors(tmp_path / "w.pth", KEY).keys() == TENSORS.keys()


def test_files_of_old_versions_of_torch_are_read(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert read_tensors(tmp_path / "w.pth", KEY).keys() == TENSORS.keys()


class Trap:
    """What a hostile file holds: a call that leaves a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def cut(path: Path, good: Path) -> None:
    path.write_bytes(written(good).read_bytes()[:-30])


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights")


WRONG: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a picture": ("w.pth", lambda path: path.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(range(256)))),
    "text": ("w.pt", lambda path: path.write_text("hello\n" * 20)),
    "text called safetensors": ("w.safetensors", lambda path: path.write_text("hello\n" * 20)),
    "nothing": ("w.pt", lambda path: path.write_bytes(b"")),
    "nothing called safetensors": ("w.safetensors", lambda path: path.write_bytes(b"")),
    "a zip": ("w.pth", zipped),
    "half a file": ("w.pt", lambda path: cut(path, path.with_name("good.pt"))),
    "half a safetensors": ("w.safetensors", lambda path: cut(path, path.with_name("good.safetensors"))),
    "a state dict called safetensors": ("w.safetensors", lambda path: torch.save(TENSORS, path)),
    "a tensor without a name": ("w.pt", lambda path: torch.save(torch.rand(3), path)),
    "a list": ("w.pt", lambda path: torch.save([torch.rand(3)], path)),
    "numbers only": ("w.pt", lambda path: torch.save({"epoch": 1}, path)),
    "a pickle with code": ("w.pth", lambda path: path.write_bytes(pickle.dumps(Trap(path.with_name("trace"))))),
    "code in a state dict": ("w.pt", lambda path: torch.save({**TENSORS, "x": Trap(path.with_name("trace"))}, path)),
    "objects": ("w.pt", lambda path: torch.save({"state_dict": TENSORS, "args": argparse.Namespace(lr=1)}, path)),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_file_of_weights_is_one_sentence(tmp_path: Path, what: str) -> None:
    name, write = WRONG[what]
    path = tmp_path / name
    write(path)
    with pytest.raises(ModelError) as caught:
        read_tensors(path, KEY)
    assert caught.value.message.startswith(f"{path} ")
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["nothing.pt", "."])
def test_a_path_without_a_file_names_the_key(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"There is no file .*network\.encoder_weights"):
        read_tensors(tmp_path / name, KEY)


# where the path starts


BASE = """
name: t
labels: {background: 0, organ: 1}
train: {patch_size: [64, 64]}
network: {name: efficient_unet, dims: 2, encoder_weights: weights/b0.pth}
"""


def test_the_path_starts_at_the_file_that_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTS", "/elsewhere")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "base.yaml").write_text(BASE)
    (tmp_path / "top.yaml").write_text("extends: deep/base.yaml\n")
    config = load_config(tmp_path / "top.yaml")
    assert config.network.encoder_weights == str(tmp_path / "deep" / "weights" / "b0.pth")
    monkeypatch.chdir(tmp_path)
    config = load_config("top.yaml", overrides=["network.encoder_weights=b0.pth"])
    assert config.network.encoder_weights == str(Path.cwd() / "b0.pth")
    config = load_config("top.yaml", overrides=["network.encoder_weights=${WEIGHTS}/b0.pth"])
    assert config.network.encoder_weights == "/elsewhere/b0.pth"


@pytest.mark.parametrize("network", ["{name: unet, dims: 2, channels: [8, 16]}", "{name: efficient_unet, dims: 2}"])
def test_a_network_without_the_path_is_written_back_as_before(network: str) -> None:
    config = parse_config(BASE[: BASE.index("network")] + f"network: {network}\n")
    assert parse_config(dump_config(config)) == config


def test_a_path_is_written_back_as_it_is(tmp_path: Path) -> None:
    config = parse_config(BASE.replace("weights/b0.pth", "'$${x}/b0.pth'"), folder=tmp_path)
    assert config.network.encoder_weights == str(tmp_path / "${x}" / "b0.pth")
    assert parse_config(dump_config(config), folder="/") == config


def test_the_path_is_no_key_of_other_networks() -> None:
    with pytest.raises(ConfigError, match="encoder_weights"):
        parse_config(BASE.replace("efficient_unet", "unet"))


# when it is needed


@pytest.fixture
def r18(tmp_path: Path, make_config: Callable[..., Any]) -> Path:
    """An r18 for three channels, as a classifier keeps it."""
    network = build_network(make_config(tmp_path, {"network": NETWORK}).network, 3, 2)
    torch.save({**network.encoder.state_dict(), "fc.weight": torch.rand(2, 512)}, tmp_path / "r18.pth")
    return tmp_path / "r18.pth"


class Stages(Observer):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def stage(self, name: str, done: int, total: int) -> None:  # noqa: ARG002
        self.seen.append(name)


@pytest.mark.parametrize(("backbone", "name"), [("r18", "missing.pth"), ("r34", "r18.pth"), ("b0", "r18.pth")])
def test_weights_that_cannot_be_used_are_told_before_anything_is_read(
    backbone: str, name: str, r18: Path, tmp_path: Path, tiny_dataset: Path, make_config: Callable[..., Any]
) -> None:
    network = {**NETWORK, "backbone": backbone, "encoder_weights": str(r18.with_name(name))}
    config = make_config(tiny_dataset, {"network": network, "train.patch_size": [32, 32]})
    observer = Stages()
    with pytest.raises(MedunetError, match=name):
        train(config, tmp_path / "run", device="cpu", observer=observer)
    assert observer.seen == []
    assert not (tmp_path / "run").exists()


def test_the_encoder_gets_the_weights_and_the_decoder_does_not(
    r18: Path, tmp_path: Path, make_config: Callable[..., Any]
) -> None:
    config = make_config(tmp_path, {"network": {**NETWORK, "encoder_weights": str(r18)}})
    check_encoder(config)
    network = build_network(config.network, 1, 3)
    before = {name: value.clone() for name, value in network.decoder.state_dict().items()}
    load_encoder(network, config)
    file = torch.load(r18, weights_only=True)
    assert torch.equal(network.encoder.layer4[1].conv2.weight, file["layer4.1.conv2.weight"])
    torch.testing.assert_close(network.encoder.conv1.weight, file["conv1.weight"].sum(1, keepdim=True))
    assert all(torch.equal(value, before[name]) for name, value in network.decoder.state_dict().items())


def test_a_configuration_without_weights_needs_no_file(tmp_path: Path, make_config: Callable[..., Any]) -> None:
    for changes in ({"network": NETWORK}, {}):
        config = make_config(tmp_path, changes)
        check_encoder(config)
        network = build_network(config.network, 1, 3)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        load_encoder(network, config)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_model_does_not_know_where_its_encoder_came_from(
    r18: Path, tmp_path: Path, make_config: Callable[..., Any]
) -> None:
    network = {**NETWORK, "encoder_weights": str(r18)}
    config = make_config(tmp_path, {"network": network, "train.patch_size": [32, 32]})
    built = build_network(config.network, 1, 3)
    folder = save_model(tmp_path / "model", config, built.state_dict(), {})
    assert str(r18) not in (folder / "model.yaml").read_text()
    assert yaml.safe_load((folder / "model.yaml").read_text())["network"]["encoder_weights"] is None
    r18.unlink()
    assert load_model(folder).build()(torch.zeros(1, 1, 32, 64)).shape == (1, 3, 32, 64)


# from a model that was trained before


def trained(folder: Path, make_config: Callable[..., Any], intensity: dict[str, Any]) -> tuple[Path, Any]:
    """A model for two other labels and three channels."""
    changes = {
        "network": NETWORK,
        "train.patch_size": [32, 32],
        "data.modality": ["R", "G", "B"],
        "preprocess.intensity": intensity,
    }
    config = make_config(folder, changes)
    network = build_network(config.network, 3, 3)
    return save_model(folder / "model", config, network.state_dict(), {}), network


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_the_encoder_of_a_model_is_taken_and_its_decoder_is_not(
    tmp_path: Path, make_config: Callable[..., Any], zipped: bool
) -> None:
    model, source = trained(tmp_path, make_config, {"name": "zscore"})
    if zipped:
        with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
            for path in model.iterdir():
                archive.write(path, path.name)
        model = tmp_path / "model.zip"
    config = make_config(tmp_path, {"network": {**NETWORK, "encoder_weights": str(model)}})
    check_encoder(config)
    network = build_network(config.network, 1, 3)
    load_encoder(network, config)
    found, given = network.encoder.state_dict(), source.encoder.state_dict()
    torch.testing.assert_close(found.pop("conv1.weight"), given.pop("conv1.weight").sum(1, keepdim=True))
    assert all(torch.equal(value, given[name]) for name, value in found.items())
    first, other = (next(each.decoder.parameters()) for each in (network, source))
    assert not torch.equal(first, other)


def test_a_model_with_another_encoder_is_refused(tmp_path: Path, make_config: Callable[..., Any]) -> None:
    model, _ = trained(tmp_path, make_config, {"name": "zscore"})
    for other in ({"backbone": "r34"}, {"backbone": "b0"}):
        config = make_config(tmp_path, {"network": {**NETWORK, **other, "encoder_weights": str(model)}})
        with pytest.raises(ModelError, match=f"{model} holds no weights of a {other['backbone']}"):
            check_encoder(config)


@pytest.mark.parametrize(("now", "warned"), [("imagenet", False), ("zscore", True)])
def test_an_encoder_that_saw_other_values_is_told(
    tmp_path: Path, make_config: Callable[..., Any], caplog: pytest.LogCaptureFixture, now: str, warned: bool
) -> None:
    model, _ = trained(tmp_path, make_config, {"name": "imagenet"})
    changes = {
        "network": {**NETWORK, "encoder_weights": str(model)},
        "data.modality": ["R", "G", "B"],
        "preprocess.intensity": {"name": now},
    }
    config = make_config(tmp_path, changes)
    load_encoder(build_network(config.network, 3, 3), config)
    assert ('The encoder was trained with preprocess.intensity [{"name": "imagenet"' in caplog.text) == warned
