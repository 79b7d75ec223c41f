"""Every problem at once, in plain words, each with its line."""

from __future__ import annotations

import copy
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.config.describe import config_schema
from medunet.config.document import to_yaml
from medunet.config.load import load_config, parse_config
from medunet.errors import ConfigError, Problem

FULL_TEXT = """
name: t
labels: {background: [0, 9], liver: 1, spleen: 2}
network: {strides: [1, [2, 2, 1], 2, 2, 2], kernel_size: [[3, 3, 1], 3, 3, 3, 3], blocks: [1, 1, 1, 1, 1]}
preprocess: {crop: {above: 0}, spacing: [1, 1, 1], intensity: [{name: percentile}]}
augment: {mirror_axes: [0], scale_range: [0.7, 1.4]}
train: {patch_size: [64, 64, 64], optimizer: {name: adamw}, budget: 1h}
loss: [{name: tversky}, {name: focal}]
postprocess: [{name: remove_small, label: liver, ml: 1}, {name: fill_holes, label: spleen}]
"""
HEAD = "name: t\nlabels: {background: 0, liver: 1, spleen: 2}\n"


def problems(text) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, name="f.yaml")
    return list(caught.value.problems)


def the_problem(text) -> Problem:
    (problem,) = problems(HEAD + text)
    return problem


MANY = """\
name: t
labels:
  background: 0
  liver: 1
  tumour: 1
trian: {}
batch_size: 3
network:
  channels: [32, 64, 128]
  strides: [1, 2]
  dims: three
  dropout: 1.0
train:
  epochs: 2.5
  patch_size: [64, 0, 64]
  optimizer: {name: adamm}
  budget: 90
  budget: 0min
preprocess:
  intensity:
    name: ct_window
    low: 10
    high: -10
data:
  fold: 5
  root: ${NO_SUCH_VARIABLE}
loss:
  - {name: dice, weigth: 2}
postprocess:
  - {name: fill_holes, label: livr}
  - name: remove_small
    label: liver
"""


def test_everything_that_is_wrong_is_said_at_once_with_the_right_lines(monkeypatch):
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    assert [(problem.where, problem.what) for problem in problems(MANY)] == [
        ("f.yaml:5", "labels.tumour"),
        ("f.yaml:6", "trian"),
        ("f.yaml:7", "batch_size"),
        ("f.yaml:10", "network.strides"),
        ("f.yaml:11", "network.dims"),
        ("f.yaml:12", "network.dropout"),
        ("f.yaml:14", "train.epochs"),
        ("f.yaml:15", "train.patch_size.1"),
        ("f.yaml:16", "train.optimizer.name"),
        ("f.yaml:18", "train.budget"),
        ("f.yaml:18", "train.budget"),
        ("f.yaml:22", "preprocess.intensity.low"),
        ("f.yaml:25", "data.fold"),
        ("f.yaml:26", "data.root"),
        ("f.yaml:28", "loss.0.weigth"),
        ("f.yaml:30", "postprocess.0.label"),
        ("f.yaml:31", "postprocess.1.ml"),
    ]


def test_messages_hold_no_words_of_the_library_that_checks(monkeypatch):
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    text = "\n".join(str(problem) for problem in problems(MANY))
    assert not re.search(r"pydantic|https?:|Input should|union|tuple|literal|_type|int\b", text)


