"""The lists of networks and losses follow the schema."""

from __future__ import annotations

import pytest

from medunet.config.catalogue import losses, networks
from medunet.config.schema import Config, DiceLossConfig, UNetConfig


def test_the_networks_are_those_of_the_schema():
    (unet,) = networks()
    assert unet.name == "unet"
    assert unet.summary.startswith("The configurable U-Net")
    assert {option.name for option in unet.options} == set(UNetConfig.model_fields) - {"name"}


def test_the_losses_are_those_of_the_schema():
    assert [loss.name for loss in losses()] == ["dice", "cross_entropy", "tversky", "focal"]
    assert {option.name for option in losses()[0].options} == set(DiceLossConfig.model_fields) - {"name"}


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
