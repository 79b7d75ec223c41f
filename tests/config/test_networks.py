"""The sizes that follow from a network's options, and which options two networks share."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medunet.config.load import load_config, parse_config
from medunet.config.network_options import NetworkOptions
from medunet.config.networks import (
    DynUNetConfig,
    ResidualUNetConfig,
    SwinUNETRConfig,
    UNet2015Config,
    UNetConfig,
    option_classes,
    shared_options,
)
from medunet.config.rules import findings
from medunet.errors import ConfigError

SIZES = st.lists(st.integers(1, 700), min_size=3, max_size=3)
KINDS = sorted(option_classes().items())
HEAD = "name: t\nlabels: {background: 0, liver: 1}\n"


@pytest.mark.parametrize(("name", "kind"), KINDS)
@given(size=SIZES, dims=st.sampled_from([2, 3]))
def test_a_padded_size_is_the_smallest_that_fits(name, kind, size, dims):
    options = kind(name=name, dims=dims)
    wanted = tuple(size[:dims])
    padded = options.padded(wanted)
    assert options.fits(padded)
    assert options.fits(wanted) == (padded == wanted)
    for need, has, step, least in zip(wanted, padded, options.stride, options.minimum_size, strict=True):
        assert need <= has < max(need + step, least + 1)


@pytest.mark.parametrize(("name", "kind"), KINDS)
@given(size=SIZES, dims=st.sampled_from([2, 3]), batch=st.integers(1, 3))
def test_the_nearest_patch_is_near_and_can_be_trained_on(name, kind, size, dims, batch):
    wanted = tuple(size[:dims])
    options = kind(name=name, dims=dims)
    text = f"{HEAD}network: {{name: {name}, dims: {dims}}}\ntrain: {{batch_size: {batch}, patch_size: %s}}\n"
    nearest = options.nearest_patch(wanted, batch)
    parse_config(text % list(nearest))
    for need, near, step, least in zip(wanted, nearest, options.stride, options.least_patch, strict=True):
        assert abs(near - need) <= max(1.5 * step, least + step - need)


NORMS = {"unet": ["instance", "batch", "group", "none"], "segresnet": ["instance", "batch", "group"]}
HINT = re.compile(r"(?:Nearest is|such as) (\[[\d, ]+\])")


@given(data=st.data())
def test_a_patch_that_is_proposed_is_taken(data):
    name = data.draw(st.sampled_from([name for name, _ in KINDS]))
    dims = data.draw(st.sampled_from([2, 3]))
    size = data.draw(st.lists(st.one_of(st.integers(1, 40), st.integers(1, 200)), min_size=dims, max_size=dims))
    norm = data.draw(st.sampled_from([None, *NORMS.get(name, [])]))
    network = {"name": name, "dims": dims, **({"norm": norm} if norm else {})}
    batch = data.draw(st.integers(1, 2))

    def refusals(patch):
        train = {"patch_size": patch, "batch_size": batch}
        try:
            parse_config(f"{HEAD}network: {json.dumps(network)}\ntrain: {json.dumps(train)}")
        except ConfigError as error:
            return [str(problem) for problem in error.problems]
        return []

    for problem in refusals(size):
        proposed = HINT.search(problem)
        assert proposed is not None, problem
        assert refusals(json.loads(proposed[1])) == []


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("network: {}\ntrain: {patch_size: [10, 10, 10]}", "[32, 16, 16]"),
        ("network: {name: unet2015}\ntrain: {patch_size: [64, 64, 64]}", "[100, 100, 100]"),
        ("network: {name: unet2015, dims: 2}\ntrain: {patch_size: [1, 1]}", "[204, 204]"),
        ("network: {name: efficient_unet}\ntrain: {patch_size: [20, 20, 40], batch_size: 1}", "[32, 32, 64]"),
        ("network: {name: efficient_unet}\ntrain: {patch_size: [20, 20, 20], batch_size: 2}", "[32, 32, 32]"),
    ],
)
def test_the_hint_looks_at_all_rules_of_the_patch(text, hint):
    with pytest.raises(ConfigError, match=re.escape(f"Nearest is {hint}")):
        parse_config(HEAD + text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("network: {name: vnet}\ntrain: {patch_size: [16, 16, 16], batch_size: 1}", "the batch norm of vnet"),
        ("network: {name: efficient_unet}\ntrain: {patch_size: [32, 32, 32], batch_size: 1}", "the batch norm of eff"),
        ("network: {name: mednext}\ntrain: {patch_size: [16, 16, 16], batch_size: 2}", "the instance norm of mednext"),
        ("network: {name: unetpp}\ntrain: {patch_size: [16, 16, 16]}", "norm: instance cannot"),
        (
            "network: {channels: [8, 8, 16], strides: [1, 2, 1], norm: group}\ntrain: {patch_size: [2, 2, 2]}",
            "norm: group cannot",
        ),
    ],
)
def test_a_single_voxel_is_refused_in_words_that_the_network_knows(text, words):
    with pytest.raises(ConfigError) as caught:
        parse_config(HEAD + text)
    (problem,) = caught.value.problems
    assert words in str(problem)
    name = text.partition("name: ")[2].partition("}")[0]
    assert ("norm:" in str(problem)) == (name not in {"vnet", "efficient_unet", "mednext"})


def test_a_key_that_the_network_lacks_is_not_blamed():
    config = parse_config(HEAD + "network: {name: vnet}\ntrain: {patch_size: [32, 16, 16], batch_size: 1}")
    train = config.train.model_copy(update={"patch_size": (16, 16, 16)})
    (finding,) = findings(config.model_copy(update={"train": train}))
    assert ("network", "norm") not in finding.keys


def test_every_network_states_how_it_normalises():
    found = {name: kind(name=name, dims=3).normalisation for name, kind in KINDS}
    assert {name for name, norm in found.items() if norm == "batch"} == {"vnet", "efficient_unet", "unet2015"}
    assert {norm for name, norm in found.items()} == {"batch", "instance"}
    flat = UNet2015Config(name="unet2015", dims=2)
    assert (flat.normalisation, flat.model_copy(update={"norm": "batch"}).normalisation) == ("none", "batch")


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        ({}, (2, 2, 2, 2, 2)),
        ({"residual": True}, (1, 3, 4, 6, 6)),
        ({"residual": True, "channels": (8,) * 7}, (1, 3, 4, 6, 6, 6, 6)),
        ({"residual": True, "channels": (8, 8)}, (1, 3)),
        ({"residual": True, "blocks": 2}, (2, 2, 2, 2, 2)),
        ({"blocks": (1, 2, 3, 4, 5)}, (1, 2, 3, 4, 5)),
    ],
)
def test_residual_levels_have_the_blocks_of_nnunet_unless_told(options, blocks):
    assert UNetConfig(**options).level_blocks == blocks
    if options.get("residual"):
        assert ResidualUNetConfig(name="residual_unet", **options).level_blocks == blocks


def test_the_recipe_of_the_shipped_configurations_leaves_the_blocks_to_the_network():
    config = parse_config("extends: base/3d.yaml\n" + HEAD + "network: {name: residual_unet}")
    assert config.network.level_blocks == (1, 3, 4, 6, 6)
    assert load_config("hippocampus/residual_unet.yaml").network.level_blocks == (1, 2, 2, 2)


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


def test_features_are_those_of_the_levels():
    assert SwinUNETRConfig(name="swin_unetr", feature_size=12).features == (12, 24, 48, 96, 192)
    assert UNet2015Config(name="unet2015").features == (64, 128, 256, 512)
    assert UNet2015Config(name="unet2015", channels=(8, 16)).features == (8, 16)


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


@pytest.mark.parametrize("start", ["encoder_weights", "start_from"])
def test_an_encoder_may_be_held_that_has_weights_from_somewhere(start: str) -> None:
    network = {"name": "efficient_unet", "frozen_epochs": 2, "encoder_weights": "w.pt"}
    train = {"patch_size": [64, 64, 64]}
    if start == "start_from":
        train["start_from"] = network.pop("encoder_weights")
    config = parse_config(HEAD + f"network: {json.dumps(network)}\ntrain: {json.dumps(train)}\n")
    assert config.network.frozen_epochs == 2
