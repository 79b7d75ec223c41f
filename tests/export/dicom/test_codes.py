"""Labels to coded terms, by their names."""

from __future__ import annotations

import pytest

from medunet.export.dicom.codes import SCHEME, meaning_of


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
