"""MONAI's networks behind the contract: equal to MONAI's own, less what is in its way."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from monai.networks.nets import VNet
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.mednext import create_mednext
from monai.networks.nets.segresnet_ds import SegResNetDS
from monai.networks.nets.swin_unetr import SwinUNETR
from pydantic import ValidationError
from torch import Tensor, nn

from medunet.config.load import parse_config
from medunet.errors import ConfigError
from medunet.networks.contract import Network, parameter_count
from medunet.networks.registry import NETWORKS, build_network

IN, OUT = 2, 3
UNETPP = {"name": "unetpp", "channels": (4, 4, 8, 8, 8)}
SEGRESNET = {"name": "segresnet", "filters": 8, "blocks": (1, 1, 1)}
DYNUNET = {"name": "dynunet", "channels": (4, 8, 8, 8)}
VNET = {"name": "vnet"}
SWIN = {"name": "swin_unetr", "feature_size": 12}
MEDNEXT = {"name": "mednext"}
NETS: tuple[dict[str, Any], ...] = (UNETPP, SEGRESNET, DYNUNET, VNET, SWIN, MEDNEXT)
SUPERVISED = (UNETPP, SEGRESNET, DYNUNET, MEDNEXT)


def config_of(options: dict[str, Any], **more: Any) -> Any:
    return NETWORKS[options["name"]].options.model_validate({"dims": 2, **options, **more})


def build(config: Any, in_channels: int = IN) -> Network:
    torch.manual_seed(0)
    return build_network(config, in_channels, OUT)


def image_of(network: Network, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size = [least + step for least, step in zip(network.minimum_size, network.stride, strict=True)]
    return torch.randn(batch, network.in_channels, *size, generator=generator)


def monai_net(name: str, dims: int) -> nn.Module:
    """As MONAI builds the network of the options above, with deep supervision."""
    common: dict[str, Any] = {"spatial_dims": dims, "in_channels": IN, "out_channels": OUT}
    instance = ("instance", {"affine": True})
    match name:
        case "unetpp":
            leaky = ("leakyrelu", {"negative_slope": 0.01})
            features = (4, 4, 8, 8, 8, 4)
            return BasicUNetPlusPlus(**common, features=features, act=leaky, bias=False, deep_supervision=True)
        case "segresnet":
            return SegResNetDS(**common, init_filters=8, blocks_down=(1, 1, 1), norm=instance, dsdepth=2)
        case "dynunet":
            lists = {"kernel_size": (3,) * 4, "strides": (1, 2, 2, 2), "upsample_kernel_size": (2,) * 3}
            return DynUNet(**common, **lists, filters=(4, 8, 8, 8), deep_supervision=True, deep_supr_num=1)
        case "vnet":
            return VNet(**common)
        case "swin_unetr":
            return SwinUNETR(**common, feature_size=12)
        case _:
            return create_mednext("S", **common, deep_supervision=True)


def finest_first(name: str, outputs: Any) -> list[Tensor]:
    """MONAI's output, whatever it is: U-Net++ gives its shallowest nesting first, DynUNet one stacked tensor."""
    if name == "unetpp":
        return list(reversed(outputs))
    if name == "dynunet" and outputs.ndim == 5:
        return list(torch.unbind(outputs, dim=1))
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


