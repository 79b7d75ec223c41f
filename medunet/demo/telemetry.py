"""Believable telemetry of a server fleet with its incidents: `make_telemetry`. Knows nothing of files.

A fleet is made of groups (web, application, database, cache, batch), whose servers share their load: it follows the
time of day and the day of the week, and sudden demand. Deployments, nightly jobs and backups, the saw teeth of garbage
collection and samples that got lost are part of normal life. What is not gets a label: spikes, leaks, outages, floods.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter

from medunet.errors import UsageError

LABELS = {"background": 0, "spike": 1, "leak": 2, "outage": 3, "flood": 4}
"""Names and values of the labels, as `LabelMap.from_mapping` takes them."""

METRICS = ("cpu", "ram", "network")
"""What the three channels are, in percent of what the server has."""

MINUTES = 5
"""Between two samples."""

CPU, RAM, NETWORK = range(3)
_PER_DAY, _PER_WEEK = 24 * 60 // MINUTES, 7 * 24 * 60 // MINUTES
_LEAST, _SMALLEST = 2.0, 16  # percent that a server which is up shows at least; servers and samples of a picture
_LOST = 0.002  # share of samples that never came, though the server was up
_VISIBLE = 6.0  # percent of RAM that a leak has taken when its label begins

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Telemetry:
    """Metrics of a fleet and what went wrong in it.

    Attributes:
        values: (3, servers, samples) float64 in percent; 0 where a server was out or a sample got lost.
        labels: uint8 (servers, samples), values as in `LABELS`.
        groups: name of the group of each server.
        start: minutes from Monday 00:00 to the first sample.
    """

    values: Array
    labels: NDArray[np.uint8]
    groups: tuple[str, ...]
    start: int


@dataclass(frozen=True)
class _Kind:
    """A kind of servers: shares of load in percent, as (least, most); what load does to each metric.

    Attributes:
        base: of CPU, RAM, network when nobody works.
        swing: added by full load.
        night: how much of the load comes at night (0: by day).
        teeth: whether garbage collection makes saw teeth in RAM.
        backup: whether its data go through the network once a day.
    """

    base: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    swing: tuple[float, float, float]
    night: float = 0.0
    teeth: bool = False
    backup: bool = False


_KINDS = {
    "web": _Kind(((6, 14), (22, 40), (6, 14)), (40, 6, 45)),
    "app": _Kind(((8, 16), (35, 50), (5, 10)), (45, 8, 25), teeth=True),
    "db": _Kind(((8, 18), (55, 75), (5, 12)), (30, 4, 22), backup=True),
    "cache": _Kind(((4, 8), (60, 80), (8, 16)), (14, 3, 40)),
    "batch": _Kind(((4, 8), (15, 30), (3, 6)), (60, 14, 25), night=1.0),
}


def make_telemetry(seed: int, *, day: int = 0, servers: int = 64, samples: int = 256) -> Telemetry:
    """Draw a day of a fleet; the same call gives the same numbers.

    Args:
        seed: of the fleet: its groups and how busy they are. 0 or greater.
        day: which day of it.
        servers: 16 or more, those of a group one below the other.
        samples: 16 or more, five minutes apart.

    Raises:
        UsageError: a number that is too small.
    """
    if min(seed, day) < 0:
        raise UsageError(f"A seed and a day are 0 or greater, not {seed} and {day}.")
    if min(servers, samples) < _SMALLEST:
        raise UsageError(f"Telemetry needs {_SMALLEST} servers and samples or more, not {servers} and {samples}.")
    fleet, today = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1, day])
    names = _groups(servers, fleet)
    start = int(today.integers(_PER_WEEK)) * MINUTES
    values = np.zeros((3, servers, samples))
    labels = np.zeros((servers, samples), dtype=np.uint8)
    for rows in _blocks(names):
        values[:, rows] = _group(_KINDS[names[rows.start]], rows.stop - rows.start, samples, start, (fleet, today))
        if today.random() < 0.35:
            _deploy(values[:, rows], today)
    _Incidents(values, labels, _blocks(names), today).draw()
    lost = today.random(labels.shape) < _LOST
    values = np.where(lost | (labels == LABELS["outage"]), 0.0, np.clip(values, _LEAST, 100.0))
    return Telemetry(values, labels, names, start)


def as_picture(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Percent (3, servers, samples) to RGB (servers, samples, 3): 0 to 255; what is missing (NaN) is 0, as if out."""
    filled = np.clip(np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0), 0.0, 100.0)
    return np.moveaxis(np.rint(filled * 2.55), 0, -1).astype(np.uint8)


