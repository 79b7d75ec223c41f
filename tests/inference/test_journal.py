"""The journal outlives its process, belongs to one at a time, and gives names that stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from medunet.errors import OutputError, UsageError
from medunet.inference.journal import Journal


def test_what_was_noted_is_known_after_it_was_opened_again(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        assert not journal.knows("a.png")
        journal.note("a.png", "1:2", "done")
        journal.note("a.png", "3:4", "failed")
    with Journal(tmp_path / "j") as journal:
        assert journal.knows("a.png")
        assert journal.is_done("a.png", "3:4")
        assert not journal.is_done("a.png", "1:2")
        assert not journal.is_done("b.png", "3:4")


def test_names_stay_with_their_keys(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        assert journal.name("a.png", ["a", "a.png"]) == "a"
        assert journal.name("a.jpg", ["a", "a.jpg"]) == "a.jpg"
        assert journal.name("a.jpg.png", ["a.jpg", "a.jpg.png"]) == "a.jpg.png"
        assert journal.name("other", ["a", "a"]) == "a_2"
    with Journal(tmp_path / "j") as journal:
        assert journal.name("a.jpg", ["a", "a.jpg"]) == "a.jpg"
        assert journal.name("a.png", ["a", "a.png"]) == "a"


def test_names_without_meaning_in_unicode_are_taken(tmp_path: Path) -> None:
    strange = b"\xff\xfe.png".decode("utf-8", "surrogateescape")
    with Journal(tmp_path / "j") as journal:
        journal.note(strange, "1:2", "done")
        assert journal.is_done(strange, "1:2")


def test_a_second_process_is_told(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(UsageError, match="Another medunet is watching"):
        Journal(tmp_path / "j")
    with Journal(tmp_path / "j"):
        pass


def test_a_file_that_is_no_journal_is_told(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"something else" * 100)
    with pytest.raises(OutputError, match="cannot be used"):
        Journal(tmp_path / "j")
