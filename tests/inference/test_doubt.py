"""Entropy and disagreement, against numbers worked out by hand and over any rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from medunet.inference.doubt import Doubt
from medunet.labels import LabelMap

PLAIN = LabelMap.from_mapping({"background": 0, "a": 1, "b": 2})
NESTED = LabelMap.from_mapping({"background": 0, "whole": [1, 2], "core": [2]})


def logits(labels: list[int], sure: float = 50.0) -> Tensor:
    """(3, n, 1) that choose these labels."""
    return sure * torch.nn.functional.one_hot(torch.tensor(labels), 3).T.float()[..., None]


def test_a_network_that_is_sure_has_no_entropy_and_one_that_knows_nothing_has_all() -> None:
    doubt = Doubt(PLAIN, 1, entropy=True)
    maps = doubt.add([torch.cat([logits([1, 2]), torch.zeros(3, 2, 1)], 1)])
    torch.testing.assert_close(maps[0].flatten(), torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert not maps[1].any()
    assert doubt.numbers() == {"a": {"entropy": pytest.approx(0)}, "b": {"entropy": pytest.approx(0)}}


def test_entropy_of_a_structure_is_that_of_its_voxels() -> None:
    doubt = Doubt(PLAIN, 1, entropy=True)
    half = torch.tensor([-80.0, 0.0, -1e-6])[:, None, None]  # a or b, hardly more a
    doubt.add([torch.cat([logits([1]), half], 1)])
    assert doubt.numbers()["a"]["entropy"] == pytest.approx(math.log(2) / math.log(3) / 2, abs=1e-4)


def test_disagreement_is_one_minus_the_mean_dice_with_the_ensemble() -> None:
    doubt = Doubt(PLAIN, 2, entropy=False)
    first, second = logits([1, 1, 0, 0], 9.0), logits([1, 0, 0, 2], 5.0)  # the first one outvotes the second
    maps = doubt.add([first, second])
    torch.testing.assert_close(maps[1].flatten(), torch.tensor([0.0, 0.5, 0.0, 0.5]))
    assert doubt.numbers() == {
        "a": {"disagreement": pytest.approx(1 - (1 + 2 / 3) / 2)},
        "b": {"disagreement": pytest.approx(1 - (1 + 0) / 2)},
    }


def test_nested_structures_are_looked_at_one_by_one() -> None:
    doubt = Doubt(NESTED, 2, entropy=True)
    first = torch.tensor([[9.0, 9.0, 0.0], [9.0, -9.0, -9.0]])[..., None]
    second = torch.tensor([[5.0, -5.0, 0.0], [5.0, -5.0, -5.0]])[..., None]
    maps = doubt.add([first, second])
    torch.testing.assert_close(maps[1].flatten(), torch.tensor([0.0, 0.5, 0.0]))
    assert float(maps[0].flatten()[2]) == pytest.approx(1)  # the whole is as likely there as not
    numbers = doubt.numbers()
    assert numbers["whole"]["disagreement"] == pytest.approx(1 - (1 + 2 / 3) / 2)
    assert numbers["core"]["disagreement"] == 0


@pytest.mark.parametrize("labels", [PLAIN, NESTED])
def test_rows_may_come_in_any_pieces(labels: LabelMap, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    members = [torch.randn(labels.outputs, 20, 6, 5) for _ in range(3)]
    whole = Doubt(labels, 3, entropy=True)
    expected = whole.add(members)
    monkeypatch.setattr("medunet.inference.doubt._AT_ONCE", 100)
    pieces = Doubt(labels, 3, entropy=True)
    parts = [pieces.add([member[:, a:b] for member in members]) for a, b in ((0, 3), (3, 4), (4, 20))]
    torch.testing.assert_close(torch.cat(parts, 1), expected)
    for name, numbers in whole.numbers().items():
        assert pieces.numbers()[name] == pytest.approx(numbers)


def test_members_stay_as_they_are() -> None:
    members = [torch.randn(3, 4, 5) for _ in range(2)]
    before = [member.clone() for member in members]
    Doubt(PLAIN, 2, entropy=True).add(members)
    assert all(torch.equal(a, b) for a, b in zip(members, before, strict=True))


def test_what_nobody_found_is_not_listed() -> None:
    doubt = Doubt(PLAIN, 2, entropy=True)
    doubt.add([logits([0, 1]), logits([0, 1])])
    assert list(doubt.numbers()) == ["a"]
    assert np.isfinite(doubt.numbers()["a"]["entropy"])
