"""Scores masks against reference masks."""
