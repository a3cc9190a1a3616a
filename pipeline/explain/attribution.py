"""What a class at one pixel rests on: parts of the image are deleted, and what that does to the odds is measured.

A part is a group of bands in a place: the spot itself, or the ground in one of eight directions around it. Deleting
puts the mean of the ground around (of each band, over the image that the model is shown) where the part was. That is
what the map itself does with pixels that nobody saw. Nothing is inferred from gradients: every number is the answer of
the model to an image with a part missing.

What is named is deleted together once more, beside as many values taken at random from the same surroundings: an
explanation that does not lower the odds more than chance names nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spex_core.bands import BAND_INDEX

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Scorer = Callable[[FloatArray], FloatArray]
"""float32 ``[10, h, w]``, finite but for missing bands → scores float32 ``[K, h, w]``."""

BAND_GROUPS: dict[str, tuple[str, ...]] = {
    "visible": ("B02", "B03", "B04"),
    "red edge": ("B05", "B06", "B07"),
    "near infrared": ("B08", "B8A"),
    "shortwave infrared": ("B11", "B12"),
}
SPOT_PX = 2
"""The spot is the pixel and so many on each side."""
AROUND_PX = 32
"""Surroundings that are deleted reach so far."""
DIRECTIONS = ("north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west")
SPOT, AROUND = "the spot itself", "everything around it"
NAMED_MAX = 3
"""Most parts that are named."""
NAMED_SHARE = 0.25
"""A part is named if it lowers the log odds by so much of what the strongest part does."""
RANDOM_DRAWS = 5
_FLOOR = 1e-6
"""Scores are held this far from 0 and 1: odds of a million to one are as good as certain."""


@dataclass(frozen=True)
class Part:
    """What is deleted: bands in a place."""

    bands: str
    """A key of :data:`BAND_GROUPS`, or ``all bands``."""
    place: str
    """:data:`SPOT`, :data:`AROUND`, a direction, or ``everywhere``."""


@dataclass(frozen=True)
class Effect:
    """What deleting a part does."""

    part: Part
    odds: float
    """Of the class against all others, without the part."""
    drop: float
    """Natural logarithm of (odds with everything / odds without the part); below 0: the part spoke against the class.
    """


@dataclass(frozen=True)
class Attribution:
    """What one class at one pixel rests on."""

    odds: float
    """Of the class against all others, with everything, on the image that was asked."""
    groups: tuple[Effect, ...]
    """Each group of bands, deleted everywhere."""
    places: tuple[Effect, ...]
    """All bands, deleted in each place; the surroundings as a whole too."""
    named: tuple[Effect, ...]
    """The parts that lower the odds most, strongest first; none where nothing does."""
    without_named: float
    """Odds without all of them together."""
    without_random: tuple[float, ...]
    """Odds without as many values at random, one for each draw."""
    values: int
    """Pixels times bands that the named parts hold."""

    @property
    def faithful(self) -> bool:
        """Whether deleting what is named lowers the odds more than deleting as much at random does on average."""
        if not self.named:
            return False
        return float(np.log(self.without_named)) < float(np.mean(np.log(self.without_random)))


def attribute(image: FloatArray, at: tuple[int, int], channel: int, scorer: Scorer, seed: int = 0) -> Attribution:
    """Measures what a class at a pixel rests on, by some 25 questions to the model.

    Args:
        image: float32 ``[10, h, w]``, no pixel missing; a band that is not read is NaN throughout.
        at: Row and column of the pixel.
        channel: Class asked about, position in the scores.
        scorer: The model.
        seed: Of what is deleted at random.
    """
    asked = _Asked(image, at, channel, scorer)
    groups = [name for name, bands in BAND_GROUPS.items() if asked.read(bands)]
    places = places_around(at, image.shape[1:])
    everywhere = np.logical_or.reduce(list(places.values()))
    of_groups = tuple(asked.effect(Part(name, "everywhere"), everywhere) for name in groups)
    around = everywhere & ~places[SPOT]
    of_places = [asked.effect(Part("all bands", name), pixels) for name, pixels in places.items()]
    if around.any():
        of_places.insert(1, asked.effect(Part("all bands", AROUND), around))
    strongest_groups = [e.part.bands for e in _strongest(of_groups, 2)]
    strongest_places = [e.part.place for e in _strongest([e for e in of_places if e.part.place in places], 3)]
    pairs = dict.fromkeys(itertools.product(strongest_groups, strongest_places))
    pairs |= dict.fromkeys((name, SPOT) for name in groups)
    parts = [asked.effect(Part(bands, place), places[place]) for bands, place in pairs]
    named = [effect for effect in _strongest(parts, NAMED_MAX) if effect.drop > 0]
    named = [effect for effect in named if effect.drop >= NAMED_SHARE * named[0].drop]
    deleted = np.zeros(image.shape, np.bool_)
    for effect in named:
        deleted |= asked.selection(effect.part, places[effect.part.place])
    values = int(np.count_nonzero(deleted))
    rng = np.random.default_rng(seed)
    draws = [asked.odds_without(asked.random(values, everywhere, rng)) for _ in range(RANDOM_DRAWS)] if named else []
    return Attribution(
        odds=asked.odds,
        groups=of_groups,
        places=tuple(of_places),
        named=tuple(named),
        without_named=asked.odds_without(deleted) if named else asked.odds,
        without_random=tuple(draws),
        values=values,
    )


def places_around(at: tuple[int, int], shape: Sequence[int]) -> dict[str, BoolArray]:
    """The spot and the eight directions around it, bool ``[h, w]`` each; directions without a pixel are left out."""
    rows = np.arange(shape[0])[:, None] - at[0]
    columns = np.arange(shape[1])[None, :] - at[1]
    distance = np.maximum(abs(rows), abs(columns))
    near = (distance > SPOT_PX) & (distance <= AROUND_PX)
    # Clockwise from north; each sector is 45 degrees wide and has its direction in the middle.
    sector = np.round(np.degrees(np.arctan2(columns, -rows)) / 45).astype(np.int64) % 8
    found: dict[str, BoolArray] = {SPOT: np.asarray(distance <= SPOT_PX)}
    for number, name in enumerate(DIRECTIONS):
        pixels = near & (sector == number)
        if pixels.any():
            found[name] = pixels
    return found


def odds_of(score: float) -> float:
    """p / (1 - p), within a million to one either way."""
    held = min(max(score, _FLOOR), 1 - _FLOOR)
    return held / (1 - held)


class _Asked:
    """An image that is asked about with parts of it missing."""

    def __init__(self, image: FloatArray, at: tuple[int, int], channel: int, scorer: Scorer) -> None:
        self._image, self._at, self._channel, self._scorer = image, at, channel, scorer
        self._present: BoolArray = np.asarray(np.isfinite(image).all(axis=(1, 2)))
        self._means = np.where(self._present, np.nan_to_num(image).mean(axis=(1, 2), dtype=np.float64), np.nan)
        self.odds = self.odds_without(np.zeros(image.shape, np.bool_))

    def read(self, bands: Sequence[str]) -> bool:
        """Whether one of these bands is there."""
        return any(self._present[BAND_INDEX[name]] for name in bands)

    def selection(self, part: Part, pixels: BoolArray) -> BoolArray:
        """The values of a part, bool ``[10, h, w]``."""
        names = BAND_GROUPS.get(part.bands, tuple(BAND_INDEX))
        chosen = np.zeros(len(self._present), np.bool_)
        chosen[[BAND_INDEX[name] for name in names]] = True
        return (chosen & self._present)[:, None, None] & pixels

    def effect(self, part: Part, pixels: BoolArray) -> Effect:
        """Asks without a part."""
        odds = self.odds_without(self.selection(part, pixels))
        return Effect(part, odds, float(np.log(self.odds / odds)))

    def odds_without(self, deleted: BoolArray) -> float:
        """Odds of the class with some values replaced by the mean of their band."""
        image = np.where(deleted, self._means[:, None, None].astype(np.float32), self._image)
        scores = self._scorer(np.ascontiguousarray(image, np.float32))
        return odds_of(float(scores[(self._channel, *self._at)]))

    def random(self, values: int, pixels: BoolArray, rng: np.random.Generator) -> BoolArray:
        """So many values at random, from some pixels of all bands that are there."""
        pool = np.flatnonzero(self._present[:, None, None] & pixels)
        chosen = np.zeros(self._image.shape, np.bool_)
        chosen.ravel()[rng.choice(pool, min(values, len(pool)), replace=False)] = True
        return chosen


def _strongest(effects: Sequence[Effect], count: int) -> list[Effect]:
    return sorted(effects, key=lambda e: (-e.drop, e.part.bands, e.part.place))[:count]
