"""`medunet predict` and `nnUNetv2_predict` with the same trained network on the same volume, end to end.

Needs a trained nnU-Net folder (NNUNET_MODEL=.../nnUNetTrainer__nnUNetPlans__3d_fullres, a plain U-Net of one channel),
an image to fill the volume with (IMAGE=file) and nnU-Net in an environment of its own (`make peer-nnunet`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest
import torch

HERE = Path(__file__).parent
PEER = HERE.parents[1] / ".peers" / "nnunet" / "bin"
SHAPE = tuple(int(number) for number in os.environ.get("SHAPE", "256,256,160").split(","))
SMALL = (36, 50, 35)


@dataclass
class Run:
    """What a command took: seconds, and bytes of its largest process and of all together at their peaks."""

    seconds: float
    largest: int
    together: int


def run(command: list[str | Path], **environment: str) -> Run:
    """Run a command and watch the memory of all its processes."""
    start = time.perf_counter()
    process = psutil.Popen(
        [str(part) for part in command],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    peaks = {"largest": 0, "together": 0}

    def watch() -> None:
        while process.is_running():
            try:
                sizes = [each.memory_info().rss for each in [process, *process.children(recursive=True)]]
            except psutil.Error:
                continue
            peaks["largest"] = max(peaks["largest"], *sizes)
            peaks["together"] = max(peaks["together"], sum(sizes))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - start
    assert process.returncode == 0, errors[-3000:].decode()
    return Run(seconds, **peaks)


def volume(path: Path, shape: tuple[int, ...], source: Path) -> Path:
    """A volume of 1 mm that is filled with mirrored copies of an image."""
    image = np.asarray(nibabel.load(source).dataobj, dtype=np.float32)
    image = image[tuple(slice(n) for n in shape)]
    pads = [(0, wanted - n) for n, wanted in zip(image.shape, shape, strict=True)]
    nibabel.save(nibabel.Nifti1Image(np.pad(image, pads, mode="symmetric"), np.eye(4)), path)
    return path


def network_seconds(model: Path, engine: str, windows: int) -> float:
    """What the windows take by themselves, in a process of its own."""
    script = (
        "import sys, time, torch, pathlib\n"
        "from medunet.inference.choice import Member, build\n"
        "from medunet.engines.device import resolve_precision\n"
        "from medunet.model import load_model\n"
        "model, kind, count = load_model(sys.argv[1]), sys.argv[2], int(sys.argv[3])\n"
        "cpu = torch.device('cpu')\n"
        "engine = build(kind, Member(model, 0), cpu, resolve_precision('auto', cpu))\n"
        "shape = (engine.at_once, 1, *model.spec.inference.patch_size)\n"
        "windows = torch.randn(shape)\n"
        "engine(windows)\n"
        "times = max(2, 64 // engine.at_once)\n"
        "start = time.perf_counter()\n"
        "for _ in range(times): engine(windows)\n"
        "print((time.perf_counter() - start) / times / engine.at_once * count)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(model), engine, str(windows)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


@pytest.mark.benchmark
@pytest.mark.timeout(0)
@pytest.mark.skipif("NNUNET_MODEL" not in os.environ, reason="NNUNET_MODEL=folder of a trained nnU-Net is not set")
@pytest.mark.skipif("IMAGE" not in os.environ, reason="IMAGE=an image of the kind it was trained on is not set")
@pytest.mark.skipif(not (PEER / "python").exists(), reason="nnU-Net is not installed: make peer-nnunet")
def test_prediction_is_faster_than_nnunet_s(tmp_path: Path) -> None:
    peer_model, source = Path(os.environ["NNUNET_MODEL"]), Path(os.environ["IMAGE"])
    model = tmp_path / "model"
    subprocess.run([sys.executable, HERE / "nnunet_model.py", peer_model, model], check=True)
    for name, shape in (("large", SHAPE), ("small", SMALL)):
        (tmp_path / name).mkdir()
        volume(tmp_path / name / "case_0000.nii.gz", shape, source)
    threads = str(torch.get_num_threads())

    def peer(name: str) -> Run:
        folders = {key: str(tmp_path) for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        command: list[str | Path] = [PEER / "nnUNetv2_predict_from_modelfolder", "-f", "0", "--disable_tta"]
        command += ["-device", "cpu", "-i", tmp_path / name, "-o", tmp_path / f"{name}-peer", "-m", peer_model]
        return run(command, **folders, OMP_NUM_THREADS=threads)

    def own(name: str, *options: str) -> Run:
        image, mask = tmp_path / name / "case_0000.nii.gz", tmp_path / f"{name}-own" / "case.nii.gz"
        command: list[str | Path] = [sys.executable, "-m", "medunet", "predict", "--no-tta", "-d", "cpu", "-m", model]
        return run([*command, "-i", image, "-o", mask, "--report", tmp_path / f"{name}.json", *options])

    rows = {"nnU-Net": peer("large"), "medunet, first time": own("large")}
    rows |= {"medunet": own("large"), "medunet --engine torch": own("large", "--engine", "torch")}
    own("large")
    report = json.loads((tmp_path / "large.json").read_text())
    (case,) = report["cases"]
    masks = [
        np.asarray(nibabel.load(path).dataobj)
        for path in (tmp_path / "large-peer" / "case.nii.gz", tmp_path / "large-own" / "case.nii.gz")
    ]
    agreement = float((masks[0] == masks[1]).mean())
    small = {"nnU-Net": [peer("small") for _ in range(3)], "medunet": [own("small") for _ in range(5)]}
    windows = int(np.prod([-(-(n - p) // (p // 2)) + 1 for n, p in zip(SHAPE, (40, 56, 40), strict=True)]))
    bare = network_seconds(model, case["engine"], windows)
    print(f"\n{SHAPE}, {windows} windows, {report['precision']}, engine {case['engine']}")
    for name, row in rows.items():
        print(
            f"{name:24} {row.seconds:7.1f} s  {rows['nnU-Net'].seconds / row.seconds:5.2f} times nnU-Net  "
            f"largest process {row.largest / 1e9:.2f} GB, all {row.together / 1e9:.2f} GB"
        )
    print(f"network alone {bare:.1f} s; the rest is {100 * (rows['medunet'].seconds / bare - 1):.0f} % of it")
    print(f"forecast {case['forecast_memory_bytes'] / 1e9:.2f} GB, peak {case['peak_memory_bytes'] / 1e9:.2f} GB")
    print(f"labels agree in {100 * agreement:.3f} % of the voxels")
    for name, times in small.items():
        print(f"{SMALL} from cold start, {name}: median {np.median([each.seconds for each in times]):.2f} s")
    assert agreement > 0.999
    assert rows["medunet"].seconds < rows["nnU-Net"].seconds
