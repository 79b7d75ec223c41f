"""Data sets of photographs: pairs, one folder, nested folders, VOC, COCO, runs; whole, read to the end, and broken."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from medunet.config.pictures import PairsConfig, RleConfig
from medunet.config.schema import DataConfig
from medunet.errors import DatasetError, MedunetError
from medunet.io.check import check_cases
from medunet.io.describe.path import describe
from medunet.io.fingerprint import fingerprint
from medunet.io.labelled import read_case_image, read_case_label
from medunet.io.manifest import detect, read_manifest
from medunet.labels import LabelMap

LABELS = LabelMap.from_mapping({"background": 0, "car": 1, "road": 2})
SIZE = (24, 16)
RNG = np.random.default_rng(5)


def save(path: Path, array: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def photo(path: Path) -> Path:
    return save(path, RNG.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8))


def boxes(**places: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Values of `LABELS` (rows, columns); a place is left, top, right, bottom."""
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    for name, (left, top, right, bottom) in places.items():
        mask[top:bottom, left:right] = LABELS.labels[LABELS.names.index(name)].values[0]
    return mask


MASKS = {
    "a": boxes(car=(2, 2, 9, 7)),
    "b": boxes(road=(0, 8, 24, 16), car=(3, 4, 10, 12)),
    "c": boxes(road=(1, 1, 5, 5)),
}


def masks_of(root: Path, labels: LabelMap = LABELS, **options: Any) -> dict[str, NDArray[np.generic]]:
    """Every case of a data set, checked and read; masks as (rows, columns)."""
    data = DataConfig(**options)
    manifest = read_manifest(root, data.format, channels=3, options=data)
    check_cases(manifest.cases, labels, channels=3)
    result = {}
    for case in manifest:
        result[case.id] = read_case_label(case, read_case_image(case, channels=3), labels).values.T
    return result


def problems(root: Path, **options: Any) -> list[str]:
    data = DataConfig(**options)
    with pytest.raises(DatasetError) as caught:
        read_manifest(root, data.format, channels=3, options=data)
    return [str(problem) for problem in caught.value.problems] or [str(caught.value)]


def assert_masks(found: dict[str, NDArray[np.generic]], expected: dict[str, NDArray[np.generic]] = MASKS) -> None:
    assert set(found) == set(expected)
    for name, mask in expected.items():
        np.testing.assert_array_equal(found[name], mask, err_msg=name)


