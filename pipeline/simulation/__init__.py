"""A simulated Sentinel-2 L2A archive: what a provider serves, with the truth beside it."""

from pipeline.simulation.chips import simulate_chip

__all__ = ["simulate_chip"]
