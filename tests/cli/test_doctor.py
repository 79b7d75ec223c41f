"""`medunet doctor`: what it reports, and when it complains."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from medunet.cli import doctor
from medunet.cli.main import main
from medunet.engines import machine


@pytest.fixture
def medunet(monkeypatch, capsys, tmp_path):
    """Run `medunet doctor` in an empty folder; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["medunet", "doctor", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def no_imports(monkeypatch):
    """Packages count as importable without being imported."""
    monkeypatch.setattr(doctor, "check_package", lambda name, _: {"package": name, "version": "1", "problem": None})


def names(requirements):
    return {re.match(r"[\w.-]+", line)[0] for line in requirements}


def test_the_tables_list_every_dependency_and_extra():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    assert set(doctor.REQUIRED) == names(project["dependencies"])
    extras = {extra: names(lines) for extra, lines in project["optional-dependencies"].items()}
    for_users = {extra: wanted for extra, wanted in extras.items() if extra not in {"dev", "docs"}}
    assert {extra: set(wanted) for extra, wanted in doctor.OPTIONAL.items()} == for_users


def test_everything_is_reported_and_nothing_written(medunet, tmp_path):
    code, out, err = medunet("--json")
    report = json.loads(out)
    assert (code, err, report["healthy"]) == (0, "", True)
    assert {"medunet", "python", "processor", "memory", "devices", "disks", "packages", "extras", "codecs"} <= set(
        report
    )
    assert all(row["version"] and row["problem"] is None for row in report["packages"])
    assert report["processor"]["cores"] >= 1
    assert report["memory"]["total_GB"] > 0
    assert report["disks"][0]["path"] == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_people_get_tables(medunet, no_imports):
    code, out, _ = medunet()
    assert code == 0
    assert re.search(r"RLE lossless +yes +pydicom", out)
    assert re.search(r"torch +1 ", out)
    assert "\x1b" not in out


def test_a_missing_package_fails_with_the_way_to_get_it(medunet, monkeypatch):
    monkeypatch.setattr(doctor, "REQUIRED", {"no-such-package": "nothing"})
    code, out, err = medunet()
    assert code == 1
    assert "no-such-package is missing. Get it: pip install 'no-such-package'" in out
    assert err == "medunet: no-such-package missing or broken.\n"


def test_a_broken_package_fails_with_its_reason(medunet, monkeypatch, tmp_path):
    (tmp_path / "broken_for_doctor.py").write_text("raise OSError('libfoo.so not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "REQUIRED", {"numpy": "broken_for_doctor"})
    code, out, _ = medunet()
    assert code == 1
    assert "numpy is installed but cannot be imported: OSError: libfoo.so not found" in out


def test_a_missing_extra_is_advice_only(medunet, no_imports, monkeypatch):
    monkeypatch.setattr(doctor, "OPTIONAL", {"codecs": ("no-such-codec",)})
    code, out, err = medunet()
    assert (code, err) == (0, "")
    assert "The extra codecs is not complete. Get it: pip install 'medunet[codecs]'" in out


def test_an_nvidia_card_that_torch_cannot_use_is_advice(medunet, no_imports, monkeypatch):
    monkeypatch.setattr(machine, "nvidia_driver", lambda: True)
    monkeypatch.setattr(machine, "devices", list)
    assert "Install a CUDA build of torch" in medunet()[1]
