"""A simulated Sentinel-2 L2A archive: what a provider serves, with the truth beside it.

Names are imported on first use: chips, which a model learns from, cost no import of rasters.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.simulation.archive import DEMO_SPEC, Archive, ArchiveSpec, publish_items, write_archive
    from pipeline.simulation.chips import simulate_chip
    from pipeline.simulation.held_out import HELD_OUT_WORLDS, HeldOutWorld
    from pipeline.simulation.server import serve_files, serve_stac

_LAZY = {
    "DEMO_SPEC": "archive",
    "Archive": "archive",
    "ArchiveSpec": "archive",
    "publish_items": "archive",
    "write_archive": "archive",
    "simulate_chip": "chips",
    "HELD_OUT_WORLDS": "held_out",
    "HeldOutWorld": "held_out",
    "serve_files": "server",
    "serve_stac": "server",
}

__all__ = [
    "DEMO_SPEC",
    "HELD_OUT_WORLDS",
    "Archive",
    "ArchiveSpec",
    "HeldOutWorld",
    "publish_items",
    "serve_files",
    "serve_stac",
    "simulate_chip",
    "write_archive",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'pipeline.simulation' has no attribute {name!r}")
