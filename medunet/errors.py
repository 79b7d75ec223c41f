"""Every error that medunet raises on purpose, in one tree.

    MedunetError                      exit 1
    ├── UsageError                    exit 2   the call itself is wrong: a path, an option
    │   └── ConfigError               exit 2   the YAML; carries every problem at once
    ├── DataError                     exit 1   the data is not what it must be
    │   ├── ReadError                          a file that cannot be read
    │   ├── GeometryError                      spacing, affine, grids that do not agree
    │   ├── DicomError                         a series that is not one regular volume
    │   └── DatasetError                       a data set; carries every problem at once
    ├── ModelError                    exit 1   a model folder that is damaged or does not fit, a network that gives NaN
    ├── DeviceError                   exit 1   a device or engine that is not there
    │   └── OutOfMemoryError                   a device, or the memory that may be taken, is too small
    ├── TrainingError                 exit 1   a training run that cannot go on
    ├── OutputError                   exit 1   a result that cannot be written
    └── Interrupted                   exit 130 stopped by the user, state saved

Knows nothing of files, arrays or terminals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class MedunetError(Exception):
    """An error that a user can act on.

    Args:
        message: one sentence: the rule that was broken and the value that broke it.
        hint: what to do about it; empty where the message says it.
    """

    exit_code = 1
    told = False
    """Whether another process of the same training tells it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.message, self.hint))


class UsageError(MedunetError):
    """The command or call is wrong: an option, a path that does not exist."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration or a data set.

    Attributes:
        where: `file:line`, a case id or a path; empty if nowhere in particular.
        what: the key path, or what was looked at.
        value: the offending value as written, or empty.
        rule: what is allowed.
        hint: a suggestion, for example the nearest valid name.
    """

    where: str
    what: str
    rule: str
    value: str = ""
    hint: str = ""

    def __str__(self) -> str:
        head = ": ".join(part for part in (self.where, self.what) if part)
        value = f" is {self.value}" if self.value else ""
        hint = f" {self.hint}" if self.hint else ""
        return f"{head}{value}: {self.rule}{hint}"


class _ManyProblems(MedunetError):
    """An error that lists every problem found instead of the first one."""

    def __init__(self, message: str, hint: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(message, hint)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {problem}" for problem in self.problems)])

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.message, self.hint, self.problems))


class ConfigError(_ManyProblems, UsageError):
    """A configuration that cannot be used; `problems` holds all that is wrong."""


class DataError(MedunetError):
    """Data that is not what it must be."""


class ReadError(DataError):
    """A file that cannot be read: missing, truncated, another format than its name says."""


class GeometryError(DataError):
    """A spacing, affine or grid that is impossible or does not match another."""


class DicomError(DataError):
    """A DICOM export that does not hold exactly one regular volume."""


class DatasetError(_ManyProblems, DataError):
    """A data set that cannot be trained or evaluated on; `problems` holds all that is wrong."""


class ModelError(MedunetError):
    """A model folder that is incomplete, damaged or does not fit the input."""


class DeviceError(MedunetError):
    """A device that was asked for and is not there, or that ran out of memory."""


class OutOfMemoryError(DeviceError):
    """A device, or the memory that may be taken, is too small."""


class TrainingError(MedunetError):
    """A training run that cannot start or go on."""


class OutputError(MedunetError):
    """A result that cannot be written: no permission, no space."""


class Interrupted(MedunetError):
    """The user stopped the work (SIGINT, SIGTERM); what was done so far is saved."""

    exit_code = 130
