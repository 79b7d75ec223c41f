"""What is known of a study, in an SQLite database of Optuna's: values, scores, what became of each trial.

Every trial has a lock that the process which works at it holds. One that counts as running though nobody holds its lock
was cut off, by a kill or a crash; it is handed out again.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medunet.atomic import make_folder
from medunet.config.applied import with_values
from medunet.config.layers import look_up
from medunet.config.schema import Config
from medunet.config.tune_rules import key_path, takes_whole_numbers
from medunet.config.tuning import SpaceConfig, as_number
from medunet.errors import OutputError, UsageError
from medunet.training.tune.lock import Lock

DATABASE = "tune.db"

_LOCKS = "locks"
_MOST_STARTS = 3  # of a trial that is cut off each time, without having been told to stop
_PATIENCE = 60  # seconds that one process waits for another to write
_UNTIL_PRUNED = 5  # trials that are finished before any is pruned


def library() -> Any:
    """Optuna, imported when it is needed, without a log of its own.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError("Tuning needs Optuna.", 'Install it with: pip install "medunet[tune]".') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn errors of the database into ours."""
    optuna = library()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    except Exception as error:
        # What the database itself refuses comes as an error of SQLAlchemy's, which Optuna brings along.
        if not isinstance(error, optuna.exceptions.OptunaError) and "sqlalchemy" not in type(error).__module__:
            raise
        reason = str(error.__cause__ or error).splitlines()[0]
        raise OutputError(
            f"{path} cannot be read or written: {reason}", "Check free space, or start anew with another --out."
        ) from error


@dataclass(frozen=True)
class Entry:
    """A trial as it stands in the book.

    Attributes:
        number: from 0.
        state: done, pruned, failed or running.
        value: of the metric; None unless it is done.
        values: by key.
        seconds: from its beginning to its end, interruptions included; None while it runs.
        note: why it failed or was pruned.
    """

    number: int
    state: str
    value: float | None
    values: Mapping[str, Any]
    seconds: float | None
    note: str

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        return f"trial_{self.number:03d}"


_STATES = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}


class OpenTrial:
    """A trial that this process works at.

    Args:
        book: it stands in.
        trial: Optuna's.
        lock: held.
        values: by key.
    """

    def __init__(self, book: Book, trial: Any, lock: Lock, values: Mapping[str, Any]) -> None:
        self.number = int(trial.number)
        self.values = values
        self._book = book
        self._trial = trial
        self._lock = lock
        self._steps = set(trial.study.get_trials(deepcopy=False)[self.number].intermediate_values)

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        return f"trial_{self.number:03d}"

    def report(self, value: float, step: int) -> bool:
        """Note a value on the way; True: the trial is worse than half of the others were there.

        Args:
            value: of the metric.
            step: percent of the training; a second value of one step is not noted.
        """
        if step in self._steps:
            return False
        self._steps.add(step)
        with _told(self._book.path):
            self._trial.report(value, step)
            return bool(self._trial.should_prune())

    def best_reported(self) -> float | None:
        """The best value on the way."""
        with _told(self._book.path):
            known = self._trial.study.get_trials(deepcopy=False)[self.number].intermediate_values.values()
        pick = max if self._book.maximise else min
        return pick(known, default=None)

    def finish(self, state: str, value: float | None = None, note: str = "") -> None:
        """Write down what became of it.

        Args:
            state: done, pruned or failed.
            value: of the metric, if it is done.
            note: why it is not.
        """
        states = library().trial.TrialState
        with _told(self._book.path):
            if note:
                self._trial.set_user_attr("note", note)
            name = next(key for key, word in _STATES.items() if word == state)
            self._book.study.tell(self.number, value, state=states[name])
        self._lock.release()

    def leave(self) -> None:
        """Keep it for another time; it was told to stop, which does not count as being cut off."""
        with _told(self._book.path):
            self._trial.set_user_attr("starts", 0)
        self._lock.release()


class Book:
    """The study of a folder; made if it is not there.

    Args:
        folder: of the study.
        config: with a section `tune`.
        maximise: whether more of the metric is better.
        prune: whether trials are ended that are worse than half of the others.
    """

    def __init__(self, folder: Path, config: Config, *, maximise: bool, prune: bool) -> None:
        optuna = library()
        self.path = folder / DATABASE
        self.maximise = maximise
        self._config = config
        self._data = config.model_dump(mode="json", by_alias=True, exclude={"tune"})
        self._locks = make_folder(folder / _LOCKS)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNTIL_PRUNED) if prune else optuna.pruners.NopPruner()
        with self._alone(), _told(self.path):
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{self.path.absolute()}", engine_kwargs={"connect_args": {"timeout": _PATIENCE}}
            )
            self.study = optuna.create_study(
                storage=storage,
                study_name=config.name,
                direction="maximize" if maximise else "minimize",
                pruner=pruner,
                load_if_exists=True,
            )
            if not self.study.get_trials(deepcopy=False):
                self._begin_with_the_config()

    def _alone(self) -> Lock:
        """While it is held no other process chooses a trial."""
        return Lock(self._locks / "choosing")

    def _begin_with_the_config(self) -> None:
        """The first trial is the configuration as it stands, if every key has a value that is in its space."""
        present = {}
        for key, space in self._config.tune.items():
            try:
                value = look_up(self._data, key_path(key, self._data))
            except KeyError:
                return
            if not _holds(space, value):
                return
            present[key] = value if space.choices is None else _text(value)
        self.study.enqueue_trial(present)

    def next(self, wanted: int) -> OpenTrial | None:
        """A trial to work at: one that was cut off, or a new one; None where there are as many as wanted."""
        with self._alone(), _told(self.path):
            for frozen in self._frozen():
                if frozen.state.name == "RUNNING":
                    found = self._again(frozen)
                    if found is not None:
                        return found
            if len(self._frozen()) >= wanted:
                return None
            number = len(self._frozen())
            lock = self._lock_of(number)
            lock.try_take()
            self.study.sampler = self._sampler(number)
            return self._opened(self.study.ask(), lock, starts=1)

    def _again(self, frozen: Any) -> OpenTrial | None:
        """A trial that nobody works at any more, unless that happened to it before."""
        lock = self._lock_of(frozen.number)
        if not lock.try_take():
            return None
        if self._frozen()[frozen.number].state.name != "RUNNING":  # its process has finished it meanwhile
            lock.release()
            return None
        starts = int(frozen.user_attrs.get("starts", 1))
        trial = library().trial.Trial(self.study, frozen._trial_id)
        if starts >= _MOST_STARTS:
            trial.set_user_attr("note", f"It was cut off {starts} times.")
            self.study.tell(frozen.number, state=library().trial.TrialState.FAIL)
            lock.release()
            return None
        self.study.sampler = self._sampler(frozen.number)
        return self._opened(trial, lock, starts=starts + 1)

    def _opened(self, trial: Any, lock: Lock, starts: int) -> OpenTrial:
        trial.set_user_attr("starts", starts)
        drawn = {key: self._drawn(trial, key, space) for key, space in self._config.tune.items()}
        return OpenTrial(self, trial, lock, drawn)

    def _lock_of(self, number: int) -> Lock:
        return Lock(self._locks / f"trial_{number:03d}")

    def _sampler(self, number: int) -> Any:
        """Seeded by the number of the trial: a study that is gone on with draws what it would have drawn."""
        seed = int(np.random.SeedSequence([self._config.seed, number]).generate_state(1)[0])
        return library().samplers.TPESampler(seed=seed, constant_liar=True)

    def _drawn(self, trial: Any, key: str, space: SpaceConfig) -> Any:
        """The value of a key in a trial; Optuna gives one that was drawn before again."""
        if space.choices is not None:
            return json.loads(trial.suggest_categorical(key, [_text(value) for value in space.choices]))
        whole = takes_whole_numbers(key, self._data)
        low, high = (as_number(float(end or 0), whole) for end in (space.low, space.high))
        if whole:
            return trial.suggest_int(key, low, high, step=int(space.step or 1), log=space.log)
        return trial.suggest_float(key, low, high, step=space.step, log=space.log)

    def _frozen(self) -> Sequence[Any]:
        """Trials that have begun."""
        return [each for each in self.study.get_trials(deepcopy=False) if each.state.name != "WAITING"]

    def entries(self) -> list[Entry]:
        """All trials that have begun."""
        with _told(self.path):
            frozen = self._frozen()
        return [
            Entry(
                number=each.number,
                state=_STATES[each.state.name],
                value=each.value if each.state.name == "COMPLETE" else None,
                values={key: self._shown(key, each.params[key]) for key in self._config.tune if key in each.params},
                seconds=None if each.duration is None else each.duration.total_seconds(),
                note=str(each.user_attrs.get("note", "")),
            )
            for each in frozen
        ]

    def _shown(self, key: str, value: Any) -> Any:
        return value if self._config.tune[key].choices is None else json.loads(value)

    def importance(self) -> dict[str, float]:
        """How much each key mattered, in sum 1, most first; empty where too few trials tell."""
        optuna = library()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return dict(
                    optuna.importance.get_param_importances(
                        self.study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
                    )
                )
        except (ValueError, RuntimeError, optuna.exceptions.OptunaError):
            return {}

    def config_of(self, values: Mapping[str, Any], name: str) -> Config:
        """The configuration of a trial; raises ConfigError where its values do not go together."""
        return with_values(self._config, values, name)


def _text(value: Any) -> str:
    """A choice as the database holds it."""
    return json.dumps(value, sort_keys=True)


def _holds(space: SpaceConfig, value: Any) -> bool:
    """Whether a space has a value."""
    if space.choices is not None:
        return _text(value) in [_text(choice) for choice in space.choices]
    if isinstance(value, bool) or not isinstance(value, int | float) or space.low is None or space.high is None:
        return False
    steps = 0.0 if space.step is None else (value - space.low) / space.step
    return space.low <= value <= space.high and abs(steps - round(steps)) < 1e-6
