"""The JSON schema, and what is allowed in words."""

from __future__ import annotations

import pytest

from medunet.config.describe import alternatives_at, config_schema, in_words, keys_at, sections_with
from medunet.config.networks import UNetConfig
from medunet.config.schema import Config


def sections():
    schema = config_schema()
    return {"": schema, **schema["$defs"]}


def test_unknown_keys_are_refused_in_every_section():
    found = sections()
    assert len(found) > 20
    assert all(section["additionalProperties"] is False for section in found.values())


def test_every_key_has_a_title_or_a_description_for_the_editor():
    for name, section in sections().items():
        assert section.get("title"), name
        for key, value in section["properties"].items():
            described = value.get("description") or "$ref" in value or key in ("name", "weight_decay")
            assert described, f"{name}.{key}"


def test_a_file_needs_name_and_labels_unless_it_extends_another():
    schema = config_schema()
    assert {"required": ["extends"]} in schema["anyOf"]
    assert {"required": ["name", "labels"]} in schema["anyOf"]
    assert "required" not in schema


def test_the_schema_has_every_section_under_its_name_in_yaml():
    keys = {field.alias or name for name, field in Config.model_fields.items()}
    assert set(config_schema()["properties"]) == keys | {"extends"}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("train", "optimizer"), "a mapping with name: sgd, adam, adamw or novograd"),
        (("train", "precision"), "auto, fp32, bf16 or fp16"),
        (("augment", "rotation_degrees"), "a number from 0 to 180, or null"),
        (("labels",), "a mapping of names to values"),
        (("preprocess", "crop"), "a mapping with the keys above, margin, or null"),
    ],
)
def test_what_is_allowed_is_said_in_words(path, words):
    assert in_words(alternatives_at(path, {})) == words


def test_the_variant_decides_about_the_keys():
    data = {"train": {"optimizer": {"name": "adamw"}}, "loss": [{"name": "dice"}]}
    assert keys_at(("train", "optimizer"), data) == ["name", "lr", "betas", "weight_decay"]
    assert keys_at(("loss", 0), data) == ["name", "weight", "background", "batch", "squared", "generalised"]


def test_a_mapping_without_a_name_has_the_keys_of_the_default_variant():
    assert keys_at(("network",), {"network": {}}) == list(UNetConfig.model_fields)
    assert keys_at(("network",), {"network": {"name": "vnet"}}) == ["name", "dims", "dropout"]


def test_keys_are_found_in_all_their_sections():
    assert sections_with()["batch_size"] == ("train", "inference")
    assert sections_with()["low"] == ("preprocess.intensity",)
    assert sections_with()["seed"] == ("",)
