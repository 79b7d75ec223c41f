"""DICOM exports in: `scan` a folder, `choose` a series, read it as a `Volume`."""

from medunet.io.dicom.choice import choose, choose_volumes
from medunet.io.dicom.header import is_dicom
from medunet.io.dicom.pixels import read_chosen, read_dicom, read_series
from medunet.io.dicom.series import Export, Series, scan

__all__ = [
    "Export",
    "Series",
    "choose",
    "choose_volumes",
    "is_dicom",
    "read_chosen",
    "read_dicom",
    "read_series",
    "scan",
]
