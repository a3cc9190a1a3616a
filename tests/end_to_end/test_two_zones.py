"""Regions at the edges of the UTM grid: mapped once, without gap or overlap, in the zones of their scenes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from pyproj import Geod, Transformer
from shapely.geometry import mapping

import pipeline
from pipeline.engine.cluster import Cluster
from pipeline.records.result import RunResult
from tests.conftest import tiny_config
from tests.pipeline.tiny_scenes import write_scene
from tests.stac_schemas import problems

pytestmark = pytest.mark.ray

TREES = {"B02": 1250, "B03": 1450, "B04": 1300, "B05": 1800, "B06": 3200, "B07": 3900, "B08": 4200, "B8A": 4300,
         "B11": 2800, "B12": 1900}  # fmt: skip
SIZE_M = 2560.0


def granule(folder: Path, name: str, epsg: int, lon: float, lat: float, **options: Any) -> dict[str, Any]:
    """A granule of its zone's 20 m lattice around a place, without clouds."""
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
    left, top = round((x - SIZE_M / 2) / 20) * 20.0, round((y + SIZE_M / 2) / 20) * 20.0
    # The tile in the name differs from granule to granule: none supersedes another.
    return write_scene(
        folder, name, dn=TREES, left=left, top=top, size_m=SIZE_M, epsg=epsg, **({"cloud": 1.0} | options)
    )  # fmt: skip


def run(folder: Path, area: shapely.Geometry, items: list[dict[str, Any]]) -> RunResult:
    catalog = folder / "items.json"
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    region = folder / "region.geojson"
    region.write_text(
        json.dumps({"type": "Feature", "geometry": mapping(area), "properties": {"id": "a", "name": "A"}})
    )
    config = tiny_config(folder, folder / "out", source={"provider": "planetary-computer", "url": str(catalog)})
    result = pipeline.run(config.model_copy(update={"region": region}))
    assert result.exit_code == 0
    for path in (folder / "out").rglob("*.json"):
        document = json.loads(path.read_text())
        if isinstance(document, dict) and "stac_version" in document:
            assert problems(document) == [], path
    return result


def mapped(result: RunResult) -> dict[int, tuple[float, np.ndarray]]:
    """EPSG code → hectares mapped, and the longitudes of the mapped pixels."""
    found = {}
    for path in result.outputs["landcover"]:
        with rasterio.open(path) as landcover:
            rows, columns = np.nonzero(landcover.read(1))
            x, y = rasterio.transform.xy(landcover.transform, rows, columns)
            lon, _ = Transformer.from_crs(landcover.crs, 4326, always_xy=True).transform(x, y)
            found[landcover.crs.to_epsg()] = (len(rows) * 0.01, np.asarray(lon))
    return found


def hectares(area: shapely.Geometry) -> float:
    return sum(abs(Geod(ellps="WGS84").geometry_area_perimeter(part)[0]) for part in shapely.get_parts(area)) / 1e4


CASES: dict[str, tuple[shapely.Geometry, list[tuple[str, int, float, float, float]], list[int]]] = {
    "one pass in two zones": (
        shapely.box(11.993, 46.0, 12.007, 46.008),
        [("T32TQS", 32632, 12.0, 46.004, 2.0), ("T33TUM", 32633, 12.0, 46.004, 1.0)],
        [32632, 32633],
    ),
    "a granule beyond its zone": (
        shapely.box(11.993, 46.0, 12.007, 46.008),
        [("T32TQS", 32632, 12.0, 46.004, 2.0)],
        [32632],
    ),
    "southern hemisphere": (
        shapely.box(30.99, -20.01, 31.0, -20.0),
        [("T36KTD", 32736, 30.995, -20.005, 1.0)],
        [32736],
    ),
    "equator": (
        shapely.box(36.795, -0.006, 36.805, 0.004),
        [("T37MBV", 32737, 36.8, -0.009, 1.0), ("T37NBA", 32637, 36.8, 0.009, 1.0)],
        [32737],
    ),
    "equator, granule of the other hemisphere": (
        shapely.box(36.795, -0.006, 36.805, 0.004),
        [("T37NBA", 32637, 36.8, 0.0, 1.0)],
        [32637],
    ),
    "south-west Norway": (
        shapely.box(5.3, 60.39, 5.318, 60.399),
        [("T32VKM", 32632, 5.309, 60.3945, 1.0)],
        [32632],
    ),
    "antimeridian": (
        shapely.MultiPolygon(
            [shapely.box(179.994, -16.806, 180.0, -16.798), shapely.box(-180.0, -16.806, -179.994, -16.798)]
        ),
        [("T60KYF", 32760, 179.998, -16.802, 2.0), ("T01KAB", 32701, -179.998, -16.802, 1.0)],
        [32701, 32760],
    ),
    "antimeridian, one zone": (
        shapely.MultiPolygon(
            [shapely.box(179.994, -16.806, 180.0, -16.798), shapely.box(-180.0, -16.806, -179.994, -16.798)]
        ),
        [("T01KAB", 32701, 180.0, -16.802, 1.0)],
        [32701],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_region_is_mapped_once_in_the_zones_of_its_scenes(tmp_path: Path, local_ray: Cluster, case: str) -> None:
    area, granules, zones = CASES[case]
    items = [
        granule(tmp_path, f"S2B_{tile}_{i}", epsg, lon, lat, cloud=cloud, time=f"2026-06-01T10:30:{i:02d}Z")
        for i, (tile, epsg, lon, lat, cloud) in enumerate(granules)
    ]
    result = run(tmp_path, area, items)
    found = mapped(result)
    assert sorted(found) == zones
    total = sum(ha for ha, _ in found.values())
    assert total == pytest.approx(hectares(area), rel=0.02)
    if zones == [32632, 32633]:
        assert found[32632][1].max() <= 12.0 <= found[32633][1].min()
    if zones == [32701, 32760]:
        assert found[32701][1].max() < 0.0 < found[32760][1].min()
    explanations = json.loads(result.outputs["explanations"][0].read_text())
    assert sum(entry["area_ha"] for entry in explanations["regions"]) == pytest.approx(total, rel=0.01)
    codes = set()
    for path in result.outputs["landcover"]:
        with rasterio.open(path) as landcover:
            codes |= set(np.unique(landcover.read(1))) - {0}
    assert len(codes) == 1, "bare of seams: one cover, one class"
