"""Workers on the nodes of a Ray cluster, and the cases they do: handed out, and handed to another when one dies.

A worker is an actor that holds one loaded predictor. Knows nothing of reports and files; is given the connected `ray`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from medunet.errors import DeviceError, MedunetError
from medunet.inference.case import CaseWork, Targets
from medunet.inference.inputs import Input
from medunet.inference.memory import PeakMeter
from medunet.inference.predictor import Predictor
from medunet.inference.report import CaseReport
from medunet.io.selection import Selection
from medunet.model import library_versions

logger = logging.getLogger("medunet")

ATTEMPTS = 3
"""Deaths of workers after which a case is given up, and a place on a node is."""

_TICK = 1.0  # seconds between looks at what is done
_ROUND = 5.0  # seconds between looks for nodes
_PATIENCE = 30.0  # seconds without a worker after which a user is told why


class Worker:
    """What runs on a node: a predictor, and the same stages as on one machine.

    Two cases at a time overlap: while one is in the network, the other is read or written.
    """

    def __init__(self) -> None:
        self._predictor: Predictor | None = None
        self._meter = PeakMeter()
        self._turn = threading.Lock()

    def load(self, models: Sequence[Mapping[str, bytes]], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Load the models, each the content of its files by name; says what it computes with.

        Raises:
            MedunetError: as `Predictor`.
        """
        with TemporaryDirectory(prefix="medunet-") as folder:
            paths = [Path(folder) / str(number) for number in range(len(models))]
            for path, files in zip(paths, models, strict=True):
                path.mkdir()
                for name, content in files.items():
                    (path / name).write_bytes(content)
            self._predictor = predictor = Predictor(paths, **settings)
        return {
            "device": str(predictor.device),
            "precision": str(predictor.precision).removeprefix("torch."),
            "tta": predictor.tta,
            "medunet": library_versions()["medunet"],
        }

    def do(self, entry: Input, targets: Targets, selection: Selection) -> CaseReport:
        """Read, segment and write a case."""
        if self._predictor is None:
            raise DeviceError("The worker has no model.")
        work = CaseWork(self._predictor, entry, targets, selection=selection, meter=self._meter)
        work.read()
        with self._turn:  # waiting is not counted as work on the case
            work.compute()
        work.write()
        return work.report


@dataclass(eq=False)
class Job:
    """A case to do.

    Attributes:
        entry, targets, selection: see `CaseWork`.
        tried: nodes of the workers that died over it.
    """

    entry: Input
    targets: Targets
    selection: Selection
    tried: list[str] = field(default_factory=list)


@dataclass(eq=False)
class _Member:
    handle: Any
    node: str
    ready: bool = False
    jobs: list[Job] = field(default_factory=list)

    def takes(self, job: Job, slots: int) -> bool:
        """Whether there is room; what may have killed a worker works alone, so that no other case is drawn in."""
        suspect = bool(job.tried) or any(each.tried for each in self.jobs)
        return self.ready and len(self.jobs) < (1 if suspect else slots)


