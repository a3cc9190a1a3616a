"""Which chips are taken: strata by the rarest class of a chip, spread over geographic cells. Pure functions.

The order is a function of seed, keys and classes alone: it does not depend on the order of the places, and the first N
chips of a stratum are the first N of any longer sample. Random order comes from sha256, so it is the same everywhere.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import shapely

Split = Literal["train", "validation"]


@dataclass(frozen=True)
class Place:
    """Where a chip could be cut, and what its labels are."""

    key: str
    """Unique; ``[a-z0-9-]``, no dot (WebDataset cuts names there)."""
    cell: str
    """Geographic cell; never split between training and validation."""
    bounds: tuple[float, float, float, float]
    """West, south, east, north in metres of ``epsg``."""
    epsg: int
    pixels: Mapping[int, int]
    """Legend code → labelled pixels; only codes that occur."""

    @property
    def labelled(self) -> int:
        """Labelled pixels."""
        return sum(self.pixels.values())


def strata(places: Iterable[Place], presence: float) -> dict[int, list[Place]]:
    """Groups places by the rarest class that is present in each.

    Rarity is the total of labelled pixels over all places. A class is present from the share ``presence`` of a place's
    labelled pixels on; where none reaches it, the largest counts.

    Args:
        places: Any order; those without a labelled pixel are left out.
        presence: Share, 0..1.

    Returns:
        Legend code → places, rarest class first; places in the order of their keys.
    """
    labelled = sorted((place for place in places if place.labelled), key=lambda place: place.key)
    totals: dict[int, int] = defaultdict(int)
    for place in labelled:
        for code, count in place.pixels.items():
            totals[code] += count
    groups: dict[int, list[Place]] = defaultdict(list)
    for place in labelled:
        present = [code for code, count in place.pixels.items() if count >= presence * place.labelled]
        # Ties go to the lower code, so that the result does not depend on an order.
        rarest = min(present, key=lambda c: (totals[c], c)) if present else _largest(place)
        groups[rarest].append(place)
    return {code: groups[code] for code in sorted(groups, key=lambda c: (totals[c], c))}


def _largest(place: Place) -> int:
    return min(place.pixels, key=lambda code: (-place.pixels[code], code))


def spread(places: Sequence[Place], seed: int, purpose: str) -> list[Place]:
    """Orders places so that every beginning of the list is spread evenly over the cells.

    Cells take turns in random order, and give their places in random order: of any two cells that are not yet used up,
    one has given at most one place more than the other.

    Args:
        places: Each key once.
        seed: Another seed, another order.
        purpose: Makes orders of one seed independent.
    """
    cells: dict[str, list[Place]] = defaultdict(list)
    for place in sorted(places, key=lambda p: _rank(seed, purpose, p.key)):
        cells[place.cell].append(place)
    turns = sorted(cells, key=lambda cell: _rank(seed, purpose, "cell", cell))
    longest = max((len(members) for members in cells.values()), default=0)
    return [cells[cell][turn] for turn in range(longest) for cell in turns if turn < len(cells[cell])]


def sampling_order(places: Iterable[Place], seed: int, presence: float) -> dict[int, list[Place]]:
    """Stratum → its places in the order in which they are tried; rarest class first."""
    return {code: spread(members, seed, f"stratum {code}") for code, members in strata(places, presence).items()}


def split_cells(places: Iterable[Place], validation: float, seed: int) -> dict[str, Split]:
    """Gives whole cells to training or validation.

    Args:
        places: Their cells are split.
        validation: Share of cells for validation; with more than 0 and at least two cells, each side gets one.
        seed: Another seed, another split.
    """
    cells = sorted({place.cell for place in places}, key=lambda cell: _rank(seed, "split", cell))
    count = round(validation * len(cells))
    if validation > 0 and len(cells) > 1:
        count = min(max(count, 1), len(cells) - 1)
    return {cell: "validation" if i < count else "train" for i, cell in enumerate(cells)}


def without_leaks(places: Sequence[Place], splits: Mapping[str, Split]) -> list[Place]:
    """Leaves out training places that share ground with a validation place (images that overlap across cells)."""
    held = [place for place in places if splits[place.cell] == "validation"]
    if not held:
        return list(places)
    trees = {
        epsg: shapely.STRtree([shapely.box(*p.bounds) for p in held if p.epsg == epsg])
        for epsg in {p.epsg for p in held}
    }
    return [place for place in places if splits[place.cell] == "validation" or not _overlaps(place, trees)]


def _overlaps(place: Place, trees: Mapping[int, shapely.STRtree]) -> bool:
    tree = trees.get(place.epsg)
    if tree is None:
        return False
    west, south, east, north = place.bounds
    slack = 1e-6 * (east - west)  # chips that only touch share nothing
    return bool(len(tree.query(shapely.box(west + slack, south + slack, east - slack, north - slack), "intersects")))


def _rank(seed: int, *parts: str) -> bytes:
    return hashlib.sha256("\x00".join((str(seed), *parts)).encode()).digest()
