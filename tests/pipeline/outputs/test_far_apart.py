"""Fields far apart in one zone: the ground between them costs neither reads nor bytes nor figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.windows import Window as RasterWindow
from rio_cogeo.cogeo import cog_validate

from pipeline.mapstore.zone_store import ZoneStore
from pipeline.outputs.cog import write_confidence_cog, write_landcover_cog, write_valid_count_cog
from pipeline.outputs.cog_writer import OverviewResampling, RasterForm, write_cog
from pipeline.outputs.overviews import tiles_touched
from pipeline.outputs.thumbnail import map_codes
from pipeline.planning.blocks import plan_blocks
from pipeline.planning.estimate import disk_use
from pipeline.records.grid import transform
from pipeline.records.plan import MapPlan, Window, ZoneGrid, ZonePlan
from pipeline.settings.run_file import TilingConfig
from tests.pipeline.small_plans import EPSG, LEGEND, filled_store, plan_of

TILING = TilingConfig(tile_px=512, overlap_px=64, block_px=896)
FIELD_M = 3_000


def fields_apart(rows: int, cols: int) -> MapPlan:
    """Two fields of 300 px in opposite corners of a grid of 10 m pixels."""
    grid = ZoneGrid(EPSG, 300_000.0, 5_600_000.0, 10.0, rows, cols)
    right, bottom = grid.left + cols * 10, grid.top - rows * 10
    first = shapely.box(grid.left, grid.top - FIELD_M, grid.left + FIELD_M, grid.top)
    last = shapely.box(right - FIELD_M, bottom, right, bottom + FIELD_M)
    return plan_of(ZonePlan(grid, plan_blocks(grid, TILING, shapely.union(first, last)), ()), tiling=TILING)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> ZoneStore:
    """100 km from corner to corner."""
    return filled_store(tmp_path_factory.mktemp("far"), fields_apart(8_000, 6_000), empty_share=0.2).zone(EPSG)


def landcover(zone: ZoneStore, path: Path) -> Path:
    return write_landcover_cog(zone, path, LEGEND)


MAPS: tuple[tuple[Callable[[ZoneStore, Path], Path], str, int], ...] = (
    (landcover, "landcover", LEGEND.nodata),
    (write_confidence_cog, "confidence", 255),
    (write_valid_count_cog, "valid_count", 255),
)


@pytest.mark.parametrize(("write", "layer", "empty"), MAPS)
def test_the_ground_between_is_not_read_not_stored_and_empty_for_every_reader(
    far: ZoneStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[ZoneStore, Path], Path],
    layer: str,
    empty: int,
) -> None:
    blocks = [block.window for block in far.plan.blocks]
    read: list[Window | None] = []
    plain = ZoneStore.read
    monkeypatch.setattr(ZoneStore, "read", lambda self, name, w=None: read.append(w) or plain(self, name, w))
    path = write(far, tmp_path / "map.tif")
    assert read == blocks
    assert len(blocks) <= 4
    assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
    assert path.stat().st_size < 1.5 * sum(w.height * w.width for w in blocks)  # of 48 million
    with rasterio.open(path) as source:
        stored = {
            (row, col)
            for row in range(-(-source.height // 512))
            for col in range(-(-source.width // 512))
            if source.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=1) is not None
        }
        assert stored <= set(tiles_touched(blocks, 512))
        assert np.all(source.read(1, window=RasterWindow(2_700, 3_600, 700, 700)) == empty)
        for w in blocks:
            found = source.read(1, window=RasterWindow(w.col, w.row, w.width, w.height))
            np.testing.assert_array_equal(found, plain(far, layer, w))  # type: ignore[arg-type]
        factors = source.overviews(1)
    with rasterio.open(path, overview_level=len(factors) - 1) as smallest:
        values = smallest.read(1)
        assert np.all(values[120:-120, 120:-120] == empty)
        assert np.any(values[:20, :20] != empty)
        assert np.any(values[-20:, -20:] != empty)
    assert write(far, tmp_path / "again.tif").read_bytes() == path.read_bytes()


def test_figures_of_a_band_are_those_of_its_blocks(far: ZoneStore, tmp_path: Path) -> None:
    counts = np.concatenate([far.read("valid_count", block.window).ravel() for block in far.plan.blocks])
    with rasterio.open(write_valid_count_cog(far, tmp_path / "count.tif")) as source:
        assert float(source.tags(1)["STATISTICS_MEAN"]) == pytest.approx(counts.mean(), abs=1e-6)


def test_the_picture_shows_both_fields(far: ZoneStore, tmp_path: Path) -> None:
    codes = map_codes(landcover(far, tmp_path / "map.tif"), 256)
    assert set(np.unique(codes).tolist()) <= {LEGEND.nodata, *LEGEND.codes}
    assert codes[:10, :10].any()
    assert codes[-10:, -10:].any()
    assert not codes[30:-30, 30:-30].any()


def test_room_is_asked_for_blocks_not_for_the_box_around_them() -> None:
    near, far = (disk_use(fields_apart(rows, cols), len(LEGEND)) for rows, cols in ((1_792, 1_792), (40_320, 26_880)))
    assert far.least_bytes < near.least_bytes * 1.01
    assert far.largest_file_bytes < near.largest_file_bytes * 1.01


@pytest.mark.parametrize(("resampling", "nodata"), [("mode", 0), ("average", 255), ("nearest", None)])
def test_overviews_are_those_that_gdal_makes_of_the_whole(
    tmp_path: Path, resampling: OverviewResampling, nodata: int | None
) -> None:
    grid = ZoneGrid(EPSG, 300_000.0, 5_600_000.0, 10.0, 1024, 2048)
    form = RasterForm(1024, 2048, EPSG, transform(grid), "uint8", nodata, resampling)
    windows = (Window(0, 1500, 300, 500), Window(600, 100, 400, 333))
    empty = nodata or 0
    rng = np.random.default_rng(1)
    pixels = np.full((1024, 2048), empty, np.uint8)
    for w in windows:
        values = rng.choice(np.array([empty, 10, 20, 30], np.uint8), (w.height, w.width))
        pixels[w.row : w.row + w.height, w.col : w.col + w.width] = values
    whole, holes = tmp_path / "whole.tif", tmp_path / "holes.tif"
    write_cog(whole, form, lambda target: target.write(pixels, 1))

    def fill(target: rasterio.io.DatasetWriter) -> None:
        for w in windows:
            part = pixels[w.row : w.row + w.height, w.col : w.col + w.width]
            target.write(part, 1, window=RasterWindow(w.col, w.row, w.width, w.height))

    write_cog(holes, form, fill, windows=windows)
    assert holes.stat().st_size < whole.stat().st_size
    for level in range(-1, 2):
        options = {} if level < 0 else {"overview_level": level}
        with rasterio.open(whole, **options) as a, rasterio.open(holes, **options) as b:
            np.testing.assert_array_equal(a.read(1), b.read(1))
            assert (a.profile, a.colorinterp) == (b.profile, b.colorinterp)
            assert level >= 0 or (a.tags(), a.overviews(1)) == (b.tags(), b.overviews(1))


def test_a_map_without_holes_stores_every_tile_even_an_empty_one(tmp_path: Path) -> None:
    grid = ZoneGrid(EPSG, 300_000.0, 5_600_000.0, 10.0, 700, 1_800)
    plan = plan_of(ZonePlan(grid, plan_blocks(grid, TILING, None), ()), tiling=TILING)
    zone = filled_store(tmp_path / "run", plan, empty_share=1.1).zone(EPSG)
    with rasterio.open(landcover(zone, tmp_path / "map.tif")) as source:
        offsets = [source.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=1) for x in range(4) for y in range(2)]
    assert None not in offsets
