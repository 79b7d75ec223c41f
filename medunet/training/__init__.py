"""From a config and a data set to a model."""
