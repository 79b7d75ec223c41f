"""`medunet predict`."""

from __future__ import annotations


def predict() -> None:
    """Placeholder."""
