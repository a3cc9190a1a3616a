"""What a file itself calls missing is missing, whatever its item says: copied, interpolated or warped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, Resampling

from pipeline.errors import ReadError
from pipeline.imagery.file_numbers import check_single_band
from tests.pipeline.imagery.test_file_reader import grid, in_next_zone, noise, read
from tests.pipeline.tiny_scenes import EPSG, LEFT, TOP

GARBAGE = 60_000
SIDE = 112
KINDS = ("mask", "alpha", "tag", "tag beside the item's", "item", "item, not of the file's type", "not a number")


def write(path: Path, kind: str, *, epsg: int, left: float, top: float, gsd: float, garbage: bool = True) -> int:
    """A file whose left half is garbage that is marked in one way; returns what the item calls nodata."""
    values = noise(SIDE, SIDE)
    bad = np.zeros((SIDE, SIDE), bool)
    bad[:, : SIDE // 2] = garbage
    values[bad] = GARBAGE
    tag, item = None, 0
    numbers: np.ndarray = values
    if kind.startswith("tag"):
        tag = GARBAGE
    if kind == "tag beside the item's":
        item = 4999  # one of the other numbers
        values[values == item] += 1
        values[SIDE // 2, -10:] = item
    elif kind == "item":
        item = GARBAGE
    elif kind == "item, not of the file's type":
        item, tag = -9999, GARBAGE
    elif kind == "not a number":
        numbers = np.where(bad, np.nan, values).astype(np.float32)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", width=SIDE, height=SIDE, count=2 if kind == "alpha" else 1, dtype=numbers.dtype,
            crs=f"EPSG:{epsg}", transform=Affine(gsd, 0, left, 0, -gsd, top), nodata=tag,
        ) as file,
    ):  # fmt: skip
        file.write(numbers, 1)
        if kind == "mask":
            file.write_mask(~bad)
        elif kind == "alpha":
            file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
            file.write(np.where(bad, 0, 255).astype(values.dtype), 2)
    return item


@pytest.mark.parametrize("way", ["copied", "interpolated", "warped", "warped from coarse pixels", "warped classes"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_marked_is_missing_and_never_mixed(tmp_path: Path, kind: str, way: str) -> None:
    resampling = Resampling.nearest if way == "warped classes" else Resampling.bilinear
    left, top = in_next_zone() if way.startswith("warped") else (LEFT, TOP)
    epsg = EPSG + way.startswith("warped")
    gsd = 20.0 if "coarse" in way or way == "interpolated" else 10.0
    place = {"epsg": epsg, "left": left, "top": top, "gsd": gsd}
    item = write(tmp_path / "marked.tif", kind, **place)
    spec = grid(round(SIDE * gsd / 10), round(SIDE * gsd / 10))
    found = read(tmp_path / "marked.tif", spec, resampling, nodata=item)
    assert np.nanmax(found) <= 9000
    assert 0.25 < np.isfinite(found).mean() < 0.75
    write(tmp_path / "whole.tif", "tag" if kind == "tag beside the item's" else kind, garbage=False, **place)
    whole = read(tmp_path / "whole.tif", spec, resampling)
    inside = np.isfinite(found) & np.isfinite(whole)
    inside[:, : int(inside.shape[1] * 0.6)] = False
    inside[int(inside.shape[0] * 0.25) : int(inside.shape[0] * 0.75)] = False
    assert inside.any()
    np.testing.assert_allclose(found[inside], whole[inside], atol=1.01)  # 4999 was moved by 1


@pytest.mark.parametrize("kind", ["mask", "alpha", "tag beside the item's"])
def test_a_masked_pixel_does_not_depend_on_the_window_that_is_warped(tmp_path: Path, kind: str) -> None:
    left, top = in_next_zone()
    item = write(tmp_path / "b.tif", kind, epsg=EPSG + 1, left=left, top=top, gsd=10.0)
    whole = read(tmp_path / "b.tif", grid(SIDE, SIDE), nodata=item)
    part = read(tmp_path / "b.tif", grid(50, 40, left=LEFT + 400, top=TOP - 300), nodata=item)
    np.testing.assert_array_equal(part, whole[30:80, 40:80])


def test_two_bands_of_which_none_is_alpha_are_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"driver": "GTiff", "width": 64, "height": 64, "count": 2, "dtype": "uint16"}
    place = Affine(10.0, 0, LEFT, 0, -10.0, TOP)
    with rasterio.open(tmp_path / "b.tif", "w", crs=f"EPSG:{EPSG}", transform=place, **settings) as file:
        file.write(np.ones((2, 64, 64), np.uint16))
        file.colorinterp = [ColorInterp.gray, ColorInterp.undefined]
    with pytest.raises(ReadError, match="has 2 bands"):
        read(tmp_path / "b.tif", grid(8, 8))
    with rasterio.open(tmp_path / "b.tif") as file, pytest.raises(ReadError, match="has 2 bands"):
        check_single_band(file, "b.tif")
