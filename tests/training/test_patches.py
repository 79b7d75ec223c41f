"""Sample n is the same whoever computes it; patches fit wherever they are cut."""

from __future__ import annotations

import gc
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medunet.config.losses import BoundaryWeightedConfig
from medunet.errors import DataError, TrainingError
from medunet.geometry import Geometry, Reorientation
from medunet.labels import LabelMap
from medunet.training.blocks import to_blocks
from medunet.training.cache import KNOWN, CachedCase, prepare_weights
from medunet.training.loader import patch_loader
from medunet.training.patches import PatchDataset, cut_mirrored, cut_padded, patch_shape
from medunet.training.ranks import Ranks
from medunet.transforms.preprocess import Record


def case(folder: Path, name: str, image: Any, label: Any) -> CachedCase:
    """A preprocessed case: image (C, *S), label (*S)."""
    target = folder / name
    target.mkdir()
    np.save(target / "image.npy", to_blocks(image.astype(np.float32), (5, 4, 3)[: label.ndim]))
    np.save(target / "label.npy", to_blocks(label[None], (5, 4, 3)[: label.ndim]))
    voxels = {str(index): np.argwhere(label == index) for index in np.unique(label) if index not in (0, 255)}
    if 255 in label:
        voxels[str(KNOWN)] = np.argwhere(label != 255)
    np.savez(target / "locations.npz", **voxels)
    grid = Geometry.plain(label.shape)
    axes = tuple(range(label.ndim))
    return CachedCase(
        name, target, Record(grid, Reorientation(axes, (False,) * label.ndim), (0,) * label.ndim, label.shape, grid)
    )


@pytest.fixture
def cases(tmp_path: Path) -> list[CachedCase]:
    """Three cases whose image values name the case, with one labelled voxel each, in a corner."""
    result = []
    for number in range(3):
        label = np.zeros((12, 10, 9), np.uint8)
        label[11, 0, 8] = 1
        result.append(case(tmp_path, f"case_{number}", np.full((1, 12, 10, 9), 1.0 + number), label))
    return result


@pytest.fixture
def dataset(cases: list[CachedCase], make_config: Callable[..., Any]) -> Callable[..., PatchDataset]:
    def make(changes: dict[str, Any] | None = None, among: list[CachedCase] | None = None) -> PatchDataset:
        base = {"augment": {"preset": "none"}, "train.patch_size": [4, 4, 4]}
        among = cases if among is None else among
        config = make_config(Path("unused"), {**base, **(changes or {})})
        return PatchDataset(among, config, (1.0,) * among[0].record.network.rank)

    return make


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], two[key]) for key in ("image", "label"))


def test_a_sample_depends_on_its_number_alone(dataset: Callable[..., PatchDataset]) -> None:
    one, two = dataset({"augment": {"preset": "nnunet"}}), dataset({"augment": {"preset": "nnunet"}})
    forward = {number: one[number] for number in range(20)}
    np.random.seed(1)
    torch.manual_seed(1)
    backward = {number: two[number] for number in reversed(range(20))}
    assert all(same(forward[number], backward[number]) for number in forward)
    assert not same(forward[0], forward[3])


def test_another_seed_gives_other_samples(dataset: Callable[..., PatchDataset]) -> None:
    changes = {"augment": {"preset": "nnunet"}}
    one, two = dataset(changes), dataset({**changes, "seed": 1})
    assert sum(same(one[number], two[number]) for number in range(12)) < 12


def test_every_pass_sees_every_case_once_in_another_order(dataset: Callable[..., PatchDataset]) -> None:
    samples = dataset()
    order = [int(samples[number]["image"].max()) for number in range(30)]
    passes = [tuple(order[start : start + 3]) for start in range(0, 30, 3)]
    assert all(sorted(one) == [1, 2, 3] for one in passes)
    assert len(set(passes)) > 2


