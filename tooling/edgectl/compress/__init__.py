"""Making models sparse: schemes choose which weights to keep, prune applies them to a model."""
