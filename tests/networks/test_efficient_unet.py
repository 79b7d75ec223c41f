"""The U-Net over an EfficientNet or ResNet: as published, as MONAI's, and free of what only a classifier needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.nets.efficientnet import EfficientNet, MBConvBlock
from monai.networks.nets.flexible_unet import FlexibleUNet

from medunet.config.networks import EfficientUNetConfig
from medunet.networks.efficient_unet import EfficientUNet, build_efficient_unet

PUBLISHED = {
    "b0": (5_288_548, 320),
    "b1": (7_794_184, 320),
    "b2": (9_109_994, 352),
    "b3": (12_233_232, 384),
    "b4": (19_341_616, 448),
    "b5": (30_389_784, 512),
    "b6": (43_040_704, 576),
    "b7": (66_347_960, 640),
    "r18": (11_689_512, 512),
    "r34": (21_797_672, 512),
    "r50": (25_557_032, 2048),
}
"""Parameters of the classifier for 1000 classes, as torchvision's documentation states them; its last features."""

SMALL = {"decoder_channels": (16, 16, 8, 8, 8)}


def make(backbone: str = "b0", dims: int = 2, channels: int = 1, **options: Any) -> EfficientUNet:
    torch.manual_seed(0)
    config = EfficientUNetConfig(name="efficient_unet", backbone=backbone, dims=dims, **{**SMALL, **options})
    return build_efficient_unet(config, channels, 3)


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_an_encoder_has_the_parameters_of_the_published_classifier_but_its_head(backbone: str) -> None:
    count, width = PUBLISHED[backbone]
    head = width * 1000 + 1000
    if backbone.startswith("b"):  # a 1x1 convolution to four times the features, and its norm
        head = width * 4 * width + 2 * 4 * width + 4 * width * 1000 + 1000
    with torch.device("meta"):
        encoder = make(backbone, channels=3).encoder
    assert sum(parameter.numel() for parameter in encoder.parameters()) == count - head


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("backbone", PUBLISHED)
def test_each_stage_halves_every_size_that_the_network_takes(backbone: str, dims: int) -> None:
    with torch.device("meta"):
        encoder = make(backbone, dims).encoder
        for size in ((32, 96, 160)[:dims], (64, 32, 224)[:dims]):
            features = encoder(torch.zeros(1, 1, *size))
            assert [tuple(f.shape[2:]) for f in features] == [tuple(n // 2**k for n in size) for k in range(1, 6)]


@pytest.mark.parametrize(("backbone", "theirs"), [("b0", "efficientnet-b0"), ("r50", "resnet50")])
def test_weights_and_logits_are_those_of_the_flexible_unet_of_monai(backbone: str, theirs: str) -> None:
    ours = make(backbone, channels=2).eval()
    reference = FlexibleUNet(2, 3, theirs, decoder_channels=SMALL["decoder_channels"]).eval()
    shared = {name: value for name, value in reference.state_dict().items() if name in ours.state_dict()}
    rest = {name.split(".")[1] for name in reference.state_dict() if name not in shared}
    assert rest <= {"_conv_head", "_bn1", "_fc"}
    ours.load_state_dict(shared)
    image = torch.randn(1, 2, 32, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), reference(image))


@pytest.mark.parametrize("backbone", ["b2", "r18"])
def test_features_shift_with_the_image(backbone: str) -> None:
    """b2 was published for images of 260, at which some of its paddings are not those for even sizes."""
    encoder = make(backbone).encoder.eval()
    for module in encoder.modules():
        if isinstance(module, MBConvBlock):  # squeeze-and-excitation sees the whole patch
            torch.nn.init.zeros_(module._se_expand.weight)
    image = torch.randn(1, 1, 256, 192)
    with torch.no_grad():
        here, there = encoder(image)[2], encoder(image.roll(32, dims=2))[2]
    torch.testing.assert_close(there[..., 16:20, 8:16], here[..., 12:16, 8:16], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backbone", ["b0", "r18"])
def test_a_gradient_reaches_every_parameter(backbone: str) -> None:
    network = make(backbone).train()
    for seed in range(3):  # whole blocks are left out at random (drop connect)
        torch.manual_seed(seed)
        network(torch.randn(4, 1, 32, 64)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


@pytest.mark.parametrize(("training", "batch", "seen"), [(True, 2, 1), (False, 1, 1), (True, 1, 2)])
def test_one_pixel_at_the_deepest_level_is_enough_for_two_images_or_running_statistics(
    training: bool, batch: int, seen: int
) -> None:
    network = make("r18").train(training)
    widths: list[int] = []
    network.encoder.layer4.register_forward_hook(lambda _, __, out: widths.append(out.shape[-1]))
    with torch.no_grad():
        network(torch.randn(batch, 1, 32, 32))
    assert widths == [seen]


@pytest.mark.parametrize("backbone", ["b0", "r18"])
@pytest.mark.parametrize("size", [(32, 32), (1, 7)])
def test_one_image_whose_deepest_level_is_one_pixel_can_be_trained_on(backbone: str, size: tuple[int, ...]) -> None:
    network = make(backbone).train()
    logits = network(torch.randn(1, 1, *size))
    assert logits.shape == (1, 3, *size)
    logits.mean().backward()
    assert torch.isfinite(network.eval()(torch.randn(1, 1, *size))).all()


def test_running_statistics_are_known_after_forty_steps() -> None:
    network = make("b0").train()
    images = torch.randn(2, 1, 32, 64) + 3
    with torch.no_grad():
        for _ in range(40):
            network(images)
        encoder = network.encoder
        values = encoder._conv_stem(encoder._conv_stem_padding(images))
    torch.testing.assert_close(encoder._bn0.running_mean, values.mean((0, 2, 3)), atol=0.01, rtol=0.03)


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import monai.networks.nets.efficientnet as module

    def refuse(*_: Any) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(module, "_load_state_dict", refuse)
    assert isinstance(make("b0").encoder, EfficientNet)
