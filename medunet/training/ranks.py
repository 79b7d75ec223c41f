"""The processes of one training (torchrun starts them), which of them this one is, and what they tell each other.

The gradients go through the group that the devices call for (NCCL between GPUs, gloo between CPUs). All that has to
be the same everywhere goes through a second group, gloo with plenty of patience: there, processes wait for the first
one to read a data set or to write a model. Errors are told, too: what goes wrong in one process is raised in all.
A process that is gone closes its connections, which ends the wait of the others with an error; torchrun ends those
that wait for a GPU.

With one process, nothing here does anything, and torch's process groups are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from medunet.errors import MedunetError, UsageError

T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process among the others.

    Everything that talks has to be called in all processes, in the same order.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank, local_size: the same on this host.
        group: of torch.distributed, for what is told; None: there is one process and no group.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    group: Any = None

    @property
    def many(self) -> bool:
        """Whether torchrun started this process, be it the only one."""
        return self.group is not None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every so-manieth item: all of them are somebody's, and nobody has two more than another."""
        return items[self.rank :: self.size]

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Sum of each number over the processes."""
        if not self.many:
            return list(numbers)
        values = torch.tensor(list(numbers), dtype=torch.float64)
        torch.distributed.all_reduce(values, group=self.group)
        found: list[float] = values.tolist()
        return found

    def each(self, do: Callable[[], T]) -> list[T]:
        """What `do` gives in each process, in their order.

        Raises:
            MedunetError: `do` raised it in one of them.
        """
        if not self.many:
            return [do()]
        outcomes: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(outcomes, _outcome(do), group=self.group)
        return self._opened(outcomes)

    def agree(self, do: Callable[[], T]) -> T:
        """What `do` gives in this process, if it went well in all of them.

        Raises:
            MedunetError: `do` raised it in one of them.
        """
        kept: list[T] = []
        self.each(lambda: kept.append(do()))
        return kept[0]

    def tell(self, do: Callable[[], T]) -> T:
        """What `do` gives in the first process; the others do not call it, and get a copy.

        Raises:
            MedunetError: `do` raised it.
        """
        if not self.many:
            return do()
        box: list[Any] = [_outcome(do) if self.first else None]
        torch.distributed.broadcast_object_list(box, src=0, group=self.group)
        found: T = self._opened(box)[0]
        return found

    def lead(self, do: Callable[[], T]) -> T | None:
        """What `do` gives in the first process; the others do not call it, and get None when it is done.

        Raises:
            MedunetError: `do` raised it.
        """
        kept: list[T] = []
        self.tell(lambda: kept.append(do()))
        return kept[0] if kept else None

    @contextmanager
    def inside(self, context: Callable[[], AbstractContextManager[T]], otherwise: T) -> Iterator[T]:
        """A context that only the first process enters; the others have `otherwise`."""
        with ExitStack() as stack:
            found = self.lead(lambda: stack.enter_context(context()))
            yield otherwise if found is None else found

    def collect(self, value: T) -> list[T]:
        """The values of all processes in their order, in the first one; an empty list in the others."""
        if not self.many:
            return [value]
        found: list[Any] | None = [None] * self.size if self.first else None
        torch.distributed.gather_object(value, found, dst=0, group=self.group)
        return found or []

    def prepared(self, items: Sequence[Item], do: Callable[[Sequence[Item]], T]) -> T:
        """`do(items)`, where `do` leaves files behind and finds those that are there.

        Each process takes a share of the items, then of those that its host lacks where hosts have disks of their own.
        """
        if self.many:
            self.agree(lambda: do(self.share(items)))
            self.agree(lambda: do(items[self.local_rank :: self.local_size]))
        return self.agree(lambda: do(items))

    def alike(self, error: MedunetError) -> MedunetError:
        """An error that is raised in all processes; in the others than the first it counts as told."""
        error.told = not self.first
        return error

    def _opened(self, outcomes: Sequence[Any]) -> list[Any]:
        """What came of each.

        Raises:
            MedunetError: the first one that there is among them.
        """
        for error in (error for _, error in outcomes if error is not None):
            raise self.alike(error)
        return [value for value, _ in outcomes]


ALONE = Ranks()
"""The only process."""


def _outcome(do: Callable[[], T]) -> tuple[T | None, MedunetError | None]:
    try:
        return do(), None
    except MedunetError as error:
        return None, error


def check_batch(batch_size: int, accumulate: int, ranks: Ranks) -> None:
    """Make sure that each process gets as much of a batch as any other, and a patch for each of its parts.

    Raises:
        UsageError: it does not.
    """
    size = ranks.size
    below, rest = divmod(batch_size, size)
    if rest:
        near = " or ".join(str(size * number) for number in (below, below + 1) if number)
        fewer = max(number for number in range(1, min(size, batch_size) + 1) if batch_size % number == 0)
        raise ranks.alike(
            UsageError(
                f"train.batch_size is {batch_size}, which {size} processes cannot share equally.",
                f"Set it to {near}, or start {fewer} process{'es' if fewer > 1 else ''}.",
            )
        )
    if size > 1 and accumulate > below:
        raise ranks.alike(
            UsageError(
                f"train.accumulate is {accumulate}, but each of {size} processes has {below} of the "
                f"{batch_size} patches of a batch.",
                f"Set train.accumulate to {below} or less; each process holds only its own part anyway.",
            )
        )
