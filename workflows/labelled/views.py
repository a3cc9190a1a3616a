"""Training views of labelled land: two overlapping looks at one place, as different passes and tiles would show it.

What may differ between two maps of the same ground, and must not change them, differs between the two looks: where the
tile's border lies, the light, the air, the level of the dark, the bands and their centres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spex_core.augmentation import kept_bands, with_other_light_and_air
from spex_core.bands import BANDS, LANDSAT_BANDS, band_slots

FloatArray = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint16]

WAVELENGTHS = np.array([band.wavelength_nm for band in BANDS], np.float32)
OWN_GSD = np.array([band.gsd_m for band in BANDS], np.float32)
SHIFTED = 70.0
"""No band centre is drawn farther than this from Sentinel-2's, nm."""
DARK = 0.3
"""Share of looks with a dark level that was not taken away, or taken away twice."""
FEWER_BANDS = 0.35
"""Share of looks at ten bands that lose some."""
TRIES = 12
"""Draws of a place before one with few labels is taken."""
ENOUGH = 0.05
"""Share of labelled pixels from which on a place is taken at once."""
FINER_FROM_M = 15.0
"""Coarser images are read twice by the model: as they are, and with pixels half the size."""


@dataclass(frozen=True)
class Ground:
    """Land with labels, ready to be looked at."""

    name: str
    reflectance: FloatArray
    """``[10, H, W]``; NaN throughout a missing band, elsewhere finite."""
    possible: Bits
    """``[H, W]``; bit k: the pixel may be channel k of the legend; 0: nothing is said."""
    pixel_m: float = 10.0
    wavelength_nm: FloatArray | None = None
    """``[10]``; None: Sentinel-2's."""
    say: float = 1.0
    """Weight of its labels."""


@dataclass(frozen=True)
class Look:
    """One view."""

    reflectance: FloatArray
    """``[10, S, S]``."""
    possible: Bits
    """``[S, S]``."""
    wavelength_nm: FloatArray
    gsd_m: FloatArray
    say: float


@dataclass(frozen=True)
class Pair:
    """Two looks at one place."""

    looks: tuple[Look, Look]
    common: tuple[tuple[slice, slice], tuple[slice, slice]]
    """Rows and columns of the common ground in each."""


