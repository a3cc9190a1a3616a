"""Skies over a piece of ground, of every kind that a cloud network should have seen: what covers each pixel is known.

Fields are drawn on a torus by spectral synthesis: a power law of the wave number is what satellite images of clouds
follow over the scales of a tile (Cahalan and Joseph 1989, doi:10.1175/1520-0493(1989)117<0261:FSOCF>2.0.CO;2). The
shadow of a cloud is its own field, moved away from the sun. Only for training: maps are tried under
:class:`~pipeline.simulation.clouds.Clouds`, which knows where in the world it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from spex_core.cloud_classes import CLEAR, SHADOW, SNOW, THICK, THIN

FloatArray = npt.NDArray[np.float32]

SOLID = 0.6
"""Opacity from which a cloud hides the ground."""
VISIBLE = 0.07
"""Opacity from which a veil changes the ground by more than a processor's own errors."""
DARKENED = 0.22
"""Share of direct light lost from which ground lies in a shadow."""
_UNCERTAIN = 0.5
"""Between this share of a limit and the limit, nobody could say."""

# Six bands: blue, green, red, near infrared, two short-wave infrared.
_WATER_CLOUD = np.array([1.00, 0.98, 0.98, 1.02, 0.82, 0.64], np.float32)
_ICE_CLOUD = np.array([1.02, 0.98, 0.95, 0.95], np.float32)
_SKYLIGHT = np.array([0.46, 0.38, 0.33, 0.27, 0.18, 0.15], np.float32)
_FRESH_SNOW = np.array([0.92, 0.92, 0.90, 0.82, 0.12, 0.09], np.float32)
_OLD_SNOW = np.array([0.62, 0.60, 0.57, 0.48, 0.06, 0.04], np.float32)
_FOAM = np.array([1.0, 1.0, 0.97, 0.8, 0.25, 0.15], np.float32)
_HAZE = np.array([1.0, 0.72, 0.52, 0.32, 0.08, 0.04], np.float32)


@dataclass(frozen=True)
class CoveredGround:
    """A tile as it is seen, and what covers it."""

    reflectance: FloatArray
    """float32 ``[6, h, w]``: blue, green, red, near infrared, two short-wave infrared."""
    label: npt.NDArray[np.uint8]
    """uint8 ``[h, w]``, codes of :data:`spex_core.cloud_classes.CLOUD_CLASSES`."""
    weight: FloatArray
    """float32 ``[h, w]``: 0 where no one could tell."""


@dataclass(frozen=True)
class _Layer:
    opacity: FloatArray
    tops: FloatArray
    """float32 ``[6, h, w]``: reflectance of the layer where it is opaque."""
    dimming: FloatArray
    """Share of direct light that its shadow takes, on the ground."""
    height_m: float
    shift_px: tuple[float, float]
    """How far its shadow on the ground lies from it: rows, columns."""


def power_law_field(
    rng: np.random.Generator, size: int, slope: float, outer_px: float, stretch: float = 1.0
) -> FloatArray:
    """A periodic random field, float32 ``[size, size]``, mean 0 and deviation 1.

    Args:
        rng: Source of chance.
        size: Side, pixels.
        slope: Of the power spectrum in two dimensions: 2 rough, 4 smooth.
        outer_px: Longest wave.
        stretch: How much longer its waves are one way (random) than the other.
    """
    kx, ky = fft.rfftfreq(size)[None, :], fft.fftfreq(size)[:, None]
    angle = rng.uniform(0, np.pi)
    along, across = kx * np.cos(angle) + ky * np.sin(angle), ky * np.cos(angle) - kx * np.sin(angle)
    squared = (along * stretch) ** 2 + across**2 + (1.0 / outer_px) ** 2
    spectrum = fft.rfft2(rng.standard_normal((size, size)).astype(np.float32)) * squared ** (-slope / 4)
    spectrum[0, 0] = 0
    field = fft.irfft2(spectrum.astype(np.complex64), (size, size))
    return np.asarray(field / (field.std() + 1e-9), np.float32)


