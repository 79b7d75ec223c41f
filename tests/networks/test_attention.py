"""The additive attention gate against a formula of its own, and where a U-Net has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medunet.config.network_options import Sizes
from medunet.config.networks import AttentionUNetConfig, UNetConfig, UNetOptions
from medunet.networks.attention import AttentionGate
from medunet.networks.blocks import Layers
from medunet.networks.registry import build_network
from medunet.networks.unet import UNet

STRIDES: list[Sizes] = [(2, 2), (1, 3), (2, 2, 2), (2, 2, 1), (1, 2, 3)]


def gate_for(stride: Sizes, norm: str = "instance") -> AttentionGate:
    torch.manual_seed(0)
    return AttentionGate(Layers(len(stride), norm=norm), (4, 6), stride)


def signals(stride: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
    """A skip and a gating signal."""
    torch.manual_seed(1)
    coarse = (3,) * len(stride)
    return torch.randn(2, 4, *(3 * step for step in stride)), torch.randn(2, 6, *coarse)


def enlarged(values: NDArray[Any], stride: Sizes) -> NDArray[Any]:
    """Linear interpolation axis by axis, voxels as areas, edge values outside."""
    for axis, step in enumerate(stride):
        n = values.shape[axis]
        places = (np.arange(n * step) + 0.5) / step - 0.5
        values = np.apply_along_axis(lambda line, at=places: np.interp(at, np.arange(len(line)), line), axis, values)
    return values


@pytest.mark.parametrize("stride", STRIDES)
def test_the_coefficients_are_those_of_the_papers_equation(stride: Sizes) -> None:
    gate = gate_for(stride)
    skip, gating = signals(stride)
    with torch.no_grad():
        found = gate.coefficients(skip, gating).numpy()
    weights = {name: value.detach().numpy() for name, value in gate.named_parameters()}
    for sample in range(2):
        pairs = [pair for n, step in zip((3,) * len(stride), stride, strict=True) for pair in (n, step)]
        blocks = skip[sample].numpy().reshape(4, *pairs)
        blocks = np.moveaxis(blocks, range(2, 2 * len(stride) + 1, 2), range(-len(stride), 0))
        theta = np.tensordot(
            weights["theta.weight"], blocks, [[1, *range(-len(stride), 0)], [0, *range(-len(stride), 0)]]
        )
        phi = np.tensordot(weights["phi.weight"].reshape(2, 6), gating[sample].numpy(), 1)
        seen = np.maximum(theta + phi + weights["phi.bias"].reshape(2, *[1] * len(stride)), 0)
        logit = np.tensordot(weights["psi.weight"].reshape(2), seen, 1) + weights["psi.bias"]
        np.testing.assert_allclose(found[sample, 0], enlarged(1 / (1 + np.exp(-logit)), stride), atol=1e-5)


@pytest.mark.parametrize("stride", STRIDES)
def test_a_gate_that_is_open_passes_the_skip_and_one_that_is_closed_nothing(stride: Sizes) -> None:
    gate = gate_for(stride, norm="none")
    skip, gating = signals(stride)
    with torch.no_grad():
        gate.psi.bias.fill_(100)  # type: ignore[union-attr]
        torch.testing.assert_close(gate(skip, gating), gate.output(skip))
        gate.psi.bias.fill_(-100)  # type: ignore[union-attr]
        torch.testing.assert_close(gate(skip, gating), gate.output(torch.zeros_like(skip)))


def test_the_gate_follows_the_gating_signal() -> None:
    gate = gate_for((2, 2))
    skip, gating = signals((2, 2))
    gating[:, :, 0] += 10
    with torch.no_grad():
        gate.phi.weight.fill_(1)
        gate.psi.weight.fill_(1)
        gate.psi.bias.fill_(-40)  # type: ignore[union-attr]
        coefficients = gate.coefficients(skip, gating)
    assert coefficients[:, :, 0].min() > 0.99  # only where the coarser level says so
    assert coefficients[:, :, -1].max() < 0.01


@pytest.mark.parametrize(
    ("options", "gated"),
    [
        ({}, ["1", "2"]),
        ({"channels": (4, 8)}, ["0"]),
        ({"channels": (4, 8, 8)}, ["1"]),
        ({"residual": True}, ["1", "2"]),
    ],
)
def test_every_skip_has_a_gate_but_the_finest(options: dict[str, Any], gated: list[str]) -> None:
    network = build_network(UNetConfig(**{"channels": (4, 8, 8, 8), "attention": True, **options}), 1, 2)
    assert isinstance(network, UNet)
    assert list(network.gates) == gated


def test_the_gating_signal_is_the_coarser_decoder_level() -> None:
    strides = (1, (2, 1), (2, 2), (1, 2))
    network = build_network(UNetConfig(dims=2, channels=(4, 6, 8, 10), strides=strides, attention=True), 1, 2).eval()
    assert isinstance(network, UNet)
    seen: dict[str, Any] = {}
    for level, gate in network.gates.items():
        gate.register_forward_hook(lambda _, args, out, level=level: seen.update({level: (args, out)}))
    decoded: list[torch.Tensor] = []
    for decoder in network.decoder:
        decoder.register_forward_hook(lambda _, __, out: decoded.append(out))
    with torch.no_grad():
        network(torch.randn(1, 1, 16, 16))
    (skip, gating), out = seen["1"]
    assert skip.shape == out.shape == (1, 6, 8, 16)
    assert gating is decoded[0]
    assert seen["2"][0][1].shape == (1, 10, 4, 4)  # that of the deepest gate is the bottleneck


def test_a_fresh_gate_lets_most_of_the_skip_through() -> None:
    torch.manual_seed(0)
    network = build_network(UNetConfig(dims=2, channels=(8, 16, 16), attention=True), 1, 2).eval()
    found: list[torch.Tensor] = []
    gate = network.gates["1"]  # type: ignore[index, union-attr]
    gate.register_forward_hook(lambda gate, args, _: found.append(gate.coefficients(*args)))
    with torch.no_grad():
        network(torch.randn(2, 1, 64, 64))
    assert 0.8 < float(found[0].mean()) < 1


@pytest.mark.parametrize("norm", ["instance", "batch", "group", "none"])
@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "prelu", "gelu", "silu"])
def test_gates_learn_with_every_norm_and_activation(norm: str, activation: str) -> None:
    torch.manual_seed(0)
    options = {"dims": 2, "channels": (8, 8, 16), "attention": True, "norm": norm, "activation": activation}
    network = build_network(UNetConfig(**options), 2, 3).train()
    output = network(torch.randn(2, 2, 16, 16))
    assert isinstance(output, torch.Tensor)
    (output * torch.randn_like(output)).sum().backward()
    for name, parameter in network.gates.named_parameters():  # type: ignore[union-attr]
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().max() > 0 or name.endswith(".0.bias"), name  # a norm takes that bias away


@pytest.mark.parametrize("options", [{}, {"dims": 2, "residual": True}, {"strides": (1, (2, 2, 1), 2)}])
def test_the_preset_is_the_unet_with_gates(options: dict[str, Any]) -> None:
    options = {"channels": (4, 8, 8), **options}
    torch.manual_seed(0)
    preset = build_network(AttentionUNetConfig(name="attention_unet", **options), 1, 2).state_dict()
    torch.manual_seed(0)
    unet = build_network(UNetConfig(attention=True, **options), 1, 2).state_dict()
    assert list(preset) == list(unet)
    assert all(torch.equal(preset[name], unet[name]) for name in unet)


@pytest.mark.parametrize("options", [UNetConfig(channels=(4, 8, 8)), UNetConfig(channels=(4, 8, 8), residual=True)])
def test_gates_change_no_other_weight(options: UNetOptions) -> None:
    plain = build_network(options, 1, 2).state_dict()
    gated = build_network(options.model_copy(update={"attention": True}), 1, 2).state_dict()
    assert [name for name in gated if not name.startswith("gates.")] == list(plain)
    assert sum(name.startswith("gates.") for name in gated) == 9
