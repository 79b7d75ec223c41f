"""One volume, however it is stored or handed over, gives one mask on its own grid."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
import yaml
from numpy.typing import NDArray

from medunet.config.postprocess import ThresholdConfig, WatershedConfig
from medunet.demo.dicom_export import write_ct_export
from medunet.errors import DataError, DeviceError, ModelError, UsageError
from medunet.geometry import Geometry
from medunet.inference.predictor import Prediction, Predictor
from medunet.io.volume import Volume
from medunet.model import load_model
from medunet.postprocess import postprocess
from medunet.training.run import train

VALUES = {0, 4, 205}


@pytest.fixture(scope="module")
def predictor(tiny_model: Path) -> Predictor:
    return Predictor(tiny_model, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def scan(tiny_dataset: Path) -> Path:
    """An image of the data set on an oblique grid with different qform and sform codes."""
    image = nibabel.load(tiny_dataset / "imagesTr" / "case_03.nii.gz")
    angle = np.deg2rad(7)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ image.affine[:3, :3]
    affine[:3, 3] = [-17.3, 22.1, -400.7]
    result = nibabel.Nifti1Image(np.asarray(image.dataobj), affine)
    result.set_sform(affine, code=4)
    result.set_qform(affine, code=2)
    path = tiny_dataset.parent / "oblique.nii.gz"
    nibabel.save(result, path)
    return path


def reoriented(image: Any, axcodes: str) -> Any:
    here = nibabel.io_orientation(image.affine)
    there = nibabel.orientations.axcodes2ornt(axcodes)
    return image.as_reoriented(nibabel.orientations.ornt_transform(here, there))


def saved(prediction: Prediction, path: Path) -> Any:
    return nibabel.load(prediction.save(path))


@pytest.fixture(scope="module")
def expected(predictor: Predictor, scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Mask of `scan` as a nibabel image."""
    return saved(predictor(scan), tmp_path_factory.mktemp("expected") / "mask.nii.gz")


def test_the_tiny_model_finds_its_blobs(predictor: Predictor, tiny_dataset: Path) -> None:
    prediction = predictor(tiny_dataset / "imagesTr" / "case_03.nii.gz")
    mask = np.asarray(nibabel.load(tiny_dataset / "labelsTr" / "case_03.nii.gz").dataobj)
    for index, value in ((1, 4), (2, 205)):
        found, truth = prediction.array == index, mask == value
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.85


@pytest.mark.parametrize("probability", [0.8, 0.999])
def test_a_threshold_takes_what_is_less_likely(tiny_model: Path, tiny_dataset: Path, probability: float) -> None:
    image = tiny_dataset / "imagesTr" / "case_03.nii.gz"
    plain = Predictor(load_model(tiny_model).changed(["postprocess=[]"]), device="cpu", precision="fp32")
    step = f"postprocess=[{{name: threshold, label: organ, probability: {probability}}}]"
    strict = Predictor(load_model(tiny_model).changed([step]), device="cpu", precision="fp32")
    before, after = plain(image, probabilities=True), strict(image, probabilities=True)
    assert before.probabilities is not None
    assert after.probabilities is not None
    np.testing.assert_array_equal(after.probabilities, before.probabilities)
    share, organ = before.probabilities[1], before.array == 1
    clear = abs(share - probability) > 1e-4  # else rounding decides
    assert (organ & (share < probability)).any()
    np.testing.assert_array_equal((after.array == 1)[clear], (organ & (share >= probability))[clear])
    np.testing.assert_array_equal(after.array[~organ], before.array[~organ])


def test_a_watershed_cuts_where_the_probability_dips(tiny_model: Path, tiny_dataset: Path) -> None:
    half = np.asarray(nibabel.load(tiny_dataset / "imagesTr" / "case_03.nii.gz").dataobj)
    organ = np.asarray(nibabel.load(tiny_dataset / "labelsTr" / "case_03.nii.gz").dataobj) == 4
    half = half[..., : np.flatnonzero(organ.any((0, 1)))[-1] + 1]
    array = np.concatenate([half, half[..., ::-1]], axis=2)  # two organs that nearly touch
    volume = Volume(array[None].astype(np.float32), Geometry.plain(array.shape, (1.0,) * 3))
    larger = [ThresholdConfig(name="threshold", label=label, probability=0.9) for label in ("background", "core")]
    step = WatershedConfig(name="watershed", label="organ", depth=0.3)
    found = []
    for steps in (larger, [*larger, step]):
        text = ", ".join(each.model_dump_json() for each in steps)
        predictor = Predictor(load_model(tiny_model).changed([f"postprocess=[{text}]"]), device="cpu", precision="fp32")
        found.append(predictor(volume, probabilities=True))
    plain, cut = found
    assert plain.probabilities is not None
    lines = plain.array != cut.array
    assert lines.any()
    assert set(np.unique(plain.array[lines])) == {1}
    assert set(np.unique(cut.array[lines])) == {0}
    expected = plain.array.copy()
    heights = {1: np.round(plain.probabilities[1] * 255).astype(np.uint8)}
    postprocess(expected, [step], plain.labels, plain.geometry.spacing, heights)
    np.testing.assert_array_equal(cut.array, expected)


