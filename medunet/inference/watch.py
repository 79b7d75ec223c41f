"""`watch`: segment what lies in a folder, then what comes, until it is told to stop.

What was done stands in a journal (`inference.journal`), which outlives the process and its kill; `predict.json` shows
the last cases.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from medunet.atomic import make_folder
from medunet.errors import MedunetError, UsageError
from medunet.inference.arrivals import Arrival, Arrivals, signature_of
from medunet.inference.batch import Options, check_output, facts_of, for_models, header, targets_of
from medunet.inference.case import CaseWork
from medunet.inference.identity import as_filed
from medunet.inference.inputs import Input, find_inputs
from medunet.inference.journal import Journal
from medunet.inference.memory import PeakMeter
from medunet.inference.pipeline import run, until_stopped
from medunet.inference.predictor import Predictor
from medunet.inference.pulse import Pulse, Tally
from medunet.inference.report import REPORT_FILE, CaseReport, Report
from medunet.io.files import image_ending, stem

logger = logging.getLogger("medunet")

Stopped = Callable[[], bool]
"""Whether it is time to end."""

JOURNAL_FILE = "watch.sqlite"

KEPT = 200
"""Cases in `predict.json`."""

_AT_ONCE = 100  # inputs between looks
_MOST_OFTEN, _LEAST_OFTEN = 0.05, 2.0  # seconds between looks
_FIRST_PAUSE, _LONGEST_PAUSE = 60.0, 3600.0  # seconds before an input is tried again, doubled each time

_NAP = 0.2  # seconds after which a signal is seen at the latest


def watch(
    predictor: Predictor,
    source: str | Path,
    output: str | Path,
    options: Options | None = None,
    *,
    settle: float = 5.0,
    stop: threading.Event | None = None,
    told: Callable[[CaseReport], None] | None = None,
) -> Tally:
    """Segment all that is in a folder and not done, then what comes, until `stop` is set.

    In the main thread SIGTERM and Ctrl-C end it, too: the cases in the network and on their way to the disk are
    finished, others left for the next start.

    Args:
        predictor: loaded model(s).
        source: folder that others write into.
        output: folder for masks, the report and the journal.
        options: formats and switches; what is done is never done again, whatever `skip_existing` says.
        settle: seconds without a change after which a file or study is complete.
        stop: set it to end; None: only signals do.
        told: called with every case that was done or failed.

    Raises:
        UsageError: `source` is no folder, `output` is a file or the same, another process watches with this output.
        OutputError: the report or the journal cannot be written.
    """
    source, output = Path(source), Path(output)
    options = for_models(options or Options(), predictor.models)
    check_output(source, output, options)
    if not source.is_dir() or image_ending(output) or settle <= 0:
        raise UsageError(
            "Watching takes a folder of images and a folder for masks, and more than 0 seconds to settle, "
            f"not {source}, {output} and {settle:g}."
        )
    make_folder(output)
    path = options.report or output / REPORT_FILE
    about = header(predictor.models, facts_of(predictor))
    with Journal(output / JOURNAL_FILE) as journal, Report(path, about, resume=True, most=KEPT) as report:
        for part in output.rglob(".*.part-*"):  # of a killed run; nobody else may write here while the journal is held
            if part.is_file():
                part.unlink(missing_ok=True)
        arrivals = Arrivals(source, len(predictor.spec.modality), settle, output)
        with until_stopped() as signalled:
            stopped: Stopped = lambda: signalled() or (stop is not None and stop.is_set())  # noqa: E731
            watcher = _Watcher(predictor, source, output, options, journal, report, stopped, told)
            with Pulse(options.monitor, output, predictor.device, watcher.tally, at_once=True):
                logger.info("Watching %s.", source)
                watcher.go(arrivals)
    return watcher.tally


class _Turn:
    """A case that is left alone if the watcher was stopped before its turn: a `pipeline.Work`."""

    def __init__(self, work: CaseWork, arrival: Arrival, stopped: Stopped) -> None:
        self.work, self.arrival = work, arrival
        self.dropped = False
        self._stopped = stopped

    def read(self) -> None:
        self.work.read()

    def compute(self) -> None:
        self.dropped = self._stopped()
        if not self.dropped:
            self.work.compute()

    def write(self) -> None:
        if not self.dropped:
            self.work.write()


@dataclass
class _Watcher:
    predictor: Predictor
    source: Path
    output: Path
    options: Options
    journal: Journal
    report: Report
    stopped: Stopped
    told: Callable[[CaseReport], None] | None
    tally: Tally = field(default_factory=Tally)
    meter: PeakMeter = field(default_factory=PeakMeter)
    _left: dict[str, int] = field(default_factory=dict)
    _troubled: dict[str, str] = field(default_factory=dict)
    _later: dict[str, tuple[float, float]] = field(default_factory=dict)
    _away: bool = False

    def go(self, arrivals: Arrivals) -> None:
        """Look and work in turns."""
        ahead = self.options.ahead and self.predictor.memory_limit is None
        while not self.stopped():
            begin = time.monotonic()
            ready = self._look(arrivals)
            took = time.monotonic() - begin
            self.tally.waiting = arrivals.waiting + len(ready) + len(self._later)
            if ready:
                run(self._turns(ready[:_AT_ONCE]), self._done, ahead=ahead)
            else:
                self._rest(max(4 * took, min(_LEAST_OFTEN, max(_MOST_OFTEN, arrivals.settle / 4))))

    def _rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.stopped() and (left := end - time.monotonic()) > 0:
            time.sleep(min(_NAP, left))

    def _look(self, arrivals: Arrivals) -> list[Arrival]:
        now = time.monotonic()
        try:
            found = arrivals.look(now, self.journal.is_done)
        except OSError as error:
            if not self._away:
                logger.warning("%s cannot be listed (%s); it is tried again.", self.source, error.strerror or error)
            self._away = True
            return []
        if self._away:
            logger.info("%s is there again.", self.source)
        self._away = False
        here = {arrival.key for arrival in found}
        self._later = {key: pause for key, pause in self._later.items() if key in here}
        return [arrival for arrival in found if now >= self._later.get(arrival.key, (0.0, 0.0))[0]]

    def _turns(self, ready: list[Arrival]) -> Iterator[_Turn]:
        for arrival in ready:
            self.tally.waiting -= 1
            entries = self._inputs(arrival)
            if entries:
                self._left[arrival.key] = len(entries)
            for entry in entries:
                if self.stopped():
                    return
                targets = targets_of(entry, self.output, self.options, self.networks)
                finished = None if self.journal.knows(arrival.key) else self.report.finished
                work = CaseWork(
                    self.predictor,
                    entry,
                    targets,
                    selection=self.options.selection,
                    meter=self.meter,
                    finished=finished,
                )
                yield _Turn(work, arrival, self.stopped)

    @property
    def networks(self) -> int:
        """That are averaged."""
        return sum(model.size for model in self.predictor.models)

    def _inputs(self, arrival: Arrival) -> list[Input]:
        """Cases of what has arrived, with ids that stay; none if it has gone again, or holds no image."""
        if not all(path.is_dir() or signature_of(path) is not None for path in arrival.paths):
            return []
        channels = len(self.predictor.spec.modality)
        single = arrival.paths[0]
        name = Path(arrival.key).name
        try:
            if len(arrival.paths) > 1:
                found = [Input(name, arrival.paths)]
            elif image_ending(single):
                found = [Input(stem(single), arrival.paths)]
            else:
                found = find_inputs(single, channels=channels, selection=self.options.selection)
        except MedunetError as error:
            logger.warning("%s: %s", arrival.key, error)
            self.journal.note(arrival.key, arrival.signature, "no image")
            return []
        way = "" if "/" not in arrival.key else arrival.key.rpartition("/")[0] + "/"
        return [replace(entry, id=self._id(arrival, entry, way, several=len(found) > 1)) for entry in found]

    def _id(self, arrival: Arrival, entry: Input, way: str, *, several: bool) -> str:
        if several and not entry.id.startswith(Path(arrival.key).name):
            return self.journal.name(f"{arrival.key}\n{entry.id}", [f"{Path(arrival.key).name}_{entry.id}"])
        return self.journal.name(
            f"{arrival.key}\n{entry.id}" if several else arrival.key, [f"{way}{entry.id}", arrival.key]
        )

    def _done(self, turn: _Turn) -> None:
        if turn.dropped:
            return
        work, key = turn.work, turn.arrival.key
        report = work.report
        self.report.add(as_filed(report, work.entry, show=self.options.show_identifiers))
        self._left[key] -= 1
        if report.status == "failed":
            self._troubled[key] = "later" if work.passing else self._troubled.get(key, "failed")
        if not self._left[key]:
            self._note(turn.arrival, self._troubled.pop(key, "done"))
        self.tally.count(report.status)
        work.tell()
        if self.told is not None and report.status != "skipped":
            self.told(report)

    def _note(self, arrival: Arrival, outcome: str) -> None:
        """Remember what became of an input, or when it is tried again."""
        del self._left[arrival.key]
        if outcome != "later":
            self._later.pop(arrival.key, None)
            self.journal.note(arrival.key, arrival.signature, outcome)
            return
        pause = min(_LONGEST_PAUSE, 2 * self._later.get(arrival.key, (0.0, _FIRST_PAUSE / 2))[1])
        self._later[arrival.key] = time.monotonic() + pause, pause
        logger.warning("%s is tried again in %.0f s.", arrival.key, pause)
