"""How long the network waits for patches, and whether memory stays flat, over many steps of `medunet train`.

On the hippocampus (HIPPOCAMPUS=its folder) with its own configuration, and on twenty synthetic CT volumes of
512 x 512 x 200 voxels with a small network, so that patches are asked for faster than a real one would.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

SCRIPT = Path(__file__).with_name("watched_training.py")
CASES, SHAPE = 20, (512, 512, 200)
STEPS = int(os.environ.get("STEPS", "1000"))


def watched(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Shares of waiting and resident bytes over the steps."""
    path = folder / "watched.json"
    path.write_text(json.dumps(config))
    done = subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def report(name: str, found: dict[str, Any]) -> None:
    steps, resident = len(found["resident"]), found["resident"]
    early, late = (statistics.median(part) for part in (resident[steps // 5 : 2 * steps // 5], resident[-steps // 5 :]))
    print(
        f"\n{name}: {steps} steps, {found['seconds']:.2f} s each, waiting {100 * found['wait']:.2f} %, resident memory "
        f"{early / 2**20:.0f} MiB in the second fifth, {late / 2**20:.0f} MiB in the last"
    )
    assert found["wait"] < 0.05
    assert late < 1.03 * early


@pytest.mark.benchmark
@pytest.mark.timeout(0)
@pytest.mark.skipif("HIPPOCAMPUS" not in os.environ, reason="HIPPOCAMPUS=folder of Task04_Hippocampus is not set")
def test_the_hippocampus_keeps_the_network_busy(tmp_path: Path) -> None:
    config = {"config": "mr_hippocampus.yaml", "data": os.environ["HIPPOCAMPUS"], "steps": STEPS, "overrides": []}
    report("hippocampus", watched(config, tmp_path))


@pytest.mark.benchmark
@pytest.mark.timeout(0)
@pytest.mark.parametrize("memory", ["disk", "ram"])
def test_large_volumes_keep_the_network_busy(tmp_path_factory: pytest.TempPathFactory, memory: str) -> None:
    folder = Path(os.environ.get("WORK", "") or tmp_path_factory.getbasetemp()) / "large"
    if not (folder / "dataset.json").is_file():
        large_volumes(folder)
    config = {
        "config": str(folder / "config.yaml"),
        "data": str(folder),
        "steps": STEPS,
        "overrides": [f"data.memory={memory}", f"data.cache={folder / 'cache'}"],
    }
    report(f"{CASES} volumes of {SHAPE} from {memory}", watched(config, folder))


def large_volumes(folder: Path) -> None:
    """Noise around an ellipsoid, in the layout of the Decathlon."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, size)) for size in reversed(SHAPE))]
    inside = (sum(axis * axis for axis in axes) < 0.2).astype(np.uint8)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 60, inside.shape).astype(np.int16)
    training = []
    for number in range(CASES):
        image = np.roll(noise, 17 * number, axis=1) + np.int16(40 + number) * inside
        for kind, array in (("imagesTr", image), ("labelsTr", inside)):
            made = SimpleITK.GetImageFromArray(array)
            made.SetSpacing((0.8, 0.8, 1.5))
            SimpleITK.WriteImage(made, str(folder / kind / f"ct_{number:02d}.nii"))
        training.append({"image": f"./imagesTr/ct_{number:02d}.nii", "label": f"./labelsTr/ct_{number:02d}.nii"})
    described = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"}, "training": training}
    (folder / "config.yaml").write_text(
        "extends: base/3d.yaml\nname: large\ndata: {modality: [CT]}\nlabels: {background: 0, organ: 1}\n"
        "preprocess: {intensity: {name: ct_window, low: -160, high: 240}}\n"
        "network: {channels: [8, 16, 32, 64]}\ntrain: {patch_size: [64, 64, 64]}\n"
    )
    (folder / "dataset.json").write_text(json.dumps(described))
