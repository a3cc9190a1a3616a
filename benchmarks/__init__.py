"""Measured ratios against peers and limits: each module prints one table, and one JSON object as its last line."""
