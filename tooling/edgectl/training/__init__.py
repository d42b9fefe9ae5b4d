"""Training: one loop for `train` and `compress`, its run folder, and scores of what came out."""
