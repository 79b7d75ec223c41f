"""YAML text to plain data with places."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.config.document import MAX_BYTES, Place, as_written, read_file, read_text, read_value, to_yaml


def read(text):
    return read_text(text, "file.yaml", Path("/folder"))


def where(text, *path):
    return read(text).places[path].where


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("3.", 3.0),
        (".inf", math.inf),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("+7", 7),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("30min", "30min"),
        ("[1, 2.0, x]", [1, 2.0, "x"]),
    ],
)
def test_values_are_typed_as_in_yaml_1_2(written, value):
    data = read(f"key: {written}").data
    assert data == {"key": value}
    assert type(data["key"]) is type(value)


def test_every_key_and_list_entry_has_its_line():
    text = "# comment\na: 1\nb:\n  c: [1,\n      2]\n  d:\n    - {e: 1}\n    - f: 2\n      g: 3\n"
    assert where(text, "a") == "file.yaml:2"
    assert where(text, "b") == "file.yaml:3"
    assert where(text, "b", "c", 0) == "file.yaml:4"
    assert where(text, "b", "c", 1) == "file.yaml:5"
    assert where(text, "b", "d", 0, "e") == "file.yaml:7"
    assert where(text, "b", "d", 1, "g") == "file.yaml:9"


def test_keys_are_text_as_written():
    assert list(read("1: a\ntrue: b\n2.50: c\n").data) == ["1", "true", "2.50"]


def test_aliases_and_merge_keys_are_written_out():
    document = read("a: &a {x: 1, y: 2}\nb: *a\nc:\n  <<: *a\n  y: 3\n")
    assert document.problems == []
    assert document.data == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}, "c": {"x": 1, "y": 3}}
    assert document.places["c", "y"].where == "file.yaml:5"


def test_the_first_of_several_merged_mappings_wins_in_value_and_line():
    document = read("c:\n  <<:\n    - {x: 1}\n    - {x: 2, z: 5}\n")
    assert document.data == {"c": {"x": 1, "z": 5}}
    assert document.places["c", "x"].where == "file.yaml:3"


def test_a_key_written_twice_is_reported_with_both_lines():
    (problem,) = read("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n").problems
    assert (problem.where, problem.what) == ("file.yaml:5", "b.c")
    assert "line 3" in problem.rule


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!include", "!!binary"])
def test_tags_that_build_objects_are_refused(tag):
    document = read(f"a: 1\nb: {tag} [x]\n")
    (problem,) = document.problems
    assert (problem.where, problem.what) == ("file.yaml:2", "b")
    assert tag in problem.rule
    assert document.bad == {("b",)}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "bracket"),
        ("a: 1\n\tb: 2\n", 2, "tab"),
        ("a: b: c\n", 1, "colon"),
        ("a: 1\n---\nb: 2\n", 2, "one configuration"),
        ("a:\n    b: 1\n  c: 2\n", 3, "indentation"),
        ("a: *nobody\n", 1, "alias"),
        ("a: 'open\n", 2, "not valid YAML"),
        ("a: 1\nb: \x07\n", 2, "control character 0x07"),
        ("- a\n", 1, "holds no keys"),
        ("only text", 1, "holds no keys"),
        ("!!python/object:x {a: 1}", 1, "tag"),
    ],
)
def test_text_that_is_no_configuration_is_one_problem_with_its_line(text, line, words):
    document = read(text)
    (problem,) = document.problems
    assert problem.where == f"file.yaml:{line}"
    assert words in str(problem)
    assert not document.readable


@pytest.mark.parametrize("text", ["", "# nothing\n", "\n\n"])
def test_an_empty_file_is_said_to_be_empty(text):
    document = read(text)
    assert "is empty" in document.problems[0].rule
    assert not document.readable


def test_an_alias_bomb_is_stopped():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (problem,) = read("\n".join(lines)).problems
    assert "more than" in problem.rule


@pytest.mark.parametrize(
    "text", ["a: &a [*a]", "a: &a {b: *a}", "a: " + "[" * 3000, "a: " + "{b: " * 60 + "1" + "}" * 60]
)
def test_endless_nesting_is_stopped(text):
    (problem,) = read(text).problems
    assert "nested deeper" in problem.rule


@pytest.mark.parametrize("raw", [b"\xff\xfea\x00", b"name: \xe9\n", bytes(range(256))])
def test_bytes_that_are_no_utf8_are_refused(tmp_path, raw):
    path = tmp_path / "x.yaml"
    path.write_bytes(raw)
    document = read_file(path, "x.yaml")
    assert "UTF-8" in document.problems[0].rule
    assert not document.readable


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: t\n")
    assert read_file(path, "x.yaml").data == {"name": "t"}


def test_a_huge_file_is_not_parsed(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a" * (MAX_BYTES + 1))
    assert "larger" in read_file(path, "x.yaml").problems[0].rule


def test_json_with_escaped_letters_is_read():
    assert read('{"a": "\\ud834\\udd1e\\u00e9"}').data == {"a": "\U0001d11eé"}


def test_half_a_surrogate_pair_is_refused():
    document = read('a: "\\ud800"\n"\\udfff": 1\n')
    assert [problem.where for problem in document.problems] == ["file.yaml:1", "file.yaml:2"]


@settings(deadline=None)
@given(st.text())
def test_any_text_gives_data_or_problems_and_no_other_error(text):
    document = read(text)
    assert document.problems or document.data
    assert document.readable or not document.data


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**17), 10**17),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["yes", "1e-3", "null", "~", "<<", "0o7", "1_0", "1:30", "2020-01-01", "=", "- a", "a: b", "# c"]),
)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
DATA = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))


@settings(deadline=None)
@given(st.dictionaries(NAMES.filter(lambda name: name != "<<"), DATA, min_size=1, max_size=4))
def test_written_yaml_reads_back_equal(data):
    document = read(to_yaml(data))
    assert document.problems == []
    assert document.data == data


@settings(deadline=None)
@given(DATA)
def test_other_yaml_readers_read_the_same_from_written_yaml(data):
    assert yaml.safe_load(to_yaml({"key": data})) == {"key": data}


@settings(deadline=None)
@given(DATA)
def test_values_in_messages_are_one_short_line(value):
    text = as_written(value)
    assert len(text) <= 60
    assert "\n" not in text


def test_a_value_of_an_override_is_typed_as_in_a_file():
    place = Place("--set a", Path())
    assert read_value("[1, {a: 1e-3}]", place) == ([1, {"a": 1e-3}], [])
    assert read_value("", place) == (None, [])
    value, problems = read_value("[1", place)
    assert value is None
    assert problems[0].where == "--set a"
