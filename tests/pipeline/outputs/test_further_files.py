"""Files that a run file asks for: one map of all zones, the polygons of the classes; and the picture below the map."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pydantic
import pytest
import rasterio
import shapely
from rasterio.warp import transform as transform_points

from pipeline.errors import OutputError
from pipeline.imagery.true_color import true_color
from pipeline.outputs import class_polygons
from pipeline.outputs.class_polygons import write_class_polygons
from pipeline.settings.publishing import OutputConfig
from spex_core.bands import BAND_INDEX
from tests.pipeline.outputs.test_publish import EAST, WEST, finished_run, publish
from tests.pipeline.outputs.test_thumbnail import write_map
from tests.pipeline.small_plans import LEGEND, region_of
from tests.stac_schemas import problems


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("joined")
    publish(*finished_run(output, region_of(WEST, EAST), publish={"mosaic": "EPSG:3035", "polygons": True}))
    return output / "spex-landcover"


def test_the_joined_map_has_the_nearest_pixel_of_a_zone(joined: Path) -> None:
    with rasterio.open(joined / "test_2026-05-01_2026-05-31_3035" / "landcover.tif") as whole:
        codes, grid = whole.read(1), whole.transform
        assert whole.crs.to_epsg() == 3035
        assert whole.colormap(1)[10][:3] == LEGEND.colormap()[10][:3]
    rows, cols = (axis[::7] for axis in np.nonzero(codes))
    xs, ys = grid.c + (cols + 0.5) * grid.a, grid.f + (rows + 0.5) * grid.e
    explained, seen = np.zeros(len(rows), bool), 0
    for epsg in (32632, 32633):
        with rasterio.open(joined / f"test_2026-05-01_2026-05-31_{epsg}" / "landcover.tif") as zone:
            values = np.pad(zone.read(1), 2)
            px, py = (np.array(axis) for axis in transform_points("EPSG:3035", zone.crs, xs, ys))
            col, row = (px - zone.bounds.left) / 10.0, (zone.bounds.top - py) / 10.0
        seen += int((values > 0).sum())
        for d_row, d_col in ((0, 0), (0, 0.2), (0, -0.2), (0.2, 0), (-0.2, 0)):  # GDAL warps to an eighth of a pixel
            at_row = np.clip(np.floor(row + d_row).astype(int) + 2, 0, values.shape[0] - 1)
            at_col = np.clip(np.floor(col + d_col).astype(int) + 2, 0, values.shape[1] - 1)
            explained |= values[at_row, at_col] == codes[rows, cols]
    assert len(rows) > 100
    assert explained.mean() > 0.999
    assert (codes > 0).sum() == pytest.approx(seen, rel=0.05)


def test_the_joined_map_is_an_item_of_its_own(joined: Path) -> None:
    item = json.loads((joined / "test_2026-05-01_2026-05-31_3035" / "test_2026-05-01_2026-05-31_3035.json").read_text())
    assert problems(item) == []
    assert item["properties"]["proj:code"] == "EPSG:3035"
    assert {"landcover", "confidence", "explanations", "report", "plan", "provenance"} <= set(item["assets"])
    assert "valid_count" not in item["assets"]


def test_a_zone_s_own_system_and_systems_without_metres_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is the system of a zone"):
        publish(*finished_run(tmp_path, region_of(WEST), publish={"mosaic": "EPSG:32632"}))
    for code in ("EPSG:4326", "EPSG:2263", "EPSG:999999"):
        with pytest.raises(pydantic.ValidationError, match=r"no projected system in metres|is not known"):
            OutputConfig(mosaic=code)


def test_polygons_cover_each_class_exactly(joined: Path) -> None:
    folder = joined / "test_2026-05-01_2026-05-31_32632"
    with rasterio.open(folder / "landcover.tif") as source:
        codes = source.read(1)
    rows = pq.read_table(folder / "classes.parquet").to_pylist()
    for code in np.unique(codes[codes > 0]).tolist():
        shapes = [shapely.from_wkb(row["geometry"]) for row in rows if row["code"] == code]
        assert all(shape.is_valid for shape in shapes)
        area = sum(row["area_ha"] for row in rows if row["code"] == code)
        assert area == pytest.approx((codes == code).sum() * 0.01, abs=1e-9)


def test_polygons_do_not_depend_on_the_tiles(joined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    landcover = joined / "test_2026-05-01_2026-05-31_32632" / "landcover.tif"
    whole = write_class_polygons(landcover, tmp_path / "whole.parquet", LEGEND, "x").read_bytes()
    monkeypatch.setattr(class_polygons, "_TILE_PX", 17)
    cut = write_class_polygons(landcover, tmp_path / "cut.parquet", LEGEND, "x")
    one, other = (pq.read_table(tmp_path / name).to_pylist() for name in ("whole.parquet", "cut.parquet"))
    assert [row["area_ha"] for row in one] == [row["area_ha"] for row in other]
    for a, b in zip(one, other, strict=True):
        assert shapely.from_wkb(a["geometry"]).equals(shapely.from_wkb(b["geometry"]))
    assert write_class_polygons(landcover, tmp_path / "whole.parquet", LEGEND, "x").read_bytes() == whole
    assert cut.is_file()


def test_smooth_outlines_are_shared_and_keep_the_areas_of_the_pixels(tmp_path: Path) -> None:
    rows, cols = np.mgrid[:200, :160]
    codes = np.select([3 * cols < rows, (rows - 90) ** 2 + (cols - 100) ** 2 < 900], [10, 80], 30).astype(np.uint8)
    codes[:, 150:] = 0
    landcover = write_map(tmp_path / "landcover.tif", codes)
    tables = [
        pq.read_table(write_class_polygons(landcover, tmp_path / f"{smooth}.parquet", LEGEND, "x", smooth=smooth))
        for smooth in (False, True)
    ]
    assert tables[0].drop(["geometry"]).equals(tables[1].drop(["geometry"]))
    plain, smooth = ([shapely.from_wkb(g) for g in table["geometry"].to_pylist()] for table in tables)
    assert shapely.coverage_is_valid(smooth)  # no gaps, no overlaps
    stairs, lake = (shapely.get_num_coordinates(shapes[-1]) for shapes in (plain, smooth))
    assert lake < stairs / 2
    assert shapely.union_all(smooth).equals(shapely.union_all(plain))
    for before, after in zip(plain, smooth, strict=True):
        assert after.area == pytest.approx(before.area, rel=0.02)


def test_the_picture_is_one_stretch_with_holes_where_nothing_was_seen() -> None:
    reflectance = np.full((10, 2, 3), 0.1, np.float32)
    reflectance[BAND_INDEX["B04"], 0] = [-0.05, 0.0, 0.9]
    reflectance[BAND_INDEX["B02"], 1, 0] = np.nan
    picture = true_color(reflectance)
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [1, 1, 255]
    assert picture[:, 1, 0].tolist() == [0, 0, 0]
    assert (picture[:, 1, 1] == picture[0, 1, 1]).all()
    grey = [int(true_color(np.full((10, 1, 1), v, np.float32))[0, 0, 0]) for v in np.linspace(0, 0.35, 50)]
    assert grey == sorted(grey)
