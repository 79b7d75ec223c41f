"""What made a segmentation, as its DICOM objects name it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

SOFTWARE_VERSION = version("medunet")


@dataclass(frozen=True)
class Algorithm:
    """A model, or nothing that is known.

    Attributes:
        name: of the model; "" for a mask of unknown origin.
        digest: identity of the model's weights.
    """

    name: str = ""
    digest: str = ""

    @property
    def version(self) -> str:
        """Of the software and the model."""
        return f"medunet {SOFTWARE_VERSION}" + (f", model {self.digest[:12]}" if self.digest else "")