class Crew:
    """One worker per node without, and per GPU of a node with GPUs; nodes that join later are taken on.

    Args:
        ray: the module, connected.
        models: content of the model files by name, per model.
        settings: keyword arguments of `Predictor`.
        ahead: let a worker have two cases at a time.
    """

    def __init__(
        self, ray: Any, models: Sequence[Mapping[str, bytes]], settings: Mapping[str, Any], *, ahead: bool
    ) -> None:
        self._ray = ray
        self._models = ray.put(list(models))
        self._settings = dict(settings)
        self._slots = 2 if ahead else 1
        self._members: list[_Member] = []
        self._refs: dict[Any, tuple[_Member, Job | None]] = {}
        self._hired: Counter[str] = Counter()
        self._queue: deque[Job] = deque()
        self._problem: MedunetError | None = None
        self._next_round = 0.0
        self.facts: dict[str, Any] = {}

    def muster(self) -> None:
        """Wait until a worker is ready; `facts` says what it computes with.

        Raises:
            MedunetError: none could load the model.
        """
        start, told = time.monotonic(), False
        while not self.facts:
            self._recruit()
            if not self._members and not self._refs:
                raise self._problem or DeviceError(
                    "No node of the Ray cluster has what is asked for.", "Check ray status, or use -d cpu."
                )
            self._wait(lambda _: None)
            if not told and not self.facts and time.monotonic() - start > _PATIENCE:
                told = True
                logger.warning("Still waiting for free processors or GPUs of the Ray cluster.")

    def run(self, jobs: Iterator[Job], done: Callable[[CaseReport], None]) -> None:
        """Do all jobs; `done` gets their reports as they come in, those of cases that were given up included."""
        while True:
            self._recruit()
            self._hand_out(jobs)
            if not self._queue and not any(job for _, job in self._refs.values()):
                return
            if not self._members and not self._refs:
                self._give_up([*self._queue, *jobs], done)
                return
            self._wait(done)

    def _hand_out(self, jobs: Iterator[Job]) -> None:
        while job := self._queue.popleft() if self._queue else next(jobs, None):
            free = [member for member in self._members if member.takes(job, self._slots)]
            elsewhere = [member for member in free if member.node not in job.tried]
            if not elsewhere and any(member.node not in job.tried for member in self._members):
                free = []  # a node that it has not been on will be free
            if not free:
                self._queue.appendleft(job)
                return
            member = min(elsewhere or free, key=lambda each: len(each.jobs))
            member.jobs.append(job)
            logger.debug("%s goes to node %s.", job.entry.id, member.node[:8])
            self._refs[member.handle.do.remote(job.entry, job.targets, job.selection)] = member, job

    def _wait(self, done: Callable[[CaseReport], None]) -> None:
        ready, _ = self._ray.wait(list(self._refs), num_returns=1, timeout=_TICK)
        for ref in ready:
            member, job = self._refs.pop(ref)
            if job is None:
                self._welcome(member, ref)
            else:
                member.jobs.remove(job)
                self._settle(member, job, ref, done)

    def _welcome(self, member: _Member, ref: Any) -> None:
        """Take on a worker whose model is loaded, or let it go."""
        try:
            facts = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", error)
            self._refuse(member, cause if isinstance(cause, MedunetError) else DeviceError(_first_line(cause)))
        except self._ray.exceptions.RayError as error:
            self._bury(member, error)
        else:
            mine = library_versions()["medunet"]
            if facts["medunet"] != mine:
                text = f"Node {member.node[:8]} has medunet {facts['medunet']}, this machine {mine}."
                self._refuse(member, DeviceError(text, "Install one version on all nodes."))
                return
            member.ready = True
            self.facts = self.facts or facts

    def _settle(self, member: _Member, job: Job, ref: Any, done: Callable[[CaseReport], None]) -> None:
        try:
            done(self._ray.get(ref))
        except self._ray.exceptions.RayTaskError as error:
            done(_failed(job, f"Something unexpected went wrong: {_first_line(error)}", "Please report this."))
        except self._ray.exceptions.RayError as error:
            job.tried.append(member.node)
            self._bury(member, error)
            if len(job.tried) < ATTEMPTS:
                logger.warning("%s: the worker on it died; it is done again on another.", job.entry.id)
                self._queue.append(job)
            else:
                text = f"The worker on it died {len(job.tried)} times, the last time on node {member.node[:8]}."
                done(_failed(job, text, "It may take more memory than a node has; see ray logs."))

    def _refuse(self, member: _Member, error: MedunetError) -> None:
        """Never ask this node again."""
        logger.warning("Node %s does not take part: %s", member.node[:8], error)
        self._problem = self._problem or error
        self._hired[member.node] = 1_000_000
        self._dismiss(member)

    def _bury(self, member: _Member, error: Exception) -> None:
        self._problem = DeviceError(
            f"The last worker on the Ray cluster died: {_first_line(error)}",
            "Check that medunet is installed on every node, and ray status.",
        )
        self._dismiss(member)
        self._next_round = 0.0

    def _dismiss(self, member: _Member) -> None:
        if member in self._members:
            self._members.remove(member)
            self._ray.kill(member.handle)

    def _recruit(self) -> None:
        """A worker for every place on a living node that has none and did not lose too many."""
        if time.monotonic() < self._next_round:
            return
        self._next_round = time.monotonic() + _ROUND
        for node in self._ray.nodes():
            name = node["NodeID"]
            places = _places(node["Resources"], str(self._settings.get("device", "auto"))) if node["Alive"] else []
            missing = len(places) - sum(member.node == name for member in self._members)
            for resources in places[: max(0, missing)]:
                if self._hired[name] < ATTEMPTS * len(places):
                    self._hire(name, resources)

    def _hire(self, node: str, resources: Mapping[str, float]) -> None:
        self._hired[node] += 1
        place = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        actor = self._ray.remote(Worker).options(
            **resources,
            max_concurrency=self._slots,
            scheduling_strategy=place(node_id=node, soft=False),
        )
        member = _Member(actor.remote(), node)
        self._members.append(member)
        self._refs[member.handle.load.remote(self._models, self._settings)] = member, None

    def _give_up(self, jobs: Sequence[Job], done: Callable[[CaseReport], None]) -> None:
        text = self._problem.message if self._problem else "No node of the Ray cluster is left."
        for job in jobs:
            done(_failed(job, text, "Start nodes, and go on with --skip-existing."))


def _places(resources: Mapping[str, float], device: str) -> list[dict[str, float]]:
    """What each worker of a node takes of it: a GPU, or all processors of a node without."""
    processors = int(resources.get("CPU", 0))
    gpus = int(resources.get("GPU", 0)) if device in ("auto", "cuda") else 0
    if processors < max(1, gpus) or (device == "cuda" and not gpus):
        return []
    if not gpus:
        return [{"num_cpus": processors}]
    return [{"num_cpus": processors // gpus, "num_gpus": 1}] * gpus


def _failed(job: Job, error: str, hint: str) -> CaseReport:
    return CaseReport(job.entry.id, str(job.entry.paths[0]), error=error, hint=hint)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
