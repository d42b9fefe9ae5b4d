"""The closed loop: architecture and pruning searched under a budget of latency that the device itself gives."""
