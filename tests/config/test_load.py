"""Finding, extending, overriding and writing back configurations."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.config.load import dump_config, load_config, parse_config, shipped_configs
from medunet.config.networks import option_classes
from medunet.errors import ConfigError

MINIMAL = "name: t\nlabels: {background: 0, liver: 1}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files into the current directory."""
    monkeypatch.chdir(tmp_path)

    def put(text, name="file.yaml"):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return name

    return put


def problems_of(config, **options):
    with pytest.raises(ConfigError) as caught:
        load_config(config, **options)
    return {(problem.where, problem.what): str(problem) for problem in caught.value.problems}


def test_a_minimal_file_gets_all_defaults(write):
    config = load_config(write(MINIMAL))
    assert config.name == "t"
    assert config.train.batch_size == 2
    assert config.data.root == ""


@pytest.mark.parametrize("name", ["ct_liver.yaml", "ct_liver", "./ct_liver.yaml"])
def test_a_shipped_configuration_is_found_by_name_unless_a_path_is_given(write, name):
    if name.startswith("./"):
        write(MINIMAL, "ct_liver.yaml")
    assert load_config(name, data="d").name == ("t" if name.startswith("./") else "ct_liver")


def test_a_file_in_the_current_directory_comes_before_a_shipped_one(write):
    write(MINIMAL, "ct_liver.yaml")
    assert load_config("ct_liver.yaml").name == "t"


def test_there_are_eleven_shipped_configurations_and_each_is_valid(monkeypatch):
    monkeypatch.setenv("MEDUNET_DATA", "/data")
    shipped = shipped_configs()
    assert [name for name in shipped if "/" not in name] == [
        "cardiac_2d.yaml",
        "cars_rle.yaml",
        "ct_liver.yaml",
        "ct_spleen.yaml",
        "demo.yaml",
        "membrane_unet2015.yaml",
        "mr_hippocampus.yaml",
        "people_2d.yaml",
        "people_2d_best.yaml",
        "retina_vessels.yaml",
        "server_heatmap.yaml",
    ]
    for name, path in shipped.items():
        config = load_config(name)
        assert config == load_config(path)
        assert config.name == name.removesuffix(".yaml").replace("/", "_")
        assert config.data.root in ("", f"/data/{Path(config.data.root).name}")


def test_shipped_configurations_need_no_variable_when_the_data_is_given(write, monkeypatch):
    monkeypatch.delenv("MEDUNET_DATA", raising=False)
    for path in shipped_configs().values():
        assert load_config(path, data="here").data.root == str(Path.cwd() / "here")


def test_every_number_in_a_shipped_configuration_is_explained():
    top = shipped_configs()["demo.yaml"].parent
    files = sorted(top.rglob("*.yaml"))
    assert len(files) == 11 + 3 + 3 + len(option_classes())  # tasks, bases, recipes, networks
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert text.count("#") >= {"hippocampus": 1, "recipes": 7}.get(path.parent.name, 8), path


def test_every_network_has_a_configuration_that_trains_it_on_the_hippocampus():
    found = {name: path for name, path in shipped_configs().items() if name.startswith("hippocampus/")}
    assert {Path(name).stem for name in found} == set(option_classes())
    for name, path in found.items():
        assert load_config(path).network.name == Path(name).stem


@pytest.mark.parametrize(
    ("name", "hint"),
    [("nothing_like_it", "ct_liver.yaml, ct_spleen.yaml"), ("ct_livr.yaml", "Did you mean ct_liver.yaml?"), ("", "")],
)
def test_a_file_that_does_not_exist_is_said_so_with_what_there_is(write, name, hint):
    with pytest.raises(ConfigError, match="There is no configuration") as caught:
        load_config(name)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_folder_is_no_configuration(tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)


# ---------------------------------------------------------------- extends


