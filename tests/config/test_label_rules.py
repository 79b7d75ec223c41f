"""Which `labels:` sections work, and every key that names a label."""

from __future__ import annotations

import pytest

from medunet.config.derived import annotated_labels, annotated_names
from medunet.labels import LabelMap

BRATS = "{background: 0, whole: [1, 2, 3], core: [2, 3], enhancing: 3}"


@pytest.mark.parametrize(
    ("text", "what", "words"),
    [
        ("labels: {liver: 1}", "labels.background", "Add the line"),
        ("labels: {Background: 0, liver: 1}", "labels.background", "Rename Background"),
        ("labels: {background: 1, liver: 2}", "labels.background", "must be 0"),
        ("labels: {background: 0}", "labels", "at least one structure"),
        ("labels: {background: 0, ignore: 255}", "labels", "at least one structure"),
        ("labels: {background: 0, liver: 1, Ignore: 255}", "labels.Ignore", "Rename Ignore to ignore"),
        ("labels: {background: 0, liver: [1, 1]}", "labels.liver", "twice"),
        ("labels: {background: 0, liver: 1, ignore: [9, 9]}", "labels.ignore", "twice"),
        ("labels: {background: 0, '1': 1}", "labels.1", "swap them"),
        ("labels: {background: 0, ' ': 1}", "labels. ", "visible letters"),
        ("labels: {background: 0, 'a ': 1}", "labels.a ", "spaces at its ends"),
        ("labels: {background: 0, a: 4000000000}", "labels.a", "32 bits"),
        (f"labels: {{background: 0, {'a' * 65}: 1}}", f"labels.{'a' * 65}", "at most 64"),
        ("labels: {background: 0, liver: 1, tumour: 1}", "labels.tumour", "same values as liver"),
        ("labels: {background: 0, liver: 0}", "labels.liver", "shares value 0 with background"),
        ("labels: {background: 0, liver: 1, ignore: 1}", "labels.ignore", "shares value 1 with liver, but ignore lies"),
        ("labels: {background: 0, liver: 1, ignore: 0}", "labels.ignore", "shares value 0 with background"),
        (
            "labels: {background: 0, a: [1, 2], b: [2, 3]}",
            "labels.b",
            "value 2 with a, and each has values that",
        ),
        ("labels: {background: 0, a: [1, 2, 3], b: [2, 3, 4]}", "labels.b", "Take values 2, 3 out of one of the two"),
        ("labels: {background: 0, organ: [1, 2], rest: 1, tumour: 2}", "labels.organ", "inside of it (rest, tumour)"),
        ("labels: {background: 0, organ: [1, 2], rest: 1, tumour: 2}", "labels.organ", "Leave out organ or one of"),
        ("terms: {livr: {colour: '#ff0000'}}", "terms.livr", "Did you mean liver?"),
        ("terms: {background: {colour: '#ff0000'}}", "terms.background", "structure in labels"),
        ("terms: {liver: {modifier: [SCT, '7771000', Left]}}", "terms.liver.modifier", "modifies a type that"),
        ("terms: {liver: {region_modifier: [SCT, '7771000', Left]}}", "terms.liver.region_modifier", "Give the region"),
        ("terms: {liver: {colour: red}}", "terms.liver.colour", ""),
        ("terms: {liver: {type: [SCT, '10200004']}}", "terms.liver.type", ""),
        ("postprocess: [{name: fill_holes, label: kidney}]", "postprocess.0.label", "liver, spleen"),
        ("postprocess: [{name: fill_holes, label: livr}]", "postprocess.0.label", "Did you mean liver?"),
        ("postprocess: [{name: fill_holes, label: background}]", "postprocess.0.label", "structure in labels"),
        (
            "labels: {background: 0, liver: 1, ignore: 2}\npostprocess: [{name: fill_holes, label: ignore}]",
            "postprocess.0.label",
            "ignore marks voxels whose label is unknown",
        ),
        ("postprocess: [{name: fill_holes, labels: [liver, livr]}]", "postprocess.0.labels.1", "Did you mean liver?"),
        ("postprocess: [{name: smooth, label: livr, mm: 1}]", "postprocess.0.label", "Did you mean liver?"),
        (
            "labels: {background: 0, a: [1, 2], b: 2}\n"
            "postprocess: [{name: threshold, label: background, probability: 0.5}]",
            "postprocess.0.label",
            "a structure",
        ),
        ("postprocess: [{name: fill_holes}]", "postprocess.0.label", "Write label or labels."),
        ("postprocess: [{name: fill_holes, label: null, labels: null}]", "postprocess.0.label", "is missing"),
        ("postprocess: [{name: fill_holes, label: liver, labels: [spleen]}]", "postprocess.0.labels", "beside label"),
        ("postprocess: [{name: fill_holes, labels: [liver, liver]}]", "postprocess.0.labels", "names liver twice"),
        ("postprocess: [{name: remove_small, label: liver}]", "postprocess.0.ml", "Write ml or mm3."),
        ("postprocess: [{name: remove_small, label: liver, ml: 1, mm3: 1}]", "postprocess.0.mm3", "beside ml"),
        (
            "postprocess: [{name: threshold, label: liver, probability: 0.5}, "
            "{name: threshold, label: liver, probability: 0.6}]",
            "postprocess.1.label",
            "has a threshold already",
        ),
        ("loss: {name: cross_entropy, class_weights: {livr: 2.0}}", "loss.class_weights.livr", "Did you mean liver?"),
        (
            "labels: {background: 0, liver: 1, ignore: 2}\nloss: [{name: focal, class_weights: {ignore: 2.0}}]",
            "loss.0.class_weights.ignore",
            "must be the name of a label",
        ),
        ("loss: {name: boundary_weighted_ce, cells: nucleus}", "loss.cells", "The structures are liver, spleen"),
        (
            f"labels: {BRATS}\nloss: [{{name: dice}}, {{name: focal, class_weights: {{background: 0.5}}}}]",
            "loss.1.class_weights.background",
            "would have no effect: of labels that lie inside of each other each is compared with the rest",
        ),
        (f"labels: {BRATS}\nloss: {{name: iou, background: true}}", "loss.background", "no output for the background"),
        (
            "loss: {name: bce, class_weights: {background: 0.5, liver: 2.0}}",
            "loss.class_weights.background",
            "bce compares each structure with the rest, and there is no output for the background",
        ),
        ("data: {annotated: {'amos_*': [livr]}}", "data.annotated.amos_*.0", "Did you mean liver?"),
        ("data: {annotated: {a: [liver, ignore]}}", "data.annotated.a.1", "must be the name of a structure"),
        ("data: {annotated: {a: []}}", "data.annotated.a", "names no structure"),
        ("data: {annotated: {a: [background]}}", "data.annotated.a", "names no structure"),
    ],
)
def test_labels_that_cannot_work_are_one_problem(problems, text, what, words):
    ((found, message),) = problems(text)
    assert found == what
    assert words in message


