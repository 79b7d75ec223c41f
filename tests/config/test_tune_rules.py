"""The section `tune`: every mistake at once with its line, in the words that any other key gets."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.config.applied import with_values
from medunet.config.load import load_config, parse_config
from medunet.errors import ConfigError, Problem

HEAD = "extends: base/2d.yaml\nname: t\nlabels: {background: 0, a: 1}\ndata: {modality: [x]}\ntune:\n"


def problems(*lines: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        parse_config(HEAD + "".join(f"  {line}\n" for line in lines), name="f.yaml")
    return list(caught.value.problems)


def told(text: str) -> tuple[Problem, ...]:
    """Problems of a configuration; one at least where it is refused."""
    try:
        parse_config(text, name="f.yaml")
    except ConfigError as error:
        return error.problems or (Problem("", "", ""),)
    return ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train.optimizer.lrr: {low: 1, high: 2}", "is not a key of train.optimizer. Did you mean lr?"),
        ("train.learning_rate: {low: 1, high: 2}", "Did you mean train.optimizer.lr?"),
        ("lr: {low: 1, high: 2}", "This key belongs elsewhere: train.optimizer.lr."),
        ("loss.7.weight: {low: 1, high: 2}", "loss has 2 entries, counted from 0; there is no entry 7."),
        ("train.seed.x: {low: 1, high: 2}", "is not a key of train"),
        ("seed.x: {low: 1, high: 2}", "seed is 0, so it has no key x."),
        ("train.clip_norm: {low: 3, high: 1}", "is empty: low is 3 and high is 1; low must be less than high."),
        ("train.clip_norm: {low: 3, high: 3}", "low must be less than high."),
        ("train.clip_norm: {low: 3}", "must have low and high, or choices."),
        ("train.clip_norm: {}", "must have low and high, or choices."),
        ("train.clip_norm: {low: 3, high: 5, choices: [3]}", "has choices; low, high, step and log are for a range."),
        ("train.clip_norm: {choices: []}", "a list of at least 1 entry"),
        ("train.clip_norm: {choices: [3, 4, 3]}", "names a value twice."),
        ("train.clip_norm: {low: 0, high: 5}", "must be a number greater than 0, or null."),
        ("train.clip_norm: {low: 1, high: 5, hihg: 6}", "Did you mean high?"),
        ("train.clip_norm: 5", "must be a mapping with the keys low, high, log, step, choices."),
        ("train.foreground: {low: 0, high: 1.5}", "must be a number from 0 to 1."),
        ("train.foreground: {low: 0, high: 1, log: true}", "must be greater than 0 with log: true."),
        ("train.foreground: {low: 0.1, high: 1, log: true, step: 0.1}", "cannot be with log: true."),
        ("train.foreground: {low: 0, high: 1, step: 0.3}", "in whole steps. With this step high is 0.9."),
        ("train.batch_size: {low: 2.5, high: 4.5}", "must be a whole number greater than 0."),
        ("train.batch_size: {low: 1, high: 2, step: 0.5}", "must be a whole number, as the key is."),
        ("train.batch_size: {choices: [2, two]}", "must be a whole number greater than 0."),
        ("train.optimizer.name: {choices: [sgd, adamm]}", "must be sgd, adam, adamw or novograd."),
        ("train.schedule: {low: 1, high: 2}", "takes no numbers."),
        ("train.schedule: {choices: [{name: poly}, {name: cosine, warmupp: 1}]}", "Did you mean warmup?"),
        ("train.patch_size: {choices: [[64, 64], [60, 60]]}", "60"),
        ("labels: {choices: [{background: 0, b: 1}]}", "cannot be tuned: trials with another labels"),
        ("data.fold: {low: 0, high: 4}", "cannot be tuned: trials with another data"),
        ("validate.metric: {choices: [dice]}", "cannot be tuned"),
        ("tune.x: {low: 0, high: 4}", "cannot be tuned"),
        ("train..lr: {low: 0, high: 4}", "must be the path of a key, such as train.optimizer.lr."),
    ],
)  # fmt: skip
def test_what_no_trial_could_take_is_refused(line: str, said: str) -> None:
    found = problems(line)
    assert {problem.where for problem in found} == {"f.yaml:6"}
    assert all(problem.what.startswith("tune") for problem in found)
    assert any(said in str(problem) for problem in found), [str(problem) for problem in found]


def test_all_mistakes_are_told_at_once_each_with_its_line() -> None:
    found = problems("train.clip_norm: {low: 3, high: 1}", "train.ema: {low: 0, high: 0.9}", "sed: {low: 1, high: 2}")
    assert [problem.where for problem in found] == ["f.yaml:6", "f.yaml:7", "f.yaml:8"]


def test_a_mistake_elsewhere_is_told_beside_them() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(f"{HEAD}  sed: {{low: 1, high: 2}}\ntrain: {{epochs: x}}\n", name="f.yaml")
    assert [problem.what for problem in caught.value.problems] == ["tune.sed", "train.epochs"]


def test_values_that_only_go_with_those_of_another_tuned_key_are_left_to_the_trials() -> None:
    alone = "train.patch_size: {choices: [[64, 64], [60, 60]]}"
    assert problems(alone)
    both = f"{HEAD}  {alone}\n  network.channels: {{choices: [[8, 16], [8, 16, 32, 64, 64]]}}\n"
    assert set(parse_config(both).tune) == {"train.patch_size", "network.channels"}


def test_good_spaces_of_every_kind_are_taken() -> None:
    config = parse_config(
        HEAD
        + "  train.optimizer.lr: {low: 1e-4, high: 1e-2, log: true}\n"
        + "  network.channels: {choices: [[8, 16], [8, 16, 32]]}\n"
        + "  augment.rotation_degrees: {low: 0, high: 30}\n"
        + "  train.batch_size: {low: 2, high: 16, step: 2}\n"
        + "  train.optimizer: {choices: [{name: sgd}, {name: adamw, lr: 0.001}]}\n"
        + "  loss.0.weight: {low: 0.5, high: 2}\n"
        + "  train.clip_norm: {choices: [null, 1, 12]}\n"
    )
    assert len(config.tune) == 7


def test_a_space_on_top_takes_the_place_of_the_one_below(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "base.yaml").write_text(f"{HEAD}  train.clip_norm: {{low: 1, high: 5}}\n  seed: {{low: 1, high: 9}}\n")
    (tmp_path / "top.yaml").write_text("extends: base.yaml\ntune: {train.clip_norm: {choices: [3, 4]}}\n")
    config = load_config(tmp_path / "top.yaml")
    assert config.tune["train.clip_norm"].choices == (3, 4)
    assert config.tune["seed"].high == 9


def test_a_name_is_set_before_the_options_beside_it_and_drops_the_others() -> None:
    config = parse_config(HEAD + "  seed: {low: 1, high: 9}\n")
    changed = with_values(config, {"train.optimizer.lr": 0.5, "train.optimizer.name": "adamw", "seed": 4}, "trial")
    assert changed.train.optimizer.model_dump() == {**changed.train.optimizer.model_dump(), "name": "adamw", "lr": 0.5}
    assert changed.seed == 4
    assert changed.tune == {}


def test_values_that_do_not_go_together_are_a_config_error() -> None:
    config = parse_config(HEAD + "  seed: {low: 1, high: 9}\n")
    with pytest.raises(ConfigError, match="trial_003"):
        with_values(config, {"train.accumulate": 3, "loss.9.weight": 1}, "trial_003")


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["train.optimizer.lr", "network.channels", "loss.0", "x", "", "train", "seed", "1.2"]),
    st.dictionaries(
        st.sampled_from(["low", "high", "step", "log", "choices", "x"]),
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=2) | st.lists(st.integers(0, 3)),
    ),
)
def test_any_space_is_taken_or_told(key: str, space: dict[str, object]) -> None:
    text = HEAD + f"  {json.dumps(key)}: {json.dumps(space).replace('NaN', '.nan').replace('Infinity', '.inf')}\n"
    assert all(problem.where == "f.yaml:6" for problem in told(text))