def test_mappings_merge_and_lists_replace(write):
    write(
        MINIMAL + "train: {batch_size: 4, patch_size: [64, 64, 64]}\nloss: [{name: dice}, {name: focal}]\n", "base.yaml"
    )
    config = load_config(write("extends: base.yaml\ntrain: {patch_size: [32, 32, 32]}\nloss: [{name: focal}]\n"))
    assert config.train.batch_size == 4
    assert config.train.patch_size == (32, 32, 32)
    assert [term.name for term in config.loss] == ["focal"]


def test_another_variant_replaces_the_mapping_and_the_same_one_merges(write):
    write(MINIMAL + "train: {optimizer: {name: sgd, momentum: 0.5, lr: 0.5}}\n", "base.yaml")
    other = load_config(write("extends: base.yaml\ntrain: {optimizer: {name: adamw}}\n"))
    assert other.train.optimizer.model_dump() == {
        "name": "adamw",
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 0.01,
    }
    same = load_config(write("extends: base.yaml\ntrain: {optimizer: {name: sgd, lr: 0.1}}\n"))
    assert (same.train.optimizer.lr, same.train.optimizer.momentum) == (0.1, 0.5)


def test_labels_with_a_background_replace_and_others_add(write):
    write(MINIMAL, "base.yaml")
    replaced = load_config(write("extends: base.yaml\nlabels: {background: 0, spleen: 1}\n"))
    assert replaced.labels == {"background": 0, "spleen": 1}
    added = load_config(write("extends: base.yaml\nlabels: {tumour: 2}\n"))
    assert added.labels == {"background": 0, "liver": 1, "tumour": 2}


def test_a_chain_is_followed_from_each_file_s_own_folder(write):
    write(MINIMAL + "seed: 1\ntrain: {epochs: 1}\n", "bases/low/lowest.yaml")
    write("extends: low/lowest.yaml\nseed: 2\n", "bases/middle.yaml")
    config = load_config(write("extends: bases/middle.yaml\nname: top\n", "top.yaml"))
    assert (config.name, config.seed, config.train.epochs) == ("top", 2, 1)


def test_a_file_may_extend_a_shipped_one_even_of_its_own_name(write):
    write("extends: ct_liver.yaml\nseed: 7\n", "ct_liver.yaml")
    config = load_config("ct_liver.yaml", data="d")
    assert (config.name, config.seed) == ("ct_liver", 7)


def test_problems_point_to_the_file_that_holds_the_value(write):
    write("name: t\nlabels: {background: 0, liver: 1}\ntrain:\n  batch_size: two\n  epochs: 0\n", "bases/base.yaml")
    write("\n\nextends: bases/base.yaml\ntrain:\n  epochs: -1\nnetwork:\n  dims: 5\n")
    found = problems_of("file.yaml", overrides=["inference.overlap=2", "train.patch_size=[1,1]"])
    assert set(found) == {
        (str(Path("bases/base.yaml:4")), "train.batch_size"),
        ("file.yaml:5", "train.epochs"),
        ("file.yaml:7", "network.dims"),
        ("--set inference.overlap=2", "inference.overlap"),
    }


def test_a_rule_points_to_the_key_that_somebody_wrote(write):
    write(MINIMAL + "network:\n  channels: [8, 16, 32, 64]\n", "base.yaml")
    write("extends: base.yaml\n\ntrain:\n  patch_size: [50, 48, 48]\n")
    assert list(problems_of("file.yaml")) == [("file.yaml:4", "train.patch_size")]
    # The patch is the default here; what does not fit it was written in the base.
    write(MINIMAL + "network: {dims: 2}\n", "flat.yaml")
    assert list(problems_of("flat.yaml")) == [("flat.yaml:3", "train.patch_size")]


