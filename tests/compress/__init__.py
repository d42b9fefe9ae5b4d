"""Tests of sparsity schemes and pruning."""
