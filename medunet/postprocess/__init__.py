"""Clean-up of masks: thresholds, components, holes, surfaces, objects that touch."""

from medunet.postprocess.steps import postprocess
from medunet.postprocess.target import least_probabilities, needed_heights
from medunet.postprocess.watershed import WORKING_BYTES

__all__ = ["WORKING_BYTES", "least_probabilities", "needed_heights", "postprocess"]
