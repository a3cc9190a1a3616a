"""One file onto a grid: native pixels untouched, 20 m interpolated without mixing nodata in, the same in any window."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from stackstac.raster_spec import RasterSpec

import pipeline.imagery.file_reader as file_reader
from pipeline.errors import ReadError
from pipeline.imagery.file_reader import AssetReader
from pipeline.imagery.upsampling import upsample_bilinear
from tests.pipeline.loopback_server import Request, Response, file_answer, serve
from tests.pipeline.tiny_scenes import EPSG, LEFT, TOP, write_raster


def grid(rows: int, cols: int, *, left: float = LEFT, top: float = TOP, res: float = 10.0, epsg: int = EPSG) -> Any:
    return RasterSpec(epsg, (left, top - rows * res, left + cols * res, top), (res, res))


def reader(url: Any, spec: Any, resampling: Any = Resampling.bilinear, nodata: int = 0, signer: Any = None) -> Any:
    return AssetReader(
        url=str(url), spec=spec, resampling=resampling, dtype=np.float32, fill_value=np.nan, scale_offset=(1, 0),
        nodata={str(url): nodata}, signer=signer,
    )  # fmt: skip


def read(url: Any, spec: Any, resampling: Any = Resampling.bilinear, **options: Any) -> np.ndarray:
    rows, cols = spec.shape
    return reader(url, spec, resampling, **options).read(Window(0, 0, cols, rows))


def in_next_zone() -> tuple[float, float]:
    """The corner of the first tiny granule in the next UTM zone, on its 10 m lattice."""
    x, y = Transformer.from_crs(EPSG, EPSG + 1, always_xy=True).transform(LEFT, TOP)
    return round(x / 10) * 10.0, round(y / 10) * 10.0


def noise(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1000, 9000, (rows, cols)).astype(np.uint16)


def test_ten_metre_pixels_are_read_as_they_are(tmp_path: Path) -> None:
    values = noise(40, 50)
    values[3, 4] = 0
    write_raster(tmp_path / "b.tif", values, left=LEFT, top=TOP, gsd=10)
    out = read(tmp_path / "b.tif", grid(40, 50))
    assert out.dtype == np.float32
    assert np.isnan(out[3, 4])
    expected = values.astype(np.float32)
    expected[3, 4] = np.nan
    np.testing.assert_array_equal(out, expected)


def test_a_window_beyond_the_file_is_empty_there(tmp_path: Path) -> None:
    values = noise(20, 20)
    write_raster(tmp_path / "b.tif", values, left=LEFT, top=TOP, gsd=10)
    out = read(tmp_path / "b.tif", grid(40, 40, left=LEFT - 100, top=TOP + 100))
    np.testing.assert_array_equal(out[10:30, 10:30], values)
    assert np.isfinite(out).sum() == 400
    far = read(tmp_path / "b.tif", grid(8, 8, left=LEFT + 9000))
    assert np.isnan(far).all()


def test_bilinear_values_equal_gdals_inside(tmp_path: Path) -> None:
    values = noise(30, 30)
    write_raster(tmp_path / "b.tif", values, left=LEFT, top=TOP, gsd=20)
    spec = grid(60, 60)
    with (
        rasterio.open(tmp_path / "b.tif") as ds,
        WarpedVRT(
            ds, crs=EPSG, transform=spec.transform, width=60, height=60, resampling=Resampling.bilinear, dtype="float32"
        ) as vrt,
    ):
        gdal = vrt.read(1)
    np.testing.assert_allclose(read(tmp_path / "b.tif", spec), gdal, rtol=1e-5)


def test_classes_are_repeated_and_never_mixed(tmp_path: Path) -> None:
    values = np.random.default_rng(0).choice([4, 5, 9, 11], (10, 10)).astype(np.uint8)
    write_raster(tmp_path / "scl.tif", values, left=LEFT, top=TOP, gsd=20)
    out = read(tmp_path / "scl.tif", grid(20, 20), Resampling.nearest)
    np.testing.assert_array_equal(out, np.kron(values, np.ones((2, 2))))


@pytest.mark.parametrize("file_nodata", [0, None])
def test_nodata_is_never_mixed_into_neighbours(tmp_path: Path, file_nodata: int | None) -> None:
    """Also where the file forgets to declare its nodata value, which only the scene knows then."""
    values = np.full((10, 10), 3000, np.uint16)
    values[4:6, 5:] = 0
    write_raster(tmp_path / "b.tif", values, left=LEFT, top=TOP, gsd=20, nodata=file_nodata)
    out = read(tmp_path / "b.tif", grid(20, 20))
    assert np.isnan(out[8:12, 10:]).all()
    assert np.isfinite(out).sum() == 400 - 40
    assert set(out[np.isfinite(out)]) == {3000.0}


def test_the_scenes_own_nodata_value_counts(tmp_path: Path) -> None:
    values = noise(10, 10)
    values[2, 3] = 65535
    write_raster(tmp_path / "b.tif", values, left=LEFT, top=TOP, gsd=10, nodata=None)
    out = read(tmp_path / "b.tif", grid(10, 10), nodata=65535)
    assert np.isnan(out[2, 3])
    assert np.isfinite(out).sum() == 99


@given(
    row=st.integers(-20, 60), col=st.integers(-20, 60), rows=st.integers(1, 40), cols=st.integers(1, 40),
    gsd=st.sampled_from([10, 20, 60]), nearest=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_pixel_does_not_depend_on_the_window(
    tmp_path: Path, row: int, col: int, rows: int, cols: int, gsd: int, nearest: bool
) -> None:
    path = tmp_path / f"b{gsd}.tif"
    if not path.exists():
        values = noise(600 // gsd, 600 // gsd)
        values[:3, :2] = 0
        write_raster(path, values, left=LEFT, top=TOP, gsd=gsd)
    method = Resampling.nearest if nearest else Resampling.bilinear
    whole = read(path, grid(140, 140, left=LEFT - 300, top=TOP + 300), method)
    spec = grid(rows, cols, left=LEFT + col * 10, top=TOP - row * 10)
    part = read(path, spec, method)
    np.testing.assert_array_equal(part, whole[row + 30 : row + 30 + rows, col + 30 : col + 30 + cols])


@pytest.mark.parametrize("method", [Resampling.nearest, Resampling.bilinear])
@pytest.mark.parametrize("where", [(0, 0, 300, 300), (17, 41, 100, 33), (255, 130, 7, 150), (3, 3, 1, 1)])
def test_a_pixel_warped_from_another_zone_does_not_depend_on_the_window(
    tmp_path: Path, method: Any, where: tuple[int, int, int, int]
) -> None:
    values = noise(400, 400)
    write_raster(tmp_path / "b.tif", values, left=LEFT, top=TOP, gsd=10)
    left, top = in_next_zone()
    whole = read(tmp_path / "b.tif", grid(300, 300, left=left, top=top, epsg=EPSG + 1), method)
    assert np.isfinite(whole).mean() > 0.5
    row, col, rows, cols = where
    spec = grid(rows, cols, left=left + col * 10, top=top - row * 10, epsg=EPSG + 1)
    np.testing.assert_array_equal(read(tmp_path / "b.tif", spec, method), whole[row : row + rows, col : col + cols])


def test_warping_from_another_zone_does_not_mix_nodata_in(tmp_path: Path) -> None:
    values = np.full((200, 200), 3000, np.uint16)
    values[:, 100:] = 0
    write_raster(tmp_path / "b.tif", values, left=LEFT, top=TOP, gsd=10, nodata=None)
    out = read(tmp_path / "b.tif", grid(256, 256, left=in_next_zone()[0], top=in_next_zone()[1], epsg=EPSG + 1))
    found = out[np.isfinite(out)]
    assert found.size > 1000
    assert set(found) == {3000.0}


def test_a_coarser_output_grid_is_warped_from_the_files(tmp_path: Path) -> None:
    values = np.full((64, 64), 2000, np.uint16)
    values[:, 32:] = 4000
    write_raster(tmp_path / "b.tif", values, left=LEFT, top=TOP, gsd=10)
    out = read(tmp_path / "b.tif", grid(16, 16, res=40.0))
    assert set(out[:, :7].ravel()) == {2000.0}
    assert set(out[:, 9:].ravel()) == {4000.0}


def test_upsampling_keeps_the_extent_of_nodata_exactly() -> None:
    native = noise(12, 12).astype(np.float32)
    native[np.random.default_rng(2).random((12, 12)) < 0.3] = np.nan
    out = upsample_bilinear(native, 2)
    np.testing.assert_array_equal(np.isnan(out), np.kron(np.isnan(native[1:-1, 1:-1]), np.ones((2, 2), bool)))
    assert np.nanmin(out) >= np.nanmin(native)
    assert np.nanmax(out) <= np.nanmax(native)


class Script:
    """Serves a folder; the first ``bad`` requests that match get ``response`` instead."""

    def __init__(self, root: Path, bad: int, response: Response, matches: Callable[[Request], bool]) -> None:
        self.root, self.bad, self.response, self.matches = root, bad, response, matches

    def __call__(self, request: Request) -> Response:
        if self.bad and self.matches(request):
            self.bad -= 1
            return self.response
        return file_answer(self.root, request)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, so that the tests of patience are not themselves slow."""
    monkeypatch.setattr(file_reader, "BACKOFF_S", 0.01)
    options = file_reader.gdal_options
    monkeypatch.setattr(
        file_reader,
        "gdal_options",
        lambda href: {**options(href), "GDAL_HTTP_MAX_RETRY": 1, "GDAL_HTTP_RETRY_DELAY": "0.01"},
    )


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_a_server_in_trouble_is_asked_again(tmp_path: Path, status: int) -> None:
    values = noise(20, 20)
    write_raster(tmp_path / f"b{status}.tif", values, left=LEFT, top=TOP, gsd=10)
    with serve(Script(tmp_path, 2, Response(status), lambda r: r.path.endswith(".tif"))) as server:
        out = read(f"{server.url}/b{status}.tif", grid(20, 20))
    np.testing.assert_array_equal(out, values)


