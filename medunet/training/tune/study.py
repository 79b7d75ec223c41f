"""`tune`: trial after trial, until there are enough; then the best of them as a configuration.

    study.yaml + tune.db > trial_000/ ... trial_NNN/ (ordinary run folders, one cache) > trials.csv + best.yaml

The same call goes on with a study that was stopped; several processes may work at one at the same time.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medunet.atomic import make_folder, write_text
from medunet.config.document import as_written
from medunet.config.load import dump_config, load_config
from medunet.config.schema import Config
from medunet.config.tuning import SpaceConfig
from medunet.engines.device import resolve_device
from medunet.errors import Interrupted, TrainingError, UsageError
from medunet.labels import LabelMap
from medunet.training.folder import CONFIG_FILE, changed_keys
from medunet.training.material import examine
from medunet.training.observe import Observer, log_to
from medunet.training.record.tracking import check_tracking
from medunet.training.tune.book import DATABASE, Book, Entry, library
from medunet.training.tune.trial import Terms, run_trial

logger = logging.getLogger("medunet")

STUDY_FILE, BEST_FILE, TRIALS_FILE = "study.yaml", "best.yaml", "trials.csv"

_MAY_CHANGE = ("data.root", "data.cache", "data.memory", "logging", "train.workers", "train.save_every")


@dataclass(frozen=True)
class Search:
    """How to look for better values.

    Attributes:
        trials: how many there shall be in the end, those of earlier calls included.
        metric: dice, dice/LABEL or validation_loss; None takes `validate.metric`.
        seconds: after which no further trial is begun; None: until there are enough.
        prune: end trials that are worse than half of the others were at the same share of the training.
    """

    trials: int = 20
    metric: str | None = None
    seconds: float | None = None
    prune: bool = True


@dataclass(frozen=True)
class TuneResult:
    """What a study found.

    Attributes:
        folder: of the study.
        best: the best trial.
        run: its run folder.
        config: file with its configuration.
        metric: that it was judged by.
        entries: all trials.
        importance: share that each key had in the differences; empty where too few trials tell.
    """

    folder: Path
    best: Entry
    run: Path
    config: Path
    metric: str
    entries: tuple[Entry, ...]
    importance: Mapping[str, float] = field(default_factory=dict)


def tune(
    config: Config,
    out: str | Path | None = None,
    search: Search | None = None,
    *,
    device: str = "auto",
    observer: Observer | None = None,
) -> TuneResult:
    """Train with other values of the keys in `tune`, and write the best configuration.

    Args:
        config: from `load_config`. Without a section `tune` it is the learning rate and the weight decay that are
            tuned, each to a tenth and to ten times what the configuration says.
        out: folder of the study; null takes `runs/NAME-tune`. A study that is there is gone on with.
        search: how; None takes the defaults.
        device: auto, cpu, cuda, cuda:N or mps.
        observer: receives the events of all trainings.

    Raises:
        UsageError: no trial, no such metric, or the folder holds something else.
        DatasetError: problems of the data, all at once.
        TrainingError: no trial came to an end, or MLflow cannot be used.
        OutputError: the database or a file cannot be written.
        Interrupted: SIGINT or SIGTERM came; the same call goes on.
    """
    library()
    search = search or Search()
    folder = Path(out) if out is not None else Path("runs") / f"{config.name}-tune"
    metric = _checked(config, search)
    if not config.tune:
        config = config.model_copy(update={"tune": _usual_spaces(config)})
        logger.info("The configuration has no section tune; tried are other values of %s.", " and ".join(config.tune))
    resolve_device(device)
    check_tracking(config)
    observer = observer or Observer()
    recorded = _check_folder(folder, config, metric)
    examined = examine(config, observer)
    if not recorded:
        make_folder(folder)
        write_text(folder / STUDY_FILE, _mark(metric) + dump_config(config))
    book = Book(folder, config, maximise=metric != "validation_loss", prune=search.prune)
    deadline = None if search.seconds is None else time.monotonic() + search.seconds
    with log_to(folder / "tune.log"):
        terms = Terms(folder, metric, device, examined, observer)
        try:
            _work(book, terms, search.trials, deadline)
        finally:
            write_text(folder / TRIALS_FILE, _table(book.entries(), list(config.tune), metric))
        return _result(book, terms)


def _checked(config: Config, search: Search) -> str:
    """The metric of the study; raises UsageError where it cannot be."""
    if search.trials < 1:
        raise UsageError(f"At least one trial is needed, not {search.trials}.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "tune is not for torchrun.", "Start it once per GPU with the same --out, each with another -d cuda:N."
        )
    chosen = search.metric or config.validation.metric
    labels = [label.name for label in LabelMap.from_mapping(config.labels).foreground]
    known = ["dice", "validation_loss", *(f"dice/{name}" for name in labels)]
    if chosen not in known:
        raise UsageError(f"Trials cannot be judged by {chosen}.", f"Take --metric {', '.join(known)}.")
    return chosen


def _usual_spaces(config: Config) -> dict[str, SpaceConfig]:
    """What is tuned where the configuration does not say it; nothing that is 0 is tuned."""
    optimizer = config.train.optimizer
    values = {"train.optimizer.lr": optimizer.lr, "train.optimizer.weight_decay": optimizer.weight_decay}
    return {key: SpaceConfig(low=value / 10, high=value * 10, log=True) for key, value in values.items() if value}


def _mark(metric: str) -> str:
    """The first line of study.yaml."""
    return f"# judged by {metric}\n"


def _check_folder(folder: Path, config: Config, metric: str) -> bool:
    """Whether the folder holds the study of this config; it may hold nothing of that kind as well.

    Raises:
        UsageError: it holds another one, or a run.
    """
    recorded = folder / STUDY_FILE
    if (folder / CONFIG_FILE).is_file():
        raise UsageError(f"{folder} holds a run.", "Choose another folder with --out.")
    if not recorded.is_file():
        if (folder / DATABASE).is_file():
            raise UsageError(f"{folder} holds {DATABASE}, but not {STUDY_FILE}.", "Choose another folder with --out.")
        return False
    changed = changed_keys(load_config(recorded), config)
    changed = [key for key in changed if not any(key == free or key.startswith(f"{free}.") for free in _MAY_CHANGE)]
    if not recorded.read_text(encoding="utf-8").startswith(_mark(metric)):
        changed.append("metric")
    if changed:
        raise UsageError(
            f"The study in {folder} has another {', '.join(changed)}; its trials could not be compared with new ones.",
            f"Go on with --config {recorded}, or start a new study with --out.",
        )
    return True


def _work(book: Book, terms: Terms, trials: int, deadline: float | None) -> None:
    """Run trials until there are enough, or no time is left."""
    while deadline is None or time.monotonic() < deadline:
        trial = book.next(trials)
        if trial is None:
            return
        told = ", ".join(f"{key} {as_written(value)}" for key, value in trial.values.items())
        logger.info("%s of %d: %s.", trial.folder, trials, told)
        try:
            run_trial(trial, lambda now=trial: book.config_of(now.values, now.folder), terms)  # type: ignore[misc]
        except Interrupted as error:
            raise Interrupted(f"{trial.folder}: {error.message}", "The same command goes on.") from error
        entries = book.entries()
        write_text(terms.folder / TRIALS_FILE, _table(entries, list(trial.values), terms.metric))
        _keep_best(book, terms, entries)
        _tell(entries[trial.number], terms.metric)
    logger.info("The time is up; the same command goes on.")


def _tell(entry: Entry, metric: str) -> None:
    score = "" if entry.value is None else f", {metric} {entry.value:.4f}"
    level = logging.WARNING if entry.state == "failed" else logging.INFO
    logger.log(level, "%s is %s%s.%s", entry.folder, entry.state, score, f" {entry.note}" if entry.note else "")


def _keep_best(book: Book, terms: Terms, entries: Sequence[Entry]) -> Entry | None:
    """Write the configuration of the best trial; None where no trial is done."""
    done = [entry for entry in entries if entry.value is not None]
    if not done:
        return None
    pick = max if book.maximise else min
    best = pick(done, key=lambda entry: entry.value or 0.0)
    write_text(terms.folder / BEST_FILE, dump_config(book.config_of(best.values, best.folder)))
    return best


def _result(book: Book, terms: Terms) -> TuneResult:
    entries = book.entries()
    best = _keep_best(book, terms, entries)
    if best is None:
        notes = [entry.note for entry in entries if entry.state == "failed" and entry.note]
        raise TrainingError(
            f"Of {len(entries)} trials none came to an end.",
            f"The last failure: {notes[-1]}" if notes else "Give it more time, or more --trials.",
        )
    return TuneResult(
        folder=terms.folder,
        best=best,
        run=terms.folder / best.folder,
        config=terms.folder / BEST_FILE,
        metric=terms.metric,
        entries=tuple(entries),
        importance=book.importance(),
    )


def _table(entries: Sequence[Entry], keys: Sequence[str], metric: str) -> str:
    """trials.csv: lists and sections as JSON, unknown values as empty cells."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", "state", metric, "seconds", *keys, "note"])
    for entry in entries:
        seconds = "" if entry.seconds is None else f"{entry.seconds:.1f}"
        cells = [_cell(entry.values[key]) if key in entry.values else "" for key in keys]
        value = "" if entry.value is None else entry.value
        writer.writerow([entry.folder, entry.state, value, seconds, *cells, entry.note])
    return buffer.getvalue()


def _cell(value: object) -> object:
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value)
