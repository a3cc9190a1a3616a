"""SPIE: instruction data sets of spectral image chips, land-cover labels, attributes and answers (arXiv 2508.05202)."""

from pipeline.spie.builder import BuildResult, build
from pipeline.spie.config import SpieConfig
from pipeline.spie.shards import ShardedChips

__all__ = ["BuildResult", "ShardedChips", "SpieConfig", "build"]
