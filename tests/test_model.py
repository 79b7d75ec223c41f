"""The model folder: whole or refused, readable by people, free of code."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from medunet.config.derived import mirror_axes
from medunet.config.postprocess import ThresholdConfig
from medunet.config.schema import Config
from medunet.config.terms import TermConfig
from medunet.errors import ConfigError, MedunetError, ModelError, OutputError, UsageError
from medunet.labels import LabelMap
from medunet.model import SPEC_FILE, WEIGHTS_FILE, load_model, save_model
from medunet.networks.registry import build_network

CONFIG = Config.model_validate(
    {
        "name": "kühn: ja",
        "labels": {"background": 0, "liver": 205, "lesion": (4, -1)},
        "data": {"modality": ("T1", "T2")},
        "network": {"channels": (4, 8), "residual": True, "norm": "batch", "blocks": (1, 2)},
        "preprocess": {"spacing": (1.0, 1.0, 2.5), "intensity": {"name": "zscore"}, "crop": {"above": 1e-5}},
        "train": {"patch_size": (8, 8, 4)},
        "inference": {"overlap": 0.25, "tta": True, "batch_size": 3},
        "postprocess": ({"name": "remove_small", "label": "liver", "ml": 0.5},),
    }
)
TRAINING = {"dice": 0.9, "lr": 1e-5, "cases": ["a", "b"], "seen": {"spacing": [1.0, 2.0]}, "best": None}


def network_of(config: Config = CONFIG) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(config.network, len(config.data.modality), len(config.labels)).eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model", CONFIG, network_of().state_dict(), TRAINING)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(written, tmp_path / "model"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = folder / SPEC_FILE
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(spec)
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return folder


def test_what_was_saved_is_what_is_loaded(written: Path) -> None:
    model = load_model(written)
    spec = model.spec
    assert (spec.name, spec.modality, spec.network, spec.preprocess) == (
        CONFIG.name, CONFIG.data.modality, CONFIG.network, CONFIG.preprocess,
    )  # fmt: skip
    assert spec.postprocess == CONFIG.postprocess
    assert spec.training == TRAINING
    assert model.labels.to_mapping() == {"background": 0, "liver": 205, "lesion": [4, -1]}
    inference = spec.inference
    assert (inference.patch_size, inference.overlap, inference.batch_size, inference.tta) == ((8, 8, 4), 0.25, 3, True)
    assert inference.mirror_axes == (0, 1, 2)
    assert {"medunet", "torch", "monai", "python"} <= set(spec.versions)


def test_the_network_gives_the_logits_it_gave_before(written: Path) -> None:
    before, after = network_of(), load_model(written).build()
    assert not after.training
    image = torch.randn(1, 2, 8, 8, 4)
    with torch.no_grad():
        assert torch.equal(after(image), before(image))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_are_stored_as_float32_in_plain_memory_order(tmp_path: Path, dtype: torch.dtype) -> None:
    network = network_of().to(dtype).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    model = load_model(save_model(tmp_path / "model", CONFIG, network.state_dict(), {}))
    assert {tensor.dtype for tensor in model.weights.values()} == {torch.float32}
    expected = network.state_dict()
    for name, tensor in model.weights.items():
        torch.testing.assert_close(tensor, expected[name].float())


def test_the_identity_of_a_model_is_the_hash_of_its_weights(written: Path, tmp_path: Path) -> None:
    again = save_model(tmp_path / "again", CONFIG, network_of().state_dict(), {"other": 1})
    assert load_model(again).id == load_model(written).id
    assert len(load_model(written).id) == 64


def test_the_folder_holds_two_files_and_nothing_that_runs(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == [SPEC_FILE, WEIGHTS_FILE]
    assert safetensors.torch.load_file(written / WEIGHTS_FILE)
    text = (written / SPEC_FILE).read_text(encoding="utf-8")
    assert "!!python" not in text
    assert "weights" not in yaml.safe_load(text)  # versions that know no ensembles read it
    assert "kühn: ja" in text


@pytest.mark.parametrize("inside", ["", "deep/model/"])
def test_a_zip_is_as_good_as_the_folder(written: Path, tmp_path: Path, inside: str) -> None:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in written.iterdir():
            archive.write(file, inside + file.name)
    assert load_model(path).id == load_model(written).id
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.zip"]  # nothing is extracted


def test_the_run_folder_leads_to_its_model(folder: Path) -> None:
    assert load_model(folder.parent).path == folder
    assert load_model(str(folder)).path == folder


def test_saving_again_replaces_the_model_as_a_whole(folder: Path) -> None:
    (folder / "stale").write_text("x")
    save_model(folder, CONFIG, network_of().state_dict(), {})
    assert sorted(path.name for path in folder.iterdir()) == [SPEC_FILE, WEIGHTS_FILE]


def test_a_model_that_cannot_be_written_leaves_the_old_one(folder: Path, full_disk: Callable[[str], None]) -> None:
    before = load_model(folder)
    full_disk("weights")
    with pytest.raises(OutputError, match="No space left"):
        save_model(folder, CONFIG, network_of().state_dict(), {"new": 1})
    assert load_model(folder).spec == before.spec
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("augment", "axes"),
    [({}, (0, 1, 2)), ({"preset": "mirror"}, (0, 1, 2)), ({"preset": "none"}, ()), ({"mirror_axes": (1,)}, (1,)),
     ({"mirror_axes": ()}, ())],
)  # fmt: skip
def test_only_axes_that_training_mirrored_are_mirrored_in_prediction(
    augment: dict[str, Any], axes: tuple[int, ...]
) -> None:
    config = CONFIG.model_copy(update={"augment": type(CONFIG.augment)(**augment)})
    assert mirror_axes(config.augment, config.network.dims) == axes


# what is no model


@pytest.mark.parametrize("name", ["nothing", "nothing.zip"])
def test_a_path_that_does_not_exist_is_a_usage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"no model .*{name}"):
        load_model(tmp_path / name)


def test_a_folder_that_is_no_model_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"is no model: it has no model\.yaml"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["image.nii.gz", WEIGHTS_FILE, SPEC_FILE])
def test_a_file_that_is_no_zip_is_a_usage_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(UsageError, match="neither a model folder nor a zip of one"):
        load_model(tmp_path / name)


# damage


def test_one_changed_bit_in_the_weights_is_found_and_named(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    good = path.read_bytes()
    for position in (0, 100, len(good) // 2, len(good) - 1):
        data = bytearray(good)
        data[position] ^= 1
        path.write_bytes(data)
        with pytest.raises(ModelError, match=rf"{WEIGHTS_FILE} was changed or damaged"):
            load_model(folder)


@pytest.mark.parametrize("size", [0, 8, 1000])
def test_truncated_weights_are_found(folder: Path, size: int) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match=rf"{WEIGHTS_FILE} was changed or damaged"):
        load_model(folder)


def test_weights_that_are_something_else_with_a_right_hash_are_refused(folder: Path) -> None:
    import hashlib

    data = b"no tensors"
    (folder / WEIGHTS_FILE).write_bytes(data)
    edit(folder, lambda spec: spec["files"][WEIGHTS_FILE].update(sha256=hashlib.sha256(data).hexdigest()))
    with pytest.raises(ModelError, match=rf"{WEIGHTS_FILE} is not readable"):
        load_model(folder).build()


def test_weights_that_change_after_the_check_are_found_when_they_are_read(folder: Path) -> None:
    model = load_model(folder)
    data = bytearray((folder / WEIGHTS_FILE).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(data)
    with pytest.raises(ModelError, match=rf"{WEIGHTS_FILE} was changed or damaged"):
        model.build()


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(ModelError, match=f"lacks {WEIGHTS_FILE}"):
        load_model(folder)


@pytest.mark.parametrize("missing", [SPEC_FILE, WEIGHTS_FILE])
def test_a_zip_without_one_of_the_files_names_it(written: Path, tmp_path: Path, missing: str) -> None:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in written.iterdir():
            if file.name != missing:
                archive.write(file, file.name)
    with pytest.raises(ModelError, match=f"lacks {missing}"):
        load_model(path)


def zipped(folder: Path, path: Path) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_zip_is_said_to_be_damaged(written: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "model.zip"
    data = zipped(written, path)
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError, match="is a damaged zip"):
        load_model(path)


def test_a_changed_bit_in_a_zip_is_found(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    good = zipped(written, path)
    for position in range(60, len(good) - 400, len(good) // 20):
        data = bytearray(good)
        data[position] ^= 1
        path.write_bytes(data)
        with pytest.raises(MedunetError, match=r"model\.zip"):
            load_model(path)


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "newer format": (lambda spec: spec.update(format=2), "not understood at format"),
    "unknown key": (lambda spec: spec.update(extra=1), "not understood at extra"),
    "missing key": (lambda spec: spec.pop("labels"), "not understood at labels"),
    "impossible value": (lambda spec: spec["inference"].update(overlap=1.5), r"not understood at inference\.overlap"),
    "option of another network": (
        lambda spec: spec["network"].update(backbone="b0"), r"not understood at network\.backbone: Extra inputs"),
    "impossible option": (
        lambda spec: spec["network"].update(channels=[4, 0]), r"not understood at network\.channels\.1:"),
    "unknown network": (lambda spec: spec["network"].update(name="vgg"), r"not understood at network\.name"),
    "no hash": (lambda spec: spec["files"].clear(), "states no hash"),
    "a file that is not there": (
        lambda spec: spec["files"].update({"../secret": {"sha256": "0" * 64, "bytes": 1}}), r"lacks \.\./secret"),
    "no weights": (lambda spec: spec.update(weights=[]), "not understood at weights"),
    "weights that are not listed": (lambda spec: spec.update(weights=["other"]), "states no hash for other"),
    "labels without background": (lambda spec: spec.update(labels={"liver": 1}), "background first"),
    "label without a value": (lambda spec: spec["labels"].update(liver=[]), "liver has none"),
    "clean-up of an unknown label": (lambda spec: spec["postprocess"][0].update(label="spleen"), 'names "spleen"'),
    "clean-up of background": (lambda spec: spec["postprocess"][0].update(label="background"), 'names "background"'),
    "clean-up of an unknown group": (
        lambda spec: spec.update(postprocess=[{"name": "fill_holes", "labels": ["liver", "spleen"]}]),
        'names "spleen"'),
    "clean-up of nothing": (
        lambda spec: spec.update(postprocess=[{"name": "fill_holes"}]), r"postprocess\.0\.label is missing"),
    "clean-up by two volumes": (
        lambda spec: spec["postprocess"][0].update(mm3=3.0), r"postprocess\.0\.mm3 cannot stand beside ml"),
    "a threshold of 1": (
        lambda spec: spec.update(postprocess=[{"name": "threshold", "label": "liver", "probability": 1.0}]),
        r"not understood at postprocess\.0\.probability"),
    "labels that cross": (lambda spec: spec["labels"].update(liver=[1, 2], lesion=[2, 3]), "shares value 2 with"),
    "flat patch": (lambda spec: spec["inference"].update(patch_size=[8, 8]), "do not fit a network of 3 axes"),
    "fourth axis": (lambda spec: spec["inference"].update(mirror_axes=[3]), "do not fit a network of 3 axes"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_description_says_what_is_wrong_with_it(folder: Path, name: str) -> None:
    change, words = EDITS[name]
    with pytest.raises(ModelError, match=words) as caught:
        load_model(edit(folder, change))
    assert str(folder) in caught.value.message
    assert caught.value.hint


def test_a_model_is_applied_in_another_way_without_being_written(folder: Path) -> None:
    before = (folder / SPEC_FILE).read_bytes()
    model = load_model(folder)
    overrides = ["postprocess.0.name=smooth", "postprocess.0.label=liver", "postprocess.0.mm=2"]
    other = model.changed([*overrides, "inference.overlap=0.125"])
    assert [step.model_dump() for step in other.spec.postprocess] == [{"name": "smooth", "label": "liver", "mm": 2.0}]
    assert other.spec.inference == model.spec.inference.model_copy(update={"overlap": 0.125})
    assert other.changed(["postprocess=[]"]).spec.postprocess == ()
    assert (other.id, other.path, other.spec.network) == (model.id, model.path, model.spec.network)
    assert (folder / SPEC_FILE).read_bytes() == before


def test_everything_that_cannot_be_changed_of_a_model_is_told_at_once(folder: Path) -> None:
    overrides = ["train.epochs=3", "inference.patch_size=[8, 8, 8]", "postprocess.0.labels=[liver, milt]", "x"]
    with pytest.raises(ConfigError, match="has 5 problems") as caught:
        load_model(folder).changed(overrides)
    told = [(problem.where.split("=")[0], problem.what) for problem in caught.value.problems]
    assert sorted(told) == [
        ("--set inference.patch_size", "inference.patch_size"),
        ("--set postprocess.0.labels", "postprocess.0.labels"),  # beside label
        ("--set postprocess.0.labels", "postprocess.0.labels.1"),
        ("--set train.epochs", "train.epochs"),
        ("--set x", ""),
    ]


@pytest.mark.parametrize(
    "text",
    ["", "[1, 2", "just words", "- a\n- list", "created: 2024-01-01", "a: !!python/object/apply:os.getcwd []", "\x00"],
)
def test_a_description_that_is_no_mapping_is_a_sentence(folder: Path, text: str) -> None:
    (folder / SPEC_FILE).write_text(text)
    with pytest.raises(ModelError, match=r"model\.yaml is"):
        load_model(folder)


def test_comments_and_changed_defaults_are_welcome(folder: Path) -> None:
    path = folder / SPEC_FILE
    text = path.read_text(encoding="utf-8").replace("overlap: 0.25", "overlap: 0.5  # slower, smoother")
    path.write_text("# edited\n" + text, encoding="utf-8")
    assert load_model(folder).spec.inference.overlap == 0.5


@pytest.mark.parametrize(
    "change",
    [{"channels": [4, 16]}, {"channels": [4, 8, 8], "blocks": 2}, {"residual": False}, {"dims": 3, "strides": [1]},
     {"blocks": [1]}, {"kernel_size": 5}, {"norm": "group"}, {"strides": [1, [2, 2]]}],
    ids=str,
)  # fmt: skip
def test_weights_that_do_not_fit_the_network_are_refused(folder: Path, change: dict[str, Any]) -> None:
    model = load_model(edit(folder, lambda spec: spec["network"].update(change)))
    with pytest.raises(ModelError, match=r"do not fit the network in its model\.yaml"):
        model.build()


def test_weights_of_another_architecture_are_refused_by_the_first_layers_that_differ(folder: Path) -> None:
    model = load_model(edit(folder, lambda spec: spec["network"].update(channels=[4, 16])))
    with pytest.raises(ModelError) as caught:
        model.build()
    words = caught.value.message.partition("model.yaml: ")[2]
    assert words.count(" in the file and ") == 3
    assert re.match(r"encoder\.1\.\S+ is \(8, 4, 3, 3, 3\) in the file and \(16, 4, 3, 3, 3\) in the network, ", words)
    assert re.search(r", and \d+ more\.$", words)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"residual": False}, "is missing from the file"), ({"norm": "none"}, "is in the file only"),
     ({"channels": [4, 8, 8], "blocks": 2}, "is missing from the file")],
)  # fmt: skip
def test_layers_that_only_the_weights_or_the_network_have_are_told(
    folder: Path, change: dict[str, Any], words: str
) -> None:
    model = load_model(edit(folder, lambda spec: spec["network"].update(change)))
    with pytest.raises(ModelError, match=words):
        model.build()


def test_a_model_of_nested_labels_has_an_output_per_structure_and_no_more(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": (1, 2), "liver": 205, "core": 2, "ignore": 9}
    config = CONFIG.model_copy(update={"labels": labels})
    network = build_network(config.network, 2, LabelMap.from_mapping(labels).outputs)
    model = load_model(save_model(tmp_path / "model", config, network.state_dict(), {}))
    assert model.labels.nested
    assert model.labels.to_mapping() == {"background": 0, "whole": [1, 2], "liver": 205, "core": 2, "ignore": 9}
    with torch.no_grad():
        assert model.build()(torch.randn(1, 2, 8, 8, 4)).shape[1] == 3


def test_a_threshold_for_the_background_travels_with_the_model_unless_labels_are_nested(tmp_path: Path) -> None:
    step = ThresholdConfig(name="threshold", label="background", probability=0.6)
    config = CONFIG.model_copy(update={"postprocess": (step,)})
    assert load_model(save_model(tmp_path / "model", config, network_of().state_dict(), {})).spec.postprocess == (step,)
    nested = config.model_copy(update={"labels": {"background": 0, "whole": (1, 2), "core": 2}})
    path = save_model(tmp_path / "nested", nested, network_of(nested).state_dict(), {})
    with pytest.raises(ModelError, match='postprocess names "background"'):
        load_model(path)


def test_terms_of_labels_travel_with_the_model_and_may_be_changed(tmp_path: Path) -> None:
    plain = save_model(tmp_path / "plain", CONFIG, network_of().state_dict(), TRAINING)
    assert "terms" not in yaml.safe_load((plain / SPEC_FILE).read_text(encoding="utf-8"))
    terms = {"liver": {"colour": "#010203"}, "lesion": {"type": ("SCT", "4147007", "Mass")}}
    config = CONFIG.model_copy(
        update={"terms": {name: TermConfig.model_validate(each) for name, each in terms.items()}}
    )
    model = load_model(save_model(tmp_path / "model", config, network_of().state_dict(), TRAINING))
    assert model.labels.labels[1].colour == (1, 2, 3)
    found = model.labels.labels[2].term.type
    assert found is not None
    assert found.meaning == "Mass"
    changed = model.changed(["terms.lesion.colour=[9, 8, 7]"])
    assert (changed.labels.labels[1].colour, changed.labels.labels[2].colour) == ((1, 2, 3), (9, 8, 7))
    with pytest.raises(ConfigError, match="a problem") as caught:
        model.changed(["terms.lesoin.colour=[9, 8, 7]"])
    assert "Did you mean lesion?" in str(caught.value.problems)
