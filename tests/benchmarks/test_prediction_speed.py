"""`medunet predict` and `nnUNetv2_predict` with the same trained network on the same volume, end to end.

Needs a trained nnU-Net folder (NNUNET_MODEL=.../nnUNetTrainer__nnUNetPlans__3d_fullres, a plain U-Net of one channel),
an image to fill the volume with (IMAGE=file) and nnU-Net in an environment of its own (`make peer-nnunet`).
With HIPPOCAMPUS=folder of Task04_Hippocampus the network, of that task then, is tried in int8, too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from watched_run import Run, run

from medunet.config.load import load_config
from medunet.io.folds import assign_folds, write_splits
from medunet.io.manifest import read_manifest
from medunet.training.folder import record_config

HERE = Path(__file__).parent
PEER = HERE.parents[1] / ".peers" / "nnunet" / "bin"
SHAPE = tuple(int(number) for number in os.environ.get("SHAPE", "256,256,160").split(","))
SMALL = (36, 50, 35)
LABELS = 60


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


pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.timeout(0),
    pytest.mark.skipif("NNUNET_MODEL" not in os.environ, reason="NNUNET_MODEL=folder of a trained nnU-Net is not set"),
    pytest.mark.skipif("IMAGE" not in os.environ, reason="IMAGE=an image of the kind it was trained on is not set"),
    pytest.mark.skipif(not (PEER / "python").exists(), reason="nnU-Net is not installed: make peer-nnunet"),
]


@dataclass
class Sides:
    """Both commands on the images of a folder; masks end in `NAME-peer` and `NAME-TO`."""

    folder: Path
    peer_model: Path
    model: Path

    def image(self, name: str, shape: tuple[int, ...]) -> None:
        """A volume of `shape` to segment."""
        (self.folder / name).mkdir()
        volume(self.folder / name / "case_0000.nii.gz", shape, Path(os.environ["IMAGE"]))

    def peer(self, name: str) -> Run:
        """nnU-Net."""
        folders = {key: str(self.folder) for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        command: list[str | Path] = [PEER / "nnUNetv2_predict_from_modelfolder", "-f", "0", "--disable_tta"]
        command += ["-device", "cpu", "-m", self.peer_model]
        command += ["-i", self.folder / name, "-o", self.folder / f"{name}-peer"]
        return run(command, **folders, OMP_NUM_THREADS=str(torch.get_num_threads()))

    def own(self, name: str, *options: str, to: str = "own") -> Run:
        """medunet."""
        image, mask = self.folder / name / "case_0000.nii.gz", self.folder / f"{name}-{to}" / "case.nii.gz"
        command: list[str | Path] = [sys.executable, "-m", "medunet", "predict", "--no-tta", "-d", "cpu"]
        command += ["-m", self.model, "-i", image, "-o", mask, "--report", self.folder / f"{name}-{to}.json"]
        return run([*command, *options])

    def quantize(self, data: str) -> str:
        """Make the int8 form of the model on the cases of its training; what `medunet quantize` says."""
        run = self.folder / "run"
        config = load_config("mr_hippocampus.yaml", data=data)
        run.mkdir()
        record_config(config, run)
        write_splits(run, assign_folds(read_manifest(Path(data), "decathlon").cases, config.data.folds))
        shutil.copytree(self.model, run / "model")
        self.model = run / "model"
        command = [sys.executable, "-m", "medunet", "quantize", str(run)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def agreement(self, name: str, to: str = "own") -> float:
        """Share of the voxels in which the masks agree."""
        paths = [self.folder / f"{name}-{side}" / "case.nii.gz" for side in ("peer", to)]
        one, other = (np.asarray(nibabel.load(path).dataobj) for path in paths)
        return float((one == other).mean())


def sides(folder: Path, peer_model: Path) -> Sides:
    """The model in both forms."""
    subprocess.run([sys.executable, HERE / "nnunet_model.py", peer_model, folder / "model"], check=True)
    return Sides(folder, peer_model, folder / "model")


def line(name: str, row: Run, peer: Run) -> str:
    """A row of the table."""
    return (
        f"{name:24} {row.seconds:7.1f} s  {peer.seconds / row.seconds:5.2f} times nnU-Net  "
        f"largest process {row.largest / 1e9:.2f} GB, all {row.together / 1e9:.2f} GB"
    )


def test_prediction_is_faster_than_nnunet_s(tmp_path: Path) -> None:
    both = sides(tmp_path, Path(os.environ["NNUNET_MODEL"]))
    both.image("large", SHAPE)
    both.image("small", SMALL)
    peer = both.peer("large")
    rows = {"nnU-Net": peer, "medunet, first time": both.own("large"), "medunet": both.own("large")}
    rows["medunet --engine torch"] = both.own("large", "--engine", "torch", to="torch")
    if "HIPPOCAMPUS" in os.environ:
        print(both.quantize(os.environ["HIPPOCAMPUS"]))
        rows["medunet, int8"] = both.own("large", "--engine", "openvino-int8", to="int8")
    report = json.loads((tmp_path / "large-own.json").read_text())
    (case,) = report["cases"]
    agreement = both.agreement("large")
    small = {"nnU-Net": [both.peer("small") for _ in range(3)], "medunet": [both.own("small") for _ in range(5)]}
    windows = int(np.prod([-(-(n - p) // (p // 2)) + 1 for n, p in zip(SHAPE, (40, 56, 40), strict=True)]))
    bare = network_seconds(both.model, case["engine"], windows)
    print(f"\n{SHAPE}, {windows} windows, {report['precision']}, engine {case['engine']}")
    for name, row in rows.items():
        print(line(name, row, peer))
    print(f"network alone {bare:.1f} s; the rest is {100 * (rows['medunet'].seconds / bare - 1):.0f} % of it")
    print(f"forecast {case['forecast_memory_bytes'] / 1e9:.2f} GB, peak {case['peak_memory_bytes'] / 1e9:.2f} GB")
    print(f"labels agree in {100 * agreement:.3f} % of the voxels")
    if "medunet, int8" in rows:
        print(f"those of int8 in {100 * both.agreement('large', 'int8'):.3f} %")
    for name, times in small.items():
        print(f"{SMALL} from cold start, {name}: median {np.median([each.seconds for each in times]):.2f} s")
    assert agreement > 0.999
    assert rows["medunet"].seconds < peer.seconds


def test_memory_with_many_labels_is_less_than_nnunet_s(tmp_path: Path) -> None:
    with_more_labels(Path(os.environ["NNUNET_MODEL"]), tmp_path / "peer", LABELS)
    both = sides(tmp_path, tmp_path / "peer")
    both.image("large", SHAPE)
    peer, own = both.peer("large"), both.own("large")
    print(f"\n{SHAPE}, {LABELS} labels")
    for name, row in {"nnU-Net": peer, "medunet": own}.items():
        print(line(name, row, peer))
    print(f"memory {own.together / peer.together:.2f} of nnU-Net's")
    print(f"labels agree in {100 * both.agreement('large'):.3f} % of the voxels")
    assert own.together < peer.together / 4


def with_more_labels(source: Path, target: Path, labels: int) -> None:
    """A copy of a trained nnU-Net folder whose last layers give more labels, with random weights."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.pth", "validation"))
    dataset = json.loads((target / "dataset.json").read_text())
    dataset["labels"] = {"background": 0, **{f"structure {number}": number for number in range(1, labels)}}
    (target / "dataset.json").write_text(json.dumps(dataset))
    script = (
        "import sys, torch\n"
        "held = torch.load(sys.argv[1], map_location='cpu', weights_only=False)\n"
        "torch.manual_seed(0)\n"
        "weights = held['network_weights']\n"
        "for name in weights:\n"
        "    if '.seg_layers.' in name:\n"
        "        weights[name] = torch.randn(int(sys.argv[3]), *weights[name].shape[1:]) / 6\n"
        "torch.save(held, sys.argv[2])\n"
    )
    name = Path("fold_0") / "checkpoint_final.pth"
    subprocess.run([PEER / "python", "-c", script, source / name, target / name, str(labels)], check=True)
