"""SPEX: a spectral vision-language model for land-cover extraction (arXiv 2508.05202).

Knows tensors, text and legends; knows nothing of rasters, STAC or Ray. Names are imported on first use: bands, legends
and index rules cost no torch, errors cost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spex_core.errors import CheckpointError, LegendError, ModelInputError, SpexError

if TYPE_CHECKING:
    from spex_core.bands import BANDS, SENTINEL2_BANDS, Band
    from spex_core.checkpoints import resolve_checkpoint
    from spex_core.configuration import SpexConfig
    from spex_core.legend import Legend, LegendClass
    from spex_core.modeling import SpexForLandCover
    from spex_core.modeling_outputs import LandCoverPrediction
    from spex_core.processing import SpexProcessor

_LAZY = {
    "BANDS": "spex_core.bands",
    "SENTINEL2_BANDS": "spex_core.bands",
    "Band": "spex_core.bands",
    "Legend": "spex_core.legend",
    "LegendClass": "spex_core.legend",
    "SpexConfig": "spex_core.configuration",
    "SpexProcessor": "spex_core.processing",
    "SpexForLandCover": "spex_core.modeling",
    "LandCoverPrediction": "spex_core.modeling_outputs",
    "resolve_checkpoint": "spex_core.checkpoints",
}

__all__ = [
    "BANDS",
    "SENTINEL2_BANDS",
    "Band",
    "CheckpointError",
    "LandCoverPrediction",
    "Legend",
    "LegendClass",
    "LegendError",
    "ModelInputError",
    "SpexConfig",
    "SpexError",
    "SpexForLandCover",
    "SpexProcessor",
    "resolve_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'spex_core' has no attribute {name!r}")
