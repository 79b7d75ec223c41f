"""What a training run records about itself: metrics, curves, TensorBoard, MLflow, resources, where it came from."""
