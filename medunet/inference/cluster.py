"""`predict` on an existing Ray cluster: the same stages, on as many nodes as it has.

The driver plans, hands out and writes the report. Models travel to the nodes; images and masks do not: their paths
must mean the same files on every node.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medunet.errors import DeviceError, UsageError
from medunet.inference.batch import Options, Progress, for_models, header, left_out, open_report, plan_cases
from medunet.inference.case import OTHER_VOLUME, is_of_other, log_outcome
from medunet.inference.crew import Crew, Job
from medunet.inference.identity import as_filed
from medunet.inference.pipeline import stoppable
from medunet.inference.predictor import check_together
from medunet.inference.report import CaseReport
from medunet.model import SPEC_FILE, Model, load_model
from medunet.model.files import blocks
from medunet.model.spec import spec_text

logger = logging.getLogger("medunet")

_REACH = 5.0  # seconds that a cluster has to answer
_IMPATIENT = {"RAY_gcs_server_port_wait_time_s": "1", "RAY_py_gcs_connect_timeout_s": "10"}
"""How long Ray tries to speak to a port that is no cluster: some seconds instead of a quarter of an hour."""


def predict_on_cluster(
    models: Sequence[Model | str | Path],
    source: str | Path,
    output: str | Path,
    options: Options | None = None,
    *,
    address: str,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[CaseReport]:
    """Segment every case of `source` on the nodes of a Ray cluster; see `batch.predict`.

    A case whose worker or node dies is done again on another, three times at most. Paths in reports are absolute.

    Args:
        models: paths of the models, or loaded ones; their files are sent to the nodes.
        source: file or folder that every node sees under this path.
        output: folder (or file) that every node sees under this path.
        options: formats and switches.
        address: HOST:PORT of the head node, or "auto" for the cluster that this machine is part of.
        settings: keyword arguments of `Predictor` on the nodes, such as `device`.
        progress: called with (cases done, cases in all, last report), in the order in which they are done.

    Returns:
        One report per case, in the order of the inputs, failed ones included.

    Raises:
        UsageError: Ray is not installed, the address is none, or as `batch.predict`.
        DeviceError: no cluster answers, or no node can load the model.
        OutputError: the output folder or report cannot be written.
    """
    source, output = Path(source).absolute(), Path(output).absolute()
    settings = settings or {}
    _check_call(address, str(settings.get("device", "auto")))
    ray = _import_ray()
    loaded = [model if isinstance(model, Model) else load_model(model) for model in models]
    check_together(loaded)
    options = for_models(options or Options(), loaded)
    plan = plan_cases(source, output, options, loaded)
    inputs = {entry.id: entry for entry, _ in plan}
    reports: dict[str, CaseReport] = {}
    with _connected(ray, address), stoppable():
        crew = Crew(ray, [_content(model) for model in loaded], settings, ahead=options.ahead)
        crew.muster()
        facts = {key: crew.facts[key] for key in ("device", "precision", "tta")}
        about = header(loaded, facts)
        about["notes"] += left_out(source, plan, output)
        with open_report(plan, output, options, about) as report:

            def done(case: CaseReport) -> None:
                reports[case.case] = case
                report.add(as_filed(case, inputs[case.case], show=options.show_identifiers))
                log_outcome(case)
                if progress is not None:
                    progress(len(reports), len(plan), case)

            def jobs() -> Iterator[Job]:
                for entry, targets in plan:
                    if options.skip_existing:
                        known, why_not = report.finished(entry.id, str(entry.paths[0]), targets.paths())
                        if known is not None and is_of_other(known, entry, options.selection):
                            known, why_not = None, OTHER_VOLUME
                        if why_not:
                            logger.warning("%s: %s", entry.id, why_not)
                        if known is not None:
                            done(known)
                            continue
                    yield Job(entry, targets, options.selection)

            if progress is not None:
                progress(0, len(plan), None)
            crew.run(jobs(), done)
    return [reports[entry.id] for entry, _ in plan]


def _import_ray() -> Any:
    for name, value in _IMPATIENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise UsageError("--ray needs Ray, which is not installed.", 'Get it: pip install "medunet[ray]"') from error
    return ray


def _check_call(address: str, device: str) -> None:
    if address != "auto" and not re.fullmatch(r"[^/\s]+:[0-9]{1,5}", address):
        raise UsageError(
            f'"{address}" is no address of a Ray cluster.',
            "Give HOST:PORT of its head node, such as 10.0.0.1:6379, or auto.",
        )
    if device.startswith("cuda:"):
        raise UsageError(
            f'"{device}" cannot be chosen on a cluster; each worker gets a GPU of its own.', "Use -d cuda."
        )


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Connect, and disconnect at the end, which ends all workers; a connection of the caller is used and left.

    Raises:
        DeviceError: no cluster answers.
    """
    if ray.is_initialized():
        yield
        return
    if address != "auto":
        _reach(address)
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DeviceError(
            f"The Ray cluster {address} cannot be joined: {reason}.",
            "This machine must be one of its nodes (ray start --address), with the same versions of Python and Ray.",
        ) from error
    if main:
        signal.signal(signal.SIGTERM, before)  # Ray's own ends the process as if nothing had to be written
    _let_speak(ray, False)
    try:
        yield
    finally:
        ray.shutdown()
        _let_speak(ray, True)


def _let_speak(ray: Any, allowed: bool) -> None:
    """Ray prints what it hears of dying nodes on stdout, where results belong; it has no public switch for that."""
    with suppress(AttributeError):
        ray._private.worker._worker_logs_enabled = allowed


def _reach(address: str) -> None:
    """Ask whether anybody listens: Ray itself waits long and may end the process."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH).close()
    except (OSError, OverflowError) as error:
        raise DeviceError(
            f"No Ray cluster answers at {address}: {error}.", "Start one with ray start --head, or check the address."
        ) from error


def _content(model: Model) -> dict[str, bytes]:
    """The files of a model by name; model.yaml as it is applied, not as it was read."""
    weights = {name: b"".join(blocks(model.path, name, -1)) for name in model.spec.files}
    return {SPEC_FILE: spec_text(model.spec).encode(), **weights}