@pytest.mark.parametrize("options", NETS, ids=lambda options: options["name"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_with_the_same_weights_the_outputs_are_those_of_monai(options: dict[str, Any], training: bool) -> None:
    name = options["name"]
    ours = build(config_of(options, dropout=0.0) if name == "vnet" else config_of(options))
    theirs = monai_net(name, 2)
    weights = {key.removeprefix("net."): value for key, value in ours.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(key.startswith("skip_layers.") for key in missing)  # DynUNet's second names of the same tensors
    for layer in theirs.modules():
        if isinstance(layer, nn.Dropout3d):
            layer.p = 0.0
    image = image_of(ours)
    with torch.no_grad():
        expected = finest_first(name, theirs.train(training)(image))
        result = ours.train(training)(image)
    found = (result,) if isinstance(result, Tensor) else result
    assert len(found) == (ours.training_outputs if training else 1)
    assert len(expected) == ours.training_outputs if training else len(expected) >= 1
    for mine, other in zip(found, expected, strict=False):
        grown = nn.functional.interpolate(mine, other.shape[2:]) if name == "dynunet" else mine
        torch.testing.assert_close(grown, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", SUPERVISED, ids=lambda options: options["name"])
def test_prediction_computes_the_finest_logits_alone(options: dict[str, Any]) -> None:
    network = build(config_of(options))
    calls: list[int] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.out_channels == OUT:
            layer.register_forward_hook(lambda *_: calls.append(1))
    network.train()(image_of(network))
    assert len(calls) == network.training_outputs > 1
    calls.clear()
    network.eval()(image_of(network))
    assert len(calls) == 1
    network.train()(image_of(network))
    assert len(calls) == 1 + network.training_outputs


VARIANTS: dict[str, dict[str, Any]] = {
    **{f"unetpp norm {norm}": {**UNETPP, "norm": norm, "channels": (8,) * 5} for norm in ("none", "batch", "group")},
    **{f"unetpp {name}": {**UNETPP, "activation": name} for name in ("relu", "prelu", "gelu", "silu")},
    "unetpp dropout": {**UNETPP, "dropout": 0.2},
    "unetpp one output": {**UNETPP, "deep_supervision": False},
    "unetpp two features": {**UNETPP, "channels": (2,) * 5},
    **{f"segresnet {norm}": {**SEGRESNET, "norm": norm} for norm in ("batch", "group")},
    "segresnet one output": {**SEGRESNET, "deep_supervision": False},
    "segresnet two levels": {**SEGRESNET, "blocks": (1, 2)},
    **{f"dynunet {norm}": {**DYNUNET, "channels": (8, 8, 16), "norm": norm} for norm in ("batch", "group")},
    "dynunet residual": {**DYNUNET, "residual": True},
    "dynunet dropout": {**DYNUNET, "dropout": 0.2, "residual": True},
    "dynunet one output": {**DYNUNET, "deep_supervision": False},
    "dynunet three levels": {**DYNUNET, "channels": (4, 8, 12)},
    "dynunet five levels": {**DYNUNET, "channels": (4, 8, 12, 12, 6), "kernel_size": 5},
    "vnet no dropout": {**VNET, "dropout": 0.0},
    "swin second version": {**SWIN, "version": 2},
    "swin dropout": {**SWIN, "dropout": 0.2},
    "swin batch": {**SWIN, "norm": "batch"},
    "swin group": {**SWIN, "norm": "group", "feature_size": 24},
    "mednext large kernel": {**MEDNEXT, "kernel_size": 5},
    "mednext one output": {**MEDNEXT, "deep_supervision": False},
}
OUTPUTS = {
    "unetpp": 4, "unetpp one output": 1, "segresnet": 2, "segresnet one output": 1, "segresnet two levels": 1,
    "dynunet": 2, "dynunet batch": 1, "dynunet group": 1, "dynunet one output": 1, "dynunet three levels": 1,
    "dynunet five levels": 3, "mednext": 5, "mednext one output": 1,
}  # fmt: skip
"""By variant, else by the first word; 1 for others."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_option_leaves_no_parameter_without_gradient(variant: str) -> None:
    network = build(config_of(VARIANTS[variant])).train()
    image = image_of(network)
    result = network(image)
    outputs = (result,) if isinstance(result, Tensor) else result
    assert len(outputs) == network.training_outputs == OUTPUTS.get(variant, OUTPUTS.get(variant.partition(" ")[0], 1))
    assert outputs[0].shape == (1, OUT, *image.shape[2:])
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("residual", [False, True])
def test_a_dynunet_takes_a_stride_and_kernel_per_level_and_axis(residual: bool) -> None:
    strides = (1, (2, 2, 1), (2, 2, 1), 2)
    kernels = ((3, 3, 1), (3, 3, 1), 3, 3)
    config = config_of(DYNUNET, dims=3, strides=strides, kernel_size=kernels, residual=residual)
    assert config.stride == (8, 8, 2)
    network = build(config).train()
    fine, coarse = network(torch.randn(1, IN, 16, 8, 5))
    assert fine.shape == (1, OUT, 16, 8, 5)
    assert coarse.shape == (1, OUT, 8, 4, 5)


def test_the_dropout_of_a_dynunet_drops_no_logits() -> None:
    network = build(config_of(DYNUNET, dropout=0.9)).train()
    with torch.no_grad():
        for head in (network.net.output_block, *network.net.deep_supervision_heads):
            head.conv.conv.bias.fill_(1.0)
        outputs = [output for _ in range(5) for output in network(image_of(network))]
    assert all((output.abs().amax(dim=(2, 3)) > 0).all() for output in outputs)


@pytest.mark.parametrize("options", [UNETPP, {**DYNUNET, "residual": True}], ids=["unetpp", "dynunet"])
@pytest.mark.parametrize("dims", [2, 3])
def test_dropout_drops_whole_feature_maps(options: dict[str, Any], dims: int) -> None:
    network = build(config_of(options, dims=dims, dropout=0.1))
    dropouts = [layer for layer in network.modules() if isinstance(layer, nn.modules.dropout._DropoutNd)]
    assert len(dropouts) > 10
    assert {(type(layer), layer.p) for layer in dropouts} == {(nn.Dropout2d if dims == 2 else nn.Dropout3d, 0.1)}
    assert not any(
        isinstance(layer, nn.modules.dropout._DropoutNd) for layer in build(config_of(options, dims=dims)).modules()
    )


def test_a_dynunet_keeps_no_result_between_steps() -> None:
    network = build(config_of(DYNUNET)).train()
    network(image_of(network))
    copy.deepcopy(network)  # torch copies no result of a computation
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(network.parameters()))


@pytest.mark.parametrize("channels", [1, 3, 5, 16, 17])
def test_the_shortcut_of_a_vnet_repeats_the_image_until_it_has_16_channels(channels: int) -> None:
    first = build(config_of(VNET), in_channels=channels).eval().net.in_tr
    image = torch.rand(1, channels, 4, 4)
    with torch.no_grad():
        for parameter in first.conv_block.parameters():
            parameter.zero_()
        result = first(image)
    assert result.shape == (1, 16, 4, 4)
    torch.testing.assert_close(result, image[:, [index % channels for index in range(16)]])


@pytest.mark.parametrize("dims", [2, 3])
def test_every_dropout_of_a_vnet_has_the_probability_and_rank_of_the_config(dims: int) -> None:
    network = build(config_of(VNET, dims=dims, dropout=0.1))
    dropouts = [layer for layer in network.modules() if isinstance(layer, nn.modules.dropout._DropoutNd)]
    assert len(dropouts) == 8
    assert {(type(layer), layer.p) for layer in dropouts} == {(nn.Dropout2d if dims == 2 else nn.Dropout3d, 0.1)}


def test_checkpointing_changes_neither_logits_nor_gradients() -> None:
    plain, thrifty = (build(config_of(SWIN, checkpointing=choice, version=2)).train() for choice in (False, True))
    image = image_of(plain)
    kept: list[list[int]] = []
    for network in (plain, thrifty):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: (s.append(x.numel()), x)[1], lambda x: x):
            logits = network(image)
        logits.square().mean().backward()
        kept.append(sizes)
    assert sum(kept[1]) < 0.8 * sum(kept[0])
    for (name, mine), other in zip(thrifty.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("size", "kernel", "millions"),
    [
        *(("S", 3, 5.6), ("B", 3, 10.5), ("M", 3, 17.6), ("L", 3, 61.8)),
        *(("S", 5, 5.9), ("B", 5, 11.0), ("M", 5, 18.3), ("L", 5, 63.0)),
    ],
)
def test_a_mednext_is_as_large_as_published(size: str, kernel: int, millions: float) -> None:
    """The figures of the authors, rounded; the number of labels adds a little."""
    with torch.device("meta"):
        network = build_network(config_of(MEDNEXT, dims=3, size=size, kernel_size=kernel), 1, 14)
    assert parameter_count(network) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({**UNETPP, "channels": (4, 8, 16, 32)}, "channels"),
        ({**UNETPP, "channels": (4, 8, 16, 32, 1)}, "channels"),
        ({**SEGRESNET, "blocks": (2,)}, "blocks"),
        ({**SEGRESNET, "norm": "none"}, "norm"),
        ({**SWIN, "feature_size": 32}, "feature_size"),
        ({**MEDNEXT, "size": "XL"}, "size"),
        ({**VNET, "dropout": 1.0}, "dropout"),
    ],
)
def test_what_a_network_cannot_be_built_with_is_refused_by_its_options(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config_of(options)
    assert caught.value.errors()[0]["loc"][0] == key


@pytest.mark.parametrize(
    ("options", "what", "words"),
    [
        ("channels: [8, 16]", "network.channels", "three levels or more"),
        ("channels: [8, 16, 32], strides: [1, 5, 2]", "network.strides.1", "kernel of [3, 3]"),
        (
            "channels: [8, 16, 32], strides: [1, [2, 4], 2], kernel_size: [3, [3, 1], 3]",
            "network.strides.1",
            "kernel of [3, 1]",
        ),
    ],
)
def test_what_a_dynunet_cannot_be_built_with_is_refused_before(options: str, what: str, words: str) -> None:
    head = "name: x\nlabels: {background: 0, liver: 1}\ntrain: {patch_size: [40, 40]}\n"
    with pytest.raises(ConfigError) as caught:
        parse_config(head + f"network: {{name: dynunet, dims: 2, {options}}}")
    (problem,) = caught.value.problems
    assert problem.what == what
    assert words in str(problem)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 2), (3, 4), (5, 6), (5, 3), (7, 2)])
def test_a_dynunet_takes_strides_up_to_the_kernel_plus_one(kernel: int, stride: int) -> None:
    config = config_of(DYNUNET, channels=(4, 8, 8), strides=(1, stride, 1), kernel_size=(3, kernel, 3))
    network = build(config).eval()
    assert network(torch.zeros(1, IN, 2 * stride, 2 * stride)).shape == (1, OUT, 2 * stride, 2 * stride)
