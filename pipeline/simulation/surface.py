"""Reflectance of the ground in one window at one time of year, before the sensor sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.simulation.biomes import Biome
from pipeline.simulation.landscape import (
    BARE,
    BUILT,
    CROP,
    GRASS,
    SHRUB,
    SNOW,
    TREES,
    WATER,
    WETLAND,
    Cover,
)
from pipeline.simulation.noise import unit
from pipeline.simulation.spectra import MATERIAL, FloatArray, bump, crop_state


@dataclass(frozen=True)
class Light:
    """Illumination of one acquisition."""

    sun_azimuth_deg: float
    sun_elevation_deg: float
    relief: float = 0.5
    """Share of the topographic shading that atmospheric correction leaves in the image."""


@dataclass(frozen=True)
class _Mix:
    """Three materials and their shares per pixel of one class (flat arrays)."""

    first: npt.NDArray[np.int64] | int
    second: npt.NDArray[np.int64] | int
    third: npt.NDArray[np.int64] | int
    second_share: FloatArray
    third_share: FloatArray
    brightness: FloatArray


class _Pixels:
    """The pixels of one class, flattened, with their noise fields and draws per patch."""

    def __init__(self, cover: Cover, chosen: npt.NDArray[np.bool_]) -> None:
        self.fine = cover.fine[chosen]
        self.clumps = cover.clumps[chosen]
        self.mottle = cover.mottle[chosen]
        self.broad = cover.broad[chosen]
        self.rows = cover.rows[chosen]
        self.margin_m = cover.margin_m[chosen]
        self.street = cover.street[chosen]
        self.depth = cover.depth[chosen]
        self._patch = cover.patch[chosen]

    def draw(self, salt: int) -> FloatArray:
        """Uniform in [0, 1), equal for all pixels of a patch."""
        return unit(self._patch, 100 + salt)


def _f(value: float) -> np.float32:
    return np.float32(value)


def _pick(draw: FloatArray, *choices: tuple[float, str]) -> npt.NDArray[np.int64]:
    """Chooses a material by cumulative share."""
    edges = np.cumsum([share for share, _ in choices])[:-1]
    return np.asarray([MATERIAL[name] for _, name in choices])[np.searchsorted(edges, draw, side="right")]


def _share(value: FloatArray) -> FloatArray:
    return np.clip(value, 0.0, 1.0)


def _second_draw(field: FloatArray) -> FloatArray:
    """Another uniform draw in [0, 1) out of the low bits of a per-pixel one: cheaper than a second field."""
    scaled = field * _f(1553.0)
    fraction: FloatArray = scaled - np.floor(scaled)
    return fraction


def _regional(p: _Pixels, salt: int, sign: float = 1.0) -> FloatArray:
    """A draw per patch that leans the same way over a kilometre or so; close to uniform."""
    leaning: FloatArray = _share(_f(0.5) + _f(0.6) * (p.draw(salt) - _f(0.5)) + _f(0.2 * sign) * p.broad)
    return leaning


def _soil(p: _Pixels, biome: Biome) -> npt.NDArray[np.int64]:
    d = biome.sandy
    place = _share(p.draw(1) * _f(0.7) + _f(0.15) + _f(0.12) * p.broad)
    return _pick(place, (0.45 * (1 - d), "soil_dark"), (0.5 - 0.1 * d, "soil_brown"), (0.2 + 0.2 * d, "soil_light"),
                 (1.0, "sand_red"))  # fmt: skip


def _trees(p: _Pixels, biome: Biome, season: float) -> _Mix:
    # Neighbouring stands resemble each other: soil and forester are the same.
    conifer = _regional(p, 2) < _f(biome.conifer)
    # Stands come into leaf within about a month of each other; young leaves reflect most in the near infrared.
    phase = (_f(season) + _f(0.08) * (p.draw(7) - _f(0.5))).astype(np.float32)
    leaf = np.ones_like(phase) if biome.evergreen else bump(phase, 0.24, 0.34, 0.76, 0.88)
    young = _regional(p, 8, -1.0) < (_f(0.2) + _f(0.6) * bump(phase, 0.22, 0.30, 0.46, 0.60))
    broad = np.where(young, MATERIAL["broadleaf_fresh"], MATERIAL["evergreen" if biome.evergreen else "broadleaf"])
    canopy = np.where(conifer, MATERIAL["conifer"], broad)
    bare_crowns = np.where(conifer, _f(0.0), (_f(1.0) - leaf) * (_f(0.85) + _f(0.1) * p.mottle))
    # Every fourth stand is mixed: broad leaves among conifers and the other way round, tree by tree.
    mixed = (p.draw(9) < _f(0.25)) & (p.fine + _f(0.6) * p.clumps > _f(0.25))
    canopy = np.where(mixed, np.where(conifer, broad, MATERIAL["conifer"]), canopy)
    bare_crowns = np.where(mixed, np.where(conifer, (_f(1.0) - leaf) * _f(0.85), _f(0.0)), bare_crowns)
    gaps = _f(0.06) + _f(0.25) * _f(biome.dryness) * p.draw(3) + _f(0.03) * p.mottle + _f(0.02) * p.fine
    # Crowns and the shadows between them: the strong texture of a forest at 10 m, finer in young stands.
    brightness = (
        _f(1.0)
        + (_f(0.05) + _f(0.09) * p.draw(4)) * p.clumps
        + (_f(0.13) + _f(0.14) * p.draw(10)) * p.fine
        + _f(0.18) * (p.draw(5) - _f(0.5))
    )
    undergrowth = np.where(
        p.draw(6) < _f(0.5), MATERIAL["shrub_green"], MATERIAL["grass_dry" if biome.dryness > 0.3 else "grass_green"]
    )
    return _Mix(canopy, MATERIAL["twigs"], undergrowth, _share(bare_crowns), _share(gaps), brightness)


def _shrub(p: _Pixels, biome: Biome, season: float) -> _Mix:
    dry = (
        _f(0.25 + 0.6 * biome.dryness)
        + _f(0.25) * (p.draw(2) - _f(0.5))
        - _f(0.2 * float(bump(season, 0.2, 0.35, 0.6, 0.8)))
    )
    ground = np.where(p.draw(3) < _f(0.35 + 0.4 * biome.dryness), _soil(p, biome), MATERIAL["grass_dry"])
    open_ground = (
        _f(0.32) + _f(0.25) * _f(biome.dryness) + _f(0.16) * p.clumps + _f(0.07) * p.mottle + _f(0.06) * p.fine
    )
    texture = _f(0.09) * p.clumps + (_f(0.06) + _f(0.16) * p.draw(5)) * p.fine
    brightness = _f(1.0) + texture + _f(0.2) * (p.draw(4) - _f(0.5))
    dry = _share(dry + _f(0.08) * p.mottle) * (_f(1.0) - _share(open_ground))
    return _Mix(MATERIAL["shrub_green"], MATERIAL["shrub_dry"], ground, dry, _share(open_ground), brightness)


def _grass(p: _Pixels, biome: Biome, season: float) -> _Mix:
    lush = 1.0 - 0.9 * biome.dryness * (1.0 - 0.5 * float(bump(season, 0.05, 0.15, 0.3, 0.45)))
    winter = 0.35 * (1.0 - float(bump(season, 0.15, 0.3, 0.75, 0.95))) * (1.0 - biome.aseasonal)
    dry = _f(1.0 - lush + winter) + _f(0.5) * (p.draw(2) - _f(0.45)) + _f(0.10) * p.mottle + _f(0.03) * p.clumps
    soil = _f(0.02) + _f(0.25 * biome.dryness) * p.draw(3) + _f(0.04) * p.mottle
    # Meadows are smooth, rough grazing is tussocky.
    rough = _f(0.3) + p.draw(6)
    texture = _f(0.05) * p.mottle + (_f(0.035) * p.clumps + _f(0.08) * p.fine) * rough
    brightness = _f(1.0) + texture + _f(0.18) * (p.draw(4) - _f(0.5))
    soil = _share(soil)
    # Improved pasture: dense, fertilised, up to half of the light returned in the near infrared.
    lush_sward = p.draw(5) < _f(0.6 * (1.0 - biome.dryness) * (0.4 + 0.6 * float(bump(season, 0.15, 0.28, 0.5, 0.8))))
    return _Mix(
        np.where(lush_sward, MATERIAL["grass_lush"], MATERIAL["grass_green"]),
        MATERIAL["grass_dry"],
        _soil(p, biome),
        _share(dry) * (_f(1.0) - soil),
        soil,
        brightness,
    )


def _crop(p: _Pixels, biome: Biome, season: float) -> _Mix:
    kind = p.draw(2)
    edges = np.asarray([0.34, 0.46, 0.66, 0.80, 0.92])
    crop = np.searchsorted(edges, kind, side="right")
    shift = np.where(p.draw(3) < _f(biome.aseasonal), p.draw(4), (p.draw(4) - _f(0.5)) * _f(0.12))
    green, ripe, flower = crop_state(crop, (_f(season) + shift).astype(np.float32))
    vigour = _f(0.75) + _f(0.35) * p.draw(5) + _f(0.05) * p.mottle + _f(0.025) * p.rows
    vigour = vigour * (_f(1.0) - _f(0.4 * biome.dryness) * p.draw(6))
    green, ripe = _share(green * vigour), _share(ripe)
    # A headland or grass track runs round most parcels.
    headland = p.margin_m < _f(6.0)
    green = np.where(headland, np.maximum(green * _f(0.5), _f(0.45)), green)
    ripe = np.minimum(np.where(headland, _f(0.3), ripe), _f(1.0) - green)
    canopy = np.where(flower > _f(0.4), MATERIAL["crop_flower"], MATERIAL["crop_green"])
    dead = np.where(p.draw(7) < _f(0.5), MATERIAL["crop_ripe"], MATERIAL["stubble"])
    moisture = _f(1.0) + _f(0.06) * p.mottle + _f(0.03) * p.rows + _f(0.012) * p.fine + _f(0.24) * (p.draw(8) - _f(0.5))
    soil = _share(_f(1.0) - green - ripe)
    return _Mix(canopy, dead, _soil(p, biome), ripe, soil, moisture)


def _built(p: _Pixels, biome: Biome, season: float) -> _Mix:
    industrial = p.draw(2) < _f(0.14)
    house_draw = _second_draw(p.fine)
    tiled = _f(0.15) + _f(0.7) * p.draw(3)
    house = np.where(house_draw < tiled, MATERIAL["roof_tile"], MATERIAL["roof_grey"])
    house = np.where(house_draw > _f(0.94), MATERIAL["roof_bright"], house)
    hall = _pick(p.draw(4), (0.35, "roof_bright"), (0.35, "roof_grey"), (0.3, "concrete"))
    roof = np.where(industrial, hall, house)
    paving = _pick(p.draw(5), (0.6, "asphalt"), (0.25, "concrete"), (0.15, "soil_light"))
    garden = np.where(
        p.draw(6) < _f(0.35 + 0.5 * biome.dryness),
        MATERIAL["grass_dry"],
        np.where(
            _second_draw(p.fine * _f(0.37)) < _f(0.55) + _f(0.2) * p.clumps,
            MATERIAL["broadleaf" if 0.28 < season < 0.86 or biome.evergreen else "twigs"],
            MATERIAL["grass_green"],
        ),
    )
    # From leafy suburb to old town block by block, but a single pixel holds a house, a yard or a tree.
    density = np.where(industrial, _f(0.80), _f(0.36) + _f(0.18) * p.draw(7)) + _f(0.52) * p.fine
    green = np.where(industrial, _f(0.06), _f(0.46) - _f(0.30) * p.draw(7)) + _f(0.08) * p.clumps
    green = green - _f(0.28) * p.fine * np.where(industrial, _f(0.2), _f(1.0))
    green = _share(np.where(p.street, _f(0.14) + _f(0.06) * p.clumps, green))
    density = np.where(p.street, _f(0.08), _share(density)) * (_f(1.0) - green)
    # Lit and shaded sides of houses.
    glint = _second_draw(p.fine * _f(0.73)) * _f(2.0) - _f(1.0)
    brightness = _f(0.95) + _f(0.58) * glint + _f(0.04) * p.clumps + _f(0.08) * (p.draw(8) - _f(0.5))
    brightness = np.where(p.street, _f(1.0) + _f(0.12) * glint, brightness)
    return _Mix(roof, paving, garden, _share(_f(1.0) - green - density), green, brightness)


def _bare(p: _Pixels, biome: Biome, season: float) -> _Mix:
    s = biome.sandy
    rock = _pick(p.draw(2), (0.22 - 0.15 * s, "rock_grey"), (0.14 - 0.06 * s, "rock_dark"), (0.16, "rock_light"),
                 (0.16, "rock_brown"), (0.14 - 0.06 * s, "gravel"), (0.04 + 0.16 * s, "sand"), (0.08, "soil_light"),
                 (1.0, "sand_red"))  # fmt: skip
    beach = p.depth > _f(-0.3)
    rock = np.where(beach, np.where(p.draw(5) < _f(0.75), MATERIAL["sand"], MATERIAL["gravel"]), rock)
    soil = np.where(beach, rock, _soil(p, biome))
    sandy = (rock == MATERIAL["sand"]) | (rock == MATERIAL["sand_red"])
    second = _share(_f(0.35) + _f(0.15) * p.mottle + _f(0.12) * p.clumps)
    sparse = _share(_f(0.05) + _f(0.07) * p.clumps + _f(0.05) * p.fine + _f(0.10) * (p.draw(3) - _f(0.3)))
    # Sand is smooth but for its dunes; rock and rubble cast shadows at every size.
    brightness = (
        _f(1.0)
        + np.where(sandy, _f(0.03), _f(0.07)) * p.clumps
        + np.where(sandy, _f(0.07), _f(0.06)) * p.mottle
        + np.where(sandy, _f(0.02), _f(0.02) + _f(0.07) * p.draw(6)) * p.fine
        + _f(0.22) * (p.draw(4) - _f(0.5))
    )
    # The swash zone is wet, and wet sand is dark.
    brightness = np.where(beach, brightness * (_f(1.0) - _f(0.4) * _share(_f(1.0) + p.depth * _f(14.0))), brightness)
    return _Mix(rock, soil, MATERIAL["shrub_dry"], second * (_f(1.0) - sparse), sparse, brightness)


def _snow(p: _Pixels, biome: Biome, season: float) -> _Mix:
    old = _share(
        _f(0.25 + 0.6 * float(bump(season, 0.3, 0.5, 0.65, 0.8))) + _f(0.2) * p.mottle + _f(0.3) * (p.draw(2) - _f(0.5))
    )
    second = np.where(p.draw(3) < _f(0.3), MATERIAL["ice"], MATERIAL["snow_old"])
    rock = _share(_f(0.05) + _f(0.2) * p.draw(5) + _f(0.16) * (p.clumps - _f(0.4)) + _f(0.05) * p.fine)
    # Wind crusts and the shade of boulders and crevasses.
    texture = _f(0.06) * p.mottle + _f(0.06) * p.clumps + _f(0.11) * p.fine
    brightness = _f(0.85) + texture + _f(0.24) * (p.draw(4) - _f(0.5))
    return _Mix(MATERIAL["snow_fresh"], second, MATERIAL["rock_grey"], old * (_f(1.0) - rock), rock, brightness)


def _water(p: _Pixels, biome: Biome, season: float) -> _Mix:
    turbid = _share(_f(0.5) * (p.draw(2) - _f(0.35)) + _f(0.20) * p.broad + _f(0.03) * p.mottle)
    shallow = _share(_f(0.25) - p.depth * _f(1.3)) * _f(0.5)
    clear = np.where(p.draw(3) < _f(0.5), MATERIAL["water_clear"], MATERIAL["water_green"])
    bed = np.where(p.draw(4) < _f(0.6), MATERIAL["mud"], MATERIAL["water_green"])
    brightness = _f(1.0) + _f(0.03) * p.fine + _f(0.3) * (p.draw(5) - _f(0.5))
    return _Mix(clear, MATERIAL["water_turbid"], bed, turbid * (_f(1.0) - shallow), shallow, brightness)


def _wetland(p: _Pixels, biome: Biome, season: float) -> _Mix:
    growth = 1.0 if biome.evergreen else float(bump(season, 0.22, 0.42, 0.68, 0.9))
    dead = _share(_f(1.0 - 0.75 * growth) + _f(0.4) * (p.draw(2) - _f(0.5)) + _f(0.08) * p.mottle)
    wet = np.where(p.draw(3) < _f(0.5), MATERIAL["mud"], MATERIAL["water_green"])
    soaked = _share(_f(0.20) + _f(0.22) * p.draw(4) + _f(0.13) * p.clumps + _f(0.10) * p.mottle)
    brightness = _f(1.0) + _f(0.14) * p.fine + _f(0.06) * p.clumps + _f(0.22) * (p.draw(5) - _f(0.5))
    return _Mix(MATERIAL["reed_green"], MATERIAL["reed_dry"], wet, dead * (_f(1.0) - soaked), soaked, brightness)


_RECIPES = {
    TREES: _trees,
    SHRUB: _shrub,
    GRASS: _grass,
    CROP: _crop,
    BUILT: _built,
    BARE: _bare,
    SNOW: _snow,
    WATER: _water,
    WETLAND: _wetland,
}


def surface_reflectance(
    cover: Cover, biome: Biome, materials: FloatArray, season: float, light: Light
) -> npt.NDArray[np.float32]:
    """Reflectance of the ground.

    Args:
        cover: The window.
        biome: The world's climate.
        materials: :func:`pipeline.simulation.spectra.material_table` of the world, ``[materials, 10]``.
        season: Year phase 0..1; 0 is midwinter, 0.5 midsummer of the local hemisphere.
        light: Sun and relief.

    Returns:
        float32 ``[10, H, W]``, 0..1.
    """
    out = np.empty((10, *cover.code.shape), np.float32)
    for code, recipe in _RECIPES.items():
        chosen = cover.code == code
        if not chosen.any():
            continue
        p = _Pixels(cover, chosen)
        mix = recipe(p, biome, season)
        second, third = mix.second_share, mix.third_share
        first = np.maximum(_f(1.0) - second - third, 0)
        brightness = np.maximum(mix.brightness, _f(0.25))
        # Each patch leans a little towards one end of the spectrum, as soils, varieties and stands do.
        lean = _f(0.10) * (p.draw(20) - _f(0.5))
        for band in range(10):
            column = materials[:, band]
            value = column[mix.first] * first + column[mix.second] * second + column[mix.third] * third
            out[band][chosen] = value * (brightness + lean * _f(band / 4.5 - 1.0))
    out *= _shading(cover, light)
    return np.clip(out, 0.0, 1.1, out=out)


def _shading(cover: Cover, light: Light) -> FloatArray:
    """Cosine of the sun's incidence relative to flat ground, damped by the correction."""
    elevation, azimuth = np.deg2rad(light.sun_elevation_deg), np.deg2rad(light.sun_azimuth_deg)
    east = np.float32(np.sin(azimuth) / np.tan(elevation))
    north = np.float32(np.cos(azimuth) / np.tan(elevation))
    rise = cover.east_slope * cover.east_slope + cover.north_slope * cover.north_slope
    lit = (_f(1.0) - cover.east_slope * east - cover.north_slope * north) / np.sqrt(_f(1.0) + rise)
    return np.clip(_f(1.0) + _f(light.relief) * (lit - _f(1.0)), 0.3, 1.6)
