"""Telemetry as a data set: `write_telemetry`.

images/NAME.png      CPU, RAM and network of every server over time as red, green and blue
labels/NAME.png      what went wrong, as values of `telemetry.LABELS`
telemetry.csv        one row per picture; the days of a fleet are one group
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from PIL import Image

from medunet.atomic import atomic_file, make_folder, write_text
from medunet.demo.telemetry import as_picture, make_telemetry
from medunet.errors import UsageError

PICTURES = 80
DAYS = 4
"""Pictures of one fleet."""


def write_telemetry(
    out: str | Path, *, pictures: int = PICTURES, seed: int = 0, servers: int = 64, samples: int = 256
) -> Path:
    """Draw telemetry of many fleets, four days of each; the same call writes the same bytes.

    Args:
        out: folder; must be empty or new.
        pictures: how many.
        seed: of all of them.
        servers: rows of a picture.
        samples: columns of a picture, five minutes each.

    Returns:
        The folder, which is a data set.

    Raises:
        UsageError: the folder holds something already, or a number is too small.
        OutputError: it cannot be written.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty.", "Remove it or choose another folder.")
    if pictures < 1:
        raise UsageError(f"At least one picture is needed, not {pictures}.")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["id", "image", "label", "group"])
    for number in range(pictures):
        fleet, day = divmod(number, DAYS)
        drawn = make_telemetry(seed * 100_000 + fleet, day=day, servers=servers, samples=samples)
        name = f"fleet_{fleet:03d}_day_{day}"
        for kind, pixels in (("images", as_picture(drawn.values)), ("labels", drawn.labels)):
            with atomic_file(make_folder(folder / kind) / f"{name}.png") as part:
                Image.fromarray(pixels).save(part, format="PNG")
        writer.writerow([name, f"images/{name}.png", f"labels/{name}.png", f"fleet_{fleet:03d}"])
    write_text(folder / "telemetry.csv", table.getvalue())
    return folder
