from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medunet.demo.phantom import LABELS, Patient, make_patient
from medunet.errors import GeometryError, UsageError
from medunet.labels import LabelMap

SEEDS = (0, 1, 2, 3)
PLAUSIBLE_ML = {"liver": (800, 2100), "spleen": (50, 350), "kidneys": (150, 420), "tumour": (0, 90)}
PLAUSIBLE_HU = {"liver": (85, 130), "spleen": (90, 140), "kidneys": (120, 190)}


@pytest.fixture(scope="module", params=SEEDS)
def patient(request: pytest.FixtureRequest) -> Patient:
    return make_patient(request.param)


def centre_mm(patient: Patient, mask: np.ndarray) -> np.ndarray:
    index = np.argwhere(mask).mean(axis=0)
    affine = patient.geometry.affine
    return affine[:3, :3] @ index + affine[:3, 3]


def test_the_labels_make_a_label_map() -> None:
    assert LabelMap.from_mapping(LABELS).names == ("background", "liver", "tumour", "spleen", "kidneys")


def test_a_patient_is_int16_hounsfield_units_with_a_mask_on_a_ras_grid(patient: Patient) -> None:
    assert patient.image.dtype == np.int16
    assert patient.labels.dtype == np.uint8
    assert patient.image.shape == patient.labels.shape == patient.geometry.shape == (96, 96, 48)
    assert patient.geometry.axcodes == "RAS"
    assert patient.geometry.spacing == (4.0, 4.0, 5.0)
    assert patient.image.min() >= -1024
    assert patient.image.max() <= 3071


def test_the_grid_is_centred_within_two_centimetres(patient: Patient) -> None:
    middle = patient.geometry.affine @ np.asarray([47.5, 47.5, 23.5, 1.0])
    assert np.abs(middle[:3]).max() < 20


def test_the_same_seed_gives_the_same_patient() -> None:
    one, two = make_patient(11), make_patient(11)
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.labels, two.labels)
    assert one.geometry == two.geometry


def test_other_seeds_give_other_anatomy_and_another_origin() -> None:
    one, two = make_patient(0), make_patient(1)
    overlap = ((one.labels == 1) & (two.labels == 1)).sum() * 2 / ((one.labels == 1).sum() + (two.labels == 1).sum())
    assert overlap < 0.9
    assert one.geometry.origin != two.geometry.origin


def test_organs_lie_on_their_sides(patient: Patient) -> None:
    body = centre_mm(patient, patient.image > -500)
    liver = centre_mm(patient, patient.labels == LABELS["liver"])
    spleen = centre_mm(patient, patient.labels == LABELS["spleen"])
    bone = centre_mm(patient, patient.image > 300)
    assert liver[0] > body[0] + 20, "the liver is on the right, where x is greater"
    assert spleen[0] < body[0] - 40
    assert bone[1] < body[1] - 10, "most bone is behind"
    kidneys, count = ndimage.label(patient.labels == LABELS["kidneys"])
    sides = [centre_mm(patient, kidneys == piece)[0] - body[0] for piece in range(1, count + 1)]
    assert min(sides) < -30
    assert max(sides) > 30


def test_lungs_are_above_and_the_table_is_behind(patient: Patient) -> None:
    inside = (patient.image < -700) & (patient.image > -950)
    assert inside[20:76, 20:76, 40:].mean() > 0.1
    assert inside[20:76, 40:60, :8].mean() < 0.1
    column = patient.image.max(axis=(0, 2))
    assert column[:20].max() > -500


def test_organs_have_plausible_volumes(patient: Patient) -> None:
    counts = np.bincount(patient.labels.ravel(), minlength=5)
    assert len(counts) == 5
    for name, (low, high) in PLAUSIBLE_ML.items():
        assert low <= counts[LABELS[name]] * patient.geometry.voxel_volume_ml <= high, name


def test_organs_have_plausible_values(patient: Patient) -> None:
    for name, (low, high) in PLAUSIBLE_HU.items():
        assert low < np.median(patient.image[patient.labels == LABELS[name]]) < high, name


def test_noise_is_that_of_a_scan_and_correlated(patient: Patient) -> None:
    core = ndimage.binary_erosion(patient.labels == LABELS["spleen"], iterations=2)
    assert 6 < patient.image[core].std() < 30
    pairs = core[1:] & core[:-1]
    near, far = patient.image[1:][pairs].astype(float), patient.image[:-1][pairs].astype(float)
    assert np.corrcoef(near, far)[0, 1] > 0.05


def test_tumours_are_dark_and_inside_the_liver() -> None:
    seen = 0
    for seed in SEEDS:
        patient = make_patient(seed)
        tumour, liver = patient.labels == LABELS["tumour"], patient.labels == LABELS["liver"]
        if tumour.sum() < 30:
            continue
        seen += 1
        shell = ndimage.binary_dilation(tumour) & ~tumour
        assert liver[shell].mean() > 0.6
        assert np.median(patient.image[tumour]) < np.median(patient.image[liver]) - 10
    assert seen >= 2


def test_some_patients_have_no_tumour_and_some_have_several() -> None:
    counts = [ndimage.label(make_patient(seed).labels == LABELS["tumour"])[1] for seed in range(8, 18)]
    assert min(counts) == 0
    assert max(counts) >= 2


def test_a_finer_grid_shows_the_same_anatomy() -> None:
    coarse = make_patient(3)
    fine = make_patient(3, shape=(128, 128, 60), spacing=(3.0, 3.0, 4.0))
    ml = [np.bincount(p.labels.ravel(), minlength=5)[1:] * p.geometry.voxel_volume_ml for p in (coarse, fine)]
    for name in ("liver", "spleen", "kidneys"):
        assert ml[0][LABELS[name] - 1] == pytest.approx(ml[1][LABELS[name] - 1], rel=0.06), name


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((8, 8, 8), (48.0, 48.0, 30.0)), ((8, 9, 10), (1.0, 1.0, 1.0)), ((10, 10, 8), (900.0, 900.0, 900.0))],
)
def test_grids_that_hardly_show_anything_still_work(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    patient = make_patient(0, shape=shape, spacing=spacing)
    assert patient.image.shape == patient.labels.shape == shape


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="0 or greater, not -1"):
        make_patient(-1)


def test_a_flat_grid_is_refused() -> None:
    with pytest.raises(UsageError, match="8 voxels or more, not 96x96x1"):
        make_patient(0, shape=(96, 96, 1))


def test_an_impossible_spacing_is_refused() -> None:
    with pytest.raises(GeometryError, match="positive"):
        make_patient(0, spacing=(4.0, 0.0, 5.0))
