"""How a training looks in MLflow: one run there, through MLflow's own client.

Raises whatever MLflow and its libraries raise; what that means for a training is decided in `tracking`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from medunet.atomic import write_json
from medunet.config.layers import LayerError, expanded
from medunet.config.schema import Config, MlflowConfig
from medunet.errors import TrainingError
from medunet.training.folder import flat
from medunet.training.record.runlog import Row

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("medunet")

MLFLOW_FILE = "mlflow.json"

_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""A training does not wait minutes for its diary, nor print. A value that the user has set stays."""

_MOST_METRICS, _MOST_PARAMS = 1000, 100  # of one request
_LONGEST_PARAM, _LONGEST_KEY = 500, 250  # characters that every MLflow takes
_LONGEST_REASON = 300
_FORBIDDEN = re.compile(r"[^\w. :/-]")
_PASSWORD = re.compile(r"//[^/@\s]*@")


class MlflowRun:
    """A run on a server or in a database.

    Args:
        client: MLflow's.
        run_id: of the run.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        self.run_id = run_id
        self._client = client

    @classmethod
    def begin(cls, config: Config, options: MlflowConfig, folder: Path, passport: Mapping[str, Any]) -> MlflowRun:
        """Make a run, or go on in that of the run folder; parameters and tags are stored at once.

        Args:
            config: of the training.
            options: its section `logging.mlflow`.
            folder: of the training; its name is that of the run unless the options say otherwise.
            passport: this start's entry of run.json.
        """
        client = client_of(options)
        run_id = _former(client, folder)
        if run_id is None:
            experiment = _experiment(client, options.experiment or config.name, options)
            run_id = str(client.create_run(experiment, run_name=options.run or folder.absolute().name).info.run_id)
            write_json(folder / MLFLOW_FILE, {"experiment_id": experiment, "run_id": run_id})
        _describe(client, run_id, config, {**_tags(passport), "medunet.run_folder": str(folder.absolute())})
        return cls(client, run_id)

    def last_epoch(self) -> int:
        """The last one whose numbers are there; 0: none."""
        return max((metric.step for metric in self._client.get_metric_history(self.run_id, "loss")), default=0)

    def send(self, rows: Sequence[Row]) -> int:
        """Store the numbers of the first of some epochs, as many as one request takes; gives the number of epochs."""
        from mlflow.entities import Metric

        now, longest = int(time.time() * 1000), max(len(metrics_of(row)) for row in rows)
        some = rows[: max(1, _MOST_METRICS // longest)]
        metrics = [Metric(_key(name), value, now, row["epoch"]) for row in some for name, value in metrics_of(row)]
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _MOST_METRICS])
        return len(some)

    def show(self, epoch: int, pictures: Mapping[str, Image]) -> None:
        """Store slices, by case id, as PNG files."""
        for case, picture in pictures.items():
            name = f"slices/{_key(case)}/epoch_{epoch:04d}.png"
            self._client.log_image(self.run_id, picture, artifact_file=name)

    def store(self, folder: Path, names: Sequence[str]) -> None:
        """Store those of some files and folders of the run folder that are there."""
        for name in names:
            path, inside = folder / name, str(Path(name).parent)
            if path.is_dir():
                self._client.log_artifacts(self.run_id, str(path), name)
            elif path.is_file():
                with TemporaryDirectory() as still:  # a file that grows while it is sent spoils the connection
                    copy = shutil.copy(path, still)
                    self._client.log_artifact(self.run_id, copy, None if inside == "." else inside)

    def end(self, status: str) -> None:
        """Say how the run ended: FINISHED, KILLED or FAILED."""
        self._client.set_terminated(self.run_id, status)


def client_of(options: MlflowConfig) -> Any:
    """MLflow's client; no server is asked yet, but a database is opened.

    Raises:
        TrainingError: MLflow is not installed, or `tracking_uri` is none.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise TrainingError(
            "logging.mlflow is set, but MLflow is not installed.",
            "pip install 'medunet[mlflow]', or set logging.mlflow to null.",
        ) from error
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # what it tries again is told here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what its libraries warn each other of while they are loaded
            return MlflowClient(expanded(options.tracking_uri))
    except LayerError as error:
        raise TrainingError(f"logging.mlflow.tracking_uri: {error}", "Set the variable.") from error


