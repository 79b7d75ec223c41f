"""The U-Net against nnU-Net's own: the same parameters and, with the same weights, the same outputs.

nnU-Net's networks come from the package dynamic-network-architectures, which `make peers` puts into `.peers`: it is
no dependency and never enters the environment.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medunet.config.networks import UNetConfig
from medunet.networks.contract import parameter_count
from medunet.networks.registry import build_network
from medunet.networks.unet import UNet

PEERS = Path(__file__).resolve().parents[2] / ".peers"

FLAT = {"strides": (1, (2, 2, 1), 2, (1, 2, 2)), "kernel_size": ((3, 3, 1), 3, (3, 5, 3), 3)}
CASES: dict[str, dict[str, Any]] = {
    "plain 3D": {"channels": (8, 16, 32)},
    "plain 3D anisotropic": {**FLAT, "blocks": (2, 1, 3, 2), "decoder_blocks": (1, 2, 3)},
    "plain 2D": {"dims": 2},
    "plain 2D anisotropic": {"dims": 2, "strides": (1, (1, 2), 2, (4, 2)), "kernel_size": ((1, 3), 3, 5, (3, 1))},
    "residual 3D": {"channels": (8, 16, 32), "residual": True, "blocks": (1, 3, 4)},
    "residual 3D anisotropic": {**FLAT, "residual": True, "blocks": (1, 2, 3, 1), "decoder_blocks": (2, 1, 3)},
    "residual 2D": {"dims": 2, "residual": True, "blocks": (1, 3, 4, 6)},
    "residual 2D, equal features": {"dims": 2, "residual": True, "channels": (8, 8, 16, 16), "strides": (1, 2, 1, 2)},
}
EVERY = pytest.mark.parametrize(
    "config", [UNetConfig(**{"channels": (8, 16, 32, 40), **case}) for case in CASES.values()], ids=CASES
)

RESENC_L = {"channels": (32, 64, 128, 256, 320, 320), "residual": True, "blocks": (1, 3, 4, 6, 6, 6)}
PUBLISHED = {
    "default": ({}, 16_548_076),
    "default residual": ({"residual": True, "blocks": (1, 3, 4, 6, 6)}, 62_810_412),
    "ResEnc L": (RESENC_L, 102_350_575),
}


@pytest.fixture(scope="module")
def architectures() -> Iterator[Any]:
    """The module with nnU-Net's PlainConvUNet and ResidualEncoderUNet."""
    folders = sorted(PEERS.glob("dynamic-network-architectures-*"))
    if not folders:
        pytest.skip("nnU-Net's networks are not in .peers; fetch them with: make peers")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folders[-1]))
        yield importlib.import_module("dynamic_network_architectures.architectures.unet")


def ours(config: UNetConfig) -> UNet:
    """The U-Net of the config with a head on every decoder level; the configured one lacks the coarsest."""
    network = build_network(config, 2, 3)
    assert isinstance(network, UNet)
    return UNet(config, dataclasses.replace(network.numbers, heads=len(config.channels) - 1), 2, 3)


def image_for(network: UNet, batch: int) -> Tensor:
    """Noise with some voxels left at the deepest level, over which a norm is well conditioned."""
    times = 6 if network.dims == 2 else 2
    return torch.randn(batch, 2, *(times * step for step in network.stride))


def theirs(architectures: Any, config: UNetConfig) -> nn.Module:
    """nnU-Net's network of the same numbers; it counts decoder levels from the coarsest."""
    numbers = ours(config).numbers
    kind, blocks = (
        ("ResidualEncoderUNet", "n_blocks_per_stage") if config.residual else ("PlainConvUNet", "n_conv_per_stage")
    )
    network: nn.Module = getattr(architectures, kind)(
        input_channels=2,
        n_stages=len(config.channels),
        features_per_stage=config.channels,
        conv_op=nn.Conv2d if config.dims == 2 else nn.Conv3d,
        kernel_sizes=numbers.kernels,
        strides=numbers.strides,
        num_classes=3,
        n_conv_per_stage_decoder=numbers.decoder_blocks[::-1],
        conv_bias=True,
        norm_op=nn.InstanceNorm2d if config.dims == 2 else nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
        **{blocks: numbers.blocks},
    )
    return network


