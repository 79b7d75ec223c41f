"""One term of the sum that a training minimises: `Term`. Knows nothing of other terms or of outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medunet.labels import LabelMap


class Term(nn.Module):
    """From an `Evidence` to one number.

    Args:
        config: the options class of the loss.
        labels: names and indices.
    """

    config: Any
    class_weights: Tensor | None
    """(L,) factors by label index; None where the options name none."""

    def __init__(self, config: Any, labels: LabelMap) -> None:
        super().__init__()
        self.config = config
        weights = label_weights(getattr(config, "class_weights", None), labels)
        self.register_buffer("class_weights", weights, persistent=False)


def label_weights(weights: Mapping[str, float] | None, labels: LabelMap) -> Tensor | None:
    """(L,) factors by label index, 1 for labels that are not named; None if none is."""
    if weights is None:
        return None
    return torch.tensor([weights.get(name, 1.0) for name in labels.names])