def look_twice(ground: Ground, size_px: int, shift_px: int, rng: np.random.Generator, coarse: float = 0.0) -> Pair:
    """Draws a place of some ground and looks at it twice.

    Args:
        ground: What is looked at; mirrored where it is smaller than a view.
        size_px: Side of a view.
        shift_px: Largest shift between the two, less than ``size_px``.
        rng: Decides everything.
        coarse: Chance that 10 m pixels are averaged to 20 or 30 m.
    """
    pixel_m, factor = ground.pixel_m, 1
    if pixel_m <= 10 and rng.random() < coarse:
        factor = int(rng.integers(2, 4))
    pixels, possible = _drawn(ground, (size_px + shift_px) * factor, rng)
    if factor > 1:
        pixels, possible = _averaged(pixels, possible, factor)
        pixel_m *= factor
    finer = 1
    if pixel_m >= FINER_FROM_M and rng.random() < 0.5:
        finer = 2
    if finer == 2:
        side = -(-(size_px + shift_px) // 2)
        row, col = (int(rng.integers(0, length - side + 1)) for length in possible.shape)
        pixels, possible = pixels[:, row : row + side, col : col + side], possible[row : row + side, col : col + side]
        pixels = _doubled(pixels)
        possible = possible.repeat(2, axis=0).repeat(2, axis=1)
        pixel_m /= 2
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    pixels, possible = np.rot90(pixels, turns, axes=(-2, -1)), np.rot90(possible, turns)
    if flip:
        pixels, possible = pixels[..., ::-1], possible[..., ::-1]
    shifts = rng.integers(0, shift_px + 1, (2, 2))
    looks = []
    for row, col in shifts.tolist():
        window = (slice(row, row + size_px), slice(col, col + size_px))
        looks.append(_look(ground, pixels[(slice(None), *window)], possible[window], pixel_m, rng))
    (row1, col1), (row2, col2) = shifts.tolist()
    rows, cols = _common(row1, row2, size_px), _common(col1, col2, size_px)
    return Pair((looks[0], looks[1]), ((rows[0], cols[0]), (rows[1], cols[1])))


def _drawn(ground: Ground, side: int, rng: np.random.Generator) -> tuple[FloatArray, Bits]:
    """A window with labels, mirrored where the ground is smaller."""
    height, width = ground.possible.shape
    best, most = (0, 0), -1.0
    for _ in range(TRIES):
        row, col = (int(rng.integers(0, max(length - side, 0) + 1)) for length in (height, width))
        share = float((ground.possible[row : row + side : 4, col : col + side : 4] > 0).mean())
        if share > most:
            best, most = (row, col), share
        if share > ENOUGH:
            break
    row, col = best
    window = (slice(row, row + side), slice(col, col + side))
    pixels, possible = ground.reflectance[(slice(None), *window)], ground.possible[window]
    if pixels.shape[1:] != (side, side):
        first = [int(rng.integers(0, side - length + 1)) for length in possible.shape]
        pad = [(before, side - length - before) for before, length in zip(first, possible.shape, strict=True)]
        pixels = np.pad(pixels, ((0, 0), *pad), mode="symmetric")
        possible = np.pad(possible, pad, mode="symmetric")
    return pixels, possible


def _averaged(pixels: FloatArray, possible: Bits, factor: int) -> tuple[FloatArray, Bits]:
    """Means of blocks; a block of several labels keeps none."""
    side = possible.shape[0] // factor
    blocks = pixels.reshape(len(pixels), side, factor, side, factor)
    own = possible.reshape(side, factor, side, factor).transpose(0, 2, 1, 3).reshape(side, side, -1)
    same = (own == own[..., :1]).all(axis=-1)
    return blocks.mean(axis=(2, 4), dtype=np.float32), np.where(same, own[..., 0], 0).astype(np.uint16)


def _doubled(pixels: FloatArray) -> FloatArray:
    """Twice the pixels, bilinear."""
    present = ~np.isnan(pixels[:, 0, 0])
    out = np.full((len(pixels), 2 * pixels.shape[1], 2 * pixels.shape[2]), np.nan, np.float32)
    out[present] = ndimage.zoom(pixels[present], (1, 2, 2), order=1, mode="nearest", grid_mode=True)
    return out


def _look(ground: Ground, pixels: FloatArray, possible: Bits, pixel_m: float, rng: np.random.Generator) -> Look:
    own = WAVELENGTHS if ground.wavelength_nm is None else ground.wavelength_nm
    if rng.random() < 0.85:
        pixels = with_other_light_and_air(pixels, rng)
    if rng.random() < DARK:
        pixels = pixels + np.float32(rng.uniform(-0.03, 0.03))
    bands = ~np.isnan(pixels[:, 0, 0])
    if rng.random() < FEWER_BANDS and bands.all():
        bands = kept_bands(rng)
        pixels = np.where(bands[:, None, None], pixels, np.float32(np.nan))
    return Look(
        np.ascontiguousarray(pixels, np.float32),
        np.ascontiguousarray(possible),
        _centres(own, rng),
        np.maximum(OWN_GSD, np.float32(pixel_m)) if pixel_m > 10 else OWN_GSD,
        ground.say,
    )


def _landsat() -> FloatArray:
    centres = WAVELENGTHS.copy()
    slots, bands = band_slots(LANDSAT_BANDS)
    centres[list(slots)] = [band.wavelength_nm for band in bands]
    return centres


_LANDSAT = _landsat()


def _centres(own: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Band centres as some sensor of the kind has them: neighbours must answer alike."""
    other = _LANDSAT if own is WAVELENGTHS else WAVELENGTHS
    share = np.float32(rng.uniform() if rng.random() < 0.5 else 0.0)
    jitter = rng.normal(0, 4, len(BANDS)).astype(np.float32)
    centres = own + share * (other - own) + jitter
    return np.clip(centres, WAVELENGTHS - SHIFTED + 1, WAVELENGTHS + SHIFTED - 1).astype(np.float32)


def _common(first: int, second: int, size: int) -> tuple[slice, slice]:
    """Rows that two views have in common, in each."""
    start, stop = max(first, second), min(first, second) + size
    return slice(start - first, stop - first), slice(start - second, stop - second)
