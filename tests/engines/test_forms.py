"""A converted network is made once, found again, and made anew when it is damaged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from medunet.engines.forms import kept_form, user_cache
from medunet.errors import DeviceError, OutputError

FACTS = {"weights": "abc", "patch": [8, 8]}


class Maker:
    """Writes a file; counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, folder: Path) -> Mapping[str, Any]:
        self.times += 1
        (folder / "network.bin").write_bytes(b"weights")
        return {"deviation": 0.25}


def test_it_is_made_once(tmp_path: Path) -> None:
    make = Maker()
    first = kept_form([tmp_path / "a"], "library", FACTS, make)
    assert kept_form([tmp_path / "a"], "library", FACTS, make) == first
    assert make.times == 1
    assert first[1] == {"deviation": 0.25}
    assert (first[0] / "network.bin").read_bytes() == b"weights"


def test_other_facts_make_another(tmp_path: Path) -> None:
    make = Maker()
    first, _ = kept_form([tmp_path], "library", FACTS, make)
    other, _ = kept_form([tmp_path], "library", {**FACTS, "patch": [8, 9]}, make)
    assert first != other
    assert make.times == 2


@pytest.mark.parametrize("name", ["network.bin", "form.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"half"])
def test_what_is_damaged_is_made_again(tmp_path: Path, name: str, content: bytes) -> None:
    make = Maker()
    folder, _ = kept_form([tmp_path], "library", FACTS, make)
    (folder / name).write_bytes(content)
    assert kept_form([tmp_path], "library", FACTS, make)[1] == {"deviation": 0.25}
    assert make.times == 2
    assert (folder / "network.bin").read_bytes() == b"weights"


def test_a_place_that_cannot_be_written_to_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    make = Maker()
    folder, _ = kept_form([tmp_path / "file", tmp_path / "b"], "library", FACTS, make)
    assert folder.parent == tmp_path / "b"
    with pytest.raises(OutputError):
        kept_form([tmp_path / "file"], "library", FACTS, make)


def test_nothing_is_left_of_one_that_failed(tmp_path: Path) -> None:
    def fail(folder: Path) -> Mapping[str, Any]:
        (folder / "network.bin").write_bytes(b"half")
        raise DeviceError("no")

    with pytest.raises(DeviceError):
        kept_form([tmp_path / "a"], "library", FACTS, fail)
    assert list((tmp_path / "a").iterdir()) == []


def test_the_users_cache_follows_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "medunet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache() == Path.home() / ".cache" / "medunet"
