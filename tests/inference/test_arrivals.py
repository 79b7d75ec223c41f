"""What counts as complete, in a folder that others write into; time is what the test says it is."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from medunet.inference.arrivals import Arrivals


def is_done(key: str, signature: str) -> bool:
    return False


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def keys(arrivals: Arrivals, now: float) -> list[str]:
    return [arrival.key for arrival in arrivals.look(now, is_done)]


def test_a_file_counts_when_it_has_not_changed_for_a_while(tmp_path: Path) -> None:
    arrivals = Arrivals(tmp_path, settle=5)
    file = write(tmp_path / "a.png")
    assert keys(arrivals, 0) == []
    assert arrivals.waiting == 1
    write(file, b"xyz")
    assert keys(arrivals, 4) == []
    assert keys(arrivals, 8) == []  # it grew at 4
    assert keys(arrivals, 9) == ["a.png"]
    assert arrivals.waiting == 0
    os.utime(file, (1, 1))  # same size, another time
    assert keys(arrivals, 10) == []
    assert keys(arrivals, 15) == ["a.png"]


def test_what_is_done_is_not_looked_at_until_it_changes(tmp_path: Path) -> None:
    arrivals, done = Arrivals(tmp_path, settle=5), set()
    file = write(tmp_path / "a.png")
    arrivals.look(0, lambda *which: which in done)
    (found,) = arrivals.look(5, lambda *which: which in done)
    done.add((found.key, found.signature))
    assert arrivals.look(10, lambda *which: which in done) == []
    assert arrivals.waiting == 0
    write(file, b"another")
    assert arrivals.look(11, lambda *which: which in done) == []
    assert [each.key for each in arrivals.look(16, lambda *which: which in done)] == ["a.png"]


def test_names_of_what_is_unfinished_or_not_ours_are_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("a.png.part", ".a.png", "b.tmp", "c.png~", "~d.png", "e.txt", ".hidden/f.png", "out/g.png"):
        write(tmp_path / name)
    write(tmp_path / "earlier" / "predict.json")
    write(tmp_path / "earlier" / "h_mask.png")
    arrivals = Arrivals(tmp_path, settle=5, without=out)
    assert keys(arrivals, 0) == keys(arrivals, 5) == []
    assert arrivals.waiting == 0


def test_pictures_in_sub_folders_count_and_thumbnails_of_studies_do_not(tmp_path: Path) -> None:
    for name in ("b.jpg", "sub/deep/a.png", "sub/notes.txt", "study/1/IM0001", "study/1/IM0002.dcm", "study/thumb.png"):
        write(tmp_path / name)
    arrivals = Arrivals(tmp_path, settle=5)
    keys(arrivals, 0)
    assert keys(arrivals, 5) == ["b.jpg", "study", "sub/deep/a.png"]
    write(tmp_path / "study/1/IM0003.dcm")
    assert keys(arrivals, 6) == ["b.jpg", "sub/deep/a.png"]  # a study is complete when nothing below it changes
    assert "study" in keys(arrivals, 11)


def test_a_word_beside_pictures_makes_no_study_of_their_folder(tmp_path: Path) -> None:
    arrivals = Arrivals(tmp_path, settle=1)
    for name in ("a.png", "README", "LICENSE"):
        write(tmp_path / "site" / name)
    write(tmp_path / "export" / "thumbnail.png")
    write(tmp_path / "export" / "IM0001")
    write(tmp_path / "words" / "Image")
    arrivals.look(0, is_done)
    assert keys(arrivals, 2) == ["export", "site/a.png", "words"]


def test_channels_wait_for_each_other(tmp_path: Path) -> None:
    arrivals = Arrivals(tmp_path, channels=2, settle=5)
    write(tmp_path / "a_0000.nii.gz")
    write(tmp_path / "IMG_0001.jpg")
    keys(arrivals, 0)
    assert keys(arrivals, 5) == ["IMG_0001.jpg"]  # photographs are numbered, too
    assert arrivals.waiting == 1
    write(tmp_path / "a_0001.nii.gz")
    keys(arrivals, 6)
    (both, _) = sorted(arrivals.look(11, is_done), key=lambda each: -len(each.paths))
    assert (both.key, [path.name for path in both.paths]) == ("a", ["a_0000.nii.gz", "a_0001.nii.gz"])


def test_loose_dicom_files_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "IM0001.dcm")
    arrivals = Arrivals(tmp_path, settle=1)
    with caplog.at_level(logging.WARNING, logger="medunet"):
        assert keys(arrivals, 0) == keys(arrivals, 5) == []
    assert caplog.text.count("IM0001.dcm is left alone") == 1


def test_images_of_kinds_that_are_not_read_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arrivals = Arrivals(tmp_path)
    for name in ("a.heic", "sub/b.svs", "sub/c.png", "notes.txt", ".d.heic"):
        write(tmp_path / name)
    with caplog.at_level(logging.WARNING, logger="medunet"):
        keys(arrivals, 0)
        assert keys(arrivals, 9) == ["sub/c.png"]
        write(tmp_path / "e.heic")
        keys(arrivals, 10)
    assert [record.message for record in caplog.records] == [
        "2 files are of kinds that are not read: a.heic, sub/b.svs.",
        "1 file is of a kind that is not read: e.heic.",
    ]


def test_a_folder_that_is_gone_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        keys(Arrivals(tmp_path / "gone"), 0)
