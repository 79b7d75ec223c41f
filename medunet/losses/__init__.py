"""Segmentation losses by name, composable, with ignored voxels and partially labelled cases.

They are written here and not taken from MONAI 1.6, because only four of MONAI's losses leave out ignored voxels and
none knows labels that a case was not annotated for. Where MONAI or torch have the same loss, tests compare values.
"""