@pytest.mark.parametrize(
    ("text", "what", "value", "rule"),
    [
        ("train: {batch_size: 0}", "train.batch_size", "0", "a whole number greater than 0."),
        ("train: {batch_size: true}", "train.batch_size", "true", "a whole number greater than 0."),
        ("train: {foreground: 1.5}", "train.foreground", "1.5", "a number from 0 to 1."),
        ("inference: {overlap: 1}", "inference.overlap", "1", "a number of at least 0 and less than 1."),
        ("inference: {tta: 1}", "inference.tta", "1", "true or false."),
        ("network: {norm: layer}", "network.norm", "'layer'", "instance, batch, group or none."),
        ("network: {dims: 4}", "network.dims", "4", "2 or 3."),
        ("train: {workers: -1}", "train.workers", "-1", "a whole number of at least 0, or auto."),
        ("train: {budget: soon}", "train.budget", "'soon'", "text such as 90s, 30min or 12h, or null."),
        ("train: {clip_norm: .inf}", "train.clip_norm", "Infinity", "a number greater than 0, or null."),
        ("loss: {name: focal, gamma: .nan}", "loss.gamma", "NaN", "a number of at least 0."),
        ("data: {modality: []}", "data.modality", "[]", "a list of at least 1 entry, each text that is not empty."),
        ("augment: {scale_range: [1]}", "augment.scale_range", "[1]",
         "a list of 2 entries, each a number greater than 0, or null."),
        ("network: {strides: [1, 2, x, 2, 2]}", "network.strides.2", "'x'",
         "a whole number greater than 0, or a list, each entry a whole number greater than 0."),
        ("network: {kernel_size: [3, 3, [3, 0, 3], 3, 3]}", "network.kernel_size.2.1", "0",
         "a whole number greater than 0."),
        ("labels: {background: 0, liver: 1.5}", "labels.liver", "1.5",
         "a whole number, or a list of at least 1 entry, each a whole number."),
        ("labels: {background: 0, liver: [1, x]}", "labels.liver.1", "'x'", "a whole number."),
        ("loss: 3", "loss", "3", ""),
        ("train: 5", "train", "5", ""),
        ("logging: {mlflow: 3}", "logging.mlflow", "3", "null."),
        ("train: {optimizer: {name: adamw, betas: [0.9]}}", "train.optimizer.betas", "[0.9]",
         "a list of 2 entries, each a number of at least 0 and less than 1."),
        ("train: {ema: 1}", "train.ema", "1", "a number greater than 0 and less than 1, or null."),
        ("train: {freeze: {layers: ''}}", "train.freeze.layers", "''", "text such as encoder* or *.norm*."),
        ("seed: 4294967296", "seed", "4294967296", "a whole number of at least 0 and less than 4294967296."),
        ("name: 5", "name", "5", "text that is not empty."),
        ("name: ''", "name", "''", "text that is not empty."),
        ("preprocess: {orientation: XYZ}", "preprocess.orientation", "'XYZ'", "text such as RAS or LPS."),
    ],
)  # fmt: skip
def test_a_wrong_value_is_quoted_with_what_is_allowed(text, what, value, rule):
    lines = [line for line in HEAD.splitlines() if line.split(":")[0] != text.split(":")[0]]
    (problem,) = problems("\n".join([*lines, text]))
    assert (problem.where, problem.what, problem.value) == (f"f.yaml:{len(lines) + 1}", what, value)
    assert problem.rule.startswith("must be ")
    assert problem.rule.endswith(rule)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("trian: {}", "Did you mean train?"),
        ("train: {batchsize: 2}", "Did you mean batch_size?"),
        ("train: {overlap: 0.5}", "This key belongs elsewhere: inference.overlap."),
        ("patch_size: [8, 8, 8]", "This key belongs elsewhere: train.patch_size."),
        ("train: {lr: 0.1}", "train.optimizer.lr"),
        ("train: {optimizer: {name: adamw, momentum: 0.9}}", "Its keys are name, lr, betas, weight_decay."),
        ("train: {learning_rate: 0.1}", "Did you mean train.optimizer.lr?"),
        ("validation: {every: 2}", "Did you mean validate?"),
        ("train: {precision: fp23}", "Did you mean fp32?"),
        ("train: {optimizer: {name: SGD}}", "Did you mean sgd?"),
        ("train: {optimizer: adamw}", "Write {name: adamw}."),
        ("loss: [dice]", "Write {name: dice}."),
        ("train: {batch_size: '4'}", "Remove the quotes."),
        ("train: {batch_size: 4.0}", "Write 4."),
        ("train: {foreground: '0,5'}", "Write a decimal point, not a comma."),
        ("train: {clip_norm: None}", "Write null."),
        ("preprocess: {spacing: 1.5}", "such as [1.5, 1.5, 1.5]."),
        ("network:", "Remove the line, or write keys below it."),
        ("postprocess: [{name: fill_holes, label: livr}]", "Did you mean liver?"),
    ],
)
def test_a_hint_leads_to_what_was_meant(text, hint):
    assert hint in the_problem(text).hint


