"""Label collections: the code tables of the public products, and any class raster of any catalog."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import shapely
from affine import Affine

from pipeline.errors import LabelError
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.region import Region, SubRegion
from pipeline.spie.config import LabelConfig
from pipeline.spie.labels import PRODUCTS, LabelSource, find_labels, recode
from spex_core.legend import Legend

LEGEND = Legend.from_yaml()
GRID = ZoneGrid(32632, 640_000.0, 5_150_000.0, 10.0, 64, 64)
OUTLINE = shapely.box(10.82, 46.47, 10.86, 46.50)
"""lon/lat, around the grid."""
REGION = Region(OUTLINE, (SubRegion("all", "All", OUTLINE),))
DEGREE_PX = 8.3333333333e-05
"""Pixel of ESA WorldCover: 10 m at the equator."""


def write_map(path: Path, codes: npt.NDArray[np.uint8], *, lonlat: bool, nodata: int | None) -> None:
    transform = (
        Affine(DEGREE_PX, 0, 10.82, 0, -DEGREE_PX, 46.50) if lonlat else Affine(10, 0, GRID.left, 0, -10, GRID.top)
    )
    with rasterio.open(
        path, "w", driver="GTiff", height=codes.shape[0], width=codes.shape[1], count=1, dtype="uint8",
        crs="EPSG:4326" if lonlat else "EPSG:32632", transform=transform, nodata=nodata,
    ) as ds:  # fmt: skip
        ds.write(codes, 1)


def item(
    identifier: str, href: str, year: int, collection: str, asset: str = "map", **properties: Any
) -> dict[str, Any]:
    """A label item as the Planetary Computer serves WorldCover: no datetime, but a start and an end."""
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": identifier,
        "collection": collection,
        "geometry": json.loads(shapely.to_geojson(OUTLINE)),
        "bbox": list(OUTLINE.bounds),
        "properties": {
            "datetime": None,
            "start_datetime": f"{year}-01-01T00:00:00Z",
            "end_datetime": f"{year}-12-31T23:59:59Z",
            "esa_worldcover:product_tile": "N45E009",
            "proj:epsg": 4326,
            **properties,
        },
        "links": [],
        "assets": {asset: {"href": href}, "input_quality": {"href": "quality.tif"}},
    }


def catalog(folder: Path, *items: dict[str, Any]) -> str:
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return str(folder / "items.json")


def read(source: LabelSource) -> npt.NDArray[np.uint8]:
    return source.read(GRID, Window(0, 0, 64, 64))[0]


@pytest.mark.parametrize("provider", ["planetary-computer", "cdse"])
def test_every_product_maps_into_the_default_legend(provider: str) -> None:
    product = PRODUCTS[provider]  # type: ignore[index]
    assert set(product.codes.values()) == set(LEGEND.codes)
    assert product.nodata not in product.codes


def test_worldcover_in_degrees_is_read_onto_the_grid_with_its_own_codes(tmp_path: Path) -> None:
    codes = np.full((400, 500), 95, np.uint8)  # mangroves
    codes[:, 250:] = 100  # moss and lichen
    write_map(tmp_path / "map.tif", codes, lonlat=True, nodata=0)
    url = catalog(tmp_path, item("WC", "map.tif", 2021, "esa-worldcover"))
    found = read(find_labels(LabelConfig(url=url), LEGEND, REGION))
    assert set(np.unique(found)) <= {0, 10}
    assert found[:, 0].tolist() == [10] * 64


def test_the_copernicus_map_has_other_codes_for_the_same_classes(tmp_path: Path) -> None:
    row = np.array([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 254, 255], np.uint8)
    codes = np.zeros((64, 64), np.uint8)
    codes[:, : len(row)] = row
    write_map(tmp_path / "map.tif", codes, lonlat=False, nodata=255)
    url = catalog(tmp_path, item("LCM", "map.tif", 2020, "clms_lcm_global_10m_yearly_v1_cog"))
    labels = find_labels(LabelConfig(provider="cdse", url=url), LEGEND, REGION)
    assert read(labels)[5, : len(row)].tolist() == [10, 20, 30, 40, 90, 10, 0, 60, 50, 80, 70, 0, 0]
    assert "Copernicus Land Monitoring Service" in labels.files[0].licence


def test_an_older_map_only_fills_what_the_newest_leaves_open(tmp_path: Path) -> None:
    old, new = np.full((64, 64), 40, np.uint8), np.full((64, 64), 80, np.uint8)
    new[:, 32:] = 0
    write_map(tmp_path / "old.tif", old, lonlat=False, nodata=0)
    write_map(tmp_path / "new.tif", new, lonlat=False, nodata=0)
    url = catalog(tmp_path, item("a", "old.tif", 2020, "esa-worldcover"), item("b", "new.tif", 2021, "esa-worldcover"))
    codes, used = find_labels(LabelConfig(url=url), LEGEND, REGION).read(GRID, Window(0, 0, 64, 64))
    assert (codes[:, :32] == 80).all()
    assert (codes[:, 32:] == 40).all()
    assert [file.id for file in used] == ["b", "a"]
    only = LabelConfig(url=url, start=dt.date(2020, 1, 1), end=dt.date(2020, 12, 31))
    assert (read(find_labels(only, LEGEND, REGION)) == 40).all()


def test_any_collection_with_a_code_table_will_do(tmp_path: Path) -> None:
    codes = np.full((64, 64), 3, np.uint8)
    codes[0] = 7
    write_map(tmp_path / "mine.tif", codes, lonlat=False, nodata=None)
    url = catalog(tmp_path, item("mine", "mine.tif", 2024, "my-maps", "classes", license="CC0-1.0"))
    config = LabelConfig(provider="generic", url=url, collection="my-maps", asset="classes", codes={3: 50})
    labels = find_labels(config, LEGEND, REGION)
    assert read(labels)[:2, 0].tolist() == [0, 50]
    assert labels.files[0].licence == "CC0-1.0"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codes": {3: 51}}, ["labels.codes", "3: 51", "worldcover9"]),
        ({"codes": {300: 50}}, ["300: 50"]),
        ({"asset": "classes"}, ["no labels", "no asset 'classes'"]),
        ({"collection": "other"}, ["no labels", "collection other", "labels.collection"]),
        ({"start": dt.date(2025, 1, 1)}, ["no labels", "2025-01-01"]),
    ],
)
def test_labels_that_do_not_fit_are_told(tmp_path: Path, change: dict[str, Any], words: list[str]) -> None:
    url = catalog(tmp_path, item("mine", "mine.tif", 2024, "my-maps"))
    settings = {"provider": "generic", "url": url, "collection": "my-maps", "asset": "map", **change}
    with pytest.raises(LabelError) as told:
        find_labels(LabelConfig.model_validate(settings), LEGEND, REGION)
    assert all(word in str(told.value) for word in words)


def test_an_href_of_another_scheme_is_refused(tmp_path: Path) -> None:
    url = catalog(tmp_path, item("mine", "ftp://example.org/map.tif", 2024, "esa-worldcover"))
    with pytest.raises(LabelError, match="scheme 'ftp'"):
        find_labels(LabelConfig(url=url), LEGEND, REGION)


def test_numbers_that_are_no_codes_are_not_labelled() -> None:
    numbers = np.array([1.0, 1.5, -1.0, 256.0, np.nan, 2.0], np.float32)
    assert recode(numbers, {1: 10, 0: 20}, 255).tolist() == [10, 255, 255, 255, 255, 255]
