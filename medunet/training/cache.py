"""Preprocessed cases on disk: one folder per case, written once, read in blocks through memory maps.

The folder's name carries a key of everything that decides its content: path, size and modification time of the
files, the `preprocess:` section, the labels, and the versions of the chain. A changed setting or file gets
another key and can never hit an old entry. (MONAI's PersistentDataset hashes neither transforms nor content.)
The weight map of `boundary_weighted_ce` lies beside the label it was made from, in a file named after its options, so
that a run that adds the term or changes it finds the image and the label as they are.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

from medunet.atomic import atomic_file, atomic_folder
from medunet.config.losses import BoundaryWeightedConfig
from medunet.config.schema import PreprocessConfig
from medunet.errors import DataError, DatasetError
from medunet.io.case import Case, Drawn
from medunet.io.labelled import read_case_image, read_case_label
from medunet.labels import LabelMap
from medunet.training.blocks import BlockedArray, block_limit, to_blocks
from medunet.transforms.border_weights import BORDER_VERSION, border_weights
from medunet.transforms.preprocess import PREPROCESS_VERSION, Record, preprocess, preprocess_labels

CACHE_VERSION = 4
IMAGE, LABEL = "image.npy", "label.npy"
KNOWN = 0
"""Where `CachedCase.locations` has a structure's index: voxels of a case with ignored ones that are not."""
_LOCATIONS = 10_000


@dataclass(frozen=True)
class CachedCase:
    """A preprocessed case, opened lazily.

    Attributes:
        id: case id.
        folder: where its arrays lie.
        record: what preprocessing did.
        weights: name of the file with the weight map; None where no loss term needs one.
        resident: what `held` has read into memory, by name of the file.
    """

    id: str
    folder: Path
    record: Record
    weights: str | None = None
    resident: Mapping[str, NDArray[Any]] = field(default_factory=dict, compare=False, repr=False)

    def image(self) -> NDArray[np.float32]:
        """(C, *S) float32."""
        return self.blocks(IMAGE).whole()

    def label(self) -> NDArray[np.generic]:
        """(*S) indices on the network's grid."""
        result: NDArray[np.generic] = self.blocks(LABEL).whole()[0]
        return result

    def weight(self) -> NDArray[np.float32] | None:
        """(*S) float32, the weight map on the network's grid; None without one."""
        return None if self.weights is None else self.blocks(self.weights).whole()[0]

    def blocks(self, name: str) -> BlockedArray:
        """`IMAGE`, `LABEL` or `weights` as (C, *S), C = 1 but for images; a box of it can be read without the rest.

        Raises:
            DataError: the file is gone or damaged.
        """
        blocks = self.resident[name] if name in self.resident else self._load(name)
        try:
            return BlockedArray(blocks, self.record.network.shape)
        except (ValueError, TypeError) as error:
            raise self._damaged(error) from error

    def held(self) -> CachedCase:
        """The same case with its arrays in memory."""
        return replace(self, resident={name: np.array(self._load(name)) for name in self._blocked})

    @property
    def nbytes(self) -> int:
        """What `held` takes."""
        return sum((self.folder / name).stat().st_size for name in self._blocked)

    @property
    def _blocked(self) -> tuple[str, ...]:
        """Files of the arrays that are read in blocks."""
        return (IMAGE, LABEL) if self.weights is None else (IMAGE, LABEL, self.weights)

    def reference(self) -> NDArray[np.generic]:
        """(*spatial) indices on the original grid, as the mask was read."""
        result: NDArray[np.generic] = self._load("reference.npz")["reference"]
        return result

    def locations(self) -> dict[int, NDArray[np.int32]]:
        """Up to 10,000 random voxels (n, rank) per structure present, on the network's grid; see `_locations`.

        Where voxels are ignored there are, under `KNOWN`, as many of the others, background included.
        """
        return {int(key): value for key, value in self._load("locations.npz").items()}

    def _load(self, name: str) -> Any:
        """An array, or all arrays of an archive.

        Raises:
            DataError: the file is gone or damaged.
        """
        try:
            if name.endswith(".npy"):
                return np.load(self.folder / name, mmap_mode="r")
            with open(self.folder / name, "rb") as handle, np.load(handle) as data:
                return dict(data)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DataError:
        return DataError(
            f"The preprocessed case {self.folder} cannot be read: {error}.",
            "Remove that folder and go on with --resume; it is made again.",
        )


