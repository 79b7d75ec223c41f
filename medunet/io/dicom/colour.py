"""Colour images as grey values: their luma, Y of PS3.3 section C.7.6.3.1.2 (ITU-R BT.601)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import apply_color_lut, pixel_array

_SHARES = np.asarray([299, 587, 114], dtype=np.int64)

PALETTE_TAGS = tuple(
    name
    for colour in ("RedPaletteColorLookupTable", "GreenPaletteColorLookupTable", "BluePaletteColorLookupTable")
    for name in (f"{colour}Descriptor", f"{colour}Data", f"Segmented{colour}Data")
)
"""Keywords that a palette takes."""


def luma(dataset: Any, index: int) -> NDArray[np.float32]:
    """Luma of one frame.

    Args:
        dataset: with the pixel data and, if it has one, its palette.
        index: of the frame, from 0.

    Returns:
        (rows, columns), 0 to the largest value that the image can store; grey stays exactly what it is.

    Raises:
        Exception: whatever pydicom raises for pixel data that cannot be decoded.
    """
    stored = pixel_array(dataset, index=index)  # YBR becomes RGB
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise ValueError(f"colour images have three samples per pixel, not an array of {stored.shape}")
    grey: NDArray[np.float32] = ((stored.astype(np.int64) @ _SHARES) / 1000).astype(np.float32)
    return grey
