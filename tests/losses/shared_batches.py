"""Computes losses in two processes that share each batch: `python shared_batches.py JOBS RESULTS`.

A script and not a fixture, because its processes are forked before torch has computed anything. JOBS is a list of
dicts, see `test_across.py`; of RESULTS/0 and RESULTS/1 each is a list of a value and a gradient per job.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import distributed

from medunet.config.losses import LossTerm
from medunet.labels import LabelMap
from medunet.losses.across import across
from medunet.losses.registry import build_loss
from medunet.losses.truth import Truth

SIZE = 2


def result(job: dict[str, Any], rank: int) -> tuple[float, list[torch.Tensor]]:
    """Value, and gradient of each output, of this process's part of the batch."""
    outputs = [logits[rank::SIZE].clone().requires_grad_() for logits in job["outputs"]]
    truth = Truth(*(None if array is None else array[rank::SIZE] for array in job["truth"]))
    term: Any = TypeAdapter(LossTerm).validate_python(job["term"])
    loss = build_loss([term], LabelMap.from_mapping(job["labels"]), len(outputs))
    with across(SIZE):
        value = loss(outputs[0] if len(outputs) == 1 else tuple(outputs), truth)
    value.backward()
    return float(value.detach()), [output.grad for output in outputs if output.grad is not None]


def work(jobs: list[dict[str, Any]], folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    store = distributed.FileStore(str(folder / "store"), SIZE)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=SIZE)
    torch.save([result(job, rank) for job in jobs], folder / str(rank))
    distributed.destroy_process_group()


def main() -> int:
    jobs, folder = torch.load(sys.argv[1], weights_only=False), Path(sys.argv[2])
    children = []
    for rank in range(SIZE):
        child = os.fork()
        if child == 0:
            try:
                work(jobs, folder, rank)
            except BaseException as error:
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
                os._exit(1)
            os._exit(0)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


if __name__ == "__main__":
    sys.exit(main())
