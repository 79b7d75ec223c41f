"""What follows from a configuration: mirrored axes, the budget in seconds, what a case was annotated for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from medunet.config.schema import AugmentConfig, PreprocessConfig
from medunet.labels import LabelMap


def seconds_of(duration: str | None) -> float | None:
    """`"30min"` to 1800.0; null to null."""
    if duration is None:
        return None
    number = float(duration.rstrip("secminh "))
    unit = duration.lstrip("0123456789. ")
    return number * {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}[unit]


def network_channels(modality: Sequence[str], preprocess: PreprocessConfig) -> int:
    """Channels that the network sees: those of the image, of each slice that it sees at a time."""
    return len(modality) * (2 * preprocess.neighbours + 1)


def mirror_axes(augment: AugmentConfig, dims: int) -> tuple[int, ...]:
    """Axes that training mirrors, and over which test-time augmentation may therefore average."""
    if augment.mirror_axes is not None:
        return augment.mirror_axes
    if augment.preset == "photo":
        return (0,)  # a photograph has a top
    return tuple(range(dims)) if augment.preset != "none" else ()


def beyond_is_mirrored(augment: AugmentConfig) -> bool:
    """Whether patches that reach beyond the image see it mirrored, not 0."""
    return augment.outside == "mirror" or (augment.outside is None and augment.preset == "photo")


def annotated_names(case_id: str, annotated: Mapping[str, Sequence[str]]) -> frozenset[str] | None:
    """Names of the structures that a case was annotated for; None: for all.

    Args:
        case_id: of the case.
        annotated: `data.annotated`: patterns of case ids (`*`, `?`, `[...]`; capitals count) to names. A case that
            matches several patterns was annotated for what all of them name together.
    """
    found = [names for pattern, names in annotated.items() if fnmatchcase(case_id, pattern)]
    return frozenset(name for names in found for name in names) if found else None


def annotated_labels(case_id: str, annotated: Mapping[str, Sequence[str]], labels: LabelMap) -> tuple[bool, ...]:
    """Whether a case was annotated for each label, by index (background: always). See above."""
    names = annotated_names(case_id, annotated)
    return (True, *(names is None or label.name in names for label in labels.foreground))
