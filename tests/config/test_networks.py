"""The sizes that follow from a network's options, and which options two networks share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medunet.config.load import parse_config
from medunet.config.network_options import NetworkOptions
from medunet.config.networks import (
    DynUNetConfig,
    SwinUNETRConfig,
    UNet2015Config,
    UNetConfig,
    option_classes,
    shared_options,
)
from medunet.errors import ConfigError

KINDS = sorted(option_classes().items())
HEAD = "name: t\nlabels: {background: 0, liver: 1}\n"


@pytest.mark.parametrize(("name", "kind"), KINDS)
@given(size=st.lists(st.integers(1, 700), min_size=3, max_size=3), dims=st.sampled_from([2, 3]))
def test_a_padded_size_is_the_smallest_that_fits_and_the_nearest_fits_too(name, kind, size, dims):
    options = kind(name=name, dims=dims)
    wanted = tuple(size[:dims])
    padded, nearest = options.padded(wanted), options.nearest(wanted)
    assert options.fits(padded)
    assert options.fits(nearest)
    assert options.fits(wanted) == (padded == wanted)
    for need, has, near, step, least in zip(wanted, padded, nearest, options.stride, options.minimum_size, strict=True):
        assert need <= has < max(need + step, least + 1)
        assert abs(near - need) <= max(step / 2, least - need)


def test_the_stride_is_the_product_of_the_levels():
    options = UNetConfig(channels=(8, 8, 8, 8), strides=(1, (2, 2, 1), 2, (1, 2, 2)))
    assert options.stride == (4, 8, 4)
    assert options.level_strides == ((1, 1, 1), (2, 2, 1), (2, 2, 2), (1, 2, 2))
    assert DynUNetConfig(name="dynunet", dims=2, channels=(8, 8, 8)).stride == (4, 4)


@pytest.mark.parametrize(
    ("dims", "margin", "minimum", "published"),
    [(2, (92, 92), (188, 188), (572, 572)), (3, (44,) * 3, (92,) * 3, (132, 132, 116))],
)
def test_the_published_sizes_of_the_2015_network_fit(dims, margin, minimum, published):
    options = UNet2015Config(name="unet2015", dims=dims)
    assert (options.margin, options.minimum_size) == (margin, minimum)
    assert options.fits(published)
    assert not options.fits(tuple(n + 1 for n in published))


@pytest.mark.parametrize(("name", "kind"), [pair for pair in KINDS if pair[0] != "unet2015"])
def test_padded_convolutions_have_no_margin(name, kind):
    assert kind(name=name, dims=3).margin == (0, 0, 0)


def test_presets_keep_all_options_of_unet_but_the_one_that_they_stand_for():
    assert set(UNetConfig.model_fields) - shared_options("unet", "attention_unet") == {"name", "attention"}
    assert set(UNetConfig.model_fields) - shared_options("unet", "residual_unet") == {"name", "residual"}


def test_other_networks_share_what_means_the_same():
    assert shared_options("unet", "dynunet") == {"dims", "channels", "strides", "kernel_size"}
    assert shared_options("unet", "vnet") == {"dims"}
    assert shared_options("unet", "nothing") == frozenset()
    assert shared_options("unet", None) == frozenset()


def test_a_network_without_a_name_is_unet():
    assert parse_config(HEAD + "network: {channels: [8, 16, 32]}").network == UNetConfig(channels=(8, 16, 32))


def test_features_grow_with_the_stages():
    assert SwinUNETRConfig(name="swin_unetr", feature_size=12).features == (12, 24, 48, 96, 192)


def test_the_base_class_names_no_sizes():
    with pytest.raises(NotImplementedError):
        _ = NetworkOptions(name="x").stride


@pytest.mark.parametrize(
    ("text", "what", "words"),
    [
        ("network: {name: segresnet, norm: group, filters: 12}", "network.filters", "multiples of 8"),
        ("network: {name: swin_unetr, norm: group, feature_size: 12}", "network.feature_size", "multiples of 8"),
        ("network: {name: dynunet, strides: [1, 2]}", "network.strides", "needs 5"),
        ("network: {name: unet2015, dims: 2}\ntrain: {patch_size: [512, 572]}", "train.patch_size", "[508, 572]"),
        ("network: {name: unet2015, dims: 2}\ntrain: {patch_size: [188, 204]}", "train.patch_size", "[204, 204]"),
        ("network: {name: unet2015, dims: 2}\ntrain: {patch_size: [1, 1]}", "train.patch_size", "[188, 188] plus"),
        ("network: {name: swin_unetr}\ntrain: {patch_size: [64, 64, 48]}", "train.patch_size", "[32, 32, 32]"),
        ("network: {name: unetpp}\ntrain: {patch_size: [16, 16, 16]}", "train.patch_size", "single voxel"),
        (
            "network: {name: efficient_unet}\ntrain: {patch_size: [32, 32, 32], batch_size: 1}",
            "train.patch_size",
            "single voxel",
        ),
        ("network: {name: efficient_unet, frozen_epochs: 2}", "network.frozen_epochs", "random weights"),
        ("network: {name: attention_unet, blocks: [1]}", "network.blocks", "needs 5"),
    ],
)
def test_a_patch_or_option_that_the_network_cannot_take_is_refused_with_the_nearest(text, what, words):
    with pytest.raises(ConfigError) as caught:
        parse_config(HEAD + text)
    (problem,) = caught.value.problems
    assert problem.what == what
    assert words in str(problem)
