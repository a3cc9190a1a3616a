"""A folder of maps opens as one Dataset: the files' pixels, each period in its place, and nothing read before it is
asked for."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

import pipeline
from pipeline.errors import OutputError, ReadError
from pipeline.mapstore.index_cells import CELL_PX, INDEX_NODATA
from pipeline.mapstore.store import RunStore
from pipeline.outputs.open_map import open_map
from tests.pipeline.outputs.test_publish import EAST, WEST, finished_run, publish
from tests.pipeline.small_plans import region_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two months of one region, whose second map covers other ground, and another region in two zones."""
    output = tmp_path_factory.mktemp("maps")
    publish(*finished_run(output, region_of(WEST), publish={"scores": True}))
    june = {"start": "2026-06-01", "end": "2026-06-30", "publish": {"scores": True}}
    south = WEST.buffer(0).__class__([(x, y - 0.002) for x, y in WEST.exterior.coords])
    publish(*finished_run(output, region_of(south), **june))
    publish(*finished_run(output, region_of(WEST, EAST), name="other"))
    return output


def test_every_period_has_its_pixels_and_the_rest_is_fill(folder: Path) -> None:
    maps = pipeline.open_map(folder, name="test")
    assert maps.sizes["period"] == 2
    assert maps.attrs["crs"] == "EPSG:32632"
    assert set(maps.data_vars) == {*("landcover", "confidence", "valid_count", "truecolor", "scores", "indices")}
    for index, item in enumerate(maps.item.values):
        for key in set(maps.data_vars) - {"indices"}:
            with rasterio.open(folder / "spex-landcover" / str(item) / f"{key}.tif") as source:
                pixels = source.read() if key in ("scores", "truecolor") else source.read(1)
                part = (
                    maps[key]
                    .isel(period=index)
                    .sel(
                        x=slice(source.bounds.left, source.bounds.right),
                        y=slice(source.bounds.top, source.bounds.bottom),
                    )
                )
                np.testing.assert_array_equal(part.values, pixels)
            whole = maps[key].isel(period=index).values
            fill = maps[key].attrs["_FillValue"]
            assert (whole != fill).sum() == (pixels != fill).sum()


def test_a_pixel_has_the_mean_index_of_its_class_in_its_cell(folder: Path) -> None:
    maps = pipeline.open_map(folder, name="test")
    assert list(maps.index.values)[:2] == ["ndvi", "ndwi"]
    opened = [RunStore.open(path.parent) for path in folder.glob(".spex/*/plan.json")]
    for index, start in enumerate(maps.period.values.astype("datetime64[D]").astype(str)):
        (store,) = (s for s in opened if s.plan.config["start"] == start and len(s.plan.zones) == 1)
        zone = store.zone(32632)
        codes, means = zone.read("landcover"), zone.read("index_means")
        here = maps.isel(period=index).sel(
            x=slice(zone.grid.left, zone.grid.left + 10 * zone.grid.width),
            y=slice(zone.grid.top, zone.grid.top - 10 * zone.grid.height),
        )
        found = here.indices.values
        for row, col in itertools.product(range(0, zone.grid.height, 5), range(0, zone.grid.width, 3)):
            if codes[row, col] not in store.legend.codes:
                assert np.isnan(found[:, row, col]).all()
                continue
            expected = means[:, store.legend.codes.index(codes[row, col]), row // CELL_PX, col // CELL_PX]
            np.testing.assert_allclose(
                found[:, row, col], np.where(expected == INDEX_NODATA, np.nan, expected / 1e4), atol=1e-6
            )


def test_without_the_store_there_are_no_indices(tmp_path: Path) -> None:
    publish(*finished_run(tmp_path, region_of(WEST)))
    assert "indices" in open_map(tmp_path)
    shutil.rmtree(tmp_path / ".spex")
    assert "indices" not in open_map(tmp_path)


def test_what_the_numbers_mean_is_said(folder: Path) -> None:
    landcover = pipeline.open_map(folder, name="test").landcover
    assert landcover.attrs["flag_values"][:2] == [10, 20]
    assert len(landcover.attrs["flag_meanings"].split()) == len(landcover.attrs["flag_values"])


def test_several_regions_and_zones_are_to_be_chosen_from(folder: Path) -> None:
    with pytest.raises(OutputError, match="name=: other, test"):
        open_map(folder)
    with pytest.raises(OutputError, match="epsg=: 32632, 32633"):
        open_map(folder, name="other")
    with pytest.raises(OutputError, match="no map of zone 32631"):
        open_map(folder, name="other", epsg=32631)
    assert open_map(folder, name="other", epsg=32633).sizes["period"] == 1


def test_a_file_that_is_gone_is_told_when_it_is_read(folder: Path, tmp_path: Path) -> None:
    publish(*finished_run(tmp_path, region_of(WEST)))
    maps = open_map(tmp_path)
    next(tmp_path.rglob("confidence.tif")).unlink()
    with pytest.raises(ReadError, match=r"confidence\.tif cannot be read"):
        maps.confidence.compute()


def test_a_folder_without_a_map_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no map"):
        open_map(tmp_path)