class TestPairs:
    NAMES = PairsConfig(images=("photos/{case}_training.*",), labels="manual/{case}_manual1.png")

    def fill(self, root: Path, names: dict[str, NDArray[np.uint8]] = MASKS) -> None:
        for name, mask in names.items():
            photo(root / f"photos/{name}_training.{'jpg' if name == 'a' else 'png'}")
            save(root / f"manual/{name}_manual1.png", mask)

    def test_files_are_found_by_their_names(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        photo(tmp_path / "photos/notes.png")
        assert_masks(masks_of(tmp_path, pairs=self.NAMES))

    def test_folders_become_underscores(self, tmp_path: Path) -> None:
        self.fill(tmp_path, {f"day{n}/{name}": mask for n in (1, 2) for name, mask in MASKS.items()})
        expected = {f"day{n}_{name}": mask for n in (1, 2) for name, mask in MASKS.items()}
        assert_masks(masks_of(tmp_path, pairs=self.NAMES, format="pairs"), expected)

    def test_images_and_masks_may_lie_in_one_folder(self, tmp_path: Path) -> None:
        for name, mask in MASKS.items():
            photo(tmp_path / f"{name}.jpg")
            save(tmp_path / f"{name}_gt.png", mask)
        assert_masks(masks_of(tmp_path, pairs=PairsConfig(images=("{case}.*",), labels="{case}_gt.*")))

    @pytest.mark.parametrize("labels", ["masks/{label}/{case}.png", "masks/{case}_{label}.png"])
    def test_each_structure_may_have_a_mask(self, tmp_path: Path, labels: str) -> None:
        for name, mask in MASKS.items():
            photo(tmp_path / f"images/{name}.png")
            for label in LABELS.foreground:
                if name != "c" or label.name == "road":
                    file = labels.replace("{label}", label.name).replace("{case}", name)
                    save(tmp_path / file, np.uint8(255) * (mask == label.values[0]))
        names = PairsConfig(images=("images/{case}.*",), labels=labels)
        assert_masks(masks_of(tmp_path, pairs=names))
        assert (
            "absent from their case: c."
            in read_manifest(tmp_path, options=DataConfig(pairs=names), channels=3).notes[0]
        )

    def test_channels_may_be_files(self, tmp_path: Path) -> None:
        for name, mask in MASKS.items():
            for channel in ("red", "nir"):
                save(tmp_path / f"{channel}/{name}.png", RNG.integers(0, 255, mask.shape, dtype=np.uint8))
            save(tmp_path / f"masks/{name}.png", mask)
        names = PairsConfig(images=("red/{case}.png", "nir/{case}.png"), labels="masks/{case}.png")
        manifest = read_manifest(tmp_path, channels=2, options=DataConfig(pairs=names))
        assert [path.parent.name for path in manifest.cases[0].images] == ["red", "nir"]
        (tmp_path / "nir/b.png").unlink()
        with pytest.raises(DatasetError, match="b: images: it has 1 of the 2 files"):
            read_manifest(tmp_path, channels=2, options=DataConfig(pairs=names))

    def test_a_region_belongs_to_every_case(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        inside = boxes(car=(0, 0, 12, 16))
        for name in MASKS:
            save(tmp_path / f"fov/{name}.png", inside)
        labels = LabelMap.from_mapping({**LABELS.to_mapping(), "ignore": 9})
        names = self.NAMES.model_copy(update={"region": "fov/{case}.png"})
        assert_masks(masks_of(tmp_path, labels, pairs=names), {k: np.where(inside, m, 9) for k, m in MASKS.items()})
        (tmp_path / "fov/c.png").unlink()
        assert problems(tmp_path, pairs=names) == ["c: region: there is no file fov/{case}.png (data.pairs.region)."]

    def test_images_without_masks_and_the_reverse_are_told(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        (tmp_path / "photos/a_training.jpg").unlink()
        (tmp_path / "manual/b_manual1.png").unlink()
        photo(tmp_path / "photos/c_training.jpg")
        text = "\n".join(problems(tmp_path, pairs=self.NAMES))
        assert "a_manual1.png: no image belongs to this mask; it would be photos/a_training.*." in text
        assert "b: label: there is no mask for" in text
        assert "c: files: photos/c_training.png and c_training.jpg both fit photos/{case}_training.*" in text

    def test_names_that_no_file_has_are_told(self, tmp_path: Path) -> None:
        assert "no image file has such a name" in problems(tmp_path, pairs=self.NAMES)[0]
        assert "does not say how the files are named" in problems(tmp_path, format="pairs")[0]


class TestFolders:
    def test_masks_may_lie_beside_their_images(self, tmp_path: Path) -> None:
        for name, mask in MASKS.items():
            photo(tmp_path / f"{name}.jpg")
            save(tmp_path / f"{name}_mask.png", mask)
        assert detect(tmp_path) == ("folders", tmp_path)
        assert_masks(masks_of(tmp_path))
        (tmp_path / "b_mask.png").unlink()
        assert problems(tmp_path) == [f"b: label: there is no mask for {tmp_path / 'b.jpg'}."]

    def test_a_folder_of_pictures_alone_is_no_data_set(self, tmp_path: Path) -> None:
        for name in ("a", "b", "a_seg"):
            photo(tmp_path / f"{name}.jpg")
        assert detect(tmp_path) is None

    def test_nested_folders_keep_their_place_in_the_id(self, tmp_path: Path) -> None:
        for name, mask in MASKS.items():
            for day in ("1", "2"):
                photo(tmp_path / f"images/day{day}/x/{name}.jpg")
                save(tmp_path / f"masks/day{day}/x/{name}_mask.png", mask)
        assert_masks(masks_of(tmp_path), {f"day{d}_x_{name}": mask for d in "12" for name, mask in MASKS.items()})
        (tmp_path / "masks/day1/x/a_mask.png").rename(tmp_path / "masks/day1/a_mask.png")
        text = "\n".join(problems(tmp_path))
        assert "day1_x_a: label: there is no mask" in text
        assert "day1/a_mask.png: no image in images belongs to this mask" in text


class TestTable:
    def write(self, root: Path, text: str) -> None:
        (root / "df.csv").write_text(text)

    def test_a_table_of_pandas_with_further_columns(self, tmp_path: Path) -> None:
        lines = [",images,masks,collages"]
        for number, (name, mask) in enumerate(MASKS.items()):
            photo(tmp_path / f"images/{name}.jpg")
            photo(tmp_path / f"collages/{name}.jpg")
            save(tmp_path / f"masks/{name}.png", mask)
            lines.append(f"{number},images/{name}.jpg,masks/{name}.png,collages/{name}.jpg")
        self.write(tmp_path, "\n".join(lines))
        assert_masks(masks_of(tmp_path))
        assert "column collages are not used" in read_manifest(tmp_path, channels=3).notes[0]

    @pytest.mark.parametrize(
        ("names", "kept"),
        [
            ("image_path,mask_path,site", {"site"}),
            ("file,target,labeler", {"labeler"}),
            ("image,mask,filename", {"filename"}),
            ("image,mask,labeler", {"labeler"}),
        ],
    )
    def test_what_other_columns_say_is_kept_and_no_channel(self, tmp_path: Path, names: str, kept: set[str]) -> None:
        photo(tmp_path / "a.jpg")
        save(tmp_path / "m.png", MASKS["b"])
        self.write(tmp_path, f"{names}\na.jpg,m.png,a.jpg\n")
        manifest = read_manifest(tmp_path, channels=3)
        assert_masks(masks_of(tmp_path), {"a": MASKS["b"]})
        assert dict(manifest.cases[0].extra) == dict.fromkeys(kept, "a.jpg")

    def test_a_misspelt_column_is_told_apart_from_a_further_one(self, tmp_path: Path) -> None:
        photo(tmp_path / "a.jpg")
        save(tmp_path / "m.png", MASKS["a"])
        self.write(tmp_path, "image,labell\na.jpg,m.png\n")
        assert any('Did you mean "label"?' in text for text in problems(tmp_path))

    @pytest.mark.parametrize("path", ["../../etc/passwd", "m/../../x.png", "..\\x.png"])
    def test_a_relative_path_that_leaves_the_folder_is_refused(self, tmp_path: Path, path: str) -> None:
        photo(tmp_path / "a.jpg")
        self.write(tmp_path, f"image,label\na.jpg,{path}\n")
        assert any(f"df.csv:2: path is {path}: a relative path must stay inside" in text for text in problems(tmp_path))

    def test_an_absolute_path_is_meant(self, tmp_path: Path) -> None:
        image, mask = photo(tmp_path / "far/a.jpg"), save(tmp_path / "far/m.png", MASKS["b"])
        (tmp_path / "set").mkdir()
        self.write(tmp_path / "set", f"image,label\n{image},{mask}\n")
        assert_masks(masks_of(tmp_path / "set"), {"a": MASKS["b"]})

    def test_regions_have_a_column(self, tmp_path: Path) -> None:
        photo(tmp_path / "a.jpg")
        save(tmp_path / "m.png", MASKS["b"])
        save(tmp_path / "r.png", boxes(car=(0, 0, 12, 16)))
        self.write(tmp_path, "image,label,region\na.jpg,m.png,r.png\n")
        labels = LabelMap.from_mapping({**LABELS.to_mapping(), "ignore": 9})
        assert (masks_of(tmp_path, labels)["a"][:, 12:] == 9).all()
        self.write(tmp_path, "image,label,region\na.jpg,m.png,gone.png\n")
        assert problems(tmp_path) == [f"a: region is {tmp_path / 'gone.png'}: there is no such file."]

    def test_all_that_is_wrong_with_the_files_is_told_case_by_case(self, tmp_path: Path) -> None:
        for name, mask in MASKS.items():
            photo(tmp_path / f"images/{name}.jpg")
            save(tmp_path / f"masks/{name}.png", mask)
        save(tmp_path / "masks/a.png", MASKS["a"][:8])
        save(tmp_path / "masks/b.png", MASKS["b"] * 5)
        (tmp_path / "images/c.jpg").write_bytes(b"")
        manifest = read_manifest(tmp_path, channels=3)
        with pytest.raises(DatasetError) as caught:
            check_cases(manifest.cases, LABELS, channels=3)
        a, b, c = (next(str(p) for p in caught.value.problems if p.where == name) for name in "abc")
        assert "it must lie on the grid of its image, but has shape 24x8 instead of 24x16" in a
        assert "it holds values 5, 10, which no label names" in b
        assert "it is empty (0 bytes)" in c


class TestVoc:
    LABELS = LabelMap.from_mapping({"background": 0, "car": 1, "road": 2, "ignore": 255})

    def fill(self, root: Path) -> None:
        for name, mask in MASKS.items():
            photo(root / f"JPEGImages/{name}.jpg")
            indices = Image.fromarray(np.where(np.arange(24) == 20, 255, mask).astype(np.uint8))
            indices.putpalette([(n * 37 + c * 91) % 256 for n in range(256) for c in range(3)])
            (root / "SegmentationClass").mkdir(exist_ok=True)
            indices.save(root / f"SegmentationClass/{name}.png")
        photo(root / "JPEGImages/boxes_only.jpg")

    def lists(self, root: Path, **names: str) -> None:
        (root / "ImageSets/Segmentation").mkdir(parents=True)
        for name, text in names.items():
            (root / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(text) + "\n")

    def test_indices_are_values_and_borders_are_ignored(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        expected = {name: np.where(np.arange(24) == 20, 255, mask) for name, mask in MASKS.items()}
        assert_masks(masks_of(tmp_path, self.LABELS), expected)
        manifest = read_manifest(tmp_path, channels=3)
        assert manifest.format == "voc"
        assert "left out: boxes_only." in manifest.notes[0]

    def test_lists_say_what_belongs_to_it_and_may_be_the_folds(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        self.lists(tmp_path, train="a", val="b")
        assert [(case.id, case.fold) for case in read_manifest(tmp_path)] == [("a", None), ("b", None)]
        told = read_manifest(tmp_path, options=DataConfig(lists=True))
        assert [(case.id, case.fold) for case in told] == [("a", 1), ("b", 0)]
        assert told.notes == ("Masks that stand in no list of ImageSets/Segmentation are left out: c.",)

    def test_what_lists_lack_or_say_twice_is_told(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        self.lists(tmp_path, train="ax", val="a", trainval="abx")
        text = "\n".join(problems(tmp_path, lists=True))
        assert "x: image: there is no such picture in JPEGImages" in text
        assert "train.txt and val.txt both list a." in text
        assert "neither train.txt nor val.txt lists b." in text

    def test_an_index_without_a_label_is_told(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        with pytest.raises(DatasetError, match="value 255, which no label names"):
            masks_of(tmp_path, LABELS)


def polygon(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


class TestCoco:
    def content(self) -> dict[str, Any]:
        def entry(picture: int, category: int, *place: int, **more: Any) -> dict[str, Any]:
            return {"image_id": picture, "category_id": category, "segmentation": polygon(*place), "iscrowd": 0, **more}

        return {
            "images": [{"id": n, "file_name": f"{x}.jpg", "width": 24, "height": 16} for n, x in enumerate("abc", 1)],
            "categories": [{"id": 3, "name": "Car"}, {"id": 9, "name": "road"}, {"id": 4, "name": "dog"}],
            "annotations": [
                entry(1, 3, 2, 2, 9, 7), entry(1, 4, 0, 0, 2, 2), entry(2, 9, 0, 8, 24, 16),
                entry(2, 3, 3, 4, 10, 12), entry(3, 9, 1, 1, 5, 5),
            ],
        }  # fmt: skip

    def write(self, root: Path, content: dict[str, Any], name: str = "annotations/instances_train.json") -> Path:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    def fill(self, root: Path) -> None:
        for name in MASKS:
            photo(root / f"train/{name}.jpg")

    LABELS = LabelMap.from_mapping({"background": 0, "road": 2, "car": 1})

    def test_polygons_are_drawn_and_categories_are_labels_by_name(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        path = self.write(tmp_path, self.content())
        assert_masks(masks_of(tmp_path, self.LABELS))
        assert_masks(masks_of(path, self.LABELS))
        manifest = read_manifest(tmp_path, channels=3)
        assert manifest.label_names == {"background": 0, "Car": 3, "road": 9, "dog": 4}

    def test_a_picture_without_annotations_is_background(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        content = self.content()
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != 3]
        self.write(tmp_path, content)
        assert_masks(masks_of(tmp_path, self.LABELS), MASKS | {"c": boxes()})

    def test_a_crowd_is_ignored_where_there_is_such_a_label(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        content = self.content()
        content["annotations"][4] |= {"iscrowd": 1, "segmentation": {"size": [16, 24], "counts": [0, 160, 224]}}
        self.write(tmp_path, content)
        ignoring = LabelMap.from_mapping({**self.LABELS.to_mapping(), "ignore": 255})
        assert_masks(masks_of(tmp_path, ignoring), MASKS | {"c": boxes(car=(0, 0, 10, 16)) * 255})
        assert_masks(masks_of(tmp_path, self.LABELS), MASKS | {"c": boxes(road=(0, 0, 10, 16))})

    def test_the_hash_of_a_case_is_that_of_its_annotations(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        self.write(tmp_path, self.content())
        before = [fingerprint(case) for case in read_manifest(tmp_path, channels=3)]
        content = self.content()
        content["annotations"][0]["segmentation"] = polygon(2, 2, 9, 8)
        content["info"] = "changed"
        self.write(tmp_path, content)
        after = [fingerprint(case) for case in read_manifest(tmp_path, channels=3)]
        assert [a == b for a, b in zip(before, after, strict=True)] == [False, True, True]

    def test_what_is_wrong_with_the_listing_is_told(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        photo(tmp_path / "val/a.jpg")
        content = self.content()
        content["annotations"] += [
            {"image_id": 99, "category_id": 3, "segmentation": polygon(1, 1, 2, 2)},
            {"image_id": 1, "category_id": 77, "segmentation": polygon(1, 1, 2, 2)},
            {"image_id": 1, "category_id": 3, "bbox": [1, 1, 2, 2]},
        ]
        content["images"] += [
            {"id": 4, "file_name": "gone.jpg"},
            {"id": 2, "file_name": "b.jpg"},
            {"id": 5, "file_name": "../../etc/x.png"},
        ]
        self.write(tmp_path, content)
        text = "\n".join(problems(tmp_path))
        for words in (
            "images[0]: file_name is a.jpg", "Set data.images.", "no picture has the id 99", "annotations[6]",
            "annotations[7]: segmentation: it has a box", "gone.jpg", "images[4]", "must stay inside the folder",
        ):  # fmt: skip
            assert words in text

    def test_the_folder_of_the_pictures_may_be_named(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        photo(tmp_path / "val/a.jpg")
        path = self.write(tmp_path, self.content(), "train.json")
        assert_masks(masks_of(path, self.LABELS, images="train"))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"segmentation": polygon(2, 2, 30, 7)}, "annotations[0]: the corner (30, 2) lies outside"),
            ({"segmentation": {"size": [24, 16], "counts": [384]}}, "annotations[0]: its size is"),
        ],
    )
    def test_what_cannot_be_drawn_is_a_problem_of_its_case(
        self, tmp_path: Path, change: dict[str, Any], words: str
    ) -> None:
        self.fill(tmp_path)
        content = self.content()
        content["annotations"][0] |= change
        self.write(tmp_path, content)
        with pytest.raises(DatasetError) as caught:
            check_cases(read_manifest(tmp_path, channels=3).cases, self.LABELS, channels=3)
        (problem,) = caught.value.problems
        assert (problem.where, problem.what) == ("a", "label")
        assert words in problem.rule

    def test_a_picture_of_another_size_than_is_stated_is_refused(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.open(photo(tmp_path / "x.png")).save(tmp_path / "train/b.jpg", exif=exif)
        self.write(tmp_path, self.content())
        with pytest.raises(
            DatasetError, match=r"states 24x16 pixels, and the picture has 16x24\. It is turned by its EXIF"
        ):
            masks_of(tmp_path, self.LABELS)


ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just([]) | st.just({})
ENTRIES = st.lists(
    ANY
    | st.dictionaries(
        st.sampled_from(
            ["id", "file_name", "width", "height", "name", "image_id", "category_id", "segmentation", "iscrowd"]
        ),
        ANY | st.sampled_from([1, "a.jpg", [[0, 0, 1, 0, 1, 1]], {"counts": "0", "size": [16, 24]}]),
    ),
    max_size=3,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)
@given(st.fixed_dictionaries({"images": ENTRIES, "annotations": ENTRIES, "categories": ENTRIES}))
def test_any_json_ends_in_cases_or_in_an_error_that_is_meant(tmp_path: Path, content: dict[str, Any]) -> None:
    photo(tmp_path / "a.jpg")
    path = tmp_path / "any.json"
    path.write_text(json.dumps(content))
    with suppress(MedunetError):
        check_cases(read_manifest(path, channels=3).cases, LABELS, channels=3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)
@given(st.text(alphabet='ab.jpg/\\,"\n 019-\0é', max_size=60))
def test_any_table_of_runs_ends_in_cases_or_in_an_error_that_is_meant(tmp_path: Path, text: str) -> None:
    photo(tmp_path / "a.jpg")
    path = tmp_path / "any.csv"
    path.write_text("ImageId,EncodedPixels\n" + text)
    with suppress(MedunetError):
        check_cases(read_manifest(path, channels=3).cases, TestRuns.CAR, channels=3)


def runs(mask: NDArray[Any], order: str = "columns") -> str:
    """Runs down the columns of a mask (rows, columns), or along its rows."""
    flat = np.pad(mask.ravel(order="F" if order == "columns" else "C").astype(int), 1)
    edges = np.flatnonzero(np.diff(flat)).reshape(-1, 2)
    return " ".join(f"{start + 1} {stop - start}" for start, stop in edges)


class TestRuns:
    CAR = LabelMap.from_mapping({"background": 0, "car": 1})

    def fill(self, root: Path, lines: list[str], names: str = "abc") -> None:
        for name in names:
            photo(root / f"train/{name}.jpg")
        (root / "masks.csv").write_text("\n".join(lines) + "\n")

    @pytest.mark.parametrize("header", ["ImageId,EncodedPixels", "img,rle_mask"])
    def test_rows_of_a_picture_are_united_and_an_empty_cell_is_an_empty_mask(self, tmp_path: Path, header: str) -> None:
        one, other = boxes(car=(2, 2, 9, 7)), boxes(car=(12, 3, 20, 9))
        self.fill(tmp_path, [header, f"a.jpg,{runs(one)}", "c.jpg,", f"b.jpg,{runs(one)}", f"b.jpg,{runs(other)}"])
        assert_masks(masks_of(tmp_path, self.CAR), {"a": one, "b": one | other, "c": boxes()})
        assert read_manifest(tmp_path, channels=3).format == "rle"

    def test_columns_may_be_named_and_a_label_may_be_a_name_or_a_value(self, tmp_path: Path) -> None:
        lines = ["picture,what,pixels"]
        for name, mask in MASKS.items():
            lines += [f"{name},{what},{runs(mask == value)}" for what, value in (("car", 1), ("2", 2))]
        self.fill(tmp_path, lines)
        columns = RleConfig(image="picture", runs="pixels", label="what")
        assert_masks(masks_of(tmp_path, LABELS, format="rle", rle=columns))

    def test_without_a_column_for_it_there_is_one_structure(self, tmp_path: Path) -> None:
        self.fill(tmp_path, ["ImageId,EncodedPixels", *(f"{name},1 3" for name in "abc")])
        with pytest.raises(DatasetError, match="names no structures, and there are 2 labels"):
            masks_of(tmp_path, LABELS)

    @pytest.mark.parametrize(
        ("cell", "words"),
        [
            ("1 2 3", "masks.csv:3: runs are pairs of start and length, and there are 3 numbers."),
            ("380 9", "masks.csv:3: it reaches pixel 388, but the picture has 24 x 16 = 384"),
            ("9 3 1 2", "masks.csv:3: runs must be sorted"),
        ],
    )
    def test_what_cannot_be_drawn_is_a_problem_of_its_case_with_the_row(
        self, tmp_path: Path, cell: str, words: str
    ) -> None:
        self.fill(tmp_path, ["ImageId,EncodedPixels", "a.jpg,1 9", f"b.jpg,{cell}", "c.jpg,"])
        with pytest.raises(DatasetError) as caught:
            check_cases(read_manifest(tmp_path, channels=3).cases, self.CAR, channels=3)
        (problem,) = caught.value.problems
        assert problem.where == "b"
        assert problem.rule.startswith(words)

    def test_what_is_wrong_with_the_listing_is_told(self, tmp_path: Path) -> None:
        self.fill(tmp_path, ["ImageId,EncodedPixels", "a.jpg,1 9", "x.jpg,", "../b.jpg,1 2"])
        photo(tmp_path / "test/a.jpg")
        text = "\n".join(problems(tmp_path))
        assert "masks.csv:2: image is a.jpg" in text
        assert "both have this name. Set data.images." in text
        assert "no such pictures below" in text
        assert "masks.csv:4: image is ../b.jpg" in text

    def test_pictures_without_a_row_are_told(self, tmp_path: Path) -> None:
        self.fill(tmp_path, ["ImageId,EncodedPixels", "a.jpg,1 9"])
        (problem,) = problems(tmp_path)
        assert problem.startswith("masks.csv: it has no row for the pictures b, c.")
        assert "set data.rle.unlisted to empty" in problem

    def test_pictures_without_a_row_may_be_empty(self, tmp_path: Path) -> None:
        one = boxes(car=(2, 2, 9, 7))
        self.fill(tmp_path, ["ImageId,EncodedPixels", f"b.jpg,{runs(one)}"])
        options = DataConfig(rle=RleConfig(unlisted="empty"))
        assert_masks(masks_of(tmp_path, self.CAR, rle=options.rle), {"a": boxes(), "b": one, "c": boxes()})
        notes = read_manifest(tmp_path, channels=3, options=options).notes
        assert "Pictures without a row in masks.csv are taken for empty (data.rle.unlisted): a, c." in notes

    def test_a_missing_column_is_told_with_those_that_are_there(self, tmp_path: Path) -> None:
        self.fill(tmp_path, ["ImageId,EncodedPixels", "a.jpg,1 9"])
        (problem,) = problems(tmp_path, rle=RleConfig(runs="mask"))
        assert "masks.csv:1: data.rle.runs: there is no column mask; the columns are ImageId, EncodedPixels." in problem

    def test_runs_longer_than_a_usual_cell_are_read(self, tmp_path: Path) -> None:
        dots = np.zeros((600, 600), np.uint8)
        dots[::2] = 1
        text = runs(dots)
        assert len(text) > 200_000 * 4
        save(tmp_path / "a.png", RNG.integers(0, 255, (600, 600, 3), dtype=np.uint8))
        (tmp_path / "masks.csv").write_text(f"ImageId,EncodedPixels\na.png,{text}\n")
        assert_masks(masks_of(tmp_path, self.CAR), {"a": dots})


class TestOrderOfRuns:
    """192 x 128 pixels have the shape of Carvana's 1918 x 1280."""

    CAR = TestRuns.CAR

    def ellipses(self, width: int = 192, height: int = 128, count: int = 3) -> dict[str, NDArray[np.uint8]]:
        y, x = np.mgrid[:height, :width]
        return {
            f"car_{n}": (((x - 90 - n % 7) / 60) ** 2 + ((y - 60) / 35) ** 2 < 1).astype(np.uint8) for n in range(count)
        }

    def fill(self, root: Path, masks: dict[str, NDArray[np.uint8]], *orders: str) -> None:
        """Each picture with the next of the orders."""
        lines = ["img,rle_mask"]
        for number, (name, mask) in enumerate(masks.items()):
            save(root / f"train/{name}.png", np.stack([mask * 255] * 3, axis=-1))
            lines.append(f"{name}.png,{runs(mask, orders[number % len(orders)])}")
        (root / "masks.csv").write_text("\n".join(lines) + "\n")

    def notes(self, root: Path, order: str = "auto") -> tuple[str, ...]:
        options = DataConfig.model_validate({"rle": {"order": order}})
        return read_manifest(root, channels=3, options=options, log_notes=False).notes

    @pytest.mark.parametrize(("order", "words"), [("columns", "down the columns"), ("rows", "along the rows")])
    @pytest.mark.parametrize("size", [(192, 128), (128, 192)])
    def test_the_order_is_found(self, tmp_path: Path, order: str, words: str, size: tuple[int, int]) -> None:
        masks = self.ellipses(*size)
        self.fill(tmp_path, masks, order)
        assert_masks(masks_of(tmp_path, self.CAR), masks)
        (note,) = self.notes(tmp_path)
        assert f"The runs in masks.csv are counted {words}" in note
        assert list(describe(tmp_path).notes) == [note]

    def test_the_order_is_that_of_the_whole_table(self, tmp_path: Path) -> None:
        dot = np.zeros((128, 192), np.uint8)
        dot[30, 40:50] = 1  # one run, which tells nothing by itself
        masks = {**self.ellipses(count=40), "dot": dot}
        self.fill(tmp_path, masks, "rows")
        assert_masks(masks_of(tmp_path, self.CAR), masks)
        assert "along the rows (data.rle.order): in 14 pictures" in self.notes(tmp_path)[0]

    @pytest.mark.parametrize("order", ["columns", "rows"])
    def test_an_order_that_is_set_is_taken(self, tmp_path: Path, order: str) -> None:
        masks = self.ellipses(128, 128)
        self.fill(tmp_path, masks, order)
        assert_masks(masks_of(tmp_path, self.CAR, rle=RleConfig.model_validate({"order": order})), masks)
        assert self.notes(tmp_path, order) == ()

    def test_against_what_the_masks_look_like_too(self, tmp_path: Path) -> None:
        masks = self.ellipses()
        self.fill(tmp_path, masks, "rows")
        found = masks_of(tmp_path, self.CAR, rle=RleConfig(order="columns"))
        assert runs(found["car_0"]) == runs(masks["car_0"], "rows")

    def test_square_pictures_are_counted_down_the_columns_and_a_note_says_that_nothing_tells(
        self, tmp_path: Path
    ) -> None:
        masks = self.ellipses(128, 128)
        self.fill(tmp_path, masks, "columns")
        assert_masks(masks_of(tmp_path, self.CAR), masks)
        assert "nothing in the table tells (data.rle.order)" in self.notes(tmp_path)[0]

    def test_bands_across_the_picture_do_not_hide_the_order(self, tmp_path: Path) -> None:
        """Whole lines have the shorter edges if they are taken for columns of a picture that is wider than high."""
        mask = np.zeros((128, 192), np.uint8)
        mask[40:45] = mask[90:95] = mask[60:70, 100:110] = 1
        masks = {"street": mask}
        self.fill(tmp_path, masks, "rows")
        assert_masks(masks_of(tmp_path, self.CAR), masks)

    def test_specks_tell_nothing(self, tmp_path: Path) -> None:
        masks = {f"dust_{n}": (np.random.default_rng(n).random((128, 192)) > 0.9).astype(np.uint8) for n in range(3)}
        self.fill(tmp_path, masks, "columns")
        assert_masks(masks_of(tmp_path, self.CAR), masks)
        assert "nothing in the table tells" in self.notes(tmp_path)[0]

    def test_objects_wider_than_the_picture_is_high_tell_the_order(self, tmp_path: Path) -> None:
        masks = {name: mask[40:80] for name, mask in self.ellipses().items()}
        self.fill(tmp_path, masks, "rows")
        assert_masks(masks_of(tmp_path, self.CAR), masks)

    def test_pictures_that_disagree_are_refused(self, tmp_path: Path) -> None:
        self.fill(tmp_path, self.ellipses(count=4), "rows", "columns")
        (problem,) = problems(tmp_path)
        assert problem.startswith(
            "masks.csv: data.rle.order is auto: the masks of car_1.png, car_3.png hang together if runs are counted "
            "down the columns, and those of car_0.png, car_2.png if they are counted along the rows"
        )
        assert "Set it to columns or rows" in problem
        assert not self.notes(tmp_path, "rows")

    def test_one_odd_picture_among_many_does_not_count(self, tmp_path: Path) -> None:
        self.fill(tmp_path, self.ellipses(count=10), *["rows"] * 9, "columns")
        assert "along the rows" in self.notes(tmp_path)[0]

    def test_rows_and_pictures_that_cannot_be_read_are_left_to_the_checks(self, tmp_path: Path) -> None:
        masks = self.ellipses(count=5)
        self.fill(tmp_path, masks, "rows")
        table = (tmp_path / "masks.csv").read_text().splitlines()
        table[1], table[2] = "car_0.png,9 3 1 2", "car_1.png,24000 100 24570 100"
        (tmp_path / "masks.csv").write_text("\n".join(table))
        (tmp_path / "train/car_2.png").write_bytes(b"no picture")
        assert "along the rows (data.rle.order): in 2 pictures" in self.notes(tmp_path)[0]

    @pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
    def test_the_size_is_that_of_the_picture_as_it_is_shown(self, tmp_path: Path, ending: str) -> None:
        masks = self.ellipses(128, 192)
        self.fill(tmp_path, masks, "rows")
        for name in masks:
            (tmp_path / f"train/{name}.png").unlink()
            turn = Image.Exif()
            turn[0x0112] = 6
            stored = Image.fromarray(RNG.integers(0, 255, (128, 192, 3), dtype=np.uint8))
            stored.save(tmp_path / f"train/{name}.{ending}", exif=turn)
        table = tmp_path / "masks.csv"
        table.write_text(table.read_text().replace(".png", f".{ending}"))
        assert_masks(masks_of(tmp_path, self.CAR), masks)


@pytest.mark.parametrize("layout", ["voc", "coco", "rle"])
def test_a_data_set_says_what_it_is(tmp_path: Path, layout: str) -> None:
    if layout == "voc":
        TestVoc().fill(tmp_path)
    elif layout == "coco":
        TestCoco().fill(tmp_path)
        TestCoco().write(tmp_path, TestCoco().content())
    else:
        TestRuns().fill(tmp_path, ["ImageId,EncodedPixels", "a.jpg,1 9", "b.jpg,", "c.jpg,"])
    found = describe(tmp_path)
    assert (found.kind, found.facts["format"], found.facts["cases"]) == ("dataset", layout, 3)
    assert not found.problems


@pytest.mark.data
@pytest.mark.parametrize(("folder", "cases"), [("people", 232), ("retina", 20)])
def test_real_photographs_and_their_masks_are_read(folder: str, cases: int) -> None:
    root = Path(__file__).resolve().parents[2] / "../shared/data" / folder
    if not root.is_dir():
        pytest.skip(f"{root} is absent")
    names = PairsConfig(
        images=("images/{case}_training.png",),
        labels="1st_manual/{case}_manual1.png",
        region="mask/{case}_training_mask.png",
    )
    options = DataConfig(pairs=names if folder == "retina" else None)
    manifest = read_manifest(root, channels=3, options=options)
    assert len(manifest) == cases
    case, labels = manifest.cases[0], LabelMap.from_mapping({"background": 0, "structure": 255, "ignore": 7})
    truth = read_case_label(case, read_case_image(case, channels=3), labels)
    assert set(np.unique(truth.values)) == ({0, 7, 255} if folder == "retina" else {0, 255})
