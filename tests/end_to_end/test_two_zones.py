"""A region on the border of two UTM zones: one map per zone, no gap and no overlap between them."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from shapely.geometry import box, mapping

import pipeline
from pipeline.engine.cluster import Cluster
from pipeline.simulation import DEMO_SPEC, ArchiveSpec, write_archive
from pipeline.simulation.clouds import Clouds
from pipeline.simulation.granules import granule_grid
from pipeline.simulation.scene import Acquisition
from tests.conftest import tiny_config
from tests.stac_schemas import problems

pytestmark = pytest.mark.ray

BORDER = 12.0
"""Degrees east: where zone 32 ends and zone 33 begins."""


def test_a_region_across_a_zone_border_is_mapped_once(tmp_path: Path, local_ray: Cluster) -> None:
    spec = ArchiveSpec(
        world=DEMO_SPEC.world,
        granules=granule_grid(32632, 729_000, 5_150_000, size_px=256, overlap_px=32),
        acquisitions=(
            Acquisition(dt.datetime(2026, 6, 18, 10, 15, 59, tzinfo=dt.UTC), Clouds(seed=1, level=-9.0, cirrus=-9.0)),
        ),
    )
    archive = write_archive(tmp_path / "archive", spec, str(tmp_path / "archive")).folder
    with rasterio.open(next((archive / "truth").glob("*.tif"))) as truth:
        west, south, east, north = truth.bounds
    to_lonlat = Transformer.from_crs(32632, 4326, always_xy=True).transform
    middle = to_lonlat((west + east) / 2, (south + north) / 2)
    assert abs(middle[0] - BORDER) < 0.02
    area = box(BORDER - 0.008, middle[1] - 0.005, BORDER + 0.008, middle[1] + 0.005)
    region = tmp_path / "region.geojson"
    region.write_text(
        json.dumps({"type": "Feature", "geometry": mapping(area), "properties": {"id": "a", "name": "A"}})
    )

    config = tiny_config(archive, tmp_path / "out").model_copy(update={"region": region})
    result = pipeline.run(config)

    assert result.exit_code == 0
    crs = [rasterio.open(path).crs.to_epsg() for path in result.outputs["landcover"]]
    assert sorted(crs) == [32632, 32633]
    mapped_ha = 0.0
    for path in result.outputs["landcover"]:
        with rasterio.open(path) as landcover:
            codes = landcover.read(1)
            rows, columns = np.nonzero(codes)
            x, y = rasterio.transform.xy(landcover.transform, rows, columns)
            longitude, _ = Transformer.from_crs(landcover.crs, 4326, always_xy=True).transform(x, y)
            inside_zone = longitude <= BORDER if landcover.crs.to_epsg() == 32632 else longitude >= BORDER
            assert inside_zone.all()
            mapped_ha += len(rows) * 0.01
    geodesic_ha = 0.016 * 111_320 * np.cos(np.radians(middle[1])) * 0.010 * 111_150 / 10_000
    assert mapped_ha == pytest.approx(geodesic_ha, rel=0.02)
    explanations = json.loads(result.outputs["explanations"][0].read_text())
    assert sum(entry["area_ha"] for entry in explanations["regions"]) == pytest.approx(mapped_ha, rel=0.01)
    for path in (tmp_path / "out").rglob("*.json"):
        document = json.loads(path.read_text())
        if isinstance(document, dict) and "stac_version" in document:
            assert problems(document) == [], path
