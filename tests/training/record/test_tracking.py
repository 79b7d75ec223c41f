"""A real MLflow server on SQLite has what a run did, also after a resume; one that is away costs a warning."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medunet.errors import Interrupted, TrainingError
from medunet.training.folds import train_folds
from medunet.training.observe import Observer, Step
from medunet.training.record import tracking
from medunet.training.record.tracking import check_tracking, open_tracking
from medunet.training.run import train

mlflow = pytest.importorskip("mlflow")

SHORT = {"train.epochs": 2, "train.iterations_per_epoch": 3, "validate.every": 1}
PASSPORT = {"git": {"commit": "abc"}, "device": "cpu", "data": {"sha256": "12"}, "versions": {"torch": "2"}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a tracking server of its own, ended with the module."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder / "files")),
    ]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
        )
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while not healthy(address):
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < end, (folder / "server.log").read_text()
            time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # its own session: the server and its workers
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:  # noqa: S310 - our own server
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.fixture
def client(server: str) -> Any:
    return mlflow.MlflowClient(server)


class Door:
    """A port that leads to the server as long as it is open."""

    def __init__(self, server: str) -> None:
        self.target = int(server.rpartition(":")[2])
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._listener: socket.socket | None = None

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
            self._listener.close()
            self._listener = None

    def _serve(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                caller, _ = listener.accept()
                with caller, socket.create_connection(("127.0.0.1", self.target)) as there:
                    self._answer(caller, there)

    @staticmethod
    def _answer(caller: socket.socket, there: socket.socket) -> None:
        """One request; the connection ends with it, as that of a server without keep-alive."""
        head = b""
        while b"\r\n\r\n" not in head:
            head += caller.recv(65536)
        lines, _, body = head.partition(b"\r\n\r\n")
        fields = [line for line in lines.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        length = next((int(line.split(b":")[1]) for line in fields if line.lower().startswith(b"content-length:")), 0)
        while len(body) < length:
            body += caller.recv(65536)
        there.sendall(b"\r\n".join([*fields, b"Connection: close"]) + b"\r\n\r\n" + body)
        while block := there.recv(65536):
            caller.sendall(block)


@pytest.fixture
def door(server: str) -> Iterator[Door]:
    """A closed one."""
    made = Door(server)
    yield made
    made.close()


def run_of(client: Any, experiment: str) -> Any:
    """The only run of an experiment."""
    found = client.get_experiment_by_name(experiment)
    (run,) = client.search_runs([found.experiment_id])
    return run


def files(client: Any, run: Any, path: str | None = None) -> set[str]:
    result: set[str] = set()
    for entry in client.list_artifacts(run.info.run_id, path):
        result |= files(client, run, entry.path) if entry.is_dir else {entry.path}
    return result


def steps(client: Any, run: Any, metric: str) -> list[int]:
    return [entry.step for entry in client.get_metric_history(run.info.run_id, metric)]


def rows(count: int) -> list[dict[str, Any]]:
    """Of metrics.jsonl, as far as they matter."""
    return [{"epoch": epoch, "loss": 0.5, "dice": {}, "resources": {}} for epoch in range(1, count + 1)]


class StopAt(Observer):
    """Presses Ctrl-C after a step."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def step(self, step: Step) -> None:
        if step.iteration == self.iteration:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_is_there_with_parameters_metrics_files_and_model(
    server: str, client: Any, tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path, capfd: Any
) -> None:
    options = {"tracking_uri": server, "experiment": "whole"}
    logs = {"mlflow": options, "images": {"cases": 1, "every": 2}, "monitor": "0.1s"}
    train(make_config(tiny_dataset, {**SHORT, "logging": logs}), tmp_path / "my run", device="cpu")
    run = run_of(client, "whole")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "my run")
    assert run.data.params["train.optimizer.lr"] == "0.02"
    assert run.data.params["network.channels"] == "[4, 8]"
    assert not [key for key in run.data.params if "mlflow" in key]
    assert run.data.tags["medunet.run_folder"] == str(tmp_path / "my run")
    assert run.data.tags["version.torch"]
    assert {"loss", "validation_loss", "lr", "dice", "dice/organ", "dice/core", "wait_share"} <= set(run.data.metrics)
    assert run.data.metrics["resources/memory_GB"] > 0
    assert steps(client, run, "loss") == steps(client, run, "dice/core") == [1, 2]
    there = files(client, run)
    assert {"config.yaml", "run.json", "curves.png", "metrics.csv", "validation/per_case.csv"} <= there
    assert {"model/model.yaml", "model/weights.safetensors", "slices/case_03/epoch_0001.png"} <= there
    stored = Path(client.download_artifacts(run.info.run_id, "model/weights.safetensors", str(tmp_path)))
    assert stored.read_bytes() == (tmp_path / "my run" / "model" / "weights.safetensors").read_bytes()
    assert capfd.readouterr().out == ""


