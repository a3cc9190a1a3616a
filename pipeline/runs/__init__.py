"""Whole runs: a region mapped from end to end, and the demo."""
