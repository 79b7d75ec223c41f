"""predict.json is whole at any moment, cheap to keep, and what a later run goes on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medunet.atomic import write_text
from medunet.errors import OutputError
from medunet.inference import report as module
from medunet.inference.report import CaseReport, Report, output_entry

HEADER: dict[str, Any] = {"format": 1, "models": [{"weights_sha256": "abc"}], "labels": {"background": 0, "organ": 4}}


def entry(folder: Path, case: str, content: str = "mask") -> CaseReport:
    """The report of a case that is done, with its mask."""
    path = folder / f"{case}_seg.nii.gz"
    path.write_text(content)
    return CaseReport(
        case,
        f"{case}.nii.gz",
        "done",
        1.5,
        7,
        volumes_ml={"organ": 2.0},
        warnings=["Ü noticed."],
        outputs=[output_entry(path)],
    )


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "predict.json"


@pytest.fixture
def earlier(path: Path, tmp_path: Path) -> Path:
    """The report of an earlier run over a and b."""
    with Report(path, HEADER, ["a", "b"], resume=False) as report:
        report.add(entry(tmp_path, "a"))
        report.add(entry(tmp_path, "b"))
    return path


def test_it_is_a_whole_document_after_every_case_in_the_order_of_the_cases(path: Path, tmp_path: Path) -> None:
    with Report(path, HEADER, ["a", "b"], resume=False) as report:
        assert read(path) == {**HEADER, "cases": []}
        for done, case in enumerate("ba", 1):
            report.add(entry(tmp_path, case))
            assert len(read(path)["cases"]) == done
    assert [case["case"] for case in read(path)["cases"]] == ["a", "b"]
    assert path.read_text() == json.dumps(read(path), indent=2) + "\n"


def test_a_long_one_is_written_less_often_but_complete_at_the_end(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = []
    monkeypatch.setattr(module, "_CHEAP", 0)
    monkeypatch.setattr(module, "_SHARE", 0.0)
    monkeypatch.setattr(module, "write_text", lambda *what: (writes.append(1), write_text(*what)))
    with Report(path, HEADER, ["a", "b"], resume=False) as report:
        report.add(entry(tmp_path, "a"))
        report.add(entry(tmp_path, "b"))
        assert len(writes) == 1
    assert len(writes) == 2
    assert len(read(path)["cases"]) == 2


def test_a_full_disk_in_between_is_survived_and_one_at_the_end_is_an_error(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OutputError("The disk is full.")

    report = Report(path, HEADER, ["a", "b", "c"], resume=False)
    monkeypatch.setattr(module, "write_text", full)
    report.add(entry(tmp_path, "a"))
    report.add(entry(tmp_path, "b"))
    with pytest.raises(OutputError, match="full"), report:
        pass
    assert caplog.text.count("The disk is full.") == 1
    assert read(path)["cases"] == []
    monkeypatch.undo()
    with report:
        report.add(entry(tmp_path, "c"))
    assert len(read(path)["cases"]) == 3


def test_another_error_is_not_hidden_by_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report(path, HEADER, ["a"], resume=False)
    monkeypatch.setattr(module, "write_text", lambda *_: (_ for _ in ()).throw(OutputError("full")))
    with pytest.raises(KeyboardInterrupt), report:
        raise KeyboardInterrupt


def test_a_finished_case_keeps_its_entry(earlier: Path, tmp_path: Path) -> None:
    before = read(earlier)["cases"][0]
    with Report(earlier, HEADER, ["a", "b", "c"], resume=True) as report:
        found, reason = report.finished("a", "a.nii.gz", [tmp_path / "a_seg.nii.gz"])
        assert (found is not None, reason) == (True, "")
        report.add(found or pytest.fail("it is not found"))
        assert len(read(earlier)["cases"]) == 2  # b is not forgotten before its turn
    assert read(earlier)["cases"][0] == {**before, "status": "skipped"}


def test_a_case_whose_output_changed_is_done_again(earlier: Path, tmp_path: Path) -> None:
    (tmp_path / "a_seg.nii.gz").write_text("edited")
    with Report(earlier, HEADER, ["a", "b"], resume=True) as report:
        found, reason = report.finished("a", "a.nii.gz", [tmp_path / "a_seg.nii.gz"])
    assert found is None
    assert "a_seg.nii.gz is not what" in reason


def test_a_case_whose_output_cannot_be_read_is_done_again(
    earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module, "output_entry", unreadable)
    with Report(earlier, HEADER, ["a", "b"], resume=True) as report:
        found, reason = report.finished("a", "a.nii.gz", [tmp_path / "a_seg.nii.gz"])
    assert found is None
    assert "a_seg.nii.gz cannot be read (Permission denied)" in reason


def test_a_case_of_which_a_file_is_missing_is_done_again(earlier: Path, tmp_path: Path) -> None:
    wanted = [tmp_path / "a_seg.nii.gz", tmp_path / "a_seg.nrrd"]
    with Report(earlier, HEADER, ["a", "b"], resume=True) as report:
        assert report.finished("a", "a.nii.gz", wanted) == (None, "")
        wanted[1].write_text("of another run")
        found, reason = report.finished("a", "a.nii.gz", wanted)
    assert found is None
    assert "a_seg.nrrd is not what" in reason


def test_a_mask_that_was_written_but_not_listed_before_a_kill_is_done_again(earlier: Path, tmp_path: Path) -> None:
    (tmp_path / "c_seg.nii.gz").write_text("mask")
    with Report(earlier, HEADER, ["a", "b", "c"], resume=True) as report:
        found, reason = report.finished("c", "c.nii.gz", [tmp_path / "c_seg.nii.gz"])
    assert found is None
    assert "does not list" in reason


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b'{"models": 1}', b"\xff", b"null"], ids=repr)
def test_without_a_readable_report_masks_are_taken_as_they_are(
    path: Path, tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    if content is not None:
        path.write_bytes(content)
    mask = tmp_path / "a_seg.nii.gz"
    mask.write_text("mask")
    with Report(path, HEADER, ["a"], resume=True) as report:
        found, _ = report.finished("a", "a.nii.gz", [mask])
    assert found == CaseReport("a", "a.nii.gz", "skipped", outputs=[output_entry(mask)])
    assert ("is no report" in caplog.text) == (content is not None)


@pytest.mark.parametrize(
    "change", [{"case": None}, {"outputs": [{"path": 1, "sha256": "x"}]}, {"outputs": 5}, {"status": 3}], ids=str
)
def test_a_damaged_entry_makes_a_report_unreadable(earlier: Path, change: dict[str, Any]) -> None:
    content = read(earlier)
    content["cases"][0].update(change)
    earlier.write_text(json.dumps(content))
    with Report(earlier, HEADER, ["a", "b"], resume=True):
        assert read(earlier)["cases"] == []


def test_keys_of_a_later_version_are_passed_over(earlier: Path, tmp_path: Path) -> None:
    content = read(earlier)
    content["cases"][0]["new"] = 1
    earlier.write_text(json.dumps(content))
    with Report(earlier, HEADER, ["a", "b"], resume=True) as report:
        assert report.finished("a", "a.nii.gz", [tmp_path / "a_seg.nii.gz"])[0] is not None


@pytest.mark.parametrize("change", [{"models": [{"weights_sha256": "other"}]}, {"labels": {"background": 0}}], ids=str)
def test_the_masks_of_another_model_are_not_taken_for_those_of_this_one(
    earlier: Path, tmp_path: Path, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with Report(earlier, {**HEADER, **change}, ["a", "b"], resume=True) as report:
        assert report.finished("a", "a.nii.gz", [tmp_path / "a_seg.nii.gz"])[0] is None
    assert "is of other models" in caplog.text


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    with Report(None, HEADER, ["a"], resume=True) as report:
        report.add(entry(tmp_path, "a"))
    assert [file.name for file in tmp_path.iterdir()] == ["a_seg.nii.gz"]


def test_of_cases_without_end_the_last_are_kept(path: Path, tmp_path: Path) -> None:
    with Report(path, HEADER, resume=True, most=3) as report:
        for name in "abcdbe":
            report.add(entry(tmp_path, name))
            assert len(read(path)["cases"]) <= 3
    assert [case["case"] for case in read(path)["cases"]] == ["d", "b", "e"]
    with Report(path, HEADER, resume=True, most=2) as report:
        assert [case["case"] for case in read(path)["cases"]] == ["b", "e"]


def test_a_file_of_another_name_is_another_case(path: Path, tmp_path: Path) -> None:
    with Report(path, HEADER, ["a"], resume=False) as report:
        report.add(entry(tmp_path, "a"))
    again = Report(path, HEADER, ["a"], resume=True)
    masks = [tmp_path / "a_seg.nii.gz"]
    assert again.finished("a", "moved/a.nii.gz", masks)[0] is not None
    assert again.finished("a", "a.png", masks)[0] is None
