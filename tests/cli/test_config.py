"""`medunet config`: exit codes, stdout, stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medunet.cli.main import app, main
from medunet.config.load import load_config

GOOD = "name: t\nlabels: {background: 0, liver: 1}\n"


@pytest.fixture
def medunet(tmp_path, monkeypatch, capsys):
    """Run the command line in an empty folder; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["medunet", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return run


def test_a_valid_file_is_summed_up_in_one_line_on_stdout(medunet):
    Path("a.yaml").write_text(GOOD)
    code, out, err = medunet("config", "check", "a.yaml")
    assert (code, err) == (0, "")
    assert out.startswith("a.yaml: valid: 3D unet of 5 levels")
    assert "patch 128x128x96, batch 2, 1 label (liver)" in out
    assert out.count("\n") == 1


def test_the_levels_of_the_published_network_are_summed_up_too(medunet):
    Path("a.yaml").write_text(GOOD + "network: {name: unet2015}\ntrain: {patch_size: [100, 100, 100]}\n")
    assert "3D unet2015 of 4 levels (64 to 512 features), " in medunet("config", "check", "a.yaml")[1]


def test_every_problem_stands_on_a_line_of_its_own_on_stderr(medunet, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    Path("a.yaml").write_text(GOOD + "train:\n  batch_size: two\n  epochs: 0\ntrian: {}\n")
    code, out, err = medunet("config", "check", "a.yaml")
    assert (code, out) == (2, "")
    assert [line.split(": ")[0].strip() for line in err.splitlines()[1:]] == ["a.yaml:4", "a.yaml:5", "a.yaml:6"]
    assert "a.yaml:4: train.batch_size is 'two': must be a whole number greater than 0." in err


def test_options_are_checked_with_the_file(medunet):
    Path("a.yaml").write_text(GOOD + "data: {root: '${NO_SUCH_VARIABLE}'}\n")
    assert medunet("config", "check", "a.yaml")[0] == 2
    assert medunet("config", "check", "a.yaml", "--data", "d")[0] == 0
    code, _, err = medunet("config", "check", "a.yaml", "--data", "d", "--set", "seed=x", "--set", "train.epochs=y")
    assert code == 2
    assert "--set seed=x: seed is 'x'" in err
    assert "--set train.epochs=y: train.epochs is 'y'" in err


@pytest.mark.parametrize("arguments", [["check"], ["show"], ["check", "nix.yaml"], ["show", "nix.yaml"], ["chek", "x"]])
def test_a_wrong_call_ends_with_2_and_says_why(medunet, arguments):
    code, out, err = medunet("config", *arguments)
    assert (code, out) == (2, "")
    assert "nix.yaml" in err if "nix.yaml" in arguments else err


def test_what_show_prints_is_a_configuration_with_the_same_content(medunet):
    code, out, _ = medunet("config", "show", "ct_liver.yaml", "--data", "d", "--set", "train.batch_size=5")
    assert code == 0
    Path("shown.yaml").write_text(out, encoding="utf-8")
    assert load_config("shown.yaml") == load_config("ct_liver.yaml", data="d", overrides=["train.batch_size=5"])
    assert medunet("config", "show", "shown.yaml")[1] == out


def test_the_schema_is_json_that_refuses_unknown_keys(medunet):
    code, out, _ = medunet("config", "schema")
    schema = json.loads(out)
    assert code == 0
    assert schema["additionalProperties"] is False
    assert "network" in schema["properties"]


def test_help_names_the_three_commands():
    result = CliRunner().invoke(app, ["config", "--help"])
    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("check", "show", "schema"))


def test_the_installed_command_reads_a_shipped_configuration_without_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['medunet', 'config', 'check', 'demo.yaml']\n"
        "from medunet.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'monai', 'SimpleITK'} & set(sys.modules)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "MEDUNET_DATA"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("demo.yaml: valid: ")