@pytest.mark.parametrize(
    "text",
    [
        "labels: {background: [0, 205], liver: [1, -3], Λ-ß 2: 255}",
        f"labels: {BRATS}",
        f"labels: {BRATS}\npostprocess: [{{name: largest_component, label: whole}}]",
        "labels: {background: 0, necrosis: 1, whole: [1, 2, 4], enhancing: 4}",
        "postprocess: [{name: remove_small, labels: [liver, spleen], mm3: 20}, {name: smooth, label: liver, mm: 1.5}]",
        "postprocess: [{name: threshold, label: liver, probability: 0.5}, "
        "{name: threshold, label: spleen, probability: 0.5}, {name: threshold, label: background, probability: 0.7}]",
        "labels: {background: 0, liver: [1, 2], tumour: 2, spleen: 3, ignore: [-1, 255]}",
        "data: {annotated: {'amos_*': [liver], '*_t1': [background, spleen]}}",
        "loss: {name: cross_entropy, class_weights: {background: 0.5, liver: 2.0}}",
        "loss: {name: boundary_weighted_ce, cells: background}",
    ],
)
def test_nested_ignored_and_partly_annotated_labels_are_let_through(problems, text):
    assert problems(text) == []


def test_everything_about_clean_up_is_told_at_once(problems):
    found = problems(
        "postprocess: [{name: remove_small, labels: [livr, spleen, milt]}, {name: smooth, label: liver, mm: -1}, "
        "{name: threshold, label: liver, probability: 1}, {name: fill_holes, labels: []}, "
        "{name: threshold, label: liver, probability: 0}, {name: remove_small, label: liver, mm3: -1, ml: 0}]"
    )
    assert sorted(what for what, _ in found) == [
        "postprocess.0.labels.0",
        "postprocess.0.labels.2",
        "postprocess.0.ml",
        "postprocess.1.mm",
        "postprocess.2.probability",
        "postprocess.3.labels",
        "postprocess.4.label",
        "postprocess.4.probability",
        "postprocess.5.ml",
        "postprocess.5.mm3",
    ]


def test_every_crossing_is_told_at_once(problems):
    found = problems("labels: {background: 0, a: [1, 2], b: [2, 3], c: [3, 4]}")
    assert [what for what, _ in found] == ["labels.b", "labels.c"]


def test_a_case_is_annotated_for_what_all_its_patterns_name() -> None:
    annotated = {"amos_*": ("liver",), "*_late": ("spleen",), "other_*": ("liver", "spleen")}
    assert annotated_names("amos_1", annotated) == {"liver"}
    assert annotated_names("amos_1_late", annotated) == {"liver", "spleen"}
    assert annotated_names("Amos_1", annotated) is None  # capitals count
    labels = LabelMap.from_mapping({"background": 0, "liver": 1, "spleen": 2})
    assert annotated_labels("amos_1", annotated, labels) == (True, True, False)
    assert annotated_labels("x_late", annotated, labels) == (True, False, True)
    assert annotated_labels("nobody", annotated, labels) == (True, True, True)
    assert annotated_labels("other_1", annotated, labels) == (True, True, True)
    assert annotated_labels("nobody", {}, labels) == (True, True, True)


def test_the_ignore_label_is_no_structure_that_could_be_missing() -> None:
    labels = LabelMap.from_mapping({"background": 0, "liver": 1, "ignore": 255})
    assert annotated_labels("a", {"*": ("liver",)}, labels) == (True, True)
