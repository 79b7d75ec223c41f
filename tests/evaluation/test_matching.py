"""Which prediction belongs to which reference."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import FileDataset, FileMetaDataset

from medunet.errors import DatasetError, UsageError
from medunet.evaluation.matching import case_id, match_files


@pytest.fixture
def folders(tmp_path):
    """Two folders and a function that puts empty files of these names into them."""

    def fill(predictions, references):
        result = tmp_path / "predictions", tmp_path / "references"
        for folder, names in zip(result, (predictions, references), strict=True):
            folder.mkdir()
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
        return result

    return fill


@pytest.mark.parametrize("name", ["a.1.nii.gz", "a.1_seg.nii.gz", "a.1.nrrd", "a.1_seg.png", "a.1.NII.GZ"])
def test_the_case_id_is_the_name_without_ending_and_seg(name):
    assert case_id(Path("folder") / name) == "a.1"


def test_a_file_that_is_called_seg_keeps_its_name():
    assert case_id(Path("_seg.nii.gz")) == "_seg"


def test_files_match_with_and_without_seg_and_in_any_format(folders):
    predictions, references = folders(
        ["a_seg.nii.gz", "b.nii.gz", "c_seg.mha", "d_seg.nii"], ["a.nii.gz", "b_seg.nrrd", "c_seg.nii.gz", "d.nii"]
    )
    pairs = match_files(predictions, references).pairs
    assert [pair.case for pair in pairs] == ["a", "b", "c", "d"]
    assert pairs[0].prediction == predictions / "a_seg.nii.gz"
    assert pairs[1].reference == references / "b_seg.nrrd"


def test_objects_in_dicom_match_by_their_bytes_and_stand_behind_mask_files(folders):
    predictions, references = folders(["a_seg.nii.gz", "notes.txt"], ["b.nii.gz"])
    contours, segments = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.66.4"
    for folder, name, kind in (
        (predictions, "a_seg.dcm", segments),
        (predictions, "a_rtstruct.dcm", contours),
        (predictions, "b_rtstruct", contours),
        (references, "a_rtstruct.dcm", contours),
    ):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = kind, "1.2.840.10008.1.2.1"
        FileDataset(folder / name, {}, preamble=b"\0" * 128, file_meta=meta).save_as(folder / name)
    found = {pair.case: pair for pair in match_files(predictions, references).pairs}
    assert found["a"].prediction == predictions / "a_seg.nii.gz"
    assert found["a"].reference == references / "a_rtstruct.dcm"
    assert found["b"].prediction == predictions / "b_rtstruct"
    (predictions / "a_seg.nii.gz").unlink()
    assert match_files(predictions, references).pairs[0].prediction == predictions / "a_seg.dcm"


def test_what_is_left_over_on_either_side_is_told(folders):
    predictions, references = folders(
        ["a.nii.gz", "x.nii.gz", "predict.json", ".hidden.nii.gz"], ["a.nii.gz", "b.nii.gz"]
    )
    matching = match_files(predictions, references)
    assert [(pair.case, pair.prediction is None) for pair in matching.pairs] == [("a", False), ("b", True)]
    assert matching.without_reference == ("x",)


def test_two_files_match_whatever_their_names(folders):
    predictions, references = folders(["mine.nii.gz"], ["truth_seg.nrrd"])
    (pair,) = match_files(predictions / "mine.nii.gz", references / "truth_seg.nrrd").pairs
    assert pair.case == "truth"


def test_of_one_mask_in_several_formats_nifti_counts(folders):
    predictions, references = folders(["a_seg.nrrd", "a_seg.nii.gz", "a_seg.png"], ["a.nii.gz"])
    assert match_files(predictions, references).pairs[0].prediction.name == "a_seg.nii.gz"


def test_two_different_files_of_one_case_are_refused(folders):
    predictions, references = folders(["a_seg.nii.gz", "a.nii.gz", "b.nii.gz"], ["a.nii.gz"])
    with pytest.raises(DatasetError, match=r"a: a\.nii\.gz, a_seg\.nii\.gz"):
        match_files(predictions, references)


def test_nothing_in_common_shows_examples_of_both_sides(folders):
    predictions, references = folders(["a.nii.gz"], [f"case{i}.nii.gz" for i in range(7)])
    with pytest.raises(UsageError, match=r"holds a, .* holds case0, .*case4, \.\.\.") as caught:
        match_files(predictions, references)
    assert caught.value.exit_code == 2


def test_an_empty_folder_is_refused(folders):
    with pytest.raises(UsageError, match="holds no image"):
        match_files(*folders([], ["a.nii.gz"]))


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"predictions path .* does not exist"):
        match_files(tmp_path / "nowhere", tmp_path)
    with pytest.raises(UsageError, match=r"references path .* does not exist"):
        match_files(tmp_path, tmp_path / "nowhere")


def test_a_file_beside_a_folder_is_refused(folders):
    predictions, references = folders(["a.nii.gz"], ["a.nii.gz"])
    with pytest.raises(UsageError, match="two files or two folders"):
        match_files(predictions / "a.nii.gz", references)


def test_pictures_in_sub_folders_match_as_predict_keeps_them(folders):
    predictions, references = folders(
        ["a/x_mask.png", "b/c/x_mask.png", "b/c/x_overlay.png"], ["a/x.png", "b/c/x.png", ".trash/x.png"]
    )
    pairs = match_files(predictions, references).pairs
    assert [pair.case for pair in pairs] == ["a/x", "b/c/x"]
    assert pairs[1].prediction == predictions / "b" / "c" / "x_mask.png"


def test_sub_folders_of_another_purpose_are_left_alone(folders):
    predictions, references = folders(["x_mask.png", "new/y.png"], ["x.png", "old/x.png", "old/x_mask.png"])
    matching = match_files(predictions, references)
    assert [pair.case for pair in matching.pairs] == ["x"]
    assert matching.without_reference == ()


def test_a_table_of_references_is_told_to_be_no_mask(folders):
    predictions, references = folders(["x_mask.png"], ["masks.csv"])
    with pytest.raises(UsageError, match="write them as PNG"):
        match_files(predictions, references / "masks.csv")
