"""Telemetry that is believable: incidents look as their names say, and normal life has its own bumps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage

from medunet.demo.telemetry import CPU, LABELS, NETWORK, RAM, Telemetry, as_picture, make_telemetry
from medunet.errors import UsageError
from medunet.labels import LabelMap


@pytest.fixture(scope="module")
def days() -> list[Telemetry]:
    return [make_telemetry(seed, day=day) for seed in range(6) for day in range(2)]


def where(days: list[Telemetry], name: str, metric: int) -> np.ndarray:
    return np.concatenate([day.values[metric][day.labels == LABELS[name]] for day in days])


def test_the_labels_make_a_label_map() -> None:
    assert LabelMap.from_mapping(LABELS).names == ("background", "spike", "leak", "outage", "flood")


def test_a_day_has_percent_of_three_metrics_and_a_label_per_server_and_sample(days: list[Telemetry]) -> None:
    for day in days:
        assert day.values.shape == (3, 64, 256)
        assert day.labels.shape == (64, 256)
        assert len(day.groups) == 64
        assert day.values.min() >= 0
        assert day.values.max() <= 100
        assert 0.8 < (day.labels == 0).mean() < 0.995


def test_every_incident_occurs(days: list[Telemetry]) -> None:
    assert set(np.unique([day.labels for day in days])) == set(LABELS.values())


def test_incidents_look_as_their_names_say(days: list[Telemetry]) -> None:
    normal = [np.median(where(days, "background", metric)) for metric in (CPU, RAM, NETWORK)]
    assert np.median(where(days, "spike", CPU)) > normal[CPU] + 40
    assert np.median(where(days, "spike", NETWORK)) > normal[NETWORK] + 30
    assert np.median(where(days, "flood", NETWORK)) > 80
    assert np.median(where(days, "flood", CPU)) < 60
    for metric in (CPU, RAM, NETWORK):
        assert where(days, "outage", metric).max() == 0


def test_a_leak_rises_to_the_brim(days: list[Telemetry]) -> None:
    seen = 0
    for day in days:
        runs, count = ndimage.label(day.labels == LABELS["leak"], structure=[[0, 0, 0], [1, 1, 1], [0, 0, 0]])
        for server, span in ndimage.find_objects(runs)[:count]:
            memory = day.values[RAM, server, span].ravel()
            memory = memory[memory > 0]
            if len(memory) > 30:
                seen += 1
                assert memory[-3:].mean() > memory[:3].mean() + 5
                assert memory.max() > 85
    assert seen > 10


def test_samples_get_lost_and_restarts_happen_without_being_incidents(days: list[Telemetry]) -> None:
    lost = np.mean([((day.values[CPU] == 0) & (day.labels == 0)).mean() for day in days])
    assert 0.0005 < lost < 0.005


def test_the_servers_of_a_group_share_their_load() -> None:
    inside, across = [], []
    for seed in range(4):
        day = make_telemetry(seed)
        up = np.where(day.labels == 0, day.values[CPU], np.nan)
        usable = [row for row in range(64) if not np.isnan(up[row]).any() and (up[row] > 0).all()]
        for first, second in itertools.pairwise(usable):
            pair = np.corrcoef(up[first], up[second])[0, 1]
            (inside if day.groups[first] == day.groups[second] else across).append(pair)
    assert np.mean(inside) > np.mean(across) + 0.2


def test_the_same_call_gives_the_same_numbers_and_another_day_others() -> None:
    first, again, other = make_telemetry(3), make_telemetry(3), make_telemetry(3, day=1)
    np.testing.assert_array_equal(first.values, again.values)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.groups == other.groups
    assert (first.values != other.values).any()


@pytest.mark.parametrize(
    "options", [{"seed": -1}, {"seed": 0, "day": -1}, {"seed": 0, "servers": 15}, {"seed": 0, "samples": 3}]
)
def test_numbers_that_cannot_be_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        make_telemetry(**options)


@pytest.mark.parametrize(("servers", "samples"), [(16, 16), (17, 300), (100, 50)])
def test_any_size_can_be_drawn(servers: int, samples: int) -> None:
    assert make_telemetry(1, servers=servers, samples=samples).labels.shape == (servers, samples)


def test_percent_become_bytes_and_what_is_missing_is_dark() -> None:
    picture = as_picture(np.array([[[0.0, 100.0, np.nan, 150.0]], [[60.0, 1, 2, 3]], [[-5.0, 0, 0, 0]]]))
    assert picture.dtype == np.uint8
    assert picture.shape == (1, 4, 3)
    assert picture[0, :, 0].tolist() == [0, 255, 0, 255]
    assert picture[0, 0].tolist() == [0, 153, 0]
