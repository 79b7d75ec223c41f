"""How many processes prepare patches."""

from __future__ import annotations

import math
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from medunet.config.derived import network_channels
from medunet.config.schema import Config
from medunet.engines.machine import usable_cores
from medunet.training.loader import AHEAD

_SHARED = Path("/dev/shm")  # noqa: S108 - where processes hand each other tensors; nothing is written there by name
_FLOAT = 4
_MOST = 8


def shared_room() -> int:
    """Bytes free for tensors that processes share; a container has 64 MB unless it is told otherwise."""
    return shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else 0


def shares_memory() -> bool:
    """Whether processes that prepare patches see the cases in memory, as forks do; else each gets a copy."""
    return multiprocessing.get_start_method() == "fork"


def automatic_workers(
    config: Config,
    device: torch.device,
    processes: int = 1,
    cores: Callable[[], float] = usable_cores,
    room: Callable[[], int] = shared_room,
) -> int:
    """Processes that prepare patches: as `train.workers` wishes, or up to 8 beside a GPU, and at most one on a CPU.

    On a CPU they take cores from the network, so there a thread of its process is enough. But a step of a 2D network is
    many short calls, and the interpreter lets only one thread call at a time: a thread that prepares pictures held them
    up so much that steps took 1.3 to 1.5 times as long (docs/benchmarks.md). So 2D has a process, where it comes at no
    cost (as a fork it shares the cases in memory) and its patches find room in shared memory.

    Args:
        config: the whole configuration.
        device: of the network.
        processes: of this training on this machine, that share its cores.
        cores: how many there are.
        room: bytes that can be shared between processes.
    """
    wish = config.train.workers
    if isinstance(wish, int):
        return wish
    share = int(cores()) // processes
    if device.type != "cpu":
        return max(1, min(_MOST, share - 1))
    if config.network.dims == 3 or share < 2 or not shares_memory():
        return 0
    channels = network_channels(config.data.modality, config.preprocess) + 1  # and the labels
    batch = config.train.batch_size * channels * math.prod(config.train.patch_size) * _FLOAT
    return 1 if 2 * (AHEAD + 1) * batch * processes <= room() else 0
