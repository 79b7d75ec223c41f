"""Inference over an image of any size, window by window, in memory that does not grow with its length."""
