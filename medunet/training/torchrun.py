"""What torchrun says to the processes that it starts, and how they come together for a training.

Knows nothing of what they train.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import FrameType

import psutil
import torch

from medunet.engines.device import resolve_device
from medunet.errors import DeviceError, TrainingError, UsageError
from medunet.training.ranks import ALONE, Ranks

logger = logging.getLogger("medunet")

_PATIENCE = timedelta(days=7)
_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_MEETING = ("MASTER_ADDR", "MASTER_PORT")
"""What torchrun gives every process, beside its numbers."""
_JOINED: ContextVar[Ranks] = ContextVar("_JOINED", default=ALONE)
_MEETINGS = count()


def _numbers() -> list[int] | None:
    """RANK, WORLD_SIZE and LOCAL_RANK of torchrun; None without it."""
    found = [os.environ.get(name, "") for name in _NUMBERS]
    complete = all(text.isdigit() for text in found) and all(name in os.environ for name in _MEETING)
    return [int(text) for text in found] if complete else None


def _starts() -> int:
    """How often torchrun has started all processes again."""
    number = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    return int(number) if number.isdigit() else 0


def began_here(recorded: Path) -> bool:
    """Whether torchrun, which began a run, started all processes again after one of them had ended.

    Args:
        recorded: a file that every start of a run writes; one that is older than torchrun is that of another run.
    """
    if _starts() == 0 or not recorded.is_file():
        return False
    return bool(recorded.stat().st_mtime >= psutil.Process(os.getppid()).create_time())


def is_first() -> bool:
    """Whether this is the process that speaks, before and after they are `joined`, too."""
    numbers = _numbers()
    return numbers is None or numbers[0] == 0


def own_device(wish: str) -> torch.device:
    """The device of this process: `resolve_device`, and each process of a host takes another GPU.

    Raises:
        UsageError: another word, or one GPU for several processes.
        DeviceError: the device is not there.
    """
    numbers, device = _numbers(), resolve_device(wish)
    if numbers is None or device.type == "cpu":
        return device
    if device.type != "cuda" or ":" in wish:
        raise UsageError(
            f'The device "{wish}" cannot be that of several processes.', "Use -d cuda, of which each takes one, or cpu."
        )
    count = torch.cuda.device_count()
    if numbers[2] >= count:
        raise DeviceError(
            f"There is no GPU for process {numbers[2]} of this host: torch sees {count}.",
            f"Start torchrun with --nproc_per_node {count}, or use -d cpu.",
        )
    return torch.device("cuda", numbers[2])


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The processes that torchrun started with this one, as long as the context lasts; ALONE without torchrun.

    In the others than the first, the log is silent but for errors. A context inside of another one is the same.

    Args:
        device: where this process computes, from `own_device`.

    Raises:
        TrainingError: another process has ended.
    """
    if _numbers() is None or _JOINED.get().many:
        yield _JOINED.get()
        return
    level, well = logger.level, False
    waits = _let_sigterm_wait()
    try:
        ranks = _join(device)
        token = _JOINED.set(ranks)
        if not ranks.first:
            logger.setLevel(logging.ERROR)
        try:
            yield ranks
            well = True
        finally:
            _JOINED.reset(token)
    except RuntimeError as error:
        known = lost(error)
        if known is None:
            raise
        raise known from error
    finally:
        logger.setLevel(level)
        if well and waits:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if well or device.type == "cpu":  # those of GPUs might wait for a lost process for ever
            _part()


def _let_sigterm_wait() -> bool:
    """Let SIGTERM, with which torchrun ends the others when one process is gone, wait for one that is about to say why.

    That is one with an exception on its way; in any other the signal does what it always did. False: it cannot be let.
    """

    def wait_for_words(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python's signature
        if sys.exc_info()[0] is None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    main = threading.current_thread() is threading.main_thread()
    can = main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if can:
        signal.signal(signal.SIGTERM, wait_for_words)
    return can


def _join(device: torch.device) -> Ranks:
    """Start the groups.

    Not `idist.initialize`: inside of a SLURM job it takes SLURM's numbers for torchrun's, and it gives every process
    a GPU where there are any. ignite knows the group all the same.
    """
    import ignite.distributed as idist
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    rank, size, local_rank = _numbers() or [0, 1, 0]
    store, _, _ = next(rendezvous("env://", rank, size))
    # torchrun's store lives on when processes are started again, and after a first training: each has its own corner.
    corner = f"medunet_{_starts()}_{next(_MEETINGS)}"
    store = distributed.PrefixStore(corner, store)  # type: ignore[attr-defined]
    gpu = device if device.type == "cuda" else None
    if gpu is not None:
        torch.cuda.set_device(gpu)
    backend = "gloo" if gpu is None else "nccl"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, device_id=gpu)
    group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    job = os.environ.pop("SLURM_JOB_ID", None)
    idist.sync()
    if job is not None:
        os.environ["SLURM_JOB_ID"] = job
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Ranks(rank, size, local_rank, local_size, group)


def _part() -> None:
    """End the groups."""
    import ignite.distributed as idist
    from torch import distributed

    if distributed.is_initialized():
        idist.finalize()


def lost(error: RuntimeError) -> TrainingError | None:
    """What torch's or gloo's error for a connection that ended means to a user; None if it is none of those.

    gloo has no class of its own.
    """
    if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
        return None
    return TrainingError(
        "Another process of this training has ended or cannot be reached, so this one ends, too.",
        "Look for its own message; then go on with --resume.",
    )
