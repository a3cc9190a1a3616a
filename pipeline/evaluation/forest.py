"""The per-pixel random forest that a network has to beat: the same bands and indices, the same training labels.

Breiman 2001; the customary classifier of operational land-cover maps before deep networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier

from pipeline.errors import ChipError
from pipeline.evaluation.chips import Chips, LabelledChip
from pipeline.evaluation.config import ForestConfig
from spex_core.indices import SPECTRAL_INDICES, spectral_index
from spex_core.legend import Legend

FloatArray = npt.NDArray[np.float32]


def features(pixels: FloatArray) -> FloatArray:
    """Bands and spectral indices of pixels.

    Args:
        pixels: ``[10, N]``; NaN: missing.

    Returns:
        ``[N, 10 + 8]``, NaN where a band is missing.
    """
    indices = [np.asarray(spectral_index(name, pixels, band_axis=-2), np.float32) for name in SPECTRAL_INDICES]
    return np.column_stack([*pixels, *indices])


class Together:
    """The chips of several sources as one."""

    def __init__(self, parts: Sequence[Chips]) -> None:
        self._places = [(part, index) for part in parts for index in range(len(part))]

    def __len__(self) -> int:
        return len(self._places)

    def chip(self, index: int) -> LabelledChip:
        """See :class:`pipeline.evaluation.sources.Chips`."""
        part, position = self._places[index]
        return part.chip(position)


class Forest:
    """A fitted random forest.

    Args:
        training: Chips whose labels are the asked legend's.
        legend: K classes.
        bands: Channels that may be used, bool ``[10]``; the others count as missing, as in the evaluation.
        config: Size of the forest and of its sample.
        seed: Decides pixels and trees.

    Raises:
        ChipError: The training chips hold no labelled pixel.
    """

    def __init__(
        self, training: Chips, legend: Legend, bands: npt.NDArray[np.bool_], config: ForestConfig, seed: int
    ) -> None:
        pixels, classes = sample_pixels(training, len(legend), config, seed)
        pixels[~bands] = np.nan
        found = features(pixels)
        self._columns = np.isfinite(found).any(axis=0)
        self._classes = len(legend)
        self._forest = RandomForestClassifier(
            n_estimators=config.trees, min_samples_leaf=config.min_leaf, random_state=seed, n_jobs=1
        )
        self._forest.fit(found[:, self._columns], classes)
        self.pixels = len(classes)
        """Pixels it was fitted on."""

    def scores(self, reflectance: FloatArray) -> FloatArray:
        """Class scores of a chip.

        Args:
            reflectance: ``[10, H, W]``; NaN: missing.

        Returns:
            ``[K, H, W]``, sums to 1 over K.
        """
        _, height, width = reflectance.shape
        table = features(reflectance.reshape(len(reflectance), -1))[:, self._columns]
        scores = np.zeros((self._classes, height * width), np.float32)
        scores[self._forest.classes_] = self._forest.predict_proba(table).T
        return scores.reshape(self._classes, height, width)


def sample_pixels(
    training: Chips, classes: int, config: ForestConfig, seed: int
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Labelled pixels, the same number of each class where there are enough, from evenly spread chips.

    Returns:
        Reflectance ``[10, N]`` and class channel ``[N]``.

    Raises:
        ChipError: No labelled pixel.
    """
    rng = np.random.default_rng(seed)
    visited = np.unique(np.linspace(0, len(training) - 1, min(config.chips, len(training))).round().astype(int))
    # Twice the even share from each chip: classes are not in every chip.
    per_chip = max(1, -(-2 * config.pixels_per_class // len(visited)))
    drawn: list[list[FloatArray]] = [[] for _ in range(classes)]
    for index in visited.tolist():
        chip = training.chip(index)
        flat, labels = chip.reflectance.reshape(10, -1), chip.labels.reshape(-1)
        for k in np.unique(labels[labels >= 0]).tolist():
            here = np.flatnonzero(labels == k)
            drawn[k].append(flat[:, rng.choice(here, min(per_chip, len(here)), replace=False)])
    pixels, channels = [], []
    for k, parts in enumerate(drawn):
        if parts:
            found = np.concatenate(parts, axis=1)
            chosen = rng.permutation(found.shape[1])[: config.pixels_per_class]
            pixels.append(found[:, chosen])
            channels.append(np.full(len(chosen), k, np.int64))
    if not pixels:
        raise ChipError("the training chips hold no labelled pixel, so no random forest can be fitted")
    return np.concatenate(pixels, axis=1), np.concatenate(channels)