@pytest.mark.usefixtures("quick")
def test_gdals_memory_of_a_failure_does_not_outlive_it(tmp_path: Path) -> None:
    """More failures than GDAL's own retries: the next attempt must really ask the server again."""
    values = noise(20, 20)
    write_raster(tmp_path / "late.tif", values, left=LEFT, top=TOP, gsd=10)
    with serve(Script(tmp_path, 4, Response(503), lambda r: r.path.endswith(".tif"))) as server:
        out = read(f"{server.url}/late.tif", grid(20, 20))
    np.testing.assert_array_equal(out, values)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [404, 403, 500])
def test_what_stays_broken_is_one_error_that_names_the_file_and_pickles(tmp_path: Path, status: int) -> None:
    with serve(lambda _: Response(status)) as server, pytest.raises(ReadError) as caught:
        read(f"{server.url}/absent{status}.tif", grid(4, 4))
    message = str(caught.value)
    assert f"absent{status}.tif" in message
    assert str(status) in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message  # noqa: S301
    assert caught.value.__cause__ is None


class SecretSigner:
    def __init__(self) -> None:
        self.signed: list[str] = []

    def sign(self, href: str) -> str:
        self.signed.append(href)
        return f"{href}?sig=secret{len(self.signed)}"


@pytest.mark.usefixtures("quick")
def test_hrefs_are_signed_when_opened_and_signatures_stay_out_of_messages(tmp_path: Path) -> None:
    write_raster(tmp_path / "b.tif", noise(8, 8), left=LEFT, top=TOP, gsd=10)
    signer = SecretSigner()
    with serve(lambda r: file_answer(tmp_path, r)) as server:
        read(f"{server.url}/b.tif", grid(8, 8), signer=signer)
        assert {r.query["sig"][0] for r in server.requests} == {"secret1"}
        with pytest.raises(ReadError) as caught:
            read(f"{server.url}/gone.tif", grid(8, 8), signer=signer)
    assert "secret" not in str(caught.value)
    assert signer.signed[0].endswith("/b.tif")


