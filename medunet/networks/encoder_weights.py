"""Fits the weights of a classifier into the encoder of `efficient_unet`, whoever named its layers.

ResNets are named alike by torchvision, timm and MONAI. For EfficientNets there are four ways: that of MONAI, of
efficientnet-pytorch (which MONAI follows, but without its number of the stack), of timm and of torchvision. All may
stand behind a prefix (`module.`, `encoder.`); the classifier and what lies elsewhere in the file is ignored.

Every layer of the encoder must be there, and no layer may be left over: torchvision's b1 holds all layers of a b0.

What is adapted:

- Channels of the image. For one channel the kernels of the first convolution are added up, as if the image were
  repeated; for C channels instead of N they are repeated in turn and multiplied by N / C, so that an image whose
  channels are equal is answered as before (timm and segmentation_models.pytorch do the same).
- 2D kernels for a 3D network are repeated along the last axis and divided by its length, so that an image that does
  not change along this axis is answered as before ("inflation", Carreira 2017, section 2.4).
- ResNets without convolutions on their shortcuts (option A of He 2016: r18 and r34 of MedicalNet) get ones that copy.

What no file tells: timm and torchvision trained their own EfficientNets with an epsilon of 1e-5 in the norms (1e-3
here, as published) and with paddings that are equal on both sides. Fine-tuning takes this up.

Knows nothing of files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medunet.errors import ModelError
from medunet.networks.weights import difference, first_of

_COUNTER = "num_batches_tracked"
_SHORTCUT = ".downsample."
_RESNET_EPS = 1e-5

_TIMM = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""Layers of a block in MONAI's words and in timm's."""