@pytest.mark.parametrize(
    ("batch", "share", "expected"),
    [(2, 0.33, 1 / 2), (3, 0.33, 1 / 3), (4, 0.33, 1 / 4), (4, 0.5, 1 / 2), (2, 0.0, 0), (2, 1.0, 1), (1, 0.33, 0.33)],
)
def test_that_share_of_the_samples_is_centred_on_a_label(
    dataset: Callable[..., PatchDataset], batch: int, share: float, expected: float
) -> None:
    """The labelled voxel lies in a corner where a random patch of 4 of 12 x 10 x 9 voxels hardly ever reaches."""
    samples = dataset({"train.batch_size": batch, "train.foreground": share})
    hits = [bool(samples[number]["label"].any()) for number in range(300)]
    assert sum(hits) / 300 == pytest.approx(expected, abs=0.03)
    if batch > 1 and expected:
        per_batch = [sum(hits[start : start + batch]) for start in range(0, 300 - batch, batch)]
        assert min(per_batch) >= round(expected * batch)  # in every batch, not on average


def test_labels_are_chosen_equally_often_however_large_they_are(
    dataset: Callable[..., PatchDataset], tmp_path: Path
) -> None:
    label = np.zeros((30, 30, 30), np.uint8)
    label[:20, :20, :20] = 1
    label[28, 28, 28] = 2
    one = case(tmp_path, "uneven", label[None], label)
    samples = dataset({"train.foreground": 1.0}, [one])
    present = Counter(int(samples[number]["label"].max()) for number in range(200))
    assert present[2] == pytest.approx(100, abs=25)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_patch_of_a_case_with_unknown_voxels_holds_a_known_one(
    dataset: Callable[..., PatchDataset], tmp_path: Path, share: float
) -> None:
    """Two annotated slices of forty, one of them with a structure; as many patches look at a structure as ever."""
    label = np.full((12, 12, 40), 255, np.uint8)
    label[:, :, 3] = 0
    label[:, :, 31] = 0
    label[6, 6, 31] = 1
    one = case(tmp_path, "scribbled", np.ones((1, 12, 12, 40)), label)
    samples = dataset({"train.foreground": share}, [one])
    patches = [samples[number]["label"] for number in range(200)]
    assert all((patch != 255).any() for patch in patches)
    assert sum(bool((patch == 1).any()) for patch in patches) == pytest.approx(200 * share, abs=25)


def test_a_case_with_unknown_voxels_and_no_structure_is_cut_where_it_is_known(
    dataset: Callable[..., PatchDataset], tmp_path: Path
) -> None:
    label = np.full((12, 12, 40), 255, np.uint8)
    label[:, :, 20] = 0
    one = case(tmp_path, "background", np.ones((1, 12, 12, 40)), label)
    samples = dataset({"train.foreground": 1.0}, [one])
    assert all((samples[number]["label"] == 0).any() for number in range(50))


def test_a_case_without_a_label_is_cut_anywhere(dataset: Callable[..., PatchDataset], tmp_path: Path) -> None:
    empty = case(tmp_path, "empty", np.ones((1, 12, 12, 12)), np.zeros((12, 12, 12), np.uint8))
    assert dataset({"train.foreground": 1.0}, [empty])[0]["image"].shape == (1, 4, 4, 4)


@pytest.mark.parametrize("preset", ["none", "nnunet"])
@pytest.mark.parametrize("shape", [(3, 5, 1), (4, 4, 4), (20, 2, 6), (1, 1, 1)], ids=str)
def test_volumes_of_any_size_fill_a_patch(
    dataset: Callable[..., PatchDataset], shape: tuple[int, ...], preset: str, tmp_path: Path
) -> None:
    label = np.ones(shape, np.uint8)
    small = case(tmp_path, "small", np.full((2, *shape), 7.0), label)
    samples = dataset({"augment": {"preset": preset}, "train.patch_size": [8, 4, 4]}, [small])
    for number in range(6):
        item = samples[number]
        assert item["image"].shape == (2, 8, 4, 4)
        assert item["label"].shape == (1, 8, 4, 4)
        assert item["label"].dtype == torch.uint8
        assert item["image"].dtype == torch.float32
        assert torch.isfinite(item["image"]).all()
        if preset == "none":
            assert int(item["label"].sum()) == int(np.prod(np.minimum(shape, (8, 4, 4))))


