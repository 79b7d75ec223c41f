"""`medunet evaluate`: exit codes, stdout, stderr."""

from __future__ import annotations

import sys

import nibabel
import numpy as np
import pytest

from medunet.cli.main import main


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder with predictions/ and references/ of two cases, as the working directory."""
    monkeypatch.chdir(tmp_path)
    for case in ("a", "b"):
        save("references", case)
        save("predictions", f"{case}_seg")
    return tmp_path


def save(folder, name, shape=(6, 6, 6)):
    from pathlib import Path

    array = np.zeros(shape, np.uint8)
    array[1:4, 1:4, 1:4] = 1
    array[4, 4, 4] = 2
    Path(folder).mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), Path(folder) / f"{name}.nii.gz")


@pytest.fixture
def medunet(monkeypatch, capsys):
    """Run the command line; gives exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["medunet", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code, *capsys.readouterr()

    return run


BASE = ("evaluate", "-p", "predictions", "-r", "references", "-o", "out")


def test_a_table_and_the_paths_go_to_stdout(study, medunet):
    code, out, err = medunet(*BASE, "--labels", "liver=1,tumour=2", "--tolerance", "2")
    assert code == 0
    lines = out.splitlines()
    assert any(line.split()[:3] == ["liver", "2", "1.000"] for line in lines)
    assert any(line.split()[0:1] == ["tumour"] for line in lines)
    assert "2 of 2 cases scored" in out
    assert "at 2 mm" in out
    assert lines[-2:] == ["out/per_case.csv", "out/summary.json"]
    assert "\x1b" not in out + err
    assert err == ""


def test_long_names_stay_whole_where_stdout_is_no_terminal(study, medunet):
    _, out, _ = medunet(*BASE, "--labels", "left_lower_lobe_of_the_lung_without_vessels=1")
    assert "left_lower_lobe_of_the_lung_without_vessels" in out


def test_names_with_brackets_are_not_taken_for_markup(study, medunet):
    _, out, _ = medunet(*BASE, "--labels", "liver[red]=1")
    assert "liver[red]" in out


def test_a_missing_prediction_gives_exit_code_3_and_the_others_are_written(study, medunet):
    save("references", "c")
    code, out, err = medunet(*BASE)
    assert code == 3
    assert "2 of 3 cases scored" in out
    assert "No prediction for 1 of 3 references: c." in err
    assert (study / "out" / "per_case.csv").is_file()


def test_another_grid_gives_exit_code_3_and_a_sentence(study, medunet):
    save("predictions", "b_seg", shape=(6, 6, 7))
    code, _, err = medunet(*BASE)
    assert code == 3
    assert "b: The prediction must lie on the grid of its reference, but it has shape 6x6x7" in err


def test_no_case_that_can_be_scored_gives_exit_code_1(study, medunet):
    for name in ("a_seg", "b_seg"):
        save("predictions", name, shape=(6, 6, 7))
    code, out, _ = medunet(*BASE)
    assert code == 1
    assert out.splitlines() == ["out/per_case.csv", "out/summary.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-p", "nowhere", "-r", "references", "-o", "out"), "nowhere does not exist"),
        (("-p", "predictions", "-r", "references", "-o", "out", "--labels", "liver"), "cannot be read"),
        (("-p", "predictions", "-r", "references", "-o", "out", "--tolerance", "-1"), "0 or more"),
        (("-p", "predictions", "-r", "references", "-o", "out", "--tolerance", "x"), "tolerance"),
        (("-p", "predictions", "-r", "references"), "out"),
        (("-p", ".", "-r", "references", "-o", "out"), "No prediction matches"),
    ],
)
def test_a_wrong_call_gives_exit_code_2_and_writes_nothing(study, medunet, arguments, words):
    code, out, err = medunet("evaluate", *arguments)
    assert code == 2
    assert out == ""
    assert words in err
    assert not (study / "out").exists()


def test_an_out_in_the_way_gives_exit_code_1(study, medunet):
    (study / "out").write_text("mine")
    code, _, err = medunet(*BASE)
    assert code == 1
    assert "cannot be written" in err
