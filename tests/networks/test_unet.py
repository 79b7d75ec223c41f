"""Every option of the configurable U-Net, alone and with others; tests/networks/test_contract.py has the rest."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from medunet.config.networks import ResidualUNetConfig, UNetConfig
from medunet.networks.blocks import MaxPool, ResidualBlock
from medunet.networks.contract import Network, parameter_count
from medunet.networks.registry import build_network
from medunet.networks.unet import UNet

FLAT = {"strides": (1, (2, 2, 1), (2, 2, 2)), "kernel_size": ((3, 3, 1), (3, 3, 3), 3)}
CONFIGS: dict[str, dict[str, Any]] = {
    "plain 3D": {},
    "plain 2D": {"dims": 2},
    "residual 3D": {"residual": True, "blocks": (1, 2, 3)},
    "residual 2D": {"dims": 2, "residual": True},
    "attention 3D": {"attention": True},
    "attention 2D, residual": {"dims": 2, "attention": True, "residual": True},
    "anisotropic": FLAT,
    "anisotropic residual": {**FLAT, "residual": True, "decoder_blocks": (2, 1)},
    "anisotropic, all new": {**FLAT, "attention": True, "down": "maxpool", "up": "bilinear"},
    "strides of 3 and 4": {"dims": 2, "strides": (1, (3, 1), (1, 4)), "attention": True, "up": "nearest"},
    "a level of the same size": {"strides": (1, 1, 2), "attention": True, "down": "maxpool", "up": "bilinear"},
    **{f"up {up} {dims}D": {"up": up, "dims": dims} for up in ("bilinear", "nearest") for dims in (2, 3)},
    "down maxpool 3D": {"down": "maxpool"},
    "down maxpool 2D, residual": {"down": "maxpool", "residual": True, "dims": 2},
    "down maxpool, residual, up bilinear": {"down": "maxpool", "residual": True, "up": "bilinear"},
    "two levels": {"channels": (8, 16)},
    "five levels": {"dims": 2, "channels": (8, 8, 8, 8, 8)},
    "one channel": {"channels": (1, 1, 2), "attention": True},
    "shrinking channels": {"channels": (16, 8, 8), "residual": True, "attention": True},
    "no supervision": {"deep_supervision": False},
    **{f"norm {name}": {"norm": name, "residual": True, "dims": 2} for name in ("batch", "group", "none")},
    **{f"norm {name}, attention": {"norm": name, "attention": True} for name in ("batch", "group", "none")},
    **{f"activation {name}": {"activation": name, "dims": 2} for name in ("relu", "prelu", "gelu", "silu")},
    "dropout": {"dropout": 0.3},
    "dropout residual": {"dropout": 0.3, "residual": True, "dims": 2},
}
EVERY = pytest.mark.parametrize(
    "config", [UNetConfig(**{"channels": (8, 16, 16), **c}) for c in CONFIGS.values()], ids=CONFIGS
)


def build(config: UNetConfig) -> UNet:
    torch.manual_seed(0)
    network = build_network(config, in_channels=2, out_channels=3)
    assert isinstance(network, UNet)
    return network


def image_for(network: Network, times: int = 2, batch: int = 2) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, 2, *(times * step for step in network.stride))


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs


@EVERY
def test_in_training_mode_each_output_is_as_large_as_its_level(config: UNetConfig) -> None:
    network = build(config).train()
    image = image_for(network)
    outputs = as_tuple(network(image))
    assert len(outputs) == network.training_outputs
    assert len(outputs) == (max(1, len(config.channels) - 2) if config.deep_supervision else 1)
    size = tuple(image.shape[2:])
    for output, stride in zip(outputs, config.level_strides, strict=False):
        size = tuple(n // step for n, step in zip(size, stride, strict=True))
        assert output.shape == (2, 3, *size)


@EVERY
def test_the_stride_is_by_how_much_the_deepest_level_is_smaller(config: UNetConfig) -> None:
    network = build(config).eval()
    sizes: list[torch.Size] = []
    network.encoder[-1].register_forward_hook(lambda _, __, out: sizes.append(out.shape[2:]))
    with torch.no_grad():
        network(image_for(network, times=3, batch=1))
    assert sizes == [(3,) * config.dims]


@EVERY
def test_a_patch_has_the_same_logits_alone_and_in_a_batch(config: UNetConfig) -> None:
    network = build(config).eval()
    images = image_for(network, batch=3)
    with torch.no_grad():
        together, alone = network(images), torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)


@EVERY
def test_gradients_reach_every_parameter(config: UNetConfig) -> None:
    network = build(config).train()
    with torch.no_grad():  # residual blocks start as their shortcut, which is no state to test
        for name, parameter in network.named_parameters():
            if "second" in name and parameter.ndim == 1:
                parameter.normal_()
    outputs = as_tuple(network(image_for(network)))
    torch.stack([(output * torch.randn_like(output)).sum() for output in outputs]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # A bias before a norm over voxels has no effect, and so no gradient.
        assert parameter.grad.abs().max() > 0 or name.endswith(".0.bias"), name


@EVERY
def test_a_step_in_bfloat16_and_channels_last_is_nearly_that_in_float32(config: UNetConfig) -> None:
    """What a training step does on processors that have bfloat16: gradients too, of every kind of layer."""
    order = torch.channels_last if config.dims == 2 else torch.channels_last_3d
    config = config.model_copy(update={"dropout": 0.0})
    gradients: list[Tensor] = []
    for mixed in (False, True):
        network = build(config).train()
        image = image_for(network, times=4 if config.dims == 2 else 3)
        if mixed:
            network, image = network.to(memory_format=order), image.to(memory_format=order)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            outputs = as_tuple(network(image))
        torch.stack([output.float().square().mean() for output in outputs]).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    exact, mixed_precision = gradients
    assert torch.isfinite(mixed_precision).all()
    assert torch.nn.functional.cosine_similarity(exact, mixed_precision, dim=0) > 0.93


ONE_VOXEL = list(itertools.product(("instance", "batch", "group", "none"), (False, True), ("stride", "maxpool")))


@pytest.mark.parametrize(("norm", "residual", "down"), ONE_VOXEL)
def test_a_patch_of_one_voxel_at_the_deepest_level_is_trained_on(norm: str, residual: bool, down: str) -> None:
    options = {"norm": norm, "residual": residual, "down": down, "attention": True, "up": "bilinear", "dims": 2}
    network = build(UNetConfig(channels=(8, 8, 16), **options)).train()
    sizes: list[tuple[int, ...]] = []
    network.encoder[0].register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[2:])))
    output = network(image_for(network, times=1, batch=1))
    assert isinstance(output, Tensor)
    assert output.shape == (1, 3, 4, 4)
    assert sizes == [(4, 8) if norm in {"instance", "batch"} else (4, 4)]  # group: two features, two values
    output.square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters() if parameter.grad is not None)


BATCH_OF_TWO = {"instance": (4, 8), "batch": (4, 4), "group": (4, 4), "none": (4, 4)}


@pytest.mark.parametrize("norm", BATCH_OF_TWO)
@pytest.mark.parametrize("training", [False, True])
def test_a_patch_is_only_padded_where_its_norm_needs_a_second_voxel(norm: str, training: bool) -> None:
    network = build(UNetConfig(channels=(8, 8, 16), norm=norm, dims=2)).train(training)
    sizes: list[tuple[int, ...]] = []
    network.encoder[0].register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[2:])))
    with torch.no_grad():
        network(image_for(network, times=1, batch=2))
        if not training:
            network(image_for(network, times=1, batch=1))
    assert set(sizes) == {BATCH_OF_TWO[norm]}


def test_a_group_of_one_feature_on_the_coarsest_grid_is_padded_for() -> None:
    """The last level has two features per group, but the one before it, on the same grid, has one."""
    config = UNetConfig(channels=(8, 8, 16), strides=(1, 2, 1), norm="group", dims=2)
    network = build(config).train()
    assert all(torch.isfinite(output).all() for output in as_tuple(network(torch.randn(1, 2, 2, 2))))


def test_a_residual_block_starts_as_its_shortcut() -> None:
    blocks = [
        module
        for module in build(UNetConfig(channels=(8, 8), residual=True)).modules()
        if isinstance(module, ResidualBlock)
    ]
    assert len(blocks) == 4
    image = torch.rand(1, 8, 4, 4, 4)
    torch.testing.assert_close(blocks[0](image), image)


@pytest.mark.parametrize("residual", [False, True])
def test_max_pooling_takes_the_place_of_the_step_of_the_first_convolution(residual: bool) -> None:
    config = UNetConfig(channels=(8, 8, 16), strides=(1, (2, 1, 2), (1, 2, 2)), residual=residual)
    pooled = build(config.model_copy(update={"down": "maxpool"}))
    assert [type(pool) for pool in pooled.pools] == [torch.nn.Identity, MaxPool, MaxPool]
    steps = [module.stride for module in pooled.encoder.modules() if isinstance(module, torch.nn.Conv3d)]
    assert set(steps) == {(1, 1, 1)}
    assert parameter_count(pooled) == parameter_count(build(config))
    image = image_for(pooled)
    seen: list[Tensor] = []
    pooled.encoder[1].register_forward_hook(lambda _, args, __: seen.append(args[0]))
    pooled.encoder[0].register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        pooled.eval()(image)
    assert torch.equal(seen[1], torch.nn.functional.max_pool3d(seen[0], (2, 1, 2)))


@pytest.mark.parametrize("up", ["bilinear", "nearest"])
def test_interpolation_takes_fewer_parameters_than_transposed_convolution(up: str) -> None:
    plain = UNetConfig(channels=(8, 16, 24))
    saved = sum(7 * coarser * finer for finer, coarser in itertools.pairwise(plain.channels))
    assert parameter_count(build(plain)) - parameter_count(build(plain.model_copy(update={"up": up}))) == saved


def test_the_residual_preset_is_the_unet_with_residual_blocks() -> None:
    torch.manual_seed(0)
    preset = build_network(ResidualUNetConfig(name="residual_unet", channels=(4, 8, 8)), 2, 3).state_dict()
    unet = build(UNetConfig(channels=(4, 8, 8), residual=True)).state_dict()
    assert list(preset) == list(unet)
    assert all(torch.equal(preset[name], unet[name]) for name in unet)


LAYER = ("0.weight", "0.bias", "1.weight", "1.bias")
BLOCK = tuple(f"{part}.{layer}" for part in ("first", "second") for layer in LAYER)


def names(prefix: str, ends: tuple[str, ...]) -> list[str]:
    return [f"{prefix}.{end}" for end in ends]


def test_weights_keep_the_names_that_saved_models_have() -> None:
    decoder = [*names("up.0", ("weight", "bias")), *names("decoder.0.0", LAYER)]
    head = names("heads.0", ("weight", "bias"))
    assert list(build(UNetConfig(channels=(4, 8))).state_dict()) == [
        *(name for level in (0, 1) for block in (0, 1) for name in names(f"encoder.{level}.{block}", LAYER)),
        *decoder,
        *names("decoder.0.1", LAYER),
        *head,
    ]
    assert list(build(UNetConfig(channels=(4, 8), residual=True, blocks=1)).state_dict()) == [
        *names("stem", LAYER),
        *names("encoder.0.0", BLOCK),
        *names("encoder.1.0", (*BLOCK, "shortcut.1.weight", "shortcut.2.weight", "shortcut.2.bias")),
        *decoder,
        *head,
    ]


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (UNetConfig(), 16_548_076),
        (UNetConfig(residual=True), 62_810_412),
        (ResidualUNetConfig(name="residual_unet"), 62_810_412),
    ],
)
def test_the_default_unet_lacks_only_the_head_that_nnunet_does_not_train(config: Any, count: int) -> None:
    """The counts are those of nnU-Net, whose loss gives the coarsest of its heads the weight 0."""
    with torch.device("meta"):
        network = build_network(config, 1, 3)
    coarsest_head = 3 * 256 + 3
    assert parameter_count(network) == count - coarsest_head


@pytest.mark.parametrize("name", ["anisotropic, all new", "down maxpool 2D, residual"])
def test_the_options_that_change_the_graph_can_be_exported(name: str) -> None:
    network = build(UNetConfig(**{"channels": (4, 8, 8), **CONFIGS[name]})).eval()
    image = image_for(network, batch=1)
    with torch.no_grad():
        program = torch.export.export(network, (image,), strict=False)
        torch.testing.assert_close(program.module()(image), network(image), atol=1e-5, rtol=1e-5)
