"""What a label means in coded terms: category, type, side, and where it lies, by its name or as a config says.

The codes are those of DICOM's own context group for segments, CID 7151 "Segmentation Property Types" (PS3.16), as
pydicom ships it: about a thousand organs, vessels, muscles, lesions and tissues, mostly SNOMED CT. A label is found by
its name in words, in British or American spelling, as `kidney_left`, `left kidney` or `Kidney (left)`. A name may join
a lesion and the organ that it lies in: `liver_tumour`, `tumour_kidney_left`, `cyst of the pancreas`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import cache
from typing import overload

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medunet.io.naming import words
from medunet.labels import Coded, Label, LabelMap

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
    "hepatic": "liver",
    "renal": "kidney",
    "pulmonary": "lung",
    "pancreatic": "pancreas",
    "splenic": "spleen",
    "prostatic": "prostate",
}
_JOINING = ("of", "in", "the")
_SIDES = {"left": codes.SCT.Left, "right": codes.SCT.Right}
_VERTEBRA = re.compile(r"(?:vertebrae?|vertebral body) ([clts]\d{1,2})|([clts]\d{1,2})(?: vertebra)?")


@dataclass(frozen=True)
class Meaning:
    """The coded terms of a label.

    Attributes:
        category: of CID 7150, such as "Anatomical Structure".
        type: what it is.
        side: left or right, where the name says so and the type does not; else None.
        known: it comes from a context group or a config; else the type is a private code of the name.
        region: where a lesion lies, if that is said.
        region_side: left or right, of the region.
    """

    category: Code
    type: Code
    side: Code | None = None
    known: bool = True
    region: Code | None = None
    region_side: Code | None = None

    @property
    def lesion(self) -> bool:
        """Whether it is something that should not be there."""
        return bool(self.category == codes.SCT.MorphologicallyAbnormalStructure)


def meaning_of_label(label: Label, labels: LabelMap) -> Meaning:
    """What a label means: as its term says, else by its name. A lesion lies in the organ whose label is around it."""
    found, term = meaning_of(label.name), label.term
    if term.type is not None:
        kind = _code(term.type)
        category = _category(kind) if kind in _catalogue().values() else found.category
        found = replace(found, type=kind, category=category, side=_code(term.modifier), known=True)
    if term.category is not None:
        found = replace(found, category=_code(term.category))
    if term.region is not None:
        return replace(found, region=_code(term.region), region_side=_code(term.region_modifier))
    around = labels.labels[labels.enclosing[label.index]]
    if found.region is None and found.lesion and around.index:
        organ = meaning_of_label(around, labels)
        where = (organ.region, organ.region_side) if organ.lesion else (organ.type, organ.side)
        return replace(found, region=where[0], region_side=where[1]) if organ.known else found
    return found


@overload
def _code(coded: Coded) -> Code: ...
@overload
def _code(coded: Coded | None) -> Code | None: ...
def _code(coded: Coded | None) -> Code | None:
    return None if coded is None else Code(coded.value, coded.scheme, coded.meaning)


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
    lesion = _lesion_in_organ(parts)
    if lesion is not None:
        return lesion
    number = hashlib.sha256(name.encode()).hexdigest()[:12].upper()
    return Meaning(codes.SCT.AnatomicalStructure, Code(number, SCHEME, name[:64]), None, known=False)


def _lesion_in_organ(parts: list[str]) -> Meaning | None:
    """A lesion at one end of the words and an organ at the other."""
    parts = [word for word in parts if word not in _JOINING]
    for size in range(len(parts) - 1, 0, -1):
        for lesion, rest in ((parts[:size], parts[size:]), (parts[-size:], parts[:-size])):
            found = _find(lesion)
            if found is not None and found in _members(_LESIONS):
                organ = meaning_of(" ".join(rest))
                if organ.known and not organ.lesion and organ.region is None:
                    return Meaning(_category(found), found, None, True, organ.type, organ.side)
    return None


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
