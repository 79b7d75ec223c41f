"""Importing medunet keeps libraries from calling home, and respects who decided otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from medunet.environment import QUIET


@pytest.mark.parametrize("given", [None, "false"])
def test_telemetry_is_off_unless_the_user_wants_it(given: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in QUIET}
    if given is not None:
        environment |= dict.fromkeys(QUIET, given)
    code = f"import os, medunet; print([os.environ.get(name) for name in {list(QUIET)}])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([given or value for value in QUIET.values()])


def test_a_training_does_not_start_the_telemetry_of_mlflow() -> None:
    pytest.importorskip("mlflow")
    code = (
        "import medunet.training.session, threading\n"
        "from mlflow.telemetry import get_telemetry_client\n"
        "print(get_telemetry_client(), [t.name for t in threading.enumerate() if 'elemetry' in t.name])"
    )
    # Tests and CI are exempt from telemetry, so this must look like neither.
    hidden = {*QUIET, "CI", "PYTEST_CURRENT_TEST"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None []"


def test_openvino_has_no_way_to_report_its_import() -> None:
    code = (
        "import medunet, sys, openvino\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "print(telemetry_utils.tm.__name__, [name for name in sys.modules if name.startswith('openvino_telemetry.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub []"
