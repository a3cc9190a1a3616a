"""Maps of every shape are valid COGs: hundreds of shapes are written and opened, with GDAL and with rio-cogeo.

Most shapes are written without content, which costs milliseconds whatever their size; some with all three maps of a
real store. ``SPEX_EXHAUSTIVE=1`` writes all of them with content, some thousand files.
"""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.io import DatasetWriter
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from pipeline.mapstore.store import RunStore
from pipeline.mapstore.zone_store import ZoneStore
from pipeline.outputs.cog import write_confidence_cog, write_landcover_cog, write_valid_count_cog
from pipeline.outputs.cog_writer import TILE_PX, RasterForm, layout_of, write_blank_cog, write_cog
from pipeline.planning.blocks import plan_blocks
from pipeline.records.plan import ZoneGrid, ZonePlan
from pipeline.settings.run_file import TilingConfig
from tests.pipeline.small_plans import EPSG, LEGEND, plan_of

EXHAUSTIVE = os.environ.get("SPEX_EXHAUSTIVE") == "1"
BORDERS = (1, 2, 3, 255, 256, 257, 511, 512, 513, 767, 1023, 1024, 1025, 1200, 2044, 2047, 2048, 2049, 3000, 4096)
"""Sides next to which a level gains a pixel, a tile or a further level."""
MISJUDGED = ((513, 512), (600, 512), (1200, 1024), (1025, 1023), (2049, 512), (3000, 1024), (4096, 512), (2600, 2047))
"""A level of each is as wide as a tile of 512 px and taller; some meet 256 and 128 as well."""


def form_of(height: int, width: int, dtype: str = "uint8", nodata: int | None = 0) -> RasterForm:
    place = Affine(10, 0, 600_000, 0, -10, 5_100_000)
    return RasterForm(height, width, EPSG, place, dtype, nodata, "nearest")


def mapped(folder: Path, height: int, width: int) -> ZoneStore:
    """A zone in whose store a diagonal of every class was written, and the rest is empty."""
    tiling = TilingConfig(tile_px=64, overlap_px=16, block_px=1024)
    grid = ZoneGrid(EPSG, 600_000.0, 5_100_000.0, 10.0, height, width)
    plan = plan_of(ZonePlan(grid, plan_blocks(grid, tiling, None), ()), tiling=tiling)
    store = RunStore.create(folder, plan, LEGEND).zone(EPSG)
    codes = np.array([LEGEND.nodata, *LEGEND.codes], np.uint8)
    rows, cols = np.mgrid[0 : min(height, 700), 0 : min(width, 700)]
    known = (rows + 2 * cols) // 7 % len(codes)
    store.array("landcover")[: known.shape[0], : known.shape[1]] = codes[known]
    store.array("confidence")[: known.shape[0], : known.shape[1]] = np.where(known, known * 10, 255).astype(np.uint8)
    store.array("valid_count")[: known.shape[0], : known.shape[1]] = known.astype(np.uint8)
    return store


