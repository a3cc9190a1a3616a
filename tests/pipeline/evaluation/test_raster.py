"""An image with label polygons: formats, projections, and each pixel compared once."""

from __future__ import annotations

import json
import sqlite3
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from pipeline.chips.polygons import read_polygons
from pipeline.errors import ChipError, ConfigError
from pipeline.evaluation.classes import compared_classes
from pipeline.evaluation.config import RasterConfig
from pipeline.evaluation.raster import open_raster, spans
from spex_core.bands import LANDSAT_BANDS, SENTINEL2_BANDS
from spex_core.legend import Legend

LEFT, TOP = 640_000.0, 5_150_000.0
GROUPS = {"water": (80,), "trees": (10,)}


def write_image(path: Path, size: int = 80, bands: int = 10) -> Path:
    values = np.arange(1, bands + 1, dtype=np.uint16)[:, None, None] * np.full((1, size, size), 100, np.uint16)
    values[:, 0, 0] = 0
    with rasterio.open(
        path, "w", driver="GTiff", height=size, width=size, count=bands, dtype="uint16", crs="EPSG:32632",
        transform=Affine(10, 0, LEFT, 0, -10, TOP),
    ) as file:  # fmt: skip
        file.write(values)
    return path


def box(column: int, row: int, side: int) -> shapely.Polygon:
    """A square of pixels, in the image's coordinates."""
    return shapely.box(LEFT + 10 * column, TOP - 10 * (row + side), LEFT + 10 * (column + side), TOP - 10 * row)


def write_geopackage(path: Path, shapes: list[shapely.Polygon], epsg: int) -> Path:
    """The tables of the specification that a reader needs; envelopes of 32 bytes, as GDAL writes them."""
    with sqlite3.connect(path) as database:
        database.executescript(
            "CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT, srs_id INTEGER PRIMARY KEY, organization TEXT, "
            "organization_coordsys_id INTEGER, definition TEXT);"
            "CREATE TABLE gpkg_geometry_columns (table_name TEXT, column_name TEXT, geometry_type_name TEXT, "
            "srs_id INTEGER, z INTEGER, m INTEGER);"
            "CREATE TABLE samples (fid INTEGER PRIMARY KEY, geom BLOB);"
        )
        database.execute("INSERT INTO gpkg_spatial_ref_sys VALUES ('x', ?, 'EPSG', ?, '')", (epsg, epsg))
        database.execute("INSERT INTO gpkg_geometry_columns VALUES ('samples', 'geom', 'POLYGON', ?, 0, 0)", (epsg,))
        for shape in shapes:
            west, south, east, north = shape.bounds
            head = b"GP\x00\x03" + struct.pack("<i4d", epsg, west, east, south, north)
            database.execute("INSERT INTO samples (geom) VALUES (?)", (head + shapely.to_wkb(shape),))
    return path


def write_geojson(path: Path, shapes: list[shapely.Polygon], epsg: int) -> Path:
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}}
    features = [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(s)} for s in shapes]
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    return path


def opened(config: RasterConfig) -> tuple[np.ndarray, list[np.ndarray]]:
    legend = Legend.from_yaml()
    source = open_raster(config, legend, compared_classes(legend, GROUPS).legend)
    chips = [source.chips.chip(i) for i in range(len(source.chips))]
    labels = np.concatenate([chip.labels.ravel() for chip in chips])
    return labels, [chip.reflectance for chip in chips]


def test_each_labelled_pixel_is_compared_once_though_tiles_overlap(tmp_path: Path) -> None:
    image = write_image(tmp_path / "image.tif")
    water = write_geopackage(tmp_path / "water.gpkg", [box(5, 5, 40)], 32632)
    trees = write_geojson(tmp_path / "trees.geojson", [box(50, 50, 20)], 32632)
    config = RasterConfig(image=image, labels={"water": water, "trees": trees}, tile_px=32, overlap_px=16)
    labels, reflectances = opened(config)
    assert (labels == 0).sum() == 1600
    assert (labels == 1).sum() == 400
    assert all(r.shape == (10, 32, 32) for r in reflectances)
    assert reflectances[0][:, 20, 20] == pytest.approx(np.arange(1, 11) * 0.01)