@pytest.mark.usefixtures("quick")
def test_only_what_the_window_needs_is_fetched(tmp_path: Path) -> None:
    write_raster(tmp_path / "big.tif", noise(1024, 1024), left=LEFT, top=TOP, gsd=10)
    size = (tmp_path / "big.tif").stat().st_size
    with serve(lambda r: file_answer(tmp_path, r)) as server:
        read(f"{server.url}/big.tif", grid(32, 32, left=LEFT + 5000, top=TOP - 5000))
        ranges = [r.headers.get("Range", "") for r in server.requests if r.method == "GET"]
    assert all(ranges), "every request asks for a range"
    fetched = sum(int(b) - int(a) + 1 for a, b in (r.removeprefix("bytes=").split("-") for r in ranges))
    assert fetched < size / 4


@pytest.mark.usefixtures("quick")
def test_damaged_and_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    write_raster(tmp_path / "cut.tif", noise(256, 256), left=LEFT, top=TOP, gsd=10)
    data = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: len(data) // 2])
    (tmp_path / "page.tif").write_text("<html>sorry</html>")
    for name in ("cut.tif", "page.tif", "none.tif"):
        with pytest.raises(ReadError, match=name):
            read(tmp_path / name, grid(256, 256))
    with rasterio.open(
        tmp_path / "two.tif", "w", driver="GTiff", width=4, height=4, count=2, dtype="uint16", crs=EPSG,
        transform=grid(4, 4).transform,
    ) as ds:  # fmt: skip
        ds.write(np.ones((2, 4, 4), np.uint16))
    with pytest.raises(ReadError, match="2 bands"):
        read(tmp_path / "two.tif", grid(4, 4))


