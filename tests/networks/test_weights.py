"""What is said about weights that do not fit a network."""

from __future__ import annotations

import torch
from torch import nn

from medunet.networks.weights import differences, first_of


def network() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 32, 3), nn.ReLU(), nn.Conv3d(32, 2, 1))


def test_weights_of_the_network_itself_do_not_differ() -> None:
    assert differences(network().state_dict(), network()) == []


def test_a_difference_in_shape_names_the_layer_and_both_shapes() -> None:
    weights = {**network().state_dict(), "0.weight": torch.rand(16, 1, 3, 3, 3)}
    assert differences(weights, network()) == [
        "0.weight is (16, 1, 3, 3, 3) in the file and (32, 1, 3, 3, 3) in the network"
    ]


def test_layers_that_only_one_of_them_has_are_told_in_the_order_of_the_network() -> None:
    weights = {"extra.bias": torch.rand(4), **network().state_dict()}
    del weights["2.bias"], weights["0.bias"]
    assert differences(weights, network()) == [
        "0.bias (32,) is missing from the file",
        "2.bias (2,) is missing from the file",
        "extra.bias is in the file only",
    ]


def test_a_message_names_three_and_counts_the_rest() -> None:
    found = differences({}, network())
    assert first_of(found).count("is missing from the file") == 3
    assert first_of(found).endswith(", and 1 more")
    assert first_of(found[:3]) == ", ".join(found[:3])
    assert first_of(found[:1]) == found[0]
