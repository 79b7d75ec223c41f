"""What a label means in coded terms: category, type, and side, by its name.

The codes are those of DICOM's own context group for segments, CID 7151 "Segmentation Property Types" (PS3.16), as
pydicom ships it: about a thousand organs, vessels, muscles, lesions and tissues, mostly SNOMED CT. A label is found by
its name in words, in British or American spelling, as `kidney_left`, `left kidney` or `Kidney (left)`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medunet.io.naming import words

SCHEME = "99MEDUNET"
"""Coding scheme of labels that no context group knows; private, as its first digits say (PS3.16 section 8.2)."""

_GROUPS = (codes.cid7151, codes.cid7192)
_LESIONS, _TISSUES = codes.cid7159, codes.cid7166
_SYNONYMS = {
    "tumor": "neoplasm",
    "cancer": "neoplasm",
    "carcinoma": "neoplasm",
    "metastasis": "neoplasm secondary",
    "metastases": "neoplasm secondary",
    "enhancing tumor": "enhancing lesion",
    "non enhancing tumor": "non enhancing lesion",
    "urinary bladder": "bladder",
    "thyroid gland": "thyroid",
    "small bowel": "small intestine",
    "colorectum": "large intestine",
    "iliac vena": "iliac vein",
    "heart ventricle": "ventricle",
    "heart atrium": "atrium",
    "left ventricle cavity": "left ventricle",
    "right ventricle cavity": "right ventricle",
    "fat": "adipose tissue",
    "muscle": "muscle tissue",
    "bone": "bone tissue",
    "body": "entire body",
    "vessel": "blood vessel",
    "lung middle lobe right": "middle lobe of right lung",
    "clavicula": "clavicle",
    "parotid": "parotid gland",
    "adrenal": "adrenal gland",
    "lymph nodes": "lymph node",
}
_SIDES = {"left": codes.SCT.Left, "right": codes.SCT.Right}
_VERTEBRA = re.compile(r"(?:vertebrae?|vertebral body) ([clts]\d{1,2})|([clts]\d{1,2})(?: vertebra)?")


@dataclass(frozen=True)
class Meaning:
    """The coded terms of a label.

    Attributes:
        category: of CID 7150, such as "Anatomical Structure".
        type: what it is.
        side: left or right, where the name says so and the type does not; else None.
        known: it comes from a context group; else the type is a private code of the name.
    """

    category: Code
    type: Code
    side: Code | None = None
    known: bool = True


@cache
def meaning_of(name: str) -> Meaning:
    """Look a label up by its name."""
    parts = words(name)
    whole = _find(parts)
    if whole is not None:
        return Meaning(_category(whole), whole)
    sides = [word for word in parts if word in _SIDES]
    if len(sides) == 1:
        rest = [word for word in parts if word not in _SIDES]
        found = _find(rest)
        if found is not None:
            # "heart ventricle left" is the left ventricle, not a ventricle on the left.
            sided = _find([sides[0], *_plain(found.meaning).split()])
            return Meaning(_category(found), sided) if sided else Meaning(_category(found), found, _SIDES[sides[0]])
    number = hashlib.sha256(name.encode()).hexdigest()[:12].upper()
    return Meaning(codes.SCT.AnatomicalStructure, Code(number, SCHEME, name[:64]), None, known=False)


def _find(parts: list[str]) -> Code | None:
    text = " ".join(parts)
    vertebra = _VERTEBRA.fullmatch(text)
    if vertebra:
        text = f"{vertebra[1] or vertebra[2]} vertebra"
    text = _SYNONYMS.get(text, text)
    known = _catalogue()
    for form in (text, text.removesuffix("s"), _turned(text), re.sub(r" \d+$", "", text)):
        if form in known:
            return known[form]
    return None


def _turned(text: str) -> str:
    """`lung upper lobe` as the catalogue says it: `upper lobe of lung`."""
    first, _, rest = text.partition(" ")
    return f"{rest} of {first}" if rest else text


@cache
def _catalogue() -> dict[str, Code]:
    found: dict[str, Code] = {}
    for group in _GROUPS:
        for keyword in group.dir():
            code = getattr(group, keyword)
            for text in (code.meaning, re.sub(r"(?<=[a-z])(?=[A-Z])", " ", keyword)):
                found.setdefault(_plain(text), code)
    return found


def _category(code: Code) -> Code:
    if code in _members(_LESIONS):
        return codes.SCT.MorphologicallyAbnormalStructure
    return codes.SCT.Tissue if code in _members(_TISSUES) else codes.SCT.AnatomicalStructure


def _members(group: object) -> list[Code]:
    return [getattr(group, keyword) for keyword in group.dir()]  # type: ignore[attr-defined]


def _plain(text: str) -> str:
    return " ".join(words(text))
