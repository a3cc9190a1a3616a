"""The two hemispheres of a zone are one lattice: a granule across the equator is copied, never resampled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.windows import Window
from stackstac.raster_spec import RasterSpec

from pipeline.imagery.file_reader import AssetReader
from tests.pipeline.tiny_scenes import write_raster

NORTH, SOUTH, FALSE_NORTHING = 32631, 32731, 10_000_000.0
LEFT, TOP, SIDE_M = 500_000.0, 640.0, 1280.0
"""A square half north and half south of the equator, as the northern zone counts."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Path]:
    """(EPSG, pixel size) → the same pixels, with holes, as either hemisphere writes them."""
    folder = tmp_path_factory.mktemp("equator")
    found = {}
    for gsd in (10, 20):
        side = round(SIDE_M / gsd)
        values = np.random.default_rng(gsd).integers(1000, 9000, (side, side)).astype(np.uint16)
        values[np.random.default_rng(1).random(values.shape) < 0.02] = 0
        for epsg, top in ((NORTH, TOP), (SOUTH, TOP + FALSE_NORTHING)):
            found[epsg, gsd] = folder / f"{epsg}_{gsd}.tif"
            write_raster(found[epsg, gsd], values, left=LEFT, top=top, gsd=gsd, epsg=epsg)
    return found


@pytest.fixture(autouse=True)
def _no_warp(monkeypatch: pytest.MonkeyPatch) -> None:
    def warped(*_: object) -> None:
        raise AssertionError("resampled")

    monkeypatch.setattr(AssetReader, "_warp", warped)


@given(
    file_epsg=st.sampled_from([NORTH, SOUTH]), gsd=st.sampled_from([10, 20]), res=st.sampled_from([5.0, 10.0, 20.0]),
    row=st.integers(-20, 100), col=st.integers(-20, 100), rows=st.integers(1, 70), cols=st.integers(1, 70),
)  # fmt: skip
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_granule_of_the_other_hemisphere_gives_the_pixels_of_its_own(
    files: dict[tuple[int, int], Path], file_epsg: int, gsd: int, res: float, row: int, col: int, rows: int, cols: int
) -> None:
    def read(epsg: int) -> np.ndarray:
        top = TOP + (FALSE_NORTHING if epsg == SOUTH else 0.0) + 10 * 20.0
        spec = RasterSpec(epsg, (LEFT - 200, top - 3000, LEFT + 2800, top), (res, res))
        url = str(files[file_epsg, gsd])
        reader = AssetReader(
            url=url, spec=spec, resampling=Resampling.bilinear, dtype=np.float32, fill_value=np.nan,
            scale_offset=(1, 0), nodata={url: 0},
        )  # fmt: skip
        return np.asarray(reader.read(Window(col, row, cols, rows)))

    if res > gsd:
        return  # a coarser grid is warped in either hemisphere
    np.testing.assert_array_equal(read(NORTH), read(SOUTH))
