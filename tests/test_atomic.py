"""Files and folders appear whole or not at all, whatever goes wrong."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medunet.atomic import atomic_file, atomic_folder, make_folder, remove_leftovers, write_json, write_text
from medunet.errors import OutputError

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


def fail(*_: object) -> None:
    raise NO_SPACE


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_file(path: Path, error: BaseException | None = None) -> None:
    with atomic_file(path) as part:
        part.write_bytes(b"half" if error else b"new")
        if error:
            raise error


def write_folder(path: Path, error: BaseException | None = None) -> None:
    with atomic_folder(path) as part:
        (part / "inside").write_bytes(b"half" if error else b"new")
        if error:
            raise error


WRITERS = pytest.mark.parametrize("write", [write_file, write_folder])


@pytest.mark.parametrize("name", ["mask.nii.gz", "a.b.c.nii", "plain", ".hidden", "ä ö.NII.GZ", "n" * 250])
def test_a_file_appears_under_its_name_alone(tmp_path: Path, name: str) -> None:
    write_file(tmp_path / "deep" / "er" / name)
    assert names(tmp_path / "deep" / "er") == [name]
    assert (tmp_path / "deep" / "er" / name).read_bytes() == b"new"


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".tar.gz", ".json", ""])
def test_the_temporary_name_has_the_ending_by_which_libraries_choose_a_format(tmp_path: Path, ending: str) -> None:
    with atomic_file(tmp_path / f"case.01{ending}") as part:
        part.write_bytes(b"")
        assert part.name.startswith(".")
        assert part.name.endswith(ending)


@WRITERS
def test_writing_again_replaces_what_was_there(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "target")
    write(tmp_path / "target")
    assert names(tmp_path) == ["target"]


def test_replacing_a_folder_keeps_nothing_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "stale").write_text("old")
    write_folder(tmp_path / "model")
    assert names(tmp_path / "model") == ["inside"]


@WRITERS
@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt()])
def test_an_error_while_writing_leaves_the_old_content(
    tmp_path: Path, write: Callable[..., None], error: BaseException
) -> None:
    target = tmp_path / "target"
    write(target)
    with pytest.raises(type(error)):
        write(target, error)
    assert names(tmp_path) == ["target"]
    assert (target if target.is_file() else target / "inside").read_bytes() == b"new"


@WRITERS
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_gives_a_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], call: str
) -> None:
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutputError, match="target cannot be written: No space left on device") as caught:
        write(tmp_path / "target")
    assert "free space" in caught.value.hint
    assert names(tmp_path) == []


@WRITERS
def test_a_disk_that_fills_up_while_the_caller_writes_gives_the_same_sentence(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    with pytest.raises(OutputError, match="No space left"):
        write(tmp_path / "target", NO_SPACE)
    assert names(tmp_path) == []


def test_the_old_folder_returns_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "model")
    replace, calls = os.replace, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "model")
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["inside"]


def test_a_folder_in_the_way_of_a_file_is_refused_and_kept(tmp_path: Path) -> None:
    write_folder(tmp_path / "target")
    with pytest.raises(OutputError, match="target cannot be written"):
        write_file(tmp_path / "target")
    assert names(tmp_path) == ["target"]
    assert names(tmp_path / "target") == ["inside"]


def test_a_file_in_the_way_of_a_folder_is_refused_and_kept(tmp_path: Path) -> None:
    write_file(tmp_path / "target")
    with pytest.raises(OutputError, match="a file of that name is in the way"):
        write_folder(tmp_path / "target")
    assert names(tmp_path) == ["target"]
    assert (tmp_path / "target").read_bytes() == b"new"


@WRITERS
def test_a_file_in_the_way_of_the_parent_folder_is_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write_file(tmp_path / "parent")
    with pytest.raises(OutputError, match="parent cannot be written"):
        write(tmp_path / "parent" / "target")


@WRITERS
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_gives_a_sentence(tmp_path: Path, write: Callable[[Path], None]) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            write(tmp_path / "target")
    finally:
        tmp_path.chmod(0o700)


@WRITERS
def test_a_folder_that_refuses_new_entries_gives_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        write(tmp_path / "new" / "target")


def test_writing_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="target cannot be written"), atomic_file(tmp_path / "target"):
        pass
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    write_folder(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_folder(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path) == ["link", "real"]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("context", ["atomic_file", "atomic_folder"])
def test_a_killed_process_leaves_no_half_result_under_the_final_name(tmp_path: Path, context: str) -> None:
    program = (
        "import os, signal, sys\n"
        f"from medunet.atomic import {context} as context\n"
        "with context(sys.argv[1]) as part:\n"
        "    (part if context.__name__ == 'atomic_file' else part / 'inside').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "target")], check=False)
    assert ended.returncode == -9
    assert not (tmp_path / "target").exists()
    assert all(name.startswith(".target.part-") for name in names(tmp_path))


@pytest.mark.parametrize("name", ["case_1_seg.nii.gz", f"{'1.2.840.' * 8}1_seg.nii.gz", "report.json", "bare"])
def test_leftovers_go_and_those_of_others_stay(tmp_path: Path, name: str) -> None:
    path, similar = tmp_path / name, tmp_path / name.replace("1_seg", "10_seg").replace("bare", "bare.part-x")
    other = path.with_suffix(".other")
    left = {}
    for each in {path, similar, other}:
        with atomic_file(each) as part:
            part.write_bytes(b"")
            left[each] = tmp_path / part.name
        os.replace(each, left[each])
    (tmp_path / name).write_bytes(b"whole")
    before = set(names(tmp_path))
    remove_leftovers([path, tmp_path / "none", tmp_path / "no folder" / name])
    assert before - set(names(tmp_path)) == {left[path].name}


def test_text_is_utf8_and_json_ends_with_a_line_break(tmp_path: Path) -> None:
    write_text(tmp_path / "text.txt", "Länge 5 mm\n")
    assert (tmp_path / "text.txt").read_bytes() == "Länge 5 mm\n".encode()
    write_json(tmp_path / "value.json", {"dice": 0.5, "name": "Länge"})
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert json.loads(text) == {"dice": 0.5, "name": "Länge"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_never_holds_numbers_that_json_does_not_know(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "value.json", {"dice": value})
    assert names(tmp_path) == []


def test_making_a_folder_twice_is_no_error(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b") == make_folder(tmp_path / "a" / "b")
