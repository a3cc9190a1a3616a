"""Which scenes saw one pixel, and what became of each: used, masked, or not needed any more."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.errors import ReadError
from pipeline.imagery.candidates import candidates_for
from pipeline.imagery.composite import read_composite
from pipeline.imagery.stack import load
from pipeline.imagery.window_reader import WindowReader
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import SCL, Scene
from pipeline.settings.run_file import CompositeConfig
from pipeline.sources.hrefs import AssetDoor

Fate = Literal["used", "masked", "not needed", "no data", "unreadable"]
SCL_WORDS = {
    **{0: "no data", 1: "saturated", 2: "dark ground", 3: "cloud shadow", 4: "vegetation", 5: "bare ground"},
    **{6: "water", 7: "unclassified", 8: "cloud, medium probability", 9: "cloud, high probability"},
    **{10: "thin cirrus", 11: "snow"},
}
"""Values of the scene classification (Sentinel-2 Level-2A product)."""


@dataclass(frozen=True)
class Sighting:
    """One scene at one pixel."""

    scene: str
    datetime: dt.datetime
    fate: Fate
    seen_as: str
    """What its scene classification says of the pixel; empty where that cannot be read."""


def sightings(
    scenes: Sequence[Scene],
    grid: ZoneGrid,
    pixel: Window,
    composite: CompositeConfig,
    door: AssetDoor | None = None,
) -> tuple[Sighting, ...]:
    """What became of every scene that may have seen a pixel, by date; scenes without data there are left out.

    Args:
        scenes: Of the zone.
        grid: Output grid.
        pixel: A window of one pixel.
        composite: How the map was composited.
        door: What may be opened.
    """
    candidates = candidates_for(scenes, grid, pixel)
    used = set(read_composite(scenes, grid, pixel, composite, door).used)
    reader = WindowReader(grid, pixel, composite, door)
    found = []
    for scene in {candidate.scene.id: candidate.scene for candidate in candidates}.values():
        masks = reader.clear(scene, Window(0, 0, 1, 1))
        fate: Fate = "unreadable"
        if scene.id in used:
            fate = "used"
        elif masks is not None:
            seen, clear = (bool(mask[0, 0]) for mask in masks)
            fate = "not needed" if clear else "masked" if seen else "no data"
        if fate != "no data":
            found.append(Sighting(scene.id, scene.datetime, fate, _seen_as(scene, grid, pixel, door)))
    return tuple(sorted(found, key=lambda sighting: (sighting.datetime, sighting.scene)))


def _seen_as(scene: Scene, grid: ZoneGrid, pixel: Window, door: AssetDoor | None) -> str:
    try:
        value = load([scene], [SCL], grid, pixel, door)[0, 0, 0, 0]
    except ReadError:
        return ""
    return SCL_WORDS.get(int(value), str(int(value))) if np.isfinite(value) else ""
