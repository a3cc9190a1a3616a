"""What others' programs make of an output folder: the same pixels at the same place, over HTTP, by STAC and by file."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import odc.stac
import pytest
import rasterio
from fastapi import FastAPI
from pyproj import Transformer
from pystac import Item
from pystac_client import Client
from rio_cogeo import cog_validate
from rio_tiler.io import STACReader
from starlette.testclient import TestClient
from titiler.core.factory import TilerFactory

from pipeline.outputs.assets import ASSETS
from pipeline.simulation.server import serve_files, serve_stac
from tests.pipeline.outputs.small_items import COLLECTION
from tests.pipeline.outputs.test_publish import EAST, WEST, finished_run, publish
from tests.pipeline.small_plans import region_of

# Requests stay on this machine and are not repeated for seconds where a file has no neighbour.
os.environ.setdefault("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder of two zones that is served where it says it is."""
    output = tmp_path_factory.mktemp("web")
    with serve_files(output) as address:
        publish(
            *finished_run(output, region_of(WEST, EAST), publish={"url": address, "scores": True, "polygons": True})
        )
        yield output, address


@pytest.fixture(scope="module")
def found(web: tuple[Path, str]) -> Iterator[list[Item]]:
    """Items as a STAC API over the folder's own table gives them."""
    output, _ = web
    with serve_stac(output / COLLECTION / "items.parquet") as address:
        search = Client.open(address).search(collections=[COLLECTION], datetime="2026-05")
        yield sorted(search.items(), key=lambda item: item.id)


def file_of(item: Item, key: str, output: Path) -> Path:
    return output / COLLECTION / item.id / Path(item.assets[key].href).name


def test_a_search_finds_each_zone_once_with_addresses_that_open(found: list[Item], web: tuple[Path, str]) -> None:
    output, address = web
    assert len(found) == 2
    for item in found:
        assert all(asset.href.startswith(f"{address}/{COLLECTION}/{item.id}/") for asset in item.assets.values())
        assert all(file_of(item, key, output).name == ASSETS[key].file for key in item.assets)
        assert all(file_of(item, key, output).is_file() for key in item.assets)


def test_odc_stac_loads_the_pixels_of_the_file(found: list[Item], web: tuple[Path, str]) -> None:
    for item in found:
        loaded = odc.stac.load([item], bands=["landcover", "confidence", "valid_count"])
        assert dict(loaded.sizes) == {"time": 1, "y": item.properties["proj:shape"][0], "x": loaded.sizes["x"]}
        for band in loaded.data_vars:
            with rasterio.open(file_of(item, str(band), web[0])) as source:
                np.testing.assert_array_equal(loaded[band].values[0], source.read(1))
                half = source.res[0] / 2
                assert float(loaded.x[0]) == source.bounds.left + half
                assert float(loaded.y[0]) == source.bounds.top - half
                assert loaded[band].attrs["nodata"] == source.nodata


def centre_of_data(path: Path) -> tuple[float, float, int]:
    """Longitude and latitude of a pixel amid others of its class, and the class."""
    with rasterio.open(path) as source:
        codes = source.read(1)
        rows, cols = np.nonzero(codes)
        pick = len(rows) // 2
        x, y = source.xy(rows[pick], cols[pick])
        lon, lat = Transformer.from_crs(source.crs, 4326, always_xy=True).transform(x, y)
    return lon, lat, int(codes[rows[pick], cols[pick]])


def test_rio_tiler_reads_points_and_parts_of_an_item(found: list[Item], web: tuple[Path, str]) -> None:
    for item in found:
        lon, lat, code = centre_of_data(file_of(item, "landcover", web[0]))
        with STACReader(item.get_self_href(), item=item) as reader:  # the item as it was found
            assert {"landcover", "confidence", "truecolor", "valid_count"} <= set(reader.assets)
            point = reader.point(lon, lat, assets=["landcover"])
            assert point.array[0] == code
            box = (lon - 0.001, lat - 0.001, lon + 0.001, lat + 0.001)
            part = reader.part(box, assets=["landcover"], resampling_method="nearest")
            assert code in part.array[0]


def test_titiler_draws_the_palette_of_the_file(found: list[Item], web: tuple[Path, str]) -> None:
    application = FastAPI()
    application.include_router(TilerFactory().router)
    browser = TestClient(application)
    href = found[0].assets["landcover"].href
    info = browser.get("/info", params={"url": href}).json()
    assert info["dtype"] == "uint8"
    assert info["nodata_type"] == "Nodata"
    lon, lat, code = centre_of_data(file_of(found[0], "landcover", web[0]))
    assert browser.get(f"/point/{lon},{lat}", params={"url": href}).json()["values"][0] == code
    preview = browser.get("/preview.png", params={"url": href})
    assert preview.headers["content-type"] == "image/png"
    with (
        rasterio.MemoryFile(preview.content) as memory,
        memory.open() as picture,
        rasterio.open(file_of(found[0], "landcover", web[0])) as source,
    ):
        drawn = {tuple(c) for c in picture.read()[:3].reshape(3, -1).T.tolist()}
        assert tuple(source.colormap(1)[code][:3]) in drawn


def test_every_raster_is_a_cog_where_it_is_served(found: list[Item]) -> None:
    for item in found:
        rasters = [asset.href for asset in item.assets.values() if asset.href.endswith(".tif")]
        assert len(rasters) > 3
        for href in rasters:
            valid, errors, warnings = cog_validate(href, strict=True)
            assert (valid, errors, warnings) == (True, [], [])


def test_duckdb_counts_from_tables_what_the_maps_hold(found: list[Item], web: tuple[Path, str]) -> None:
    output, _ = web
    base = output / COLLECTION
    rows = duckdb.sql(f"select id, datetime, \"proj:code\" from read_parquet('{base}/items.parquet') order by id")
    assert [row[0] for row in rows.fetchall()] == [item.id for item in found]
    for item in found:
        folder = base / item.id
        told = duckdb.sql(f"select region, class_area_ha from read_csv('{folder}/regions.csv')").fetchall()
        written = csv.DictReader((folder / "regions.csv").read_text().splitlines())
        assert [(r, a) for r, a in told] == [(row["region"], float(row["class_area_ha"])) for row in written]
        polygons = file_of(item, "polygons", output)
        ((area,),) = duckdb.sql(f"select sum(area_ha) from read_parquet('{polygons}')").fetchall()
        with rasterio.open(folder / "landcover.tif") as source:
            mapped = np.count_nonzero(source.read(1)) * abs(source.res[0] * source.res[1]) / 1e4
        assert area == pytest.approx(mapped, rel=1e-6)


def test_a_moved_folder_opens_without_its_server(web: tuple[Path, str], tmp_path: Path) -> None:
    moved = shutil.copytree(web[0], tmp_path / "elsewhere", ignore=shutil.ignore_patterns(".spex"))
    documents: list[dict[str, Any]] = [json.loads(p.read_text()) for p in moved.glob(f"{COLLECTION}/*/*_3263?.json")]
    assert documents
    for document in documents:
        for asset in document["assets"].values():
            href = asset["href"]
            assert (moved / COLLECTION / document["id"] / href).is_file(), href
