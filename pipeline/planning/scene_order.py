"""Which scene comes first: the order of compositing, for the reader and for the run's identity alike.

Only what can show in a pixel counts as order: scenes that share no ground may change places, and where every pass is
considered a median does not know in which order they were.

A pass is what one satellite sees of a place within seconds; the archive cuts it into granules that overlap, and where
two zones meet it cuts the same ground once in each. All of them together are one observation of a pixel.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import shapely

from pipeline.records.scene import Scene
from pipeline.records.utm import northing_shift_m
from pipeline.settings.run_file import CompositeConfig
from pipeline.sources.superseding import SAME_ACQUISITION

FOOTPRINT_SLACK_DEGREES = 0.02
"""Published footprints are simplified; a scene this close to a place is still looked at (2 km)."""

_Bool: TypeAlias = npt.NDArray[np.bool_]


def compositing_order(scenes: Sequence[Scene], epsg: int) -> list[Scene]:
    """Scenes from the least cloudy on; ties by pass, then by tile, time and id. The same for any order of ``scenes``.

    Ids come last: each catalog has its own, and the same granules must give the same map whoever names them.

    Within one pass, a granule of another zone comes after those of the grid's own zone that lie over the same ground:
    their pixels are the same observation and are copied, its would be resampled.

    Args:
        scenes: Of one zone's map.
        epsg: That zone.
    """
    numbers = acquisition_numbers(scenes)
    plain = [_plain_rank(scene, number) for scene, number in zip(scenes, numbers, strict=True)]
    native: dict[int, list[int]] = {}
    for index, number in enumerate(numbers):
        if northing_shift_m(scenes[index].epsg, epsg) is not None:
            native.setdefault(number, []).append(index)

    def rank(index: int) -> tuple[Any, ...]:
        scene, own = scenes[index], plain[index]
        if northing_shift_m(scene.epsg, epsg) is not None:
            return own, False, own
        near = (n for n in native.get(numbers[index], ()) if _boxes_meet(scenes[n].bbox, scene.bbox))
        return max([own, *(plain[n] for n in near)]), True, own

    return [scenes[index] for index in sorted(range(len(scenes)), key=rank)]


def _plain_rank(scene: Scene, acquisition: int) -> tuple[Any, ...]:
    # Halves of a granule share a tile; times of different catalogs differ by seconds and footprints by some metres.
    corner = tuple(round(degrees, 2) for degrees in scene.bbox) if scene.tile else ()
    return scene.cloud_cover, acquisition, scene.tile, corner, scene.moment, scene.id


def _boxes_meet(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def acquisition_numbers(scenes: Sequence[Scene]) -> list[int]:
    """Numbers the passes of a satellite: neighbouring granules of one pass are one observation of their overlap."""
    by_time = sorted(range(len(scenes)), key=lambda i: (scenes[i].moment, scenes[i].id))
    numbers = [0] * len(scenes)
    number = 0
    for before, i in zip([None, *by_time], by_time, strict=False):
        if before is not None and scenes[i].moment - scenes[before].moment > SAME_ACQUISITION:
            number += 1
        numbers[i] = number
    return numbers


@dataclass(frozen=True)
class EffectiveOrder:
    """The order of compositing without what cannot show: equal for any two that give the same composite."""

    positions: tuple[int, ...]
    """Of the scenes, each once: the alphabetically first of all orders in which every pair that can show keeps its
    own."""
    passes: tuple[int, ...]
    """For each of these, where in ``positions`` its pass begins; itself where passes do not matter."""
    observations: int
    """Passes that a pixel considers at most; 0 where it takes the first clear scene."""


def effective_order(
    ordered: Sequence[Scene], footprints: Sequence[shapely.Geometry], composite: CompositeConfig
) -> EffectiveOrder:
    """What can show of an order of compositing.

    Args:
        ordered: Scenes of one zone in the order of compositing.
        footprints: Of these scenes, lon/lat.
        composite: Method and limits.
    """
    overlap = _overlaps(footprints)
    if composite.method == "least-cloudy-first":
        positions = _first_order(ordered, overlap)
        return EffectiveOrder(positions, tuple(range(len(positions))), 0)
    passes = np.array(acquisition_numbers(ordered), np.intp)
    touching = np.zeros((len(ordered), passes.max(initial=-1) + 1), np.float32)
    for number in range(touching.shape[1]):
        touching[:, number] = overlap[:, passes == number].any(axis=1)
    # A pixel of two scenes is seen only by passes that overlap both. If these are no more than the limit, all of them
    # are considered there, and the median of a set has no order. Within a pass the first clear granule is taken.
    common = touching @ touching.T
    crowded = common > composite.max_observations
    positions = _first_order(ordered, overlap & (crowded | (passes[:, None] == passes[None, :])))
    begins: dict[int, int] = {}
    for place, position in enumerate(positions):
        begins.setdefault(int(passes[position]), place)
    return EffectiveOrder(
        positions,
        tuple(begins[int(passes[position])] for position in positions),
        min(composite.max_observations, int(common.max(initial=0))),
    )


def _first_order(ordered: Sequence[Scene], shows: _Bool) -> tuple[int, ...]:
    """The alphabetically first order that keeps each pair of ``shows``, bool ``[n, n]``, as it is."""
    before = np.triu(shows, 1)
    waiting = before.sum(axis=0)
    ready = [(scene.id, i) for i, scene in enumerate(ordered) if waiting[i] == 0]
    heapq.heapify(ready)
    found: list[int] = []
    while ready:
        _, i = heapq.heappop(ready)
        found.append(i)
        for j in np.flatnonzero(before[i]).tolist():
            waiting[j] -= 1
            if waiting[j] == 0:
                heapq.heappush(ready, (ordered[j].id, j))
    return tuple(found)


def _overlaps(footprints: Sequence[shapely.Geometry]) -> _Bool:
    """bool ``[n, n]``: pairs that can have pixels in common."""
    overlap = np.zeros((len(footprints), len(footprints)), bool)
    if len(footprints):
        wide = shapely.buffer(np.array(footprints, object), FOOTPRINT_SLACK_DEGREES)
        first, second = shapely.STRtree(wide).query(wide, predicate="intersects")
        overlap[first, second] = True
    return overlap
