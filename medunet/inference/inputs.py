"""What INPUT means: which cases a path holds, and how each becomes a `Volume`.

A file is one case. In a folder every image file is a case (`CASE_0000`, `CASE_0001`, ... are the channels of one,
as in nnU-Net's folders), and every DICOM study below it or in a zip in it is a case, whatever its files are called.
Where there is no DICOM, pictures in sub-folders are cases, too: `sub/CASE`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medunet.errors import DataError, DicomError, ReadError, UsageError
from medunet.inference.report import REPORT_FILE
from medunet.io.files import image_ending, is_unread, stem
from medunet.io.layouts.nearby import listed
from medunet.io.picture_masks import is_picture
from medunet.io.read import read_volume, reads_as_dicom
from medunet.io.selection import ALL, ANY, Selection
from medunet.io.volume import Volume

if TYPE_CHECKING:  # pydicom takes a fifth of a second to import, which a NIfTI file need not wait for
    from medunet.io.dicom import Series

_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


@dataclass(frozen=True)
class Input:
    """One case to segment.

    Attributes:
        id: name for its outputs, unique among the inputs; of a picture in a sub-folder with that in front.
        paths: image files, one per channel, or the DICOM folder.
        series: series of the DICOM study; empty for image files.
        notes: what was left out when it was found.
        only: UID of the series and number of the volume that this case is, of several; None: as `read` is told.
    """

    id: str
    paths: tuple[Path, ...]
    series: tuple[Series, ...] = ()
    notes: tuple[str, ...] = ()
    only: tuple[str, int] | None = None

    @property
    def is_picture(self) -> bool:
        """Whether its files are pictures, by their names."""
        return not self.series and all(is_picture(path) for path in self.paths)

    def read(self, selection: Selection = ANY, *, channels: int = 1, scratch: Path | None = None) -> Volume:
        """Read the image.

        Args:
            selection: which volume of a DICOM study, and how it is read.
            channels: channels the model takes.
            scratch: folder that takes large pictures; None: that of the system for temporary files.

        Raises:
            DataError: it cannot be read, or has another number of files than the model has channels.
        """
        if self.series:
            from medunet.io.dicom import read_chosen

            volume = read_chosen(self.series, self._own(selection))
            # Messages name what the user gave: folders within an export are often called after patients.
            own = self.paths[0] / self.id
            path = own if own.is_dir() else self.paths[0]
            return replace(volume, source=replace(volume.source, path=path))
        numbers = [match["channel"] for path in self.paths if (match := _CHANNEL.match(stem(path)))]
        if len(self.paths) > 1 and numbers != [f"{number:04d}" for number in range(channels)]:
            names = ", ".join(path.name for path in self.paths)
            raise DataError(
                f"The model takes {channels} channel{'s' if channels > 1 else ''}, but case {self.id} has the files "
                f"{names}.",
                f"Name one file per channel {self.id}_0000, {self.id}_0001 and so on, or put all in one file.",
            )
        return read_volume(self.paths, selection=selection, channels=channels, scratch=scratch)

    def meant(self, selection: Selection = ANY) -> tuple[str, int] | None:
        """Hashed UID of the series and number of the volume that `read` would take; None if it would take none."""
        from medunet.io.dicom import choose

        try:
            chosen = choose(self.series, self._own(selection))
        except DicomError:
            return None
        return chosen.id, chosen.number

    def _own(self, selection: Selection) -> Selection:
        return selection if self.only is None else replace(selection, series=self.only[0], volume=self.only[1])


def find_inputs(
    path: Path, *, channels: int = 1, selection: Selection = ANY, without: Path | None = None
) -> list[Input]:
    """All cases at `path`, sorted by id.

    Args:
        path: image file, DICOM file, or folder.
        channels: channels the model takes.
        selection: of all volumes ("all") each becomes a case of its own: `CASE_v1`, `CASE_v2`, ...
        without: sub-folder that is not looked into for pictures, where masks are written.

    Raises:
        UsageError: there is no such path.
        DataError: there is nothing in it that could be segmented.
    """
    if not path.exists():
        raise UsageError(f"There is no input {path}.", "Check the path.")
    if path.is_file():
        found = _from_dicom_file(path) if reads_as_dicom(path) else [Input(stem(path), (path,))]
        return [volume for entry in found for volume in _volumes(entry, selection)]
    files = sorted(entry for entry in path.iterdir() if entry.is_file() and image_ending(entry))
    zips = sorted(entry for entry in path.iterdir() if entry.is_file() and entry.suffix.lower() == ".zip")
    inside = [study for file in zips for study in _from_dicom_file(file)]
    studies = _studies(path, alone=not files and not zips)
    below = [] if studies else _pictures_below(path, channels, without)
    found = [*_from_files(files, channels), *inside, *studies, *below]
    if not found:
        raise DataError(*_nothing(path, without))
    cases = sorted(_unique(found), key=lambda entry: entry.id)
    return _unique([volume for entry in cases for volume in _volumes(entry, selection)])


def _volumes(entry: Input, selection: Selection) -> list[Input]:
    """A case per volume, if all are wanted and there are several; what cannot be chosen is told when it is read."""
    if selection.volume != ALL or not entry.series:
        return [entry]
    from medunet.io.dicom import choose_volumes

    try:
        found = choose_volumes(entry.series, selection)
    except DicomError:
        return [entry]
    if len(found) == 1:
        return [entry]
    return [replace(entry, id=f"{entry.id}_v{each.number}", only=(each.uid, each.number)) for each in found]


def unread_in(path: Path, *, below: bool = True, without: Path | None = None) -> list[str]:
    """Files of a folder that look like images of kinds that are not read, by their way from there.

    Args:
        path: the folder; of a file there are none.
        below: look into the sub-folders that `find_inputs` takes pictures from, too.
        without: as of `find_inputs`.
    """
    folders = [path, *(_folders_below(path, without) if below else ())] if path.is_dir() else []
    found = (entry for folder in folders for entry in sorted(folder.iterdir()) if is_unread(entry) and entry.is_file())
    return [entry.relative_to(path).as_posix() for entry in found]


def volumes_below(path: Path, *, without: Path | None = None) -> list[str]:
    """Volumes in sub-folders of a folder, by their way from there: data sets keep labels and other series in those.

    Args:
        path: the folder; of a file there are none.
        without: as of `find_inputs`.
    """
    folders = _folders_below(path, without) if path.is_dir() else ()
    entries = (entry for folder in folders for entry in sorted(folder.iterdir()))
    found = (entry for entry in entries if image_ending(entry) and not is_picture(entry) and entry.is_file())
    return [entry.relative_to(path).as_posix() for entry in found]


def about_volumes(names: Sequence[str]) -> str:
    """The sentence about files that `volumes_below` found; "" without any."""
    if not names:
        return ""
    many = "1 volume in a sub-folder was" if len(names) == 1 else f"{len(names)} volumes in sub-folders were"
    return f"{many} left out: {listed(names)}. Give each sub-folder as an input of its own."


def about_unread(names: Sequence[str]) -> str:
    """The sentence about files that `unread_in` found; "" without any."""
    if not names:
        return ""
    kinds = "1 file is of a kind that is" if len(names) == 1 else f"{len(names)} files are of kinds that are"
    return f"{kinds} not read: {listed(names)}."


def _nothing(path: Path, without: Path | None) -> tuple[str, str]:
    """Why a folder holds no case, with what became of its files."""
    from medunet.io.dicom import scan

    why = about_unread(unread_in(path, without=without)) or scan(path).remarks() or "It is empty."
    return (
        f"{path} holds no image file and no DICOM series. {why}",
        "Give a NIfTI, NRRD, MHA or picture file, a DICOM folder or a zip of one, or a folder of those.",
    )


def _from_files(files: Sequence[Path], channels: int) -> list[Input]:
    """Cases of one folder, named after their files; two pictures that differ in their endings keep these."""
    matches = {file: _CHANNEL.match(stem(file)) for file in files}
    names = _own_names(files)
    if channels == 1 and not all(match and match["channel"] == "0000" for match in matches.values()):
        return [Input(names[file], (file,)) for file in files]
    cases: dict[str, list[Path]] = defaultdict(list)
    for file, match in matches.items():
        cases[match["case"] if match else names[file]].append(file)
    return [entry for case, paths in cases.items() for entry in _case(case, paths, channels, names)]


def _case(case: str, paths: Sequence[Path], channels: int, names: Mapping[Path, str]) -> list[Input]:
    """Files of one case, unless they are photographs with numbers, such as IMG_0001 and IMG_0002."""
    numbers = [stem(path)[-4:] for path in paths if stem(path) != case]
    wanted = (["0000"], [f"{number:04d}" for number in range(channels)])
    if any(is_picture(path) for path in paths) and numbers not in wanted:
        return [Input(names[path], (path,)) for path in paths]
    return [Input(case, tuple(paths))]


def _own_names(files: Sequence[Path]) -> dict[Path, str]:
    """Files of one folder without their endings; pictures of one name and several endings with them: `a.jpg`."""
    often = Counter(stem(file) for file in files if is_picture(file))
    return {file: file.name if is_picture(file) and often[stem(file)] > 1 else stem(file) for file in files}


def _pictures_below(path: Path, channels: int, without: Path | None) -> list[Input]:
    """Pictures in sub-folders, with the way to them in front of their names."""
    result: list[Input] = []
    for folder in _folders_below(path, without):
        files = sorted(entry for entry in folder.iterdir() if is_picture(entry) and entry.is_file())
        way = folder.relative_to(path).as_posix()
        result += [replace(entry, id=f"{way}/{entry.id}") for entry in _from_files(files, channels)]
    return result


def _folders_below(path: Path, without: Path | None = None) -> Iterator[Path]:
    """Sub-folders, but for hidden ones, `without`, and those that hold masks, which `predict.json` tells."""
    left_out = None if without is None else without.resolve()
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        masks = (folder / REPORT_FILE).is_file() or folder.resolve() == left_out
        if not folder.name.startswith(".") and not masks and not folder.is_symlink():
            yield folder
            yield from _folders_below(folder, without)


def _from_dicom_file(path: Path) -> list[Input]:
    """The studies in a file or zip; one that holds none, or cannot be read, is a case whose reading says so."""
    try:
        return _studies(path) or [Input(path.stem, (path,))]
    except ReadError:
        return [Input(path.stem, (path,))]


def _studies(path: Path, *, alone: bool = True) -> list[Input]:
    """One input per DICOM study at or below `path`.

    A study that is all there is (`alone`) is named after `path`, else after the sub-folder that holds it, if one does.
    """
    from medunet.io.dicom import scan

    export = scan(path)
    path = export.path
    studies: dict[str, list[Series]] = defaultdict(list)
    for series in export.series:
        studies[series.study_uid].append(series)
    result = []
    for found in studies.values():
        tops = {_top(path, file) for series in found for file in series.files}
        only = alone and len(studies) == 1
        name = tops.pop() if len(tops) == 1 and not only else _plain_name(path.resolve())
        result.append(Input(name, (path,), tuple(found), tuple(export.ignored) if len(studies) == 1 else ()))
    return result


def _top(root: Path, file: Path) -> str:
    """The entry of `root` below which `file` lies."""
    if root.is_file() or not file.is_relative_to(root):
        return _plain_name(root)
    return _plain_name(root / file.relative_to(root).parts[0])


def _plain_name(path: Path) -> str:
    """Folders keep their whole name (`patient.01`), files lose their ending."""
    return path.name if path.is_dir() else path.stem


def _unique(found: Sequence[Input]) -> list[Input]:
    """Give inputs of one name different ids: `a`, `a_2`, ..."""
    result: list[Input] = []
    taken: set[str] = set()
    for entry in found:
        name, number = entry.id, 1
        while name in taken:
            number += 1
            name = f"{entry.id}_{number}"
        taken.add(name)
        result.append(replace(entry, id=name))
    return result