@pytest.mark.parametrize(
    ("extends", "words"),
    [
        ("nix.yaml", "no such file"),
        ("ct_livr.yaml", "Did you mean ct_liver.yaml?"),
        ("[a, b]", "must be the path of one"),
        ("''", "must be the path of one"),
        ("${NO_SUCH_VARIABLE}/a.yaml", "NO_SUCH_VARIABLE is not set"),
        ("file.yaml", "circle"),
        ("round.yaml", "file.yaml extends round.yaml extends file.yaml"),
    ],
)
def test_a_base_that_cannot_be_followed_is_reported_with_its_line(write, extends, words):
    write("extends: file.yaml\n", "round.yaml")
    found = problems_of(write(f"name: t\nextends: {extends}\n"))
    assert len(found) == 1
    ((where, what),) = found
    assert where == ("round.yaml:1" if extends == "round.yaml" else "file.yaml:2")
    assert what == "extends"
    assert words in next(iter(found.values()))


def test_a_syntax_error_in_a_base_is_reported_there_alone(write):
    write("name: [t\n", "base.yaml")
    found = problems_of(write("extends: base.yaml\nseed: -3\n"))
    assert [where for where, _ in found] == ["base.yaml:2"]


# ---------------------------------------------------------------- --set


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.optimizer.lr=1e-3", ("train", "optimizer", "lr"), 1e-3),
        ("train.patch_size=[64, 64, 48]", ("train", "patch_size"), [64, 64, 48]),
        ("loss.0.weight=2", ("loss", 0, "weight"), 2.0),
        ("loss.1.name=focal", ("loss", 1, "name"), "focal"),
        ("preprocess.intensity={name: ct_window, low: -100}", ("preprocess", "intensity", 0, "low"), -100.0),
        ("train.clip_norm=null", ("train", "clip_norm"), None),
        ("train.clip_norm=", ("train", "clip_norm"), None),
        ("validate.every=3", ("validate", "every"), 3),
        ("labels.tumour=[2, 3]", ("labels", "tumour"), [2, 3]),
        ("name='5'", ("name",), "5"),
        ("train.optimizer.name=adamw", ("train", "optimizer", "name"), "adamw"),
        ("name=a=b", ("name",), "a=b"),
    ],
)
def test_set_changes_one_key_typed_as_in_yaml(write, override, path, value):
    config = load_config(write(MINIMAL), overrides=[override])
    data = config.model_dump(mode="json", by_alias=True)
    for part in path:
        data = data[part]
    assert data == value


@pytest.mark.parametrize("order", [1, -1])
def test_another_variant_on_the_command_line_drops_the_keys_of_the_file_in_any_order(write, order):
    write(MINIMAL + "train: {optimizer: {name: sgd, momentum: 0.5, lr: 0.5}}\n")
    options = ["train.optimizer.name=adamw", "train.optimizer.lr=0.25"][::order]
    config = load_config("file.yaml", overrides=options)
    assert config.train.optimizer.model_dump() == {
        "name": "adamw",
        "lr": 0.25,
        "betas": (0.9, 0.999),
        "weight_decay": 0.01,
    }


def test_the_single_entry_of_a_list_may_be_addressed_by_index(write):
    write(MINIMAL + "loss: {name: dice}\n")
    assert load_config("file.yaml", overrides=["loss.0.weight=3"]).loss[0].weight == 3
    assert list(problems_of("file.yaml", overrides=["loss.0.weight=-3"])) == [
        ("--set loss.0.weight=-3", "loss.0.weight")
    ]
    assert load_config("file.yaml", overrides=["loss.0={name: focal}"]).loss[0].name == "focal"
    assert list(problems_of("file.yaml", overrides=["loss.0.gamma=1"])) == [("--set loss.0.gamma=1", "loss.0.gamma")]


def test_a_problem_keeps_its_line_when_its_list_is_addressed_by_index(write):
    write(MINIMAL + "loss:\n  name: dice\n  weight: -1\n")
    assert list(problems_of("file.yaml", overrides=["loss.0.batch=true"])) == [("file.yaml:5", "loss.0.weight")]


