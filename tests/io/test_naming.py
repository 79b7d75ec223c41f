"""Structures and labels are matched by words, never by likeness."""

from __future__ import annotations

import pytest

from medunet.errors import DataError
from medunet.io.naming import match


@pytest.mark.parametrize(
    ("label", "structure"),
    [
        ("liver", "liver"),
        ("liver", "LIVER"),
        ("lung_upper_lobe", "Lung upper-lobe"),
        ("tumour", "Tumor"),
        ("oesophagus", "Esophagus"),
        ("kidney_left", "Left Kidney"),
        ("left kidney", "Kidney_L"),
        ("kidney_right", "kidney (right)"),
        ("ignore", "Ignore"),
    ],
)
def test_equal_words_match(label: str, structure: str) -> None:
    found = match(["background", label], {7: structure}, "a.dcm")
    assert found.label == {7: label}
    assert (found.absent, found.unnamed) == ((), ())


@pytest.mark.parametrize(
    ("label", "structure"),
    [
        ("liver", "liver1"),
        ("liver", "livre"),
        ("kidney", "kidneys"),
        ("kidney_left", "Right Kidney"),
        ("kidney_left", "kidney"),
        ("lobe left upper", "left lower lobe"),
        ("kidney l1", "kidney left 1"),
        ("l", "left"),
    ],
)
def test_what_is_merely_alike_does_not_match(label: str, structure: str) -> None:
    with pytest.raises(DataError, match="has the name of a label") as caught:
        match([label], {1: structure}, "a.dcm")
    assert f"its structures are {structure}, the labels are {label}." in str(caught.value)


def test_an_equal_name_goes_before_a_like_one() -> None:
    found = match(["Liver", "spleen"], {1: "liver", 2: "Liver"}, "a.dcm")
    assert found.label == {2: "Liver"}
    assert (found.absent, found.unnamed) == (("spleen",), ("liver",))


def test_structures_of_one_name_are_one_label() -> None:
    assert match(["tumor"], {1: "Tumour", 2: "tumour", 5: "Tumor"}, "a.dcm").label == {
        1: "tumor",
        2: "tumor",
        5: "tumor",
    }


def test_a_structure_called_background_is_no_label_and_not_told() -> None:
    found = match(["background", "liver"], {1: "Background", 2: "liver", 3: "", 4: "couch"}, "a.dcm")
    assert found.label == {2: "liver"}
    assert found.unnamed == ("without a name", "couch")


def test_a_structure_that_could_be_two_labels_is_refused() -> None:
    with pytest.raises(DataError, match=r'"LIVER" of a\.dcm may be the label Liver or liver'):
        match(["Liver", "liver"], {1: "LIVER"}, "a.dcm")
