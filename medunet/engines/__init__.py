"""What runs a network on a batch of patches."""
