"""Remote rasters: every request and redirect passes the door, and GDAL gets bytes, never an address."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window

import pipeline.imagery.file_reader as file_reader
import pipeline.imagery.remote_file as remote_file
from pipeline.errors import ReadError
from pipeline.imagery.composite import read_composite
from pipeline.imagery.file_reader import AssetReader
from pipeline.records.plan import Window as PlanWindow
from pipeline.records.plan import ZoneGrid
from pipeline.settings.run_file import CompositeConfig
from pipeline.sources.hrefs import AssetDoor, checked, resolve
from pipeline.sources.items import normalise_item
from tests.pipeline.imagery.test_file_reader import grid, noise, reader
from tests.pipeline.loopback_server import Request, Response, file_answer, serve
from tests.pipeline.tiny_scenes import EPSG, LEFT, TOP, write_raster, write_scene

VALUES = noise(128, 128)
ANY_LOCAL = AssetDoor(("http", "https"), (), ("127.0.0.1",), False)
"""The run file names this machine, and no roots."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_reader, "BACKOFF_S", 0.01)
    options = file_reader.gdal_options
    quick = {"GDAL_HTTP_MAX_RETRY": 1, "GDAL_HTTP_RETRY_DELAY": "0.01"}
    monkeypatch.setattr(file_reader, "gdal_options", lambda href: {**options(href), **quick})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_raster(tmp_path / "root" / "x.tif", VALUES, left=LEFT, top=TOP, gsd=10)
    return tmp_path


def read(url: str, door: AssetDoor | None = None, **options: Any) -> np.ndarray:
    made: AssetReader = reader(url, grid(128, 128), **options)
    made.door = door
    return made.read(Window(0, 0, 128, 128))


def redirect(target: str, status: int = 302) -> Response:
    return Response(status, b"", {"Location": target})


def roots(*addresses: str) -> AssetDoor:
    return AssetDoor(("http", "https"), addresses, ("127.0.0.1",), False)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("with_roots", [True, False])
def test_a_redirect_to_another_server_asks_it_nothing(folder: Path, status: int, with_roots: bool) -> None:
    """Out of the roots; and without any limits given, off the file's own server."""
    with serve(lambda r: file_answer(folder, r)) as other:
        with serve(lambda r: redirect(f"{other.url}{r.path}", status)) as server:
            door = roots(f"{server.url}/root/") if with_roots else None
            with pytest.raises(ReadError, match=r"x\.tif cannot be read: refused"):
                read(f"{server.url}/root/x.tif", door)
        assert other.requests == []
        assert len(server.requests) == 1, "asking again cannot help"


@pytest.mark.parametrize(
    "target",
    [
        *("/secret/x.tif", "/root/../secret/x.tif", "/root/%2e%2e/secret/x.tif", "/root/%252e%252e/secret/x.tif"),
        *("file:///etc/passwd", "FILE:///etc/passwd", "/vsicurl/http://127.0.0.1/", "ftp://127.0.0.1/x", "gopher://x/"),
        *(
            "http://localhost:{port}/root/x.tif",
            "http://2130706433:{port}/root/x.tif",
            "http://0x7f.1:{port}/root/x.tif",
        ),
        *(
            "http://user:w@127.0.0.1:{port}/root/x.tif",
            "http://127.0.0.1:{port}\\@b/root/x.tif",
            "http://[::1]:{port}/",
        ),
        *("https://127.0.0.1:{port}/root/x.tif", "http://169.254.169.254/latest/meta-data/"),
    ],
)
def test_a_redirect_out_of_the_root_is_refused(folder: Path, target: str) -> None:
    asked: list[str] = []

    def answer(request: Request) -> Response:
        asked.append(request.path)
        if len(asked) > 1:
            return file_answer(folder, request)
        return redirect(target.format(port=request.headers["Host"].rpartition(":")[2]))

    with serve(answer) as server, pytest.raises(ReadError, match=r"/root/x\.tif cannot be read"):
        read(f"{server.url}/root/x.tif", roots(f"{server.url}/root/"))
    assert [path for path in asked if path != "/root/x.tif"] == []


