"""The frames of an enhanced multi-frame object, through its functional groups (PS3.3 section C.7.6.16).

Each frame states its own position, orientation, spacing and rescaling, in its per-frame groups or in the shared ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from medunet.errors import ReadError
from medunet.io.dicom.elements import count, items, shown, text
from medunet.io.dicom.planes import plane_of, rescale_of, thickness_of
from medunet.io.dicom.slices import LOCALIZER, Slice

_FRAME_TYPES = (
    "MRImageFrameTypeSequence",
    "CTImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence",
)
_TRAITS = (
    ("echo time", ("MREchoSequence",), "EffectiveEchoTime"),
    ("b-value", ("MRDiffusionSequence",), "DiffusionBValue"),
    ("gradient", ("MRDiffusionSequence", "DiffusionGradientDirectionSequence"), "DiffusionGradientOrientation"),
    ("temporal position", ("FrameContentSequence",), "TemporalPositionIndex"),
    ("trigger time", ("CardiacSynchronizationSequence",), "NominalCardiacTriggerDelayTime"),
    ("stack", ("FrameContentSequence",), "StackID"),
    ("acquisition", ("FrameContentSequence",), "FrameAcquisitionNumber"),
    ("kernel", ("CTReconstructionSequence",), "ConvolutionKernel"),
)
_COMPONENTS = {"MAGNITUDE": "M", "PHASE": "P", "REAL": "R", "IMAGINARY": "I"}


def frames(dataset: Any, whole: Slice) -> tuple[Slice, ...]:
    """One `Slice` per frame.

    Args:
        dataset: the file's data set with its functional groups.
        whole: what all frames share.

    Raises:
        ReadError: the number of frames and of their descriptions differ.
        ValueError: a value is no number.
    """
    groups = items(dataset, "PerFrameFunctionalGroupsSequence")
    number = count(dataset, "NumberOfFrames", 1)
    if len(groups) != number:
        raise ReadError(f"it states {number} frames and describes {len(groups)}")
    shared = (items(dataset, "SharedFunctionalGroupsSequence") or (None,))[0]
    whole = replace(whole, rescale=rescale_of(dataset))
    return tuple(_frame(groups[index], shared, whole, index) for index in range(number))


def _frame(own: Any, shared: Any, whole: Slice, index: int) -> Slice:
    measures = group_of(own, shared, "PixelMeasuresSequence")
    rescaling = group_of(own, shared, "PixelValueTransformationSequence")
    plane, fault = plane_of(
        group_of(own, shared, "PlanePositionSequence"), group_of(own, shared, "PlaneOrientationSequence"), measures
    )
    kind = next((group for name in _FRAME_TYPES if (group := group_of(own, shared, name)) is not None), None)
    frame_type = "" if kind is None else text(kind, "FrameType")
    component = "" if kind is None else text(kind, "ComplexImageComponent")
    traits = [("frame type", frame_type)]
    traits += [(label, _value(own, shared, path, keyword)) for label, path, keyword in _TRAITS]
    localizer = "LOCALIZER" in frame_type.split("\\")
    return replace(
        whole,
        frame=index,
        plane=plane,
        fault=LOCALIZER if localizer else fault,
        beside=localizer,
        rescale=whole.rescale if rescaling is None else rescale_of(rescaling),
        thickness=None if measures is None else thickness_of(measures),
        component=_COMPONENTS.get(component, ""),
        traits=tuple(traits),
        contrast=whole.contrast and not _unused(own, shared),
    )


def _unused(own: Any, shared: Any) -> bool:
    """Whether the frame says of every contrast agent that it was not administered yet."""
    usage = next(
        (found for groups in (own, shared) if (found := items(groups or (), "ContrastBolusUsageSequence"))), ()
    )
    return bool(usage) and all(text(item, "ContrastBolusAgentAdministered") == "NO" for item in usage)


def group_of(own: Any, shared: Any, keyword: str) -> Any:
    """First item of a functional group of this frame, or of all frames, or None."""
    for groups in (own, shared):
        found = items(groups, keyword) if groups is not None else ()
        if found:
            return found[0]
    return None


def _value(own: Any, shared: Any, path: tuple[str, ...], keyword: str) -> str:
    group = group_of(own, shared, path[0])
    for step in path[1:]:
        group = (items(group, step) or (None,))[0] if group is not None else None
    return "" if group is None else shown(group, keyword)