def test_a_label_may_be_called_name(write):
    write("name: t\nlabels: {background: 0, name: 1, liver: 2}\n")
    assert load_config("file.yaml", overrides=["labels.name=3"]).labels == {"background": 0, "name": 3, "liver": 2}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.batch_size", "must be written as key=value"),
        ("=3", "must be written as key=value"),
        ("train..lr=3", "must be written as key=value"),
        ("loss.7.weight=1", "there is no entry 7"),
        ("loss.first.weight=1", "there is no entry first"),
        ("seed.x=1", "seed is 3, so it has no key x"),
        ("extends=ct_liver.yaml", "only be set in a file"),
        ("train.patch_size=[1", "not valid YAML"),
        ("train.batchsize=3", "Did you mean batch_size?"),
        ("train.batch_size=two", "must be a whole number greater than 0"),
        ("name=!!python/name:os.system x", "tag"),
    ],
)
def test_a_wrong_override_is_quoted(write, override, words):
    found = problems_of(write(MINIMAL + "seed: 3\n"), overrides=[override])
    assert len(found) == 1
    ((where, _), text) = next(iter(found.items()))
    assert where == f"--set {override}"
    assert words in text


def test_later_overrides_win(write):
    assert load_config(write(MINIMAL), overrides=["seed=1", "seed=2"]).seed == 2


