"""Which layout a folder, JSON file or CSV has, by what lies in it: `detect`."""

from __future__ import annotations

from pathlib import Path

from medunet.errors import DatasetError, UsageError
from medunet.io.layouts.coco import coco_files, is_coco
from medunet.io.layouts.dataset_json import is_path, load_json, resolve
from medunet.io.layouts.folders import find_pair, holds_pairs
from medunet.io.layouts.rle import is_rle
from medunet.io.layouts.studies import holds_studies
from medunet.io.layouts.voc import is_voc

_FILES = ("decathlon", "nnunet", "csv", "rle", "coco")
"""Layouts that are listed in a file."""


def detect(root: Path) -> tuple[str, Path] | None:
    """Layout of `root` and the file or folder that its reader takes; None if it looks like no data set.

    Args:
        root: the folder, its JSON file or its CSV.

    Raises:
        DatasetError: a `dataset.json` that is no JSON object, or several CSV files and nothing else.
    """
    if root.is_file():
        return _by_ending(root)
    if (root / "dataset.json").is_file():
        return _json_layout(root / "dataset.json")
    return _by_folders(root) or _by_lists(root) or _by_files(root)


def _by_ending(file: Path) -> tuple[str, Path] | None:
    suffix = file.suffix.lower()
    if suffix == ".json":
        return _json_layout(file)
    return _table_layout(file) if suffix in (".csv", ".tsv") else None


def _by_folders(root: Path) -> tuple[str, Path] | None:
    """Layouts that have folders of known names; images/ and labels/ come after a table that lists what is in them."""
    images, labels = find_pair(root)
    paired = images is not None and labels is not None
    if is_voc(root):
        return "voc", root
    if paired and (images == root / "imagesTr" or len(_tables(root)) != 1):
        return "folders", root
    return None


def _by_lists(root: Path) -> tuple[str, Path] | None:
    """Layouts that one of several files may list."""
    tables = _tables(root)
    if len(tables) == 1:
        return _table_layout(tables[0])
    for what, files in {"JSON files as of COCO": coco_files(root), "tables": tables}.items():
        if len(files) > 1:
            names = ", ".join(path.name for path in files)
            hint = "Give the path of the one that lists the cases."
            raise DatasetError(f"{root} holds several {what}: {names}.", hint)
        if files:
            return "coco", files[0]
    return None


def _by_files(root: Path) -> tuple[str, Path] | None:
    """Layouts that files and folders have by themselves."""
    if holds_pairs(root):
        return "folders", root
    return ("dicom", root) if holds_studies(root) else None


def _tables(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*.csv") if path.is_file() and not path.name.startswith("."))


def _table_layout(file: Path) -> tuple[str, Path]:
    return ("rle" if is_rle(file) else "csv"), file


def _json_layout(file: Path) -> tuple[str, Path] | None:
    data = load_json(file)
    if is_coco(data):
        return "coco", file
    if "file_ending" in data or "channel_names" in data or isinstance(data.get("dataset"), dict):
        return "nnunet", file
    if "training" not in data:
        return None
    entries = data["training"]
    first = entries[0] if isinstance(entries, list) and entries else None
    image = first.get("image") if isinstance(first, dict) else None
    if is_path(image) and str(image).endswith(".nii.gz"):
        # nnU-Net v1 lists CASE.nii.gz but stores CASE_0000.nii.gz
        path = resolve(file.parent, str(image))
        if not path.exists() and path.with_name(path.name[:-7] + "_0000.nii.gz").exists():
            return "nnunet", file
    return "decathlon", file


def locate(root: Path, layout: str) -> tuple[str, Path]:
    """Layout and input of its reader, as asked for or detected.

    Args:
        root: the data set.
        layout: "auto", or the layout, which is known.

    Raises:
        UsageError: there is no such file or folder.
        DatasetError: it is not laid out like that, or looks like no data set.
    """
    if not root.exists():
        raise UsageError(f"There is no file or folder {root}.", "Check the path of the data set (data.root, --data).")
    if layout == "auto":
        found = detect(root)
        if found is None:
            raise DatasetError(
                f"{root} looks like no data set.",
                "Known are dataset.json (Decathlon, nnU-Net), a CSV with the columns image and label or with runs, the "
                "folders images and labels (or masks, or imagesTr and labelsTr), x.jpg beside x_mask.png, PASCAL VOC, "
                "COCO, and folders of DICOM images, each with a segmentation or structure set. For other names of "
                "files set data.pairs.",
            )
        return found
    if layout not in _FILES:
        return layout, root if root.is_dir() else root.parent
    if root.is_file():
        return layout, root
    if layout in ("csv", "rle", "coco"):
        files = coco_files(root) if layout == "coco" else _tables(root)
        if len(files) != 1:
            kind = "JSON files as of COCO" if layout == "coco" else "CSV files"
            raise DatasetError(
                f"{root} holds {len(files)} {kind}; one is needed.", "Give the path of the one that lists the cases."
            )
        return layout, files[0]
    if not (root / "dataset.json").is_file():
        raise DatasetError(f"{root} holds no dataset.json.", "Give the path of the JSON file, or another data.format.")
    return layout, root / "dataset.json"
