"""The forecast of a training follows its configuration."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medunet.config.load import parse_config
from medunet.networks.forecast import Work, forecast
from medunet.networks.registry import NETWORKS
from medunet.training.costs import costs_in_words, training_forecast

CPU = torch.device("cpu")
TEXT = """\
name: toy
data: {modality: [CT, MR]}
labels: {background: 0, whole: [1, 2], core: 2}
network: {dims: 2, channels: [4, 8]}
train: {patch_size: [32, 48], batch_size: 3, precision: bf16, optimizer: OPTIMIZER}
"""
WORK = Work(size=(32, 48), batch=3, training=True, precision=torch.bfloat16)


@pytest.mark.parametrize(
    ("optimizer", "states"),
    [
        ("{name: sgd}", 1),
        ("{name: sgd, momentum: 0, nesterov: false}", 0),
        ("{name: adamw}", 2),
        ("{name: novograd}", 1),
        ("{name: sgd}, ema: 0.99", 2),
    ],
)
def test_it_takes_everything_from_the_configuration(optimizer, states):
    config = parse_config(TEXT.replace("OPTIMIZER", optimizer))
    expected = forecast(config.network, 2, 2, replace(WORK, states=states))  # nested labels: no background channel
    assert training_forecast(config, CPU) == expected


def test_a_larger_batch_costs_more():
    small, large = (
        training_forecast(parse_config(TEXT.replace("OPTIMIZER", "{name: sgd}").replace("batch_size: 3", batch)), CPU)
        for batch in ("batch_size: 1", "batch_size: 4")
    )
    assert small.parameters == large.parameters
    assert 3.9 < large.flops / small.flops < 4.1
    assert small.tensor_bytes < large.tensor_bytes


def test_accumulation_takes_the_memory_of_one_part():
    text = TEXT.replace("OPTIMIZER", "{name: sgd}")
    parts, one = (
        training_forecast(parse_config(text.replace("batch_size: 3", batch)), CPU)
        for batch in ("batch_size: 6, accumulate: 3", "batch_size: 2")
    )
    assert parts == one


def test_they_are_told_in_a_sentence():
    config = parse_config(
        "name: big\nlabels: {background: 0, a: 1}\ntrain: {patch_size: [64, 64, 64], precision: fp32}\n"
    )
    words = costs_in_words(config, torch.device("cuda"))
    assert words == "16,547,078 parameters; a step will take at least 1.1 GiB of memory."
    assert "will take about 1." in costs_in_words(config, CPU)


def test_a_network_that_looks_at_values_still_trains(monkeypatch):
    class Curious(torch.nn.Module):
        def forward(self, x):
            return x if float(x.sum()) > 0 else -x

    build = NETWORKS["unet"].build

    def curious(*arguments):
        network = build(*arguments)
        network.stem = Curious()
        return network

    monkeypatch.setitem(NETWORKS, "unet", replace(NETWORKS["unet"], build=curious))
    words = costs_in_words(parse_config(TEXT.replace("OPTIMIZER", "{name: sgd}")), CPU)
    assert words == "What a step will take cannot be told for this network."
