"""Times training steps of `medunet train` with nnU-Net's plan: `python medunet_steps.py DATA WORK STEPS`.

The plan of nnU-Net 2.8.1 for the hippocampus: 7 patches of 40 x 56 x 40, a U-Net of 32 to 256 features with deep
supervision, its augmentation and loss. Prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path

from medunet.config.load import load_config
from medunet.engines.device import resolve_precision
from medunet.networks.contract import parameter_count
from medunet.networks.registry import build_network
from medunet.training.observe import Observer, Step
from medunet.training.run import train

PLAN = (
    "network.channels=[32, 64, 128, 256]",
    "network.decoder_blocks=2",
    "augment={preset: nnunet, mirror_axes: [0, 1, 2], rotation_degrees: 30, scale_range: [0.7, 1.4], "
    "intensity_strength: 1}",
    "train.patch_size=[40, 56, 40]",
    "train.batch_size=7",
    "train.budget=null",
    "train.epochs=1",
    "train.optimizer={name: sgd, lr: 0.01, momentum: 0.99}",
    "train.schedule={name: poly}",
    "validate.cases=1",
    "validate.every=1000",
    "logging.monitor=null",
)


class _Stopped(Exception):
    pass


class _Watch(Observer):
    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.times = [time.perf_counter()]
        self.waited = 0.0

    def stage(self, name: str, done: int, total: int) -> None:  # noqa: ARG002
        self.times = [time.perf_counter()]

    def step(self, step: Step) -> None:
        self.times.append(time.perf_counter())
        self.waited = step.wait_share
        if step.iteration == self.steps:
            raise _Stopped


def main() -> None:
    import torch

    data, work, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    overrides = [*PLAN, f"train.iterations_per_epoch={steps + 1}", f"data.cache={json.dumps(str(work / 'cache'))}"]
    config = load_config("mr_hippocampus.yaml", data=data, overrides=[*overrides, *sys.argv[4:]])
    watch = _Watch(steps)
    run = work / f"run-{time.time_ns()}"
    with contextlib.suppress(_Stopped):
        train(config, run, observer=watch)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(
        json.dumps(
            {
                "patch": list(config.train.patch_size),
                "batch": config.train.batch_size,
                "parameters": parameter_count(build_network(config.network, 1, 3)),
                "precision": str(resolve_precision(config.train.precision, device)).removeprefix("torch."),
                "seconds": [b - a for a, b in zip(watch.times, watch.times[1:], strict=False)],
                "wait_share": watch.waited,
                "device": str(device),
            }
        )
    )


if __name__ == "__main__":
    main()