def cover_ground(rng: np.random.Generator, ground: FloatArray) -> CoveredGround:
    """Draws a sky, and perhaps snow, over ground.

    Args:
        rng: Source of chance.
        ground: Reflectance float32 ``[6, size, size]``, without clouds; NaN where not known.
    """
    size = ground.shape[1]
    ground, snow = _snowfall(rng, _varied(rng, ground))
    layers = _sky(rng, size)
    # Processors take the path radiance out of shadows as if the sun shone: of blue, where it is most, little is left.
    sky = _SKYLIGHT * np.exp(rng.normal(-0.25, 0.4)) * np.linspace(rng.uniform(0.05, 1), 1, 6)
    sky = np.clip(sky, 0, 0.85).astype(np.float32)
    light, opacity = np.ones((size, size), np.float32), np.zeros((size, size), np.float32)
    for layer in layers:
        light = light * (1 - layer.dimming)
    dimmed = 1 - light
    seen = ground * (light + dimmed * sky[:, None, None])
    for i, layer in enumerate(layers):  # the highest last
        tops = layer.tops * _light_left(rng, layer, layers[i + 1 :])
        seen = seen * (1 - layer.opacity) + tops * layer.opacity
        opacity = 1 - (1 - opacity) * (1 - layer.opacity)
    label = np.full((size, size), CLEAR, np.uint8)
    label[snow > 0.45] = SNOW
    label[dimmed > DARKENED] = SHADOW
    label[opacity > VISIBLE] = THIN
    label[opacity > SOLID] = THICK
    weight = np.ones((size, size), np.float32)
    weight[(label == SNOW) & (snow < 0.6)] = 0.3
    weight[(label == CLEAR) & (snow > 0.2)] = 0.3
    weight[(opacity > _UNCERTAIN * VISIBLE) & (opacity <= VISIBLE)] = 0
    weight[(dimmed > _UNCERTAIN * DARKENED) & (dimmed <= DARKENED) & (opacity <= VISIBLE)] = 0
    weight[np.isnan(ground[0])] = 0
    return CoveredGround(_measured(rng, seen), label, weight)


# --- ground -------------------------------------------------------------------------------------------------------


def _varied(rng: np.random.Generator, ground: FloatArray) -> FloatArray:
    """Lakes, salt and light are put where the ground has none: what is mistaken for a shadow or a cloud."""
    size = ground.shape[1]
    ground = ground * np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, (6, 1, 1))).astype(np.float32)
    if rng.random() < 0.35:  # water, from clear to muddy, or with the sun in it
        field = power_law_field(rng, size, rng.uniform(3.2, 4.5), rng.uniform(40, 260), rng.uniform(1, 4))
        water = np.array([0.05, 0.045, 0.03, 0.015, 0.006, 0.004], np.float32) * np.float32(rng.uniform(0.3, 1.6))
        if rng.random() < 0.4:
            mud = np.array([0.06, 0.10, 0.11, 0.05, 0.008, 0.005], np.float32)
            water = water + mud * np.float32(rng.uniform(0.2, 1.8))
        if rng.random() < 0.15:
            water = water + np.float32(rng.uniform(0.02, 0.15))
        shore = field - np.quantile(field, 1 - rng.beta(1, 4))
        waves = 1 + 0.04 * rng.standard_normal((size, size)).astype(np.float32)
        ground = np.where(shore > 0, water[:, None, None] * waves, ground)
        if rng.random() < 0.4:
            surf = np.exp(-((shore / rng.uniform(0.005, 0.05)) ** 2)) * np.float32(rng.uniform(0.1, 0.6))
            ground = ground + surf * _FOAM[:, None, None]
    if rng.random() < 0.08:  # salt, sand, roofs, chalk: bright, without a shadow
        field = power_law_field(rng, size, rng.uniform(2.5, 4.5), rng.uniform(10, 200), rng.uniform(1, 3))
        bright = rng.uniform(0.2, 0.6) * np.array([0.8, 0.92, 1.0, 1.08, 1.0, 0.9]) ** rng.uniform(0, 3)
        if rng.random() < 0.4:
            bright = bright * np.array([1, 1, 1, 0.97, 0.7, 0.5]) ** rng.uniform(0.3, 1.5)
        place = field > np.quantile(field, 1 - rng.beta(1, 6))
        ground = np.where(place, bright.astype(np.float32)[:, None, None] * (0.75 * 0.25 * ground + 0.9), ground)
    if rng.random() < 0.25:  # a town: roofs of any colour, some of them white
        ground = _built(rng, ground)
    if rng.random() < 0.3:  # hills: slopes that the sun reaches less
        height = power_law_field(rng, size, rng.uniform(3.0, 3.8), rng.uniform(30, 200), rng.uniform(1, 3))
        across = np.roll(height, 1, 1) - height
        slope = across / (across.std() + 1e-6) * np.float32(rng.uniform(0.05, 0.3))
        ground = ground * np.clip(1 + slope, 0.25, 1.7)
    return np.asarray(ground, np.float32)


