"""A world of land cover: terrain, rivers, lakes, forests, parcels, towns and snow, as a function of position.

``Landscape(seed, biome).cover(x, y)`` answers for any window; nothing is stored, so two granules that overlap agree
exactly and a scene of any size can be drawn block by block. Classes are ESA WorldCover codes (legend ``worldcover9``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.simulation.biomes import Biome
from pipeline.simulation.noise import (
    Cells,
    FloatArray,
    fractal_noise,
    hash_of,
    pixel_noise,
    smooth_noise,
    unit,
    voronoi,
)

TREES, SHRUB, GRASS, CROP, BUILT, BARE, SNOW, WATER, WETLAND = 10, 20, 30, 40, 50, 60, 70, 80, 90
PIXEL_M = 10.0

_ANGLES = np.linspace(0.0, np.pi, 64, endpoint=False)
_COS, _SIN = np.cos(_ANGLES).astype(np.float32), np.sin(_ANGLES).astype(np.float32)


@dataclass(frozen=True)
class Cover:
    """What stands on the ground in one window; every array is ``[H, W]``. Independent of the date."""

    code: npt.NDArray[np.uint8]
    """WorldCover class."""
    patch: npt.NDArray[np.uint32]
    """Identity of the parcel, forest stand, building block or water body: all its pixels share their character."""
    fine: FloatArray
    """Independent per pixel, uniform in [-1, 1)."""
    clumps: FloatArray
    """About 25 m, deviation 1: crowns, shrubs, roofs."""
    mottle: FloatArray
    """About 90 m: soil moisture, stand density."""
    broad: FloatArray
    """About 1.2 km: soils, turbidity, haze of the place."""
    rows: FloatArray
    """[-1, 1): stripes along a parcel (tramlines, planting rows)."""
    margin_m: FloatArray
    """Metres to the border of the parcel."""
    street: npt.NDArray[np.bool_]
    """Paved: street, road or square."""
    depth: FloatArray
    """0 at the shore .. 1 and beyond: how far inside water."""
    height_m: FloatArray
    east_slope: FloatArray
    """Rise over run towards the east."""
    north_slope: FloatArray


@dataclass(frozen=True)
class _Parcels:
    key: npt.NDArray[np.uint32]
    estate: npt.NDArray[np.uint32]
    width: FloatArray
    edge: FloatArray
    rows: FloatArray


@dataclass(frozen=True)
class _Terrain:
    height: FloatArray
    east_slope: FloatArray
    north_slope: FloatArray
    river_m: FloatArray
    stream_m: FloatArray
    steep: FloatArray


def _interior(a: FloatArray) -> FloatArray:
    return np.ascontiguousarray(a[1:-1, 1:-1])


class Landscape:
    """The land of one world.

    Args:
        seed: World identity; with ``biome`` it decides everything.
        biome: How common things are.
    """

    def __init__(self, seed: int, biome: Biome) -> None:
        self.seed = seed
        self.biome = biome

    def _field(self, salt: int) -> int:
        return (self.seed * 1_000_003 + salt * 7_368_787) & 0x7FFFFFFF

    def cover(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Cover:
        """Draws one window.

        Args:
            x: Eastings of pixel centres plus one pixel on each side: ``[1, W + 2]``, or ``[H + 2, W + 2]``.
            y: Northings, ``[H + 2, 1]`` or ``[H + 2, W + 2]``; the pixel size is 10 m.

        Returns:
            The ground of the ``H`` × ``W`` inner pixels.
        """
        b, f = self.biome, self._field
        terrain = self._terrain(x, y)
        x = x[:, 1:-1] if x.shape[0] == 1 else x[1:-1, 1:-1]
        y = y[1:-1, :] if y.shape[1] == 1 else y[1:-1, 1:-1]

        ragged = fractal_noise(f(1), x, y, 160.0, 3, 0.6)
        mottle = fractal_noise(f(2), x, y, 90.0, 2)
        clumps = fractal_noise(f(3), x, y, 26.0, 2, 0.8)
        broad = fractal_noise(f(4), x, y, 1200.0, 2)
        fine = pixel_noise(f(5), x, y, PIXEL_M)
        parcels = self._parcels(x, y)
        stands = voronoi(f(6), x, y, 330.0)
        height, steep = terrain.height, terrain.steep

        # Open land: grass, or shrub where it is dry, poor or steep.
        shrubby = fractal_noise(f(7), x, y, 900.0, 4, 0.6) + 0.5 * steep + b.shrub
        code = np.where(shrubby > 0, np.uint8(SHRUB), np.uint8(GRASS))
        province = voronoi(f(15), x, y, 14_000.0).key
        patch = province

        # Bare: deserts, screes, quarries; always above the tree line.
        barren = fractal_noise(f(8), x, y, 1200.0, 4, 0.6) + b.bare
        alpine = (height - b.treeline_m) / (0.22 * b.relief_m)
        code[barren + np.maximum(alpine - 0.4, -0.2) + 0.4 * steep * (alpine > -0.5) > 0.35] = BARE
        code[(alpine + 0.4 * ragged > 0.9)] = BARE

        # Forest, with stands; clearings and groves come from the finer octaves.
        wooded = (
            fractal_noise(f(9), x, y, 1400.0, 5, 0.55) + 0.55 * steep + b.forest - 0.9 * np.maximum(alpine + 0.3, 0)
        )
        forest = wooded > 0.25
        code[forest] = TREES
        patch = np.where(forest, stands.key, patch)
        lone = (wooded > -1.2) & (clumps + 0.5 * mottle > 2.6) & (alpine < 0.2)

        # Farmland, decided parcel by parcel so that its outline follows parcel borders.
        arable = fractal_noise(f(10), x, y, 1900.0, 3) + b.farming - 1.3 * steep - 1.2 * np.maximum(alpine + 0.8, 0)
        farmed = (arable + 0.8 * (unit(parcels.key, 1) - 0.5) > 0) & (wooded < 0.75)
        use = unit(parcels.key, 2)
        crop = farmed & (use > b.pasture)
        meadow = farmed & (use <= b.pasture)
        code[crop], code[meadow] = CROP, GRASS
        code[farmed & (unit(parcels.key, 3) < 0.04)] = TREES
        hedged = unit(parcels.estate, 4) < b.hedges
        hedge = farmed & hedged & (parcels.edge < 8.5) & (mottle > -1.0) & (parcels.width > 90.0)
        code[hedge | lone & (code != BARE)] = TREES
        patch = np.where(farmed & ~hedge, parcels.key, patch)

        # Quarries, landslips and building sites: bare in the middle of anything.
        net = self._road_cells(x, y)
        pit = np.where(unit(net.key, 11) < b.quarries, 50.0 + 260.0 * unit(net.key, 12) ** 2, -1.0)
        code[pit * (1 + 0.4 * ragged) > net.distance] = BARE
        strata = np.floor(np.float32(1.5) * broad + np.float32(0.3) * ragged).astype(np.int64)
        patch = np.where(code == BARE, hash_of(f(16), province, strata), patch)

        street, road, built, garden_patch = self._settlements(x, y, ragged, net, steep, alpine)
        code[built] = BUILT
        patch = np.where(built, garden_patch, patch)

        depth, wet, crossing = self._waters(x, y, terrain, ragged)
        shore = wet & ~(depth > 0) & (depth > -0.25) & (barren - b.bare + ragged > 1.6 - b.beach)
        wet_noise = fractal_noise(f(12), x, y, 600.0, 4, 0.6)
        marsh = wet & (wet_noise + b.wetland + 1.2 * np.minimum(depth, 0) > 0.35) & (steep < 1.0) & ~built
        code[marsh] = WETLAND
        code[shore & ~built] = BARE
        ponds = marsh & (smooth_noise(f(13), x, y, 110.0) + 0.4 * clumps > 1.7)
        code[ponds] = WATER
        bridge = road & crossing
        code[(depth > 0) & ~bridge] = WATER
        patch = np.where(marsh | shore | (depth > 0), hash_of(f(14), province), patch)

        # Snow and glaciers; it clings to northern slopes.
        snowy = (height - b.snowline_m) / (0.10 * b.relief_m) + 0.6 * ragged + 1.5 * terrain.north_slope * -1.0
        code[(snowy > 0) & (depth <= 0) & ~built] = SNOW
        patch = np.where(snowy > 0, province, patch)
        street = (street & (code == BUILT)) | (bridge & (code == BUILT))
        return Cover(
            code=code,
            patch=patch,
            fine=fine,
            clumps=clumps,
            mottle=mottle,
            broad=broad,
            rows=parcels.rows,
            margin_m=parcels.edge,
            street=street,
            depth=np.where(ponds, np.float32(0.5), depth).astype(np.float32),
            height_m=height,
            east_slope=terrain.east_slope,
            north_slope=terrain.north_slope,
        )

    def _terrain(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> _Terrain:
        b, f = self.biome, self._field
        river = fractal_noise(f(20), x, y, 5200.0, 3, 0.42)
        stream = fractal_noise(f(21), x, y, 2300.0, 3, 0.42)
        hills = fractal_noise(f(22), x, y, 3300.0, 5, 0.5)
        ridge = np.float32(1.0) - np.abs(smooth_noise(f(23), x, y, 1700.0)) * np.float32(0.8)
        rolling = np.maximum(hills * np.float32(0.45) + np.float32(0.55) + np.float32(0.25) * ridge, 0)
        river_m, stream_m = _contour_distance(river), _contour_distance(stream)
        # Rivers lie in valleys: relief vanishes towards their course.
        valley = river * river / (river * river + np.float32(0.16))
        gully = np.float32(0.75) + np.float32(0.25) * np.abs(stream) / (np.abs(stream) + np.float32(0.15))
        height = (rolling * valley * gully * np.float32(b.relief_m)).astype(np.float32)
        east = (height[1:-1, 2:] - height[1:-1, :-2]) / np.float32(2 * PIXEL_M)
        north = (height[:-2, 1:-1] - height[2:, 1:-1]) / np.float32(2 * PIXEL_M)
        steep = np.sqrt(east * east + north * north)
        return _Terrain(_interior(height), east, north, river_m, stream_m, steep * np.float32(2.5))

    def _parcels(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> _Parcels:
        b, f = self.biome, self._field
        estates: Cells = voronoi(f(30), x, y, 950.0, 0.75)
        key = estates.key
        # Neighbouring estates often share the lie of the land: half of them keep the regional direction.
        regional = int(hash_of(f(31), np.asarray([0], np.int64))[0] >> np.uint32(26))
        angle = np.where(unit(key, 5) < 0.4, regional, (unit(key, 6) * np.float32(64)).astype(np.int64))
        c, s = _COS[angle], _SIN[angle]
        u = c * estates.dx + s * estates.dy
        v = c * estates.dy - s * estates.dx
        scale = np.float32(b.parcel_m)
        width = scale * (np.float32(0.45) + np.float32(1.1) * unit(key, 7))
        strip = np.floor(u / width)
        i = strip.astype(np.int64)
        column = hash_of(f(32), key, i)
        length = scale * (np.float32(0.9) + np.float32(2.6) * unit(column, 1) * unit(key, 8))
        along = v / length + unit(column, 2)
        cross = np.floor(along)
        fu, fv = u / width - strip, along - cross
        edge = np.minimum(
            np.minimum(fu, np.float32(1) - fu) * width,
            np.minimum(np.minimum(fv, np.float32(1) - fv) * length, estates.edge),
        )
        stripes = np.floor(u / np.float32(12.0)).astype(np.int64)
        rows = unit(hash_of(f(33), stripes, key)) * np.float32(2) - np.float32(1)
        return _Parcels(hash_of(f(34), column, cross.astype(np.int64)), key, width, edge, rows)

    def _road_cells(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Cells:
        """Large cells with bent borders, along which country roads run."""
        f = self._field
        bend_x = x + np.float64(90.0) * smooth_noise(f(44), x, y, 900.0)
        bend_y = y + np.float64(90.0) * smooth_noise(f(45), x, y, 900.0)
        return voronoi(f(46), bend_x, bend_y, 2100.0)

    def _settlements(
        self,
        x: npt.NDArray[np.float64],
        y: npt.NDArray[np.float64],
        ragged: FloatArray,
        net: Cells,
        steep: FloatArray,
        alpine: FloatArray,
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.uint32]]:
        """Paved ground, country roads among it, built-up land, and the building block or road of each pixel."""
        b, f = self.biome, self._field
        towns = voronoi(f(40), x, y, 3000.0)
        radius = np.where(unit(towns.key, 1) < b.towns, 250.0 + 1100.0 * unit(towns.key, 2) * (0.3 + b.towns), 0.0)
        villages = voronoi(f(41), x, y, 1050.0)
        small = np.where(unit(villages.key, 1) < 0.35 * b.towns + 0.05, 60.0 + 170.0 * unit(villages.key, 2), 0.0)
        habitable = (steep < 0.9) & (alpine < 0.3)
        inside = np.maximum(
            radius * (1 + 0.28 * ragged) - towns.distance, small * (1 + 0.3 * ragged) - villages.distance
        )
        urban = (inside > 0) & habitable & ((radius > 0) | (small > 0))

        # Streets: a rotated grid of blocks, its own in every quarter.
        quarters = voronoi(f(42), x, y, 620.0)
        angle = (unit(quarters.key, 3) * np.float32(64)).astype(np.int64)
        c, s = _COS[angle], _SIN[angle]
        u, v = c * quarters.dx + s * quarters.dy, c * quarters.dy - s * quarters.dx
        wide = np.float32(55.0) + np.float32(70.0) * unit(quarters.key, 4)
        deep = np.float32(70.0) + np.float32(120.0) * unit(quarters.key, 5)
        iu, iv = np.floor(u / wide), np.floor(v / deep)
        lane = np.minimum(
            np.minimum(u / wide - iu, iu + np.float32(1) - u / wide) * wide,
            np.minimum(v / deep - iv, iv + np.float32(1) - v / deep) * deep,
        )
        block = hash_of(f(43), quarters.key, iu.astype(np.int64), iv.astype(np.int64))
        streets = urban & (np.minimum(lane, quarters.edge) < 5.5)
        park = urban & (unit(block, 6) < 0.05) & ~streets & (radius > 0)

        # Country roads: borders of large cells.
        roads = (net.edge < 9.0) & (steep < 1.6) & (alpine < 0.6) & (unit(hash_of(f(47), net.key)) < 0.15 + b.towns)
        built = (urban & ~park) | roads
        return streets | roads, roads, built, np.where(urban, block, net.key)

    def _waters(
        self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], terrain: _Terrain, ragged: FloatArray
    ) -> tuple[FloatArray, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Depth (> 0 in water, -1 a few hundred metres away), ground that may be waterlogged, bridgeable water."""
        b, f = self.biome, self._field
        swell = np.float32(0.55) + np.float32(0.45) * (smooth_noise(f(50), x, y, 2500.0) > 0)
        river = np.float32(0.5 * b.river_m) * swell - terrain.river_m
        stream = np.float32(0.10 * b.river_m) - terrain.stream_m + np.float32(4.0) * ragged - np.float32(2.0)
        high = np.maximum(terrain.height / np.float32(b.relief_m + 40.0) - np.float32(0.35), 0) * np.float32(3.0)
        lake = fractal_noise(f(51), x, y, 2000.0, 4, 0.45) + np.float32(b.lakes) - high - terrain.steep
        sea = fractal_noise(f(52), x, y, 9000.0, 5, 0.42) + np.float32(b.sea)
        standing = np.maximum(lake * np.float32(2.5), sea * np.float32(6.0))
        flowing = np.maximum(river * np.float32(1 / 250.0), stream * np.float32(1 / 90.0))
        depth = np.maximum(standing, flowing)
        flat = (terrain.steep < 0.8) & (terrain.height < 0.55 * b.relief_m + 30.0)
        return depth, flat & (depth > -1.6), (depth > 0) & (standing <= 0)


def _contour_distance(field: FloatArray) -> FloatArray:
    """Metres from each inner pixel to the field's zero line, to first order."""
    dx = (field[1:-1, 2:] - field[1:-1, :-2]) / np.float32(2 * PIXEL_M)
    dy = (field[2:, 1:-1] - field[:-2, 1:-1]) / np.float32(2 * PIXEL_M)
    inner = _interior(np.abs(field))
    distance: FloatArray = inner / np.maximum(np.sqrt(dx * dx + dy * dy), np.float32(5e-5))
    return distance
