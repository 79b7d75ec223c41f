"""How sure the networks are: entropy of the mean, and how far members of an ensemble disagree.

Both are taken on the network's grid while the logits are there, so that neither needs memory that grows with the image
or with the number of networks. Entropy is that of the probabilities over its largest possible value, 0 (sure) to 1. For
one number per structure members are compared as masks are: disagreement is 1 minus the mean Dice between them and the
ensemble (as in Roy et al. 2019, NeuroImage 195:11, among samples of one network). Where an image is done in tiles,
rows that two of them need count twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medunet.labels import LabelMap

MAPS = ("entropy", "disagreement")
"""Names of what `Doubt.add` gives."""

_AT_ONCE = 1 << 22  # logits that are looked at at a time


class Doubt:
    """Numbers per structure that add up over rows of logits.

    Args:
        labels: what the channels mean.
        members: networks.
        entropy: whether entropy is wanted.
    """

    def __init__(self, labels: LabelMap, members: int, *, entropy: bool) -> None:
        self._labels = labels
        self._members = members
        self._wants_entropy = entropy
        size = labels.outputs + int(labels.nested)
        self._whole = np.zeros(size)
        self._own = np.zeros((members, size))
        self._both = np.zeros((members, size))
        self._entropy = np.zeros(size)

    def add(self, members: Sequence[Tensor]) -> Tensor:
        """The next rows (C, n, *plane) of each network.

        Returns:
            Maps (2, n, *plane): entropy, zeros if it is not wanted, and the share of networks that choose otherwise.
        """
        step = max(1, _AT_ONCE // members[0][:, :1].numel())
        return torch.cat(
            [self._add(parts) for parts in zip(*(each.split(step, 1) for each in members), strict=True)], 1
        )

    def _add(self, members: Sequence[Tensor]) -> Tensor:
        mean = torch.stack(list(members)).mean(0) if len(members) > 1 else members[0]
        present = self._present(mean)
        entropy, different = torch.zeros_like(mean[0]), torch.zeros_like(mean[0])
        self._whole += self._counts(present)
        if self._wants_entropy:
            entropy = self._entropies(mean)
            self._entropy += [float(entropy[self._mask(present, index)].sum()) for index in range(len(self._entropy))]
        for number, member in enumerate(members if self._members > 1 else ()):
            own = self._present(member)
            self._own[number] += self._counts(own)
            self._both[number] += self._shared(own, present)
            different += (own != present).any(0) if self._labels.nested else own != present
        return torch.stack([entropy, different / self._members])

    def _present(self, logits: Tensor) -> Tensor:
        """The chosen index per voxel; of nested structures (L, ...), whether each is there."""
        return logits > 0 if self._labels.nested else logits.argmax(0)

    def _mask(self, present: Tensor, index: int) -> Tensor:
        return (present[index - 1] if index else ~present.any(0)) if self._labels.nested else present == index

    def _counts(self, present: Tensor) -> NDArray[np.float64]:
        if self._labels.nested:
            return np.array([0, *present.flatten(1).sum(1).tolist()], float)
        return torch.bincount(present.flatten(), minlength=len(self._whole)).double().cpu().numpy()

    def _shared(self, own: Tensor, present: Tensor) -> NDArray[np.float64]:
        if self._labels.nested:
            return self._counts(own & present)
        return self._counts(present[own == present])

    def _entropies(self, logits: Tensor) -> Tensor:
        if self._labels.nested:
            there, absent = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)
            return -(there.exp() * there + absent.exp() * absent).amin(0) / math.log(2)
        shares = logits.log_softmax(0)
        return -(shares.exp() * shares).sum(0) / math.log(len(logits))

    def numbers(self) -> dict[str, dict[str, float]]:
        """Per structure that was found: `entropy` over its voxels if wanted, and `disagreement` of several networks."""
        found: dict[str, dict[str, float]] = {}
        for label in self._labels.foreground:
            whole, own, both = self._whole[label.index], self._own[:, label.index], self._both[:, label.index]
            if not whole + own.sum():
                continue
            found[label.name] = {}
            if self._wants_entropy:
                found[label.name]["entropy"] = float(self._entropy[label.index] / max(1, whole))
            if self._members > 1:
                dice = np.divide(2 * both, own + whole, out=np.ones_like(own), where=own + whole > 0)
                found[label.name]["disagreement"] = float(1 - dice.mean())
        return found