def _built(rng: np.random.Generator, ground: FloatArray) -> FloatArray:
    size = ground.shape[1]
    ground = ground.copy()
    place = power_law_field(rng, size, 3.5, rng.uniform(60, 300))
    town = place > np.quantile(place, 1 - rng.uniform(0.05, 0.7))
    for _ in range(int(rng.integers(20, 400))):
        row, col = (int(v) for v in rng.integers(0, size - 12, 2))
        if not town[row, col]:
            continue
        height, width = (int(v) for v in 1 + rng.exponential(2.0, 2).clip(0, 10))
        bright = rng.beta(1.2, 3) * np.array([0.85, 0.93, 1.0, 1.05, 1.0, 0.9]) ** rng.uniform(0, 5)
        ground[:, row : row + height, col : col + width] = bright.astype(np.float32)[:, None, None]
    return ground


def _snowfall(rng: np.random.Generator, ground: FloatArray) -> tuple[FloatArray, FloatArray]:
    size = ground.shape[1]
    if rng.random() > 0.16:
        return ground, np.zeros((size, size), np.float32)
    spectrum = _OLD_SNOW + (_FRESH_SNOW - _OLD_SNOW) * np.float32(rng.uniform(0, 1.1))
    field = power_law_field(rng, size, rng.uniform(2.4, 3.6), rng.uniform(20, 300), rng.uniform(1, 3))
    share = np.clip((field - np.quantile(field, 1 - rng.beta(1.2, 1.2))) / rng.uniform(0.05, 0.8), 0, 1)
    relief = power_law_field(rng, size, 3.2, rng.uniform(20, 120))
    slope = np.roll(relief, 1, 1) - relief
    lit = np.clip(1 + slope / (slope.std() + 1e-6) * np.float32(rng.uniform(0, 0.25)), 0.3, 1.4)
    # Trees stand out of the snow: dark ground shows through.
    share = share * np.float32(rng.uniform(0.6, 1.0))
    snow = spectrum[:, None, None] * lit
    return np.asarray(ground * (1 - share) + snow * share, np.float32), np.asarray(share, np.float32)


# --- sky ----------------------------------------------------------------------------------------------------------


