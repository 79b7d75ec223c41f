"""The tree of errors: what is caught by what, and what a user reads."""

from __future__ import annotations

import inspect
import pickle

import pytest

from medunet import errors
from medunet.errors import ConfigError, DatasetError, MedunetError, Problem

PUBLIC = [
    value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, Exception) and not name.startswith("_")
]


def test_the_guard_sees_every_error() -> None:
    assert len(PUBLIC) == 14


@pytest.mark.parametrize("error", PUBLIC, ids=lambda error: error.__name__)
def test_every_error_descends_from_one_root_and_is_drawn_in_the_tree(error: type[MedunetError]) -> None:
    assert issubclass(error, MedunetError)
    assert f"{error.__name__} " in (errors.__doc__ or "")
    assert error.exit_code in (1, 2, 130)


@pytest.mark.parametrize("error", PUBLIC, ids=lambda error: error.__name__)
def test_an_error_shows_its_message_and_then_its_hint(error: type[MedunetError]) -> None:
    assert str(error("The rule was broken by 5.")) == "The rule was broken by 5."
    assert str(error("The rule was broken by 5.", "Use 4.")) == "The rule was broken by 5. Use 4."


@pytest.mark.parametrize(
    ("error", "code"),
    [(errors.UsageError, 2), (ConfigError, 2), (errors.ReadError, 1), (DatasetError, 1), (errors.Interrupted, 130)],
)
def test_exit_codes_are_those_of_the_command_line_contract(error: type[MedunetError], code: int) -> None:
    assert error("x").exit_code == code


@pytest.mark.parametrize("error", [errors.ReadError, errors.GeometryError, errors.DicomError, DatasetError])
def test_everything_wrong_with_data_is_a_data_error(error: type[MedunetError]) -> None:
    assert issubclass(error, errors.DataError)


def test_a_configuration_error_is_a_usage_error() -> None:
    assert issubclass(ConfigError, errors.UsageError)


@pytest.mark.parametrize("kind", [ConfigError, DatasetError])
def test_errors_with_many_problems_list_all_of_them(kind: type[ConfigError | DatasetError]) -> None:
    problems = [
        Problem("ct.yaml:3", "train.lr", "must be positive.", "-1", "Use 0.01."),
        Problem("", "labels", "need a background."),
    ]
    lines = str(kind("2 things are wrong.", "Correct them.", problems)).splitlines()
    assert lines == [
        "2 things are wrong. Correct them.",
        "  ct.yaml:3: train.lr is -1: must be positive. Use 0.01.",
        "  labels: need a background.",
    ]


@pytest.mark.parametrize("error", PUBLIC, ids=lambda error: error.__name__)
def test_an_error_survives_the_way_between_processes(error: type[MedunetError]) -> None:
    copy = pickle.loads(pickle.dumps(error("message", "hint")))  # noqa: S301 - our own bytes
    assert type(copy) is error
    assert (copy.message, copy.hint) == ("message", "hint")


def test_problems_survive_the_way_between_processes() -> None:
    error = DatasetError("1 thing is wrong.", problems=[Problem("case_1", "label", "is missing.")])
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert copy.problems == error.problems
