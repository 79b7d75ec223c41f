"""Logits of one preprocessed image: windows, mirrors, and 2D networks on volumes.

Shared by `Predictor` and by the validation during training, so that both see the same numbers.
"""

from __future__ import annotations

from torch import Tensor

from medunet.model import InferenceSpec, ModelSpec
from medunet.sliding_window import Forward, sliding_window, with_mirrors


def predict_logits(image: Tensor, engine: Forward, spec: ModelSpec, *, tta: bool) -> Tensor:
    """Logits (C_out, *S) float32 of a preprocessed image (C_in, *S)."""
    return window_logits(image, engine, spec.inference, spec.network.dims, tta=tta)


def window_logits(image: Tensor, engine: Forward, inference: InferenceSpec, dims: int, *, tta: bool) -> Tensor:
    """As `predict_logits`, from the parts of the model that matter here.

    Args:
        image: (C_in, *S) float32.
        engine: the network.
        inference: patch, overlap, batch, mirrors.
        dims: spatial rank of the network; 2 on a volume goes slice by slice along the last axis.
        tta: average over the mirrored views.
    """
    forward = with_mirrors(engine, inference.mirror_axes if tta else ())
    patch = inference.patch_size
    if image.ndim - 1 > dims:
        patch = (*patch, 1)
        forward = _slicewise(forward)
    return sliding_window(image, forward, patch, overlap=inference.overlap, batch_size=inference.batch_size)


def _slicewise(forward: Forward) -> Forward:
    def run(patches: Tensor) -> Tensor:
        return forward(patches.squeeze(-1)).unsqueeze(-1)

    return run