def test_polygons_in_longitude_and_latitude_fall_on_the_same_pixels(tmp_path: Path) -> None:
    (here,) = read_polygons(write_geojson(tmp_path / "utm.geojson", [box(5, 5, 40)], 32632), "OGC:CRS84")
    path = tmp_path / "lonlat.geojson"
    path.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(here)}))
    (back,) = read_polygons(path, "EPSG:32632")
    assert back.symmetric_difference(box(5, 5, 40)).area < 1


def test_missing_pixels_and_bands_are_nan(tmp_path: Path) -> None:
    image = write_image(tmp_path / "image.tif", size=32, bands=2)
    trees = write_geojson(tmp_path / "trees.geojson", [box(0, 0, 20)], 32632)
    config = RasterConfig(image=image, image_bands=("B04", "B08"), labels={"trees": trees}, scale=0.001)
    labels, (reflectance,) = opened(config)
    assert np.isnan(reflectance[:, 0, 0]).all()  # zero in all bands
    assert np.isfinite(reflectance[:, 1, 1]).tolist() == [False, False, True, *[False] * 3, True, *[False] * 3]
    assert reflectance[6, 1, 1] == pytest.approx(0.2)
    assert (labels >= 0).sum() == 399  # the pixel that was not observed cannot be compared


def test_a_label_raster_on_another_grid(tmp_path: Path) -> None:
    image = write_image(tmp_path / "image.tif", size=64)
    codes = np.zeros((32, 32), np.uint8)
    codes[4:8, 4:8] = 3
    with rasterio.open(
        tmp_path / "labels.tif", "w", driver="GTiff", height=32, width=32, count=1, dtype="uint8", crs="EPSG:32632",
        transform=Affine(20, 0, LEFT, 0, -20, TOP), nodata=0,
    ) as file:  # fmt: skip
        file.write(codes, 1)
    config = RasterConfig(image=image, labels=tmp_path / "labels.tif", label_codes={"water": (3, 4)})
    labels, _ = opened(config)
    assert (labels == 0).sum() == 64


def test_the_model_is_told_the_sensor(tmp_path: Path) -> None:
    image = write_image(tmp_path / "image.tif", size=32, bands=6)
    trees = write_geojson(tmp_path / "trees.geojson", [box(0, 0, 20)], 32632)
    config = RasterConfig(
        image=image, image_bands=("B02", "B03", "B04", "B8A", "B11", "B12"), labels={"trees": trees}, sensor="landsat"
    )
    legend = Legend.from_yaml()
    source = open_raster(config, legend, compared_classes(legend, GROUPS).legend)
    assert [band.name for band in source.sensor] == list(SENTINEL2_BANDS)
    told = [source.sensor[SENTINEL2_BANDS.index(name)] for name in config.image_bands]
    assert [(band.wavelength_nm, band.gsd_m) for band in told] == [(b.wavelength_nm, b.gsd_m) for b in LANDSAT_BANDS]


def test_mistakes_are_named(tmp_path: Path) -> None:
    image = write_image(tmp_path / "image.tif", size=32)
    far = write_geojson(tmp_path / "far.geojson", [box(9000, 9000, 5)], 32632)
    with pytest.raises(ChipError, match="coordinate system"):
        opened(RasterConfig(image=image, labels={"water": far}))
    with pytest.raises(ConfigError, match="moss"):
        opened(RasterConfig(image=image, labels={"moss": far}))
    with pytest.raises(ConfigError, match="has 10 bands"):
        opened(RasterConfig(image=image, image_bands=("B02",), labels={"water": far}))
    broken = tmp_path / "broken.gpkg"
    broken.write_bytes(b"not a database")
    with pytest.raises(ChipError, match=r"broken\.gpkg"):
        read_polygons(broken, "EPSG:32632")
    with pytest.raises(ChipError, match="GeoPackage"):
        read_polygons(tmp_path / "polygons.shp", "EPSG:32632")


@given(length=st.integers(1, 900), tile=st.sampled_from((32, 64, 256)), share=st.floats(0, 0.5))
def test_cores_follow_each_other_without_gap(length: int, tile: int, share: float) -> None:
    found = spans(length, tile, int(tile * share))
    assert found[0].core_start == 0
    assert found[-1].core_stop == length
    for one, other in pairwise(found):
        assert one.core_stop == other.core_start
        assert one.stop - other.start >= int(tile * share)
    for span in found:
        assert span.start <= span.core_start < span.core_stop <= span.stop <= length
        assert span.stop - span.start == min(tile, length)
