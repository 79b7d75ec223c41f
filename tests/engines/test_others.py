"""OpenVINO and ONNX Runtime give the logits of torch, for every kind of network that they can run."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medunet.config.networks import AttentionUNetConfig, UNet2015Config, UNetConfig
from medunet.engines import onnx, openvino
from medunet.engines.contract import TOLERANCE, Engine, deviation
from medunet.engines.torch import TorchEngine
from medunet.errors import DeviceError
from medunet.networks.contract import Network
from medunet.networks.registry import build_network

CPU = torch.device("cpu")
FP32 = torch.float32

NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "unet 3d": (UNetConfig(dims=3, channels=(4, 8, 8)), (16, 12, 20)),
    "unet 2d": (UNetConfig(dims=2, channels=(4, 8, 8)), (32, 24)),
    "odd patch": (UNetConfig(dims=2, channels=(4, 8, 8)), (33, 23)),
    "residual": (UNetConfig(dims=3, channels=(4, 8), residual=True), (16, 16, 16)),
    "attention": (AttentionUNetConfig(name="attention_unet", dims=2, channels=(4, 8)), (32, 32)),
    "unet2015": (UNet2015Config(name="unet2015", dims=2, channels=(4, 8)), (48, 40)),
}


def network(options: Any) -> Network:
    torch.manual_seed(0)
    return build_network(options, 2, 3)


def openvino_engine(options: Any, patch: tuple[int, ...], folder: Path) -> Engine:
    openvino.write_form(network(options), 2, patch, folder)
    return openvino.OpenVinoEngine(folder, FP32)


def onnx_engine(options: Any, patch: tuple[int, ...], folder: Path) -> Engine:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    onnx.write_form(network(options), 2, patch, folder)
    return onnx.OnnxEngine(folder)


MAKERS = pytest.mark.parametrize("make", [openvino_engine, onnx_engine])


@MAKERS
@pytest.mark.parametrize("name", NETWORKS)
def test_the_logits_are_those_of_torch(make: Callable[..., Engine], name: str, tmp_path: Path) -> None:
    options, patch = NETWORKS[name]
    engine = make(options, patch, tmp_path)
    plain = TorchEngine(network(options), options.dims, CPU, FP32)
    patches = torch.randn(5, 2, *patch)
    expected = plain(patches)
    found = engine(patches)
    assert found.shape == expected.shape
    assert found.dtype == FP32
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert deviation(engine, plain, 2, patch) < TOLERANCE[FP32]


@MAKERS
def test_patches_are_not_changed_and_results_stay(make: Callable[..., Engine], tmp_path: Path) -> None:
    options, patch = NETWORKS["unet 2d"]
    engine = make(options, patch, tmp_path)
    patches = torch.randn(3, 2, *patch)
    before = patches.clone()
    first = engine(patches)
    kept = first.clone()
    engine(torch.randn(3, 2, *patch))
    assert torch.equal(first, kept)
    assert torch.equal(patches, before)
    torch.testing.assert_close(engine(patches.flip(2).flip(2)), first)


def test_openvino_computes_in_bfloat16_where_it_is_told_to(tmp_path: Path) -> None:
    options, patch = NETWORKS["unet 3d"]
    openvino.write_form(network(options), 2, patch, tmp_path)
    rough = openvino.OpenVinoEngine(tmp_path, torch.bfloat16)
    plain = TorchEngine(network(options), 3, CPU, FP32)
    assert rough.precision == torch.bfloat16
    assert deviation(rough, plain, 2, patch) < TOLERANCE[torch.bfloat16]


@MAKERS
def test_several_threads_may_convert(make: Callable[..., Engine], tmp_path: Path) -> None:
    options, patch = NETWORKS["unet 2d"]
    found: list[Engine] = []
    folders = [tmp_path / str(number) for number in range(2)]
    for folder in folders:
        folder.mkdir()
    threads = [threading.Thread(target=lambda f=folder: found.append(make(options, patch, f))) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2


@MAKERS
def test_a_file_that_is_no_network_is_a_sentence(make: Callable[..., Engine], tmp_path: Path) -> None:
    options, patch = NETWORKS["unet 2d"]
    make(options, patch, tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(b"nonsense")
    kind = openvino.OpenVinoEngine if make is openvino_engine else onnx.OnnxEngine
    with pytest.raises(DeviceError, match="cannot run"):
        kind(tmp_path, FP32) if kind is openvino.OpenVinoEngine else onnx.OnnxEngine(tmp_path)


@pytest.mark.parametrize(("module", "name"), [(openvino, "OpenVINO"), (onnx, "ONNX Runtime")])
def test_a_library_that_is_not_installed_is_named(
    module: Any, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(onnx, "is_installed", lambda: False)
    with pytest.raises(DeviceError, match=f"{name} was asked for") as caught:
        module.write_form(network(NETWORKS["unet 2d"][0]), 2, (32, 24), tmp_path)
    assert "pip install" in caught.value.hint


def test_more_windows_than_requests_are_done_one_after_the_other(tmp_path: Path) -> None:
    options, patch = NETWORKS["unet 2d"]
    engine = openvino_engine(options, patch, tmp_path)
    patches = torch.randn(3 * engine.at_once + 1, 2, *patch)
    whole = engine(patches)
    torch.testing.assert_close(torch.cat([engine(part) for part in patches.split(1)]), whole)
    assert engine.working_bytes((2, 2, *patch)) >= 4 * patches[0].numel()


def test_signals_can_be_handled_after_engines_have_gone(tmp_path: Path) -> None:
    """In a process of its own, which a signal on a stack that was freed would end; faulthandler makes such a stack."""
    options, patch = NETWORKS["unet 2d"]
    openvino.write_form(network(options), 2, patch, tmp_path)
    code = (
        "import faulthandler, os, pathlib, signal, sys, torch\n"
        "faulthandler.enable()\n"
        "from medunet.engines.openvino import OpenVinoEngine\n"
        "engines = [OpenVinoEngine(pathlib.Path(sys.argv[1]), torch.float32) for _ in range(2)]\n"
        "del engines[0]\n"
        "engines.clear()\n"
        "signal.signal(signal.SIGINT, lambda number, frame: print('handled'))\n"
        "signal.raise_signal(signal.SIGINT)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n")
