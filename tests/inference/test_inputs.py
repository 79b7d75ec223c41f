"""What a path means as input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medunet.demo.dicom_export import write_ct_export
from medunet.errors import DataError, UsageError
from medunet.geometry import Geometry
from medunet.inference.inputs import about_unread, about_volumes, find_inputs, unread_in, volumes_below
from medunet.io.dicom.header import DIRECTORY_CLASS
from medunet.io.selection import Selection


def write(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.full((4, 4, 4), value, np.int16), np.eye(4)), path)
    return path


def write_study(folder: Path, seed: int = 0, description: str = "Abdomen 1.0") -> Path:
    values = np.random.default_rng(seed).integers(-900, 900, (6, 6, 5)).astype(np.int16)
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    return write_ct_export(
        values, Geometry.from_affine(affine, values.shape), folder, seed=seed, description=description
    )


def ids(path: Path, channels: int = 1) -> list[str]:
    return [entry.id for entry in find_inputs(path, channels=channels)]


def test_a_file_is_one_case_named_without_its_ending(tmp_path: Path) -> None:
    assert ids(write(tmp_path / "scan.01.nii.gz")) == ["scan.01"]


def test_every_image_in_a_folder_is_a_case_and_other_files_are_not(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.nii", ".a.part-1234.nii.gz", "nested/c.nii.gz"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    assert ids(tmp_path) == ["a", "b"]


def test_names_that_two_files_share_are_told_apart(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.nii", "a_2.nii"):
        write(tmp_path / name)
    found = ids(tmp_path)
    assert len(set(found)) == 3


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_channels_of_a_case_are_put_together(tmp_path: Path, channels: int) -> None:
    for case in ("a", "b"):
        for channel in reversed(range(channels)):
            write(tmp_path / f"{case}_{channel:04d}.nii.gz", channel)
    found = find_inputs(tmp_path, channels=channels)
    assert [entry.id for entry in found] == ["a", "b"]
    volume = found[0].read(channels=channels)
    assert volume.array[:, 0, 0, 0].tolist() == list(range(channels))


def test_numbers_at_the_end_of_names_are_no_channels_for_a_model_of_one(tmp_path: Path) -> None:
    for name in ("scan_0000", "scan_0001"):
        write(tmp_path / f"{name}.nii.gz")
    assert ids(tmp_path) == ["scan_0000", "scan_0001"]


@pytest.mark.parametrize("present", [(0,), (0, 2), (1, 2), (0, 1, 2)], ids=str)
def test_a_case_with_other_channels_than_the_model_is_refused(tmp_path: Path, present: tuple[int, ...]) -> None:
    for channel in present:
        write(tmp_path / f"a_{channel:04d}.nii.gz")
    (entry,) = find_inputs(tmp_path, channels=2)
    if len(present) == 1:
        assert entry.read(channels=2).channels == 1  # one file may hold all channels; the predictor counts them
        return
    with pytest.raises(DataError, match=r"The model takes 2 channels, but case a has the files a_000\d"):
        entry.read(channels=2)


def test_a_dicom_folder_is_one_case_named_after_it(tmp_path: Path) -> None:
    (entry,) = find_inputs(write_study(tmp_path / "patient.7"))
    assert entry.id == "patient.7"
    volume = entry.read()
    assert volume.source.kind == "dicom"
    assert any("Scout" in note for note in volume.source.notes)


def test_one_slice_of_a_series_is_an_input_too(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    slice_ = next((study / "SER0003").iterdir())
    (entry,) = find_inputs(slice_)
    assert entry.read().geometry.shape == (6, 6, 1)


def test_a_series_is_chosen_by_its_description(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    (entry,) = find_inputs(tmp_path / "study")
    assert entry.read(Selection("abdomen")).source.series_uid == entry.read(Selection("largest")).source.series_uid
    with pytest.raises(DataError, match="No series has the UID"):
        entry.read(Selection("thorax"))


def test_a_dicomdir_stands_for_the_study_beside_it(tmp_path: Path) -> None:
    write_study(tmp_path / "disc")
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID, directory.file_meta.MediaStorageSOPInstanceUID = DIRECTORY_CLASS, "1.2"
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.save_as(tmp_path / "disc" / "DICOMDIR", enforce_file_format=True)
    (entry,) = find_inputs(tmp_path / "disc" / "DICOMDIR")
    assert (entry.id, entry.paths) == ("disc", (tmp_path / "disc",))
    assert entry.read().source.kind == "dicom"


def test_nothing_to_segment_is_told_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no input"):
        find_inputs(tmp_path / "missing")
    with pytest.raises(DataError, match=r"holds no image file and no DICOM series\. It is empty\."):
        find_inputs(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"no DICOM series\. notes\.txt was left out: not DICOM\."):
        find_inputs(tmp_path)
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no DICOM series\. 1 file is of a kind that is not read: a\.heic\."):
        find_inputs(tmp_path)


def test_a_study_beside_image_files_is_named_after_its_folder(tmp_path: Path) -> None:
    write_study(tmp_path / "ward7")
    write(tmp_path / "scan.nii.gz")
    assert ids(tmp_path) == ["scan", "ward7"]


def test_several_studies_are_named_after_their_folders(tmp_path: Path) -> None:
    write_study(tmp_path / "a", seed=1)
    write_study(tmp_path / "b", seed=2)
    assert ids(tmp_path) == ["a", "b"]
    assert [entry.read().source.path for entry in find_inputs(tmp_path)] == [tmp_path / "a", tmp_path / "b"]


def test_folders_within_an_export_are_not_what_messages_name(tmp_path: Path) -> None:
    study = write_study(tmp_path / "ward7")
    (study / "SER0003").rename(study / "DOE^JANE")
    for path in (study, Path(shutil.make_archive(str(tmp_path / "disc"), "zip", study))):
        (entry,) = find_inputs(path)
        assert entry.read().source.path == path


def pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_pictures_in_sub_folders_keep_their_way(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "one/b.jpg", "one/two/c.tif", ".hidden/d.png", "out/e.png", "masks/f_mask.png")
    (tmp_path / "masks" / "predict.json").write_text("{}")
    found = find_inputs(tmp_path, channels=3, without=tmp_path / "out")
    assert [entry.id for entry in found] == ["a", "one/b", "one/two/c"]


def test_only_what_looks_like_an_image_of_another_kind_is_not_read(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "a_mask.png", "b.webp", "c.txt", "d.json", "e.csv", "v.mhd", "v.raw", "Thumbs.db")
    pictures(tmp_path, "z.HEIC", ".y.heic", "x.svs", "one/w.cr2", ".hidden/d.heic", "out/e.heic", "masks/f.heic")
    (tmp_path / "masks" / "predict.json").write_text("{}")
    assert unread_in(tmp_path, without=tmp_path / "out") == ["x.svs", "z.HEIC", "one/w.cr2"]
    assert unread_in(tmp_path, below=False) == ["x.svs", "z.HEIC"]
    assert unread_in(tmp_path / "z.HEIC") == []
    assert about_unread([]) == ""
    many = [f"{number}.svs" for number in range(9)]
    assert (
        about_unread(many)
        == "9 files are of kinds that are not read: 0.svs, 1.svs, 2.svs, 3.svs, 4.svs, ... (9 in all)."
    )


def test_volumes_in_sub_folders_are_told(tmp_path: Path) -> None:
    pictures(tmp_path, "one/b.png", "one/b.dcm", "one/notes.txt", "a.nii.gz", "one/b.nrrd", "one/two/c.nii.gz")
    pictures(tmp_path, ".hidden/d.nii", "out/e.nii", "masks/f.nii.gz")
    (tmp_path / "masks" / "predict.json").write_text("{}")
    found = volumes_below(tmp_path, without=tmp_path / "out")
    assert found == ["one/b.nrrd", "one/two/c.nii.gz"]
    assert about_volumes(found).startswith("2 volumes in sub-folders were left out: one/b.nrrd, one/two/c.nii.gz. ")
    assert about_volumes(found[:1]).startswith("1 volume in a sub-folder was left out: one/b.nrrd. ")
    assert volumes_below(tmp_path / "a.nii.gz") == []
    assert about_volumes([]) == ""


def test_pictures_that_differ_in_their_endings_keep_them(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "a.jpg", "b.png", "sub/a.png")
    assert [entry.id for entry in find_inputs(tmp_path, channels=3)] == ["a.jpg", "a.png", "b", "sub/a"]


def test_photographs_with_numbers_are_no_channels(tmp_path: Path) -> None:
    pictures(tmp_path, "IMG_0001.jpg", "IMG_0002.jpg", "IMG_0004.jpg")
    assert [entry.id for entry in find_inputs(tmp_path, channels=3)] == ["IMG_0001", "IMG_0002", "IMG_0004"]
    pictures(tmp_path, "x/r_0000.png", "x/r_0001.png", "x/r_0002.png")
    (rgb,) = [entry for entry in find_inputs(tmp_path, channels=3) if entry.id.startswith("x")]
    assert (rgb.id, len(rgb.paths)) == ("x/r", 3)


def test_thumbnails_in_an_export_are_no_cases(tmp_path: Path, write_study: Callable[..., Path]) -> None:
    write_study(tmp_path / "patient", 1)
    pictures(tmp_path, "patient/thumbs/a.png")
    (entry,) = find_inputs(tmp_path)
    assert entry.series
