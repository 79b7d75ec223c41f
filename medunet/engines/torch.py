"""Runs a network on batches of patches with torch: mixed precision, channels last, no gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from medunet.engines.device import is_out_of_memory, place
from medunet.errors import OutOfMemoryError
from medunet.networks.contract import Network
from medunet.networks.layout import channels_last


class TorchEngine:
    """A network ready for inference on one device.

    Args:
        network: in any mode; it is moved to `device` and put into evaluation mode.
        dims: spatial rank of the network.
        device: where it runs.
        precision: type of its arithmetic (autocast); float32 switches autocast off.
    """

    name = "torch"
    at_once = 1

    def __init__(self, network: Network, dims: int, device: torch.device, precision: torch.dtype) -> None:
        self.device = device
        self.precision = precision
        self.format = channels_last(dims)
        self.network = place(network, dims, device).eval()

    def __call__(self, patches: Tensor) -> Tensor:
        """Patches (B, C_in, *patch) float32 to logits float32 on the engine's device: of the patch's inside.

        The inside is (B, C_out, *(patch - 2 * margin)), all of the patch for networks without a margin.

        Raises:
            OutOfMemoryError: the device ran out of memory.
        """
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32),
            ):
                logits = self.network.interior(patches.to(self.device).contiguous(memory_format=self.format))
            return logits.float()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"{self.device} ran out of memory on {patches.shape[0]} windows of {tuple(patches.shape[2:])}.",
                "Lower inference.batch_size, close other programs on the device, or use -d cpu.",
            ) from error

    def working_bytes(self, shape: tuple[int, ...]) -> int:
        """See `Engine`."""
        from medunet.networks.forecast import window_bytes

        return window_bytes(self.network, shape, self.precision, self.device)
