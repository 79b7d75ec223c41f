"""Which engine runs: as asked, or measured once there is enough to do, and remembered."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from medunet.engines import openvino
from medunet.errors import DeviceError, UsageError
from medunet.inference import choice
from medunet.inference.choice import Engines, Member, build
from medunet.model import load_model

CPU = torch.device("cpu")
FP32 = torch.float32


@pytest.fixture
def member(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Member:
    """A copy of the tiny model, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns(choice.FORMS))
    return Member(load_model(tmp_path / "model"), 0)


def engines(member: Member, wish: str = "auto") -> Engines:
    return Engines([member], wish, CPU, FP32)


def timed(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> list[str]:
    """Pretend that windows take these times; the list tells which engines were timed."""
    asked: list[str] = []

    def pretend(engine: Any, member: Member) -> float:
        asked.append(engine.name)
        return seconds[engine.name]

    monkeypatch.setattr(choice, "window_seconds", pretend)
    return asked


@pytest.mark.parametrize("wish", ["torch", "openvino", "onnx"])
def test_an_engine_that_was_asked_for_is_taken(member: Member, wish: str) -> None:
    if wish == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    found = engines(member, wish)
    assert found.name == wish
    assert found.reason == "It was asked for."
    assert len(found.ready(10**6)) == 1


def test_an_unknown_engine_and_one_on_the_wrong_device_are_refused(member: Member) -> None:
    with pytest.raises(UsageError, match='"tensorrt" is no engine'):
        engines(member, "tensorrt")
    with pytest.raises(UsageError, match="runs on the CPU"):
        Engines([member], "openvino", torch.device("meta"), FP32)


def test_little_work_is_begun_at_once_with_torch(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch, torch=0.1)
    found = engines(member)
    found.ready(8)
    assert asked == []
    found.ready(100)
    assert (asked, found.name) == (["torch"], "torch")
    assert not (member.model.path / choice.FORMS).exists()


def test_work_adds_up_until_another_engine_pays(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, torch=0.1, openvino=0.01)
    found = engines(member)
    names = []
    for _ in range(3):
        found.ready(100)
        names.append(found.name)
    assert names == ["torch", "torch", "openvino"]


def test_what_was_faster_is_remembered_beside_the_weights(
    member: Member, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    timed(monkeypatch, torch=0.1, openvino=0.01)
    with caplog.at_level(logging.INFO, "medunet"):
        engines(member).ready(1000)
    assert "0.01 s with OpenVINO and 0.1 s with torch" in caplog.text
    asked = timed(monkeypatch)
    again = engines(member)
    assert (again.name, asked) == ("openvino", [])
    assert "0.01 s" in again.reason
    again.ready(10**6)
    assert asked == []


def test_torch_is_remembered_too(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, torch=0.1, openvino=0.2)
    engines(member).ready(1000)
    asked = timed(monkeypatch)
    again = engines(member)
    again.ready(1000)
    assert (again.name, asked) == ("torch", [])


@pytest.mark.parametrize("content", ["", "{}", '{"engine": "evil", "reason": ""}', "[]"])
def test_a_damaged_memory_is_measured_again(member: Member, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    timed(monkeypatch, torch=0.1, openvino=0.01)
    engines(member).ready(1000)
    (path,) = (member.model.path / choice.FORMS).glob("choice-*.json")
    path.write_text(content)
    asked = timed(monkeypatch, torch=0.1, openvino=0.01)
    engines(member).ready(1000)
    assert asked == ["torch", "openvino"]
    assert json.loads(path.read_text())["engine"] == "openvino"


def test_a_network_that_cannot_be_converted_stays_with_torch(
    member: Member, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    timed(monkeypatch, torch=0.1)

    def fail(*args: Any) -> None:
        raise DeviceError("OpenVINO cannot convert this network: an operation.")

    monkeypatch.setattr(openvino, "write_form", fail)
    found = engines(member)
    found.ready(1000)
    assert found.name == "torch"
    assert "cannot convert" in caplog.text


def test_a_conversion_that_changes_the_logits_is_refused(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "deviation", lambda *_: 0.5)
    with pytest.raises(DeviceError, match=r"other logits in openvino than in torch: 0\.5 apart"):
        build("openvino", member, CPU, FP32)
    assert not list((member.model.path / choice.FORMS).glob("openvino-*"))


def test_without_openvino_auto_is_torch(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "is_installed", lambda: False)
    found = engines(member)
    assert (found.name, found.reason) == ("torch", "OpenVINO is not installed.")
    found.ready(10**9)


def test_other_weights_are_converted_anew(member: Member, tiny_model: Path) -> None:
    build("openvino", member, CPU, FP32)
    other = Member(load_model(tiny_model), 0)
    assert other.facts() == member.facts()
    changed = {**member.facts(), "patch": [1, 2, 3]}
    assert choice.key_of(changed) != choice.key_of(member.facts())


def test_a_folder_that_cannot_be_written_to_gives_way_to_the_users_cache(member: Member, tmp_path: Path) -> None:
    (member.model.path / choice.FORMS).write_text("in the way")
    build("openvino", member, CPU, FP32)
    assert list((tmp_path / "cache" / "medunet" / choice.FORMS).glob("openvino-*/form.json"))
