"""The order of axes in memory in which convolutions run fastest, and whether they run. Knows nothing of networks."""

from __future__ import annotations

import torch


def channels_last(dims: int) -> torch.memory_format:
    """The memory format of images (B, C, *S) and kernels with `dims` spatial axes: their channels lie side by side."""
    return torch.channels_last_3d if dims == 3 else torch.channels_last


def is_recorded() -> bool:
    """Whether operations are compiled or traced now, so that torch's own layers have to be used."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined]