def _sky(rng: np.random.Generator, size: int) -> list[_Layer]:
    """Layers, the lowest first."""
    sun = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(18, 68))
    pixel_m = float(rng.choice([10.0, 20.0, 20.0, 30.0, 60.0]))
    kinds: list[str] = []
    if rng.random() < 0.72:
        kinds.append(str(rng.choice(["cumulus", "cumulus", "masses", "masses", "deck", "veil"])))
        if rng.random() < 0.35:
            kinds.append(str(rng.choice(["veil", "cumulus", "streaks"])))
    elif rng.random() < 0.4:
        kinds.append(str(rng.choice(["veil", "streaks"])))
    kinds.sort(key=["cumulus", "masses", "deck", "veil", "streaks"].index)
    return [_layer(rng, size, kind, sun, pixel_m) for kind in kinds]


def _layer(rng: np.random.Generator, size: int, kind: str, sun: tuple[float, float], pixel_m: float) -> _Layer:
    azimuth, elevation = sun
    if kind == "cumulus":
        field = power_law_field(rng, size, rng.uniform(2.7, 3.9), rng.uniform(8, 70), rng.uniform(1, 1.7))
        cover, height_m, steepness = rng.beta(1.3, 5), rng.uniform(500, 2500), rng.uniform(1.5, 8)
    elif kind == "masses":
        field = power_law_field(rng, size, rng.uniform(2.8, 3.7), rng.uniform(60, 400), rng.uniform(1, 2.5))
        cover, height_m, steepness = rng.beta(1.6, 2), rng.uniform(600, 6000), rng.uniform(2, 10)
    elif kind == "deck":
        field = power_law_field(rng, size, rng.uniform(2.4, 3.4), rng.uniform(20, 200), rng.uniform(1, 2))
        cover, height_m, steepness = rng.uniform(0.75, 1), rng.uniform(400, 3000), rng.uniform(1, 5)
    elif kind == "veil":
        field = power_law_field(rng, size, rng.uniform(3.0, 4.2), rng.uniform(60, 500), rng.uniform(1, 3))
        cover, height_m, steepness = rng.uniform(0.15, 1), rng.uniform(3000, 11000), rng.uniform(0.05, 0.5)
    else:  # streaks of ice
        field = power_law_field(rng, size, rng.uniform(2.8, 3.8), rng.uniform(40, 300), rng.uniform(4, 14))
        cover, height_m, steepness = rng.uniform(0.1, 0.7), rng.uniform(7000, 12000), rng.uniform(0.1, 0.9)
    depth = np.maximum(field - np.float32(np.quantile(field, 1 - cover)), 0) * np.float32(steepness)
    opacity = (1 - np.exp(-depth)).astype(np.float32)
    if kind in ("veil", "streaks"):
        opacity = np.minimum(opacity, np.float32(rng.uniform(0.12, 0.65)))
    reach = min(height_m / np.tan(elevation) / pixel_m, 0.45 * size)
    shift = reach * float(np.cos(azimuth)), -reach * float(np.sin(azimuth))
    shade = np.roll(opacity, (round(shift[0]), round(shift[1])), (0, 1))
    blur = rng.uniform(0.3, 1.0) + height_m / pixel_m * 0.004
    shade = ndimage.gaussian_filter(shade, float(min(blur, 4.0)), mode="wrap")
    dimming = shade * np.float32(rng.uniform(0.75, 1.0))
    return _Layer(opacity, _tops(rng, kind, depth, sun), np.asarray(dimming, np.float32), height_m, shift)


def _light_left(rng: np.random.Generator, layer: _Layer, above: list[_Layer]) -> FloatArray:
    """Light that reaches the tops of a layer, ``[h, w]``: higher clouds shade it, and its own towers its low parts."""
    light = np.ones_like(layer.opacity)
    for higher in above:
        share = max(1 - layer.height_m / higher.height_m, 0.0)
        light = light * (1 - np.float32(rng.uniform(0.5, 0.9)) * _moved(higher.opacity, higher.shift_px, share))
    if rng.random() < 0.5:
        thickness = rng.uniform(0.1, 0.9)
        towers = np.clip(2 * layer.opacity - 1, 0, 1)
        shade = _moved(towers, layer.shift_px, thickness) * (1 - towers)
        light = light * (1 - np.float32(rng.uniform(0.2, 0.9)) * shade)
    return np.asarray(light, np.float32)