@pytest.mark.parametrize(
    "target", ["/root/x.tif?sig=a%2Bb%3D", "x.tif?sig=1", "{url}/root/./x.tif?X-Amz-Signature=00ff"]
)
def test_a_redirect_within_the_root_is_followed(folder: Path, target: str) -> None:
    def answer(request: Request) -> Response:
        return file_answer(folder, request) if request.query else redirect(target.format(url=server.url))

    with serve(answer) as server:
        np.testing.assert_array_equal(read(f"{server.url}/root/x.tif", roots(f"{server.url}/root/")), VALUES)
        np.testing.assert_array_equal(read(f"{server.url}/root/x.tif"), VALUES)


@pytest.mark.parametrize("target", ["http://[", "//", "http:", "http://a:b", "http://\u2460"])
def test_a_redirect_to_nowhere_is_one_error(folder: Path, target: str) -> None:
    with (
        serve(lambda _: redirect(quote(target, safe=":/["))) as server,
        pytest.raises(ReadError, match=r"/root/x\.tif cannot be read"),
    ):
        read(f"{server.url}/root/x.tif", roots(f"{server.url}/root/"))
    assert len(server.requests) < 30


def test_without_roots_a_redirect_may_lead_to_any_server_that_the_run_may_open(folder: Path) -> None:
    with serve(lambda r: file_answer(folder, r)) as other, serve(lambda r: redirect(other.url + r.path)) as server:
        np.testing.assert_array_equal(read(f"{server.url}/root/x.tif", ANY_LOCAL), VALUES)
        public = AssetDoor(("http", "https"), (), ("stac.example",), False)
        asked = len(other.requests)
        with pytest.raises(ReadError, match="refused"):
            read(f"{server.url}/root/x.tif", public)
        assert len(other.requests) == asked


def test_a_redirect_after_the_first_range_is_refused(folder: Path) -> None:
    write_raster(folder / "root" / "big.tif", noise(512, 512), left=LEFT, top=TOP, gsd=10)
    with serve(lambda r: file_answer(folder, r)) as other:
        count = itertools.count()

        def answer(request: Request) -> Response:
            return file_answer(folder, request) if next(count) == 0 else redirect(other.url + request.path)

        with serve(answer) as server, pytest.raises(ReadError, match="refused"):
            reader(f"{server.url}/root/big.tif", grid(512, 512)).read(Window(0, 0, 512, 512))
        assert other.requests == []


def test_a_circle_of_redirects_ends(folder: Path) -> None:
    with (
        serve(lambda r: redirect("/root/y.tif" if r.path.endswith("x.tif") else "/root/x.tif")) as server,
        pytest.raises(ReadError, match="redirects without end"),
    ):
        read(f"{server.url}/root/x.tif", roots(f"{server.url}/root/"))
    assert len(server.requests) < 20


def test_an_encoded_gdal_prefix_reaches_no_server(folder: Path) -> None:
    with serve(lambda r: file_answer(folder, r)) as server:
        port = server.url.rpartition(":")[2]
        for href in (
            *(
                f"file:///vsicurl/http%3A//127.0.0.1:{port}/root/x.tif",
                f"file:///vsicurl%3Furl=http://127.0.0.1:{port}/",
            ),
            *(
                f"/vsicurl/http://127.0.0.1:{port}/root/x.tif",
                f"/vsicached?file=/vsicurl/http://127.0.0.1:{port}/x.tif",
            ),
        ):
            with pytest.raises(file_reader.HrefError):
                checked(resolve(href, "/data/c/i.json"), schemes=("file",), roots=(), local_source=True, what="item")
            with pytest.raises(ReadError):
                read(href)
        assert server.requests == []


