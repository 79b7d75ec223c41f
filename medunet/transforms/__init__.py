"""From volumes to network input and back, and random changes for training."""
