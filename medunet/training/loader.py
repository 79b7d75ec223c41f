"""Batches of patches, prepared in a thread or in processes while the network computes."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count

import torch
from monai.data import get_track_meta, set_track_meta
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from medunet.errors import MedunetError, TrainingError
from medunet.training.patches import Batch, PatchDataset
from medunet.training.ranks import ALONE, Ranks

_DEAD = re.compile(r"DataLoader worker \(pid(?:\(s\))? (\d+)")
AHEAD = 4
"""Batches that are prepared before they are needed, per process."""
_MOMENT = 1.0
"""Seconds to wait for a signal."""


@contextmanager
def patch_loader(
    dataset: PatchDataset, *, first_sample: int, workers: int, pin_memory: bool, ranks: Ranks = ALONE
) -> Iterator[Iterable[Batch]]:
    """Endless batches from sample number `first_sample` on.

    Args:
        dataset: the patches.
        first_sample: batch size times the steps already done.
        workers: processes; 0 prepares patches in a thread of this process.
        pin_memory: for transfers to a GPU; needs workers.
        ranks: the processes that share every batch: sample `n` of it is that of process `n % size`.
    """
    tracked = get_track_meta()
    set_track_meta(False)  # plain tensors: MONAI's MetaTensor doubles the cost of small operations
    pool = ThreadPoolExecutor(1, thread_name_prefix="patches")
    try:
        if workers == 0:
            yield _from_thread(dataset, pool, first_sample, ranks)
        else:
            watched = _Watched(dataset, workers)
            with _deaths_told(watched):
                loader = _worker_loader(watched, first_sample, workers, pin_memory=pin_memory, ranks=ranks)
                yield _from_workers(loader)
    finally:
        pool.shutdown(cancel_futures=True)
        set_track_meta(tracked)


class _Watched(Dataset[Batch]):
    """A data set whose processes write down which sample they work on, so that one that dies can be asked for it.

    Args:
        patches: the data set.
        workers: processes.
    """

    def __init__(self, patches: PatchDataset, workers: int) -> None:
        self.patches = patches
        self._marks = torch.zeros(workers, 2, dtype=torch.int64).share_memory_()
        """Process id and sample number of each."""

    def __getitem__(self, index: int) -> Batch:
        worker = get_worker_info()
        if worker is not None:
            self._marks[worker.id] = torch.tensor([os.getpid(), index])
        return self.patches[index]

    def case_of(self, process: int) -> str | None:
        """Id of the case that a process worked on last; None if it is none of ours, or had not begun."""
        for number, sample in self._marks.tolist():
            if number == process:
                return self.patches.case_of(sample).id
        return None


def _worker_loader(
    dataset: _Watched, first_sample: int, workers: int, *, pin_memory: bool, ranks: Ranks
) -> DataLoader[Batch]:
    return DataLoader(
        dataset,
        batch_size=dataset.patches.config.train.batch_size // ranks.size,
        sampler=count(first_sample + ranks.rank, ranks.size),
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=True,
        prefetch_factor=AHEAD,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else it draws from the global one, and a resumed run gets other dropout
    )


@contextmanager
def _deaths_told(watched: _Watched) -> Iterator[None]:
    """Turn torch's error for a process that died, which comes wherever the main process is at that moment, into ours.

    Raises:
        TrainingError: a process died; torch has no class of its own for that.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        found = _DEAD.search(str(error if isinstance(error, RuntimeError) else _following(error)))
        if found is None:
            raise
        case = watched.case_of(int(found[1]))
        raise TrainingError(
            "A process that prepares patches was killed" + (f" while it worked on case {case}." if case else "."),
            "Most likely memory or shared memory (/dev/shm) ran out: go on with --resume --set train.workers=0, or "
            "give a container more with --shm-size. If it is always this case, look at its files.",
        ) from error


def _following(error: Exception) -> Exception:
    """What a lost connection to a process comes from: the signal of its death, which may arrive a moment later."""
    try:
        time.sleep(_MOMENT)
    except RuntimeError as told:
        return told
    return error


def _from_workers(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """Batches made by processes; torch puts the traceback of a worker into the message of its error, we do not."""
    try:
        yield from loader
    except MedunetError as error:
        last = error.message.strip().splitlines()[-1]
        raise type(error)(last.partition(": ")[2] or last) from error


def _from_thread(dataset: PatchDataset, pool: ThreadPoolExecutor, first_sample: int, ranks: Ranks) -> Iterator[Batch]:
    """Batches made by `pool`, a few ahead; what goes wrong there is raised here (MONAI's ThreadDataLoader loses it)."""
    size = dataset.config.train.batch_size

    def make(first: int) -> Batch:
        batch: Batch = default_collate([dataset[index] for index in ranks.share(range(first, first + size))])
        return batch

    ahead = deque(pool.submit(make, first_sample + number * size) for number in range(AHEAD))
    following = first_sample + AHEAD * size
    while True:
        batch = ahead.popleft().result()
        ahead.append(pool.submit(make, following))
        following += size
        yield batch


def _start_worker(number: int) -> None:  # noqa: ARG001 - torch's signature
    """Ctrl-C reaches the workers too; only the main process may decide what to do then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_track_meta(False)
