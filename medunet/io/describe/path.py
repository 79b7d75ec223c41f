"""Finds out what kind of thing a path is, and has it described."""

from __future__ import annotations

from pathlib import Path

import yaml

from medunet.config.schema import Config, DataConfig
from medunet.errors import ConfigError, DataError, ReadError, UsageError
from medunet.io.describe.dataset import describe_dataset, looks_like_dataset
from medunet.io.describe.description import Description
from medunet.io.describe.folds import describe_folds, looks_like_folds
from medunet.io.describe.image import describe_image
from medunet.io.describe.model import SPEC_FILE, describe_model, model_in_zip
from medunet.io.describe.run import describe_run, looks_like_run
from medunet.io.describe.study import describe_study, looks_like_study
from medunet.io.files import image_ending
from medunet.io.read import reads_as_dicom

_ZIP_START = b"PK\x03\x04"

NNUNET_PLANS = "plans.json"
"""Lies beside dataset.json in nnU-Net's results, which are no data set."""

KNOWN = (
    "Known are image files, DICOM folders, data sets (dataset.json, CSV, images + labels), model folders, run folders "
    "and configs (YAML)."
)


def describe(path: Path, options: DataConfig | None = None) -> Description:
    """Say what is at `path`; what is wrong with it is in the answer, not raised.

    Args:
        path: file or folder.
        options: `data:` of a config, as which it is read: it is a data set then, whatever it looks like.

    Raises:
        UsageError: there is no such path, or it is a file that medunet does not know.
        DataError: it is a folder with nothing in it that medunet knows.
        ReadError: the operating system refuses.
    """
    if not path.exists():
        raise UsageError(f"There is no file or folder {path}.", "Check the path.")
    try:
        if options is not None:
            return describe_dataset(path, options)
        result = _describe_folder(path) if path.is_dir() else _describe_file(path)
    except OSError as error:
        raise ReadError(f"{path} cannot be read: {error.strerror or error}.", "Check its permissions.") from error
    if result is None and path.is_dir():
        from medunet.io.dicom import scan

        raise DataError(f"{path} is nothing that medunet knows. {scan(path).remarks() or 'It is empty.'}", KNOWN)
    if result is None:
        raise UsageError(f"{path} is nothing that medunet knows.", KNOWN)
    return result


def _describe_folder(path: Path) -> Description | None:
    if (path / SPEC_FILE).is_file():
        return describe_model(path)
    if looks_like_study(path):
        return describe_study(path)
    if looks_like_folds(path):
        return describe_folds(path)
    if looks_like_run(path):
        return describe_run(path)
    if looks_like_dataset(path) and not (path / NNUNET_PLANS).is_file():
        return describe_dataset(path)
    from medunet.io.describe.dicom import describe_dicom

    return describe_dicom(path)


def _describe_file(path: Path) -> Description | None:
    suffix = path.suffix.lower()
    if image_ending(path):
        return describe_image(path)
    if path.name == SPEC_FILE:
        return describe_model(path.parent)
    if suffix in (".yaml", ".yml"):
        return _describe_config(path)
    if suffix in (".json", ".csv", ".tsv"):
        return describe_dataset(path) if looks_like_dataset(path) else None
    return _describe_packed(path)


def _describe_packed(path: Path) -> Description | None:
    """A zipped model, a DICOM file or a zip of such."""
    if path.suffix.lower() == ".zip":
        if model_in_zip(path) is not None:
            return describe_model(path)
        with open(path, "rb") as handle:
            if handle.read(4) != _ZIP_START:
                return None
    if not reads_as_dicom(path):
        return None
    from medunet.io.describe.dicom import describe_dicom

    return describe_dicom(path)


def _describe_config(path: Path) -> Description | None:
    """A training config; None for YAML that has none of its keys."""
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError):
        content = {"name": None}  # the loader below says what is wrong and where
    known = {field.alias or name for name, field in Config.model_fields.items()} | {"extends"}
    if not isinstance(content, dict) or not known & {str(key) for key in content}:
        return None
    from medunet.config.load import load_config

    result = Description("config", path)
    try:
        config = load_config(path)
    except ConfigError as error:
        result.blame(error)
        return result
    result.facts |= {
        "name": config.name,
        "labels": dict(config.labels),
        "data": config.data.model_dump(mode="json"),
        "network": config.network.model_dump(mode="json"),
        "loss": [f"{term.name} x {term.weight:g}" for term in config.loss],
        "patch_size": list(config.train.patch_size),
        "batch_size": config.train.batch_size,
        "epochs": config.train.epochs,
        "budget": config.train.budget,
    }
    return result