def test_an_interrupted_run_is_killed_and_goes_on_as_the_same_run(
    server: str, client: Any, tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    options = {"tracking_uri": server, "experiment": "stopped", "run": "night shift", "model": False}
    config = make_config(tiny_dataset, {**SHORT, "logging": {"mlflow": options, "monitor": None}})
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", device="cpu", observer=StopAt(5))
    run = run_of(client, "stopped")
    assert (run.info.status, run.info.run_name) == ("KILLED", "night shift")
    assert steps(client, run, "loss") == [1]
    longer = make_config(tiny_dataset, {**SHORT, "train.epochs": 3, "logging": {"mlflow": options, "monitor": None}})
    train(longer, tmp_path / "run", device="cpu", resume=True)
    run = run_of(client, "stopped")
    assert run.info.status == "FINISHED"
    assert steps(client, run, "loss") == [1, 2, 3]
    assert (run.data.params["train.epochs"], run.data.tags["resumed.train.epochs"]) == ("2", "3")
    assert not [name for name in files(client, run) if name.startswith("model/")]


def test_the_folds_of_a_run_are_told_apart_by_name(
    server: str, client: Any, tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    logs = {"mlflow": {"tracking_uri": server, "experiment": "folds"}, "monitor": None, "tensorboard": False}
    short = {"train.epochs": 1, "train.iterations_per_epoch": 2, "data.folds": 2}
    train_folds(make_config(tiny_dataset, {**short, "logging": logs}), tmp_path / "all", device="cpu")
    runs = client.search_runs([client.get_experiment_by_name("folds").experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == {"all/fold_0": "FINISHED", "all/fold_1": "FINISHED"}
    assert {run.data.params["data.fold"] for run in runs} == {"0", "1"}
    assert all("model/model.yaml" in files(client, run) for run in runs)


def test_a_run_that_fails_is_failed(
    server: str, client: Any, tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    class Broken(Observer):
        def step(self, step: Step) -> None:  # noqa: ARG002
            raise TrainingError("The loss became nan.")

    options = {"tracking_uri": server, "experiment": "failed"}
    config = make_config(tiny_dataset, {**SHORT, "logging": {"mlflow": options, "monitor": None}})
    with pytest.raises(TrainingError, match="became nan"):
        train(config, tmp_path / "run", device="cpu", observer=Broken())
    run = run_of(client, "failed")
    assert run.info.status == "FAILED"
    assert {"config.yaml", "train.log"} <= files(client, run)


def test_names_and_long_values_are_as_mlflow_takes_them(
    server: str, client: Any, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    options = {"tracking_uri": server, "experiment": "odd"}
    labels = {"background": 0, **{f"Niere (links) #{number}": number for number in range(1, 60)}}
    config = make_config(tmp_path, {"labels": labels, "logging": {"mlflow": options}})
    opened = open_tracking(config, tmp_path, PASSPORT)
    assert opened is not None
    row = {"epoch": 1, "loss": 0.5, "dice": {"Niere (links) #1": 0.5, "Leber": None}, "resources": {}}
    opened.epoch([row])
    run = run_of(client, "odd")
    assert len(run.data.params["labels"]) == 500
    assert run.data.params["labels"].endswith("...")
    assert run.data.metrics == {"loss": 0.5, "dice/Niere _links_ _1": 0.5}
    assert run.data.tags["mlflow.source.git.commit"] == "abc"


def test_an_epoch_that_is_repeated_after_a_kill_is_not_there_twice(
    server: str, client: Any, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    config = make_config(tmp_path, {"logging": {"mlflow": {"tracking_uri": server, "experiment": "repeated"}}})
    for done, last in ((0, 2), (1, 3)):
        opened = open_tracking(config, tmp_path, PASSPORT)
        assert opened is not None
        opened.resume(rows(done))
        for epoch in range(done + 1, last + 1):
            opened.epoch(rows(epoch))
    assert steps(client, run_of(client, "repeated"), "loss") == [1, 2, 3]


def test_a_run_that_was_deleted_on_the_server_is_begun_anew(
    server: str, client: Any, make_config: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(tmp_path, {"logging": {"mlflow": {"tracking_uri": server, "experiment": "deleted"}}})
    (tmp_path / "mlflow.json").write_text('{"run_id": "0123456789abcdef0123456789abcdef"}')
    with caplog.at_level(logging.WARNING, logger="medunet"):
        opened = open_tracking(config, tmp_path, PASSPORT)
    assert opened is not None
    assert json.loads((tmp_path / "mlflow.json").read_text())["run_id"] == run_of(client, "deleted").info.run_id
    assert "a new one begins" in caplog.text


def test_a_server_that_goes_away_costs_a_warning_and_gets_all_when_it_is_back(
    door: Door,
    client: Any,
    make_config: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracking, "_PAUSE", 0.0)
    monkeypatch.setattr(tracking, "_COST_SHARE", 1e9)
    config = make_config(tmp_path, {"logging": {"mlflow": {"tracking_uri": door.address, "experiment": "away"}}})
    door.open()
    opened = open_tracking(config, tmp_path, PASSPORT)
    assert opened is not None
    opened.epoch(rows(1))
    door.close()
    with caplog.at_level(logging.INFO, logger="medunet"):
        opened.epoch(rows(2))
        opened.epoch(rows(3))
        assert caplog.text.count("MLflow cannot be reached") == 1
        door.open()
        opened.epoch(rows(4))
        assert "MLflow is back." in caplog.text
        run = run_of(client, "away")
        assert steps(client, run, "loss") == [1, 2, 3, 4]
        door.close()
        opened.finish("FINISHED")
    assert f"MLflow has not got everything of this run; {tmp_path} has." in caplog.text
    assert client.get_run(run.info.run_id).info.status == "RUNNING"


def test_a_server_that_is_away_throughout_costs_one_warning_and_gets_all_by_a_resume(
    door: Door,
    client: Any,
    make_config: Callable[..., Any],
    tiny_dataset: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = {"tracking_uri": door.address.replace("//", "//user:secret@"), "experiment": "late"}
    config = make_config(tiny_dataset, {**SHORT, "logging": {"mlflow": options, "monitor": None}})
    start = time.monotonic()
    result = train(config, tmp_path / "run", device="cpu")
    assert time.monotonic() - start < 60
    assert (result.model / "model.yaml").is_file()
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([text for text in warnings if "MLflow" in text]) == 1
    assert "secret" not in caplog.text + (tmp_path / "run" / "train.log").read_text()
    assert not (tmp_path / "run" / "mlflow.json").exists()
    door.open()
    train(config, tmp_path / "run", device="cpu", resume=True)
    run = run_of(client, "late")
    assert run.info.status == "FINISHED"
    assert steps(client, run, "loss") == steps(client, run, "dice/core") == [1, 2]
    assert {"config.yaml", "model/model.yaml", "curves.png"} <= files(client, run)


def test_failed_attempts_take_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = 0.0, 0

    def slow() -> None:
        nonlocal now, calls
        now, calls = now + 60.0, calls + 1
        raise OSError("timed out")

    monkeypatch.setattr(tracking, "time", SimpleNamespace(monotonic=lambda: now))
    attempts = tracking._Attempts("It fails", "It works.")
    while now < 24 * 3600:
        attempts.make(slow)
        now += 10
    assert 10 < calls < 0.06 * 24 * 3600 / 60


def test_the_configuration_is_there_from_the_start_and_many_epochs_are_sent_at_once(
    server: str, client: Any, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("name: tiny\n")
    config = make_config(tmp_path, {"logging": {"mlflow": {"tracking_uri": server, "experiment": "many"}}})
    opened = open_tracking(config, tmp_path, PASSPORT)
    assert opened is not None
    run = run_of(client, "many")
    assert (run.info.status, files(client, run)) == ("RUNNING", {"config.yaml"})
    scored = [{**row, "dice": {f"label {number}": 0.5 for number in range(300)}} for row in rows(8)]
    opened.resume(scored)
    assert steps(client, run, "loss") == steps(client, run, "dice/label 299") == list(range(1, 9))


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [("${MEDUNET_NO_SUCH_SERVER}", "MEDUNET_NO_SUCH_SERVER is not set"), ("gopher://x", "cannot be used")],
)
def test_an_address_that_is_none_is_told(
    make_config: Callable[..., Any], tmp_path: Path, uri: str, sentence: str
) -> None:
    with pytest.raises(TrainingError, match=sentence):
        check_tracking(make_config(tmp_path, {"logging": {"mlflow": uri}}))


def test_without_mlflow_there_is_a_sentence(
    make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(TrainingError, match=r"pip install 'medunet\[mlflow\]'"):
        check_tracking(make_config(tmp_path, {"logging": {"mlflow": "http://127.0.0.1:1"}}))
    check_tracking(make_config(tmp_path))  # not asked for


def test_a_database_without_a_server_keeps_its_files_beside_it(
    make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDUNET_TEST_DIARY", str(tmp_path / "diary"))
    (tmp_path / "diary").mkdir()
    config = make_config(tmp_path, {"logging": {"mlflow": "sqlite:///${MEDUNET_TEST_DIARY}/mlflow.db"}})
    check_tracking(config)
    (tmp_path / "config.yaml").write_text("name: tiny\n")
    opened = open_tracking(config, tmp_path, PASSPORT)
    assert opened is not None
    opened.finish("FINISHED")
    assert [path.name for path in (tmp_path / "diary" / "mlartifacts").rglob("*.yaml")] == ["config.yaml"]
    assert not (tmp_path / "mlruns").exists()
