"""Checks of what the files of a data set hold."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medunet.errors import DatasetError
from medunet.io.case import Case
from medunet.io.check import CaseStatistics, check_cases, count_values, sampled_percentiles
from medunet.io.manifest import read_manifest
from medunet.labels import LabelMap

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
LABELS = LabelMap.from_mapping({"background": 0, "liver": 1, "tumour": [2, 3]})
SHAPE = (6, 5, 4)


def image(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def mask(*values):
    array = np.zeros(SHAPE, np.uint8)
    for place, value in enumerate(values):
        array[place] = value
    return array


def save(path, array, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def case(tmp_path):
    """Build a case out of arrays, or of paths."""

    def build(name, label=None, *images, affine=None):
        channels = [
            x if isinstance(x, Path) else save(tmp_path / f"{name}_{i}.nii.gz", x) for i, x in enumerate(images)
        ]
        if not isinstance(label, Path) and label is not None:
            label = save(tmp_path / f"{name}_seg.nii.gz", label, affine)
        return Case(name, tuple(channels), label)

    return build


def problems(cases, channels=1, labels=LABELS, annotated=None):
    with pytest.raises(DatasetError) as caught:
        check_cases(cases, labels, channels=channels, annotated=annotated)
    return [str(problem) for problem in caught.value.problems]


def test_statistics_say_what_was_seen(case):
    seen = []
    cases = [case("a", mask(1, 2, 3), image()), case("b", mask(1), image(1))]
    first, second = check_cases(cases, LABELS, channels=1, progress=lambda done, total: seen.append((done, total)))
    assert (first.id, first.shape, first.spacing, first.axcodes, first.channels) == ("a", SHAPE, (1, 1, 1), "RAS", 1)
    assert first.voxels == {"background": 60, "liver": 20, "tumour": 40}
    assert second.voxels == {"background": 100, "liver": 20, "tumour": 0}
    assert first.minimum == (pytest.approx(image().min()),)
    assert first.percentiles[0] == pytest.approx(np.percentile(image(), (0.5, 50, 99.5)), rel=1e-5)
    assert seen == [(1, 2), (2, 2)]


def test_statistics_say_how_structures_lie(case):
    label = mask(1, 2, 1)
    label[5, 2, 2] = 3
    turned = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    (found,) = check_cases([case("a", label, image())], LABELS, channels=1)
    assert (found.components, found.at_border) == ({"liver": 2, "tumour": 2}, ("liver", "tumour"))
    assert found.tilt_degrees == 0
    path = case("b", mask(), image()).images[0]
    (found,) = check_cases([case("b", label, save(path, image(), turned), affine=turned)], LABELS, channels=1)
    assert found.tilt_degrees == pytest.approx(36.87, abs=0.01)


def test_statistics_of_older_runs_are_read(case):
    (found,) = check_cases([case("a", mask(1, 2), image())], LABELS, channels=1)
    older = {key: value for key, value in found.to_json().items() if key not in ("components", "at_border")}
    assert CaseStatistics.from_json(json.loads(json.dumps(older))).components == {}


def test_statistics_survive_a_round_trip_through_json(case):
    (found,) = check_cases([case("a", mask(1, 2), image())], LABELS, channels=1)
    assert CaseStatistics.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_cases_without_masks_are_checked_too(case):
    (found,) = check_cases([case("a", None, image())], LABELS, channels=1)
    assert found.voxels == {}


def test_channels_come_from_several_files(case):
    (found,) = check_cases([case("a", mask(1, 2), image(), image(1))], LABELS, channels=2)
    assert (found.channels, len(found.percentiles)) == (2, 2)


def test_every_problem_of_every_case_is_told_at_once(case, tmp_path):
    not_finite = image()
    not_finite[0, 0, 0] = np.nan
    text = tmp_path / "text.nii.gz"
    text.write_text("this is no image")
    cases = [
        case("good", mask(1, 2), image()),
        case("nan", mask(1), not_finite),
        case("broken", mask(1), text),
        case("flat", mask(1), np.full(SHAPE, 7, np.int16)),
        case("unknown", mask(1, 9), image()),
        case("fraction", image(), image()),
        case("shifted", mask(1), image(), affine=np.diag([1, 1, 3, 1])),
        case("small", mask(1)[:3], image()),
        case("channels", mask(1), image(), image(1)),
    ]
    found = problems(cases)
    expected = {
        "nan": "1 of 120 voxels that are NaN or infinite",
        "broken": "cannot be read as NIfTI",
        "flat": "every voxel is 7",
        "unknown": "value 9, which no label names; the labels are background 0, liver 1, tumour 2/3",
        "fraction": "holds fractions",
        "shifted": "spacing 1 x 1 x 3 mm instead of 1 x 1 x 1 mm",
        "small": "shape 3x5x4 instead of 6x5x4",
        "channels": "channels is 2: the config names 1",
    }
    assert len(found) == len(expected)
    for name, rule in expected.items():
        assert any(line.startswith(name) and rule in line for line in found), name


def test_an_image_of_zero_spacing_is_told(case, tmp_path):
    path = save(tmp_path / "x.nii", image())
    data = bytearray(path.read_bytes())
    data[80:92] = np.zeros(3, np.float32).tobytes()  # pixdim[1:4]
    path.write_bytes(data)
    (problem,) = problems([case("zero", mask(1, 2, 3), path)])
    assert "spacing of 0 x 0 x 0 mm" in problem


def test_one_constant_channel_of_two_is_a_warning_only(case, caplog):
    check_cases([case("a", mask(1, 2), image(), np.zeros(SHAPE, np.float32))], LABELS, channels=2)
    assert "a: channel 1 is constant" in caplog.text


def test_a_label_that_occurs_in_no_mask_is_told(case):
    (problem,) = problems([case("a", mask(1), image()), case("b", mask(), image(1))])
    assert problem == "label tumour is 2/3: it occurs in no mask. Correct its value or leave it out."


NESTED = LabelMap.from_mapping({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 9})


def test_a_label_is_counted_with_what_lies_inside_of_it(case):
    (found,) = check_cases([case("a", mask(1, 2, 3, 9), image())], NESTED, channels=1)
    assert found.voxels == {"background": 40, "whole": 60, "core": 40, "enhancing": 20, "ignore": 20}
    (inner_only,) = check_cases([case("b", mask(3), image())], NESTED, channels=1)  # whole and core are there too
    assert inner_only.voxels["whole"] == 20


def test_a_mask_that_is_ignored_as_a_whole_is_told(case):
    ignored = np.full(SHAPE, 9, np.uint8)
    (problem,) = problems([case("a", mask(3), image()), case("b", ignored, image(1))], labels=NESTED)
    assert problem.startswith("b: label: every voxel is marked to be ignored")
    (problem,) = problems([case("a", np.full(SHAPE, 7, np.uint8), image())])  # unknown is not ignored
    assert "value 7, which no label names" in problem


def test_a_value_to_ignore_that_occurs_nowhere_is_no_problem(case):
    assert len(check_cases([case("a", mask(1, 2, 3), image())], NESTED, channels=1)) == 1


def test_a_mask_with_a_label_that_its_case_was_not_annotated_for_is_told(case):
    cases = [case("full", mask(1, 2), image()), case("part_1", mask(1), image(1)), case("part_2", mask(1, 3), image(2))]
    (problem,) = problems(cases, annotated={"part_*": ["liver"]})
    assert problem.startswith("part_2: label: it holds tumour, but by data.annotated")
    both = {"part_*": ["liver"], "*_2": ["tumour"]}
    assert len(check_cases(cases, LABELS, channels=1, annotated=both)) == 3


def test_of_nested_labels_the_innermost_one_must_have_been_annotated(case):
    cases = [case("full", mask(1, 2, 3), image()), case("part", mask(2, 9), image(1))]
    assert len(check_cases(cases, NESTED, channels=1, annotated={"part": ["core"]})) == 2
    (problem,) = problems(cases, labels=NESTED, annotated={"part": ["whole"]})
    assert "it holds core" in problem


def test_a_pattern_that_no_case_matches_is_told(case):
    (problem,) = problems([case("amos_1", mask(1, 2), image())], annotated={"Amos_*": ["liver"]})
    assert problem == ("data.annotated.Amos_*: it matches no case. Correct the pattern. The first case is amos_1.")


def test_masks_that_are_all_empty_are_told(case):
    (problem,) = problems([case("a", mask(), image()), case("b", mask(), image(1))])
    assert "every mask is empty" in problem


def test_a_picture_among_volumes_is_told(case, tmp_path):
    array = (np.random.default_rng(0).random((5, 7)) * 255).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "p.png")
    Image.fromarray(np.uint8(array > 99)).save(tmp_path / "m.png")
    cases = [
        case("a", mask(1, 2), image()),
        case("b", mask(2), image(1)),
        case("p", tmp_path / "m.png", tmp_path / "p.png"),
    ]
    (problem,) = problems(cases)
    assert problem == "p: image is 7x5: most cases have 3 axes, and all must have the same number."


def test_what_to_do_about_colours_and_channels_too_many_is_told(case, tmp_path):
    array = np.random.default_rng(0).integers(0, 200, (20, 24, 4)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "p.tif", array.astype(np.uint16), photometric="rgb", extrasamples=["unspecified"])
    Image.fromarray(np.uint8(array[..., 0] > 99)).save(tmp_path / "m.png")
    (problem,) = problems([case("p", tmp_path / "m.png", tmp_path / "p.tif")], channels=3)
    assert "channels is 4" in problem
    assert "not said to be transparency" in problem
    Image.fromarray(array[..., :3]).save(tmp_path / "p.png")
    (problem,) = problems([case("p", tmp_path / "m.png", tmp_path / "p.png")], channels=1)
    assert "data.modality: [R, G, B]" in problem


def test_transparency_that_is_left_out_is_told_once(case, tmp_path, caplog):
    array = np.random.default_rng(0).integers(0, 200, (20, 24, 4)).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "p.png")
    Image.fromarray(np.uint8(array[..., 0] > 99)).save(tmp_path / "m.png")
    cases = [case(name, tmp_path / "m.png", tmp_path / "p.png") for name in "pq"]
    labels = LabelMap.from_mapping({"background": 0, "person": 1})
    assert [found.channels for found in check_cases(cases, labels, channels=3)] == [3, 3]
    told = "Transparency was left out, since data.modality names no channel for it (2 cases)."
    assert [record.message for record in caplog.records if "ransparency" in record.message] == [told]
    caplog.clear()
    assert [found.channels for found in check_cases(cases, labels, channels=4)] == [4, 4]
    assert "ransparency" not in caplog.text


def test_a_border_of_255_that_no_label_names_is_explained(case, tmp_path):
    array = np.random.default_rng(0).integers(0, 200, (20, 24)).astype(np.uint8)
    mask = np.zeros((20, 24), np.uint8)
    mask[3:9, 3:9], mask[3, 3:9] = 1, 255
    Image.fromarray(array).save(tmp_path / "p.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    labels = LabelMap.from_mapping({"background": 0, "cat": 1})
    (problem,) = problems([case("p", tmp_path / "m.png", tmp_path / "p.png")], labels=labels)
    assert "add `ignore: 255` to labels" in problem
    mask[mask == 1] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    (problem,) = problems([case("p", tmp_path / "m.png", tmp_path / "p.png")], labels=labels)
    assert "write cat: 255" in problem


def test_grey_pictures_count_as_three_channels_where_three_are_expected(case, tmp_path):
    array = (np.random.default_rng(0).random((5, 7)) * 255).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "p.png")
    Image.fromarray(np.uint8(array > 99)).save(tmp_path / "m.png")
    labels = LabelMap.from_mapping({"background": 0, "person": 1})
    (found,) = check_cases([case("p", tmp_path / "m.png", tmp_path / "p.png")], labels, channels=3)
    assert found.channels == 3


@given(st.lists(st.sampled_from([0, 1, 2, 255, -3, 70_000, 2**30]), min_size=1, max_size=50))
def test_values_are_counted_as_numpy_does(values):
    values_, counts = np.unique(values, return_counts=True)
    assert dict(count_values(np.asarray(values, np.int32))) == dict(zip(values_.tolist(), counts.tolist(), strict=True))


def test_percentiles_of_large_arrays_are_sampled():
    array = np.arange(3_000_000, dtype=np.int32).reshape(1000, 3000, order="F")
    assert sampled_percentiles(array) == pytest.approx((15_000, 1_500_000, 2_985_000), rel=1e-3)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the real scans in ../shared/data")
@pytest.mark.parametrize(("name", "count"), [("cardiac_mr", 20), ("liver_ct", 2)])
def test_real_scans_pass(name, count):
    manifest = read_manifest(DATA / name)
    found = check_cases(manifest.cases, LabelMap.from_mapping(manifest.label_names), channels=1)
    assert len(found) == count


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the real scans in ../shared/data")
def test_photographs_pass_though_one_of_them_is_grey():
    cases = [case for case in read_manifest(DATA / "people", channels=3) if case.id in {"1", "2", "134"}]
    found = check_cases(cases, LabelMap.from_mapping({"background": 0, "person": 255}), channels=3)
    assert [entry.channels for entry in found] == [3, 3, 3]
