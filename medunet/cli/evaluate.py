"""`medunet evaluate`."""

from __future__ import annotations


def evaluate() -> None:
    """Placeholder."""