def test_the_fold_of_the_call_is_checked_against_the_file(write):
    assert load_config(write(MINIMAL), fold=4).data.fold == 4
    assert list(problems_of("file.yaml", fold=5)) == [("--fold 5", "data.fold")]
    assert list(problems_of("file.yaml", fold=-1)) == [("--fold -1", "data.fold")]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A file that has only what is required."""
    path = tmp_path_factory.mktemp("base") / "base.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


LEAVES = st.one_of(
    st.tuples(st.just("train.batch_size"), st.integers(1, 10**6)),
    st.tuples(st.just("train.optimizer.lr"), st.floats(1e-9, 1e9)),
    st.tuples(st.just("train.patch_size"), st.lists(st.sampled_from([32, 48, 160]), min_size=3, max_size=3)),
    st.tuples(st.just("preprocess.spacing"), st.lists(st.floats(0.1, 9), min_size=3, max_size=3) | st.none()),
    st.tuples(st.just("inference.tta"), st.booleans()),
    st.tuples(st.just("loss.1.weight"), st.floats(0.1, 9)),
    st.tuples(st.just("validate.cases"), st.none() | st.integers(1, 9)),
    st.tuples(st.just("data.format"), st.sampled_from(["auto", "csv"])),
)


@settings(deadline=None)
@given(st.lists(LEAVES, unique_by=lambda leaf: leaf[0]))
def test_what_is_set_is_what_the_configuration_holds_and_nothing_else_changes(base, leaves):
    expected = load_config(base).model_dump(mode="json", by_alias=True)
    for key, value in leaves:
        *sections, last = (int(part) if part.isdecimal() else part for part in key.split("."))
        node = expected
        for part in sections:
            node = node[part]
        node[last] = value
    config = load_config(base, overrides=[f"{key}={json.dumps(value)}" for key, value in leaves])
    assert config.model_dump(mode="json", by_alias=True) == expected


# ---------------------------------------------------------------- paths


def test_relative_paths_start_at_the_file_that_holds_them(write):
    write(MINIMAL + "data: {root: images, cache: ../cache}\n", "deep/base.yaml")
    config = load_config(write("extends: deep/base.yaml\n"))
    assert config.data.root == str(Path.cwd() / "deep" / "images")
    assert config.data.cache == str(Path.cwd() / "cache")


def test_every_path_of_a_file_is_seen_from_it(write):
    write(MINIMAL + "data: {cache: c}\ntrain: {start_from: earlier/model}\n", "deep/base.yaml")
    config = load_config(write("extends: deep/base.yaml\n"))
    assert config.data.cache == str(Path.cwd() / "deep" / "c")
    assert config.train.start_from == str(Path.cwd() / "deep" / "earlier" / "model")


def test_relative_paths_of_the_call_start_at_the_current_directory(write):
    write(MINIMAL + "data: {root: images}\n", "deep/base.yaml")
    assert load_config("deep/base.yaml", data="d").data.root == str(Path.cwd() / "d")
    assert load_config("deep/base.yaml", data=Path("d")).data.root == str(Path.cwd() / "d")
    assert load_config("deep/base.yaml", overrides=["data.root=d"]).data.root == str(Path.cwd() / "d")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${SET}/x", "/set/x"),
        ("${SET:-/other}", "/set"),
        ("${NOT_SET:-/other}/x", "/other/x"),
        ("${EMPTY:-/other}/x", "/other/x"),
        ("/a/$${SET}", "/a/${SET}"),
        ("~/x", "/home/me/x"),
        ("${NOT_SET:-~/y}/x", "/home/me/y/x"),
    ],
)
def test_variables_and_the_home_folder_are_expanded(write, monkeypatch, written, value):
    monkeypatch.setenv("SET", "/set")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("NOT_SET", raising=False)
    config = load_config(write(f'{MINIMAL}data: {{root: "{written}"}}\n'))
    assert config.data.root == value


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("${NOT_SET}/x", "NOT_SET is not set"),
        ("${EMPTY}/x", "EMPTY is empty"),
        ("${1x}", "is no variable"),
        ("${", "is no variable"),
        ("${}", "is no variable"),
        ("a\\0b", "NUL"),
    ],
)
def test_a_variable_without_a_value_is_a_problem_unless_the_data_is_given(write, monkeypatch, written, words):
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOT_SET", raising=False)
    write(f'{MINIMAL}data:\n  root: "{written}"\n  cache: "{written}"\n')
    found = problems_of("file.yaml")
    assert list(found) == [("file.yaml:4", "data.root"), ("file.yaml:5", "data.cache")]
    assert all(words in text for text in found.values())
    assert list(problems_of("file.yaml", data="d")) == [("file.yaml:5", "data.cache")]


@pytest.mark.parametrize("folder", ["", "a\0b", "\udcff"])
def test_a_data_folder_that_cannot_be_one_is_refused(write, folder):
    assert list(problems_of(write(MINIMAL), data=folder)) == [("--data", "")]


# ---------------------------------------------------------------- writing back


def test_every_shipped_configuration_survives_being_shown_and_read(write, monkeypatch):
    monkeypatch.setenv("MEDUNET_DATA", "/da${ta")
    for path in shipped_configs().values():
        config = load_config(path, overrides=["data.cache=c"], fold=3)
        assert load_config(write(dump_config(config), "elsewhere/config.yaml")) == config


@settings(deadline=None)
@given(
    names=st.lists(st.sampled_from(["yes", "null", "1e-3", "0x1", "a: b", "#x", "é", "x y", "=", "~"]), unique=True),
    rate=st.floats(1e-12, 1e12),
    root=st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([32, 64, 160]),
)
def test_any_configuration_survives_being_shown_and_read(names, rate, root, seed, size):
    data = {
        "name": "t",
        "labels": {"background": [0, 99], "a": 1, **{name: i + 2 for i, name in enumerate(names)}},
        "data": {"root": ("/" + root).replace("${", "$${")},
        "seed": seed,
        "network": {"strides": [1, [2, 2, 1], 2, 2, 2], "kernel_size": [[3, 3, 1], 3, 3, 3, 3]},
        "train": {"patch_size": [size] * 3, "optimizer": {"name": "sgd", "lr": rate}},
        "preprocess": {"intensity": {"name": "none"}, "spacing": [rate, 1, 2.5]},
        "postprocess": [{"name": "remove_small", "label": "a", "ml": rate}],
    }
    config = parse_config(json.dumps(data))
    assert config.data.root == os.path.abspath("/" + root)  # noqa: PTH100
    assert parse_config(dump_config(config)) == config
