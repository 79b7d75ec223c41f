"""Writes a segmentation as NRRD or MHA through SimpleITK, on the grid of its source."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medunet.atomic import atomic_file
from medunet.errors import OutputError, UsageError
from medunet.geometry import RAS_FROM_LPS
from medunet.io.volume import Segmentation

ENDINGS = (".nrrd", ".mha")


def write_itk(segmentation: Segmentation, path: str | Path) -> Path:
    """Write label values to `path` (.nrrd, .mha), compressed, atomically.

    Raises:
        UsageError: another ending, such as .mhd, which would be two files.
        OutputError: the file cannot be written.
    """
    import SimpleITK

    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{path} cannot be written; masks are {' or '.join(ENDINGS)}, which are one file each.")
    geometry = segmentation.geometry
    values = segmentation.labels.to_values(segmentation.array)
    image = SimpleITK.GetImageFromArray(values.transpose())
    flip = RAS_FROM_LPS if geometry.rank == 3 else np.diag([-1.0, -1.0, 1.0])
    lps = flip @ geometry.affine
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(lps[:-1, -1].tolist())
    image.SetDirection((lps[:-1, :-1] / np.asarray(geometry.spacing)).ravel().tolist())
    with atomic_file(path) as part:
        try:
            SimpleITK.WriteImage(image, str(part), useCompression=True)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise OutputError(f"{path} cannot be written: {reason}.", "Check free space and permissions.") from error
    return path