def test_a_mask_has_the_grid_and_header_of_its_image_bit_for_bit(expected: Any, scan: Path) -> None:
    image = nibabel.load(scan)
    assert expected.shape == image.shape
    assert expected.affine.tobytes() == image.affine.tobytes()
    for key in ("qform_code", "sform_code", "pixdim", "srow_x", "srow_y", "srow_z", "quatern_b", "xyzt_units"):
        assert np.array_equal(expected.header[key], image.header[key]), key
    assert set(np.unique(np.asarray(expected.dataobj))) == VALUES
    assert expected.get_data_dtype() == np.uint8


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "ASR", "PIL"])
def test_a_volume_gives_the_same_mask_in_every_orientation(
    predictor: Predictor, scan: Path, expected: Any, axcodes: str, tmp_path: Path
) -> None:
    turned = reoriented(nibabel.load(scan), axcodes)
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    mask = saved(predictor(tmp_path / "turned.nii.gz"), tmp_path / "mask.nii.gz")
    assert nibabel.aff2axcodes(mask.affine) == tuple(axcodes)
    assert np.array_equal(mask.affine, nibabel.load(tmp_path / "turned.nii.gz").affine)
    back = reoriented(mask, "".join(nibabel.aff2axcodes(expected.affine)))
    assert np.array_equal(np.asarray(back.dataobj), np.asarray(expected.dataobj))


@pytest.mark.parametrize("axcodes", ["LPS", "RSA"], ids=["axial", "coronal"])
def test_a_dicom_series_gives_the_same_mask(
    predictor: Predictor, scan: Path, expected: Any, axcodes: str, tmp_path: Path
) -> None:
    turned = reoriented(nibabel.load(scan), axcodes)
    geometry = Geometry.from_affine(turned.affine, turned.shape)
    export = write_ct_export(np.asarray(turned.dataobj), geometry, tmp_path / "export")
    mask = saved(predictor(export), tmp_path / "mask.nii.gz")
    back = reoriented(mask, "".join(nibabel.aff2axcodes(expected.affine)))
    assert np.allclose(back.affine, expected.affine, atol=1e-3)
    assert np.array_equal(np.asarray(back.dataobj), np.asarray(expected.dataobj))


def as_nrrd(scan: Path, folder: Path) -> Path:
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(scan)), str(folder / "scan.nrrd"))
    return folder / "scan.nrrd"


def as_volume(scan: Path, folder: Path) -> Volume:
    image = nibabel.load(scan)
    return Volume(np.asarray(image.dataobj)[None], Geometry.from_affine(image.affine, image.shape))


def as_array_image(scan: Path, folder: Path) -> Any:
    image = nibabel.load(scan)
    return nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine)


def as_itk(scan: Path, folder: Path) -> Any:
    import itk

    image = nibabel.load(scan)
    result = itk.image_from_array(np.ascontiguousarray(np.asarray(image.dataobj).transpose()))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    result.SetSpacing(spacing.tolist())
    result.SetOrigin(lps[:3, 3].tolist())
    result.SetDirection(itk.matrix_from_array(lps[:3, :3] / spacing))
    return result


SOURCES: dict[str, Callable[[Path, Path], Any]] = {
    "path": lambda scan, _: scan,
    "text": lambda scan, _: str(scan),
    "list of channels": lambda scan, _: [scan],
    "nibabel": lambda scan, _: nibabel.load(scan),
    "nibabel array": as_array_image,
    "SimpleITK": lambda scan, _: SimpleITK.ReadImage(str(scan)),
    "itk": as_itk,
    "NRRD": as_nrrd,
    "Volume": as_volume,
}


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # itk's SWIG; as an error it kills the process
@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_gives_the_same_array(
    predictor: Predictor, scan: Path, expected: Any, kind: str, tmp_path: Path
) -> None:
    prediction = predictor(SOURCES[kind](scan, tmp_path))
    assert np.array_equal(prediction.labels.to_values(prediction.array), np.asarray(expected.dataobj))
    assert np.allclose(saved(prediction, tmp_path / "mask.nii.gz").affine, expected.affine, atol=1e-4)


