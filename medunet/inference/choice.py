"""Which library runs the networks of a predictor: as it was asked for, or the fastest, measured once and remembered.

`auto` on a CPU begins with torch, which needs no preparation. Once the windows at hand would keep torch busy for longer
than it takes to convert the network, the network is converted to OpenVINO, both are timed on a window, and what was
faster is written down beside the weights for this machine: from then on it is taken at once.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from medunet.atomic import write_json
from medunet.engines import machine, onnx, openvino
from medunet.engines.backoff import BackingOff
from medunet.engines.contract import TOLERANCE, Engine, deviation
from medunet.engines.forms import found_form, kept_form, key_of, user_cache
from medunet.engines.torch import TorchEngine
from medunet.errors import DeviceError, OutputError, UsageError
from medunet.inference.memory import resident_bytes
from medunet.model import Model

logger = logging.getLogger("medunet")

INT8 = "openvino-int8"
ENGINES = ("auto", "torch", "openvino", INT8, "onnx")

FORMS = "engines"
"""Folder beside the weights that holds converted networks and what was measured."""

_FORM_VERSION = 1  # raise it when networks are converted differently
_PATIENCE = 20.0  # seconds of torch that are borne before another engine is tried; converting takes about ten
_FEW = 8  # windows that are not worth timing one
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Member:
    """One network of a predictor.

    Attributes:
        model: it belongs to.
        number: which of the model's networks.
    """

    model: Model
    number: int

    @property
    def patch(self) -> tuple[int, ...]:
        """Voxels of a window."""
        return self.model.spec.inference.patch_size

    @property
    def channels(self) -> int:
        """That the network sees."""
        return self.model.spec.network_channels

    def facts(self) -> dict[str, Any]:
        """What a converted network depends on, beside the library."""
        return {
            "form": _FORM_VERSION,
            "weights": self.model.spec.files[self.model.spec.weights[self.number]].sha256,
            "patch": list(self.patch),
            "torch": torch.__version__,
        }

    def places(self) -> list[Path]:
        """Where what is made of it may be kept: in the model's folder, or else in the user's."""
        beside = [self.model.path / FORMS] if self.model.path.is_dir() else []
        return [*beside, user_cache() / FORMS]


def build(kind: str, member: Member, device: torch.device, precision: torch.dtype) -> Engine:
    """An engine for a network; one that has to be converted first is compared with torch then.

    Raises:
        DeviceError: the library is not installed, cannot run the network, or gives other logits.
        OutputError: the converted network cannot be kept anywhere.
    """
    if kind == "torch":
        return TorchEngine(member.model.build(member.number), member.model.spec.network.dims, device, precision)
    if kind == INT8:
        return _int8(member, precision)
    folder, notes = converted(kind, member, precision)
    return _run(kind, folder, precision, int(notes["working_bytes"]))


def _run(kind: str, folder: Path, precision: torch.dtype, working: int = 0) -> Engine:
    if kind == "openvino":
        return openvino.OpenVinoEngine(folder, precision, working)
    return onnx.OnnxEngine(folder, working)


def converted(kind: str, member: Member, precision: torch.dtype) -> tuple[Path, dict[str, Any]]:
    """Folder of a network in the form of openvino or onnx, made if it is not there, and what was noted then.

    Raises:
        DeviceError, OutputError: see `build`.
    """
    library = {"openvino": openvino, "onnx": onnx}[kind]

    def make(folder: Path) -> dict[str, Any]:
        logger.info("Converting the network to %s; this is done once.", kind)
        library.write_form(member.model.build(member.number), member.channels, member.patch, folder)
        engine = _run(kind, folder, precision)
        working = measured_working(engine, member)
        plain = build("torch", member, _CPU, torch.float32)
        found, bound = deviation(engine, plain, member.channels, member.patch), TOLERANCE[engine.precision]
        if found > bound:
            raise DeviceError(
                f"The network gives other logits in {kind} than in torch: {found:.2g} apart, {bound:.2g} is allowed.",
                "Use --engine torch.",
            )
        return {"deviation": found, "working_bytes": working}

    used = torch.float32 if kind == "onnx" else precision
    facts = {**member.facts(), "library": library.version(), "precision": str(used)}
    return kept_form(member.places(), kind, facts, make)


def measured_working(engine: Engine, member: Member) -> int:
    """Bytes that an engine which did not compute before holds afterwards for windows to come."""
    before = resident_bytes()
    engine(torch.zeros((engine.at_once, member.channels, *member.patch)))
    return max(0, resident_bytes() - before)


def int8_facts(member: Member) -> dict[str, Any]:
    """What an int8 form depends on."""
    return {**member.facts(), "library": openvino.version()}


def _int8(member: Member, precision: torch.dtype) -> Engine:
    """The form that `inference.int8` made and found good.

    Raises:
        UsageError: there is none.
    """
    found = found_form(member.places(), INT8, int8_facts(member))
    if found is None:
        raise UsageError(
            f"{member.model.path} has no int8 form for these versions of torch and OpenVINO.",
            "Make one with: medunet quantize RUN, with the run folder of the training. Or use --engine openvino.",
        )
    folder, notes = found
    return openvino.OpenVinoEngine(folder, precision, int(notes["working_bytes"]), name=INT8)


@dataclass
class Engines:
    """The engines of all networks of a predictor.

    Args:
        members: the networks.
        wish: one of `ENGINES`.
        device: where torch computes; the others take the CPU.
        precision: of the arithmetic; ONNX Runtime takes float32.

    Attributes:
        reason: why it is these, as a sentence.
    """

    members: Sequence[Member]
    wish: str
    device: torch.device
    precision: torch.dtype
    reason: str = field(default="It was asked for.", init=False)

    def __post_init__(self) -> None:
        if self.wish not in ENGINES:
            raise UsageError(f'"{self.wish}" is no engine.', f"Use {', '.join(ENGINES)}.")
        if self.wish not in ("auto", "torch") and self.device.type != "cpu":
            raise UsageError(f"{self.wish} runs on the CPU, not on {self.device}.", "Use -d cpu, or --engine torch.")
        self._spent = 0.0  # seconds that torch has taken for windows, or would have
        self._rate: float | None = None
        self._open = False  # whether another engine may still be tried
        self._running = self._built(self._first_kind())

    def _first_kind(self) -> str:
        if self.wish != "auto":
            return self.wish
        if self.device.type != "cpu":
            self.reason = f"Networks run on {self.device} with torch."
        elif not openvino.is_installed():
            self.reason = "OpenVINO is not installed."
        else:
            known = self._remembered()
            if known is not None:
                self.reason = known["reason"]
                return str(known["engine"])
            self._open, self.reason = True, "There was too little to do to try another."
        return "torch"

    def _built(self, kind: str, *ready: Engine) -> list[Engine]:
        """One engine per network; those of the first few may be there already."""
        others = self.members[len(ready) :]
        engines = [*ready, *(build(kind, member, self.device, self.precision) for member in others)]
        return [self._with_backing(member, engine) for member, engine in zip(self.members, engines, strict=True)]

    def _with_backing(self, member: Member, engine: Engine) -> Engine:
        return BackingOff(engine, lambda: build("torch", member, _CPU, torch.float32))

    @property
    def name(self) -> str:
        """Of the library that computes now."""
        return self._running[0].name

    def ready(self, windows: int) -> Sequence[Engine]:
        """One engine per network, for an image of so many windows (mirrored views counted)."""
        if self._open and windows > _FEW:
            if self._rate is None:
                self._rate = window_seconds(self._running[0], self.members[0])
            self._spent += windows * self._rate * len(self.members)
            if self._spent > _PATIENCE:
                self._open = False
                self._try_openvino(self._rate)
        return self._running

    def _try_openvino(self, torch_seconds: float) -> None:
        """Take OpenVINO if it is faster than `torch_seconds` per window, and remember."""
        member = self.members[0]
        try:
            engine = build("openvino", member, _CPU, self.precision)
            seconds = window_seconds(engine, member)
        except (DeviceError, OutputError) as error:
            self.reason = f"OpenVINO was tried: {error.message}"
            logger.warning("%s Going on with torch.", self.reason)
            return
        kind = self.settle(seconds, torch_seconds)
        if kind == "openvino":
            self._running = self._built(kind, engine)
        logger.info("Engine: %s. %s", kind, self.reason)

    def settle(self, openvino_seconds: float, torch_seconds: float) -> str:
        """Remember, for `auto` on this machine, which of the two is faster per window; returns it."""
        kind = "openvino" if openvino_seconds < torch_seconds else "torch"
        self.reason = (
            f"A window took {openvino_seconds:.3g} s with OpenVINO and {torch_seconds:.3g} s with torch on this "
            "machine."
        )
        self._remember({"engine": kind, "reason": self.reason})
        return kind

    def _key(self) -> dict[str, Any]:
        processor = machine.processor()
        names = ("model", "cores", "features")
        return {
            **self.members[0].facts(),
            "library": openvino.version(),
            "precision": str(self.precision),
            **{name: processor[name] for name in names},
        }

    def _files(self) -> list[Path]:
        return [place / f"choice-{key_of(self._key())}.json" for place in self.members[0].places()]

    def _remembered(self) -> dict[str, Any] | None:
        for path in self._files():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                if content["engine"] in ("torch", "openvino") and isinstance(content["reason"], str):
                    return dict(content)
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None

    def _remember(self, content: dict[str, Any]) -> None:
        for path in self._files():
            try:
                write_json(path, content)
                return
            except OutputError:
                continue
        logger.warning("Which engine is the fastest could not be written down; it will be measured again.")


def window_seconds(engine: Engine, member: Member) -> float:
    """What a window takes if as many are given as are computed side by side: the better of two, after a first."""
    windows = torch.zeros((engine.at_once, member.channels, *member.patch))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        engine(windows)
        times.append(time.perf_counter() - start)
    return min(times[1:]) / engine.at_once
