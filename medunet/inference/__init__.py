"""From a model and an image to a mask."""
