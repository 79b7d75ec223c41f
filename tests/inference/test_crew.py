"""How cases are handed out to workers, and what happens when workers die; with a Ray of plain objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medunet.errors import DeviceError, MedunetError
from medunet.inference import crew as module
from medunet.inference.case import Targets
from medunet.inference.crew import ATTEMPTS, Crew, Job
from medunet.inference.inputs import Input
from medunet.inference.report import CaseReport
from medunet.io.selection import ANY
from medunet.model import library_versions

FACTS = {"device": "cpu", "precision": "float32", "tta": False, "medunet": library_versions()["medunet"]}


class RayError(Exception):
    """As Ray has it: a process or node is gone."""


class RayTaskError(RayError):
    """As Ray has it: the function raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(eq=False)
class Ref:
    """A promise of what a worker gives."""

    work: Callable[[], Any]
    node: str
    kind: str


class Ray:
    """What `Crew` needs of Ray, one thing after the other in one process.

    Args:
        nodes: name to resources.
        load: (node) to facts; raises what a worker would.
        do: (node, case) to a report; raises `RayError` where the worker dies.
    """

    def __init__(
        self,
        nodes: dict[str, dict[str, float]],
        do: Callable[[str, str], CaseReport],
        load: Callable[[str], dict[str, Any]] = lambda _: FACTS,
    ) -> None:
        self.alive = dict(nodes)
        self.asked: list[dict[str, Any]] = []
        self.most: dict[str, int] = {}
        self.pending: list[Ref] = []
        self._do, self._load = do, load
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node_id, **_: node_id)
        self.util = SimpleNamespace(scheduling_strategies=strategies)

    def put(self, value: Any) -> Any:
        return value

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": name, "Alive": True, "Resources": resources} for name, resources in self.alive.items()]

    def remote(self, _: type) -> Ray:
        return self

    def options(self, **resources: Any) -> Any:
        self.asked.append(resources)
        node = resources["scheduling_strategy"]

        def later(work: Callable[..., Any], kind: str) -> Any:
            def call(*arguments: Any) -> Ref:
                ref = Ref(work=lambda: work(*arguments), node=node, kind=kind)
                self.pending.append(ref)
                busy = sum(each.node == node and each.kind == "do" for each in self.pending)
                self.most[node] = max(busy, self.most.get(node, 0))
                return ref

            return SimpleNamespace(remote=call)

        worker = SimpleNamespace(
            load=later(lambda *_: self._load(node), "load"),
            do=later(lambda entry, *_: self._do(node, entry.id), "do"),
        )
        return SimpleNamespace(remote=lambda: worker)

    def wait(self, refs: Sequence[Any], **_: float) -> tuple[list[Any], list[Any]]:
        assert refs
        return [refs[0]], list(refs[1:])

    def get(self, ref: Ref) -> Any:
        self.pending.remove(ref)
        return ref.work()

    def kill(self, _: Any) -> None:
        """Nothing runs."""


def jobs(*names: str) -> list[Job]:
    return [Job(Input(name, (Path(name),)), Targets({}, None), ANY) for name in names]


def done(node: str, case: str) -> CaseReport:
    return CaseReport(case, node, "done")


def run(ray: Ray, *names: str, ahead: bool = True, **settings: Any) -> dict[str, CaseReport]:
    crew = Crew(ray, [], settings, ahead=ahead)
    crew.muster()
    reports: dict[str, CaseReport] = {}
    crew.run(iter(jobs(*names)), lambda report: reports.setdefault(report.case, report))
    return reports


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROUND", 0.0)


CPUS = {"CPU": 4.0}


@pytest.mark.parametrize(("ahead", "most"), [(True, 2), (False, 1)])
def test_all_cases_are_done_and_every_worker_has_as_many_as_it_may(ahead: bool, most: int) -> None:
    ray = Ray({"a": CPUS, "b": CPUS}, done)
    reports = run(ray, *"123456789", ahead=ahead)
    assert sorted(reports) == list("123456789")
    assert {report.input for report in reports.values()} == {"a", "b"}
    assert set(ray.most.values()) == {most}


@pytest.mark.parametrize(
    ("device", "resources", "asked"),
    [
        ("auto", {"CPU": 8.0}, [{"num_cpus": 8}]),
        ("auto", {"CPU": 8.0, "GPU": 2.0}, [{"num_cpus": 4, "num_gpus": 1}] * 2),
        ("cpu", {"CPU": 8.0, "GPU": 2.0}, [{"num_cpus": 8}]),
        ("cuda", {"CPU": 8.0, "GPU": 1.0}, [{"num_cpus": 8, "num_gpus": 1}]),
    ],
)
def test_a_worker_gets_a_gpu_or_all_processors_of_a_node(
    device: str, resources: dict[str, float], asked: list[dict[str, float]]
) -> None:
    ray = Ray({"a": resources}, done)
    run(ray, "1", device=device)
    assert [{key: each[key] for key in each if key.startswith("num")} for each in ray.asked] == asked


