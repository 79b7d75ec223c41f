"""Bad input through the real command line: one clear message, the right exit code, nothing half-written."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from medunet.config.load import dump_config

SHORT = ("--set", "train.epochs=1", "--set", "train.iterations_per_epoch=1")


def save(path: Path, values: NDArray[Any], affine: NDArray[Any] | None = None) -> None:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)


def change(path: Path, edit: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Write a NIfTI again with other voxels."""
    image = nibabel.load(path)
    save(path, edit(np.asarray(image.dataobj).copy()), image.affine)


def with_value(value: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def edit(values: NDArray[Any]) -> NDArray[Any]:
        values = values.astype(np.float32) if not np.isfinite(value) else values
        values[1, 2, 3] = value
        return values

    return edit


def patch_header(path: Path, offset: int, content: bytes) -> None:
    """Overwrite bytes of the NIfTI header, which nibabel would not write."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[offset : offset + len(content)] = content
    path.write_bytes(gzip.compress(bytes(raw)))


def zero_spacing(path: Path) -> None:
    patch_header(path, 80, np.zeros(3, "<f4").tobytes())  # pixdim[1:4]


def singular_affine(path: Path) -> None:
    patch_header(path, 280, np.zeros(12, "<f4").tobytes())  # srow_x, srow_y, srow_z


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(path: Path) -> None:
    path.write_text("this is a text, whatever its name says\n" * 100)


def four_axes(path: Path) -> None:
    save(path, np.zeros((6, 6, 6, 3), np.int16))


def not_finite(path: Path) -> None:
    change(path, with_value(np.nan))


def infinite(path: Path) -> None:
    change(path, with_value(np.inf))


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


IMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncated, "cannot be read as NIfTI"),
    "empty": (empty_file, "it is empty (0 bytes)"),
    "text": (text, "cannot be read as NIfTI"),
    "NaN": (not_finite, "1 of 9216 voxels that are NaN or infinite"),
    "infinite": (infinite, "1 of 9216 voxels that are NaN or infinite"),
    "4D": (four_axes, "is 4D (6x6x6x3); one image is a 3D volume"),
    "zero spacing": (zero_spacing, "a spacing of 0 x 0 x 0 mm"),
    "singular affine": (singular_affine, "affine is singular"),
}


@pytest.fixture
def dataset(write_dataset: Callable[..., Path], tmp_path: Path) -> Path:
    """Four cases that a test may spoil."""
    return write_dataset(tmp_path / "data", count=4)


@pytest.fixture
def config_file(make_config: Callable[..., Any], dataset: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_config(make_config(dataset)))
    return path


@pytest.fixture
def train(cli: Any, config_file: Path, tmp_path: Path) -> Callable[..., Any]:
    """Train on `dataset`; `tmp_path / "run"` is the run."""
    return lambda *more: cli("train", "-c", config_file, "--out", tmp_path / "run", "-d", "cpu", *SHORT, *more)


def assert_refused(done: Any, code: int, *parts: str) -> None:
    assert done.code == code, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    for part in parts:
        assert part in done.err, done.err
    assert len([line for line in done.err.splitlines() if line.startswith("medunet: ")]) == 1


def assert_no_run(run: Path) -> None:
    assert not run.exists(), list(run.rglob("*"))


# Prediction


@pytest.mark.parametrize("kind", IMAGES)
def test_a_bad_image_is_not_segmented(cli: Any, tiny_model: Path, dataset: Path, tmp_path: Path, kind: str) -> None:
    spoil, message = IMAGES[kind]
    image = dataset / "imagesTr" / "case_01.nii.gz"
    spoil(image)
    done = cli("predict", "-m", tiny_model, "-i", image, "-o", tmp_path / "out" / "mask.nii.gz")
    assert done.code == 1
    assert done.out == ""
    assert message in done.err
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_image_is_a_wrong_call(cli: Any, tiny_model: Path, tmp_path: Path) -> None:
    done = cli("predict", "-m", tiny_model, "-i", tmp_path / "missing.nii.gz", "-o", tmp_path / "out")
    assert_refused(done, 2, "There is no input")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shape", [(3, 4, 5), (24, 24, 1), (1, 1, 1)], ids=str)
def test_small_and_thin_volumes_are_no_bad_input(
    cli: Any, tiny_model: Path, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    save(tmp_path / "image.nii.gz", np.random.default_rng(0).integers(0, 400, shape).astype(np.int16))
    done = cli("predict", "-m", tiny_model, "-i", tmp_path / "image.nii.gz", "-o", tmp_path / "mask.nii.gz")
    assert done.code == 0, done.err
    assert nibabel.load(tmp_path / "mask.nii.gz").shape == shape


def test_an_output_folder_that_cannot_be_made(cli: Any, tiny_model: Path, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = cli("predict", "-m", tiny_model, "-i", dataset / "imagesTr", "-o", tmp_path / "file" / "out")
    assert_refused(done, 1, "cannot be written: Not a directory")


def test_a_full_disk_while_a_mask_is_written(
    cli: Any, tiny_model: Path, dataset: Path, tmp_path: Path, full_disk: Callable[[str], None]
) -> None:
    full_disk("case_02_seg.part")
    done = cli("predict", "-m", tiny_model, "-i", dataset / "imagesTr", "-o", tmp_path / "out")
    assert done.code == 3
    assert "case_02_seg.nii.gz cannot be written: No space left on device" in done.err
    masks = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert masks == [*(f"case_0{n}_seg.nii.gz" for n in (0, 1, 3)), "predict.json"]


def flip_a_byte(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-10] ^= 1
    weights.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], Any], int, str]] = {
    "a changed byte": (flip_a_byte, 1, "was changed or damaged"),
    "no weights": (lambda model: (model / "weights.safetensors").unlink(), 1, "lacks weights.safetensors"),
    "no model.yaml": (lambda model: (model / "model.yaml").unlink(), 2, "is no model"),
    "text for YAML": (lambda model: (model / "model.yaml").write_text(": ["), 1, "model.yaml"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused(cli: Any, tiny_model: Path, dataset: Path, tmp_path: Path, damage: str) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    spoil, code, message = DAMAGES[damage]
    spoil(model)
    done = cli("predict", "-m", model, "-i", dataset / "imagesTr", "-o", tmp_path / "out")
    assert_refused(done, code, message)
    assert not (tmp_path / "out").exists()


# Training


@pytest.mark.parametrize("kind", IMAGES)
def test_a_bad_image_is_not_trained_on(train: Any, dataset: Path, tmp_path: Path, kind: str) -> None:
    spoil, message = IMAGES[kind]
    spoil(dataset / "imagesTr" / "case_01.nii.gz")
    assert_refused(train(), 1, "case_01", message)
    assert_no_run(tmp_path / "run")


def other_grid(path: Path) -> None:
    image = nibabel.load(path)
    save(path, np.asarray(image.dataobj)[:, :, :10], image.affine)


def moved_grid(path: Path) -> None:
    image = nibabel.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 30
    save(path, np.asarray(image.dataobj), affine)


LABELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "other shape": (other_grid, "it must lie on the grid of its image, but has shape 24x24x10 instead of 24x24x16"),
    "moved": (moved_grid, "it must lie on the grid of its image, but has an affine"),
    "unknown value": (lambda path: change(path, with_value(7)), "it holds value 7, which no label names"),
    "fractions": (lambda path: change(path, lambda v: v.astype(np.float32) / 2.5), "holds fractions"),
    "NaN": (not_finite, "NaN or infinite"),
    "truncated": (truncated, "cannot be read as NIfTI"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_a_bad_label_is_not_trained_on(train: Any, dataset: Path, tmp_path: Path, kind: str) -> None:
    spoil, message = LABELS[kind]
    spoil(dataset / "labelsTr" / "case_02.nii.gz")
    assert_refused(train(), 1, "case_02", message)
    assert_no_run(tmp_path / "run")


def test_all_problems_are_told_at_once(train: Any, dataset: Path) -> None:
    truncated(dataset / "imagesTr" / "case_00.nii.gz")
    change(dataset / "labelsTr" / "case_01.nii.gz", with_value(9))
    other_grid(dataset / "labelsTr" / "case_03.nii.gz")
    done = train()
    assert_refused(done, 1, "(3 problems, read as decathlon)")
    assert len(done.err.splitlines()) == 4


def test_labels_that_are_empty_everywhere_are_refused(train: Any, dataset: Path, tmp_path: Path) -> None:
    for path in (dataset / "labelsTr").iterdir():
        change(path, np.zeros_like)
    assert_refused(train(), 1, "every mask is empty")
    assert_no_run(tmp_path / "run")


def test_one_empty_label_is_no_bad_input(train: Any, dataset: Path) -> None:
    change(dataset / "labelsTr" / "case_02.nii.gz", np.zeros_like)
    assert train().code == 0


def edit_json(dataset: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((dataset / "dataset.json").read_text())
    edit(content)
    (dataset / "dataset.json").write_text(json.dumps(content))


def test_two_cases_with_one_id_are_refused(train: Any, dataset: Path, tmp_path: Path) -> None:
    other = dataset / "more"
    other.mkdir()
    shutil.copy(dataset / "imagesTr" / "case_00.nii.gz", other / "case_01.nii.gz")
    edit_json(
        dataset,
        lambda content: content["training"].append(
            {"image": "./more/case_01.nii.gz", "label": "./labelsTr/case_00.nii.gz"}
        ),
    )
    assert_refused(train(), 1, "case_01: id: two cases have this id")
    assert_no_run(tmp_path / "run")


def test_an_image_without_a_mask_is_refused(train: Any, dataset: Path, tmp_path: Path) -> None:
    (dataset / "labelsTr" / "case_03.nii.gz").unlink()
    assert_refused(train(), 1, "case_03", "there is no such file")
    (dataset / "dataset.json").unlink()
    assert_refused(train("--set", "data.format=folders"), 1, "case_03")
    assert_no_run(tmp_path / "run")


def test_a_data_set_without_cases_is_refused(train: Any, dataset: Path, tmp_path: Path) -> None:
    edit_json(dataset, lambda content: content.update(training=[]))
    assert_refused(train(), 1, "with at least one entry")
    assert_refused(train("--data", tmp_path / "nowhere"), 2, "There is no file or folder")
    assert_no_run(tmp_path / "run")


def test_more_folds_than_cases_are_refused(train: Any, tmp_path: Path) -> None:
    assert_refused(train("--set", "data.folds=9"), 1, "4 cases cannot fill 9 folds")
    assert_refused(train("--fold", "3"), 2, "must be less than data.folds, which is 3")
    assert_no_run(tmp_path / "run")


def test_a_run_folder_that_cannot_be_made(cli: Any, config_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = cli("train", "-c", config_file, "--out", tmp_path / "file" / "run", *SHORT)
    assert_refused(done, 1, "cannot be written: Not a directory")


def test_a_cuda_device_that_is_absent_is_refused(train: Any, tmp_path: Path) -> None:
    assert_refused(train("-d", "cuda:9"), 1, 'The device "cuda:9" was asked for, but torch sees')
    assert_refused(train("-d", "abacus"), 2, '"abacus" is no device')
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", ["best.part", "last.part"])
def test_a_full_disk_at_a_checkpoint_is_told_and_the_training_goes_on(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_disk: Callable[[str], None], file: str
) -> None:
    full_disk(file)
    done = train()
    monkeypatch.undo()
    assert (done.code, done.out) == (0, f"{tmp_path / 'run' / 'model'}\n")
    name = file.replace(".part", ".pt")
    assert f"{name} cannot be written: No space left on device. The training goes on" in done.err
    assert "Traceback" not in done.err
    assert train("--resume").code == 0


@pytest.mark.parametrize("file", ["config.part", "_seg.part", "per_case.part", "model.part"])
def test_a_full_disk_while_training_can_be_cleared_and_resumed(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_disk: Callable[[str], None], file: str
) -> None:
    full_disk(file)
    done = train()
    monkeypatch.undo()
    assert done.code == 1
    assert done.out == ""
    assert "cannot be written: No space left on device" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert not [path for path in (tmp_path / "run").rglob("*") if ".part-" in path.name]
    assert not (tmp_path / "run" / "model").exists()
    resume = ("--resume",) if (tmp_path / "run" / "config.yaml").exists() else ()
    assert train(*resume).code == 0


def test_volumes_smaller_than_the_patch_are_no_bad_input(
    cli: Any, make_config: Any, write_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    root = write_dataset(tmp_path / "thin", count=3, shape=(20, 20, 1))
    (tmp_path / "thin.yaml").write_text(dump_config(make_config(root)))
    done = cli("train", "-c", tmp_path / "thin.yaml", "--out", tmp_path / "run", *SHORT)
    assert done.code == 0, done.err
