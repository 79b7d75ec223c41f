"""Each flag is raised where it should be, and none on a case like those of the training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from medunet.geometry import Geometry
from medunet.inference.predictor import Predictor
from medunet.inference.quality import DISAGREEMENT, FLAGS, Flag, find_flags
from medunet.io.check import CaseStatistics, sampled_percentiles
from medunet.io.structures import extents
from medunet.io.volume import Segmentation, Volume
from medunet.labels import LabelMap
from medunet.model import Seen
from medunet.model.seen import seen_in

LABELS = LabelMap.from_mapping({"background": 0, "organ": [1, 2], "core": 2, "vessel": 3})
SHAPE, SPACING = (40, 36, 30), (1.0, 1.0, 2.0)


def scan(seed: int = 0) -> NDArray[np.int16]:
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 30, SHAPE)
    image[10:30, 10:28, 8:24] += 200
    return image.astype(np.int16)


def indices() -> NDArray[np.uint8]:
    """Organ with a core, and a vessel that leaves the image above and below."""
    array = np.zeros(SHAPE, np.uint8)
    array[10:30, 10:28, 8:24] = 1
    array[15:20, 15:20, 12:16] = 2
    array[33:36, 30:33, :] = 3
    return array


def statistics(name: str, image: NDArray[Any], mask: NDArray[Any], geometry: Geometry) -> CaseStatistics:
    """As the checks before training write them down; the mask holds indices."""
    found = dict(zip(LABELS.names[1:], extents(mask, [[1, 2], [2], [3]]), strict=True))
    there = {key: extent for key, extent in found.items() if extent is not None}
    return CaseStatistics(
        name, geometry.shape, geometry.spacing, geometry.axcodes, 1, (0.0,), (1.0,), (sampled_percentiles(image),),
        {key: extent.voxels for key, extent in there.items()}, "", geometry.tilt_degrees,
        {key: extent.components for key, extent in there.items()},
        tuple(key for key, extent in there.items() if extent.at_border),
    )  # fmt: skip


def trained(*cases: CaseStatistics) -> Seen:
    return seen_in(cases, labels=LABELS, modality=["CT"], orientation="RAS")


GRID = Geometry.plain(SHAPE, SPACING)
SEEN = trained(*(statistics(str(seed), scan(seed), indices(), GRID) for seed in range(3)))


def flags(
    image: NDArray[Any] | None = None,
    mask: NDArray[Any] | None = None,
    geometry: Geometry = GRID,
    seen: Seen | None = SEEN,
    disagreement: dict[str, float] | None = None,
) -> list[Flag]:
    image, mask = scan(9) if image is None else image, indices() if mask is None else mask
    return list(find_flags(Volume(image[None], geometry), Segmentation(mask, geometry, LABELS), seen, disagreement))


def names(found: list[Flag]) -> list[tuple[str, str | None]]:
    return [(flag.name, flag.structure) for flag in found]


def spaced(*spacing: float) -> Geometry:
    return Geometry.plain(SHAPE, spacing)


def test_a_case_like_those_of_the_training_has_no_flag() -> None:
    assert flags() == []


# The image


@pytest.mark.parametrize(("z", "odd"), [(1.55, True), (1.65, False), (2.45, False), (2.55, True)])
def test_another_spacing_is_flagged(z: float, odd: bool) -> None:
    found = flags(geometry=spaced(1.0, 1.0, z))
    assert names(found) == ([("spacing", None)] if odd else [])
    if odd:
        assert found[0].message == f"The spacing is {z} mm head-foot (training saw 2 mm)."


def test_spacing_is_compared_along_the_axes_of_the_patient() -> None:
    turned = Geometry.from_affine(np.array([[0, 1.0, 0, 0], [0, 0, 1, 0], [2, 0, 0, 0], [0, 0, 0, 1]]), (30, 40, 36))
    assert turned.axcodes == "SRA"
    image, mask = np.ascontiguousarray(scan().transpose(2, 0, 1)), np.ascontiguousarray(indices().transpose(2, 0, 1))
    (found,) = flags(image, mask, turned)
    assert found.name == "orientation"
    assert "are SRA, in another order than training saw (RAS)" in found.message


@pytest.mark.parametrize("flipped", [(-1, -1, 1), (-1, 1, 1), (1, -1, -1)])
def test_flips_are_no_other_orientation(flipped: tuple[int, int, int]) -> None:
    assert flags(geometry=Geometry.from_affine(np.diag([*np.multiply(flipped, SPACING), 1.0]), SHAPE)) == []


@pytest.mark.parametrize(("angle", "odd"), [(14, False), (16, True)])
def test_an_image_that_is_turned_is_flagged(angle: float, odd: bool) -> None:
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    affine = np.array([[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    found = flags(geometry=Geometry.from_affine(affine, SHAPE))
    assert names(found) == ([("orientation", None)] if odd else [])
    if odd:
        assert "turned by 16 degrees" in found[0].message


@pytest.mark.parametrize(("rows", "odd"), [(20, True), (22, False), (44, False), (46, True)])
def test_another_field_of_view_is_flagged(rows: int, odd: bool) -> None:
    def cut(array: NDArray[Any]) -> NDArray[Any]:
        return np.pad(array, ((0, 0), (0, 0), (0, max(0, rows - 30))), mode="edge")[..., :rows]

    found = [flag for flag in flags(cut(scan()), cut(indices()), Geometry.plain((40, 36, rows), SPACING))]
    assert [flag for flag in found if flag.name == "field_of_view"] == (
        [Flag("field_of_view", None, f"The field of view is {2 * rows} mm head-foot (training saw 60 mm).")]
        if odd
        else []
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: image * 10, "median is"),
        (lambda image: image - 1000, "0.5 percentile is"),
        (lambda image: 400 - image, "of the way between the percentiles"),
        (np.zeros_like, "99.5 percentile is 0"),
    ],
    ids=["scaled", "shifted", "inverted", "empty"],
)
def test_odd_contrast_is_flagged(change: Callable[[Any], Any], words: str) -> None:
    (found,) = flags(change(scan()))
    assert (found.name, found.structure) == ("intensity", None)
    assert found.message.startswith("The values of CT are unusual: ")
    assert words in found.message
    assert "training saw" in found.message


def test_slightly_other_values_are_not_flagged_though_all_training_cases_were_alike() -> None:
    assert flags(scan() + 20) == []
    assert flags((scan() * 1.08).astype(np.int16)) == []


# The structures


@pytest.mark.parametrize(("size", "odd"), [(6, True), (10, False)])
def test_an_unusual_volume_is_flagged(size: int, odd: bool) -> None:
    mask = indices()
    mask[mask == 1] = 0
    mask[10:30, 10:28, 14 - size // 2 : 14 + size // 2][mask[10:30, 10:28, 14 - size // 2 : 14 + size // 2] == 0] = 1
    found = flags(mask=mask)
    assert names(found) == ([("volume", "organ")] if odd else [])
    if odd:
        assert found[0].message == "The volume of organ is 4.32 ml; training saw 11.52 ml."


def test_a_structure_that_was_always_there_is_missed() -> None:
    mask = indices()
    mask[mask == 3] = 0
    assert flags(mask=mask) == [Flag("volume", "vessel", "No vessel was found; training saw it in 100% of the cases.")]
    alone = [statistics("with", scan(), indices(), GRID), statistics("without", scan(), mask, GRID)]
    assert flags(mask=mask, seen=trained(*alone)) == []


def test_more_pieces_than_usual_are_flagged() -> None:
    mask = indices()
    mask[33:36, 30:33, 14:16] = 0
    (found,) = flags(mask=mask)
    assert found == Flag("components", "vessel", "vessel is in 2 pieces; training saw 1 at most.")
    assert flags(mask=mask, seen=trained(statistics("a", scan(), mask, GRID))) == []


def test_some_more_of_many_pieces_are_not_flagged() -> None:
    many = indices()
    many[33:36, 30:33, 14:16] = 0
    seen = trained(statistics("a", scan(), many, GRID))
    many[33:36, 30:33, 6:8] = 0
    assert flags(mask=many, seen=seen) == []
    many[33:36, 30:33, 22:24] = 0
    assert names(flags(mask=many, seen=seen)) == [("components", "vessel")]


def test_specks_are_no_pieces() -> None:
    mask = indices()
    mask[2:4, 2:4, 2:4] = 1
    assert flags(mask=mask) == []


def test_a_structure_that_the_image_cuts_off_is_flagged() -> None:
    mask = indices()
    mask[16, 16, 16:] = 1
    (found,) = flags(mask=mask)
    assert (found.name, found.structure) == ("border", "organ")
    assert "it did so in 0% of the training cases" in found.message


def test_a_label_inside_of_another_belongs_to_it() -> None:
    mask = indices()
    mask[mask == 1] = 2
    assert names(flags(mask=mask)) == [("volume", "core")]


def test_disagreement_is_flagged_as_it_is_given() -> None:
    given = {"organ": DISAGREEMENT + 0.1, "core": DISAGREEMENT, "vessel": 0.0}
    wanted = [Flag("disagreement", "organ", "The networks disagree on 30% of organ; up to 20% are usual.")]
    assert flags(disagreement=given) == wanted
    assert flags(disagreement=given, seen=None, geometry=spaced(9, 9, 9)) == wanted


def test_without_the_ranges_nothing_but_the_disagreement_is_judged() -> None:
    assert flags(-scan(), np.zeros(SHAPE, np.uint8), spaced(9, 9, 9), seen=None) == []


def test_all_flags_together_are_all_that_there_are() -> None:
    empty = np.zeros(SHAPE, np.uint8)
    empty[:, :2, ::4], empty[:, :2, 0] = 1, 1
    tilted = np.diag([5.0, 5.0, 5.0, 1.0])
    tilted[:2, :2] = 5 * np.array([[0.5, -(0.75**0.5)], [0.75**0.5, 0.5]])
    found = flags(-scan(), empty, Geometry.from_affine(tilted, SHAPE), disagreement={"core": 1.0})
    assert {flag.name for flag in found} == set(FLAGS) - {"axes"}


# Pictures


def picture(shape: tuple[int, int] = (40, 36), spacing: tuple[float, float] | None = None) -> Geometry:
    return Geometry.plain(shape, spacing)


FLAT = trained(statistics("a", scan()[..., 15], indices()[..., 15], picture()))


def test_a_picture_like_those_of_the_training_has_no_flag() -> None:
    assert flags(scan(4)[..., 15], indices()[..., 15], picture(), FLAT) == []


def test_pictures_are_measured_in_pixels() -> None:
    image, mask = (np.kron(array[..., 15], np.ones((2, 2), array.dtype)) for array in (scan(), indices()))
    found = flags(image, mask, picture((80, 72)), FLAT)
    assert [flag.message for flag in found] == [
        "The field of view is 80 pixels wide (training saw 40 pixels), 72 pixels high (training saw 36 pixels).",
        "The area of organ is 1440 pixels; training saw 360 pixels.",
        "The area of core is 100 pixels; training saw 25 pixels.",
        "The area of vessel is 36 pixels; training saw 9 pixels.",
    ]


def test_a_picture_without_a_spacing_is_not_compared_with_sizes_in_millimetres() -> None:
    measured = trained(statistics("a", scan()[..., 15], indices()[..., 15], picture(spacing=(0.1, 0.1))))
    assert flags(scan(4)[..., 15], indices()[..., 15], picture(), measured) == []
    assert names(flags(-scan(4)[..., 15], indices()[..., 15], picture(), measured)) == [("intensity", None)]


def test_a_volume_is_flagged_where_training_saw_pictures() -> None:
    (found,) = flags(seen=FLAT)
    assert found == Flag("axes", None, "The image has 3 axes; training saw pictures of two axes.")


# A trained model


@pytest.fixture(scope="module")
def predictor(tiny_model: Path) -> Predictor:
    return Predictor(tiny_model, device="cpu", precision="fp32")


def test_no_case_of_its_own_data_set_is_flagged(predictor: Predictor, tiny_dataset: Path) -> None:
    paths = sorted((tiny_dataset / "imagesTr").iterdir())
    assert len(paths) == 6
    assert [predictor(path).flags for path in paths] == [()] * 6


def test_a_strange_case_is_flagged(predictor: Predictor, tiny_dataset: Path) -> None:
    image = nibabel.load(tiny_dataset / "imagesTr" / "case_01.nii.gz")
    cut = nibabel.Nifti1Image(np.asarray(image.dataobj)[:12], np.diag([1.5, 1.5, 4.0, 1.0]))
    found = predictor(cut).flags
    assert {"spacing", "field_of_view", "border"} <= {flag.name for flag in found}
    assert ("border", "organ") in names(list(found))


def test_models_given_together_know_what_each_of_them_saw(tiny_model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    def edited(name: str, change: Callable[[dict[str, Any]], object]) -> Path:
        path = Path(shutil.copytree(tiny_model, tmp_path / name))
        spec = yaml.safe_load((path / "model.yaml").read_text())
        change(spec)
        (path / "model.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
        return path

    old = edited("old", lambda spec: spec.pop("seen"))
    coarse = edited("coarse", lambda spec: spec["seen"]["spacing_mm"].__setitem__(2, [4.0, 4.0]))
    image = tiny_dataset / "imagesTr" / "case_01.nii.gz"
    assert Predictor(old, device="cpu").seen is None
    assert Predictor(old, device="cpu")(image).flags == ()
    assert [flag.name for flag in Predictor([old, coarse], device="cpu")(image).flags] == ["spacing"]
    assert Predictor([coarse, tiny_model], device="cpu")(image).flags == ()


DATA = Path(__file__).resolve().parents[2] / "../shared/data/hippocampus"


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the real scans in ../shared/data")
def test_few_real_cases_are_flagged() -> None:
    from medunet.io.check import check_cases
    from medunet.io.files import read_mask
    from medunet.io.manifest import read_manifest
    from medunet.io.read import read_volume

    labels = LabelMap.from_mapping({"background": 0, "anterior": 1, "posterior": 2})
    cases = sorted(read_manifest(DATA).cases, key=lambda case: case.id)[:120]
    trained_on = check_cases(cases[:80], labels, channels=1)
    seen = seen_in(trained_on, labels=labels, modality=["MR"], orientation="RAS")
    flagged = 0
    for case in cases[80:]:
        volume, (mask, _) = read_volume(case.images), read_mask(case.label or Path())
        flagged += bool(find_flags(volume, Segmentation(labels.to_indices(mask), volume.geometry, labels), seen))
    assert flagged <= 0.05 * 40
