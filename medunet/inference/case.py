"""One case on its way from an input to its output files, in three stages; what goes wrong becomes its report."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from medunet.atomic import make_folder
from medunet.errors import DeviceError, MedunetError, OutputError, UsageError
from medunet.export.formats import FORMATS
from medunet.export.nifti import write_nifti_array
from medunet.export.picture import write_overlay
from medunet.geometry import format_shape
from medunet.inference.inputs import Input
from medunet.inference.memory import PeakMeter
from medunet.inference.predictor import Prediction, Predictor
from medunet.inference.report import CaseReport, output_entry
from medunet.io.mapped import blocks
from medunet.io.selection import Selection
from medunet.io.volume import Volume

logger = logging.getLogger("medunet")

_FLAT = 2

Finished = Callable[[str, str, list[Path]], tuple[CaseReport | None, str]]
"""Case, input and outputs to the entry of a case that is done already; see `Report.finished`."""


@dataclass(frozen=True)
class Targets:
    """Files that one case becomes.

    Attributes:
        masks: by name of their format.
        probabilities: None: they are not wanted.
        maps: by name; empty: they are not wanted.
        overlay: None: it is not wanted.
        of_volume: mask by the name of its format in the place of `masks`, should the picture turn out to be a volume;
            None: then that is refused.
    """

    masks: Mapping[str, Path]
    probabilities: Path | None
    maps: Mapping[str, Path] = field(default_factory=dict)
    overlay: Path | None = None
    of_volume: Mapping[str, Path] | None = None

    @property
    def probable(self) -> bool:
        """Whether probabilities must be computed."""
        return self.probabilities is not None or any(FORMATS[name].probabilities for name in self.masks)

    def paths(self) -> list[Path]:
        """All of them."""
        others = [path for path in (self.probabilities, self.overlay) if path is not None]
        return [*self.masks.values(), *others, *self.maps.values()]

    def if_volume(self) -> Targets:
        """What a volume becomes."""
        return self if self.of_volume is None else replace(self, masks=self.of_volume, of_volume=None)


class CaseWork:
    """A case that is read, computed and written: a `pipeline.Work`. Lets go of what the next stage does not need.

    Args:
        predictor: loaded model(s).
        entry: what to read.
        targets: what to write.
        selection: which volume of a DICOM study, and how it is read.
        meter: of the process; shared by all cases that overlap.
        finished: finds cases that need no work; None: all do.

    Attributes:
        entry: what is read.
        report: complete when `write` has returned.
        passing: whether what went wrong may be gone later: the disk was full, a device out of memory.
    """

    def __init__(
        self,
        predictor: Predictor,
        entry: Input,
        targets: Targets,
        *,
        selection: Selection,
        meter: PeakMeter,
        finished: Finished | None = None,
    ) -> None:
        self.report = CaseReport(
            entry.id, str(entry.paths[0]), study=entry.series[0].study_id if entry.series else None
        )
        self._predictor = predictor
        self.entry = entry
        self._targets = targets
        self._selection = selection
        self._meter = meter
        self._finished = finished
        self._volume: Volume | None = None
        self._shown: Volume | None = None
        self._prediction: Prediction | None = None
        self._seconds = 0.0
        self._note = ""
        self._error: Exception | None = None
        self.passing = False

    def read(self) -> None:
        """Read the image, unless the case is done already."""
        self._meter.begin(self)
        with self._stage():
            if self._is_finished():
                return
            folder = make_folder(self._targets.paths()[0].parent)
            channels = len(self._predictor.spec.modality)
            volume = self.entry.read(self._selection, channels=channels, scratch=folder)
            if volume.geometry.rank > _FLAT:
                self._targets = self._targets.if_volume()
            self.report.warnings.extend([*self.entry.notes, *volume.source.notes])
            series = volume.source.series
            if series is not None:
                self.report.study, self.report.series = series.study_id, series.id
                self.report.volume = series.number or None
            check_source(self._targets.masks, volume)
            self._volume = volume

    def compute(self) -> None:
        """Segment it."""
        volume, self._volume = self._volume, None
        if volume is None:
            return
        self._shown = volume if self._targets.overlay is not None else None
        with self._stage():
            self._prediction = self._predictor(
                volume,
                probabilities=self._targets.probable,
                uncertainty=bool(self._targets.maps),
                scratch=self._targets.paths()[0].parent,
            )

    def write(self) -> None:
        """Write the files and complete the report."""
        prediction, self._prediction = self._prediction, None
        if prediction is not None:
            with self._stage():
                self._write(prediction)
        self._shown = None
        peak = self._meter.end(self)
        if self.report.status != "skipped":
            self.report.seconds = round(self._seconds, 3)
            self.report.peak_memory_bytes = peak

    def tell(self) -> None:
        """Log what a user should know of it, in the thread and at the moment that the caller chooses."""
        if self._note:
            logger.warning("%s: %s", self.report.case, self._note)
        if self._error is not None:
            logger.debug("%s: %s", self.report.case, self._trace(self._error))
        log_outcome(self.report)

    def _trace(self, error: Exception) -> str:
        """Where an error came from; of DICOM without what it says, for libraries quote headers, and names with them."""
        if not self.entry.series:
            return "".join(traceback.format_exception(error))
        return "".join([*traceback.format_tb(error.__traceback__), type(error).__name__])

    def _is_finished(self) -> bool:
        if self._finished is None:
            return False
        known, self._note = self._finished(self.report.case, self.report.input, self._targets.paths())
        if known is None and not self._note and self._targets.of_volume is not None:
            wanted = self._targets.if_volume().paths()
            known, self._note = self._finished(self.report.case, self.report.input, wanted)
        if known is not None and is_of_other(known, self.entry, self._selection):
            known, self._note = None, OTHER_VOLUME
        if known is not None:
            self.report = known
        return known is not None

    def _write(self, prediction: Prediction) -> None:
        report = self.report
        together = tuple(self._targets.masks)
        for name, path in self._targets.masks.items():
            report.outputs.append(output_entry(prediction.save(path, wanted=name, together=together)))
        probable = self._targets.probabilities
        if probable is not None and prediction.probabilities is not None:
            write_nifti_array(prediction.probabilities, prediction.geometry, prediction.source, probable)
            report.outputs.append(output_entry(probable))
        for name, path in self._targets.maps.items():
            write_nifti_array(prediction.maps[name], prediction.geometry, prediction.source, path)
            report.outputs.append(output_entry(path))
        if self._targets.overlay is not None and self._shown is not None:
            write_overlay(self._targets.overlay, self._shown, prediction)
            report.outputs.append(output_entry(self._targets.overlay))
        report.forecast_memory_bytes, report.engine = prediction.forecast_bytes, prediction.engine
        report.uncertainty = {name: _short(each) for name, each in prediction.uncertainty.items()}
        report.flags = [asdict(flag) for flag in prediction.flags]
        report.volumes_ml = {name: round(ml, 3) for name, ml in prediction.volumes_ml().items()}
        if not any(part.any() for part in blocks(prediction.array)):
            report.warnings.append("No structure was found; the mask is empty.")
        report.status = "done"

    @contextmanager
    def _stage(self) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        except Exception as error:  # whatever is wrong with one case, the others are worth their masks
            self._fail(error)
        finally:
            self._seconds += time.monotonic() - start

    def _fail(self, error: Exception) -> None:
        if isinstance(error, MemoryError):
            error = DeviceError("The computer ran out of memory.", "Close other programs, or predict on a larger one.")
        self.passing = isinstance(error, DeviceError | OutputError)
        if isinstance(error, MedunetError):
            self.report.error, self.report.hint = error.message, error.hint
        else:
            self._error = error
            said = "" if self.entry.series else f": {error}"
            self.report.error = f"Something unexpected went wrong: {type(error).__name__}{said}"
            self.report.hint = "Please report this, with what -v prints."


OTHER_VOLUME = "The mask that is there is of another volume of the study, so it is predicted again."


def is_of_other(report: CaseReport, entry: Input, selection: Selection) -> bool:
    """Whether a case that is done was another volume of its DICOM study than the one that is meant now."""
    if not entry.series or report.series is None:
        return False
    return entry.meant(selection) != (report.series, report.volume or 0)


def check_source(formats: Iterable[str], volume: Volume) -> None:
    """Refuse formats that refer to DICOM images for what did not come as DICOM, and formats of pictures for volumes.

    Raises:
        UsageError: one of them is such.
    """
    flat = [name for name in formats if FORMATS[name].flat]
    if flat and volume.geometry.rank > _FLAT:
        raise UsageError(
            f"{flat[0]} holds pictures, but {volume.source.path} is a volume of "
            f"{format_shape(volume.geometry.shape)} voxels.",
            "Write nifti or nrrd; --overlay draws slices of it as PNG.",
        )
    wanted = [name for name in formats if FORMATS[name].dicom]
    if wanted and volume.source.series is None:
        raise UsageError(
            f"{wanted[0]} refers to DICOM images, but {volume.source.path} holds none.",
            "Give the DICOM export, or write a NIfTI mask and convert it: "
            "medunet convert MASK -o OUTPUT --reference SERIES.",
        )


def _short(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in numbers.items()}


def log_outcome(report: CaseReport) -> None:
    """Log the error of a failed case, the warnings of one that is done, nothing of one that was skipped."""
    if report.status == "failed":
        logger.error("%s failed: %s", report.case, f"{report.error} {report.hint}".rstrip())
    elif report.status == "done":
        for warning in (*report.warnings, *(flag["message"] for flag in report.flags)):
            logger.warning("%s: %s", report.case, warning)