def metrics_of(row: Row) -> list[tuple[str, float]]:
    """The known numbers of an epoch; the loss comes last, because it says that the others are there."""
    values = {name: row.get(name) for name in ("validation_loss", "lr", "seconds", "iterations_per_second")}
    values |= {"wait_share": row.get("wait_share"), "dice": row.get("dice_mean")}
    values |= {f"dice/{name}": value for name, value in row["dice"].items()}
    values |= {f"resources/{name}": value for name, value in row["resources"].items()}
    values["loss"] = row.get("loss")
    return [(name, float(value)) for name, value in values.items() if value is not None]


def without_password(text: str) -> str:
    """A text whose addresses have no user and password."""
    return _PASSWORD.sub("//", text)


def first_line(error: Exception) -> str:
    """What an error says, short and without passwords."""
    line = without_password((str(error).splitlines() or [type(error).__name__])[0])
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."


def _experiment(client: Any, name: str, options: MlflowConfig) -> str:
    """Id of an experiment, which is made where there is none."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifact_location=_artifacts_beside(expanded(options.tracking_uri))))


def _artifacts_beside(uri: str) -> str | None:
    """A folder beside a database of SQLite, where MLflow would take the working directory; None: as the server says."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()


def _former(client: Any, folder: Path) -> str | None:
    """Id of the run that the run folder has, set to running again; None where there is none any more."""
    from mlflow.exceptions import MlflowException

    try:
        run_id = str(json.loads((folder / MLFLOW_FILE).read_bytes())["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise  # the server is away, not the run
        logger.warning("MLflow does not know the run %s any more (%s); a new one begins.", run_id, first_line(error))
        return None
    return run_id


def _describe(client: Any, run_id: str, config: Config, tags: Mapping[str, str]) -> None:
    """Parameters and tags; a parameter that changed since the run began, which MLflow refuses, becomes a tag."""
    from mlflow.entities import Param, RunTag

    known = client.get_run(run_id).data.params
    wanted = dict(_params(config))
    fresh = [Param(key, value) for key, value in wanted.items() if key not in known]
    changed = {f"resumed.{key}": value for key, value in wanted.items() if known.get(key, value) != value}
    for start in range(0, len(fresh), _MOST_PARAMS):
        client.log_batch(run_id, params=fresh[start : start + _MOST_PARAMS])
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in {**tags, **changed}.items()])


def _params(config: Config) -> Iterator[tuple[str, str]]:
    """The configuration by dotted keys, without what is about MLflow itself."""
    for key, value in flat(config).items():
        if key != "logging.mlflow" and not key.startswith("logging.mlflow."):
            text = value if isinstance(value, str) else json.dumps(value)
            yield _key(key), text if len(text) <= _LONGEST_PARAM else f"{text[: _LONGEST_PARAM - 3]}..."


def _tags(passport: Mapping[str, Any]) -> dict[str, str]:
    git = passport.get("git") or {}
    tags = {
        "mlflow.source.name": "medunet",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git.get("commit"),
        "medunet.device": passport.get("device"),
        "medunet.precision": passport.get("precision"),
        "medunet.data_sha256": passport.get("data", {}).get("sha256"),
        **{f"version.{name}": value for name, value in passport.get("versions", {}).items()},
    }
    return {key: str(value) for key, value in tags.items() if value is not None}


def _key(name: str) -> str:
    """A name as MLflow takes it."""
    return _FORBIDDEN.sub("_", name)[:_LONGEST_KEY]
