"""Statistics per sub-region: exact against whole-array arithmetic, whatever the block cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pyproj import Transformer
from scipy import ndimage
from shapely.geometry.base import BaseGeometry

from pipeline.explain.patches import PatchCounter
from pipeline.explain.statistics import MapStatistics, ZoneLayers, map_statistics
from pipeline.mapstore.index_cells import CELL_PX, INDEX_NODATA, cell_means
from pipeline.records.grid import region_mask
from pipeline.records.plan import Window, ZoneGrid
from spex_core.indices import SPECTRAL_INDICES
from spex_core.legend import Legend

LEGEND = Legend.from_yaml()


@dataclass(frozen=True)
class Area:
    id: str
    name: str
    geometry: BaseGeometry


@dataclass
class Arrays:
    """A zone held in memory, that remembers what was read."""

    landcover: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    valid_count: NDArray[np.uint8]
    index_means: NDArray[np.int16]
    windows: list[Window] = field(default_factory=list)

    def read(self, layer: str, window: Window) -> NDArray[Any]:
        self.windows.append(window)
        values: NDArray[Any] = getattr(self, layer)
        cell = CELL_PX if layer == "index_means" else 1
        rows = slice(window.row // cell, -(-(window.row + window.height) // cell))
        return values[..., rows, window.col // cell : -(-(window.col + window.width) // cell)]

    def index_at_each_pixel(self, index: int) -> NDArray[np.int16]:
        """Of the pixel's class in the pixel's cell; INDEX_NODATA where there is no class."""
        channel = np.searchsorted(np.array(LEGEND.codes), self.landcover).clip(0, len(LEGEND) - 1)
        rows, cols = np.indices(self.landcover.shape) // CELL_PX
        return np.where(self.landcover > 0, self.index_means[index][channel, rows, cols], INDEX_NODATA)


def lattice(height: int, width: int, step: int) -> tuple[Window, ...]:
    return tuple(
        Window(r, c, min(step, height - r), min(step, width - c))
        for r in range(0, height, step)
        for c in range(0, width, step)
    )


def random_zone(seed: int, height: int, width: int) -> Arrays:
    rng = np.random.default_rng(seed)
    smooth = ndimage.uniform_filter(rng.random((height, width)), 3)
    codes = np.array([0, *LEGEND.codes[:4]], dtype=np.uint8)
    landcover = codes[np.digitize(smooth, np.quantile(smooth, [0.1, 0.35, 0.6, 0.85]))]
    indices = rng.integers(-10_000, 10_000, (len(SPECTRAL_INDICES), height, width)).astype(np.int16)
    indices[:, rng.random((height, width)) < 0.05] = INDEX_NODATA
    return Arrays(
        landcover,
        rng.integers(20, 101, (height, width)).astype(np.uint8),
        rng.integers(1, 5, (height, width)).astype(np.uint8),
        cell_means(landcover, indices, LEGEND.codes),
    )


def on_ground(grid: ZoneGrid, rows: tuple[float, float], cols: tuple[float, float]) -> BaseGeometry:
    """Lon/lat polygon over a pixel rectangle of the grid, finely cut so that its edges stay straight in UTM."""
    box = shapely.box(
        grid.left + cols[0] * grid.resolution_m,
        grid.top - rows[1] * grid.resolution_m,
        grid.left + cols[1] * grid.resolution_m,
        grid.top - rows[0] * grid.resolution_m,
    )
    to_lonlat = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    return shapely.transform(shapely.segmentize(box, grid.resolution_m * 4), to_lonlat.transform, interleaved=False)


def grid_of(height: int, width: int, epsg: int = 32633) -> ZoneGrid:
    return ZoneGrid(epsg, 500_000.0, 5_200_000.0, 10.0, height, width)


def measure(
    arrays: Arrays, grid: ZoneGrid, areas: Sequence[Area], step: int, mapped: BaseGeometry | None = None
) -> MapStatistics:
    geometry = mapped or on_ground(grid, (0, grid.height), (0, grid.width))
    zone = ZoneLayers(grid, lattice(grid.height, grid.width, step), arrays, geometry)
    return map_statistics("test", areas, [zone], LEGEND)


@settings(max_examples=60, deadline=None)
@given(
    codes=hnp.arrays(
        np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24), elements=st.integers(0, 3)
    ),
    step=st.integers(1, 9),
)
def test_patches_do_not_depend_on_the_cut_into_blocks(codes: NDArray[np.uint8], step: int) -> None:
    counter = PatchCounter(100, codes.shape[1])
    for w in lattice(*codes.shape, step):
        block = codes[w.row : w.row + w.height, w.col : w.col + w.width]
        counter.add(Window(w.row + 7, w.col + 100, w.height, w.width), block, block > 0)
    found = {code: (s.count, s.largest_px) for code, s in counter.summary().items()}
    expected = {}
    for code in np.unique(codes[codes > 0]):
        labels, count = ndimage.label(codes == code, structure=np.ones((3, 3)))
        expected[int(code)] = (count, int(np.bincount(labels.ravel())[1:].max()))
    assert found == expected


def test_skipped_blocks_keep_patches_apart() -> None:
    counter = PatchCounter(0, 12)
    full = np.ones((4, 4), dtype=np.uint8)
    for row, col in [(0, 0), (0, 8), (8, 0), (8, 4)]:  # one block missing between columns, one row of blocks missing
        counter.add(Window(row, col, 4, 4), full, full > 0)
    assert counter.summary()[1].count == 3
    assert counter.summary()[1].largest_px == 32


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.tuples(st.integers(0, 30), st.integers(31, 60)),
    cols=st.tuples(st.integers(0, 30), st.integers(31, 60)),
    step=st.sampled_from([7, 16, 64]),
)
def test_statistics_equal_whole_array_arithmetic(
    seed: int, rows: tuple[int, int], cols: tuple[int, int], step: int
) -> None:
    grid, arrays = grid_of(60, 60), random_zone(seed, 60, 60)
    region = measure(arrays, grid, [Area("a", "A", on_ground(grid, rows, cols))], step).regions[0]

    cut = (slice(*rows), slice(*cols))
    codes = arrays.landcover[cut]
    assert region.area_ha == pytest.approx(codes.size * 0.01)
    assert region.observed_share == pytest.approx(np.count_nonzero(codes) / codes.size)
    assert region.mean_confidence == pytest.approx(arrays.confidence[cut][codes > 0].mean() / 100)
    assert region.mean_observations == pytest.approx(arrays.valid_count[cut][codes > 0].mean())
    assert {c.code for c in region.classes} == set(np.unique(codes[codes > 0]).tolist())
    assert sum(c.share for c in region.classes) == pytest.approx(1.0)
    for c in region.classes:
        mask = codes == c.code
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        assert c.pixels == np.count_nonzero(mask)
        assert c.area_ha == pytest.approx(c.pixels * 0.01)
        assert c.patches == count
        assert c.largest_patch_ha == pytest.approx(np.bincount(labels.ravel())[1:].max() * 0.01)
        assert c.mean_confidence == pytest.approx(arrays.confidence[cut][mask].mean() / 100)
        for i, name in enumerate(SPECTRAL_INDICES):
            values = arrays.index_at_each_pixel(i)[cut][mask]
            values = values[values != INDEX_NODATA]
            if values.size:
                assert c.indices[name] == pytest.approx(values.mean() / 10_000, abs=1e-12)
            else:
                assert name not in c.indices


def test_statistics_are_bit_identical_for_any_block_size() -> None:
    grid, arrays = grid_of(60, 60), random_zone(3, 60, 60)
    areas = [Area("a", "A", on_ground(grid, (5, 41), (11, 58))), Area("b", "B", on_ground(grid, (0, 60), (0, 20)))]
    assert measure(arrays, grid, areas, 8) == measure(arrays, grid, areas, 64)


def test_blocks_that_touch_no_area_are_not_read() -> None:
    grid, arrays = grid_of(64, 64), random_zone(1, 64, 64)
    area = on_ground(grid, (1, 15), (40, 60))
    measure(arrays, grid, [Area("a", "A", area)], 16, mapped=area)
    assert {(w.row // 16, w.col // 16) for w in arrays.windows} == {(0, 2), (0, 3)}
    assert all(w.height <= 16 and w.col >= 39 and w.col + w.width <= 61 for w in arrays.windows)


def test_areas_of_one_shape_are_measured_once_and_told_each() -> None:
    """Most regions are one area, which is also the whole map."""
    grid = grid_of(64, 64)
    whole, part = on_ground(grid, (0, 64), (0, 64)), on_ground(grid, (8, 40), (8, 40))
    areas = [Area("a", "A", whole), Area("b", "B", part), Area("c", "C", part.reverse())]
    arrays, alone = random_zone(5, 64, 64), random_zone(5, 64, 64)
    found = measure(arrays, grid, areas, 32, mapped=whole)
    assert [region.id for region in found.regions] == ["a", "b", "c"]
    assert found.regions[0].classes == found.overall.classes
    assert found.regions[1].classes == found.regions[2].classes
    assert measure(alone, grid, areas[1:2], 32, mapped=whole).regions[0].classes == found.regions[1].classes
    assert arrays.windows == alone.windows


def test_a_mask_has_no_hole_where_the_border_runs_along_a_block() -> None:
    # A border within 1e-10 m of the block's edge once made the clipping step drop the whole block.
    grid = grid_of(60, 60)
    area = on_ground(grid, (0, 41), (19, 31))
    whole = region_mask(area, grid)
    for w in lattice(60, 60, 7):
        assert np.array_equal(region_mask(area, grid, w), whole[w.row : w.row + w.height, w.col : w.col + w.width])


def test_an_area_outside_the_map_is_reported_empty_not_lost() -> None:
    grid, arrays = grid_of(32, 32), random_zone(1, 32, 32)
    region = measure(arrays, grid, [Area("far", "Far", shapely.box(0, 0, 0.1, 0.1))], 16).regions[0]
    assert (region.area_ha, region.observed_share, region.classes, region.epsgs) == (0.0, 0.0, (), ())


def test_an_area_without_any_mapped_pixel_has_area_but_no_classes() -> None:
    grid, arrays = grid_of(32, 32), random_zone(1, 32, 32)
    arrays.landcover[:] = 0
    region = measure(arrays, grid, [Area("a", "A", on_ground(grid, (0, 10), (0, 10)))], 16).regions[0]
    assert region.area_ha == pytest.approx(1.0)
    assert (region.observed_share, region.mean_confidence, region.classes) == (0.0, 0.0, ())


def test_an_area_across_two_zones_adds_up() -> None:
    to_33 = Transformer.from_crs(4326, 32633, always_xy=True)
    to_32 = Transformer.from_crs(4326, 32632, always_xy=True)
    left, top = (round(v, -1) for v in to_33.transform(12.0, 47.0))
    east = ZoneGrid(32633, left - 100, top + 100, 10.0, 60, 60)
    right, top = (round(v, -1) for v in to_32.transform(12.0, 47.0))
    west = ZoneGrid(32632, right - 500, top + 100, 10.0, 60, 60)
    area = shapely.box(11.996, 46.9965, 12.004, 46.9995)
    zones = []
    for grid, half in ((west, shapely.box(11.9, 46.9, 12.0, 47.1)), (east, shapely.box(12.0, 46.9, 12.1, 47.1))):
        arrays = random_zone(0, 60, 60)
        arrays.landcover[:] = 40
        zones.append(ZoneLayers(grid, lattice(60, 60, 16), arrays, half.intersection(area)))
    stats = map_statistics("two zones", [Area("a", "A", area)], zones, LEGEND)
    region = stats.regions[0]
    geod_ha = 0.008 * 111_320 * np.cos(np.radians(46.998)) * 0.003 * 111_170 / 10_000
    assert region.area_ha == pytest.approx(geod_ha, rel=0.02)
    assert region.epsgs == (32632, 32633)
    assert region.classes[0].patches == 2  # one in each zone
    assert region.classes[0].area_ha == pytest.approx(region.area_ha)
    assert sum(stats.zone_pixels[e][40] for e in (32632, 32633)) == region.classes[0].pixels
    assert stats.overall.area_ha == pytest.approx(region.area_ha)


def test_class_code_zero_is_a_class_when_nodata_is_another_code() -> None:
    legend = Legend.from_dict(
        {
            "name": "n",
            "nodata": 255,
            "classes": [
                {"code": 0, "name": "Sea", "color": "#0000ff"},
                {"code": 1, "name": "Land", "color": "#00ff00"},
            ],
        }
    )
    grid, arrays = grid_of(8, 8), random_zone(1, 8, 8)
    arrays.landcover[:] = 255
    arrays.landcover[:4] = 0
    arrays.index_means = arrays.index_means[:, :2]
    zone = ZoneLayers(grid, lattice(8, 8, 8), arrays, on_ground(grid, (0, 8), (0, 8)))
    region = map_statistics("sea", [], [zone], legend).overall
    assert [(c.name, c.patches, c.pixels) for c in region.classes] == [("Sea", 1, 32)]
    assert region.observed_share == 0.5
