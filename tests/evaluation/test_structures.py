"""Which structures are scored."""

from __future__ import annotations

import pytest

from medunet.errors import UsageError
from medunet.evaluation.structures import read_structures
from medunet.labels import LabelMap


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "name: x\nlabels: {background: 0, liver: 1, lesion: [2, 3]}\nnetwork: {name: unet}\n"),
        ("plain.yaml", "background: 0\nliver: 1\nlesion: [2, 3]\n"),
        ("dataset.json", '{"labels": {"background": 0, "liver": 1, "lesion": [2, 3]}, "numTraining": 3}'),
        ("decathlon.json", '{"labels": {"0": "Background", "1": "liver", "2": "lesion", "3": "lesion"}}'),
    ],
)
def test_every_kind_of_file_gives_the_same_structures(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    structures = read_structures(str(path))
    assert structures.values == {"liver": (1,), "lesion": (2, 3)}
    assert structures.background == (0,)


@pytest.mark.parametrize("name", ["model.yaml", "config.yaml", "dataset.json"])
def test_a_folder_stands_for_the_labels_file_in_it(tmp_path, name):
    (tmp_path / name).write_text('{"labels": {"background": 0, "liver": 1}}')
    assert read_structures(tmp_path).values == {"liver": (1,)}


def test_a_list_on_the_command_line_is_a_choice():
    structures = read_structures("liver=1, tumour=2+3")
    assert structures.values == {"liver": (1,), "tumour": (2, 3)}
    assert structures.background is None
    assert structures.others([0, 1, 2, 9]) == [9]


def test_a_list_that_names_background_is_complete():
    structures = read_structures("background=0+255,liver=1")
    assert structures.background == (0, 255)
    assert structures.others([0, 1, 2, 255]) == [2]


def test_python_objects_are_understood():
    mapping = {"background": 0, "liver": 1, "lesion": [2, 3]}
    assert read_structures(mapping) == read_structures(LabelMap.from_mapping(mapping))


def test_regions_may_overlap():
    assert read_structures("whole=1+2,core=2").values == {"whole": (1, 2), "core": (2,)}
    assert read_structures("a=1+2,b=2+3").values == {"a": (1, 2), "b": (2, 3)}  # in scores they may even cross


def test_values_to_ignore_are_no_structure_and_not_unknown(tmp_path):
    mapping = {"background": 0, "whole": [1, 2], "core": 2, "ignore": [9, -1]}
    for structures in (read_structures(mapping), read_structures(LabelMap.from_mapping(mapping))):
        assert structures.values == {"whole": (1, 2), "core": (2,)}
        assert structures.ignore == (9, -1)
        assert structures.others([-1, 0, 2, 7, 9]) == [7]
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1, "Ignore": 2}}')
    assert read_structures(tmp_path).ignore == (2,)


def test_a_config_says_which_cases_were_annotated_for_what(tmp_path):
    text = "labels: {background: 0, liver: 1, spleen: 2}\ndata: {annotated: {'a_*': [liver, gone], b: [spleen]}}\n"
    (tmp_path / "config.yaml").write_text(text)
    structures = read_structures(tmp_path)
    assert list(structures.of("a_1")) == ["liver"]
    assert list(structures.of("b")) == ["spleen"]
    assert list(structures.of("c")) == ["liver", "spleen"]


BASE = """
labels: {background: 0, liver: 1, spleen: 2}
data: {annotated: {'a_*': [liver], b: [spleen]}}
"""


def test_what_a_config_extends_says_which_cases_were_annotated_for_what(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "middle.yaml").write_text("extends: base.yaml\ndata: {annotated: {b: [liver, spleen]}}\n")
    (tmp_path / "own.yaml").write_text("extends: middle.yaml\nlabels: {background: 0, liver: 1, spleen: [2, 3]}\n")
    for name, spleen in (("middle.yaml", (2,)), ("own.yaml", (2, 3))):
        structures = read_structures(tmp_path / name)
        assert structures.values == {"liver": (1,), "spleen": spleen}
        assert list(structures.of("a_1")) == ["liver"]
        assert list(structures.of("b")) == ["liver", "spleen"]
        assert list(structures.of("c")) == ["liver", "spleen"]


def test_labels_are_laid_over_those_that_a_config_extends(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "more.yaml"
    path.write_text("extends: base.yaml\nlabels: {kidney: 3}\n")
    assert read_structures(path).values == {"liver": (1,), "spleen": (2,), "kidney": (3,)}
    path.write_text("extends: base/3d.yaml\nname: mine\nlabels: {background: 0, liver: 1}\n")  # a shipped one
    assert read_structures(path).values == {"liver": (1,)}


def test_a_config_without_labels_in_any_of_its_files_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("extends: base/3d.yaml\nname: x\n")
    with pytest.raises(UsageError, match=r'has no key "labels", nor has what it extends'):
        read_structures(path)


@pytest.mark.parametrize("data", ["null", "[1]", "{annotated: 3}", "{annotated: {a: 7}}", "{}"])
def test_a_config_that_states_nothing_usable_of_annotation_leaves_nothing_out(tmp_path, data):
    (tmp_path / "config.yaml").write_text(f"labels: {{background: 0, liver: 1}}\ndata: {data}\n")
    assert list(read_structures(tmp_path).of("a")) == ["liver"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("liver=", "NAME=VALUE"),
        ("=1", "NAME=VALUE"),
        ("liver=1,tumour", '"tumour"'),
        ("liver=one", '"liver=one"'),
        ("liver=1.5", "whole number"),
        ("liver=1,liver=2", '"liver" twice'),
        ("background=0", "names no structure"),
        ("ignore=255", "names no structure"),
        ("liver=1+255,ignore=255", "wants value 255 to be ignored"),
        ("no_such_file.yaml", "cannot be read"),
    ],
)
def test_bad_lists_are_refused_with_the_part_that_is_wrong(text, words):
    with pytest.raises(UsageError, match=words):
        read_structures(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("labels: {liver: one}", "'one'"),
        ("labels: {liver: true}", "True"),
        ("labels: {liver: 1.5}", "1.5"),
        ("labels: {liver: []}", "whole number"),
        ("labels: [liver]", "must map names to values"),
        ("- liver", "no mapping"),
        ("", "no mapping"),
        ("a: [1", "neither YAML nor JSON"),
        ("extends: base.yaml\nname: x\n", "no such file beside labels.yaml"),
        ("extends: base.yaml\nlabels: {liver: 1}\n", "no such file beside labels.yaml"),
        ("extends: labels.yaml\nlabels: {liver: 1}\n", "goes round in a circle"),
        ("labels: {background: 0}", "names no structure"),
        ("labels: {background: 0, ignore: 2}", "names no structure"),
        ("labels: {background: 0, liver: 1, ignore: [1, 2]}", "wants value 1 to be ignored, but gives it to another"),
        ("labels: {background: 0, liver: 1, ignore: 0}", "wants value 0 to be ignored"),
        ('{"labels": {"a": "liver"}}', "'liver'"),
        ("!!python/object/apply:os.getcwd []", "neither YAML nor JSON"),
    ],
)
def test_bad_files_are_refused_in_a_sentence(tmp_path, text, words):
    path = tmp_path / "labels.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        read_structures(path)
    assert caught.value.exit_code == 2


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "labels.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match="not text"):
        read_structures(path)


def test_a_folder_without_labels_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"model\.yaml cannot be read"):
        read_structures(tmp_path)
