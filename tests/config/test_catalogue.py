"""The lists of networks and losses follow the schema."""

from __future__ import annotations

import pytest

from medunet.config.catalogue import losses, networks
from medunet.config.losses import DiceLossConfig
from medunet.config.networks import option_classes
from medunet.config.schema import Config


def test_the_networks_are_those_of_the_schema():
    found = {network.name: network for network in networks()}
    assert list(found) == list(option_classes())
    assert found["unet"].summary.startswith("The configurable U-Net")
    for name, kind in option_classes().items():
        assert {option.name for option in found[name].options} == set(kind.model_fields) - {"name"}


def test_the_losses_are_those_of_the_schema():
    found = {loss.name: loss for loss in losses()}
    assert {"dice", "cross_entropy", "boundary_weighted_ce", "cldice"} <= set(found)
    assert len(found) == len(losses()) == 12
    assert {option.name for option in found["dice"].options} == set(DiceLossConfig.model_fields) - {"name"}


@pytest.mark.parametrize("choice", [*networks(), *losses()], ids=lambda choice: choice.name)
def test_every_choice_and_option_is_explained(choice):
    assert choice.summary
    for option in choice.options:
        assert option.description, option.name
        assert option.allowed, option.name


def test_options_show_default_and_allowed_words():
    options = {option.name: option for option in networks()[0].options}
    assert options["norm"].default == "instance"
    assert options["norm"].words == ("instance", "batch", "group", "none")
    assert options["dropout"].words == ()


@pytest.mark.parametrize("loss", losses(), ids=lambda loss: loss.name)
def test_every_loss_can_be_put_into_a_config_with_its_defaults(loss):
    term = {"name": loss.name, **{option.name: option.default for option in loss.options}}
    config = Config.model_validate({"name": "x", "labels": {"background": 0, "a": 1}, "loss": term})
    assert config.loss[0].name == loss.name
