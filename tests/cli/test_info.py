"""`medunet info`: what it says about every kind of path, and its exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image

from medunet.cli.main import main
from medunet.config.catalogue import networks

DATA = Path(__file__).resolve().parents[2] / "../shared/data"

CONFIG = """\
name: toy
labels: {background: 0, liver: 1}
train: {patch_size: [32, 32, 32], epochs: 4}
"""


@pytest.fixture
def medunet(monkeypatch, capsys):
    """Run `medunet info`; gives exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["medunet", "info", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def facts(medunet):
    """The JSON that `medunet info` prints about a healthy path."""

    def run(*arguments):
        code, out, err = medunet(*arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return run


@pytest.fixture
def sick(medunet):
    """The problems that `medunet info` tells about a path that is not healthy."""

    def run(*arguments):
        code, out, err = medunet(*arguments, "--json")
        value = json.loads(out)
        assert (code, value["healthy"]) == (1, False)
        assert all(problem in err for problem in value["problems"])
        return "\n".join(value["problems"])

    return run


def save(path, array, affine=None, sform=None, qform=None):
    picture = nibabel.Nifti1Image(array, np.diag([1, 1, 2, 1]) if affine is None else affine)
    if sform is not None:
        picture.set_sform(picture.affine, sform)
        picture.set_qform(picture.affine, qform)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(picture, path)
    return path


def scan(low=0, high=500, shape=(6, 5, 4)):
    return np.random.default_rng(0).integers(low, high, shape).astype(np.int16)


class TestImage:
    def test_a_nifti_is_described(self, tmp_path, facts):
        found = facts(save(tmp_path / "a.nii.gz", scan(), sform=1, qform=1))
        assert (found["kind"], found["format"], found["healthy"]) == ("image", "nii.gz", True)
        assert (found["shape"], found["spacing_mm"], found["orientation"]) == ([6, 5, 4], [1, 1, 2], "RAS")
        assert (found["dtype"], found["channels"]) == ("int16", 1)
        assert found["range"] == [float(scan().min()), float(scan().max())]
        assert found["nifti"]["sform_code"] == 1
        assert found["notes"] == []

    def test_people_get_lines_and_no_colours(self, tmp_path, medunet):
        code, out, err = medunet(save(tmp_path / "a[red].nii.gz", scan()))
        assert (code, err) == (0, "")
        assert "a[red].nii.gz" in out
        assert "spacing mm   1, 1, 2\n" in out
        assert "\x1b" not in out

    @pytest.mark.parametrize(
        ("array", "note"),
        [
            (scan(-1024, 1500), "look like CT"),
            (np.pad(np.ones((3, 3, 3), np.uint8), 2), "looks like a mask with values 0, 1"),
            (np.pad(np.full((3, 3, 3), 2, np.float32), 2), "looks like a mask with values 0, 2"),
            (np.full((3, 3, 3), 7, np.int16), "Every voxel is 7"),
        ],
    )
    def test_what_the_values_look_like_is_noted(self, tmp_path, facts, array, note):
        assert note in facts(save(tmp_path / "a.nii.gz", array))["notes"][-1]

    @pytest.mark.parametrize(
        ("affine", "codes", "note"),
        [
            (np.eye(4), (0, 0), "Neither sform nor qform is set"),
            (np.diag([1, 1, 5, 1]), (1, 1), "far from cubes (1 x 1 x 5 mm)"),
            (np.diag([1, 2, 2, 1]), (1, 1), "not square (1 x 2 mm)"),
        ],
    )
    def test_doubtful_headers_are_noted(self, tmp_path, facts, affine, codes, note):
        found = facts(save(tmp_path / "a.nii.gz", scan(), affine, *codes))
        assert any(note in line for line in found["notes"])

    def test_two_affines_that_disagree_are_noted(self, tmp_path, facts):
        image = nibabel.Nifti1Image(scan(), np.eye(4))
        image.set_qform(np.diag([1, 1, 4, 1]), 1)
        image.set_sform(np.eye(4), 1)
        nibabel.save(image, tmp_path / "a.nii")
        data = bytearray((tmp_path / "a.nii").read_bytes())
        data[88:92] = struct.pack("<f", 4.0)  # pixdim[3]: nibabel writes that of the sform
        (tmp_path / "a.nii").write_bytes(data)
        assert any("sform and qform disagree" in line for line in facts(tmp_path / "a.nii")["notes"])

    def test_voxels_that_are_not_finite_are_unhealthy(self, tmp_path, sick):
        array = scan().astype(np.float32)
        array[0, 0, :2] = np.nan, np.inf
        assert sick(save(tmp_path / "a.nii.gz", array)) == "2 of 120 voxels are NaN or infinite."

    def test_an_image_of_nothing_but_nan_is_unhealthy(self, tmp_path, sick):
        assert "8 of 8" in sick(save(tmp_path / "a.nii.gz", np.full((2, 2, 2), np.nan, np.float32)))

    def test_a_file_that_cannot_be_read_is_unhealthy(self, tmp_path, sick):
        whole = save(tmp_path / "a.nii.gz", scan(shape=(20, 20, 20)))
        whole.write_bytes(whole.read_bytes()[:5000])
        assert "cannot be read as NIfTI" in sick(whole)

    def test_a_4d_image_is_unhealthy(self, tmp_path, sick):
        assert "is 4D" in sick(save(tmp_path / "a.nii.gz", scan(shape=(3, 3, 3, 2))))

    def test_a_picture_is_described(self, tmp_path, facts):
        Image.fromarray(np.zeros((4, 7, 3), np.uint8)).save(tmp_path / "p.png")
        found = facts(tmp_path / "p.png")
        assert (found["shape"], found["channels"]) == ([7, 4], 3)


class TestDataset:
    @pytest.fixture
    def dataset(self, tmp_path):
        for name in ("a", "b", "c"):
            save(tmp_path / f"imagesTr/{name}.nii.gz", scan())
            save(tmp_path / f"labelsTr/{name}.nii.gz", np.ones((6, 5, 4), np.uint8))
        entries = [
            {"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz", "fold": i} for i, n in enumerate("abc")
        ]
        value = {"labels": {"0": "background", "1": "liver"}, "modality": {"0": "CT"}, "training": entries}
        (tmp_path / "dataset.json").write_text(json.dumps(value))
        return tmp_path

    def test_a_data_set_is_described(self, dataset, facts):
        found = facts(dataset)
        assert (found["kind"], found["format"], found["cases"], found["folds"]) == (
            "dataset",
            "decathlon",
            3,
            [0, 1, 2],
        )
        assert found["labels"] == {"background": 0, "liver": 1}
        assert found["modality"] == ["CT"]
        assert found["shape"]["median"] == [6, 5, 4]
        assert facts(dataset / "dataset.json")["cases"] == 3

    def test_masks_on_another_grid_are_unhealthy(self, dataset, sick):
        save(dataset / "labelsTr/b.nii.gz", np.ones((6, 5, 3), np.uint8))
        assert sick(dataset) == "b: b.nii.gz has shape 6x5x3 instead of 6x5x4 (b.nii.gz)."

    def test_missing_files_are_unhealthy(self, dataset, sick):
        (dataset / "labelsTr/b.nii.gz").unlink()
        (dataset / "imagesTr/c.nii.gz").unlink()
        assert sick(dataset).count("there is no such file") == 2

    def test_long_lists_of_problems_are_cut_for_people(self, dataset, medunet):
        entries = [{"image": f"x{i}.nii.gz", "label": f"y{i}.nii.gz"} for i in range(30)]
        (dataset / "dataset.json").write_text(json.dumps({"training": entries}))
        code, _, err = medunet(dataset)
        assert code == 1
        assert len(err.splitlines()) == 21
        assert "60 problems in all" in err

    def test_a_table_and_plain_folders_are_data_sets_too(self, dataset, facts):
        (dataset / "dataset.json").unlink()
        assert facts(dataset)["format"] == "folders"
        (dataset / "cases.csv").write_text("image,label\nimagesTr/a.nii.gz,labelsTr/a.nii.gz\n")
        assert facts(dataset / "cases.csv")["cases"] == 1

    def test_a_config_says_how_the_data_set_is_read(self, tmp_path, facts, sick, medunet):
        for number in range(4):
            for folder, size in (("scans/{}.png", (8, 9)), ("truth/m_{}.png", (16, 18))):
                path = tmp_path / "data" / folder.format(f"p{number // 2}_{number}")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.zeros(size, np.uint8)).save(path)
        pairs = 'pairs: {images: "scans/{case}.png", labels: "truth/m_{case}.png"}, group: "{group}_*"'
        head = "extends: base/2d.yaml\nname: x\nlabels: {background: 0, cell: 255}\n"
        for name, more in (("grey", ""), ("sized", ", resize_label: true")):
            (tmp_path / f"{name}.yaml").write_text(f"{head}data: {{{pairs}{more}}}\n")
        data = tmp_path / "data"
        assert "p0_0: m_p0_0.png has shape" in sick(data, "--config", tmp_path / "grey.yaml")
        found = facts(data, "--config", tmp_path / "sized.yaml")
        assert (found["format"], found["cases"], found["groups"]) == ("pairs", 4, 2)
        assert medunet(data)[0] != 0
        code, _, err = medunet("--losses", "--config", tmp_path / "grey.yaml")
        assert (code, "--config needs a data set" in err) == (2, True)
        code, _, err = medunet(tmp_path / "nowhere", "--config", tmp_path / "grey.yaml")
        assert (code, "nowhere" in err) == (2, True)

    def test_pictures_and_volumes_do_not_go_together(self, dataset, sick):
        for name in ("imagesTr/p.png", "labelsTr/p.png"):
            Image.fromarray(np.zeros((4, 7), np.uint8)).save(dataset / name)
        (dataset / "dataset.json").unlink()
        assert "needs one kind" in sick(dataset)


def weights(count=6):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, count // 2], "data_offsets": [0, 4 * count]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * count)


@pytest.fixture
def model(tmp_path):
    """A model folder, as far as it can be told without a network."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(weights())
    spec = {
        "name": "toy",
        "modality": ["CT"],
        "labels": {"background": 0, "liver": 1},
        "network": {"name": "unet", "dims": 3, "channels": [8, 16]},
        "preprocess": {"spacing": [1.0, 1.0, 2.0]},
        "inference": {"patch_size": [32, 32, 32]},
        "files": {"weights.safetensors": {"sha256": hashlib.sha256(weights()).hexdigest(), "bytes": len(weights())}},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(spec))
    return folder


def edit(folder, **changes):
    file = folder / "model.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))


class TestModel:
    def test_a_model_is_described_and_verified(self, model, facts):
        found = facts(model)
        assert (found["kind"], found["name"], found["parameters"]) == ("model", "toy", 6)
        assert found["network"]["channels"] == [8, 16]
        assert found["files"][0]["verified"] is True
        assert facts(model / "model.yaml")["name"] == "toy"

    def test_a_zip_of_a_model_is_a_model(self, model, facts, tmp_path):
        for prefix in ("", "toy/"):
            with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
                for file in model.iterdir():
                    archive.write(file, prefix + file.name)
            assert facts(tmp_path / "m.zip")["files"][0]["verified"] is True

    def test_weights_that_were_changed_are_unhealthy(self, model, medunet):
        data = bytearray((model / "weights.safetensors").read_bytes())
        data[-1] ^= 1
        (model / "weights.safetensors").write_bytes(data)
        code, out, err = medunet(model)
        assert code == 1
        assert "healthy     no" in out
        assert "weights.safetensors was changed or damaged: its SHA-256 is" in err

    def test_weights_that_are_missing_are_unhealthy(self, model, sick):
        (model / "weights.safetensors").unlink()
        assert "it is missing" in sick(model)

    def test_weights_of_another_format_are_unhealthy(self, model, sick):
        (model / "weights.safetensors").write_bytes(b"x" * 50)
        edit(model, files={"weights.safetensors": {"sha256": hashlib.sha256(b"x" * 50).hexdigest()}})
        assert "no safetensors file" in sick(model)

    @pytest.mark.parametrize(
        ("changes", "rule"),
        [
            ({"files": {}}, "states no hash"),
            ({"files": None}, "states no hash"),
            ({"files": {"weights.safetensors": "abc"}}, "changed or damaged"),
            ({"network": {"name": "unet", "chanels": [8, 16]}}, "network.chanels"),
            ({"network": None}, "not understood at network"),
            ({"preprocess": {"spacing": [0, 1, 1]}}, "preprocess.spacing"),
            ({"labels": {"liver": 1}}, "labels are not understood"),
            ({"labels": [1]}, "labels are not understood"),
        ],
    )
    def test_a_model_yaml_that_makes_no_sense_is_unhealthy(self, model, sick, changes, rule):
        edit(model, **changes)
        assert rule in sick(model)

    def test_what_training_saw_is_a_table(self, tiny_model, medunet, facts):
        code, out, _ = medunet(tiny_model)
        assert code == 0
        assert "spacing mm        (1.5, 1.5), (1.5, 1.5), (2, 2)" in out
        assert "structure  cases  present  volume ml" in out
        assert [row["structure"] for row in facts(tiny_model)["seen"]["structures"]] == ["organ", "core"]

    @pytest.mark.parametrize("seen", [3, {}, {"channels": 1, "structures": {}}, {"channels": [], "structures": []}])
    def test_what_training_saw_must_be_understood(self, model, sick, seen):
        edit(model, seen=seen)
        assert "not understood at seen" in sick(model)

    def test_its_parameters_are_listed_by_name_and_shape(self, model, medunet, tmp_path):
        kinds = {"layers.10.weight": "F32", "layers.9.bias": "BF16", "norm.running_mean": "F32", "count": "I64"}
        header = json.dumps({name: {"dtype": kind, "shape": [2, 3]} for name, kind in kinds.items()}).encode()
        (model / "weights.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        assert medunet(model, "--layers") == (0, "layers.9.bias     2x3\nlayers.10.weight  2x3\n", "")
        with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
            for file in model.iterdir():
                archive.write(file, f"toy/{file.name}")
        for path in (model, model.parent, tmp_path / "m.zip"):  # the second holds model/, as a run does
            code, out, _ = medunet(path, "--layers", "--json")
            assert (code, json.loads(out)) == (0, {"layers.9.bias": [2, 3], "layers.10.weight": [2, 3]})

    def test_the_names_are_those_that_a_network_has(self, tiny_run):
        from medunet.io.describe.model import layers_of
        from medunet.model import load_model
        from medunet.networks.registry import build_network

        network = build_network(load_model(tiny_run).spec.network, 1, 3)
        wanted = {name: tuple(value.shape) for name, value in network.named_parameters()}
        assert layers_of(tiny_run) == layers_of(tiny_run / "model") == wanted

    def test_layers_are_those_of_a_model_that_can_be_read(self, model, medunet, tmp_path):
        (tmp_path / "empty").mkdir()
        code, _, err = medunet(tmp_path / "empty", "--layers")
        assert (code, "is no model, and no run that has one" in err) == (2, True)
        (model / "weights.safetensors").write_bytes(b"x" * 50)
        code, _, err = medunet(model, "--layers")
        assert (code, "says what is damaged" in err) == (1, True)

    def test_files_outside_of_the_folder_are_never_opened(self, model, sick):
        (model.parent / "secret").write_text("x")
        edit(model, files={"../secret": {"sha256": "0" * 64}, "weights.safetensors": {"sha256": "0" * 64}})
        assert "../secret, which is not inside the folder" in sick(model)

    @pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xff", b""])
    def test_a_model_yaml_that_is_no_mapping_is_unhealthy(self, model, sick, content):
        (model / "model.yaml").write_bytes(content)
        assert "model.yaml" in sick(model)


class TestRun:
    @pytest.fixture
    def run(self, tmp_path):
        folder = tmp_path / "run"
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").write_text(CONFIG)
        (folder / "checkpoints/last.pt").write_bytes(b"x")
        rows = [
            {"epoch": 1, "loss": 1.0, "dice_mean": None, "dice": {}},
            {"epoch": 2, "loss": 0.5, "dice_mean": 0.8, "dice": {"liver": 0.8}},
            {"epoch": 3, "loss": 0.4, "dice_mean": 0.7, "dice": {"liver": 0.7}},
        ]
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return folder

    def test_a_run_is_described(self, run, facts):
        found = facts(run)
        assert (found["kind"], found["name"], found["epoch"]) == ("run", "toy", "3 of 4")
        assert found["best"] == {"epoch": 2, "dice_mean": 0.8, "dice": {"liver": 0.8}}
        assert found["last"]["loss"] == 0.4
        assert found["checkpoints"] == ["last.pt"]
        assert "no model yet" in found["notes"][0]

    def test_a_line_that_was_cut_by_a_kill_is_no_damage(self, run, facts):
        with (run / "metrics.jsonl").open("a") as handle:
            handle.write('{"epoch": 4, "lo')
        found = facts(run)
        assert found["epoch"] == "3 of 4"
        assert any("incomplete" in note for note in found["notes"])

    def test_damage_in_the_middle_is_unhealthy(self, run, sick):
        text = (run / "metrics.jsonl").read_text()
        (run / "metrics.jsonl").write_text("garbage\n" + text)
        assert "metrics.jsonl:1" in sick(run)

    def test_a_config_that_cannot_be_read_is_unhealthy(self, run, sick):
        (run / "config.yaml").write_text("name: 3\n")
        assert "labels" in sick(run)

    def test_a_run_without_an_epoch_is_healthy(self, run, facts):
        (run / "metrics.jsonl").unlink()
        assert "No epoch" in facts(run)["notes"][0]

    def test_what_a_run_was_made_with_is_told(self, run, facts):
        start = {
            "started": "2026-01-02T03:04:05+00:00",
            "git": {"commit": "0123456789abcdef", "changed": True},
            "versions": {"medunet": "1.2.3", "torch": "2.9"},
            "precision": "bfloat16",
            "device": "cuda:0",
            "hardware": {"processor": "a CPU", "gpu": "a GPU"},
            "data": {"cases": 5, "sha256": "ab" * 32, "root": "/data"},
        }
        (run / "run.json").write_text(json.dumps({"starts": [start, {**start, "started": "later"}]}))
        found = facts(run)
        assert found["started"] == "2026-01-02T03:04:05+00:00, resumed once"
        assert found["trained_with"] == (
            "medunet 1.2.3, commit 0123456789ab with changes, torch 2.9, bfloat16 on a GPU"
        )
        assert found["data"] == "5 cases, SHA-256 abababababab..., /data"

    @pytest.mark.parametrize("content", ["{", "[]", '{"starts": []}', '{"starts": [{}]}', '{"starts": [3]}'])
    def test_a_damaged_record_of_that_is_noted(self, run, facts, content):
        (run / "run.json").write_text(content)
        assert "run.json is damaged" in " ".join(facts(run)["notes"])

    def test_a_damaged_model_makes_the_run_unhealthy(self, run, model, sick):
        model.rename(run / "model")
        (run / "model/weights.safetensors").write_bytes(b"x")
        assert sick(run).startswith("model: weights.safetensors was changed")


class TestConfig:
    def test_a_config_is_described(self, tmp_path, facts):
        (tmp_path / "c.yaml").write_text(CONFIG)
        found = facts(tmp_path / "c.yaml")
        assert (found["kind"], found["name"], found["epochs"]) == ("config", "toy", 4)
        assert found["loss"] == ["dice x 1", "cross_entropy x 1"]

    def test_its_problems_are_told_all_at_once(self, tmp_path, sick):
        (tmp_path / "c.yaml").write_text(CONFIG + "seed: -1\nauggment: {}\n")
        text = sick(tmp_path / "c.yaml")
        assert "c.yaml:4" in text
        assert "auggment" in text

    def test_yaml_that_is_none_is_told(self, tmp_path, sick):
        (tmp_path / "c.yaml").write_text("name: [\n")
        assert "c.yaml" in sick(tmp_path / "c.yaml")


class TestDicom:
    def test_a_damaged_file_in_an_export_is_told(self, tmp_path, sick):
        (tmp_path / "1.dcm").write_bytes(bytes(128) + b"DICM" + b"\x08\x00" + bytes(40))
        assert sick(tmp_path)

    @pytest.mark.data
    @pytest.mark.skipif(not DATA.is_dir(), reason="needs the real scans in ../shared/data")
    def test_a_real_export_is_described(self, facts):
        found = facts(DATA / "dicom/ct_philips_study_noext")
        assert found["kind"] == "dicom"
        assert found["series"][0]["shape"] == "512x512x28"
        assert found["read_by_default"] == found["series"][0]["uid"]

    @pytest.mark.data
    @pytest.mark.skipif(not DATA.is_dir(), reason="needs the real scans in ../shared/data")
    def test_a_real_export_without_a_volume_is_unhealthy(self, sick):
        assert "tilted" in sick(DATA / "dicom/ct_ge_tilt_varspace")


class TestUnknown:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.txt", b"x"),
            ("a.yaml", b"foo: 1\n"),
            ("a.yaml", b"[1]"),
            ("a.json", b"{}"),
            ("a.zip", b"PK"),
            ("noext", b""),
        ],
    )
    def test_other_files_are_a_usage_error(self, tmp_path, medunet, name, content):
        (tmp_path / name).write_bytes(content)
        code, out, err = medunet(tmp_path / name)
        assert (code, out) == (2, "")
        assert "is nothing that medunet knows. Known are image files" in err

    def test_a_folder_of_other_files_is_told_with_what_is_there(self, tmp_path, medunet):
        assert "It is empty." in medunet(tmp_path)[2]
        (tmp_path / "a.txt").write_text("x")
        code, out, err = medunet(tmp_path)
        assert (code, out) == (1, "")
        assert "is nothing that medunet knows. a.txt was left out: not DICOM." in err

    def test_results_of_nnunet_are_no_data_set(self, tmp_path, medunet):
        (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "CT"}, "labels": {}, "file_ending": ".nii.gz"}')
        (tmp_path / "plans.json").write_text("{}")
        assert medunet(tmp_path)[0] == 1

    def test_a_path_that_does_not_exist_is_a_usage_error(self, tmp_path, medunet):
        code, _, err = medunet(tmp_path / "missing")
        assert code == 2
        assert "There is no file or folder" in err

    @pytest.mark.parametrize(
        "arguments",
        [(), ("--networks", "--losses"), (".", "--losses"), ("--layers",), ("--losses", "--layers")],
    )
    def test_exactly_one_thing_must_be_asked_for(self, medunet, arguments):
        assert medunet(*arguments)[0] == 2


OPTION_KEYS = {"name", "default", "words", "allowed", "description"}


class TestLosses:
    def test_they_are_json_or_text(self, medunet):
        code, out, _ = medunet("--losses", "--json")
        assert code == 0
        first = json.loads(out)[0]
        assert set(first["options"][0]) == OPTION_KEYS
        code, out, _ = medunet("--losses")
        assert out.startswith(f"{first['name']}: ")


@pytest.fixture(scope="module")
def rows():
    """What two networks take and cost, computed once: it takes seconds."""
    from medunet.networks import overview

    return tuple(overview.overview(("unet", "unet2015")))


class TestNetworks:
    @pytest.fixture
    def two(self, monkeypatch, rows):
        """Two networks only, whose costs are known."""
        from medunet.networks import overview

        monkeypatch.setattr(overview, "overview", lambda names: (row for row in rows if row.name in names))

    @pytest.mark.usefixtures("two")
    def test_the_table_says_what_they_take_and_cost(self, medunet):
        code, out, err = medunet("--networks")
        assert (code, err) == (0, "")
        head, unet, old, *rest = out.splitlines()
        assert re.split(r"  +", head) == [
            *("network", "rank", "deep supervision", "stride", "minimum", "parameters", "patch", "GFLOP"),
            *("training", "inference", "export", "source"),
        ]
        assert re.split(r"  +", unet)[:8] == ["unet", "2D, 3D", "yes", "16", "16", "16.5 M", "64", "118"]
        assert re.split(r"  +", old)[:7] == ["unet2015", "2D, 3D", "no", "8", "92", "19.1 M", "100"]
        assert re.search(r"  [1-2]\.\d GiB +0\.\d\d GiB  yes     Isensee 2021, 2024; ours$", unet)
        assert any(line.startswith("  channels ") for line in rest)

    @pytest.mark.usefixtures("two")
    def test_json_holds_costs_and_options(self, medunet):
        code, out, _ = medunet("--networks", "--json")
        unet, old = json.loads(out)
        assert code == 0
        assert set(unet["options"][0]) == OPTION_KEYS
        assert (unet["name"], unet["ranks"], unet["deep_supervision"]) == ("unet", [2, 3], True)
        assert (old["stride"], old["minimum_size"], old["margin"]) == ([8] * 3, [92] * 3, [44] * 3)
        assert 16.5e6 < unet["parameters"] < 16.6e6
        assert 4 * unet["parameters"] < unet["inference_bytes"] < unet["training_bytes"] < 2**31
        assert unet["export"] is True
        assert "Isensee" in unet["source"]

    @pytest.mark.usefixtures("two")
    def test_one_can_be_asked_for(self, medunet):
        code, out, _ = medunet("--networks", "unet2015")
        lines = out.splitlines()
        assert code == 0
        assert lines[1].startswith("unet2015 ")
        assert "unet: " not in out

    def test_costs_that_nobody_knows_are_question_marks(self, medunet, monkeypatch, rows):
        from medunet.networks import overview

        costs = dict.fromkeys(("parameters", "forward_flops", "training_bytes", "inference_bytes"))
        monkeypatch.setattr(overview, "overview", lambda _: iter([replace(rows[0], **costs), rows[1]]))
        code, out, _ = medunet("--networks")
        unknown, known = out.splitlines()[1:3]
        assert code == 0
        assert re.split(r"  +", unknown)[5:-2] == ["? M", "64", "?", "? GiB", "? GiB"]
        assert known.startswith("unet2015 ")
        unknown, _ = json.loads(medunet("--networks", "--json")[1])
        assert {unknown[name] for name in costs} == {None}

    def test_one_that_does_not_exist_is_a_usage_error(self, medunet):
        code, out, err = medunet("--networks", "unet2016")
        assert (code, out) == (2, "")
        assert '"unet2016" is no network. Did you mean unet2015?' in " ".join(err.split())
        assert "There are unet, " in medunet("--networks", "zzz")[2]

    @pytest.mark.slow
    def test_the_whole_table_has_a_row_of_costs_for_each(self, medunet):
        code, out, _ = medunet("--networks", "--json")
        assert code == 0
        assert {row["name"] for row in json.loads(out)} == {network.name for network in networks()}
        assert all(row["training_bytes"] > row["inference_bytes"] > 4 * row["parameters"] for row in json.loads(out))


@pytest.mark.parametrize("what", ["image", "model", "--losses", "--layers"])
def test_torch_is_never_imported(tmp_path, model, what):
    path, file = str(model), str(save(tmp_path / "a.nii.gz", scan()))
    arguments = {"image": [file], "model": [path], "--layers": [path, "--layers"]}.get(what, [what])
    code = (
        f"import sys; sys.argv = ['medunet', 'info', *{arguments!r}]\n"
        "from medunet.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        "assert 'torch' not in sys.modules and 'monai' not in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert result.returncode == 0, result.stderr
