"""A simulated Sentinel-2 L2A archive: what a provider serves, with the truth beside it."""

from pipeline.simulation.archive import DEMO_SPEC, Archive, ArchiveSpec, publish_items, write_archive
from pipeline.simulation.chips import simulate_chip
from pipeline.simulation.held_out import HELD_OUT_WORLDS, HeldOutWorld
from pipeline.simulation.server import serve_files, serve_stac

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