@pytest.mark.parametrize(("device", "resources"), [("cuda", CPUS), ("auto", {"CPU": 0.0}), ("auto", {})])
def test_a_cluster_without_what_is_asked_for_is_a_sentence(device: str, resources: dict[str, float]) -> None:
    with pytest.raises(DeviceError, match="No node of the Ray cluster has what is asked for"):
        run(Ray({"a": resources}, done), "1", device=device)


def test_a_case_whose_node_died_is_done_by_another() -> None:
    ray = Ray({"a": CPUS, "b": CPUS}, done)

    def do(node: str, case: str) -> CaseReport:
        if node == "b":
            ray.alive.pop("b", None)
            raise RayError("the node died")
        return done(node, case)

    ray._do = do
    reports = run(ray, *"123456")
    assert {report.input for report in reports.values()} == {"a"}
    assert {report.status for report in reports.values()} == {"done"}


def test_a_case_that_kills_every_worker_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[str] = []

    def do(node: str, case: str) -> CaseReport:
        if case == "3":
            tried.append(node)
            raise RayError("out of memory")
        return done(node, case)

    reports = run(Ray({"a": CPUS, "b": CPUS, "c": CPUS}, do), *"123456")
    assert len(tried) == ATTEMPTS
    assert len(set(tried)) == 3
    assert {case: report.status for case, report in reports.items()} == {
        case: "failed" if case == "3" else "done" for case in "123456"
    }
    assert "died 3 times" in reports["3"].error
    assert caplog.text.count("done again on another") == ATTEMPTS - 1


def test_a_case_that_may_have_killed_a_worker_works_alone() -> None:
    left: list[list[str]] = []

    def do(node: str, case: str) -> CaseReport:
        left.append([case, *(each.kind for each in ray.pending if each.node == node)])
        if case == "1":
            raise RayError("out of memory")
        return done(node, case)

    ray = Ray({"a": CPUS}, do)
    reports = run(ray, *"1234")
    assert [len(each) for each in left if each[0] == "1"][1:] == [1, 1]
    assert {case for case, report in reports.items() if report.status == "done"} == set("234")


def test_when_no_worker_is_left_the_rest_fails_with_a_sentence() -> None:
    def do(node: str, case: str) -> CaseReport:
        if case == "1":
            return done(node, case)
        ray.alive.clear()
        raise RayError("the node died")

    ray = Ray({"a": CPUS}, do)
    reports = run(ray, *"1234")
    assert {case: report.status for case, report in reports.items()} == {
        "1": "done",
        "2": "failed",
        "3": "failed",
        "4": "failed",
    }
    assert "The last worker on the Ray cluster died" in reports["4"].error
    assert "--skip-existing" in reports["4"].hint


def test_a_node_that_cannot_load_the_model_does_not_take_part() -> None:
    def load(node: str) -> dict[str, Any]:
        if node == "b":
            raise RayTaskError(DeviceError("There is no such device."))
        return FACTS

    ray = Ray({"b": CPUS, "a": CPUS}, done, load)
    assert {report.input for report in run(ray, *"1234").values()} == {"a"}
    assert len(ray.asked) == 2


@pytest.mark.parametrize("error", [DeviceError("There is no such device."), ImportError("medunet")])
def test_if_no_node_can_load_the_model_the_reason_is_told(error: Exception) -> None:
    def load(_: str) -> dict[str, Any]:
        raise RayTaskError(error)

    with pytest.raises(MedunetError, match=r"no such device|ImportError: medunet"):
        run(Ray({"a": CPUS}, done, load), "1")


def test_workers_that_die_while_they_load_are_replaced_some_times_only() -> None:
    def load(_: str) -> dict[str, Any]:
        raise RayError("out of memory")

    ray = Ray({"a": CPUS}, done, load)
    with pytest.raises(DeviceError, match="The last worker on the Ray cluster died: RayError: out of memory"):
        run(ray, "1")
    assert len(ray.asked) == ATTEMPTS


def test_another_version_of_the_package_does_not_take_part() -> None:
    with pytest.raises(DeviceError, match=r"has medunet 0\.0\.0, this machine"):
        run(Ray({"a": CPUS}, done, lambda _: {**FACTS, "medunet": "0.0.0"}), "1")


def test_a_defect_in_a_worker_fails_the_case_only() -> None:
    def do(node: str, case: str) -> CaseReport:
        if case == "2":
            raise RayTaskError(ZeroDivisionError("division by zero"))
        return done(node, case)

    reports = run(Ray({"a": CPUS}, do), *"123")
    assert [reports[case].status for case in "123"] == ["done", "failed", "done"]
    assert "division by zero" in reports["2"].error