def test_every_position_is_reached(dataset: Callable[..., PatchDataset], tmp_path: Path) -> None:
    image = np.arange(5 * 4 * 4, dtype=float).reshape(1, 5, 4, 4)
    one = case(tmp_path, "numbered", image, np.zeros((5, 4, 4), np.uint8))
    samples = dataset({"train.foreground": 0.0}, [one])
    assert {float(samples[number]["image"].min()) for number in range(30)} == {0.0, 16.0}


def test_a_flat_network_takes_slices_of_volumes(dataset: Callable[..., PatchDataset]) -> None:
    samples = dataset({"network.dims": 2, "train.patch_size": [6, 8]})
    assert samples.patch == (6, 8, 1)
    assert samples[0]["image"].shape == (1, 6, 8)
    assert samples[1]["label"].shape == (1, 6, 8)


@pytest.mark.parametrize("neighbours", [1, 2])
def test_neighbours_of_a_slice_are_channels_and_mirrored_at_the_ends(
    dataset: Callable[..., PatchDataset], tmp_path: Path, neighbours: int
) -> None:
    heights = np.broadcast_to(np.arange(4.0), (6, 6, 4))
    one = case(tmp_path, "volume", np.stack([heights, 10 + heights]), heights.astype(np.uint8))
    changes = {"network.dims": 2, "train.patch_size": [4, 4], "preprocess.neighbours": neighbours}
    samples = dataset(changes, [one])
    reflected = np.pad(np.arange(4), 2, mode="reflect")
    seen = set()
    for index in range(40):
        image, label = samples[index]["image"].numpy(), samples[index]["label"].numpy()
        (height,) = np.unique(label).tolist()
        expected = reflected[height + 2 - neighbours : height + 3 + neighbours]
        assert image.shape == (2 * len(expected), 4, 4)
        assert np.array_equal(image[:, 0, 0], [*expected, *(10 + expected)])
        seen.add(height)
    assert seen == {0, 1, 2, 3}


def test_the_patch_has_the_rank_of_the_data(make_config: Callable[..., Any]) -> None:
    assert patch_shape(make_config(Path(), {"network.dims": 2, "train.patch_size": [8, 8]}), 3) == (8, 8, 1)
    assert patch_shape(make_config(Path(), {"network.dims": 2, "train.patch_size": [8, 8]}), 2) == (8, 8)
    assert patch_shape(make_config(Path()), 3) == (16, 16, 16)


@given(st.data())
def test_a_cut_is_what_padding_and_slicing_give(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 6)] * 2))
    start = data.draw(st.tuples(*[st.integers(-9, 9)] * 2))
    size = data.draw(st.tuples(*[st.integers(1, 9)] * 2))
    array = np.arange(1, 1 + np.prod(shape)).reshape(1, *shape)
    padded = np.pad(array, [(0, 0), (20, 20), (20, 20)])
    expected = padded[:, 20 + start[0] :, 20 + start[1] :][:, : size[0], : size[1]]
    assert np.array_equal(cut_padded(array, start, size), expected)


@given(st.data())
def test_a_mirrored_cut_is_what_reflecting_and_slicing_give(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 6)] * 2))
    start = data.draw(st.tuples(*[st.integers(-9, 9)] * 2))
    size = data.draw(st.tuples(*[st.integers(1, 9)] * 2))
    array = np.arange(2 * np.prod(shape)).reshape(2, *shape)
    padded = np.pad(array, [(0, 0), (20, 20), (20, 20)], mode="reflect")
    expected = padded[:, 20 + start[0] :, 20 + start[1] :][:, : size[0], : size[1]]
    found = cut_mirrored(array, start, size)
    assert np.array_equal(found, expected)
    assert not np.shares_memory(found, array)


# networks that read more than they segment

VALID = {"network": {"name": "unet2015", "dims": 2, "channels": [2, 4]}, "train.patch_size": [20, 22]}
"""A margin of 8: the inner part has 4 x 6 voxels."""


def inner(item: torch.Tensor) -> torch.Tensor:
    return item[:, 8:-8, 8:-8]


def numbered(folder: Path, shape: tuple[int, ...] = (7, 8)) -> CachedCase:
    """A case whose voxels have their number for a value, counted from 1, and every third a label."""
    numbers = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    return case(folder, "numbered", numbers[None], (numbers % 3 == 0).astype(np.uint8))


