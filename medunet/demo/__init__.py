"""Synthetic patients, and the whole path on them."""
