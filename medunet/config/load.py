"""Reads configurations: finds the file, follows `extends`, applies `--set`, checks, and writes the result as YAML.

Relative paths (`data.root`, `data.cache`, `network.encoder_weights`) in a file start at the folder of that file, those
given on the command line (`data=`, `--set`) at the current directory. The result holds absolute paths only, so that
it means the same anywhere. Knows nothing of the data set itself.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medunet.config.check import checked
from medunet.config.document import Document, Place, as_written, read_file, read_text, to_yaml
from medunet.config.layers import (
    PATH_KEYS,
    LayerError,
    absolute,
    apply_override,
    escaped,
    expand_paths,
    expanded,
    look_up,
    merged,
    set_value,
)
from medunet.config.schema import Config
from medunet.errors import ConfigError, Problem

_ENDINGS = ("", ".yaml", ".yml")
_LONGEST_CHAIN = 20


def load_config(
    config: str | Path,
    *,
    data: str | Path | None = None,
    overrides: Sequence[str] = (),
    fold: int | None = None,
) -> Config:
    """Read a configuration.

    Args:
        config: a path, or the name of a shipped configuration such as "ct_liver.yaml" (or "ct_liver").
        data: takes the place of `data.root`; relative to the current directory.
        overrides: `key=value` as after `--set`, the value written as in YAML: `train.lr=1e-3`, `loss.0.weight=2`.
        fold: takes the place of `data.fold`.

    Raises:
        ConfigError: there is no such file, or it is wrong; `problems` holds everything that is.
    """
    path = _find(str(config))
    document = _read_chain(path, _display(path), [])
    return _finished(document, _display(path), data=data, overrides=overrides, fold=fold)


def parse_config(text: str, *, name: str = "configuration", folder: str | Path = ".") -> Config:
    """Check YAML text that extends nothing or a shipped configuration, as `load_config` does with a file.

    Args:
        text: YAML.
        name: what it is called in messages.
        folder: where relative paths start.

    Raises:
        ConfigError: as `load_config`.
    """
    document = read_text(text, name, Path(folder).absolute())
    return _finished(_with_base(document, Path(folder).absolute() / name, []), name)


def read_layers(path: Path) -> dict[str, Any]:
    """What a configuration file says together with all that it extends, as plain data; nothing of it is checked.

    Raises:
        ConfigError: one of the files cannot be read, or is not there.
    """
    document = _read_chain(path, _display(path), [])
    if document.problems:
        raise _error(_display(path), document.problems)
    return document.data


def dump_config(config: Config) -> str:
    """A checked configuration as YAML text with every key; reading it back gives an equal `Config`."""
    data = config.model_dump(mode="json", by_alias=True)
    for path in PATH_KEYS:
        section, key = look_up(data, path[:-1]), path[-1]
        if section.get(key):
            section[key] = escaped(section[key])
    return to_yaml(data)


def shipped_configs() -> dict[str, Path]:
    """Name to path of the complete configurations that come with the package: all but those in `base/`."""
    folder = _shipped_folder()
    paths = [*folder.glob("*.yaml"), *folder.glob("hippocampus/*.yaml")] if folder else []
    return {path.relative_to(folder).as_posix(): path for path in sorted(paths)} if folder else {}


def _shipped_folder() -> Path | None:
    package = Path(__file__).resolve().parents[1]
    # In a wheel the folder lies in the package, in a checkout beside it.
    return next((folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()), None)


def _shipped(name: str) -> Path | None:
    folder = _shipped_folder()
    if folder is None or Path(name).is_absolute() or ".." in Path(name).parts:
        return None
    return next((path for ending in _ENDINGS if (path := folder / f"{name}{ending}").is_file()), None)


def _find(name: str) -> Path:
    path = Path(os.path.expanduser(name))  # noqa: PTH111 - an unknown ~user is a missing file, no error of its own
    if name and path.is_file():
        return path
    shipped = _shipped(name) if name else None
    if shipped is not None:
        return shipped
    if name and path.is_dir():
        raise ConfigError(f"{path} is a folder, not a configuration.", "Give the YAML file in it.")
    raise ConfigError(f"There is no configuration {name or 'without a name'}.", _suggestion(name))


def _suggestion(name: str) -> str:
    shipped = list(shipped_configs())
    near = difflib.get_close_matches(Path(name).name, shipped, n=1)
    if near:
        return f"Did you mean {near[0]}?"
    return f"Give a path, or one of those that are shipped: {', '.join(shipped)}."


def _display(path: Path) -> str:
    """The path as given, or seen from the current directory where that is shorter."""
    if not path.is_absolute():
        return str(path)
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _read_chain(path: Path, name: str, chain: list[Path]) -> Document:
    return _with_base(read_file(path, name), path, chain)


def _with_base(document: Document, path: Path, chain: list[Path]) -> Document:
    """Lay a document over the one that it extends, if it does."""
    if "extends" not in document.data:
        return document
    place = document.places.pop(("extends",))
    value = document.data.pop("extends")
    chain = [*chain, path.resolve()]
    try:
        base = _base_path(value, path, chain, place)
    except LayerError as error:
        document.problems.append(Problem(place.where, "extends", str(error), as_written(value), _base_hint(value)))
        document.readable = False  # what the base would have said is unknown
        return document
    return merged(_read_chain(base, _display(base), chain), document)


def _base_path(value: Any, path: Path, chain: Sequence[Path], place: Place) -> Path:
    if not isinstance(value, str) or not value:
        raise LayerError("must be the path of one configuration.")
    text = expanded(value)
    beside = Path(absolute(text, place.folder))
    # A file may extend the shipped one of its own name.
    found = beside if beside.is_file() and beside.resolve() != path.resolve() else _shipped(text)
    if found is None and beside.is_file():
        found = beside
    if found is None:
        raise LayerError(f"there is no such file beside {path.name}, nor among the shipped configurations.")
    if found.resolve() in chain:
        circle = " extends ".join(step.name for step in [*chain[chain.index(found.resolve()) :], found])
        raise LayerError(f"goes round in a circle: {circle}.")
    if len(chain) >= _LONGEST_CHAIN:
        raise LayerError(f"makes a chain of more than {_LONGEST_CHAIN} files.")
    return found


def _base_hint(value: Any) -> str:
    near = difflib.get_close_matches(str(value), list(shipped_configs()), n=1)
    return f"Did you mean {near[0]}?" if near and near[0] != value else ""


def _finished(
    document: Document,
    name: str,
    *,
    data: str | Path | None = None,
    overrides: Sequence[str] = (),
    fold: int | None = None,
) -> Config:
    """Apply the command line, check, and raise everything that is wrong."""
    for text in overrides:
        apply_override(document, text)
    expand_paths(document, skip=("data", "root") if data is not None else None)
    if data is not None:
        _set_root(document, os.fspath(data))
    if fold is not None:
        _set_option(document, ["data", "fold"], fold, f"--fold {fold}")
    if not document.readable:
        raise _error(name, document.problems)
    config, problems = checked(document, Place(name, Path()))
    if config is None:
        raise _error(name, problems)
    return config


def _set_root(document: Document, folder: str) -> None:
    if not folder or "\0" in folder or folder.encode("utf-8", "replace").decode() != folder:
        rule = "must be a folder or CSV file, not empty, with a name that is valid Unicode."
        document.problems.append(Problem("--data", "", rule))
        return
    _set_option(document, ["data", "root"], absolute(folder, Path.cwd()), f"--data {folder}")


def _set_option(document: Document, parts: list[str], value: Any, where: str) -> None:
    try:
        set_value(document, parts, value, Place(where, Path.cwd()))
    except LayerError as error:
        document.problems.append(Problem(where, "", str(error)))


def _error(name: str, problems: Sequence[Problem]) -> ConfigError:
    ordered = sorted(dict.fromkeys(problems), key=lambda problem: _order(problem.where))
    count = "a problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    return ConfigError(f"{name} has {count}.", problems=ordered)


def _order(where: str) -> tuple[str, int]:
    """By file, then by line as a number."""
    match = re.fullmatch(r"(.*):(\d+)", where)
    return (match.group(1), int(match.group(2))) if match else (where, 0)