_TIMM_NARROW = {**_TIMM, "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""The same for blocks without expansion."""

_TORCHVISION = {
    "_expand_conv": "0.0",
    "_bn0": "0.1",
    "_depthwise_conv": "1.0",
    "_bn1": "1.1",
    "_se_reduce": "2.fc1",
    "_se_expand": "2.fc2",
    "_project_conv": "3.0",
    "_bn2": "3.1",
}
"""The same in torchvision's words; blocks without expansion count from the depthwise convolution."""

_BLOCK = re.compile(r"_blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)")


@dataclass(frozen=True)
class Layout:
    """One way to name the layers of an encoder.

    Attributes:
        names: of the encoder's tensors to those of the file, without prefix; the first is the first convolution.
        body: matches names that belong to the encoder, also those that this one lacks.
    """

    names: dict[str, str]
    body: re.Pattern[str]


@dataclass(frozen=True)
class _Layer:
    """A layer of MONAI's EfficientNet: in block `index` of `stack`, which is `number` of all."""

    stack: int
    number: int
    index: int
    expands: bool
    name: str


def _timm(at: _Layer) -> str:
    return f"blocks.{at.stack}.{at.index}.{(_TIMM if at.expands else _TIMM_NARROW)[at.name]}"


def _torchvision(at: _Layer) -> str:
    step, _, rest = _TORCHVISION[at.name].partition(".")
    return f"features.{at.stack + 1}.{at.index}.block.{int(step) - (not at.expands)}.{rest}"


_WAYS: tuple[tuple[Callable[[_Layer], str], dict[str, str], str], ...] = (
    (lambda at: f"_blocks.{at.stack}.{at.number}.{at.name}", {}, r"(_conv_stem|_bn0|_blocks)\."),  # MONAI
    (lambda at: f"_blocks.{at.number}.{at.name}", {}, r"(_conv_stem|_bn0|_blocks)\."),  # efficientnet-pytorch
    (_timm, {"_conv_stem": "conv_stem", "_bn0": "bn1"}, r"(conv_stem|bn1|blocks)\."),
    (_torchvision, {"_conv_stem": "features.0.0", "_bn0": "features.0.1"}, r"features\.[0-7]\."),
)
"""How EfficientNets are named: layers of the blocks, of the stem, and what the encoder's names begin with."""


def layouts(names: Sequence[str]) -> tuple[Layout, ...]:
    """Every way in which the tensors of an encoder may be called in a file.

    Args:
        names: of the encoder's `state_dict`, in its order.
    """
    if "_conv_stem.weight" not in names:
        return (Layout({name: name for name in names}, re.compile(r"(conv1|bn1|layer\d+)\.")),)
    layers = _layers(names)

    def renamed(name: str, block: Callable[[_Layer], str], stem: Mapping[str, str]) -> str:
        layer, _, tensor = name.rpartition(".")
        return f"{block(layers[layer]) if layer in layers else stem.get(layer, layer)}.{tensor}"

    return tuple(
        Layout({name: renamed(name, block, stem) for name in names}, re.compile(body)) for block, stem, body in _WAYS
    )


def _layers(names: Sequence[str]) -> dict[str, _Layer]:
    """Layers of the blocks by their MONAI name."""
    parts = {name.rpartition(".")[0]: match.groups() for name in names if (match := _BLOCK.fullmatch(name))}
    wide = {int(number) for _, number, name, _ in parts.values() if name == "_expand_conv"}
    first: dict[str, int] = {}
    for stack, number, _, _ in parts.values():
        first.setdefault(stack, int(number))
    return {
        layer: _Layer(int(stack), int(number), int(number) - first[stack], int(number) in wide, name)
        for layer, (stack, number, name, _) in parts.items()
    }


def encoder_state(encoder: nn.Module, tensors: Mapping[str, Tensor], backbone: str, source: str) -> dict[str, Tensor]:
    """The tensors of a file as a `state_dict` of the encoder.

    Args:
        encoder: of an `efficient_unet`; on any device, "meta" included; left as it is.
        tensors: by name, as in the file.
        backbone: what the encoder is called, for messages.
        source: what the file is called, for messages.

    Raises:
        ModelError: layers are missing, left over, of another shape, or hold values that are no numbers.
    """
    problem = f"{source} holds no weights of a {backbone}"
    wanted = encoder.state_dict()
    layout, prefix = _recognised(layouts(list(wanted)), tensors, problem)
    names = {name: prefix + there for name, there in layout.names.items()}
    found = {name: tensors[there] for name, there in names.items() if there in tensors}
    _add_shortcuts(wanted, found)
    state, wrong = {}, []
    for index, (name, target) in enumerate(wanted.items()):
        value = found.get(name)
        fitted = None if value is None else fit(value, target, image=index == 0)
        if fitted is None and name.endswith(_COUNTER):  # old files lack it
            fitted = torch.zeros((), dtype=target.dtype)
        if fitted is None:
            wrong.append(difference(names[name], value, target))
        else:
            state[name] = fitted
    wrong += _left_over(tensors, prefix, layout)
    if wrong:
        raise ModelError(
            f"{problem}: {first_of(wrong)}.",
            "Set network.backbone (and network.dims) to what the file holds, or give another file.",
        )
    infinite = [names[name] for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if infinite:
        raise ModelError(f"{source} holds values in {infinite[0]} that are no numbers.", "Give another file.")
    return state


def _recognised(ways: Sequence[Layout], tensors: Mapping[str, Tensor], problem: str) -> tuple[Layout, str]:
    """The layout and prefix under which most layers are found."""
    best, most = None, 0
    for layout in ways:
        first = next(iter(layout.names.values()))
        for name in tensors:
            if name == first or name.endswith(f".{first}"):
                prefix = name[: -len(first)]
                hits = sum(prefix + there in tensors for there in layout.names.values())
                best, most = ((layout, prefix), hits) if hits > most else (best, most)
    if best is None:
        firsts = dict.fromkeys(next(iter(layout.names.values())) for layout in ways)
        raise ModelError(
            f"{problem}: it has no layer {' or '.join(firsts)}.",
            "Set network.backbone to what the file holds, or give another file.",
        )
    return best


def _left_over(tensors: Mapping[str, Tensor], prefix: str, layout: Layout) -> list[str]:
    """Layers of a larger encoder."""
    known = set(layout.names.values())
    inside = [name[len(prefix) :] for name in tensors if name.startswith(prefix)]
    return [
        f"{prefix}{name} has no place in the network"
        for name in inside
        if layout.body.match(name) and name not in known and not name.endswith(_COUNTER)
    ]


def fit(value: Tensor, target: Tensor, *, image: bool) -> Tensor | None:
    """A tensor of a file in the shape and type of `target`, on the CPU; None if it is of another layer.

    Args:
        value: as in the file; a kernel is (C_out, C_in, *kernel).
        target: as in the network.
        image: whether C_in are channels of the image, and so may differ.
    """
    if value.layout != torch.strided or value.is_quantized or value.is_complex():
        return None
    value = value.detach().cpu().to(target.dtype)
    if value.ndim == 4 and target.ndim == 5:
        length = target.shape[-1]
        value = value.unsqueeze(-1).expand(*value.shape, length) / length
    if image and value.ndim == target.ndim and value.shape[1] not in (0, target.shape[1]):
        value = _for_channels(value, target.shape[1])
    return value if value.shape == target.shape else None


def _for_channels(kernel: Tensor, channels: int) -> Tensor:
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    turn = [channel % kernel.shape[1] for channel in range(channels)]
    return kernel[:, turn] * (kernel.shape[1] / channels)


def _add_shortcuts(wanted: Mapping[str, Tensor], found: dict[str, Tensor]) -> None:
    """Convolutions that copy, and norms that do nothing, where a basic ResNet has no shortcut convolutions at all."""
    missing = [name for name in wanted if name not in found and not name.endswith(_COUNTER)]
    if not all(_SHORTCUT in name for name in missing) or any(_SHORTCUT in name for name in found):
        return
    if "layer1.0.conv3.weight" in wanted:  # bottlenecks were never published without
        return
    for name in missing:
        target = wanted[name]
        kind = name.rpartition(".")[2]
        if target.ndim > 1:
            found[name] = torch.eye(*target.shape[:2]).reshape(target.shape)
        else:
            constant = {"weight": math.sqrt(1 + _RESNET_EPS), "running_var": 1.0}.get(kind, 0.0)
            found[name] = torch.full(target.shape, constant)
