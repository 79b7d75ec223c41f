"""Labels to coded terms, by their names."""

from __future__ import annotations

import pytest

from medunet.export.dicom.codes import SCHEME, meaning_of, meaning_of_label
from medunet.labels import Coded, LabelMap, Term


@pytest.mark.parametrize(
    ("name", "code", "meaning", "side"),
    [
        ("liver", "10200004", "Liver", None),
        ("Spleen", "78961009", "Spleen", None),
        ("kidney_left", "64033007", "Kidney", "Left"),
        ("Right kidney", "64033007", "Kidney", "Right"),
        ("Kidney (right)", "64033007", "Kidney", "Right"),
        ("lungs", "39607008", "Lung", None),
        ("oesophagus", "32849002", "Esophagus", None),
        ("tumour", "108369006", "Neoplasm", None),
        ("urinary_bladder", "89837001", "Bladder", None),
        ("vertebrae_L5", "49668003", "L5 vertebra", None),
        ("L5", "49668003", "L5 vertebra", None),
        ("rib_left_7", "113197003", "Rib", "Left"),
        ("lung_upper_lobe_left", "45653009", "Upper lobe of lung", "Left"),
        ("lung_middle_lobe_right", "72481006", "Middle lobe of right lung", None),
        ("heart_ventricle_left", "87878005", "Left ventricle", None),
        ("hippocampus", "5366008", "Hippocampus", None),
    ],
)
def test_names_of_organs_are_found(name: str, code: str, meaning: str, side: str | None) -> None:
    found = meaning_of(name)
    assert (found.type.value, found.type.scheme_designator, found.type.meaning) == (code, "SCT", meaning)
    assert (found.side.meaning if found.side else None) == side
    assert found.known


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("liver", "Anatomical Structure"),
        ("tumor", "Morphologically Abnormal Structure"),
        ("cyst", "Morphologically Abnormal Structure"),
        ("fat", "Tissue"),
    ],
)
def test_the_category_follows_from_the_kind(name: str, category: str) -> None:
    assert meaning_of(name).category.meaning == category


@pytest.mark.parametrize("name", ["spot", "Anterior", "liver left right", "", "ribosome", "left", "肝", "x" * 90])
def test_other_names_get_a_private_code_of_their_own(name: str) -> None:
    found = meaning_of(name)
    assert not found.known
    assert found.type.scheme_designator == SCHEME
    assert len(found.type.value) <= 16
    assert len(found.type.meaning) <= 64
    assert found.type.value != meaning_of(f"{name} 2nd").type.value


@pytest.mark.parametrize(
    ("name", "lesion", "organ", "side"),
    [
        ("liver_tumour", "Neoplasm", "Liver", None),
        ("tumour_kidney_left", "Neoplasm", "Kidney", "Left"),
        ("left kidney cyst", "Cyst", "Kidney", "Left"),
        ("cyst of the pancreas", "Cyst", "Pancreas", None),
        ("lung_nodule", "Nodule", "Lung", None),
        ("hepatic lesion", "Lesion", "Liver", None),
        ("Brain metastases", "Neoplasm, Secondary", "Brain", None),
    ],
)
def test_a_lesion_lies_in_the_organ_that_its_name_says(name: str, lesion: str, organ: str, side: str | None) -> None:
    found = meaning_of(name)
    assert found.known
    assert found.lesion
    assert (found.type.meaning, found.side) == (lesion, None)
    assert found.region is not None
    assert found.region.meaning == organ
    assert (found.region_side.meaning if found.region_side else None) == side


@pytest.mark.parametrize("name", ["liver_spot", "spot_tumour", "tumour_cyst", "tumour"])
def test_without_an_organ_there_is_no_region(name: str) -> None:
    assert meaning_of(name).region is None


def test_what_lies_inside_of_an_organ_lies_in_it() -> None:
    labels = LabelMap.from_mapping({"background": 0, "kidney_left": [1, 2, 3], "cyst": [2, 3], "necrosis": 3})
    cyst, necrosis = (meaning_of_label(labels.labels[index], labels) for index in (2, 3))
    for found in (cyst, necrosis):
        assert found.region is not None
        assert found.region_side is not None
        assert (found.region.meaning, found.region_side.meaning) == ("Kidney", "Left")
    assert meaning_of_label(labels.labels[1], labels).region is None


def test_what_a_config_says_comes_first() -> None:
    mass, right, liver = (
        Coded("SCT", "4147007", "Mass"),
        Coded("SCT", "24028007", "Right"),
        Coded("SCT", "10200004", "Liver"),
    )
    plain = LabelMap.from_mapping({"background": 0, "kidney_left": 1, "spot": 2})
    terms = {"kidney_left": Term(region=liver), "spot": Term(type=mass, modifier=right, region=liver)}
    labels = plain.described(terms)
    kidney, spot = (meaning_of_label(label, labels) for label in labels.foreground)
    assert (kidney.type.meaning, kidney.side and kidney.side.meaning) == ("Kidney", "Left")
    assert kidney.region is not None
    assert (spot.type.meaning, spot.lesion, spot.known) == ("Mass", True, True)
    assert spot.side is not None
    assert spot.region is not None
    assert (spot.side.meaning, spot.region.meaning) == ("Right", "Liver")
    other = plain.described({"spot": Term(category=Coded("SCT", "85756007", "Tissue"), type=Coded("99X", "1", "Own"))})
    found = meaning_of_label(other.labels[2], other)
    assert (found.category.meaning, found.type.scheme_designator, found.known) == ("Tissue", "99X", True)
