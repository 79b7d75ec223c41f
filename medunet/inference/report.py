"""`predict.json`: what became of every case, one whole JSON document at any moment, which a later run can go on from.

Knows nothing of images and networks.
"""

from __future__ import annotations

import json
import logging
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from medunet.atomic import write_text
from medunet.errors import OutputError
from medunet.hashing import file_hash

logger = logging.getLogger("medunet")

REPORT_FILE = "predict.json"

_CHEAP = 1 << 20
"""Characters up to which the report is rewritten after every case: some 1900 cases, 15 ms each time."""

_SHARE = 0.05
"""Share of the time that rewriting a longer report may take."""


@dataclass
class CaseReport:
    """What became of one case; a row of predict.json.

    Attributes:
        case: id.
        input: path it was read from.
        study, series: of DICOM images: their UIDs, hashed; null where the image is none, or none was chosen.
        volume: number of the volume in a series of several, else null.
        identifiers: UIDs and Patient ID in the clear, where they were asked for.
        status: "done", "failed" or "skipped" (its outputs were there already; they are listed all the same).
        seconds: reading, network and writing to the last byte, added up. While it waits for its neighbours nothing
            is counted; since their stages run at the same time, the sum over all cases is more than the run took.
        peak_memory_bytes: of the process from reading to the last byte written, so what the neighbours took in the
            meantime is in it; null where the system does not tell.
        forecast_memory_bytes: what that was expected to be, told before the networks began.
        engine: library that ran the networks.
        volumes_ml: per structure.
        uncertainty: per structure, `entropy` and `disagreement`, 0 (sure) to 1, where they were computed.
        warnings: sentences about the input and the result.
        flags: reasons not to trust the result: name, structure (null: the image) and message of each.
        outputs: path and SHA-256 of each file written.
        error, hint: why it failed and what to do.
    """

    case: str
    input: str
    study: str | None = field(default=None, kw_only=True)
    series: str | None = field(default=None, kw_only=True)
    volume: int | None = field(default=None, kw_only=True)
    identifiers: dict[str, str] = field(default_factory=dict, kw_only=True)
    status: str = "failed"
    seconds: float = 0.0
    peak_memory_bytes: int | None = None
    forecast_memory_bytes: int | None = None
    engine: str = ""
    volumes_ml: dict[str, float] = field(default_factory=dict)
    uncertainty: dict[str, dict[str, float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    flags: list[dict[str, str | None]] = field(default_factory=list)
    outputs: list[dict[str, str]] = field(default_factory=list)
    error: str = ""
    hint: str = ""


def output_entry(path: Path) -> dict[str, str]:
    """Path and SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    return {"path": str(path), "sha256": file_hash(path)}


class Report:
    """The report of a run while it grows; a context that leaves it complete.

    The file is replaced as a whole after every case; one of many thousand cases less often, so that it takes no more
    than a twentieth of the time. A killed run then lacks the last entries; going on, it does those cases again.

    Args:
        path: of the file; None: nothing is written.
        header: all but the cases; `models` and `labels` decide whether an earlier report is of the same task.
        cases: ids, in the order in which they are listed.
        resume: keep the entries that an earlier run left.
        most: how many are kept of cases that come without end, in the place of `cases`; None: `cases` are all.

    Raises:
        OutputError: it cannot be written, here or at the end. In between that is only logged, because the masks
            that are still to come may fit on the disk.
    """

    def __init__(
        self,
        path: Path | None,
        header: Mapping[str, Any],
        cases: Sequence[str] = (),
        *,
        resume: bool,
        most: int | None = None,
    ) -> None:
        self._path = path
        self._most = most
        self._head = json.dumps(header, indent=2, allow_nan=False).removesuffix("\n}")
        self._earlier = _read(path, header) if resume and path is not None else None
        self._cases = list(cases) if most is None else list(self._earlier or {})[-most:]
        wanted = set(self._cases)
        self._texts = {case: _text(entry) for case, entry in (self._earlier or {}).items() if case in wanted}
        self._start = time.monotonic()
        self._spent = 0.0
        self._told = False
        self._write()

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._write()
        except OutputError as problem:
            if kind is None:
                raise
            logger.error("%s", problem)

    def add(self, report: CaseReport) -> None:
        """Take up what became of a case, in the place of what stood there of it."""
        if self._most is not None:
            self._make_room(report.case, self._most)
        self._texts[report.case] = _text(report)
        size = sum(map(len, self._texts.values()))
        if size > _CHEAP and self._spent > _SHARE * (time.monotonic() - self._start):
            return
        try:
            self._write()
        except OutputError as error:
            if not self._told:
                logger.warning("%s The report is tried again after the next case.", error)
            self._told = True

    def _make_room(self, case: str, most: int) -> None:
        """Put a case last, and drop the first ones if there are too many."""
        if case in self._texts:
            self._cases.remove(case)
        self._cases.append(case)
        while len(self._cases) > most:
            del self._texts[self._cases.pop(0)]

    def finished(self, case: str, source: str, outputs: Sequence[Path]) -> tuple[CaseReport | None, str]:
        """What is known of a case whose outputs are all there and are those that the report lists.

        Without an earlier report outputs are taken as they are.

        Args:
            case: id.
            source: path that it would be read from.
            outputs: files that it becomes.

        Returns:
            Its entry, or None if it is to be done (again), and then a sentence that says why, if there is a reason.
        """
        if not all(path.is_file() for path in outputs):
            return None, ""
        try:
            found = [output_entry(path) for path in outputs]
        except OSError as error:
            return None, f"{error.filename} cannot be read ({error.strerror}), so it is predicted again."
        if self._earlier is None:
            return CaseReport(case, source, "skipped", outputs=found), ""
        entry = self._earlier.get(case)
        if entry is None or entry.status == "failed" or _is_other(entry.input, source):
            return None, f"{self._path} does not list what lies in its place as done, so it is predicted again."
        listed = {Path(output["path"]).name: output["sha256"] for output in entry.outputs}
        for output in found:
            if listed.get(Path(output["path"]).name) != output["sha256"]:
                return None, f"{output['path']} is not what {self._path} lists, so it is predicted again."
        return replace(entry, status="skipped", outputs=found), ""

    def _write(self) -> None:
        if self._path is None:
            return
        start = time.monotonic()
        texts = [self._texts[case] for case in self._cases if case in self._texts]
        cases = "[\n" + ",\n".join(texts) + "\n  ]" if texts else "[]"
        try:
            write_text(self._path, f'{self._head},\n  "cases": {cases}\n}}\n')
        finally:
            self._spent += time.monotonic() - start


def _is_other(before: str, now: str) -> bool:
    """Whether a case was read from another file: `a.png`, where it is `a.jpg` now; folders may have moved."""
    names = [Path(each).name for each in (before, now)]
    return names[0] != names[1] and all(Path(name).suffix for name in names)


def _text(report: CaseReport) -> str:
    """An entry as it stands in the file: every one is encoded once, however often the file is written."""
    return textwrap.indent(json.dumps(asdict(report), indent=2, allow_nan=False), "    ")


def _read(path: Path, header: Mapping[str, Any]) -> dict[str, CaseReport] | None:
    """Entries of an earlier report by case; none of them if it is of other models. None: there is no report."""
    try:
        found = json.loads(path.read_bytes())
        models = [model["weights_sha256"] for model in found["models"]]
        entries = [_entry(each) for each in found["cases"]]
        labels = found["labels"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is no report (%s); masks that are there are taken as they are.", path, error)
        return None
    if models != [model["weights_sha256"] for model in header["models"]] or labels != header["labels"]:
        logger.warning("%s is of other models; all cases are predicted again.", path)
        return {}
    return {entry.case: entry for entry in entries}


def _entry(data: Mapping[str, Any]) -> CaseReport:
    """An entry of a file; raises KeyError, TypeError or ValueError if it is none."""
    known = {each.name for each in fields(CaseReport)}
    entry = CaseReport(**{key: value for key, value in data.items() if key in known})
    texts = [entry.case, entry.input, entry.status]
    for output in entry.outputs:
        texts += [output["path"], output["sha256"]]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("an entry is damaged")
    return entry
