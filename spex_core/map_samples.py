"""Training samples of the stage that describes maps: a map with errors, in words of some legend, asked about and
answered.

At run time the language model is asked about a map that a model drew, so its attributes come from a map with errors,
and what it says is held against that map. So question and answer are both measured on the labels of a chip after they
were bent, confused and coarsened; the image shows the ground as it is. Legends vary: classes go by other words, and two
may be one class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spex_core.answers import describe_facts
from spex_core.augmentation import Chip
from spex_core.label_facts import class_facts
from spex_core.legend import Legend
from spex_core.map_prompts import MAP_RECORDS, map_question

OTHER_WORDS: dict[str, tuple[str, ...]] = {
    "tree": ("forest", "woodland", "tree cover", "mangrove", "orchard", "woods", "rainforest"),
    "shrubland": ("shrub", "scrub", "heath", "savanna", "bushes", "bushland", "moorland"),
    "grassland": ("grass", "meadow", "pasture", "rangeland", "herbaceous", "prairie", "steppe"),
    "cropland": ("crop", "field", "farmland", "agriculture", "vineyard", "rice paddy", "arable land"),
    "built-up": (
        "urban",
        "settlement",
        "building",
        "impervious",
        "artificial surface",
        "city",
        "town",
        "houses",
        "road",
    ),
    "bare ground": ("bare", "barren", "sand", "rock", "desert", "bare soil", "gravel"),
    "snow and ice": ("snow", "ice", "glacier", "snowfield"),
    "water": ("open water", "lake", "river", "sea", "water body", "reservoir", "ocean"),
    "wetland": ("marsh", "flooded vegetation", "swamp", "reed", "bog", "peatland"),
}
"""What other legends and people call a class of the default one."""
JOINT_WORDS: tuple[str, ...] = ("vegetation", "natural", "other", "open land", "green")
"""What two classes together may be called."""
NO_CLASS: tuple[str, ...] = (
    "music", "tuesday", "engine", "people", "yellow", "zebra", "window", "price", "shadow", "haze", "truck", "train",
    "wind turbines", "parking lot", "swimming pool", "power line", "a red car", "tents", "cattle", "smoke",
    "plorg", "vixt", "mub tran", "qeld", "zzu", "hrim", "tolp frn", "ksw", "wubble", "ograd", "fnix lu", "drzz",
)  # fmt: skip
"""Words and letters that stand for no class of land."""
QUESTIONS = 5
"""Classes that are asked about in one view, one of them absent where one is."""
_RENAMED, _JOINED, _WHOLE, _FULL = 0.6, 0.2, 0.9, 0.7
_LEAST_SHARE = 0.001

CodeArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MapSample:
    """Questions about one view and their answers."""

    questions: list[str]
    answers: list[str]
    words: list[int]
    """Which word of :func:`vocabulary` each asks about."""


def vocabulary(legend: Legend) -> tuple[str, ...]:
    """The legend's own nouns in order, then all others that samples may use, then what stands for no class."""
    own = [entry.noun for entry in legend]
    others = [word for noun in own for word in OTHER_WORDS.get(noun, ())]
    return tuple(dict.fromkeys([*own, *others, *JOINT_WORDS, *NO_CLASS]))


def meanings(legend: Legend) -> tuple[int | None, ...]:
    """Position of the class that each word of :func:`vocabulary` means; None: of no class."""
    own = [entry.noun for entry in legend]
    meant = {word: k for k, noun in reversed([*enumerate(own)]) for word in (*OTHER_WORDS.get(noun, ()), noun)}
    meant |= {noun: k for k, noun in enumerate(own)}
    return tuple(meant.get(word) for word in vocabulary(legend))


