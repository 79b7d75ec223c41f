"""What structures are called in DICOM objects: read, checked, and joined to the labels."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from medunet.config.terms import TermConfig, with_terms
from medunet.labels import Coded, LabelMap

LABELS = LabelMap.from_mapping({"background": 0, "liver": 1, "tumour": 2})


@pytest.mark.parametrize("written", ['"#dd8265"', '"#DD8265"', "[221, 130, 101]"])
def test_a_colour_is_three_numbers_or_a_text(written: str) -> None:
    entry = TermConfig.model_validate_json(f'{{"colour": {written}}}')
    assert with_terms(LABELS, {"tumour": entry}).labels[2].colour == (221, 130, 101)


def test_labels_get_their_terms_and_are_still_the_same_labels() -> None:
    entry = TermConfig.model_validate_json(
        '{"type": ["SCT", "4147007", "Mass"], "region": ["SCT", "10200004", "Liver"]}'
    )
    found = with_terms(LABELS, {"tumour": entry})
    assert found.labels[2].term.type == Coded("SCT", "4147007", "Mass")
    assert found.labels[2].term.region == Coded("SCT", "10200004", "Liver")
    assert found.labels[2].colour == LABELS.labels[2].colour
    assert found.labels[1] is not None
    assert found == LABELS


@pytest.mark.parametrize(
    "written",
    [
        '{"colour": "red"}',
        '{"colour": [0, 0, 256]}',
        '{"colour": [0, 0]}',
        '{"type": ["SCT", "4147007"]}',
        '{"type": ["SCT", "", "Mass"]}',
        '{"type": ["SCT", "12345678901234567", "Mass"]}',
        '{"type": "Mass"}',
        '{"kind": ["SCT", "4147007", "Mass"]}',
    ],
)
def test_other_values_are_refused(written: str) -> None:
    with pytest.raises(ValidationError):
        TermConfig.model_validate_json(written)
