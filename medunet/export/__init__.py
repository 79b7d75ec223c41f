"""Masks and pictures to files."""
