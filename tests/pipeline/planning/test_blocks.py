"""The plan: pure, complete, identified by what can change a pixel, and the same after its file was read back."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.budget import block_sizes
from pipeline.errors import CatalogError, NoScenesError, OutputError, StoreError
from pipeline.planning.blocks import build_plan, plan_blocks, read_plan, summarise, write_plan
from pipeline.planning.lattice import contributing_window, lattice_origin, lattice_shape, lattice_tile, tile_stride
from pipeline.records.grid import region_mask
from pipeline.records.plan import MapPlan, Window, ZoneGrid
from pipeline.records.region import Region
from pipeline.records.windows import intersection, slices
from pipeline.settings.run_file import RunConfig, TilingConfig
from spex_core.legend import Legend
from tests.pipeline.small_plans import LEGEND, region_of, run_config, scene_over, zone_of

AREA = shapely.box(11.98, 46.0, 12.02, 46.02)  # straddles the border of zones 32 and 33
SCENES = (
    scene_over("west", shapely.box(11.0, 45.5, 12.0, 46.5), day=3),
    scene_over("east", shapely.box(12.0, 45.5, 13.0, 46.5), day=2, epsg=32633),
    scene_over("late", shapely.box(11.0, 45.5, 13.0, 46.5), day=9),
)
TILING = {"tile_px": 64, "overlap_px": 16, "block_px": 128}


def plan_for(
    config: RunConfig | None = None,
    region: Region | None = None,
    scenes=SCENES,
    model: str = "weights",
    legend: Legend = LEGEND,
) -> MapPlan:  # type: ignore[no-untyped-def]
    return build_plan(
        config or run_config(tiling=TILING),
        region or region_of(AREA),
        scenes,
        model_fingerprint=model,
        legend=legend,
        software={"numpy": "2"},
    )


@settings(max_examples=50, deadline=None)
@given(row=st.integers(-500, 500), col=st.integers(-500, 500))
def test_tiles_lie_on_the_same_groups_of_pixels_wherever_a_region_begins(row: int, col: int) -> None:
    tiling = TilingConfig(tile_px=128, overlap_px=64, block_px=128)
    found = set()
    for top, left in ((510_000, 60_000), (510_000 - row, 60_000 + col)):
        grid = ZoneGrid(32632, left * 10.0, top * 10.0, 10.0, 300, 200)
        tile = lattice_tile(1, 1, grid, tiling).window
        found.add(((tile.row - top) % 32, (tile.col + left) % 32))
        first = lattice_tile(0, 0, grid, tiling).window
        assert -32 < first.row + 32 <= 0
        assert -32 < first.col + 32 <= 0
    assert found == {(0, 0)}


# --- geometry of blocks and tiles ---------------------------------------------------------------------------------


@st.composite
def tilings(draw: st.DrawFn) -> TilingConfig:
    tile_px = draw(st.sampled_from([32, 64, 96]))
    overlap_px = 2 * draw(st.integers(0, tile_px // 4))
    margin_px = draw(st.one_of(st.none(), st.integers(0, overlap_px // 2)))
    return TilingConfig(
        tile_px=tile_px, overlap_px=overlap_px, margin_px=margin_px, block_px=draw(st.sampled_from([64, 80, 256]))
    )


sides = st.integers(1, 260)


@settings(max_examples=100, deadline=None)
@given(tiling=tilings(), height=sides, width=sides)
def test_blocks_cover_the_grid_once_and_own_every_tile_once(tiling: TilingConfig, height: int, width: int) -> None:
    zone = zone_of(height, width, tiling)
    covered = np.zeros((height, width), int)
    for position, block in enumerate(zone.blocks):
        assert block.index == position
        assert block.window.row % tiling.block_px == 0
        assert block.window.col % tiling.block_px == 0
        covered[slices(block.window, Window(0, 0, height, width))] += 1
    assert (covered == 1).all()
    rows, cols = lattice_shape(zone.grid, tiling)
    owned = [tile.index for block in zone.blocks for tile in block.tiles]
    assert sorted(owned) == list(range(rows * cols))


@settings(max_examples=100, deadline=None)
@given(tiling=tilings(), height=sides, width=sides, seed=st.integers(0, 999))
def test_ownership_needs_and_read_windows_follow_from_geometry(
    tiling: TilingConfig, height: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    grid = zone_of(height, width, tiling).grid
    centre = rng.uniform([600_000, 5_100_000 - height * 10], [600_000 + width * 10, 5_100_000])
    area = shapely.Point(*centre).buffer(rng.uniform(5, 1500)) if seed % 4 else None
    blocks = plan_blocks(grid, tiling, area)
    owner = {tile.index: block.index for block in blocks for tile in block.tiles}
    half = tiling.overlap_px // 2
    top, left = lattice_origin(grid, tiling)
    at = {(b.window.row, b.window.col): b.index for b in blocks}
    for block in blocks:
        assert list(block.tiles) == sorted(block.tiles, key=lambda tile: tile.index)
        for tile in block.tiles:
            core = (tile.window.row + half - top, tile.window.col + half - left)
            natural = at.get(tuple(v // tiling.block_px * tiling.block_px for v in core))
            reach = contributing_window(tile, grid, tiling)
            assert natural in (None, block.index)
            assert natural is not None or intersection(reach, block.window), "an adopted tile must touch its block"
            assert intersection(tile.window, block.read_window) == tile.window
        assert intersection(block.window, block.read_window) == block.window
        # bounded by the plan: a block never reads further than one tile around it
        assert block.read_window.height <= tiling.block_px + 2 * tiling.tile_px
        assert block.read_window.width <= tiling.block_px + 2 * tiling.tile_px
        touching = {
            owner[tile.index]
            for other in blocks
            for tile in other.tiles
            if intersection(contributing_window(tile, grid, tiling), block.window)
        }
        assert block.needs == tuple(sorted(touching | {block.index}))


def test_only_blocks_and_tiles_that_meet_the_area_are_planned() -> None:
    tiling = TilingConfig(tile_px=32, overlap_px=8, block_px=64)
    grid = zone_of(256, 256, tiling).grid
    corner = shapely.box(600_000 + 10, 5_100_000 - 400, 600_000 + 300, 5_100_000 - 10)  # 29 x 39 px
    blocks = plan_blocks(grid, tiling, corner)
    assert [block.window for block in blocks] == [Window(0, 0, 64, 64)]
    assert len(blocks[0].tiles) == 4
    assert len(plan_blocks(grid, tiling, None)) == 16


def test_tiles_of_unplanned_blocks_are_adopted_by_a_block_that_needs_them() -> None:
    tiling = TilingConfig(tile_px=64, overlap_px=32, block_px=64)
    grid = zone_of(256, 256, tiling).grid
    # The area starts 2 px inside the second block column: tiles centred in the first column reach over the border.
    area = shapely.box(600_000 + 660, 5_100_000 - 600, 600_000 + 1000, 5_100_000 - 20)
    blocks = plan_blocks(grid, tiling, area)
    assert [block.window.col for block in blocks] == [64]
    cores = sorted({tile.window.col + 16 for tile in blocks[0].tiles})
    assert cores[0] == 32, "the tile with its core in the unplanned block to the west is still computed"


# --- purity and identity ------------------------------------------------------------------------------------------


def test_same_inputs_in_another_order_give_an_equal_plan() -> None:
    assert plan_for() == plan_for(scenes=SCENES[::-1])
    assert plan_for() == plan_for(scenes=[*SCENES, SCENES[0]]), "a scene found twice counts once"
    assert [scene.id for scene in plan_for().scenes] == ["east", "west", "late"]


def test_plan_survives_its_file(tmp_path: Path) -> None:
    plan = plan_for()
    write_plan(plan, tmp_path / "run" / "plan.json")
    assert read_plan(tmp_path / "run" / "plan.json") == plan
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["plan.json"]
    first = (tmp_path / "run" / "plan.json").read_bytes()
    write_plan(plan_for(scenes=SCENES[::-1]), tmp_path / "run" / "plan.json")
    assert (tmp_path / "run" / "plan.json").read_bytes() == first


# --- zones, scenes ------------------------------------------------------------------------------------------------


def test_each_zone_lists_the_scenes_that_meet_its_part() -> None:
    region = region_of(shapely.box(11.5, 46.0, 12.5, 46.01))
    far = scene_over("far", shapely.box(20, 46, 21, 47))
    tiling = {"tile_px": 256, "overlap_px": 64, "block_px": 2048}
    west = scene_over("west", shapely.box(11.0, 45.5, 11.9, 46.5), day=3)
    east = scene_over("east", shapely.box(12.1, 45.5, 13.0, 46.5), day=2, epsg=32633)
    plan = plan_for(run_config(tiling=tiling), region, [west, east, SCENES[2], far])
    assert [(zone.grid.epsg, zone.scene_ids) for zone in plan.zones] == [
        (32632, ("west", "late")),
        (32633, ("east", "late")),
    ]


def test_planned_blocks_hold_every_pixel_of_the_region() -> None:
    ring = shapely.Point(11.99, 46.01).buffer(0.02).difference(shapely.Point(11.99, 46.01).buffer(0.017))
    region = region_of(ring)
    plan = plan_for(region=region)
    assert len(plan.zones) == 2
    for zone in plan.zones:
        mask = region_mask(region.zone_geometry(zone.grid.epsg), zone.grid)
        planned = np.zeros_like(mask)
        for block in zone.blocks:
            planned[slices(block.window, Window(0, 0, zone.grid.height, zone.grid.width))] = True
        assert not (mask & ~planned).any()
    unclipped = plan_for(run_config(tiling=TILING, publish={"clip": False}), region)
    assert sum(len(z.blocks) for z in unclipped.zones) > sum(len(z.blocks) for z in plan.zones), "the hole is left out"


def test_tile_count_follows_the_region_not_its_bounding_box() -> None:
    diagonal = shapely.LineString([(11.90, 46.0), (11.98, 46.06)]).buffer(0.001)
    plan = plan_for(region=region_of(diagonal))
    tiles = sum(len(block.tiles) for zone in plan.zones for block in zone.blocks)
    zone = plan.zones[0]
    boxed = np.prod(lattice_shape(zone.grid, TilingConfig(**TILING)))
    assert tiles < boxed / 3
    assert tile_stride(TilingConfig(**TILING)) == 48


def test_no_scene_is_said_so() -> None:
    with pytest.raises(NoScenesError, match="widen"):
        plan_for(scenes=())


def test_two_scenes_with_one_id_are_refused() -> None:
    with pytest.raises(CatalogError, match="'west'"):
        plan_for(scenes=[*SCENES, scene_over("west", AREA, day=20)])


def test_a_footprint_that_is_no_geometry_names_its_scene() -> None:
    with pytest.raises(CatalogError, match="broken"):
        plan_for(scenes=[scene_over("broken", AREA, footprint={"type": "Polygon", "coordinates": "here"})])


# --- the file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("[]", "no 'schema'"),
        ('{"schema": 999}', "schema 999"),
        ('{"schema": 1, "run_id": "x"}', "damaged"),
    ],
)
def test_damaged_plan_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(StoreError, match=message):
        read_plan(path)


def test_plan_with_a_damaged_block_is_refused(tmp_path: Path) -> None:
    write_plan(plan_for(), tmp_path / "plan.json")
    data = json.loads((tmp_path / "plan.json").read_text())
    data["zones"][0]["blocks"][0]["window"] = [0, 0, 10]
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(StoreError, match="damaged"):
        read_plan(tmp_path / "plan.json")


def test_missing_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        read_plan(tmp_path / "plan.json")


def test_a_plan_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    plan = plan_for()
    write_plan(plan, tmp_path / "plan.json")
    before = (tmp_path / "plan.json").read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_plan(dataclasses.replace(plan, config={"name": float("nan")}), tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_plan(plan, tmp_path / "file" / "plan.json")


# --- the summary --------------------------------------------------------------------------------------------------


def test_summary_counts_gaps_by_area_and_lists_sub_regions_worst_first() -> None:
    west, middle, east = (shapely.box(11.90 + 0.02 * i, 46.0, 11.92 + 0.02 * i, 46.02) for i in range(3))
    region = region_of(west, middle, east)
    scenes = [scene_over("s", shapely.box(11.93, 45.0, 12.5, 47.0))]
    summary = summarise(plan_for(region=region, scenes=scenes), region)
    assert summary.gap_share == pytest.approx(0.5, abs=1e-6)
    assert [(gap.id, round(gap.share, 6)) for gap in summary.gaps] == [("r0", 1.0), ("r1", 0.5)]


def test_a_seam_of_a_pixel_is_no_gap_and_a_wider_one_is() -> None:
    """Footprints are told to some metres; forty sub-regions along an edge were forty gaps."""
    strips = [shapely.box(11.90, 46.0 + 0.001 * i, 11.92, 46.001 + 0.001 * i) for i in range(40)]
    region = region_of(*strips)
    for seam_deg, gaps in ((0.0001, 0), (0.001, 40)):
        scenes = [
            scene_over("west", shapely.box(11.5, 45.0, 11.91, 47.0)),
            scene_over("east", shapely.box(11.91 + seam_deg, 45.0, 12.5, 47.0)),
        ]
        summary = summarise(plan_for(region=region, scenes=scenes), region)
        assert len(summary.gaps) == gaps
        assert summary.gap_share == pytest.approx(gaps and seam_deg / 0.02, abs=1e-6)


def test_summary_of_a_covered_region_has_no_gap_and_counts_what_the_plan_holds() -> None:
    plan = plan_for()
    summary = summarise(plan, region_of(AREA))
    assert summary.gap_share == 0.0
    assert summary.gaps == ()
    assert summary.scenes == 3
    assert summary.blocks == sum(zone.blocks for zone in summary.zones) == sum(len(z.blocks) for z in plan.zones)
    assert summary.tiles == sum(zone.tiles for zone in summary.zones)
    # 0.04 x 0.02 degrees at 46 north
    assert summary.region_area_ha == pytest.approx(0.04 * 77.465 * 0.02 * 111.15 * 100, rel=5e-3)


def test_bytes_to_read_count_native_pixels_of_scenes_under_each_read_window() -> None:
    region = region_of(shapely.box(11.5, 46.0, 11.51, 46.01))
    scenes = [scene_over(f"s{i}", shapely.box(11, 45, 12, 47), day=i + 1) for i in range(3)]
    plan = plan_for(region=region, scenes=[*scenes, scene_over("east", shapely.box(11.9, 45, 13, 47))])
    windows = [block.read_window for zone in plan.zones for block in zone.blocks]
    # 4 bands at 10 m and 6 at 20 m, uint16, and the SCL at 20 m, uint8
    expected = 3 * sum(w.height * w.width for w in windows) * (4 * 2 + 6 * 2 / 4 + 1 / 4)
    assert summarise(plan, region).bytes_to_read == pytest.approx(expected, abs=1)
    capped = plan_for(run_config(tiling=TILING, composite={"max_observations": 1}), region, scenes)
    assert summarise(capped, region).bytes_to_read == pytest.approx(expected / 3, abs=1)


def test_memory_estimate_does_not_grow_with_the_region() -> None:
    small, large = region_of(shapely.box(11.5, 46.0, 11.55, 46.05)), region_of(shapely.box(11.5, 46.0, 11.7, 46.2))
    scenes = [scene_over("s", shapely.box(11, 45, 12, 47))]
    a, b = (summarise(plan_for(region=region, scenes=scenes), region) for region in (small, large))
    assert b.tiles > 5 * a.tiles
    assert b.peak_memory_bytes <= a.peak_memory_bytes * 1.01
    assert b.cpu_core_seconds > 5 * a.cpu_core_seconds


def test_dates_classified_one_by_one_cost_a_pass_each_and_room_for_each() -> None:
    region = region_of(shapely.box(11.5, 46.0, 11.51, 46.01))
    scenes = [scene_over(f"s{i}", shapely.box(11, 45, 12, 47), day=i + 1) for i in range(3)]
    scenes += [scene_over(f"s{i}b", shapely.box(11, 45, 12, 47), day=i + 1) for i in range(3)]  # of the same passes
    found = {}
    for method, limit in (("median", 8), ("fuse", 8), ("fuse", 2), ("fuse", 1)):
        composite = {"method": method, "max_observations": limit}
        plan = plan_for(run_config(tiling=TILING, composite=composite), region, scenes)
        found[method, limit] = summarise(plan, region)
        held = block_sizes(plan, 9)[0, 0].pixels
        area = plan.zones[0].blocks[0].read_window.height * plan.zones[0].blocks[0].read_window.width
        dates = 0 if method == "median" else min(limit, len(scenes))
        assert held == area * (40 * (1 + dates) + 2 * dates)
    median = found["median", 8]
    assert median.passes == median.tiles
    for limit, dates in ((8, 3), (2, 2), (1, 1)):
        fuse = found["fuse", limit]
        assert fuse.passes == dates * median.tiles
        assert fuse.cpu_core_seconds == pytest.approx(dates * median.cpu_core_seconds)
        assert fuse.gpu_seconds == pytest.approx(dates * median.gpu_seconds)
    sizes = [found["fuse", limit].peak_memory_bytes for limit in (1, 2, 8)]
    assert median.peak_memory_bytes < sizes[-1]
    assert sizes == sorted(sizes)


def test_scene_times_keep_their_zone_in_the_file(tmp_path: Path) -> None:
    plan = plan_for()
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json").scenes[0].datetime == dt.datetime(2026, 5, 2, 10, tzinfo=dt.UTC)
