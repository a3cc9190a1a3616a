"""What training does to a chip before the model sees it: place, scale, light, atmosphere, and missing bands.

Real imagery varies in more ways than a few hundred chips show. Each change here is one that leaves the land cover as
it is: the crop and its orientation, the size of a pixel, illumination, what an atmospheric correction left or took too
much, the vigour of one class against another, and which bands a sensor has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from spex_core.bands import BAND_INDEX, BAND_SETS, BANDS, SENTINEL2_BANDS

FloatArray = npt.NDArray[np.float32]

# Surface to top-of-atmosphere reflectance, per band: slope and offset of least squares over same-date L1C/L2A pairs.
BOA_TO_TOA: dict[str, tuple[float, float]] = {
    "B02": (0.638, 0.0843), "B03": (0.682, 0.0526), "B04": (0.787, 0.0326), "B05": (0.766, 0.0298),
    "B06": (0.805, 0.0314), "B07": (0.853, 0.0292), "B08": (0.806, 0.0246), "B8A": (0.853, 0.0246),
    "B11": (0.905, 0.0037), "B12": (0.836, 0.0021),
}  # fmt: skip
"""Average atmosphere over four scenes: TOA = slope * BOA + offset (B8A: as B07, with B08's offset)."""

_SLOPE = np.array([BOA_TO_TOA[name][0] for name in SENTINEL2_BANDS], np.float32)[:, None, None]
_OFFSET = np.array([BOA_TO_TOA[name][1] for name in SENTINEL2_BANDS], np.float32)[:, None, None]

SUBSETS: tuple[tuple[str, ...], ...] = (
    *(tuple(band.name for band in BAND_SETS[name]) for name in ("rgb-nir", "hls")),
    ("B02", "B03", "B04", "B08", "B11", "B12"),
    ("B02", "B03", "B04", "B06", "B08", "B11"),
    ("B02", "B03", "B04", "B08", "B8A", "B11"),
    ("B03", "B04", "B08", "B11"),
)
"""Band subsets that training draws most often: those of common sensors."""


@dataclass(frozen=True)
class Chip:
    """A labelled image."""

    reflectance: FloatArray
    """``[10, H, W]`` surface reflectance; NaN throughout a missing band."""
    target: FloatArray
    """``[K, H, W]`` class probabilities."""
    weight: FloatArray
    """``[H, W]``; 0 where there is no label."""
    pixel_m: float = 10.0
    """Side of a pixel, metres."""

    @property
    def gsd_m(self) -> FloatArray:
        """Ground sampling distance of each band, ``[10]``: never finer than the band's own."""
        return np.array([max(self.pixel_m, band.gsd_m) for band in BANDS], np.float32)


def augment(
    chip: tuple[FloatArray, FloatArray, FloatArray],
    crop_px: int,
    rng: np.random.Generator,
    *,
    subsets: float = 0.3,
    colours: float = 1.0,
    coarse: float = 0.2,
) -> Chip:
    """A random view of a chip.

    Args:
        chip: Reflectance ``[10, H, W]`` (NaN: missing band), target ``[K, H, W]``, weight ``[H, W]``.
        crop_px: Side of the view.
        rng: Decides everything.
        subsets: Share of views that lose bands. 0 for models that need all ten.
        colours: Share of views in other vigour, light and air. Less than 1 for chips that vary in these by themselves.
        coarse: Share of views whose pixels are averaged to 20 or 30 m.
    """
    view = _placed(*_scaled_crop(chip, crop_px, coarse, rng), rng)
    reflectance = view.reflectance
    if rng.random() < colours:
        reflectance = _with_other_vigour(view, rng) if rng.random() < 0.5 else reflectance
        reflectance = with_other_light_and_air(reflectance, rng)
    weight = view.weight
    if rng.random() < 0.15:  # as at run time: missing pixels are filled with the tile's mean and not scored
        size = int(rng.integers(crop_px // 8, crop_px // 2))
        y, x = (int(rng.integers(0, crop_px - size)) for _ in range(2))
        reflectance = reflectance.copy()
        reflectance[:, y : y + size, x : x + size] = reflectance.mean((1, 2), keepdims=True)
        weight = weight.copy()
        weight[y : y + size, x : x + size] = 0
    if rng.random() < subsets:
        reflectance = np.where(kept_bands(rng)[:, None, None], reflectance, np.float32(np.nan))
    if np.isnan(reflectance[:, 0, 0]).all():  # the chip had none of the kept bands
        reflectance = view.reflectance
    return replace(view, reflectance=reflectance, weight=weight)


def _scaled_crop(
    chip: tuple[FloatArray, FloatArray, FloatArray], crop_px: int, coarse: float, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """A crop at 10 m or, now and then, averaged to 20 or 30 m pixels."""
    reflectance, target, weight = chip
    height, width = weight.shape
    factor = 1
    if rng.random() < coarse:
        factor = int(rng.integers(2, 4))
    # At 30 m a chip of two crops' width is too small; the rest is mirrored.
    side = min(crop_px * factor, height // factor * factor, width // factor * factor)
    row = int(rng.integers(0, height - side + 1))
    col = int(rng.integers(0, width - side + 1))
    window = (..., slice(row, row + side), slice(col, col + side))
    parts = [array[window] for array in (reflectance, target, weight)]
    if factor > 1:
        small = side // factor
        parts = [
            array.reshape(*array.shape[:-2], small, factor, small, factor).mean((-3, -1), dtype=np.float32)
            for array in parts
        ]
        missing = crop_px - small
        if missing:
            parts = [np.pad(a, [(0, 0)] * (a.ndim - 2) + [(0, missing)] * 2, mode="symmetric") for a in parts]
        parts[2] = (parts[2] > 0.5).astype(np.float32)
    return parts[0], parts[1], parts[2], 10.0 * factor


def _placed(
    reflectance: FloatArray, target: FloatArray, weight: FloatArray, pixel_m: float, rng: np.random.Generator
) -> Chip:
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))

    def place(array: FloatArray) -> FloatArray:
        array = np.rot90(array, turns, axes=(-2, -1))
        # A copy, always: holes are cut into it, and must not stay in the source.
        return np.array(array[..., ::-1] if flip else array, dtype=np.float32, order="C")

    return Chip(place(reflectance), place(target), place(weight), pixel_m)


def _with_other_vigour(chip: Chip, rng: np.random.Generator) -> FloatArray:
    """Each class a little brighter or greener than it was: other species, soils, dates of sowing and growth."""
    gain = rng.normal(0, 0.05, (len(chip.target), 1)) + np.zeros((1, len(BANDS)))
    gain[:, 0:3] += rng.normal(0, 0.06, (len(gain), 1))
    gain[:, 3:4] += rng.normal(0, 0.04, (len(gain), 1))
    gain[:, 4:6] += rng.normal(0, 0.06, (len(gain), 1))
    gain[:, 4:8] += rng.normal(0, 0.09, (len(gain), 1))
    gain[:, 8:10] += rng.normal(0, 0.07, (len(gain), 1))
    return chip.reflectance * np.exp(gain.T.astype(np.float32))[:, chip.target.argmax(0)]


def with_other_light_and_air(reflectance: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Reflectance ``[10, H, W]`` as another processor, canopy, sun or atmosphere would have it."""
    # Sen2Cor, ARCSI, MAJA, iCOR: each band of the same image comes out some percent apart.
    processor = rng.normal(0, 0.05 if rng.random() < 0.7 else 0.015, (10, 1, 1))
    gain = np.exp(rng.normal(0, 0.06) + processor).astype(np.float32)
    # Canopies differ by region in the height of the infrared plateau and, apart from it, in where the red edge lies.
    gain[3:8] *= np.float32(np.exp(rng.normal(0, 0.10)))
    gain[3:6] *= np.exp(rng.normal(0, 0.08) + rng.normal(0, 0.06, (3, 1, 1))).astype(np.float32)
    gain[8:] *= np.float32(np.exp(rng.normal(0, 0.08)))
    reflectance = reflectance * gain
    if rng.random() < 0.4:  # part of an average atmosphere left in (positive) or taken out twice (negative)
        share = np.float32(rng.uniform(-0.25, 0.6))
        reflectance = reflectance * (1 + share * (_SLOPE - 1)) + share * _OFFSET
    else:
        haze = np.float32(max(0.0, rng.normal(0, 0.01))) * np.linspace(1, 0.1, 10, dtype=np.float32)[:, None, None]
        reflectance = reflectance + haze
    reflectance = reflectance + rng.normal(0, 0.003, (10, 1, 1)).astype(np.float32) + np.float32(rng.normal(0, 0.003))
    if rng.random() < 0.3:
        reflectance = reflectance + rng.normal(0, 0.006, reflectance.shape).astype(np.float32)
    return np.asarray(reflectance, np.float32)


def kept_bands(rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which of the ten bands stay: bool ``[10]``, at least three."""
    kept = np.zeros(len(BANDS), bool)
    if rng.random() < 0.65:
        kept[[BAND_INDEX[name] for name in SUBSETS[int(rng.integers(len(SUBSETS)))]]] = True
        return kept
    kept[rng.permutation(len(BANDS))[: int(rng.integers(4, len(BANDS)))]] = True
    return kept