def case_key(
    case: Case, config: PreprocessConfig, labels: LabelMap, channels: int | None = None, *, flat: bool = False
) -> str:
    """SHA-256 (first 16 hex digits) of all that decides the preprocessed arrays of a case."""
    files: list[dict[str, Any]] = []
    for path in case.files:
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in inside:
            stat = file.stat()
            files.append({"path": str(file.resolve()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns})
    content = {
        "files": files,
        "preprocess": config.model_dump(mode="json"),
        "labels": list(labels.to_mapping().items()),  # in order: it decides the indices
        "channels": channels,
        "flat": flat,
        "drawn": case.label.text if isinstance(case.label, Drawn) else None,
        "region": case.region is not None,
        "reading": asdict(case.reading),
        "versions": [CACHE_VERSION, PREPROCESS_VERSION, np.__version__, scipy.__version__, torch.__version__],
    }
    if case.selection.rules is not None:
        content["series"] = case.selection.rules.model_dump(mode="json")
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def prepare_case(
    case: Case,
    folder: Path,
    config: PreprocessConfig,
    labels: LabelMap,
    channels: int | None = None,
    *,
    flat: bool = False,
) -> CachedCase:
    """Preprocess a labelled case into `folder`, or find it there.

    Args:
        case: with a mask.
        folder: of the cache.
        config: how images are preprocessed.
        labels: names, values and indices.
        channels: channels that are expected, for pictures that may be stored grey or in colour.
        flat: blocks for a network that sees volumes slice by slice.

    Raises:
        DataError: the case cannot be read or does not fit.
        OutputError: the cache cannot be written.
    """
    if case.label is None:
        raise DatasetError(f"Case {case.id} has no label.", "Training needs a mask for every case.")
    target = _target(case, folder, config, labels, channels, flat=flat)
    cached = _find(case.id, target)
    if cached is not None:
        return cached
    volume = read_case_image(case, channels=channels)
    image, record = preprocess(volume, config)
    reference = labels.to_indices(read_case_label(case, volume, labels).values)
    label = preprocess_labels(reference, record)
    limit = block_limit(label.ndim, flat=flat)
    with atomic_folder(target) as part:
        np.save(part / IMAGE, to_blocks(image, limit))
        np.save(part / LABEL, to_blocks(label[None], limit))
        np.savez_compressed(part / "reference.npz", reference=reference)
        np.savez(part / "locations.npz", **_locations(label, labels, case.id))  # type: ignore[arg-type]
        (part / "record.json").write_text(json.dumps(record.to_dict()), encoding="utf-8")
    return CachedCase(case.id, target, record)


def lacking(
    cases: Sequence[Case],
    folder: Path,
    config: PreprocessConfig,
    labels: LabelMap,
    channels: int | None = None,
    *,
    flat: bool = False,
) -> list[str]:
    """Ids of the cases that `prepare_case` would not find in the cache."""
    targets = {case.id: _target(case, folder, config, labels, channels, flat=flat) for case in cases}
    return [name for name, target in targets.items() if _find(name, target) is None]


def _target(
    case: Case, folder: Path, config: PreprocessConfig, labels: LabelMap, channels: int | None, *, flat: bool
) -> Path:
    """Where a case lies in a cache."""
    return folder / f"{_safe(case.id)}-{case_key(case, config, labels, channels, flat=flat)}"


def _find(case_id: str, target: Path) -> CachedCase | None:
    """The case in `target`, if it is there and whole."""
    try:
        record = Record.from_dict(json.loads((target / "record.json").read_text(encoding="utf-8")))
        cached = CachedCase(case_id, target, record)
        whole = cached.blocks(IMAGE).shape[1:] == cached.blocks(LABEL).shape[1:]
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None
    return cached if whole else None


def prepare_cases(
    cases: Sequence[Case],
    folder: Path,
    config: PreprocessConfig,
    labels: LabelMap,
    *,
    channels: int | None = None,
    flat: bool = False,
    progress: Any = None,
) -> list[CachedCase]:
    """Preprocess all cases; `progress(done, total)` is called after each."""
    result = []
    for done, case in enumerate(cases, start=1):
        result.append(prepare_case(case, folder, config, labels, channels, flat=flat))
        if progress is not None:
            progress(done, len(cases))
    return result


def resident(cases: Sequence[CachedCase], wish: str, free: int) -> list[CachedCase]:
    """The cases with their arrays in memory, or to be read from the disk.

    Args:
        cases: preprocessed.
        wish: "ram", "disk", or "auto": in memory if they fill no more than half of what is free.
        free: bytes of memory that can be taken.
    """
    needed = sum(case.nbytes for case in cases)
    if wish == "disk" or (wish == "auto" and needed > free / 2):
        return list(cases)
    return [case.held() for case in cases]


def prepare_weights(
    cases: Sequence[CachedCase], labels: LabelMap, options: BoundaryWeightedConfig, *, progress: Any = None
) -> list[CachedCase]:
    """Compute the weight maps of preprocessed cases, or find them; `progress(done, total)` is called after each.

    Raises:
        DataError: a case cannot be read.
        OutputError: the cache cannot be written.
    """
    name = f"weight-{_weights_key(options)}.npy"
    result = []
    for done, case in enumerate(cases, start=1):
        weighted = replace(case, weights=name)
        if not _has_weights(weighted):
            weight = border_weights(case.label(), labels, options)
            limit = case.blocks(LABEL).limit
            with atomic_file(case.folder / name) as part:
                np.save(part, to_blocks(weight[None], limit))
        result.append(weighted)
        if progress is not None:
            progress(done, len(cases))
    return result


def _weights_key(options: BoundaryWeightedConfig) -> str:
    """All that decides the weight map of a label; the factor of the loss term does not."""
    content = [BORDER_VERSION, options.w0, options.sigma, options.balance, options.cells]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _has_weights(case: CachedCase) -> bool:
    """Whether the weight map is there and whole."""
    try:
        case.blocks(case.weights or "")
    except DataError:
        return False
    return True


def _locations(label: NDArray[np.generic], labels: LabelMap, case_id: str) -> dict[str, NDArray[np.int32]]:
    """A bounded random sample of the voxels of every structure, and of the known ones where some are not.

    The same for the same case id. A structure's voxels are those of the structures inside of it, too; ignored voxels
    belong to none.
    """
    seed = int.from_bytes(hashlib.sha256(case_id.encode()).digest()[:4], "little")
    rng = np.random.default_rng(seed)
    result: dict[str, NDArray[np.int32]] = {}
    for index in range(1, len(labels)):
        members = np.flatnonzero(labels.membership[index])
        result[str(index)] = _sample(np.logical_or.reduce([label == member for member in members]), rng)
    if labels.ignore:
        known = label != labels.ignore_index
        if not known.all():
            result[str(KNOWN)] = _sample(known, rng)
    return {key: voxels for key, voxels in result.items() if len(voxels) > 0}


def _sample(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int32]:
    """The voxels (n, rank) of a mask, or as many of them as are kept."""
    flat = np.flatnonzero(mask)
    if flat.size > _LOCATIONS:
        flat = np.sort(rng.choice(flat, _LOCATIONS, replace=False))
    return np.stack(np.unravel_index(flat, mask.shape), axis=1).astype(np.int32)


def _safe(case_id: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in case_id)[:80]