def test_scaled_values_are_the_same_from_file_and_from_nibabel(
    predictor: Predictor, scan: Path, tmp_path: Path
) -> None:
    image = nibabel.load(scan)
    scaled = nibabel.Nifti1Image(np.asarray(image.dataobj, dtype=np.float32) * 0.37, image.affine)
    scaled.set_data_dtype(np.int16)
    nibabel.save(scaled, tmp_path / "scaled.nii.gz")
    assert nibabel.load(tmp_path / "scaled.nii.gz").dataobj.slope != 1
    one = predictor(tmp_path / "scaled.nii.gz", probabilities=True)
    two = predictor(nibabel.load(tmp_path / "scaled.nii.gz"), probabilities=True)
    assert one.probabilities is not None
    assert np.array_equal(one.probabilities, two.probabilities)


def test_several_threads_share_a_predictor(predictor: Predictor, scan: Path, expected: Any, tiny_dataset: Path) -> None:
    other = tiny_dataset / "imagesTr" / "case_01.nii.gz"
    alone = predictor(other).array
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(predictor, [scan, other] * 4))
    assert all(np.array_equal(r.labels.to_values(r.array), expected.dataobj) for r in results[::2])
    assert all(np.array_equal(result.array, alone) for result in results[1::2])


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_prediction_saves_itself(
    predictor: Predictor, scan: Path, expected: Any, ending: str, tmp_path: Path
) -> None:
    path = predictor(scan).save(tmp_path / "new" / f"mask{ending}")
    image = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image).transpose(), np.asarray(expected.dataobj))
    assert np.allclose(image.GetOrigin(), SimpleITK.ReadImage(str(scan)).GetOrigin(), atol=1e-4)
    assert np.allclose(image.GetDirection(), SimpleITK.ReadImage(str(scan)).GetDirection(), atol=1e-4)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "reason"),
    [*((name, "ending") for name in ("mask.tif", "mask.mhd", "mask.nhdr", "mask")), ("mask.dcm", "no DICOM series")],
)
def test_a_mask_is_not_saved_under_another_ending(
    predictor: Predictor, scan: Path, name: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=reason):
        predictor(scan).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_probabilities_sum_to_one_and_agree_with_the_mask(predictor: Predictor, scan: Path) -> None:
    prediction = predictor(scan, probabilities=True)
    assert prediction.probabilities is not None
    assert prediction.probabilities.shape == (3, *prediction.geometry.shape)
    assert np.allclose(prediction.probabilities.sum(axis=0), 1, atol=1e-5)
    assert np.array_equal(prediction.probabilities.argmax(axis=0), prediction.array)
    assert predictor(scan).probabilities is None


