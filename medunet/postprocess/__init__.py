"""Clean-up of masks: thresholds, components, holes, surfaces."""

from medunet.postprocess.steps import postprocess
from medunet.postprocess.target import least_probabilities

__all__ = ["least_probabilities", "postprocess"]
