"""Local GeoTIFFs become a catalog whose pixels are the file's reflectance, wherever and however the file was stored."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pystac
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points
from rio_cogeo.cogeo import cog_validate
from typer import Typer
from typer.testing import CliRunner

from pipeline.records.region import read_region
from pipeline.settings.run_file import SourceConfig
from pipeline.sources.catalog import find_scenes
from spex_core.bands import SENTINEL2_BANDS
from workflows.real_scenes import main
from workflows.scene_cogs import DN_OFFSET, DN_SCALE

SIZE = 64
UTM = Affine(10, 0, 500_000, 0, -10, 5_600_000)
DEGREES = Affine(1.4e-4, 0, 3.0, 0, -9e-5, 50.5)


def _write(path: Path, values: npt.NDArray[np.generic], crs: str, transform: Affine, **profile: object) -> Path:
    bands, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", dtype=values.dtype, count=bands, height=height, width=width,
        crs=CRS.from_user_input(crs) if crs else None, transform=transform, **profile,
    ) as target:  # fmt: skip
        target.write(values)
    return path


def _ramp(scale: float) -> npt.NDArray[np.float64]:
    """Ten bands, each a plane: what bilinear interpolation reproduces without error."""
    row, col = np.mgrid[0:SIZE, 0:SIZE]
    return np.stack([(0.05 + 0.02 * band + 1e-3 * row + 5e-4 * col) / scale for band in range(10)])


def _run(*arguments: object) -> tuple[int, str]:
    app = Typer()
    app.command()(main)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.output


def _reflectance(item: pystac.Item, band: str) -> tuple[npt.NDArray[np.float64], rasterio.DatasetReader]:
    source = rasterio.open(item.assets[band].get_absolute_href())
    numbers = source.read(1)
    return np.where(numbers == 0, np.nan, numbers * DN_SCALE + DN_OFFSET), source


def _only_item(output: Path) -> pystac.Item:
    (item,) = pystac.Catalog.from_file(str(output / "catalog.json")).get_items(recursive=True)
    return item


def test_file_on_the_utm_grid_keeps_its_reflectance_and_its_pixels(tmp_path: Path) -> None:
    values = np.rint(_ramp(1e-4)).astype(np.uint16)
    values[:, :4, :] = 0
    path = _write(tmp_path / "utm.tif", values, "EPSG:32631", UTM, nodata=0)
    code, text = _run(path, "--output", tmp_path / "out", "--datetime", "2024-05-01T10:30:00Z")
    assert code == 0, text
    item = _only_item(tmp_path / "out")
    for number, band in enumerate(SENTINEL2_BANDS):
        reflectance, source = _reflectance(item, band)
        assert source.transform == UTM
        assert source.crs.to_epsg() == 32631
        expected = np.where(values[number] == 0, np.nan, values[number] * 1e-4)
        np.testing.assert_allclose(reflectance, expected, atol=1e-6)
        assert cog_validate(source.name, quiet=True)[0]


def test_the_files_own_scene_classification_is_kept(tmp_path: Path) -> None:
    values = np.rint(_ramp(1e-4)).astype(np.uint16)[:4]
    classes = np.full((SIZE, SIZE), 4, np.uint16)
    classes[:5, :5] = 9
    values[:, 0, 0] = 0
    path = _write(tmp_path / "utm.tif", np.concatenate([values, classes[None]]), "EPSG:32631", UTM, nodata=0)
    code, text = _run(path, "--output", tmp_path / "out", "--datetime", "2024-05-01", "--bands", "B02,B03,B04,B08,SCL")
    assert code == 0, text
    item = _only_item(tmp_path / "out")
    assert set(item.assets) == {"B02", "B03", "B04", "B08", "SCL"}
    with rasterio.open(item.assets["SCL"].get_absolute_href()) as source:
        found = source.read(1)
    classes[0, 0] = 0  # nothing was measured there
    assert np.array_equal(found, classes)


@pytest.mark.parametrize(("crs", "transform"), [("EPSG:27700", Affine(10, 0, 257_070.6, 0, -10, 285_728.7)),
                                                ("EPSG:4326", DEGREES)])  # fmt: skip
def test_other_projections_are_warped_to_the_right_place(tmp_path: Path, crs: str, transform: Affine) -> None:
    path = _write(tmp_path / "a scene.tif", np.rint(_ramp(1e-3)).astype(np.uint16), crs, transform)
    code, text = _run(path, "--output", tmp_path / "out", "--datetime", "2021-05-27", "--scale", "0.001")
    assert code == 0, text
    item = _only_item(tmp_path / "out")
    assert item.id == "a-scene"
    reflectance, source = _reflectance(item, "B08")
    assert source.transform.c % 10 == source.transform.f % 10 == 0
    # Pixel centres of the file, looked up in the output.
    col, row = np.array([10, 30, 50]), np.array([12, 40, 33])
    centres = [transform @ (c + 0.5, r + 0.5) for c, r in zip(col, row, strict=True)]
    xs, ys = transform_points(crs, source.crs, [x for x, _ in centres], [y for _, y in centres])
    found = np.array([reflectance[source.index(x, y)] for x, y in zip(xs, ys, strict=True)])
    expected = 0.05 + 0.02 * SENTINEL2_BANDS.index("B08") + 1e-3 * row + 5e-4 * col
    np.testing.assert_allclose(found, expected, atol=2.2e-3)  # the nearest pixel centre is at most 0.7 px away


def test_float_reflectance_with_negative_water_survives(tmp_path: Path) -> None:
    values = np.full((10, SIZE, SIZE), -0.0123, np.float32)
    values[:, 0, 0] = np.nan
    path = _write(tmp_path / "float.tif", values, "EPSG:32631", UTM, nodata=np.nan)
    assert _run(path, "--output", tmp_path / "out", "--datetime", "2024-05-01", "--scale", 1)[0] == 0
    reflectance, _ = _reflectance(_only_item(tmp_path / "out"), "B11")
    assert np.isnan(reflectance[0, 0])
    np.testing.assert_allclose(reflectance[8:, 8:], -0.0123, atol=1e-6)


def test_items_say_how_numbers_become_reflectance_and_where_there_are_any(tmp_path: Path) -> None:
    values = np.rint(_ramp(1e-4)).astype(np.uint16)
    values[3, 20:30, 20:30] = 0
    path = _write(tmp_path / "s.tif", values, "EPSG:32631", UTM, nodata=0)
    _run(path, "--output", tmp_path / "out", "--datetime", "2024-05-01T12:00:00+02:00", "--cloud-cover", 12.5)
    item = _only_item(tmp_path / "out")
    assert item.to_dict()["stac_version"] == "1.1.0"
    assert item.datetime is not None
    assert item.datetime.isoformat() == "2024-05-01T10:00:00+00:00"
    assert item.properties["eo:cloud_cover"] == 12.5
    assert item.properties["proj:code"] == "EPSG:32631"
    assert item.assets["B02"].extra_fields["raster:scale"] == DN_SCALE
    assert item.assets["B02"].extra_fields["raster:offset"] == DN_OFFSET
    with rasterio.open(item.assets["SCL"].get_absolute_href()) as source:
        classification = source.read(1)
    assert (classification[20:30, 20:30] == 0).all()
    assert set(np.unique(classification)) == {0, 7}


def test_catalog_is_relocatable_and_grows(tmp_path: Path) -> None:
    values = np.rint(_ramp(1e-4)).astype(np.uint16)
    for name, start in (("first", 500_000), ("second", 500_640)):
        path = _write(tmp_path / f"{name}.tif", values, "EPSG:32631", Affine(10, 0, start, 0, -10, 5_600_000))
        assert _run(path, "--output", tmp_path / "out", "--datetime", "2024-05-01")[0] == 0
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    items = list(pystac.Catalog.from_file(str(moved / "catalog.json")).get_items(recursive=True))
    assert [item.id for item in items] == ["first", "second"]
    assert all(_reflectance(item, "B02")[0].shape == (SIZE, SIZE) for item in items)
    (feature,) = json.loads((moved / "region.geojson").read_text())["features"]
    west, east = (pick(x for x, _ in feature["geometry"]["coordinates"][0]) for pick in (min, max))
    assert east - west == pytest.approx(1280 / 71_000, rel=0.05)  # both scenes, side by side, at 50.5 degrees north


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--bands", "B02,B03"], "10 bands in the file, 2 names"),
        (["--bands", "B02,B02,-,-,-,-,-,-,-,-"], "distinct"),
        (["--bands", "B02,B99,-,-,-,-,-,-,-,-"], "distinct"),
        (["--scale", "0"], "scale 0.0 must be positive"),
        (["--collection", "../evil"], "collection id"),
        (["--datetime", "May"], "ISO 8601"),
    ],
)
def test_mistakes_end_with_code_2_and_leave_nothing(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    path = _write(tmp_path / "s.tif", np.rint(_ramp(1e-4)).astype(np.uint16), "EPSG:32631", UTM)
    when = [] if "--datetime" in arguments else ["--datetime", "2024-05-01"]
    code, text = _run(path, "--output", tmp_path / "out", *when, *arguments)
    assert code == 2
    assert complaint in text
    assert not list((tmp_path / "out").rglob("*.tif"))


def test_files_that_are_no_scene_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("not a raster")
    bare = _write(tmp_path / "bare.tif", np.ones((10, 8, 8), np.uint16), "", UTM)
    empty = _write(tmp_path / "empty.tif", np.zeros((10, 8, 8), np.uint16), "EPSG:32631", UTM)
    for path, complaint in ((tmp_path / "text.tif", "cannot be read"), (bare, "coordinate reference"),
                            (empty, "no pixel has a measurement")):  # fmt: skip
        code, text = _run(path, "--output", tmp_path / "out", "--datetime", "2024-05-01")
        assert code == 2
        assert str(path) in text
        assert complaint in text


REAL = (
    Path(__file__).resolve().parents[3]
    / "shared"
    / "real-data"
    / "aberystwyth-rsgislib"
    / "aber_mosaic_10band_x1000.tif"
)


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_file(), reason=f"no real scene at {REAL.name} beside the repository")
def test_real_scene_is_found_by_a_search_with_sea_and_fields_in_their_places(tmp_path: Path) -> None:
    code, text = _run(REAL, "--output", tmp_path / "out", "--scale", "0.001", "--datetime", "2021-05-27T11:33:00Z")
    assert code == 0, text
    region = read_region(
        tmp_path / "out" / "region.geojson", id_field="id", name_field="name", grid_km=3.0, max_regions=100
    )
    source = SourceConfig(provider="generic", url=str(tmp_path / "out" / "catalog.json"), collection="local-scenes")
    day = dt.date(2021, 5, 27)
    (scene,) = find_scenes(source, region, day, day).scenes
    assert (scene.epsg, scene.assets["B08"].scale, scene.assets["B08"].offset) == (32630, DN_SCALE, DN_OFFSET)
    reflectance, source_file = _reflectance(_only_item(tmp_path / "out"), "B08")
    (east, west), (north, south) = transform_points("EPSG:4326", source_file.crs, [-3.99, -4.10], [52.40, 52.41])
    field, sea = source_file.index(east, north), source_file.index(west, south)
    assert np.nanmedian(reflectance[field[0] - 10 : field[0] + 10, field[1] - 10 : field[1] + 10]) > 0.25
    assert abs(np.nanmedian(reflectance[sea[0] - 5 : sea[0] + 5, sea[1] - 5 : sea[1] + 5])) < 0.05
