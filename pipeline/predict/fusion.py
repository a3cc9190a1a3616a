"""Dates of one place classified one by one, and their scores joined pixel by pixel (docs/decisions/0042).

A pixel's score is the geometric mean of the scores of its clear dates, scaled to sum to one: the mean of their log
probabilities. Means, not sums: dates of one place are not independent witnesses, they share soil, slope and whatever
the model does not know, and a sum would call seven dates of the same mistake certain. Log probabilities are added as
whole numbers, so the order of dates cannot show in a byte.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.predict.stitch import Arrays
from pipeline.records.dated_pixels import DatedPixels

FloatArray = npt.NDArray[np.float32]
Look = tuple[FloatArray, npt.NDArray[np.bool_]]
"""An image float32 ``[10, t, t]``, and the pixels bool ``[t, t]`` that its scores are for."""


def looks(tile: DatedPixels) -> list[int]:
    """What of a tile is classified: numbers of its dates, and 0 for the composite where that alone has a pixel."""
    found = tile.dates()
    return [*found, 0] if not found or _rest(tile).any() else found


def look(tile: DatedPixels, number: int) -> Look:
    """One of the images of :func:`looks`."""
    return tile.image(number) if number else (tile.composite, _rest(tile))


def _rest(tile: DatedPixels) -> npt.NDArray[np.bool_]:
    """Pixels that were observed, but not on one of the dates."""
    observed = ~np.isnan(tile.composite).all(axis=0)
    return np.asarray(observed & (tile.numbers == 0).all(axis=0))


def fused_tiles(
    tiles: Iterable[DatedPixels], score: Callable[[Iterable[FloatArray]], Iterator[Any]], arrays: Arrays
) -> Iterator[Any]:
    """Scores of tiles, each from all of its dates.

    Memory is that of the images of one micro-batch and of one sum of scores. A tile that one image is enough for has
    the scores of that image, to the last bit.

    Args:
        tiles: Their dates.
        score: Classifies images float32 ``[10, t, t]`` in order; see :func:`pipeline.predict.classifier.scored_tiles`.
        arrays: Where scores are summed.

    Yields:
        float32 ``[K, t, t]`` per tile. Where nothing was observed, its values mean nothing.
    """
    asked: deque[tuple[npt.NDArray[np.bool_], int, int]] = deque()
    """Of each image that is under way: its pixels, its place among the images of its tile, how many these are."""

    def images() -> Iterator[FloatArray]:
        for tile in tiles:
            numbers = looks(tile)
            for place, number in enumerate(numbers):
                image, own = look(tile, number)
                asked.append((own, place, len(numbers)))
                yield image

    total: Any = None
    counts = np.zeros(0, np.uint8)
    for scores in score(images()):
        own, place, number = asked.popleft()
        if number == 1:
            yield scores
            continue
        votes = arrays.log_votes(scores, own)
        total = votes if place == 0 else total + votes
        counts = own.astype(np.uint8) if place == 0 else counts + own
        if place == number - 1:
            yield arrays.pooled(total, counts)
            total = None
