"""Keeps libraries that medunet loads from calling home: medunet uses the network only where it is told to.

MONAI imports MLflow wherever that is installed, and MLflow reports its use to its makers unless one of these variables
says no before that. A value that the user has set stays. OpenVINO reports every import, without asking, by a package
of its own, which is therefore hidden from it.
"""

from __future__ import annotations

import os
import sys

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "RAY_USAGE_STATS_ENABLED": "0"}
"""Environment variables and the values that mean "no telemetry"."""

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

HIDDEN = "openvino_telemetry"
"""The package by which OpenVINO reports; without it, it does not."""

sys.modules.setdefault(HIDDEN, None)  # type: ignore[arg-type]
