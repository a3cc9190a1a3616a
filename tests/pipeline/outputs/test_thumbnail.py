"""The picture of a map shows its classes in their colours and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import Resampling
from rasterio.transform import from_origin

from pipeline.errors import ReadError
from pipeline.outputs.thumbnail import write_thumbnail
from spex_core.legend import Legend

LEGEND = Legend.from_yaml()


def write_map(path: Path, codes: NDArray[np.uint8], overviews: bool = False) -> Path:
    profile = {
        "driver": "GTiff", "width": codes.shape[1], "height": codes.shape[0], "count": 1, "dtype": "uint8", "nodata": 0,
        "crs": "EPSG:32633", "transform": from_origin(500_000, 5_200_000, 10, 10), "tiled": True,
        "blockxsize": 64, "blockysize": 64,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(codes, 1)
        if overviews:
            target.build_overviews([2, 4], Resampling.mode)
    return path


def test_pixels_carry_the_legend_colours_and_nodata_is_transparent(tmp_path: Path) -> None:
    codes = np.zeros((40, 60), dtype=np.uint8)
    codes[:, 20:40], codes[:, 40:] = 10, 80
    out = write_thumbnail(write_map(tmp_path / "map.tif", codes), tmp_path / "deep" / "thumbnail.png", LEGEND)
    with Image.open(out) as image:
        assert image.size == (60, 40)
        rgba = np.asarray(image.convert("RGBA"))
    colours = LEGEND.colormap()
    assert tuple(rgba[5, 30]) == colours[10]
    assert tuple(rgba[5, 50]) == colours[80]
    assert rgba[5, 5, 3] == 0
    assert [p.name for p in out.parent.iterdir()] == ["thumbnail.png"]


@pytest.mark.parametrize("overviews", [False, True])
def test_a_large_map_is_reduced_without_mixing_codes(tmp_path: Path, overviews: bool) -> None:
    codes = np.random.default_rng(0).choice(np.array([0, 10, 80, 90], dtype=np.uint8), (300, 500))
    source = write_map(tmp_path / "map.tif", codes, overviews)
    with Image.open(write_thumbnail(source, tmp_path / "t.png", LEGEND, max_side_px=100)) as image:
        assert image.size == (100, 60)
        rgba = np.asarray(image.convert("RGBA")).reshape(-1, 4)
    allowed = {LEGEND.colormap()[c][:3] for c in (10, 80, 90)}
    assert {tuple(p[:3]) for p in rgba.tolist() if p[3]} <= allowed


def test_the_legend_strip_names_only_classes_that_occur(tmp_path: Path) -> None:
    codes = np.full((50, 300), 40, dtype=np.uint8)
    source = write_map(tmp_path / "map.tif", codes)
    plain = write_thumbnail(source, tmp_path / "a.png", LEGEND)
    strip = write_thumbnail(source, tmp_path / "b.png", LEGEND, with_legend=True)
    with Image.open(plain) as a, Image.open(strip) as b:
        assert b.height > a.height
        shown = {tuple(p[:3]) for p in np.asarray(b.convert("RGBA"))[a.height :].reshape(-1, 4).tolist()}
    colours = LEGEND.colormap()
    assert colours[40][:3] in shown
    assert colours[80][:3] not in shown


def test_an_unreadable_map_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "landcover.tif"
    broken.write_bytes(b"no raster")
    with pytest.raises(ReadError, match=r"landcover\.tif"):
        write_thumbnail(broken, tmp_path / "t.png", LEGEND)
    assert not (tmp_path / "t.png").exists()
