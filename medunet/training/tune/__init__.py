"""Many trainings of one configuration with other values, and the best of them."""