XML = {
    "vrt": '<VRTDataset rasterXSize="128" rasterYSize="128"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
    "<SourceFilename>/vsicurl/{url}/root/x.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>",
    "wms": '<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service></GDAL_WMS>',
    "gti": "<GDALTileIndexDataset><IndexDataset>/vsicurl/{url}/i.gpkg</IndexDataset></GDALTileIndexDataset>",
    "stacta": '{{"type": "Feature", "stac_extensions": ["tiled-assets"], "asset_templates": {{"x": "{url}"}}}}',
    "stacit": '{{"type": "FeatureCollection", "stac_version": "1.0.0", "features": [{{"assets": {{"x": "{url}"}}}}]}}',
    "wmts": "<GDAL_WMTS><GetCapabilitiesUrl>{url}/wmts</GetCapabilitiesUrl></GDAL_WMTS>",
    "mrf": "<MRF_META><CachedSource><Source>/vsicurl/{url}/root/x.tif</Source></CachedSource></MRF_META>",
    "til": 'BEGIN_GROUP = TILE_1\nfilename = "/vsicurl/{url}/root/x.tif";\nEND_GROUP',
    "zarr": '{{"zarr_format": 2}}',
    "envi": "ENVI\nsamples = 4\nlines = 4\n",
}


@pytest.mark.parametrize("kind", XML)
@pytest.mark.parametrize("remote", [True, False])
def test_formats_that_name_further_files_are_not_opened(folder: Path, kind: str, remote: bool) -> None:
    with serve(lambda r: file_answer(folder, r)) as other:
        (folder / "root" / f"b.{kind}").write_text(XML[kind].format(url=other.url))
        with serve(lambda r: file_answer(folder, r)) as server, pytest.raises(ReadError, match=rf"b\.{kind} cannot"):
            read(f"{server.url}/root/b.{kind}" if remote else str(folder / "root" / f"b.{kind}"))
        assert other.requests == []


SIDE_CARS = (".ovr", ".msk", ".aux.xml", ".tfw", ".rpb", ".imd", "_rpc.txt", ".xml", ".vrt")


