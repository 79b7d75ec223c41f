"""The way through an image: tiles only where memory is short, the forecast, refusals with numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medunet.config.schema import IntensityNone, PreprocessConfig
from medunet.errors import OutOfMemoryError
from medunet.geometry import Geometry
from medunet.inference.plan import Budget, looked_at, plan
from medunet.io.volume import Volume
from medunet.labels import LabelMap
from medunet.postprocess import WORKING_BYTES
from medunet.sliding_window.network import Way
from medunet.transforms.preprocess import PreparedImage
from medunet.transforms.restore import LabelRows, empty_labels

LABELS = LabelMap.from_mapping({"background": 0, "organ": 1, "other": 2, "third": 3})


def prepared(shape: tuple[int, ...], spacing: tuple[float, ...] | None = None) -> PreparedImage:
    array = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    config = PreprocessConfig(spacing=spacing, intensity=(IntensityNone(name="none"),))
    return PreparedImage(Volume(array, Geometry.plain(shape, (1.0,) * len(shape))), config)


def local(patches: Tensor) -> Tensor:
    """Logits that depend on a voxel and its neighbours along the last axis."""
    return torch.cat([patches, patches.roll(1, -1), -patches, 0.5 - patches.roll(-1, -1)], 1)


def segmented(image: PreparedImage, way: Way, limit: int) -> tuple[np.ndarray, int]:
    way_through = plan(image, [way], LABELS, Budget(0, limit, 0))
    result = empty_labels(image.record, LABELS)
    for tile in way_through.tiles:
        image.look_at(looked_at(image, [way], tile))
        rows = LabelRows(result, image.record, LABELS, way_through.axis, tile)
        for logits in way.rows(image, local, way_through.axis, tile.network):
            rows.add(logits)
    return result, len(way_through.tiles)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(*[st.integers(5, 40)] * 3),
    spacing=st.none() | st.tuples(*[st.floats(0.5, 2.5)] * 3),
    share=st.floats(0.3, 0.95),
)
def test_tiles_change_no_label(shape: tuple[int, ...], spacing: tuple[float, ...] | None, share: float) -> None:
    way = Way((12, 8, 10))
    image = prepared(shape, spacing)
    whole = plan(image, [way], LABELS, Budget(0, 10**12, 0))
    assert len(whole.tiles) == 1
    expected, _ = segmented(image, way, 10**12)
    try:
        found, _ = segmented(prepared(shape, spacing), way, int(share * whole.peak_bytes))
    except OutOfMemoryError:
        return
    np.testing.assert_array_equal(found, expected)


def test_a_smaller_limit_takes_more_tiles_and_more_windows() -> None:
    image, way = prepared((64, 64, 128)), Way((16, 16, 16))
    whole = plan(image, [way], LABELS, Budget(0, 10**9, 0)).peak_bytes
    limits = [whole - less for less in (0, 1, 1_405_000)]
    found = [plan(image, [way], LABELS, Budget(0, limit, 0)) for limit in limits]
    assert len(found[0].tiles) == 1
    assert len({len(each.tiles) for each in found}) == 3
    assert [each.windows for each in found] == sorted(each.windows for each in found)
    for each, limit in zip(found, limits, strict=True):
        assert each.peak_bytes <= limit


def test_what_the_process_holds_already_counts() -> None:
    image, way = prepared((64, 64, 128)), Way((16, 16, 16))
    alone = plan(image, [way], LABELS, Budget(0, 10**9, 0)).peak_bytes
    assert plan(image, [way], LABELS, Budget(10**6, 10**9, 10**7)).peak_bytes == alone + 10**6 + 10**7


def test_telling_objects_apart_takes_its_memory_when_the_networks_are_done() -> None:
    image, way = prepared((64, 64, 256)), Way((8, 8, 8))
    kept = 64 * 64 * 256 * (LABELS.index_dtype.itemsize + 1)
    afterwards = kept + 64 * 64 * 256 * WORKING_BYTES
    assert plan(image, [way], LABELS, Budget(0, 10**9, 0, heights=1)).peak_bytes == afterwards
    plain, cut = (plan(image, [way], LABELS, Budget(0, 10**9, 10**8, heights=each)).peak_bytes for each in (0, 1))
    assert plain + 64 * 64 * 256 <= cut < plain + afterwards
    with pytest.raises(OutOfMemoryError):
        plan(image, [way], LABELS, Budget(0, afterwards - 1, 0, heights=1))


def test_a_limit_that_no_window_fits_is_refused_with_the_number_that_would_do() -> None:
    image, way = prepared((64, 64, 128)), Way((16, 16, 16))
    with pytest.raises(OutOfMemoryError, match=r"takes \d+ MB of memory at least; 2 MB may be taken") as caught:
        plan(image, [way], LABELS, Budget(0, 2_000_000, 0))
    megabytes = int(caught.value.message.split("takes ")[1].split()[0])
    plan(image, [way], LABELS, Budget(0, megabytes * 10**6, 0))


def test_logits_on_a_device_count_against_its_own_memory() -> None:
    image, way = prepared((64, 64, 128)), Way((16, 16, 16))
    roomy = plan(image, [way], LABELS, Budget(0, 10**9, 0, device=10**9))
    assert 0 < roomy.device_bytes < 10**9
    tight = plan(image, [way], LABELS, Budget(0, 10**9, 0, device=roomy.device_bytes - 1))
    assert len(tight.tiles) > 1
    assert "on the device" in tight.describe()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets the peak")
@pytest.mark.parametrize("case", [(60, (160, 160, 200), None), (60, (160, 160, 200), 0.9), (3, (100, 110, 120), None)])
def test_the_forecast_is_within_a_fifth_of_the_peak(case: tuple[int, tuple[int, ...], float | None]) -> None:
    script = Path(__file__).with_name("forecast_memory.py")
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(case)], capture_output=True, text=True, check=True, timeout=300
    )
    forecast, peak, limit = json.loads(done.stdout)
    assert 0.8 * peak < forecast < 1.2 * peak
    assert limit is None or (forecast <= limit and peak < 1.1 * limit)