LAYER = {"0": "conv", "1": "norm"}
BLOCK = r"encoder\.(?P<level>\d+)\.(?P<block>\d+)"
STAGE = "encoder.stages.{level}"
NAMES: tuple[tuple[str, str], ...] = (
    (r"stem\.(?P<layer>[01])", "encoder.stem.convs.0.{layer}"),
    (BLOCK + r"\.(?P<layer>[01])", STAGE + ".0.convs.{block}.{layer}"),
    (BLOCK + r"\.first\.(?P<layer>[01])", STAGE + ".blocks.{block}.conv1.{layer}"),
    (BLOCK + r"\.second\.(?P<layer>[01])", STAGE + ".blocks.{block}.conv2.{layer}"),
    (BLOCK + r"\.shortcut\.(?P<index>\d)", STAGE + ".blocks.{block}.skip.{skip}"),
    (r"up\.(?P<level>\d+)", "decoder.transpconvs.{stage}"),
    (r"decoder\.(?P<level>\d+)\.(?P<block>\d+)\.(?P<layer>[01])", "decoder.stages.{stage}.convs.{block}.{layer}"),
    (r"heads\.(?P<level>\d+)", "decoder.seg_layers.{stage}"),
)
"""Our names and nnU-Net's. `stage` is a decoder level counted from the coarsest."""


def nnunet_name(name: str, network: UNet) -> str:
    """The name that nnU-Net has for one of our weights.

    On a shortcut that pools, the convolution is our entry 1 and nnU-Net's 1, else our 0 and nnU-Net's 0; the norm
    is our next entry, while nnU-Net keeps both in one.
    """
    layer, _, weight = name.rpartition(".")
    for pattern, template in NAMES:
        match = re.fullmatch(pattern, layer)
        if match is None:
            continue
        found = match.groupdict()
        level = int(found.get("level", 0))
        pools = int(found.get("block") == "0" and max(network.numbers.strides[level]) > 1)
        return (
            template.format(
                level=level,
                block=found.get("block"),
                stage=len(network.decoder) - 1 - level,
                layer=LAYER.get(found.get("layer", "")),
                skip=f"{pools}.{LAYER[str(int(found['index']) - pools)]}" if "index" in found else None,
            )
            + f".{weight}"
        )
    raise KeyError(name)


def load(network: UNet, peer: nn.Module) -> None:
    """Give `network` the weights of `peer`, each of which must be taken exactly once."""
    weights = dict(peer.named_parameters())
    names = {name: nnunet_name(name, network) for name in network.state_dict()}
    assert sorted(names.values()) == sorted(weights)
    network.load_state_dict({name: weights[other] for name, other in names.items()})


@EVERY
def test_the_unet_has_as_many_parameters_as_that_of_nnunet(config: UNetConfig, architectures: Any) -> None:
    assert parameter_count(ours(config)) == parameter_count(theirs(architectures, config))


@EVERY
@pytest.mark.parametrize("batch", [1, 2])
def test_with_the_weights_of_nnunet_every_output_is_that_of_nnunet(
    config: UNetConfig, architectures: Any, batch: int
) -> None:
    torch.manual_seed(0)
    network, peer = ours(config).train(), theirs(architectures, config).train()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # so that no norm is the identity
        load(network, peer)
        image = image_for(network, batch)
        found, wanted = network(image), peer(image)
        assert len(found) == len(wanted) == len(config.channels) - 1
        for mine, other in zip(found, wanted, strict=True):
            assert mine.std() > 0.05
            torch.testing.assert_close(mine, other, rtol=0, atol=3e-5)
        torch.testing.assert_close(network.eval()(image), wanted[0], rtol=0, atol=3e-5)


@EVERY
def test_gradients_are_those_of_nnunet(config: UNetConfig, architectures: Any) -> None:
    torch.manual_seed(0)
    network, peer = ours(config).double().train(), theirs(architectures, config).double().train()
    load(network, peer)
    image = image_for(network, 2).double()
    for each in (network, peer):
        sum(output.square().sum() for output in each(image)).backward()
    weights = dict(peer.named_parameters())
    for name, parameter in network.named_parameters():
        wanted = weights[nnunet_name(name, network)].grad
        torch.testing.assert_close(parameter.grad, wanted, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_of_full_size_have_the_parameters_of_nnunet(name: str, architectures: Any) -> None:
    options, count = PUBLISHED[name]
    config = UNetConfig(**options)
    with torch.device("meta"):
        assert parameter_count(theirs(architectures, config)) == parameter_count(ours(config))
        configured = build_network(config, 1, 3)
        coarsest_head = 3 * config.channels[-2] + 3
    assert parameter_count(configured) + coarsest_head == count


def test_a_weight_that_nnunet_does_not_know_has_no_name_there() -> None:
    config = UNetConfig(channels=(4, 8, 8), attention=True)
    network = ours(config)
    with pytest.raises(KeyError, match=r"gates\.1\.theta"):
        [nnunet_name(name, network) for name in network.state_dict()]