@pytest.mark.parametrize("shape", [(5, 7, 3), (24, 24, 1), (1, 30, 30), (40, 9, 17)])
def test_volumes_smaller_than_the_patch_or_one_slice_thin_work(predictor: Predictor, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(0, 20, (1, *shape)).astype(np.float32)
    assert predictor(Volume(values, Geometry.plain(shape))).array.shape == shape


def test_mirrored_views_are_averaged_when_asked_for(tiny_model: Path, scan: Path, predictor: Predictor) -> None:
    mirrored = Predictor(tiny_model, device="cpu", precision="fp32", tta=True)(scan, probabilities=True)
    plain = predictor(scan, probabilities=True)
    assert mirrored.probabilities is not None
    assert not np.array_equal(mirrored.probabilities, plain.probabilities)
    assert (mirrored.array == plain.array).mean() > 0.95


def copy_model(model: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    shutil.copytree(model, target)
    spec = yaml.safe_load((target / "model.yaml").read_text())
    change(spec)
    (target / "model.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return target


def test_mirrored_views_of_an_unmirrored_model_are_left_out_with_a_warning(
    tiny_model: Path, scan: Path, predictor: Predictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = copy_model(tiny_model, tmp_path / "model", lambda spec: spec["inference"].update(mirror_axes=[]))
    plain = Predictor(model, device="cpu", precision="fp32", tta=True)(scan)
    assert "without mirrored patches" in caplog.text
    assert np.array_equal(plain.array, predictor(scan).array)


def test_two_copies_of_a_model_are_one_model(tiny_model: Path, scan: Path, expected: Any) -> None:
    both = Predictor([tiny_model, tiny_model], device="cpu", precision="fp32")
    prediction = both(scan)
    assert np.array_equal(prediction.labels.to_values(prediction.array), np.asarray(expected.dataobj))


def test_two_models_are_averaged(
    tiny_model: Path, scan: Path, make_config: Any, tiny_dataset: Path, tmp_path: Path
) -> None:
    config = make_config(tiny_dataset, {"seed": 7, "train.epochs": 1, "train.iterations_per_epoch": 10})
    other = train(config, tmp_path / "run", device="cpu").model
    each = [Predictor(path, device="cpu", precision="fp32") for path in (tiny_model, other)]
    logits = [np.log(p(scan, probabilities=True).probabilities) for p in each]  # type: ignore[arg-type]
    both = Predictor([tiny_model, other], device="cpu", precision="fp32")(scan)
    # The mean of logits differs from the mean of log-probabilities by the same number for all labels of a voxel.
    mean = (logits[0] + logits[1]) / 2
    agree = both.array == mean.argmax(axis=0)
    margin = np.sort(mean, axis=0)
    assert agree[margin[-1] - margin[-2] > 1e-3].all()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda spec: spec.update(labels={"background": 0, "organ": 4, "cyst": 205}, seen=None), "labels"),
        (lambda spec: spec.update(labels={"background": 0, "core": 205, "organ": 4}), "labels"),
        (lambda spec: spec.update(modality=["MR"]), "modality"),
        (lambda spec: spec["preprocess"].update(spacing=[1.0, 1.0, 1.0]), "preprocess"),
    ],
    ids=["names", "order of labels", "modality", "spacing"],
)
def test_models_of_different_tasks_are_no_ensemble(tiny_model: Path, tmp_path: Path, change: Any, key: str) -> None:
    other = copy_model(tiny_model, tmp_path / "other", change)
    with pytest.raises(ModelError, match=f"differ in {key}"):
        Predictor([tiny_model, other], device="cpu")


def test_a_zipped_model_is_a_model(tiny_model: Path, scan: Path, expected: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for file in tiny_model.iterdir():
            archive.write(file, f"model/{file.name}")
    prediction = Predictor(tmp_path / "model.zip", device="cpu", precision="fp32")(scan)
    assert np.array_equal(prediction.labels.to_values(prediction.array), np.asarray(expected.dataobj))


def test_a_run_folder_is_taken_for_its_model(tiny_run: Path, tiny_model: Path) -> None:
    assert Predictor(tiny_run, device="cpu").models[0].id == Predictor(tiny_model, device="cpu").models[0].id


def volume(values: NDArray[Any]) -> Volume:
    return Volume(values, Geometry.plain(values.shape[1:]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_refused_from_every_source(predictor: Predictor, bad: float) -> None:
    values = np.zeros((8, 8, 8), np.float32)
    values[3, 3, 3] = bad
    for source in (
        volume(values[None]),
        nibabel.Nifti1Image(values, np.eye(4)),
        SimpleITK.GetImageFromArray(values),
    ):
        with pytest.raises(DataError, match="1 of 512 voxels that are NaN or infinite"):
            predictor(source)


def test_another_number_of_channels_is_refused(predictor: Predictor) -> None:
    with pytest.raises(DataError, match=r"The model takes 1 channels? \(CT\)"):
        predictor(volume(np.zeros((2, 8, 8, 8), np.float32)))


def test_a_picture_is_refused_by_a_model_of_volumes(predictor: Predictor) -> None:
    with pytest.raises(DataError, match="picture of two axes"):
        predictor(volume(np.zeros((1, 8, 8), np.uint8)))


@pytest.mark.parametrize(
    "source",
    [nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4)), nibabel.Nifti1Image(np.zeros((4, 4)), None)],
)
def test_nibabel_images_that_are_no_volume_are_refused(predictor: Predictor, source: Any) -> None:
    with pytest.raises(DataError, match="is no volume"):
        predictor(source)


@pytest.mark.parametrize("source", [3, None, b"bytes", np.zeros((3, 3, 3)), {"image": 1}])
def test_other_types_are_refused(predictor: Predictor, source: Any) -> None:
    with pytest.raises(UsageError, match="cannot be segmented"):
        predictor(source)


def test_devices_are_met_or_refused(tiny_model: Path) -> None:
    with pytest.raises(UsageError, match="no device"):
        Predictor(tiny_model, device="tpu")
    with pytest.raises(DeviceError, match="was asked for"):
        Predictor(tiny_model, device="cuda:99")
    with pytest.raises(UsageError, match="At least one model"):
        Predictor([])
