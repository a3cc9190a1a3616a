"""Small plans and stores for tests of the stations that work on them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from pipeline.mapstore.index_cells import CELL_PX
from pipeline.mapstore.store import RunStore
from pipeline.planning.blocks import plan_blocks
from pipeline.predict.stitch import BlockLayers
from pipeline.records.plan import MapPlan, ZoneGrid, ZonePlan
from pipeline.records.region import Region, SubRegion
from pipeline.records.scene import Scene, SceneAsset
from pipeline.settings.run_file import RunConfig, TilingConfig
from spex_core.indices import SPECTRAL_INDICES
from spex_core.legend import Legend

EPSG = 32632
LEGEND = Legend.from_yaml()


def run_config(**settings: Any) -> RunConfig:
    return RunConfig.from_dict(
        {"name": "test", "region": "region.geojson", "start": "2026-05-01", "end": "2026-05-31", **settings}
    )


def region_of(*areas: shapely.Geometry) -> Region:
    parts = tuple(SubRegion(f"r{i}", f"Region {i}", area) for i, area in enumerate(areas))
    return Region(shapely.union_all(list(areas)), parts)


def scene_over(scene_id: str, area: shapely.Geometry, *, day: int = 1, **fields: Any) -> Scene:
    values: dict[str, Any] = {
        "id": scene_id,
        "collection": "sentinel-2-l2a",
        "provider": "generic",
        "datetime": dt.datetime(2026, 5, day, 10, tzinfo=dt.UTC),
        "cloud_cover": 10.0,
        "epsg": EPSG,
        "bbox": area.bounds,
        "footprint": shapely.geometry.mapping(area),
        "assets": {"B02": SceneAsset(f"https://example.org/{scene_id}/B02.tif", 1e-4, -0.1)},
        "radiometry": "scale 0.0001, offset -0.1 (baseline 05.10)",
    }
    return Scene(**{**values, **fields})


def zone_of(height: int, width: int, tiling: TilingConfig, *, epsg: int = EPSG, area: Any = None) -> ZonePlan:
    grid = ZoneGrid(epsg, 600_000.0, 5_100_000.0, tiling.resolution_m, height, width)
    return ZonePlan(grid, plan_blocks(grid, tiling, area), ())


def plan_of(*zones: ZonePlan, tiling: TilingConfig, run_id: str = "0123456789abcdef") -> MapPlan:
    config = run_config(tiling=tiling.model_dump()).model_dump(mode="json")
    return MapPlan(run_id, config, (), zones, {"numpy": np.__version__})


def filled_store(folder: Path, plan: MapPlan, seed: int = 0, empty_share: float = 0.1) -> RunStore:
    """A store whose blocks hold random patches of classes."""
    store = RunStore.create(folder, plan, LEGEND)
    rng = np.random.default_rng(seed)
    for zone in plan.zones:
        for block in zone.blocks:
            layers, valid_count, means = random_layers(rng, block.window.height, block.window.width, empty_share)
            store.write_block(zone.grid.epsg, block, layers, valid_count, means)
    return store


def random_layers(
    rng: np.random.Generator, height: int, width: int, empty_share: float = 0.1
) -> tuple[BlockLayers, np.ndarray, np.ndarray]:
    cells = rng.choice(np.array(LEGEND.codes, np.uint8), (-(-height // 5), -(-width // 5)))
    landcover = np.kron(cells, np.ones((5, 5), np.uint8))[:height, :width]
    seen = rng.random((height, width)) >= empty_share
    confidence = rng.integers(0, 101, (height, width), dtype=np.uint8)
    layers = BlockLayers(
        scores=rng.integers(0, 256, (len(LEGEND), height, width), dtype=np.uint8),
        landcover=np.where(seen, landcover, np.uint8(LEGEND.nodata)),
        confidence=np.where(seen, confidence, np.uint8(255)),
    )
    valid_count = np.where(seen, rng.integers(1, 9, (height, width)), 0).astype(np.uint8)
    cells = (len(SPECTRAL_INDICES), len(LEGEND), -(-height // CELL_PX), -(-width // CELL_PX))
    return layers, valid_count, rng.integers(-10_000, 10_001, cells).astype(np.int16)
