"""The hash of a case is that of its contents, not of names, places or dates."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from medunet.io.case import Case
from medunet.io.fingerprint import fingerprint


@pytest.fixture
def case(tmp_path: Path) -> Case:
    for name, data in (("image.nii", b"1" * 3_000_000), ("mask.nii", b"2")):
        (tmp_path / name).write_bytes(data)
    return Case("a", (tmp_path / "image.nii",), tmp_path / "mask.nii")


def test_a_copy_has_the_same_hash(case: Case, tmp_path: Path) -> None:
    shutil.copy(case.images[0], tmp_path / "other.nii")
    os.utime(tmp_path / "other.nii", (0, 0))
    assert fingerprint(Case("b", (tmp_path / "other.nii",), case.label)) == fingerprint(case)


def test_any_changed_byte_changes_it(case: Case, tmp_path: Path) -> None:
    before = fingerprint(case)
    with open(case.images[0], "r+b") as handle:
        handle.seek(2_500_000)
        handle.write(b"x")
    changed = fingerprint(case)
    (tmp_path / "mask.nii").write_bytes(b"3")
    assert len({before, changed, fingerprint(case), fingerprint(Case("a", case.images))}) == 4


def test_image_and_mask_are_told_apart(case: Case) -> None:
    assert case.label is not None
    assert fingerprint(case) != fingerprint(Case("a", (case.label,), case.images[0]))


def test_a_series_is_the_files_in_its_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "inner").mkdir(parents=True)
        for number in range(3):
            (tmp_path / name / "inner" / f"{number}.dcm").write_bytes(bytes([number]))
    first, second = (fingerprint(Case("a", (tmp_path / name,))) for name in ("one", "two"))
    (tmp_path / "two" / "inner" / "2.dcm").unlink()
    assert first == second
    assert fingerprint(Case("a", (tmp_path / "two",))) != first
