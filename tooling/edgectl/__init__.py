"""edgectl: prune a PyTorch model, compile it for a phone, run it there, and see which layer got faster."""

__version__ = "0.1.0"
