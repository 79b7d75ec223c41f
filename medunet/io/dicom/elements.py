"""Values of single DICOM elements, read with doubt.

Works on the raw bytes that pydicom hands out, so an over-long decimal string, an unknown character set or a wrong
VR costs one value and never a warning on the terminal. Knows nothing of images or series.
"""

from __future__ import annotations

import math
import re
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.tag import BaseTag, Tag

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_NUMERIC = frozenset({*_BINARY, "DS", "IS"})
_TEXTS = frozenset({None, "CS", "LO", "SH"})
_SHOWN = 40
_QUOTED = re.compile(r"""b?'[^']*'|b?"[^"]*"|\b[0-9]{8,}\b""")


class _Silence:
    """How many threads want Python's warnings silenced; its filters belong to the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = 0
        self._filters = warnings.catch_warnings()

    def begin(self) -> None:
        with self._lock:
            if not self._wanted:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._wanted += 1

    def end(self) -> None:
        with self._lock:
            self._wanted -= 1
            if not self._wanted:
                self._filters.__exit__(None, None, None)


_SILENCE = _Silence()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of pydicom and its codecs.

    Threads share the silence instead of waiting for each other: the first one begins it, the last one ends it.
    """
    _SILENCE.begin()
    try:
        yield
    finally:
        _SILENCE.end()


@cache
def _known(keyword: str) -> tuple[BaseTag, str]:
    """Tag and VR, which the dictionary takes long to tell."""
    return Tag(keyword), dictionary_VR(keyword)


def reason_of(error: BaseException) -> str:
    """What a library says of a damaged file, on one line, without the values that it quotes: they may be a name."""
    said = _QUOTED.sub("...", " ".join(str(error).split()))
    return said[:160] or type(error).__name__


def _item(dataset: Any, keyword: str) -> Any:
    """The element; None if it is absent, or a sequence, whose text pydicom may take minutes to make up."""
    item = dataset.get_item(_known(keyword)[0])
    return None if item is None or item.VR == "SQ" else item


def _clean(value: str) -> str:
    """Without control characters, which a terminal would obey, padding and double blanks."""
    if not value.isprintable():
        value = "".join(c if c.isprintable() else " " for c in value)
    return " ".join(value.split())


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return _clean(value.decode("latin-1"))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "\\".join(str(part) for part in value)
    return str(value)


def text(dataset: Any, keyword: str) -> str:
    """Value of a string element without padding and control characters, parts joined by backslashes; "" if absent."""
    item = _item(dataset, keyword)
    return "" if item is None else _as_text(item.value)


def parts(dataset: Any, keyword: str) -> tuple[str, ...]:
    """The backslash-separated parts of a string element, each without padding."""
    whole = text(dataset, keyword)
    return tuple(part.strip() for part in whole.split("\\")) if whole else ()


def printable(dataset: Any, keyword: str) -> str:
    """Text in its character set, made safe for terminals and tables: no control characters, at most 64 long."""
    item = _item(dataset, keyword)
    if item is None:
        return ""
    value = _plain_text(item)
    if value is None:
        try:
            value = str(dataset.get(keyword, "") or "")
        except Exception:  # pydicom raises a dozen types for a broken character set; the text is only shown
            value = text(dataset, keyword)
    return _clean(value)[:64]


def _plain_text(item: Any) -> str | None:
    """The text of an element that says the same in every character set; None of any other."""
    value = None if item is None or item.VR not in _TEXTS else item.value
    if not isinstance(value, bytes) or not value.isascii():
        return None
    # Of ASCII, one Japanese set has replaced the backslash and the tilde; an escape begins another set.
    return None if any(code in value for code in b"\\~\x1b") else value.decode("ascii")


def numbers(dataset: Any, keyword: str) -> tuple[float, ...]:
    """All values of a numeric element (DS, IS, US, FD, ...); () if absent or empty.

    Decimal strings may be longer than the 16 characters of PS3.5 section 6.2: scanners write such.

    Raises:
        ValueError: it holds something that is no finite number.
    """
    item = _item(dataset, keyword)
    if item is None or item.value in (None, b"", ""):
        return ()
    code = _BINARY.get(item.VR if item.VR in _NUMERIC else _known(keyword)[1])
    if isinstance(item.value, bytes) and code:
        order = "<" if item.is_little_endian else ">"
        count = len(item.value) // struct.calcsize(code)
        values = tuple(float(v) for v in struct.unpack_from(f"{order}{count}{code}", item.value))
    else:
        values = _from_text(_as_text(item.value), keyword)
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"{keyword} holds a value that is not finite")
    return values


def _from_text(whole: str, keyword: str) -> tuple[float, ...]:
    if not whole:
        return ()
    try:
        if "_" in whole:  # float() would take 1_000
            raise ValueError
        return tuple(float(part) for part in whole.split("\\"))
    except ValueError:
        raise ValueError(f"{keyword} is {whole[:_SHOWN]!r} where numbers are needed") from None


def number(dataset: Any, keyword: str) -> float | None:
    """First value of a numeric element, None if absent.

    Raises:
        ValueError: it is no finite number.
    """
    values = numbers(dataset, keyword)
    return values[0] if values else None


def count(dataset: Any, keyword: str, default: int = 0) -> int:
    """A whole number such as Rows, or `default` if absent.

    Raises:
        ValueError: it is no whole number.
    """
    value = number(dataset, keyword)
    if value is None:
        return default
    if value != int(value):
        raise ValueError(f"{keyword} is {value:g} where a whole number is needed")
    return int(value)


def shown(dataset: Any, keyword: str) -> str:
    """Any element as short text, to tell images apart by: 4.90 and 4.9 are one value; "" if absent."""
    if _known(keyword)[1] in _NUMERIC:
        try:
            return "\\".join(f"{value:.10g}" for value in numbers(dataset, keyword))
        except ValueError:  # told apart by what is written, then
            return text(dataset, keyword)
    return text(dataset, keyword)


def items(dataset: Any, keyword: str) -> tuple[Any, ...]:
    """The data sets of a sequence, () if it is absent."""
    return tuple(dataset[keyword].value or ()) if keyword in dataset else ()