def sizes_of(height: int, width: int, factors: list[int]) -> list[tuple[int, int]]:
    return [(-(-height // factor), -(-width // factor)) for factor in (1, *factors)]


def check_levels(path: Path, height: int, width: int, allowed: set[int] | None = None) -> None:
    """Both validators' opinion, and what GDAL finds on each level."""
    valid, errors, warnings = cog_validate(path, quiet=True)
    assert (valid, errors) == (True, []), (height, width)
    assert not warnings or width == 1, (height, width, warnings)
    with rasterio.open(path) as source:
        factors = source.overviews(1)
        assert (source.height, source.width, source.crs.to_epsg()) == (height, width, EPSG)
    sizes = sizes_of(height, width, list(layout_of(height, width).factors))
    assert len(factors) + 1 == len(sizes)
    assert max(sizes[-1]) <= TILE_PX or width == 1
    assert len(sizes) == 1 or max(sizes[-2]) > TILE_PX, "no level more than is needed"
    for level, size in enumerate(sizes):
        with rasterio.open(path, **({} if level == 0 else {"overview_level": level - 1})) as source:
            assert source.shape == size
            assert source.block_shapes[0][0] == source.block_shapes[0][1] <= TILE_PX, "square tiles"
            if allowed is not None:
                assert set(np.unique(source.read(1)).tolist()) <= allowed, (height, width, level)


def check_maps(folder: Path, height: int, width: int) -> None:
    """All three maps of a shape, written twice."""
    store = mapped(folder / "run", height, width)
    written = []
    for name in ("first", "second"):
        out = folder / name
        landcover = write_landcover_cog(store, out / "landcover.tif", LEGEND)
        confidence = write_confidence_cog(store, out / "confidence.tif")
        counts = write_valid_count_cog(store, out / "valid_count.tif")
        written.append([path.read_bytes() for path in (landcover, confidence, counts)])
    assert written[0] == written[1]
    known = set(range(len(LEGEND) + 1))
    for path, layer, nodata, allowed in (
        (landcover, "landcover", LEGEND.nodata, {LEGEND.nodata, *LEGEND.codes}),
        (confidence, "confidence", 255, {*range(101), 255}),
        (counts, "valid_count", 255, known),
    ):
        check_levels(path, height, width, allowed)
        with rasterio.open(path) as source:
            assert source.nodata == nodata
            corner = Window(0, 0, min(width, 900), min(height, 900))
            assert np.array_equal(
                source.read(1, window=corner),
                store.array(layer)[: min(height, 900), : min(width, 900)],  # type: ignore[arg-type]
            )


def shapes_with_content() -> list[tuple[int, int]]:
    chosen = random.Random(20260601)
    small = [(h, w) for h, w in itertools.product(BORDERS, repeat=2) if h * w <= 700_000]
    boxes = [(side + d, side) for side in (1024,) for d in (0, 1)]
    anywhere = [(chosen.randint(1, 1400), chosen.randint(1, 700)) for _ in range(5)]
    return [*chosen.sample(small, 9), *MISJUDGED[:4], *boxes, *anywhere]


def all_shapes() -> list[tuple[int, int]]:
    # A square box keeps its side or gains some pixels where its edges cross the lattice askew.
    boxes = [(side + a, side + b) for side in (1024, 2048, 4096) for a in (-1, 0, 1, 9) for b in (-1, 0, 1, 9)]
    return [*itertools.product(BORDERS, repeat=2), *MISJUDGED, *boxes]


# --- what a file looks like ---------------------------------------------------------------------------------------


@given(height=st.integers(1, 120_000), width=st.one_of(st.integers(1, 70_000), st.sampled_from(BORDERS)))
@settings(max_examples=400, deadline=None)
def test_no_level_of_any_shape_is_as_wide_as_its_tile(height: int, width: int) -> None:
    layout = layout_of(height, width)
    sizes = sizes_of(height, width, list(layout.factors))
    tiles = (layout.tile_px, *(layout.overview_tile_px,) * layout.levels)
    assert not [(h, w) for (h, w), tile in zip(sizes, tiles, strict=True) if max(h, w) > 512 and w == tile]
    assert max(sizes[-1]) <= TILE_PX or width == 1


@pytest.mark.parametrize("width", [512 * 2**k for k in range(8)])
@pytest.mark.parametrize("times", [1.01, 2.5, 5, 9, 30])
def test_strips_of_the_misjudged_widths_have_a_layout_too(width: int, times: float) -> None:
    for narrower in (0, 1, width // 512 - 1):
        test_no_level_of_any_shape_is_as_wide_as_its_tile.hypothesis.inner_test(  # type: ignore[attr-defined]
            int(width * times), width - narrower
        )


def test_other_shapes_keep_tiles_of_512_px_and_halves() -> None:
    for height, width in (
        (1, 1),
        (512, 512),
        (1031, 1207),
        (10_980, 10_980),
        (40_960, 40_960),
        (512, 5000),
        (5000, 300),
    ):
        layout = layout_of(height, width)
        assert (layout.tile_px, layout.overview_tile_px, layout.decimation) == (512, 512, 2)


def test_a_level_as_wide_as_its_tile_is_what_the_validator_stumbles_over(tmp_path: Path) -> None:
    """The trap itself, so that a mended rio-cogeo is noticed: the file is tiled, whatever the validator says."""
    path = tmp_path / "strip.tif"
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": 600, "width": 512}
    profile |= {"crs": f"EPSG:{EPSG}", "transform": form_of(600, 512).transform}
    with rasterio.open(path, "w", **profile, tiled=True, blockxsize=512, blockysize=512) as target:
        target.write(np.ones((600, 512), np.uint8), 1)
    with rasterio.open(path) as source:
        assert source.block_shapes == [(512, 512)]
    assert any("is not tiled" in error for error in cog_validate(path, quiet=True)[1])


# --- written and opened -------------------------------------------------------------------------------------------


def test_hundreds_of_shapes_are_valid_on_every_level(tmp_path: Path) -> None:
    shapes = all_shapes()
    for height, width in shapes if EXHAUSTIVE else [*random.Random(7).sample(shapes, 200), *MISJUDGED]:
        path = tmp_path / "blank.tif"
        write_blank_cog(path, form_of(height, width))
        check_levels(path, height, width)
        assert [found.name for found in tmp_path.iterdir()] == ["blank.tif"]


@pytest.mark.parametrize(("height", "width"), all_shapes() if EXHAUSTIVE else shapes_with_content())
def test_maps_of_a_shape_hold_legal_values_on_every_level(tmp_path: Path, height: int, width: int) -> None:
    check_maps(tmp_path, height, width)


def test_a_box_of_40_96_km_with_one_row_more_is_written(tmp_path: Path) -> None:
    store = mapped(tmp_path / "run", 4097, 4096)
    path = write_landcover_cog(store, tmp_path / "landcover.tif", LEGEND)
    check_levels(path, 4097, 4096, {LEGEND.nodata, *LEGEND.codes})


def test_a_strip_that_meets_every_tile_on_its_way_down_is_written_in_thirds(tmp_path: Path) -> None:
    form = form_of(9000, 1024)
    path = tmp_path / "strip.tif"
    write_cog(path, form, lambda target: target.write(np.full((9000, 1024), 10, np.uint8), 1))
    check_levels(path, 9000, 1024, {10})
    with rasterio.open(path) as source:
        assert source.overviews(1) == [3, 9, 27]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_blank_file_has_the_layout_of_a_full_one(tmp_path: Path, dtype: str) -> None:
    for height, width in ((700, 512), (1200, 1024), (1031, 1207), (3, 2000)):
        form = form_of(height, width, dtype)

        def fill(target: DatasetWriter, shape: tuple[int, int] = (height, width)) -> None:
            target.write(np.ones(shape, dtype), 1)

        blank, full = tmp_path / "blank.tif", tmp_path / "full.tif"
        write_blank_cog(blank, form)
        write_cog(full, form, fill)
        for level in range(-1, layout_of(height, width).levels):
            described = []
            for path in (blank, full):
                with rasterio.open(path, **({} if level < 0 else {"overview_level": level})) as source:
                    described.append((source.shape, source.block_shapes, source.dtypes, source.compression))
            assert described[0] == described[1]


def test_what_is_written_and_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(target: DatasetWriter) -> None:
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        write_cog(tmp_path / "map.tif", form_of(600, 600), fail)
    assert list(tmp_path.iterdir()) == []
