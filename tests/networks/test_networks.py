"""The contract that every network keeps, and the equality of the U-Net with nnU-Net's."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from medunet.config.schema import UNetConfig
from medunet.errors import DataError
from medunet.networks.registry import NETWORKS, build_network
from medunet.networks.unet import ResidualBlock, UNet, UNetOptions, total_stride

ANISOTROPIC = {"strides": (1, (2, 2, 1), (2, 2, 2)), "kernel_size": ((3, 3, 1), (3, 3, 3), 3)}

CONFIGS: dict[str, dict[str, Any]] = {
    "plain 3D": {},
    "plain 2D": {"dims": 2},
    "residual 3D": {"residual": True, "blocks": (1, 2, 3)},
    "residual 2D": {"dims": 2, "residual": True},
    "anisotropic": ANISOTROPIC,
    "anisotropic residual": {**ANISOTROPIC, "residual": True, "decoder_blocks": (2, 1)},
    "two levels": {"channels": (8, 16)},
    "five levels": {"channels": (8, 8, 8, 8, 8)},
    "one channel": {"channels": (1, 1, 2)},
    "shrinking channels": {"channels": (16, 8, 8), "residual": True},
    "no supervision": {"deep_supervision": False},
    **{f"norm {name}": {"norm": name, "residual": True} for name in ("batch", "group", "none")},
    **{f"activation {name}": {"activation": name} for name in ("relu", "prelu", "gelu", "silu")},
    "dropout": {"dropout": 0.3},
    "dropout residual": {"dropout": 0.3, "residual": True, "dims": 2},
}
EVERY = pytest.mark.parametrize(
    "config", [UNetConfig(**{"channels": (8, 16, 16), **c}) for c in CONFIGS.values()], ids=CONFIGS
)


def size_of(network: torch.nn.Module, times: int = 2) -> tuple[int, ...]:
    return tuple(times * step for step in network.stride)  # type: ignore[union-attr]


def build(config: UNetConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(config, in_channels=2, out_channels=3)


@EVERY
def test_in_evaluation_mode_one_tensor_of_logits_has_the_size_of_the_input(config: UNetConfig) -> None:
    network = build(config).eval()
    image = torch.randn(2, 2, *size_of(network))
    with torch.no_grad():
        logits = network(image)
        assert isinstance(logits, torch.Tensor)
        assert logits.shape == (2, 3, *image.shape[2:])
        torch.testing.assert_close(network(image), logits)  # nothing random is left


@EVERY
def test_a_patch_has_the_same_logits_alone_and_in_a_batch(config: UNetConfig) -> None:
    network = build(config).eval()
    images = torch.randn(3, 2, *size_of(network))
    with torch.no_grad():
        together, alone = network(images), torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)


@EVERY
def test_in_training_mode_the_outputs_come_finest_first(config: UNetConfig) -> None:
    network = build(config).train()
    image = torch.randn(2, 2, *size_of(network))
    outputs = network(image)
    heads = max(1, len(config.channels) - 2) if config.deep_supervision else 1
    if heads == 1:
        assert outputs.shape == (2, 3, *image.shape[2:])
        return
    assert len(outputs) == heads
    assert outputs[0].shape == (2, 3, *image.shape[2:])
    for finer, coarser in itertools.pairwise(outputs):
        assert all(a in (b, 2 * b) for a, b in zip(finer.shape[2:], coarser.shape[2:], strict=True))


@EVERY
def test_the_stride_is_by_how_much_the_deepest_level_is_smaller(config: UNetConfig) -> None:
    network = build(config).eval()
    sizes: list[torch.Size] = []
    network.encoder[-1].register_forward_hook(lambda _, __, out: sizes.append(out.shape[2:]))  # type: ignore[index, union-attr]
    with torch.no_grad():
        network(torch.zeros(1, 2, *size_of(network, 3)))
    assert sizes == [(3,) * config.dims]


@EVERY
def test_gradients_reach_every_parameter(config: UNetConfig) -> None:
    network = build(config).train()
    with torch.no_grad():  # residual blocks start as their shortcut, which is no state to test
        for name, parameter in network.named_parameters():
            if "second" in name and parameter.ndim == 1:
                parameter.normal_()
    outputs = network(torch.randn(2, 2, *size_of(network)))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # A bias before a norm over voxels has no effect, and so no gradient.
        assert parameter.grad.abs().max() > 0 or name.endswith(".0.bias"), name


@EVERY
def test_equal_seeds_give_equal_weights(config: UNetConfig) -> None:
    first, second = build(config).state_dict(), build(config).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("config", "size", "padded"),
    [
        (UNetConfig(channels=(4, 8, 8)), (16, 17, 16), "(16, 20, 16)"),
        (UNetConfig(channels=(4, 8, 8), dims=2), (3, 8), "(4, 8)"),
        (UNetConfig(channels=(4, 8, 8), **ANISOTROPIC), (8, 8, 3), "(8, 8, 4)"),
    ],
)
def test_a_size_that_does_not_divide_gets_a_padded_size_proposed(
    config: UNetConfig, size: tuple[int, ...], padded: str
) -> None:
    with pytest.raises(DataError) as caught:
        build(config)(torch.zeros(1, 2, *size))
    assert str(size) in caught.value.message
    assert caught.value.hint == f"Pad to {padded}."


def test_total_stride_multiplies_per_axis() -> None:
    assert total_stride([(1, 1, 1), (1, 2, 2), (2, 2, 2)]) == (2, 4, 4)


def test_a_residual_block_starts_as_its_shortcut() -> None:
    blocks = [
        module
        for module in build(UNetConfig(channels=(8, 8), residual=True)).modules()
        if isinstance(module, ResidualBlock)
    ]
    assert len(blocks) == 4
    image = torch.rand(1, 8, 4, 4, 4)
    torch.testing.assert_close(blocks[0](image), image)


def test_the_table_names_every_network_that_a_config_may_name() -> None:
    assert set(NETWORKS) == {"unet"}
    assert isinstance(build_network(UNetConfig(channels=(4, 8)), 1, 2), UNet)


# Equality with nnU-Net. Checked once against dynamic-network-architectures 0.4 (PlainConvUNet and
# ResidualEncoderUNet, conv_bias, InstanceNorm(eps=1e-5, affine), LeakyReLU, deep_supervision): with the weights
# of each encoder stage, transposed convolution, decoder stage and head copied one to one in the order of
# `parameters()`, all outputs of the four small networks below are equal bit for bit (difference 0.0).
# The counts are those of that package, which has one head per decoder level; ours leaves out the coarsest,
# to which nnU-Net's loss gives the weight 0.

ONES, TWOS, THREES = (1, 1, 1), (2, 2, 2), (3, 3, 3)
FLAT = ((1, 3, 3), THREES, THREES, THREES)
SMALL = (8, 16, 32, 64)
LARGE = (32, 64, 128, 256, 320)
REFERENCE = {
    "plain 3D": (338_385, 3, SMALL, (ONES, TWOS, TWOS, (1, 2, 2)), FLAT, (2,) * 4, (2,) * 3, False),
    "residual 3D": (1_616_417, 3, SMALL, (ONES, (1, 2, 2), TWOS, TWOS), FLAT, (1, 3, 4, 6), (1,) * 3, True),
    "plain 2D": (29_710, 2, SMALL[:3], ((1, 1), (2, 2), (2, 2)), ((3, 3),) * 3, (2,) * 3, (2,) * 2, False),
    "residual 2D": (93_374, 2, SMALL[:3], ((1, 1), (2, 2), (2, 2)), ((3, 3),) * 3, (1, 3, 4), (1,) * 2, True),
    "plain default": (16_548_076, 3, LARGE, (ONES, *[TWOS] * 4), (THREES,) * 5, (2,) * 5, (2,) * 4, False),
    "residual default": (62_810_412, 3, LARGE, (ONES, *[TWOS] * 4), (THREES,) * 5, (1, 3, 4, 6, 6), (1,) * 4, True),
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCE)
def test_the_unet_has_as_many_parameters_as_that_of_nnunet(name: str) -> None:
    count, dims, channels, strides, kernels, blocks, decoder, residual = REFERENCE[name]
    with torch.device("meta"):
        network = UNet(
            UNetOptions(
                dims=dims, in_channels=1, out_channels=3, channels=channels, strides=strides, kernels=kernels,
                blocks=blocks, decoder_blocks=decoder, residual=residual, heads=len(channels) - 1,
            )
        )  # fmt: skip
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize(("residual", "blocks", "count"), [(False, 2, 16_548_076), (True, (1, 3, 4, 6, 6), 62_810_412)])
def test_the_configured_unet_lacks_only_the_head_that_nnunet_does_not_train(
    residual: bool, blocks: Any, count: int
) -> None:
    with torch.device("meta"):
        network = build_network(UNetConfig(residual=residual, blocks=blocks), 1, 3)
    coarsest_head = 3 * LARGE[-2] + 3
    assert sum(parameter.numel() for parameter in network.parameters()) == count - coarsest_head
