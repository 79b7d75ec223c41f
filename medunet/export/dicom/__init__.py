"""Segmentations as DICOM objects that refer to the images they were made from."""
