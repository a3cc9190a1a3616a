"""A sample is small whatever the file is like, lies at the same ground in every band, and leaves out what is masked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, Resampling

from pipeline.errors import ReadError
from pipeline.imagery import scene_sample
from pipeline.imagery.scene_sample import PREFERRED, bands_to_sample, read_sample
from pipeline.records.scene import SCL, Scene, SceneAsset
from spex_core.bands import SENTINEL2_BANDS
from tests.pipeline.loopback_server import Request, Response, file_answer, serve
from tests.pipeline.simulated_spectra import scene_of

LEFT, TOP = 600_000.0, 5_100_000.0


def ramp(side: int) -> np.ndarray:
    """Numbers that tell their place: 1 + column share * 1,000 + row share * 100."""
    share = (np.arange(side) + 0.5) / side
    return np.round(1 + 1000 * share[None, :] + 100 * share[:, None]).astype(np.uint16)


def write(path: Path, values: np.ndarray, gsd: float, overviews: bool = False, **profile: Any) -> str:
    settings = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "nodata": 0} | profile
    with rasterio.open(
        path, "w", driver="GTiff", width=values.shape[1], height=values.shape[0], count=1, dtype=values.dtype,
        crs="EPSG:32632", transform=Affine(gsd, 0, LEFT, 0, -gsd, TOP), **settings,
    ) as file:  # fmt: skip
        file.write(values, 1)
        if overviews:
            file.build_overviews([2, 4, 8], Resampling.nearest)
    return str(path)


def scene_over(folder: Path, side: int, **how: Any) -> Scene:
    assets = {
        name: SceneAsset(write(folder / f"{name}.tif", ramp(side if name in ("B02", "B04") else side // 2),
                               10.0 if name in ("B02", "B04") else 20.0, **how))
        for name in ("B02", "B04", "B8A", "B12", SCL)
    }  # fmt: skip
    return dataclasses.replace(scene_of(), assets=assets)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"overviews": True},
        {"tiled": False, "blockxsize": None, "blockysize": 3},
        {"tiled": False, "blockxsize": None, "blockysize": 1},
    ],
)
@pytest.mark.parametrize("limit", [4_000_000, 20_000])
def test_every_band_is_sampled_at_the_same_ground(
    tmp_path: Path, how: dict[str, Any], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene_sample, "MAX_DECODED_PX", limit)
    monkeypatch.setattr(scene_sample, "PART_PX", 64)
    how = {key: value for key, value in how.items() if value is not None}
    sample = read_sample(scene_over(tmp_path, 512, **how))
    assert sorted(sample.bands) == ["B02", "B04", "B12", "B8A"]
    first = sample.bands["B02"].numbers
    assert 200 < first.size <= 10_000
    assert sample.classes is not None
    assert sample.classes.shape == first.shape
    for file in sample.bands.values():
        assert np.isfinite(file.numbers).all()
        assert np.abs(file.numbers - first).max() <= 8  # one coarse pixel
        assert (file.dtype, file.epsg) == ("uint16", 32632)
    assert sample.bands["B12"].shape == (256, 256)


def test_a_large_file_of_one_piece_is_not_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_sample, "MAX_DECODED_PX", 20_000)
    scene = scene_over(tmp_path, 512, tiled=False, blockxsize=512, blockysize=512)
    with pytest.raises(ReadError, match="neither overviews nor tiles"):
        read_sample(scene)


def test_masks_alpha_and_tags_of_the_file_count(tmp_path: Path) -> None:
    scene = scene_over(tmp_path, 128)
    for name, kind in (("B02", "mask"), ("B04", "alpha"), ("B8A", "tag"), ("B12", "nan")):
        side, gsd = (128, 10.0) if name in ("B02", "B04") else (64, 20.0)
        values = ramp(side)
        values[: side // 2] = 60_000
        numbers = np.where(values == 60_000, np.nan, values).astype(np.float32) if kind == "nan" else values
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                scene.assets[name].href, "w", driver="GTiff", width=side, height=side, dtype=numbers.dtype,
                count=2 if kind == "alpha" else 1, crs="EPSG:32632", transform=Affine(gsd, 0, LEFT, 0, -gsd, TOP),
                nodata=60_000 if kind == "tag" else None,
            ) as file,
        ):  # fmt: skip
            file.write(numbers, 1)
            seen = np.where(values == 60_000, 0, 255).astype(np.uint8)
            if kind == "mask":
                file.write_mask(seen)
            elif kind == "alpha":
                file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
                file.write(seen.astype(np.uint16), 2)
    for file in read_sample(scene).bands.values():
        assert 0.4 < float(np.isnan(file.numbers).mean()) < 0.6
        assert np.nanmax(file.numbers) < 2000


def test_bands_of_another_grid_or_gone_are_left_out(tmp_path: Path) -> None:
    scene = scene_over(tmp_path, 128)
    Path(scene.assets["B04"].href).unlink()
    Path(scene.assets[SCL].href).write_bytes(b"no raster")
    write(tmp_path / "B12.tif", ramp(64), 20.0)
    with rasterio.open(tmp_path / "B12.tif", "r+") as file:
        file.crs = "EPSG:32633"
    sample = read_sample(scene)
    assert sorted(sample.bands) == ["B02", "B8A"]
    assert sample.classes is None


def test_few_bytes_of_a_large_remote_file_are_asked_for(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(1, 9000, (2048, 2048)).astype(np.uint16)
    path = Path(write(tmp_path / "B02.tif", noise, 10.0, overviews=True))
    asked: list[int] = []

    def answer(request: Request) -> Response:
        response = file_answer(tmp_path, request)
        asked.append(len(response.body))
        return response

    with serve(answer) as server:
        scene = dataclasses.replace(scene_of(), assets={"B02": SceneAsset(f"{server.url}/B02.tif")})
        assert read_sample(scene).bands["B02"].numbers.size == 96 * 96
    assert sum(asked) < 0.1 * path.stat().st_size


def test_four_bands_over_the_spectrum_and_one_of_every_kind() -> None:
    scene = scene_of()
    assert bands_to_sample(scene) == list(PREFERRED[:4])
    assert set(PREFERRED) == set(SENTINEL2_BANDS)
    odd = {**scene.assets, "B07": dataclasses.replace(scene.assets["B07"], scale=1.0)}
    assert "B07" in bands_to_sample(dataclasses.replace(scene, assets=odd))
    assert len(bands_to_sample(dataclasses.replace(scene, assets=odd))) == 4
    assert bands_to_sample(scene_of(bands=("B08", "B03"))) == ["B08", "B03"]
    assert bands_to_sample(scene_of(bands=())) == []
