"""Weights of a classifier in the encoder, by whatever names: each value in its layer, and nothing missed in silence.

The names below are written out apart from the tables of the package. They were compared once with the state dicts of
torchvision 0.29, timm 1.0.19 and efficientnet-pytorch 0.7.1: all names and shapes of r18, r34, r50 and b0 to b7 agree.
With torchvision's ResNets, MONAI's and efficientnet-pytorch's encoders in random weights the features were equal.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from monai.networks.nets.efficientnet import EfficientNetBN
from monai.networks.nets.resnet import ResNetFeatures
from torch import Tensor, nn

from medunet.config.networks import EfficientUNetConfig
from medunet.errors import ModelError
from medunet.networks.efficient_unet import build_efficient_unet
from medunet.networks.encoder_weights import encoder_state, fit

R18 = """
conv1 64 3 7 7          | bn1 64
layer1.0.conv1 64 64 3 3    | layer1.0.bn1 64  | layer1.0.conv2 64 64 3 3   | layer1.0.bn2 64
layer1.1.conv1 64 64 3 3    | layer1.1.bn1 64  | layer1.1.conv2 64 64 3 3   | layer1.1.bn2 64
layer2.0.conv1 128 64 3 3   | layer2.0.bn1 128 | layer2.0.conv2 128 128 3 3 | layer2.0.bn2 128
layer2.0.downsample.0 128 64 1 1 | layer2.0.downsample.1 128
layer2.1.conv1 128 128 3 3  | layer2.1.bn1 128 | layer2.1.conv2 128 128 3 3 | layer2.1.bn2 128
layer3.0.conv1 256 128 3 3  | layer3.0.bn1 256 | layer3.0.conv2 256 256 3 3 | layer3.0.bn2 256
layer3.0.downsample.0 256 128 1 1 | layer3.0.downsample.1 256
layer3.1.conv1 256 256 3 3  | layer3.1.bn1 256 | layer3.1.conv2 256 256 3 3 | layer3.1.bn2 256
layer4.0.conv1 512 256 3 3  | layer4.0.bn1 512 | layer4.0.conv2 512 512 3 3 | layer4.0.bn2 512
layer4.0.downsample.0 512 256 1 1 | layer4.0.downsample.1 512
layer4.1.conv1 512 512 3 3  | layer4.1.bn1 512 | layer4.1.conv2 512 512 3 3 | layer4.1.bn2 512
"""
"""Convolutions with their shapes and norms with their features, as torchvision, timm and MONAI name them."""

B0 = (
    (0, 0, 32, 32, 8, 16, 3),
    (1, 0, 16, 96, 4, 24, 3),
    (1, 1, 24, 144, 6, 24, 3),
    (2, 0, 24, 144, 6, 40, 5),
    (2, 1, 40, 240, 10, 40, 5),
    (3, 0, 40, 240, 10, 80, 3),
    (3, 1, 80, 480, 20, 80, 3),
    (3, 2, 80, 480, 20, 80, 3),
    (4, 0, 80, 480, 20, 112, 5),
    (4, 1, 112, 672, 28, 112, 5),
    (4, 2, 112, 672, 28, 112, 5),
    (5, 0, 112, 672, 28, 192, 5),
    (5, 1, 192, 1152, 48, 192, 5),
    (5, 2, 192, 1152, 48, 192, 5),
    (5, 3, 192, 1152, 48, 192, 5),
    (6, 0, 192, 1152, 48, 320, 3),
)
"""Blocks of b0: stage, number in it, features in, in the middle, squeezed and out, kernel."""

WAYS = {
    "MONAI": ("_conv_stem _bn0", "_blocks.{stage}.{number}.", "_conv_head _bn1 _fc"),
    "efficientnet-pytorch": ("_conv_stem _bn0", "_blocks.{number}.", "_conv_head _bn1 _fc"),
    "timm": ("conv_stem bn1", "blocks.{stage}.{index}.", "conv_head bn2 classifier"),
    "torchvision": ("features.0.0 features.0.1", "features.{one_more}.{index}.block.",
                    "features.8.0 features.8.1 classifier.1"),
}  # fmt: skip
"""Names of the stem, what the names of a block begin with, and names of the head."""

LUKEMELAS = ("_depthwise_conv _bn1 _se_reduce _se_expand _project_conv _bn2",
             "_expand_conv _bn0 _depthwise_conv _bn1 _se_reduce _se_expand _project_conv _bn2")  # fmt: skip
LAYERS = {
    "MONAI": LUKEMELAS,
    "efficientnet-pytorch": LUKEMELAS,
    "timm": ("conv_dw bn1 se.conv_reduce se.conv_expand conv_pw bn2",
             "conv_pw bn1 conv_dw bn2 se.conv_reduce se.conv_expand conv_pwl bn3"),
    "torchvision": ("0.0 0.1 1.fc1 1.fc2 2.0 2.1", "0.0 0.1 1.0 1.1 2.fc1 2.fc2 3.0 3.1"),
}  # fmt: skip
"""Layers of a block without and with expansion, in the order of the computation."""


def entries(name: str, shape: tuple[int, ...], *, bias: bool = False) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of a convolution, or of a norm where there is one number."""
    yield f"{name}.weight", shape
    if len(shape) == 1:
        yield from ((f"{name}.{kind}", shape) for kind in ("bias", "running_mean", "running_var"))
        yield f"{name}.num_batches_tracked", ()
    elif bias:
        yield f"{name}.bias", shape[:1]