def test_a_missing_variant_lists_the_choices():
    problem = the_problem("train: {optimizer: {lr: 0.1}}")
    assert problem.what == "train.optimizer.name"
    assert problem.rule == "is missing; it must be sgd, adam, adamw or novograd."


def test_missing_required_keys_point_to_the_file():
    assert [(problem.where, problem.what) for problem in problems("seed: 3")] == [
        ("f.yaml", "name"),
        ("f.yaml", "labels"),
    ]


def test_labels_the_wrong_way_round_as_in_dataset_json_are_to_be_swapped():
    found = problems("name: t\nlabels:\n  0: background\n  1: liver\n")
    assert [(problem.where, problem.hint) for problem in found] == [
        ("f.yaml:3", "Swap them: `background: 0`."),
        ("f.yaml:4", "Swap them: `liver: 1`."),
    ]


def test_a_wrong_value_is_not_reported_again_by_a_rule():
    assert the_problem("train: {patch_size: [100, x, 96]}").what == "train.patch_size.1"
    assert the_problem("data: {folds: x, fold: 7}").what == "data.folds"
    assert (
        problems(HEAD.replace("liver: 1", "liver: x") + "postprocess: [{name: fill_holes, label: liver}]")[0].what
        == "labels.liver"
    )


def test_rules_still_judge_what_is_valid_beside_a_wrong_value():
    found = problems(
        HEAD.replace("liver: 1", "liver: x, vein: 2") + "loss: [{name: dicee}, {name: tversky, alpha: 0, beta: 0}]"
    )
    assert {problem.what for problem in found} == {"labels.spleen", "labels.liver", "loss.0.name", "loss.1.beta"}


@pytest.mark.parametrize("key", ["name", "label", "ml", "above", "labels", "layers"])
def test_an_unknown_key_that_is_required_elsewhere_is_only_an_unknown_key(key):
    assert the_problem(f"train: {{{key}: 1}}").what == f"train.{key}"


def test_every_required_key_has_a_stand_in():
    """Else a file without that key could not be judged any further."""
    from medunet.config.check import _STAND_INS

    schema = config_schema()
    sections = (section for name, section in schema["$defs"].items() if name != "PairsConfig")  # goes as a whole
    required = {key for section in sections for key in section.get("required", ())}
    assert required | {"labels"} == set(_STAND_INS)


def test_text_in_json_is_a_configuration_too():
    assert parse_config('{"name": "t", "labels": {"background": 0, "a": 1}}').name == "t"


def reported(call) -> tuple[Problem, ...]:
    """Problems of a call that either succeeds or reports at least one."""
    try:
        call()
    except ConfigError as error:
        return error.problems or (Problem("", "", ""),)
    return ()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "f.yaml"
    path.write_text(FULL_TEXT, encoding="utf-8")
    return path


def every_path(data, path=()):
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from every_path(value, (*path, key))


FULL = json.loads(parse_config(FULL_TEXT).model_dump_json(by_alias=True))
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["sgd", "dice"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3) | st.sampled_from(["name", "label", "low", "weight", "0"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(every_path(FULL))), ANYTHING), min_size=1, max_size=4))
def test_any_value_at_any_key_gives_a_configuration_or_problems_with_a_line(changes):
    data = copy.deepcopy(FULL)
    for path, value in changes:
        try:
            section = data
            for part in path[:-1]:
                section = section[part]
            section[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue
    found = reported(lambda: parse_config(to_yaml(data), name="f.yaml"))
    assert all(problem.where.startswith("f.yaml") and problem.rule for problem in found)


KEYS = st.lists(
    st.sampled_from(["train", "loss", "0", "7", "labels", "name", "optimizer", "lr", "seed", "", "x"]), max_size=4
)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(KEYS, st.sampled_from(["=1", "={name: sgd}", "=[1]", "=", "", "=[", "=null", "=dice"])), max_size=4
    )
)
def test_any_override_gives_a_configuration_or_problems(file, options):
    reported(lambda: load_config(file, overrides=[".".join(key) + value for key, value in options]))