def _moved(field: FloatArray, shift_px: tuple[float, float], share: float) -> FloatArray:
    moved = np.roll(field, (round(shift_px[0] * share), round(shift_px[1] * share)), (0, 1))
    return np.asarray(ndimage.gaussian_filter(moved, 1.0, mode="wrap"), np.float32)


def _tops(rng: np.random.Generator, kind: str, depth: FloatArray, sun: tuple[float, float]) -> FloatArray:
    """Reflectance of a layer: brighter where it is deep and faces the sun, grey where it does not."""
    ice = rng.uniform(0.6, 1) if kind in ("veil", "streaks") else rng.choice([0.0, 1.0, rng.uniform()])
    # Grains of a cloud are smaller than those of snow: at 2.2 µm it is no darker than at 1.6.
    absorbed = rng.uniform(0.12, 0.45) * np.array([1.0, rng.uniform(0.9, 1.4)])
    frozen = np.concatenate([_ICE_CLOUD, absorbed])
    spectrum = (1 - ice) * _WATER_CLOUD + ice * frozen
    spectrum = spectrum * np.exp(rng.normal(0, 0.04, 6)) * np.linspace(1, np.exp(rng.normal(0, 0.06)), 6)
    if kind in ("veil", "streaks"):
        bright = np.float32(rng.uniform(0.35, 0.7)) * np.ones_like(depth)
        return np.asarray(spectrum[:, None, None] * bright, np.float32)
    bright = np.float32(rng.uniform(0.32, 0.55)) + np.float32(rng.uniform(0.2, 0.6)) * (1 - np.exp(-0.6 * depth))
    smooth = ndimage.gaussian_filter(depth, float(rng.uniform(0.7, 2.5)), mode="wrap")
    facing = np.cos(sun[0]) * (np.roll(smooth, -1, 0) - smooth) - np.sin(sun[0]) * (np.roll(smooth, -1, 1) - smooth)
    facing = facing / (facing.std() + 1e-6) * np.float32(rng.uniform(0.03, 0.2))
    bright = bright * np.clip(1 + facing, 0.35, 1.5)
    return np.asarray(spectrum[:, None, None] * bright, np.float32)


def _measured(rng: np.random.Generator, seen: FloatArray) -> FloatArray:
    """What a processor delivers: haze left in (all of it, for values from the top of the atmosphere), gains, noise."""
    if rng.random() < 0.35:
        loss = np.array([0.64, 0.68, 0.79, 0.84, 0.90, 0.84], np.float32) ** np.float32(rng.uniform(0.3, 1.1))
        path = np.array([0.084, 0.052, 0.032, 0.024, 0.004, 0.002], np.float32) * np.float32(rng.uniform(0.3, 1.6))
        seen = seen * loss[:, None, None] + path[:, None, None]
    elif rng.random() < 0.5:
        haze = np.float32(rng.uniform(-0.015, 0.05)) * _HAZE
        seen = seen * (1 - np.abs(haze))[:, None, None] + haze[:, None, None]
    gain = np.exp(rng.normal(0, 0.06) + rng.normal(0, 0.03, 6)).astype(np.float32)
    offset = rng.normal(0, 0.004, 6).astype(np.float32)
    noise = rng.standard_normal(seen.shape).astype(np.float32) * np.float32(rng.uniform(0.0005, 0.004))
    seen = seen * gain[:, None, None] + offset[:, None, None] + noise
    if rng.random() < 0.12:  # older sensors saturate over cloud, most of all in the visible
        limit = np.concatenate([rng.uniform(0.32, 0.9, 3), rng.uniform(0.45, 1.2, 3)]).astype(np.float32)
        seen = np.minimum(seen, limit[:, None, None])
    return np.asarray(seen, np.float32)