def map_sample(legend: Legend, chip: Chip, rng: np.random.Generator) -> MapSample:
    """A sample of one view.

    Args:
        legend: K classes of the chip.
        chip: Image and labels.
        rng: Decides everything.
    """
    observed = chip.weight > 0
    codes = with_errors(np.where(observed, chip.target.argmax(0), -1), len(legend), rng)
    nouns = _nouns(legend, rng)
    if rng.random() < _JOINED and len(nouns) > QUESTIONS:
        kept, gone = (int(k) for k in rng.permutation(len(nouns))[:2])
        codes[codes == gone] = kept
        nouns[kept] = JOINT_WORDS[int(rng.integers(len(JOINT_WORDS)))]
        nouns[gone] = ""  # not a class of this legend
    whole, full = bool(rng.random() < _WHOLE), bool(rng.random() < _FULL)
    records = MAP_RECORDS if whole else int(rng.integers(1, MAP_RECORDS + 1))
    known = vocabulary(legend)
    sample = MapSample([], [], [])
    masks = {k: codes == k for k, noun in enumerate(nouns) if noun}
    for k in _asked(codes, list(masks), rng):
        others = {nouns[other]: mask for other, mask in masks.items() if other != k}
        facts = class_facts(masks[k], chip.reflectance, others, codes >= 0)
        sample.questions.append(map_question(nouns[k], facts, whole=whole, records=records))
        sample.answers.append(describe_facts(nouns[k], facts, rng, full=full, objects=records))
        sample.words.append(known.index(nouns[k]))
    return sample


def with_errors(codes: CodeArray, classes: int, rng: np.random.Generator) -> CodeArray:
    """A label map as a model might have drawn it: borders bent, patches confused, single pixels wrong, detail lost.

    Args:
        codes: int64 ``[H, W]``, 0..K-1, or -1 where nothing is known, which stays so.
        classes: K.
        rng: Decides which of these, and how much.
    """
    drawn = codes.copy()
    shape = codes.shape
    if rng.random() < 0.5:
        shift = [_smooth(shape, 4.0, rng) * rng.uniform(0.5, 2.5) for _ in range(2)]
        at = [grid + by for grid, by in zip(np.mgrid[: shape[0], : shape[1]], shift, strict=True)]
        drawn = ndimage.map_coordinates(drawn, at, order=0, mode="nearest")
    if rng.random() < 0.5:
        wrong = _smooth(shape, rng.uniform(3, 12), rng) > rng.uniform(0.8, 2.0)
        present = np.unique(drawn[drawn >= 0])
        if len(present):
            taken = int(present[rng.integers(len(present))])
            drawn[wrong & (drawn == taken)] = int(rng.integers(classes))
    if rng.random() < 0.4:
        factor = int(rng.integers(2, 5))
        rows, cols = (np.arange(side) // factor * factor for side in shape)
        drawn = drawn[np.ix_(rows, cols)]
    if rng.random() < 0.4:
        single = rng.random(shape) < rng.uniform(0, 0.02)
        drawn[single] = np.roll(drawn, tuple(rng.integers(-20, 21, 2)), (0, 1))[single]
    return np.where(codes < 0, -1, np.where(drawn < 0, codes, drawn))


def _smooth(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Smooth noise of mean 0 and deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return np.asarray(noise / max(float(noise.std()), 1e-9), np.float64)


def _nouns(legend: Legend, rng: np.random.Generator) -> list[str]:
    """The legend's nouns, or other words for them; all different."""
    nouns = [entry.noun for entry in legend]
    if rng.random() < _RENAMED:
        for k, noun in enumerate(nouns):
            words = (noun, *OTHER_WORDS.get(noun, ()))
            nouns[k] = words[int(rng.integers(len(words)))]
    return nouns


def _asked(codes: CodeArray, classes: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Which classes are asked about: larger ones more often, and one that is absent, in random order."""
    shares = np.array([(codes == k).mean() for k in classes])
    order = rng.permutation(len(classes))
    rank = np.sqrt(shares) * rng.random(len(classes))
    present = [i for i in np.argsort(-rank, kind="stable") if shares[i] >= _LEAST_SHARE]
    absent = [int(i) for i in order if shares[i] == 0]
    chosen = [*present[: QUESTIONS - bool(absent)], *absent]
    chosen += [i for i in order if i not in chosen]
    count = min(QUESTIONS, len(classes))
    return [classes[int(i)] for i in rng.permutation(np.array(chosen[:count]))]
