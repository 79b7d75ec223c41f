"""Data sets in their four layouts, whole and broken."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medunet.errors import DatasetError, MedunetError, UsageError
from medunet.io.manifest import FORMATS, detect, read_manifest

DATA = Path(__file__).resolve().parents[2] / "../shared/data"


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def write_json(root, value, name="dataset.json"):
    path = root / name
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def problems(root, *args, **kwargs):
    with pytest.raises(DatasetError) as caught:
        read_manifest(root, *args, **kwargs)
    return [str(problem) for problem in caught.value.problems]


def entry(case, **extra):
    return {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz", **extra}


def decathlon(root, *cases, **fields):
    for case in cases:
        touch(root, f"imagesTr/{case}.nii.gz", f"labelsTr/{case}.nii.gz")
    labels = {"0": "background", "1": "liver"}
    return write_json(root, {"modality": {"0": "CT"}, "labels": labels, "training": [*map(entry, cases)], **fields})


def nnunet(root, *cases, channels=("CT",), **fields):
    for case in cases:
        touch(root, f"labelsTr/{case}.nii.gz", *(f"imagesTr/{case}_{c:04d}.nii.gz" for c in range(len(channels))))
    value = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": {"background": 0, "liver": 1},
        "file_ending": ".nii.gz",
        **fields,
    }
    return write_json(root, value)


def table(root, text, name="cases.csv"):
    path = root / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


class TestDecathlon:
    def test_cases_come_sorted_with_labels_and_modality(self, tmp_path):
        decathlon(tmp_path, "b", "a")
        manifest = read_manifest(tmp_path)
        assert [case.id for case in manifest] == ["a", "b"]
        assert manifest.cases[0].images == (tmp_path / "imagesTr/a.nii.gz",)
        assert manifest.cases[0].label == tmp_path / "labelsTr/a.nii.gz"
        assert manifest.label_names == {"background": 0, "liver": 1}
        assert (manifest.modality, manifest.format, manifest.root) == (("CT",), "decathlon", tmp_path)
        assert len(manifest) == 2

    def test_the_json_file_may_be_given_itself_under_any_name(self, tmp_path):
        file = decathlon(tmp_path, "a").rename(tmp_path / "task.json")
        assert read_manifest(file).root == tmp_path
        assert read_manifest(file, "decathlon").format == "decathlon"

    def test_files_of_the_macos_finder_are_no_cases(self, tmp_path):
        decathlon(tmp_path, "a")
        touch(tmp_path, "imagesTr/._a.nii.gz")
        assert len(read_manifest(tmp_path)) == 1

    def test_keys_of_monai_datalists_are_read(self, tmp_path):
        decathlon(tmp_path, "a", "b", training=[entry("a", fold=0, patient="p1"), entry("b", fold=1, patient=7)])
        first, second = read_manifest(tmp_path)
        assert (first.fold, first.group) == (0, "p1")
        assert (second.fold, second.group) == (1, "7")

    def test_a_list_of_images_is_one_file_per_channel(self, tmp_path):
        touch(tmp_path, "t1.nii.gz", "t2.nii.gz", "seg.nii.gz")
        item = {"id": "one", "image": ["t1.nii.gz", "t2.nii.gz"], "label": "seg.nii.gz"}
        write_json(tmp_path, {"training": [item], "modality": {"0": "T1", "1": "T2"}})
        (case,) = read_manifest(tmp_path, channels=2)
        assert case.id == "one"
        assert [path.name for path in case.images] == ["t1.nii.gz", "t2.nii.gz"]

    def test_a_folder_is_a_dicom_series(self, tmp_path):
        touch(tmp_path, "series/1.dcm", "seg.nii.gz")
        write_json(tmp_path, {"training": [{"image": "series", "label": "seg.nii.gz"}]})
        assert read_manifest(tmp_path).cases[0].id == "series"

    def test_all_problems_are_told_at_once(self, tmp_path):
        touch(tmp_path, "imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/b.nii.gz", "other/b.nii.gz")
        training = [
            entry("a"),
            entry("b"),
            {"image": "other/b.nii.gz", "label": "labelsTr/b.nii.gz"},
            {"image": "imagesTr/c.nii.gz"},
            {"label": "labelsTr/b.nii.gz"},
            {"image": "../d.nii.gz", "label": "labelsTr/b.nii.gz"},
            "a string",
        ]
        write_json(tmp_path, {"training": training})
        text = "\n".join(problems(tmp_path))
        assert f"a: label is {tmp_path}/labelsTr/a.nii.gz: there is no such file" in text
        assert f"{tmp_path}/imagesTr/b.nii.gz and {tmp_path}/other/b.nii.gz" in text
        assert "c: label: there is no mask" in text
        assert "training[4].image is missing" in text
        assert "training[5].image is ../d.nii.gz: a relative path must stay inside" in text
        assert "training[6] is a string" in text

    def test_4d_files_are_refused_with_the_remedy(self, tmp_path):
        decathlon(tmp_path, "a", modality={"0": "FLAIR", "1": "T1"})
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4)), tmp_path / "imagesTr/a.nii.gz")
        (problem,) = problems(tmp_path, channels=2)
        assert "4D file that holds all channels (FLAIR, T1)" in problem
        assert "CASE_0000.nii.gz" in problem

    def test_regions_that_lie_inside_of_each_other_are_understood(self, tmp_path):
        regions = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
        decathlon(tmp_path, "a", labels=regions)
        manifest = read_manifest(tmp_path)
        assert (manifest.label_names, manifest.notes) == (regions, ())

    def test_regions_that_cross_are_left_to_the_config_with_a_note(self, tmp_path):
        decathlon(tmp_path, "a", labels={"background": 0, "a": [1, 2], "b": [2, 3]})
        manifest = read_manifest(tmp_path)
        assert manifest.label_names is None
        assert "b shares value 2 with a" in manifest.notes[0]

    @pytest.mark.parametrize(
        "labels", [["a"], "liver", {"0": "a", "x": "b"}, {"0": "a", "1": "a"}, {"a": 1.5}, {"a": []}, {"a": [1, 1]}]
    )
    def test_labels_that_make_no_sense_are_a_problem(self, tmp_path, labels):
        decathlon(tmp_path, "a", labels=labels)
        assert any("labels" in problem for problem in problems(tmp_path))

    @pytest.mark.parametrize("fold", [-1, 1.5, "a", True])
    def test_a_fold_is_a_whole_number(self, tmp_path, fold):
        decathlon(tmp_path, "a", training=[entry("a", fold=fold)])
        assert any("fold" in problem for problem in problems(tmp_path))

    def test_a_validation_list_is_mentioned(self, tmp_path):
        decathlon(tmp_path, "a", validation=[entry("b")])
        assert "validation" in read_manifest(tmp_path).notes[0]

    @pytest.mark.parametrize(
        ("content", "rule"),
        [(b"{", "not valid JSON"), (b"[]", "one JSON object"), (b"\xff\xfe", "UTF-8"), (b"[" * 100_000, "JSON|nested")],
    )
    def test_a_file_that_is_no_json_object_is_told(self, tmp_path, content, rule):
        (tmp_path / "dataset.json").write_bytes(content)
        with pytest.raises(DatasetError, match=rule):
            read_manifest(tmp_path)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from(
                ["training", "labels", "modality", "dataset", "channel_names", "file_ending", "validation"]
            ),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["image", "label", "images", "fold", "id", "0", "é"]), inner, max_size=3
                    )
                ),
                max_leaves=8,
            ),
        )
    )
    def test_any_json_ends_in_a_manifest_or_an_error_that_is_meant(self, tmp_path, value):
        write_json(tmp_path, value)
        for layout in ("auto", "decathlon", "nnunet"):
            with suppress(MedunetError):
                read_manifest(tmp_path, layout)

    @pytest.mark.parametrize(
        "path", ["", "a\0", "\ud800.nii.gz", "x" * 300 + ".nii.gz", "x/" * 3000, 7, None, [], [None]]
    )
    def test_what_can_be_no_path_is_told_and_can_be_printed(self, tmp_path, path):
        write_json(tmp_path, {"training": [{"image": path, "label": path}]})
        assert "\n".join(problems(tmp_path)).encode()


class TestNnunet:
    def test_channels_are_grouped_by_case(self, tmp_path):
        nnunet(tmp_path, "b_1", "a", channels=("T1", "T2"))
        manifest = read_manifest(tmp_path, channels=2)
        assert manifest.format == "nnunet"
        assert [case.id for case in manifest] == ["a", "b_1"]
        assert [path.name for path in manifest.cases[1].images] == ["b_1_0000.nii.gz", "b_1_0001.nii.gz"]
        assert (manifest.modality, manifest.label_names) == (("T1", "T2"), {"background": 0, "liver": 1})

    def test_the_explicit_table_may_point_anywhere(self, tmp_path, monkeypatch):
        touch(tmp_path, "far/i.nii.gz", "far/l.nii.gz")
        monkeypatch.setenv("FAR", str(tmp_path / "far"))
        (tmp_path / "set").mkdir()
        cases = {"case": {"images": ["$FAR/i.nii.gz"], "label": "../far/l.nii.gz"}}
        write_json(tmp_path / "set", {"channel_names": {"0": "CT"}, "labels": {}, "dataset": cases})
        (case,) = read_manifest(tmp_path / "set")
        assert (case.id, case.images[0]) == ("case", tmp_path / "far/i.nii.gz")

    def test_missing_channels_masks_and_images_are_told_together(self, tmp_path):
        nnunet(tmp_path, "a", "b", "c", channels=("T1", "T2"))
        (tmp_path / "imagesTr/a_0001.nii.gz").unlink()
        (tmp_path / "labelsTr/b.nii.gz").unlink()
        touch(tmp_path, "imagesTr/d.nii.gz", "labelsTr/e.nii.gz", "imagesTr/._c_0000.nii.gz")
        text = "\n".join(problems(tmp_path, channels=2))
        assert "a: channels is 0: each case needs the channels 0, 1 (T1, T2)" in text
        assert "b: label: there is no mask" in text
        assert "imagesTr/d.nii.gz: an image must be named CASE_0000.nii.gz" in text
        assert "labelsTr/e.nii.gz: no image" in text
        assert "._c" not in text

    def test_the_first_version_lists_names_without_channel(self, tmp_path):
        nnunet(tmp_path, "a")
        value = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}, "training": [entry("a")]}
        write_json(tmp_path, value)
        manifest = read_manifest(tmp_path)
        assert (manifest.format, manifest.label_names) == ("nnunet", {"background": 0, "liver": 1})

    def test_folders_that_are_missing_are_told(self, tmp_path):
        write_json(tmp_path, {"channel_names": {"0": "CT"}, "labels": {}, "file_ending": ".nii.gz"})
        assert len([p for p in problems(tmp_path) if "there is no such folder" in p]) == 2

    def test_an_ignore_label_keeps_its_name(self, tmp_path):
        nnunet(tmp_path, "a", labels={"background": 0, "liver": 1, "ignore": 2})
        assert read_manifest(tmp_path).label_names == {"background": 0, "liver": 1, "ignore": 2}


class TestTable:
    def test_columns_are_found_by_name_in_any_case(self, tmp_path):
        touch(tmp_path, "i/1.png", "i/2.png", "m/1.png", "m/2.png")
        table(tmp_path, "Case,Image,MASK,Patient,Fold\nx,i/1.png,m/1.png,p,0\ny,i/2.png,m/2.png,q,1\n")
        first, second = read_manifest(tmp_path)
        assert (first.id, first.images[0].name, first.group, first.fold) == ("x", "1.png", "p", 0)
        assert (second.id, second.label) == ("y", tmp_path / "m/2.png")

    def test_the_row_number_of_pandas_is_no_id(self, tmp_path):
        touch(tmp_path, "images/7.jpg", "masks/7.png")
        table(tmp_path, ",images,masks\r\n0,images/7.jpg,masks/7.png\r\n")
        (case,) = read_manifest(tmp_path)
        assert case.id == "7"

    @pytest.mark.parametrize("delimiter", [";", "\t", "|"])
    def test_other_delimiters_and_a_byte_order_mark_are_understood(self, tmp_path, delimiter):
        touch(tmp_path, "1.png", "2.png")
        table(tmp_path, f"\ufeffid{delimiter}image{delimiter}label\na{delimiter}1.png{delimiter}2.png\n")
        assert [case.id for case in read_manifest(tmp_path)] == ["a"]

    def test_paths_with_backslashes_are_understood(self, tmp_path):
        touch(tmp_path, "i/1.png", "m/1.png")
        table(tmp_path, "image,label\ni\\1.png,m\\1.png\n")
        assert read_manifest(tmp_path).cases[0].images == (tmp_path / "i/1.png",)

    @pytest.mark.parametrize("names", ["image_1,image_0", "T2,T1"])
    def test_channels_have_columns_of_their_own(self, tmp_path, names):
        touch(tmp_path, "a.nii.gz", "b.nii.gz", "s.nii.gz")
        table(tmp_path, f"id,{names},label\nx,a.nii.gz,b.nii.gz,s.nii.gz\n")
        manifest = read_manifest(tmp_path, channels=2)
        expected = ["b.nii.gz", "a.nii.gz"] if "image" in names else ["a.nii.gz", "b.nii.gz"]
        assert [path.name for path in manifest.cases[0].images] == expected
        assert manifest.modality == (() if "image" in names else ("T2", "T1"))

    def test_two_rows_for_one_image_are_told_as_such(self, tmp_path):
        touch(tmp_path, "i/1.png", "m/1.png", "m/2.png")
        table(tmp_path, "image,label\ni/1.png,m/1.png\ni/1.png,m/2.png\n")
        (problem,) = problems(tmp_path)
        assert "1: image: it is listed twice: two rows name" in problem

    def test_columns_of_no_concern_are_mentioned(self, tmp_path):
        touch(tmp_path, "1.png", "2.png")
        table(tmp_path, "image,label,age,sex\n1.png,2.png,60,f\n")
        assert "age, sex" in read_manifest(tmp_path).notes[0]

    def test_a_column_that_looks_mistyped_is_refused(self, tmp_path):
        touch(tmp_path, "1.png", "2.png")
        table(tmp_path, "image,label,patiant\n1.png,2.png,p\n")
        (problem,) = problems(tmp_path)
        assert 'column patiant: it is no known column. Did you mean "patient"?' in problem

    @pytest.mark.parametrize(
        ("text", "rule"),
        [
            ("", "a line of column names"),
            ("image,label\n", "at least one case"),
            ("a,b\n1,2\n", "no column holds images"),
            ("image,label,mask\n1.png,2.png,2.png\n", "means the same"),
            ("image,label,label\n1.png,2.png,2.png\n", "occurs 2 times"),
            ("image,label\n1.png\n", "cases.csv:2: it has 1 cells, but there are 2 columns"),
            ("image,label\n,2.png\n", "every channel and mask needs a path"),
            ("image,label\n1.png,\n", "there is no mask"),
            ("image,label,fold\n1.png,2.png,x\n", "whole number from 0"),
            ("image,label\n1.png,1.png\n", "it is the image itself"),
            ("id,image,label\na/b,1.png,2.png\n", "part of file names"),
            ("image,label\nmissing.png,2.png\n", "there is no such file"),
        ],
    )
    def test_each_problem_is_told(self, tmp_path, text, rule):
        touch(tmp_path, "1.png", "2.png")
        table(tmp_path, text)
        assert any(rule in problem for problem in problems(tmp_path))

    def test_bytes_that_are_no_text_are_told(self, tmp_path):
        (tmp_path / "cases.csv").write_bytes(b"image,label\n\xff\xfe,x\n")
        with pytest.raises(DatasetError, match="not text in UTF-8"):
            read_manifest(tmp_path)

    def test_a_choice_of_tables_is_asked_for(self, tmp_path):
        touch(tmp_path, "1.png", "2.png")
        for name in ("a.csv", "b.csv"):
            table(tmp_path, "image,label\n1.png,2.png\n", name)
        with pytest.raises(DatasetError, match=r"several tables: a\.csv, b\.csv"):
            read_manifest(tmp_path)
        assert len(read_manifest(tmp_path / "b.csv")) == 1

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
    @given(st.lists(st.lists(st.sampled_from(["image", "mask", "", "fold", "1.png", '"', "\0", ";", "é"]), max_size=4)))
    def test_any_table_ends_in_a_manifest_or_an_error_that_is_meant(self, tmp_path, rows):
        table(tmp_path, "\n".join(",".join(row) for row in rows))
        with suppress(MedunetError):
            read_manifest(tmp_path)


class TestFolders:
    @pytest.mark.parametrize(
        ("images", "labels"), [("images", "labels"), ("images", "masks"), ("imagesTr", "labelsTr")]
    )
    def test_images_and_masks_are_matched_by_name(self, tmp_path, images, labels):
        touch(
            tmp_path, f"{images}/a.jpg", f"{images}/b.png", f"{labels}/a.png", f"{labels}/b.png", f"{images}/.DS_Store"
        )
        manifest = read_manifest(tmp_path)
        assert manifest.format == "folders"
        assert [(case.id, case.label.name) for case in manifest] == [("a", "a.png"), ("b", "b.png")]

    @pytest.mark.parametrize("suffix", ["_mask", "_seg", "_label"])
    def test_masks_may_have_a_suffix(self, tmp_path, suffix):
        touch(tmp_path, "images/a.nii.gz", f"masks/a{suffix}.nii.gz")
        assert read_manifest(tmp_path).cases[0].label == tmp_path / f"masks/a{suffix}.nii.gz"

    def test_channels_are_numbered_as_in_nnunet(self, tmp_path):
        touch(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
        (case,) = read_manifest(tmp_path, channels=2)
        assert (case.id, len(case.images)) == ("a", 2)

    def test_a_folder_among_the_images_is_a_series(self, tmp_path):
        touch(tmp_path, "images/a/1.dcm", "masks/a.nii.gz")
        assert read_manifest(tmp_path).cases[0].images == (tmp_path / "images/a",)

    def test_what_has_no_partner_is_told(self, tmp_path):
        touch(
            tmp_path, "images/a.png", "images/b.png", "masks/b.png", "masks/c.png", "masks/b.nii.gz", "images/notes.txt"
        )
        text = "\n".join(problems(tmp_path))
        assert "a: label: there is no mask" in text
        assert "masks/c.png: no image in images belongs to this mask" in text
        assert "has the same name" in text
        assert "notes.txt" not in text

    def test_two_images_with_one_name_are_told_with_both_files(self, tmp_path):
        touch(tmp_path, "images/a.png", "images/a.jpg", "masks/a.png")
        (problem,) = problems(tmp_path)
        assert f"{tmp_path}/images/a.jpg and {tmp_path}/images/a.png" in problem

    def test_cases_without_masks_are_allowed_where_none_are_needed(self, tmp_path):
        touch(tmp_path, "images/a.png", "images/b.png", "masks/b.png")
        assert [case.label is None for case in read_manifest(tmp_path, require_labels=False)] == [True, False]

    def test_a_missing_folder_is_named(self, tmp_path):
        touch(tmp_path, "images/a.png")
        assert problems(tmp_path, "folders") == [f"{tmp_path}: it holds no folder labelsTr or labels or masks."]


class TestAnyLayout:
    def test_a_path_that_does_not_exist_is_a_usage_error(self, tmp_path):
        with pytest.raises(UsageError, match="There is no file or folder"):
            read_manifest(tmp_path / "nothing")

    def test_an_unknown_format_is_a_usage_error(self, tmp_path):
        with pytest.raises(UsageError, match="known are auto, decathlon, nnunet, csv, folders"):
            read_manifest(tmp_path, "zip")

    def test_a_folder_of_something_else_is_no_data_set(self, tmp_path):
        touch(tmp_path, "a.txt")
        assert detect(tmp_path) is None
        with pytest.raises(DatasetError, match="looks like no data set"):
            read_manifest(tmp_path)

    @pytest.mark.parametrize("layout", list(FORMATS))
    def test_an_empty_folder_is_refused_by_every_reader(self, tmp_path, layout):
        with pytest.raises(DatasetError):
            read_manifest(tmp_path, layout)

    def test_the_number_of_files_must_fit_the_channels(self, tmp_path):
        nnunet(tmp_path, "a", channels=("T1", "T2"))
        assert problems(tmp_path, channels=3) == ["a: images is 2 files: the config names 3 channels (data.modality)."]
        assert len(read_manifest(tmp_path, channels=None)) == 1

    def test_one_image_in_two_cases_is_refused(self, tmp_path):
        touch(tmp_path, "1.png", "2.png")
        table(tmp_path, "id,image,label\na,1.png,2.png\nb,./1.png,2.png\n")
        (problem,) = problems(tmp_path)
        assert "image of case a too" in problem

    def test_a_group_for_some_cases_only_is_refused(self, tmp_path):
        touch(tmp_path, "1.png", "2.png", "3.png")
        table(tmp_path, "image,label,patient\n1.png,3.png,p\n2.png,3.png,\n")
        assert problems(tmp_path) == ["2: group: all cases need one or none, but 1 of 2 have none."]

    def test_notes_are_logged(self, tmp_path, caplog):
        decathlon(tmp_path, "a", validation=[1])
        read_manifest(tmp_path)
        assert "validation" in caplog.text


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the real scans in ../shared/data")
class TestRealData:
    @pytest.mark.parametrize(
        ("name", "layout", "count"),
        [("hippocampus", "decathlon", 208), ("people", "csv", 232), ("cardiac_mr", "decathlon", 20)],
    )
    def test_real_data_sets_are_read(self, name, layout, count):
        manifest = read_manifest(DATA / name)
        assert (manifest.format, len(manifest)) == (layout, count)
        assert manifest.notes == ()

    def test_the_table_may_be_given_itself(self):
        assert len(read_manifest(DATA / "people/df.csv", "csv", channels=3)) == 232
