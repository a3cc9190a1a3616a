"""The survey of a data set: which classes lie at every place where a chip could be cut, counted once and kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import ReadError
from pipeline.machine.progress import Progress
from pipeline.records.plan import Window
from pipeline.spie.config import SpieConfig
from pipeline.spie.sampling import Place, spread
from pipeline.spie.sites import Site
from pipeline.spie.state import RecordLog

MAX_UNREADABLE = 10
"""So many unreadable chips or labels in a row are no bad files but a source that is away: the build stops."""
LATER = "run the command again when the source answers: what is done is kept"


@dataclass(frozen=True)
class Spot:
    """A place, where it is read, and what is known of it."""

    place: Place
    site: Site
    window: Window


def survey(
    config: SpieConfig,
    sites: list[Site],
    log: RecordLog,
    pool: ThreadPoolExecutor,
    progress: Progress,
    *,
    retry: bool,
) -> tuple[list[Spot], list[str]]:
    """Counts the classes of every place, or reads the counts of an earlier run.

    Args:
        config: Limits and seed.
        sites: Each place counts once, at the first site that has it.
        log: Counts of earlier runs; new ones are appended.
        pool: Reads the labels.
        progress: Where progress is told.
        retry: Labels that could not be read before are tried again.

    Returns:
        Places with their classes (none where unreadable), and a message for each that could not be read.

    Raises:
        ReadError: The source does not answer any more.
    """
    spots: dict[str, Spot] = {}
    for site in sites:
        for place, window in site.places():
            spots.setdefault(place.key, Spot(place, site, window))
    if len(spots) > config.chips.max_places:
        chosen = spread([spot.place for spot in spots.values()], config.seed, "survey")[: config.chips.max_places]
        progress.say(f"{len(spots)} places, of which {len(chosen)} are looked at (chips.max_places)")
        spots = {place.key: spots[place.key] for place in chosen}
    known = {record["key"]: record for record in log.records if not (retry and "failed" in record)}
    progress.start("labels", len(spots), "places", sum(key in known for key in spots))
    missing = [spot for key, spot in spots.items() if key not in known]
    in_a_row = 0
    for spot, record in zip(missing, pool.map(_look, missing), strict=True):
        in_a_row = in_a_row + 1 if "failed" in record else 0
        if in_a_row == MAX_UNREADABLE:
            raise ReadError(f"{in_a_row} label windows in a row cannot be read ({record['failed']}); {LATER}")
        log.append(record, durable=False)
        known[spot.place.key] = record
        progress.advance()
    found = []
    for key, spot in spots.items():
        pixels = {int(code): int(count) for code, count in known[key].get("pixels", {}).items()}
        place = Place(key, spot.place.cell, spot.place.bounds, spot.place.epsg, pixels)
        found.append(Spot(place, spot.site, spot.window))
    return found, [f"{key}: {known[key]['failed']}" for key in spots if "failed" in known[key]]


def _look(spot: Spot) -> dict[str, Any]:
    try:
        codes, _ = spot.site.read_labels(spot.window)
    except ReadError as error:
        return {"key": spot.place.key, "failed": str(error)}
    values, counts = np.unique(codes[codes != spot.site.labels.unlabelled], return_counts=True)
    return {"key": spot.place.key, "pixels": dict(zip(map(str, values), map(int, counts), strict=True))}
