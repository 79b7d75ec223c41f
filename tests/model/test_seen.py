"""What training saw: put together from the cases, joined for ensembles, kept in model.yaml."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml

from medunet.config.schema import Config
from medunet.errors import ModelError
from medunet.io.case import Case
from medunet.io.check import CaseStatistics, check_cases
from medunet.labels import LabelMap
from medunet.model import SPEC_FILE, Model, Seen, join_models, load_model, save_model
from medunet.model.seen import axis_order, body_axes, contrast, seen_in, union
from medunet.networks.registry import build_network

LABELS = LabelMap.from_mapping({"background": 0, "organ": [4, 205], "core": 205})


def case(name: str, **changes: Any) -> CaseStatistics:
    values: dict[str, Any] = {
        "id": name,
        "shape": (100, 80, 20),
        "spacing": (1.0, 1.5, 5.0),
        "axcodes": "LPS",
        "channels": 1,
        "minimum": (-1024.0,),
        "maximum": (3000.0,),
        "percentiles": ((-1000.0, 0.0, 1000.0),),
        "voxels": {"background": 1000, "organ": 400, "core": 0},
        "components": {"organ": 1},
        "tilt_degrees": 0.5,
    }
    return CaseStatistics(**{**values, **changes})


def seen(*cases: CaseStatistics, **more: Any) -> Seen:
    return seen_in(cases, labels=LABELS, modality=["CT"], orientation="RAS", **more)


def test_ranges_are_those_of_the_cases() -> None:
    found = seen(
        case("a"),
        case(
            "b",
            shape=(30, 100, 90),
            spacing=(4.0, 1.1, 1.2),
            axcodes="SRA",
            percentiles=((-900.0, -450.0, 900.0),),
            voxels={"background": 1, "organ": 1000, "core": 100},
            components={"organ": 3, "core": 2},
            at_border=("organ",),
            tilt_degrees=7.0,
        ),
    )
    assert (found.cases, found.axes, found.rank, found.tilt_degrees) == (2, "RAS", 3, 7.0)
    assert found.spacing_mm == ((1.0, 1.1), (1.2, 1.5), (4.0, 5.0))
    assert found.field_of_view_mm == ((100.0, 110.0), (108.0, 120.0), (100.0, 120.0))
    assert found.orientations == ("LPS", "SRA")
    (channel,) = found.channels
    assert (channel.name, channel.low, channel.median, channel.high) == (
        "CT", (-1000.0, -900.0), (-450.0, 0.0), (900.0, 1000.0),
    )  # fmt: skip
    assert channel.contrast == (0.25, 0.5)
    organ, core = found.structures["organ"], found.structures["core"]
    assert organ.volume_ml == pytest.approx((400 * 7.5 / 1000, 1000 * 5.28 / 1000))
    assert (organ.cases, organ.present, organ.components, organ.at_border) == (2, 1.0, 3, 0.5)
    assert core.volume_ml == pytest.approx((0.528, 0.528))
    assert (core.cases, core.present, core.components, core.at_border) == (2, 0.5, 2, 0.0)


def test_a_case_says_nothing_of_structures_that_it_was_not_annotated_for() -> None:
    found = seen(case("full"), case("part_1"), annotated={"part_*": ["core"]})
    assert (found.structures["organ"].cases, found.structures["organ"].present) == (1, 1.0)
    assert (found.structures["core"].cases, found.structures["core"].present) == (2, 0.0)
    nothing = seen(case("part_1"), annotated={"part_*": ["core"]}).structures["organ"]
    assert (nothing.cases, nothing.present, nothing.volume_ml) == (0, 0.0, None)


def test_pictures_have_no_axes_of_the_patient() -> None:
    found = seen(case("p", shape=(100, 80), spacing=(1.0, 1.0), axcodes="RA"))
    assert (found.axes, found.rank, found.field_of_view_mm) == ("", 2, ((100.0, 100.0), (80.0, 80.0)))


def test_the_order_of_axes_does_not_depend_on_their_direction() -> None:
    assert (body_axes("LPI"), body_axes("SRA"), body_axes("IPR")) == ("RAS", "SRA", "SAR")
    assert axis_order("LPS", "RAS") == (0, 1, 2)
    assert axis_order("SLA", "RAS") == (1, 2, 0)
    assert axis_order("RA", "") == (0, 1)


def test_the_contrast_of_a_constant_image_is_zero() -> None:
    assert (contrast((5, 5, 5)), contrast((0, 25, 100))) == (0.0, 0.25)


def test_together_the_cases_of_overlapping_folds_give_the_ranges_and_shares_of_all() -> None:
    cases = [
        case(
            f"c{n}",
            spacing=(1.0 + n, 1.5, 5.0),
            axcodes=("LPS", "RAS")[n % 2],
            percentiles=((-1000.0 + n, 0.0, 1000.0),),
            voxels={"background": 9, "organ": 100 + n, "core": n % 2},
            components={"organ": 1 + n % 3},
            at_border=("organ",) if n < 2 else (),
        )
        for n in range(6)
    ]
    folds = [seen(*(each for n, each in enumerate(cases) if n % 3 != fold)) for fold in range(3)]
    whole = seen(*cases).model_dump()
    joined = union(folds)
    assert joined is not None
    found = joined.model_dump()
    for name, structure in found["structures"].items():
        wanted = {**whole["structures"][name], "cases": 4}
        for key in ("present", "at_border"):
            assert structure.pop(key) == pytest.approx(wanted.pop(key), rel=1e-5), (name, key)
        assert structure == wanted
    keys = ("spacing_mm", "field_of_view_mm", "orientations", "tilt_degrees", "channels")
    assert [found[key] for key in keys] == [whole[key] for key in keys]
    assert found["cases"] == 4


def test_networks_of_which_it_is_unknown_are_left_out() -> None:
    known = seen(case("a"))
    picture = seen(case("p", shape=(100, 80), spacing=(1.0, 1.0), axcodes="RA"))
    assert union([]) is None
    assert union([None, None]) is None
    assert union([None, known]) == union([known, picture]) == union([known, known]) == known


def test_ranges_are_those_of_files_on_disk(tmp_path: Path) -> None:
    image = np.arange(10 * 8 * 6, dtype=np.int16).reshape(10, 8, 6)
    mask = np.zeros(image.shape, np.uint8)
    mask[2:5, 2:4, 1:3], mask[2, 2, 1], mask[9, 6, 4] = 4, 205, 4
    affine = np.array([[0, 0, 3, 0], [-1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1.0]])  # PSR
    for name, array in (("image", image), ("mask", mask)):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    found = seen(*check_cases([Case("a", (tmp_path / "image.nii.gz",), tmp_path / "mask.nii.gz")], LABELS, channels=1))
    assert (found.orientations, found.tilt_degrees) == (("PSR",), 0.0)
    assert found.spacing_mm == ((3.0, 3.0), (1.0, 1.0), (2.0, 2.0))
    assert found.field_of_view_mm == ((18.0, 18.0), (10.0, 10.0), (16.0, 16.0))
    low, median, high = np.percentile(image, (0.5, 50, 99.5))
    channel = found.channels[0]
    assert (channel.low[0], channel.median[0], channel.high[0]) == pytest.approx((low, median, high))
    organ = found.structures["organ"]
    assert organ.volume_ml == pytest.approx((13 * 6 / 1000,) * 2)
    assert (organ.components, organ.at_border) == (2, 1.0)
    assert found.structures["core"].volume_ml == pytest.approx((6 / 1000,) * 2)


# In the model folder


@pytest.fixture(scope="module")
def config(make_config: Callable[..., Any]) -> Any:
    return make_config(Path("data"), {"labels": LABELS.to_mapping()})


def save(folder: Path, config: Config, what: Seen | None) -> Model:
    network = build_network(config.network, 1, LABELS.outputs)
    torch.manual_seed(0)
    return load_model(save_model(folder, config, network.state_dict(), {}, what))


def test_what_was_saved_is_what_is_loaded(config: Config, tmp_path: Path) -> None:
    what = seen(case("a"), case("b", percentiles=((-3.5, 0.125, 7.0),)))
    model = save(tmp_path / "model", config, what)
    assert model.spec.seen == what
    assert json.loads(json.dumps(yaml.safe_load((model.path / SPEC_FILE).read_text())))["seen"]["cases"] == 2


def test_a_model_without_it_loads_and_names_it_nowhere(config: Config, tmp_path: Path) -> None:
    model = save(tmp_path / "model", config, None)
    assert model.spec.seen is None
    assert "seen" not in yaml.safe_load((model.path / SPEC_FILE).read_text())


def test_an_ensemble_saw_what_its_networks_saw(config: Config, tmp_path: Path) -> None:
    parts = [seen(case("a")), seen(case("b", spacing=(2.0, 1.5, 5.0))), None]
    models = {f"m{n}": save(tmp_path / str(n), config, part) for n, part in enumerate(parts)}
    joined = load_model(join_models(tmp_path / "joined", config, models, {}))
    assert joined.spec.seen == union(parts)
    assert joined.spec.seen is not None
    assert joined.spec.seen.spacing_mm[0] == (1.0, 2.0)


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (lambda part: part.update(extra=1), r"not understood at seen\.extra"),
    "turned round": (lambda part: part["spacing_mm"].__setitem__(0, [2.0, 1.0]), r"seen\.spacing_mm\.0: .*no range"),
    "an axis twice": (lambda part: part.update(axes="RAL"), '"RAL" do not name each axis'),
    "axes of pictures": (lambda part: part.update(axes=""), "need a range for each of axes"),
    "no channel": (lambda part: part["channels"].clear(), "seen has 0 channels, but modality names CT"),
    "another structure": (lambda part: part["structures"].pop("core"), "other structures than labels, organ, core"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_section_says_what_is_wrong_with_it(config: Config, name: str, tmp_path: Path) -> None:
    change, words = EDITS[name]
    path = save(tmp_path / "model", config, seen(case("a"))).path / SPEC_FILE
    spec = yaml.safe_load(path.read_text())
    change(spec["seen"])
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    with pytest.raises(ModelError, match=words):
        load_model(path.parent)


def test_the_level_of_air_lies_midway_to_the_dimmest_structure() -> None:
    assert seen(case("a", dimmest=-100.0), case("b", dimmest=40.0), case("empty")).air == -550
    assert seen(case("a", dimmest=-1010.0), case("b", dimmest=40.0)).air is None
    assert seen(case("empty")).air is None


def test_an_ensemble_takes_the_lower_level_of_air() -> None:
    one, other = seen(case("a", dimmest=-100.0)), seen(case("b", dimmest=0.0))
    assert union([one, other]).air == -550
    assert union([one, seen(case("c"))]).air is None