def filled(shapes: list[tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Random values that depend on the place in the list, not on the name."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(shape, generator=generator) if shape else torch.tensor(index)
        for index, (name, shape) in enumerate(shapes)
    }


def resnet18() -> dict[str, Tensor]:
    shapes: list[tuple[str, tuple[int, ...]]] = []
    for line in R18.split("\n"):
        for layer in filter(None, map(str.strip, line.split("|"))):
            name, *shape = layer.split()
            shapes += entries(name, tuple(map(int, shape)))
    return filled(shapes)


def b0(way: str) -> dict[str, Tensor]:
    stem, prefix, head = WAYS[way]
    first, norm = stem.split()
    shapes = [*entries(first, (32, 3, 3, 3)), *entries(norm, (32,))]
    for number, (stage, index, wide_in, middle, squeezed, out, kernel) in enumerate(B0):
        before = prefix.format(stage=stage, number=number, index=index, one_more=stage + 1)
        sizes: list[tuple[int, ...]] = [
            (middle, wide_in, 1, 1), (middle,), (middle, 1, kernel, kernel), (middle,),
            (squeezed, middle, 1, 1), (middle, squeezed, 1, 1), (out, middle, 1, 1), (out,),
        ]  # fmt: skip
        names = LAYERS[way][stage > 0].split()
        for name, size in zip(names, sizes[-len(names) :], strict=True):
            shapes += entries(before + name, size, bias=size in (sizes[4], sizes[5]))
    last, norm, linear = head.split()
    shapes += [*entries(last, (1280, 320, 1, 1)), *entries(norm, (1280,))]
    return filled([*shapes, (f"{linear}.weight", (5, 1280)), (f"{linear}.bias", (5,))])


def encoder(backbone: str = "r18", dims: int = 2, channels: int = 3) -> nn.Module:
    config = EfficientUNetConfig(
        name="efficient_unet", backbone=backbone, dims=dims, decoder_channels=(8, 8, 8, 8, 8)
    )  # fmt: skip
    return build_efficient_unet(config, channels, 2).encoder.eval()


@pytest.fixture(scope="module")
def b0_encoder() -> nn.Module:
    return encoder("b0")


@pytest.fixture(scope="module")
def r18_encoder() -> nn.Module:
    return encoder("r18")


def equal(state: dict[str, Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(state.values(), expected, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_every_value_of_a_b0_comes_into_its_layer(b0_encoder: nn.Module, way: str) -> None:
    file = b0(way)
    state = encoder_state(b0_encoder, file, "b0", "file")
    assert list(state) == list(b0_encoder.state_dict())
    assert equal(state, list(file.values())[: len(state)])  # the head comes last
    b0_encoder.load_state_dict(state)


def test_every_value_of_an_r18_comes_into_its_layer(r18_encoder: nn.Module) -> None:
    file = resnet18()
    state = encoder_state(r18_encoder, {**file, "fc.weight": torch.rand(5, 512), "fc.bias": torch.rand(5)}, "r18", "f")
    assert list(state) == list(file)
    assert equal(state, list(file.values()))


@pytest.mark.parametrize("prefix", ["module.", "encoder.", "module.encoder.", "backbone.body.", "0."])
def test_names_may_stand_behind_a_prefix_and_beside_others(r18_encoder: nn.Module, prefix: str) -> None:
    file = resnet18()
    others = {
        "decoder.layer1.0.conv1.weight": torch.rand(1),
        "conv1.weight": torch.rand(4, 4),
        "head.bn1": torch.rand(1),
    }
    state = encoder_state(r18_encoder, {**others, **{prefix + name: v for name, v in file.items()}}, "r18", "file")
    assert equal(state, list(file.values()))


def test_a_counter_of_batches_may_be_missing(b0_encoder: nn.Module) -> None:
    file = {name: value for name, value in b0("efficientnet-pytorch").items() if "num_batches" not in name}
    state = encoder_state(b0_encoder, file, "b0", "file")
    assert state["_bn0.num_batches_tracked"] == 0
    b0_encoder.load_state_dict(state)


def randomised(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return module.eval()


def test_the_features_are_those_of_the_classifier(b0_encoder: nn.Module) -> None:
    classifier = randomised(EfficientNetBN("efficientnet-b0", pretrained=False))
    b0_encoder.load_state_dict(encoder_state(b0_encoder, classifier.state_dict(), "b0", "file"))
    image = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        stem = classifier._swish(classifier._bn0(classifier._conv_stem(classifier._conv_stem_padding(image))))
        torch.testing.assert_close(b0_encoder(image)[-1], classifier._blocks(stem))


@pytest.mark.parametrize("dims", [2, 3])
def test_an_r18_without_shortcut_convolutions_gives_the_features_it_gave(dims: int) -> None:
    """As MedicalNet's, which MONAI reads."""
    theirs = randomised(ResNetFeatures("resnet18", pretrained=False, spatial_dims=dims, in_channels=1))
    assert not any("downsample" in name for name in theirs.state_dict())
    ours = encoder("r18", dims, 1)
    ours.load_state_dict(encoder_state(ours, theirs.state_dict(), "r18", "file"))
    image = torch.randn(1, 1, *(64, 32, 32)[:dims])
    with torch.no_grad():
        for a, b in zip(ours(image), theirs(image), strict=True):
            torch.testing.assert_close(a, b)


# channels of the image, and a third axis


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_kernels_are_repeated_in_turn_and_scaled_to_any_number_of_channels(channels: int) -> None:
    kernel = torch.rand(8, 3, 3, 3)
    found = fit(kernel, torch.empty(8, channels, 3, 3), image=True)
    red, green, blue = kernel.unbind(1)
    expected = {
        1: [red + green + blue],
        2: [1.5 * red, 1.5 * green],
        3: [red, green, blue],
        4: [0.75 * red, 0.75 * green, 0.75 * blue, 0.75 * red],
        6: [0.5 * each for each in (red, green, blue, red, green, blue)],
    }
    torch.testing.assert_close(found, torch.stack(expected[channels], dim=1))


@pytest.mark.parametrize("channels", [1, 6])
def test_an_image_with_equal_channels_is_answered_as_before(channels: int) -> None:
    kernel, grey = torch.randn(8, 3, 3, 3), torch.randn(1, 1, 8, 8)
    adapted = fit(kernel, torch.empty(8, channels, 3, 3), image=True)
    assert adapted is not None
    before = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), kernel)
    torch.testing.assert_close(nn.functional.conv2d(grey.expand(-1, channels, -1, -1), adapted), before)


def test_only_the_first_convolution_may_have_another_number_of_channels() -> None:
    assert fit(torch.rand(8, 3, 3, 3), torch.empty(8, 4, 3, 3), image=False) is None


def test_flat_kernels_answer_a_volume_of_equal_slices_as_one_slice() -> None:
    kernel, slice_ = torch.randn(4, 2, 3, 3), torch.randn(1, 2, 8, 8)
    inflated = fit(kernel, torch.empty(4, 2, 3, 3, 3), image=False)
    assert inflated is not None
    volume = nn.functional.conv3d(slice_[..., None].expand(-1, -1, -1, -1, 5), inflated)
    expected = nn.functional.conv2d(slice_, kernel)[..., None].expand(-1, -1, -1, -1, 3)
    torch.testing.assert_close(volume, expected)


def test_a_flat_r18_becomes_a_solid_one_for_one_channel() -> None:
    file, solid = resnet18(), encoder("r18", 3, 1)
    solid.load_state_dict(encoder_state(solid, file, "r18", "file"))
    torch.testing.assert_close(solid.conv1.weight.sum(dim=(1, -1)), file["conv1.weight"].sum(1))
    torch.testing.assert_close(solid.layer2[0].conv1.weight[..., 1] * 3, file["layer2.0.conv1.weight"])


def test_half_precision_becomes_that_of_the_network(r18_encoder: nn.Module) -> None:
    file = {name: value.half() if value.ndim else value for name, value in resnet18().items()}
    state = encoder_state(r18_encoder, file, "r18", "file")
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


# what is refused


def refusal(encoder: nn.Module, file: dict[str, Tensor], backbone: str = "r18") -> str:
    with pytest.raises(ModelError) as caught:
        encoder_state(encoder, file, backbone, "weights.pth")
    assert caught.value.hint
    assert caught.value.message.startswith("weights.pth holds ")
    return caught.value.message


def test_missing_layers_are_named_and_counted(r18_encoder: nn.Module) -> None:
    file = {f"module.{name}": value for name, value in resnet18().items() if not name.startswith("layer4")}
    assert refusal(r18_encoder, file) == (
        "weights.pth holds no weights of a r18: module.layer4.0.conv1.weight (512, 256, 3, 3) is missing from the "
        "file, module.layer4.0.bn1.weight (512,) is missing from the file, module.layer4.0.bn1.bias (512,) is missing "
        "from the file, and 22 more."
    )


def test_one_missing_shortcut_is_not_replaced(r18_encoder: nn.Module) -> None:
    file = resnet18()
    del file["layer3.0.downsample.0.weight"]
    assert "r18: layer3.0.downsample.0.weight (256, 128, 1, 1) is missing from the file." in refusal(r18_encoder, file)


def test_another_shape_is_said(b0_encoder: nn.Module) -> None:
    file = b0("timm") | {"blocks.1.0.conv_pw.weight": torch.rand(80, 16, 1, 1)}
    words = "blocks.1.0.conv_pw.weight is (80, 16, 1, 1) in the file and (96, 16, 1, 1) in the network."
    assert words in refusal(b0_encoder, file, "b0")


@pytest.mark.parametrize(
    ("backbone", "name"),
    [("timm", "blocks.0.1.conv_dw.weight"), ("torchvision", "features.1.1.block.0.0.weight"),
     ("efficientnet-pytorch", "_blocks.16._expand_conv.weight")],
)  # fmt: skip
def test_a_deeper_efficientnet_is_not_cut_short(b0_encoder: nn.Module, backbone: str, name: str) -> None:
    """b1 has all layers of b0 by name and shape, and more."""
    words = f"{name} has no place in the network"
    assert words in refusal(b0_encoder, b0(backbone) | {name: torch.rand(1)}, "b0")


def test_a_deeper_resnet_is_not_cut_short(r18_encoder: nn.Module) -> None:
    file = resnet18() | {"layer1.2.conv1.weight": torch.rand(64, 64, 3, 3)}
    assert "layer1.2.conv1.weight has no place in the network" in refusal(r18_encoder, file)


def test_weights_of_another_family_are_refused(r18_encoder: nn.Module, b0_encoder: nn.Module) -> None:
    assert refusal(r18_encoder, b0("timm")).endswith("it has no layer conv1.weight.")
    names = "_conv_stem.weight or conv_stem.weight or features.0.0.weight"
    assert refusal(b0_encoder, resnet18(), "b0").endswith(f"it has no layer {names}.")


def test_solid_weights_do_not_fit_a_flat_network(r18_encoder: nn.Module) -> None:
    file = {name: value[..., None] if value.ndim == 4 else value for name, value in resnet18().items()}
    assert "conv1.weight is (64, 3, 7, 7, 1) in the file and (64, 3, 7, 7) in the network" in refusal(r18_encoder, file)


def test_values_that_are_no_numbers_are_found(r18_encoder: nn.Module) -> None:
    file = resnet18()
    file["layer1.0.bn1.running_var"][3] = float("nan")
    assert "values in layer1.0.bn1.running_var that are no numbers" in refusal(r18_encoder, file)