def test_a_small_file_of_one_huge_piece_is_refused_by_name(tmp_path: Path) -> None:
    with rasterio.open(
        tmp_path / "b.tif", "w", driver="GTiff", width=50_000, height=50_000, count=1, dtype="uint8", crs=EPSG,
        transform=grid(4, 4).transform, tiled=True, blockxsize=32768, blockysize=32768, compress="deflate",
        sparse_ok=True,
    ):  # fmt: skip
        pass
    assert (tmp_path / "b.tif").stat().st_size < 10_000
    with pytest.raises(ReadError, match=r"b\.tif is stored in pieces of 32768 × 32768 px"):
        read(tmp_path / "b.tif", grid(4, 4))


@pytest.mark.usefixtures("quick")
def test_a_remote_file_may_not_pull_in_others(tmp_path: Path) -> None:
    """A VRT over HTTP could name any local file."""
    write_raster(tmp_path / "secret.tif", noise(4, 4), left=LEFT, top=TOP, gsd=10)
    (tmp_path / "b.vrt").write_text(
        f'<VRTDataset rasterXSize="4" rasterYSize="4"><SRS>EPSG:{EPSG}</SRS>'
        f"<GeoTransform>{LEFT},10,0,{TOP},0,-10</GeoTransform>"
        f'<VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename relativeToVRT="0">'
        f"{tmp_path}/secret.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    assert np.isfinite(read(tmp_path / "b.vrt", grid(4, 4))).all()
    with serve(lambda r: file_answer(tmp_path, r)) as server, pytest.raises(ReadError, match=r"b\.vrt"):
        read(f"{server.url}/b.vrt", grid(4, 4))