def _groups(servers: int, rng: np.random.Generator) -> tuple[str, ...]:
    """The name of each server's group: three to ten servers of one kind after the other."""
    names: list[str] = []
    kinds = list(_KINDS)
    while len(names) < servers:
        others = [kind for kind in kinds if not names or kind != names[-1]]
        names += [str(rng.choice(others))] * int(rng.integers(3, 11))
    return tuple(names[:servers])


def _blocks(names: tuple[str, ...]) -> list[slice]:
    """The rows of each group."""
    edges = [0, *(row for row in range(1, len(names)) if names[row] != names[row - 1]), len(names)]
    return [slice(first, last) for first, last in itertools.pairwise(edges)]


def _drift(rng: np.random.Generator, shape: tuple[int, ...], memory: float) -> Array:
    """Noise of deviation 1 that forgets slowly: AR(1) along the last axis."""
    white = rng.standard_normal((*shape[:-1], shape[-1] + 64))
    return np.asarray(lfilter([np.sqrt(1 - memory**2)], [1, -memory], white)[..., 64:])


def _group(
    kind: _Kind, servers: int, samples: int, start: int, rngs: tuple[np.random.Generator, np.random.Generator]
) -> Array:
    """(3, servers, samples) of one group on a normal day."""
    fleet, today = rngs
    load = _load(kind, samples, start, fleet, today)
    share = fleet.uniform(0.8, 1.2, (servers, 1))
    load = np.clip(load * share + 0.03 * _drift(today, (servers, samples), 0.7), 0.0, 1.2)
    values = np.empty((3, servers, samples))
    for metric, (low, high) in enumerate(kind.base):
        base = fleet.uniform(low, high) + fleet.normal(0, 1.5, (servers, 1))
        shown = gaussian_filter1d(load, 6.0, axis=1) if metric == RAM else load  # memory follows slowly
        noise = (2.2, 0.5, 2.0)[metric] * _drift(today, (servers, samples), (0.3, 0.9, 0.3)[metric])
        values[metric] = base + kind.swing[metric] * shown + noise
    if kind.backup:
        hour = (start // MINUTES + np.arange(samples)) % _PER_DAY * 24 / _PER_DAY
        window = (hour - fleet.uniform(0, 6)) % 24 < fleet.uniform(0.7, 2.0)
        values[NETWORK] += fleet.uniform(35, 60) * gaussian_filter1d(window.astype(float), 1.0)
    if kind.teeth:
        period = today.uniform(10, 24, (servers, 1))
        values[RAM] += today.uniform(4, 9) * ((np.arange(samples) / period + today.random((servers, 1))) % 1.0)
    return values


def _load(kind: _Kind, samples: int, start: int, fleet: np.random.Generator, today: np.random.Generator) -> Array:
    """What a group has to do, 0 to 1: the hours of work or a job by night, less at weekends, and surges of demand."""
    time = start // MINUTES + np.arange(samples)
    hour, weekend = (time % _PER_DAY) * 24 / _PER_DAY, (time % _PER_WEEK) >= 5 * _PER_DAY
    peak = fleet.uniform(11, 16)
    by_day = np.exp(2.2 * (np.cos((hour - peak) * np.pi / 12) - 1)) * np.where(weekend, fleet.uniform(0.3, 0.7), 1.0)
    first, length = fleet.uniform(0, 5), fleet.uniform(0.7, 2.5)
    by_night = gaussian_filter1d(((hour - first) % 24 < length).astype(float), 1.0)
    load = (1 - kind.night) * by_day + kind.night * (0.8 * by_night + 0.15 * by_day)
    for _ in range(int(today.poisson(0.7))):  # many customers at once: the whole group, slowly, is no incident
        centre, width = today.uniform(0, samples), today.uniform(8, 24)
        load = load + today.uniform(0.1, 0.35) * np.exp(-(((np.arange(samples) - centre) / width) ** 2))
    return np.asarray(load + 0.05 * _drift(today, (samples,), 0.9))


def _deploy(values: Array, rng: np.random.Generator) -> None:
    """Restart the servers of a group one after the other: memory begins anew, processors warm up."""
    samples = values.shape[2]
    moment = int(rng.integers(samples))
    for server in range(values.shape[1]):
        _restart(values[:, server], moment + server, rng)


def _restart(values: Array, moment: int, rng: np.random.Generator) -> None:
    """A server (3, samples) that starts anew: five minutes of work for the processor, memory that fills again."""
    length = values.shape[1] - moment
    if length <= 0:
        return
    values[CPU, moment : moment + 2] += rng.uniform(10, 20)
    values[NETWORK, moment : moment + 1] *= 0.4
    values[RAM, moment:] *= 1 - rng.uniform(0.25, 0.45) * np.exp(-np.arange(length) / rng.uniform(5, 12))


class _Incidents:
    """Draws incidents into values and labels, where nothing has happened yet.

    Args:
        values: (3, servers, samples) percent, changed in place.
        labels: (servers, samples), changed in place.
        blocks: rows of each group.
        rng: of the day.
    """

    def __init__(self, values: Array, labels: NDArray[np.uint8], blocks: list[slice], rng: np.random.Generator) -> None:
        self.values = values
        self.labels = labels
        self.blocks = blocks
        self.rng = rng
        area = labels.size / (64 * 256)
        self.counts = [max(1, int(rng.poisson(mean * area))) for mean in (6, 4, 4, 3)]

    def draw(self) -> None:
        """All of them: long ones first, which find no room later."""
        spikes, leaks, outages, floods = self.counts
        for what, count in ((self.leak, leaks), (self.flood, floods), (self.outage, outages), (self.spike, spikes)):
            for _ in range(count):
                what()

    def _place(self, most: int, whole: float, length: int) -> tuple[slice, slice] | None:
        """Neighbours of one group and a span of time, free of others; None where no room was found in some tries."""
        samples = self.labels.shape[1]
        length = min(length, samples // 2)
        for _ in range(20):
            block = self.blocks[int(self.rng.integers(len(self.blocks)))]
            size = block.stop - block.start
            count = size if self.rng.random() < whole else int(self.rng.integers(1, min(most, size) + 1))
            first = int(self.rng.integers(block.start, block.stop - count + 1))
            begin = int(self.rng.integers(0, samples - length + 1))
            rows, span = slice(first, first + count), slice(begin, begin + length)
            around = slice(max(0, begin - 3), begin + length + 3)
            if not self.labels[rows, around].any():
                return rows, span
        return None

    def spike(self) -> None:
        """Processor and network at their limits for a quarter to one and a half hours, at once."""
        found = self._place(3, 0.15, int(self.rng.integers(3, 19)))
        if found is None:
            return
        rows, span = found
        shape = self.values[CPU, rows, span].shape
        for metric, (low, high) in ((CPU, (75, 100)), (NETWORK, (50, 90))):
            level = self.rng.uniform(low, high) + self.rng.normal(0, 3, shape)
            self.values[metric, rows, span] = np.maximum(self.values[metric, rows, span] + 25, level)
        self.values[RAM, rows, span] += self.rng.uniform(2, 8)
        self.labels[rows, span] = LABELS["spike"]

    def leak(self) -> None:
        """Memory that rises for hours until it is nearly full; a restart ends it, or the picture."""
        found = self._place(2, 0.0, int(self.rng.integers(36, 150)))
        if found is None:
            return
        rows, span = found
        for row in range(rows.start, rows.stop):
            way = np.linspace(0.0, 1.0, span.stop - span.start) ** self.rng.uniform(0.8, 1.5)
            gain = way * (self.rng.uniform(92, 99) - self.values[RAM, row, span])
            self.values[RAM, row, span] += gain
            self.values[CPU, row, span] += 10 * way**6  # at the end it is busy with finding memory
            self.labels[row, span] = np.where(gain >= _VISIBLE, LABELS["leak"], 0)
            _restart(self.values[:, row], span.stop, self.rng)

    def outage(self) -> None:
        """Nothing comes from a server, or a whole group, for a quarter to three hours; then it starts."""
        found = self._place(2, 0.3, int(self.rng.integers(3, 37)))
        if found is None:
            return
        rows, span = found
        self.labels[rows, span] = LABELS["outage"]
        for row in range(rows.start, rows.stop):
            _restart(self.values[:, row], span.stop, self.rng)

    def flood(self) -> None:
        """The network full, the processor a little busier, for twenty minutes to two hours."""
        found = self._place(6, 0.5, int(self.rng.integers(4, 25)))
        if found is None:
            return
        rows, span = found
        shape = self.values[NETWORK, rows, span].shape
        level = self.rng.uniform(80, 99) + self.rng.normal(0, 2, shape)
        self.values[NETWORK, rows, span] = np.maximum(self.values[NETWORK, rows, span], level)
        self.values[CPU, rows, span] += self.rng.uniform(5, 15)
        self.labels[rows, span] = LABELS["flood"]