def test_the_inner_part_lies_inside_of_the_image_wherever_it_fits_equally_often(
    dataset: Callable[..., PatchDataset], tmp_path: Path
) -> None:
    samples = dataset({**VALID, "train.foreground": 0.0}, [numbered(tmp_path)])
    assert samples.inner == (4, 6)
    parts = [inner(samples[number]["image"]) for number in range(600)]
    corners = Counter(int(part[0, 0, 0]) for part in parts)
    assert set(corners) == {1 + 8 * row + column for row in range(4) for column in range(3)}
    assert min(corners.values()) > 25
    assert max(corners.values()) < 80
    for part in parts[:30]:
        assert torch.equal(part - part[0, 0, 0], torch.arange(4.0)[None, :, None] * 8 + torch.arange(6.0))


@pytest.mark.parametrize("shape", [(7, 8), (30, 40), (2, 3), (1, 1)], ids=str)
def test_beyond_the_border_is_the_mirror_image_of_image_label_and_weight(
    dataset: Callable[..., PatchDataset], tmp_path: Path, shape: tuple[int, int]
) -> None:
    one = numbered(tmp_path, shape)
    np.save(one.folder / "weight.npy", to_blocks(2 * one.image(), (4,) * (one.image().ndim - 1)))
    samples = dataset(VALID, [CachedCase(one.id, one.folder, one.record, "weight.npy")])
    wide = np.pad(one.image()[0], 22, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(wide, (20, 22)).reshape(-1, 20, 22)
    for number in range(6):
        item = samples[number]
        assert (windows == item["image"][0].numpy()).all(axis=(1, 2)).any()
        assert torch.equal(item["label"], (item["image"] % 3 == 0).to(torch.uint8))
        assert torch.equal(item["weight"], 2 * item["image"])


def test_a_chosen_voxel_lies_in_the_inner_part(dataset: Callable[..., PatchDataset], tmp_path: Path) -> None:
    label = np.zeros((60, 60), np.uint8)
    label[0, 59] = label[33, 20] = 1
    one = case(tmp_path, "sparse", np.zeros((1, 60, 60)), label)
    samples = dataset({**VALID, "train.foreground": 1.0}, [one])
    assert all(inner(samples[number]["label"]).any() for number in range(40))


def test_turned_patches_see_no_empty_border_either(dataset: Callable[..., PatchDataset], tmp_path: Path) -> None:
    one = case(tmp_path, "full", np.full((1, 9, 9), 7.0), np.ones((9, 9), np.uint8))
    turned = {"rotation_probability": 1.0, "scale_probability": 1.0, "intensity_strength": 0.0}
    samples = dataset({**VALID, "augment": turned}, [one])
    for number in range(10):
        torch.testing.assert_close(samples[number]["image"], torch.full((1, 20, 22), 7.0))
        assert (samples[number]["label"] == 1).all()


def test_slices_of_volumes_are_mirrored_in_their_plane(dataset: Callable[..., PatchDataset], tmp_path: Path) -> None:
    image = np.zeros((1, 9, 9, 5)) + np.arange(5)
    samples = dataset(VALID, [case(tmp_path, "slices", image, np.zeros((9, 9, 5), np.uint8))])
    values = [samples[number]["image"].unique().tolist() for number in range(40)]
    assert samples[0]["image"].shape == (1, 20, 22)
    assert {tuple(value) for value in values} == {(0,), (1,), (2,), (3,), (4,)}


def test_a_padded_network_sees_zeros_where_the_image_is_smaller(
    dataset: Callable[..., PatchDataset], tmp_path: Path
) -> None:
    one = case(tmp_path, "small", np.full((1, 2, 2, 2), 7.0), np.ones((2, 2, 2), np.uint8))
    np.save(one.folder / "weight.npy", to_blocks(np.full((1, 2, 2, 2), 3.0, np.float32), (5, 4, 3)))
    item = dataset(None, [CachedCase(one.id, one.folder, one.record, "weight.npy")])[0]
    assert item["image"].sum() == 8 * 7
    assert item["weight"].sum() == 8 * 3
    assert item["label"].sum() == 8


# what losses ask for


def test_a_weight_map_turns_with_its_image(dataset: Callable[..., PatchDataset], tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((1, 12, 14, 10)).astype(np.float32)
    one = case(tmp_path, "noise", image, np.zeros((12, 14, 10), np.uint8))
    np.save(one.folder / "weight.npy", to_blocks(image, (5, 4, 3)))
    turned = {"rotation_probability": 1.0, "scale_probability": 0.5, "intensity_strength": 0.0}
    changes = {"augment": turned, "train.patch_size": [8, 8, 8]}
    samples = dataset(changes, [CachedCase(one.id, one.folder, one.record, "weight.npy")])
    plain = dataset(changes, [one])
    for number in range(8):
        item = samples[number]
        assert item["weight"].shape == (1, 8, 8, 8)
        assert item["weight"].dtype == torch.float32
        assert torch.equal(item["weight"], item["image"])
        assert torch.equal(item["image"], plain[number]["image"])  # and it changes nothing else
        assert "weight" not in plain[number]


def test_intensity_changes_leave_the_weight_as_it_is(dataset: Callable[..., PatchDataset], tmp_path: Path) -> None:
    one = case(tmp_path, "flat", np.full((1, 6, 6, 6), 5.0), np.zeros((6, 6, 6), np.uint8))
    np.save(one.folder / "weight.npy", to_blocks(np.full((1, 6, 6, 6), 5.0, np.float32), (5, 4, 3)))
    changes = {"augment": {"preset": "none", "intensity_strength": 2.0}}
    samples = dataset(changes, [CachedCase(one.id, one.folder, one.record, "weight.npy")])
    items = [samples[number] for number in range(12)]
    assert all((item["weight"] == 5).all() for item in items)
    assert any((item["image"] != 5).any() for item in items)


def test_batches_hold_the_weight_maps_of_the_cache(
    dataset: Callable[..., PatchDataset], cases: list[CachedCase], tmp_path: Path
) -> None:
    labels = LabelMap.from_mapping({"background": 0, "organ": 4, "core": 205})
    weighted = prepare_weights(cases, labels, BoundaryWeightedConfig(name="boundary_weighted_ce"))
    with batches(dataset({"train.batch_size": 3}, weighted), 0, 0, 1) as found:
        assert found[0]["weight"].shape == (3, 1, 4, 4, 4)
        assert (found[0]["weight"] > 0).all()


def test_batches_tell_what_each_case_was_annotated_for(
    dataset: Callable[..., PatchDataset], cases: list[CachedCase]
) -> None:
    changes = {"data.annotated": {"case_1": ["core"], "case_2*": []}, "train.batch_size": 3}
    with batches(dataset(changes), 0, 0, 4) as found:
        for batch in found:
            assert batch["annotated"].dtype == torch.bool
            known = zip(batch["image"], batch["annotated"], strict=True)
            assert {int(image.max()): flags.tolist() for image, flags in known} == {
                1: [True, True, True],
                2: [True, False, True],
                3: [True, False, False],
            }
    assert "annotated" not in dataset()[0]


def test_indices_of_two_bytes_become_a_type_that_torch_computes_with(
    dataset: Callable[..., PatchDataset], tmp_path: Path
) -> None:
    label = np.full((6, 6, 6), 300, np.uint16)
    label[0] = 32767
    samples = dataset({"augment": {"rotation_probability": 1.0}}, [case(tmp_path, "many", label[None], label)])
    assert samples[0]["label"].dtype == torch.int16
    seen = torch.cat([samples[number]["label"].unique() for number in range(20)]).unique()
    assert seen.tolist() == [0, 300, 32767]  # 0 where a turned patch reaches outside


@contextmanager
def batches(samples: PatchDataset, first: int, workers: int, count: int) -> Iterator[list[dict[str, torch.Tensor]]]:
    with patch_loader(samples, first_sample=first, workers=workers, pin_memory=False) as loader:
        yield list(islice(iter(loader), count))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_samples_in_order_whoever_makes_them(
    dataset: Callable[..., PatchDataset], workers: int
) -> None:
    samples = dataset({"augment": {"preset": "nnunet"}, "train.batch_size": 2})
    with batches(samples, 10, workers, 5) as found:
        for position, batch in enumerate(found):
            for place in (0, 1):
                expected = samples[10 + 2 * position + place]
                assert torch.equal(batch["image"][place], expected["image"])
                assert torch.equal(batch["label"][place], expected["label"])


@pytest.mark.parametrize("workers", [0, 1])
def test_several_processes_together_see_the_samples_of_one(dataset: Callable[..., PatchDataset], workers: int) -> None:
    samples = dataset({"augment": {"preset": "nnunet"}, "train.batch_size": 4})
    for rank in (0, 1):
        ranks = Ranks(rank=rank, size=2)
        with patch_loader(samples, first_sample=8, workers=workers, pin_memory=False, ranks=ranks) as loader:
            for position, batch in enumerate(islice(iter(loader), 3)):
                expected = [samples[8 + 4 * position + rank + 2 * place]["image"] for place in (0, 1)]
                assert torch.equal(batch["image"], torch.stack(expected))


@pytest.mark.parametrize("workers", [0, 2])
def test_making_batches_draws_no_random_number_of_the_training(
    dataset: Callable[..., PatchDataset], workers: int
) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with batches(dataset({"augment": {"preset": "nnunet"}}), 0, workers, 3):
        assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What torch raises from a signal would be lost in the function by which hypothesis watches the collector."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no such signal")
@pytest.mark.parametrize("where", ["waiting for a batch", "computing", "receiving"])
def test_a_process_that_dies_ends_in_a_sentence_with_its_case(
    dataset: Callable[..., PatchDataset], cases: list[CachedCase], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    samples = dataset({"train.batch_size": 1})
    order = [samples.case_of(index).id for index in range(3)]
    original = PatchDataset.__getitem__

    def deadly(self: PatchDataset, index: int) -> dict[str, torch.Tensor]:
        if index == 2:
            time.sleep(0.5 if where == "receiving" else 0)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, index)

    monkeypatch.setattr(PatchDataset, "__getitem__", deadly)

    def use() -> None:
        with patch_loader(samples, first_sample=0, workers=1, pin_memory=False) as loader:
            for _ in loader:
                if where == "computing":
                    time.sleep(60)  # the signal of the death comes before
                if where == "receiving":
                    raise ConnectionResetError(104, "Connection reset by peer")  # noticed before the signal comes

    with pytest.raises(TrainingError, match=re.escape(f"was killed while it worked on case {order[2]}.")) as caught:
        use()
    assert "train.workers=0" in caught.value.hint


@pytest.mark.parametrize("workers", [0, 1])
def test_what_goes_wrong_while_a_patch_is_made_is_raised(
    dataset: Callable[..., PatchDataset], cases: list[CachedCase], workers: int
) -> None:
    (cases[1].folder / "image.npy").unlink()
    with pytest.raises(DataError) as caught, batches(dataset(), 0, workers, 5):
        pass
    assert str(caught.value).startswith(f"The preprocessed case {cases[1].folder} cannot be read")
    assert str(caught.value).endswith("go on with --resume; it is made again.")
    assert "Traceback" not in str(caught.value)


# photographs

PHOTO = {"network.dims": 2, "preprocess.orientation": "RA", "train.patch_size": [8, 8]}


def test_photographs_see_themselves_mirrored_beyond_their_border(
    dataset: Callable[..., PatchDataset], tmp_path: Path
) -> None:
    one = case(tmp_path, "photo", np.full((1, 8, 8), 5.0), np.zeros((8, 8), np.uint8))
    moved = {"preset": "none", "shift": 0.5, "outside": "mirror"}
    samples = dataset({**PHOTO, "augment": moved}, [one])
    assert all(torch.allclose(samples[index]["image"], torch.tensor(5.0)) for index in range(20))
    samples = dataset({**PHOTO, "augment": {**moved, "outside": "zero"}}, [one])
    assert any((samples[index]["image"] == 0).any() for index in range(20))


def test_a_collage_holds_parts_of_several_cases_and_their_labels(
    dataset: Callable[..., PatchDataset], tmp_path: Path
) -> None:
    cases = [
        case(tmp_path, f"photo_{n}", np.full((1, 8, 8), float(n)), np.full((8, 8), n % 3, np.uint8))
        for n in range(1, 9)
    ]
    samples = dataset({**PHOTO, "augment": {"preset": "none", "collage_probability": 1.0}}, cases)
    seen = [samples[index] for index in range(30)]
    assert max(len(item["image"].unique()) for item in seen) == 4
    assert all(torch.equal(item["image"] % 3, item["label"].float()) for item in seen)


def test_a_collage_joins_cases_that_were_annotated_for_the_same_labels(
    dataset: Callable[..., PatchDataset], tmp_path: Path
) -> None:
    cases = [
        case(tmp_path, f"{'part' if n % 2 else 'full'}_{n}", np.full((1, 8, 8), float(n)), np.zeros((8, 8), np.uint8))
        for n in range(1, 9)
    ]
    changes = {"augment": {"preset": "none", "collage_probability": 1.0}, "data.annotated": {"part_*": ["core"]}}
    samples = dataset({**PHOTO, **changes}, cases)
    seen = [samples[index] for index in range(30)]
    assert max(len(item["image"].unique()) for item in seen) > 2
    assert all(len((item["image"] % 2).unique()) == 1 for item in seen)


PASTE = {"preset": "none", "paste_probability": 1.0}


def test_structures_of_another_case_are_pasted_with_their_labels(
    dataset: Callable[..., PatchDataset], tmp_path: Path
) -> None:
    """Each case holds its number, and a structure of its own, which covers what it is pasted onto."""
    cases = []
    for n in range(4):
        label = np.zeros((8, 8), np.uint8)
        label[2 * n : 2 * n + 2] = 1
        cases.append(case(tmp_path, f"photo_{n}", np.full((1, 8, 8), n + 1.0), label))
    samples = dataset({**PHOTO, "augment": PASTE}, cases)
    seen = set()
    for index in range(60):
        image, label = samples[index]["image"][0], samples[index]["label"][0]
        own = samples.cases.index(samples.case_of(index))
        expected_image, expected_label = torch.full((8, 8), own + 1.0), torch.zeros((8, 8), dtype=torch.uint8)
        expected_label[2 * own : 2 * own + 2] = 1
        (other,) = {int(value) - 1 for value in image.unique()} - {own} or {own}
        expected_image[2 * other : 2 * other + 2] = other + 1.0
        expected_label[2 * other : 2 * other + 2] = 1
        assert torch.equal(image, expected_image)
        assert torch.equal(label, expected_label)
        seen.add((own, other))
    assert len(seen) > 10


def test_what_is_unknown_is_not_pasted_and_structures_cover_it(
    dataset: Callable[..., PatchDataset], tmp_path: Path
) -> None:
    ignored = np.full((8, 8), 255, np.uint8)
    ignored[:4] = 1
    cases = [
        case(tmp_path, "background", np.full((1, 8, 8), 1.0), np.zeros((8, 8), np.uint8)),
        case(tmp_path, "scribble", np.full((1, 8, 8), 2.0), ignored),
    ]
    samples = dataset({**PHOTO, "augment": PASTE, "labels": {"background": 0, "core": 1, "ignore": 255}}, cases)
    seen = [
        (sample["image"][0], sample["label"][0])
        for index in range(20)
        if samples.case_of(index).id == "background" and ((sample := samples[index])["image"] == 2).any()
    ]
    assert seen
    for image, label in seen:
        assert (image[:4] == 2).all()
        assert (label[:4] == 1).all()
        assert (image[4:] == 1).all()
        assert (label[4:] == 0).all()


def test_structures_are_pasted_between_cases_that_were_annotated_for_the_same_labels(
    dataset: Callable[..., PatchDataset], tmp_path: Path
) -> None:
    label = np.ones((8, 8), np.uint8)
    cases = [
        case(tmp_path, f"{'part' if n % 2 else 'full'}_{n}", np.full((1, 8, 8), float(n)), label) for n in range(1, 9)
    ]
    samples = dataset({**PHOTO, "augment": PASTE, "data.annotated": {"part_*": ["core"]}}, cases)
    pairs = {(samples.case_of(index).id, int(samples[index]["image"].max())) for index in range(60)}
    assert all(int(own[-1]) % 2 == other % 2 for own, other in pairs)
    assert any(int(own[-1]) != other for own, other in pairs)
