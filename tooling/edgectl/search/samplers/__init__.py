"""Samplers for Optuna: what proposes the next trial. Random ones are Optuna's own."""

from edgectl.search.samplers.ensemble import EnsembleSampler
from edgectl.search.samplers.evolution import EvolutionSampler

__all__ = ["EnsembleSampler", "EvolutionSampler"]