def test_side_cars_are_neither_asked_for_nor_believed(folder: Path) -> None:
    """An overview, a mask, a world file and statistics that would each change what is read."""
    base = folder / "root" / "x.tif"
    write_raster(folder / "root" / "x.tif.msk", np.zeros((128, 128), np.uint8), left=LEFT, top=TOP, gsd=10, nodata=None)
    write_raster(folder / "root" / "x.tif.ovr", np.ones((64, 64), np.uint16), left=LEFT, top=TOP, gsd=20)
    (folder / "root" / "x.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    (folder / "root" / "x.tif.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:32601</SRS><GeoTransform>0,1,0,0,0,-1</GeoTransform>"
        '<PAMRasterBand band="1"><NoDataValue>2000</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    np.testing.assert_array_equal(read(str(base)), VALUES)
    with serve(lambda r: file_answer(folder, r)) as server:
        np.testing.assert_array_equal(read(f"{server.url}/root/x.tif"), VALUES)
        made = reader(f"{server.url}/root/x.tif", grid(32, 32, res=40.0))
        assert made.read(Window(0, 0, 32, 32)).mean() > 1000
        assert {r.path for r in server.requests} == {"/root/x.tif"}


@pytest.mark.parametrize("place", ["/dev/zero", "/dev/stdin", "/proc/self/fd/0", "."])
def test_only_regular_files_are_opened(place: str) -> None:
    with pytest.raises(ReadError, match="cannot be read"):
        read(str(Path(place).absolute()))


def test_jpeg_2000_is_read_from_a_server(folder: Path) -> None:
    with rasterio.open(
        folder / "root" / "x.jp2", "w", driver="JP2OpenJPEG", height=128, width=128, count=1, dtype="uint16",
        crs=f"EPSG:{EPSG}", transform=Affine(10, 0, LEFT, 0, -10, TOP), QUALITY=100, REVERSIBLE="YES",
    ) as file:  # fmt: skip
        file.write(VALUES, 1)
    with serve(lambda r: file_answer(folder, r)) as server:
        np.testing.assert_array_equal(read(f"{server.url}/root/x.jp2"), VALUES)
        assert {r.path for r in server.requests} == {"/root/x.jp2"}


def _liar(change: Callable[[Response], Response], root: Path) -> Callable[[Request], Response]:
    return lambda request: change(file_answer(root, request))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: Response(200, r.body, {}),
        lambda r: Response(206, r.body[: len(r.body) // 2], r.headers),
        lambda r: Response(206, r.body, {"Content-Range": "bytes 7-99/100"}),
        lambda r: Response(206, r.body, {"Content-Range": "bytes */x"}),
        lambda r: Response(206, r.body, {}),
        lambda r: Response(204, b"", {}),
        lambda r: Response(206, b"", r.headers),
        lambda r: Response(206, r.body, {**r.headers, "Content-Encoding": "gzip"}),
        lambda r: Response(304, b"", {}),
        lambda r: Response(500, b"", {}),
    ],
)
def test_a_server_that_answers_wrongly_is_one_error_and_no_pixels(folder: Path, change: Any) -> None:
    with serve(_liar(change, folder)) as server, pytest.raises(ReadError, match=r"x\.tif cannot be read"):
        read(f"{server.url}/root/x.tif")


def test_a_failure_in_the_middle_gives_no_pixels(folder: Path) -> None:
    """GDAL may make pixels of what came; they are not used."""
    write_raster(folder / "root" / "big.tif", noise(512, 512), left=LEFT, top=TOP, gsd=10)
    count = itertools.count()

    def answer(request: Request) -> Response:
        return file_answer(folder, request) if next(count) < 1 else Response(404)

    with serve(answer) as server, pytest.raises(ReadError, match="404"):
        reader(f"{server.url}/root/big.tif", grid(512, 512)).read(Window(0, 0, 512, 512))


def test_a_file_that_changes_while_it_is_read_is_told_and_then_read_anew(folder: Path) -> None:
    with serve(lambda r: file_answer(folder, r)) as server:
        url = f"{server.url}/root/big.tif"
        write_raster(folder / "root" / "big.tif", noise(512, 512), left=LEFT, top=TOP, gsd=10)
        reader(url, grid(32, 32)).read(Window(0, 0, 32, 32))
        new = noise(512, 512, seed=1) // 3
        write_raster(folder / "root" / "big.tif", new, left=LEFT, top=TOP, gsd=10)
        with pytest.raises(ReadError, match="changed while it was read"):
            reader(url, grid(512, 512)).read(Window(0, 0, 512, 512))
        file_reader._given_up.clear()
        np.testing.assert_array_equal(reader(url, grid(512, 512)).read(Window(0, 0, 512, 512)), new)


def test_many_threads_read_many_files_at_once(folder: Path) -> None:
    arrays = [noise(256, 256, seed=i) for i in range(8)]
    for i, values in enumerate(arrays):
        write_raster(folder / "root" / f"{i}.tif", values, left=LEFT, top=TOP, gsd=10)
    wrong: list[str] = []

    def one(url: str, number: int) -> None:
        for _ in range(5):
            found = reader(f"{url}/root/{number % 8}.tif", grid(256, 256)).read(Window(0, 0, 256, 256))
            if not np.array_equal(found, arrays[number % 8]):
                wrong.append(str(number))

    with serve(lambda r: file_answer(folder, r)) as server:
        threads = [threading.Thread(target=one, args=(server.url, i)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        heads = [r for r in server.requests if r.headers["Range"] == f"bytes=0-{remote_file.HEAD_BYTES - 1}"]
        assert len(heads) <= 16, "a file's head is remembered"


def test_the_door_of_a_run_reaches_its_readers(folder: Path) -> None:
    """From the composite down: the same scene with and without the roots that hold its redirect's target."""
    with serve(lambda r: file_answer(folder, r)) as other, serve(lambda r: redirect(other.url + r.path)) as server:
        item = write_scene(folder, "S2A_T30UXB_01", href_prefix=server.url)
        scene = normalise_item(item, "planetary-computer")
        for door, clear in ((roots(f"{server.url}/"), 0), (roots(f"{server.url}/", f"{other.url}/"), 64)):
            file_reader._given_up.clear()
            zone = ZoneGrid(EPSG, LEFT, TOP, 10.0, 8, 8)
            found = read_composite([scene], zone, PlanWindow(0, 0, 8, 8), CompositeConfig(), door)
            assert found.valid_count.sum() == clear
            assert ("refused" in "".join(found.problems)) == (clear == 0)
            assert bool(other.requests) == (clear > 0)
