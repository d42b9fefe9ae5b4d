"""What a model is for: the data, loss and metric of each task."""
