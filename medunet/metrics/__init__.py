"""How well masks agree with references: structures by overlap and distance, and how an image is partitioned."""

from medunet.metrics.partitions import PartitionScore, score_partition
from medunet.metrics.structures import StructureScore, dice_per_label, score_case, score_structure, score_values

__all__ = [
    "PartitionScore",
    "StructureScore",
    "dice_per_label",
    "score_case",
    "score_partition",
    "score_structure",
    "score_values",
]
