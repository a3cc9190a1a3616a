"""The page of the maps: what it is made of, and that its reader of COGs reads what GDAL reads."""

from __future__ import annotations

import hashlib
import http.server
import json
import random
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio.windows import Window as RasterWindow

from pipeline.errors import InstallationError
from pipeline.outputs import view_page
from pipeline.outputs.cog_writer import RasterForm, write_cog
from pipeline.outputs.view_page import maps_json, page_files, published_maps, write_page
from pipeline.outputs.view_server import open_server
from pipeline.records.plan import Window
from tests.pipeline.outputs.small_items import product, write_items

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="no node")
PAGE = Path(view_page.__file__).parent / "page"
KINDS: tuple[tuple[Any, ...], ...] = (
    # height, width, bands, type, predictor, overviews, part of it written
    (300, 700, 1, "uint8", 1, "mode", None),
    (603, 525, 1, "uint8", 2, "average", None),
    (525, 601, 3, "uint8", 2, "average", None),
    (300, 530, 9, "uint8", 2, "average", None),
    (517, 300, 1, "int16", 2, "nearest", None),
    (540, 513, 1, "uint16", 1, "nearest", None),
    (40, 5000, 1, "uint8", 1, "nearest", None),
    (9, 1, 1, "uint8", 1, "nearest", None),
    (1500, 1300, 1, "uint8", 1, "mode", Window(600, 900, 100, 80)),
)


def write(path: Path, kind: tuple[Any, ...], seed: int = 0) -> Path:
    """A COG by the project's own writer, of smooth and rough values."""
    height, width, bands, dtype, predictor, resampling, part = kind
    form = RasterForm(
        height, width, 32632, rasterio.Affine(10, 0, 640_000, 0, -10, 5_150_000), dtype, 255 if part is None else 0,
        resampling, predictor=predictor, count=bands,
    )  # fmt: skip
    window = part or Window(0, 0, height, width)
    rng = np.random.default_rng(seed)
    low = -3000 if dtype == "int16" else 1
    pixels = rng.integers(low, 254 if dtype == "uint8" else 3000, (bands, window.height, window.width)).astype(dtype)
    pixels[:, : window.height // 2] = np.linspace(1, 200, window.width).astype(dtype)

    def fill(target: Any) -> None:
        target.write(pixels, window=RasterWindow(window.col, window.row, window.width, window.height))

    write_cog(path, form, fill, windows=None if part is None else (part,))
    return path


def levels(path: Path) -> list[list[Any]]:
    """Height, width and sha256 of every level, as GDAL reads them."""
    with rasterio.open(path) as source:
        count = len(source.overviews(1))
    found = []
    for level in (None, *range(count)):
        with rasterio.open(path, **({} if level is None else {"overview_level": level})) as source:
            pixels = source.read()
            found.append([source.height, source.width, hashlib.sha256(pixels.tobytes()).hexdigest()])
    return found


def in_node(folder: Path, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """Answers of read_cogs.mjs, which finds the page's modules beside it."""
    shutil.copytree(PAGE, folder / "page", dirs_exist_ok=True)
    (folder / "page" / "package.json").write_text('{"type": "module"}')
    shutil.copy(Path(__file__).with_name("read_cogs.mjs"), folder)
    said = subprocess.run(
        [str(NODE), "read_cogs.mjs"], input=json.dumps(tasks), capture_output=True, text=True, cwd=folder, timeout=120
    )
    assert said.returncode == 0, said.stderr
    answers: list[dict[str, Any]] = json.loads(said.stdout)
    return answers


@pytest.fixture(scope="module")
def cogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cogs")
    (folder / "catalog.json").write_text('{"type": "Catalog", "id": "spex", "links": []}')
    for number, kind in enumerate(KINDS):
        write(folder / f"{number}.tif", kind, number)
    with rasterio.open(folder / "1.tif") as source:
        pixels, profile = source.read(), source.profile
    for name, options in (("big", {"BIGTIFF": "YES"}), ("swapped", {"ENDIANNESS": "BIG"})):
        with rasterio.open(folder / f"{name}.tif", "w", **{**profile, **options}) as target:
            target.write(pixels)
    with rasterio.open(folder / "swapped16.tif", "w", **{**profile, "dtype": "uint16", "ENDIANNESS": "BIG"}) as target:
        target.write(pixels.astype("uint16") * 200)
    with rasterio.open(folder / "packed.tif", "w", **{**profile, "compress": "LZW"}) as target:
        target.write(pixels)
    with rasterio.open(
        folder / "striped.tif", "w", driver="GTiff", height=9, width=9, count=1, dtype="uint8"
    ) as target:
        target.write(np.ones((1, 9, 9), np.uint8))
    with rasterio.open(folder / "float.tif", "w", **{**profile, "dtype": "float32", "predictor": 1}) as target:
        target.write(pixels.astype("float32"))
    return folder


@pytest.fixture(scope="module")
def address(cogs: Path) -> Iterator[str]:
    server = open_server(cogs, 0)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class _WithoutParts(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        return None


@needs_node
def test_every_level_of_every_kind_of_file_is_read_as_gdal_reads_it(cogs: Path, address: str, tmp_path: Path) -> None:
    names = [*(str(n) for n in range(len(KINDS))), "big", "swapped", "swapped16"]
    corners = [[0, 0], [-1, 0], [10**6, 0]]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_WithoutParts, directory=str(cogs))) as plain:
        threading.Thread(target=plain.serve_forever, args=(0.02,), daemon=True).start()
        urls = [f"{address}/{name}.tif" for name in names] + [f"http://127.0.0.1:{plain.server_port}/1.tif"]
        answers = in_node(tmp_path, *({"task": "levels", "url": url, "pixels": corners} for url in urls))
        plain.shutdown()
    for name, answer in zip([*names, "1"], answers, strict=True):
        assert answer["levels"] == levels(cogs / f"{name}.tif"), name
        assert answer["origin"] == {"x": 640_000, "y": 5_150_000, "size": 10}
        with rasterio.open(cogs / f"{name}.tif") as source:
            first = source.read(window=RasterWindow(0, 0, 1, 1)).ravel().tolist()
        assert answer["pixels"] == [first, None, None]


@needs_node
def test_other_kinds_and_missing_files_are_refused_in_words(cogs: Path, address: str, tmp_path: Path) -> None:
    expected = {
        "packed.tif": "compression 5; deflate is read here",
        "striped.tif": "has no tiles",
        "float.tif": "32-bit values of another kind",
        "catalog.json": "not a TIFF",
        "gone.tif": "the server answers 404",
    }
    answers = in_node(tmp_path, *({"task": "refused", "url": f"{address}/{name}"} for name in expected))
    for (name, reason), answer in zip(expected.items(), answers, strict=True):
        assert answer["error"].startswith("CogError: "), name
        assert reason in answer["error"]


@needs_node
def test_a_damaged_file_is_read_or_refused_and_never_more(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.tif", (700, 600, 1, "uint8", 2, "average", None))
    rng = random.Random(7)
    with path.open("rb") as stream:
        head = int.from_bytes(stream.read(8)[4:8], "little") + 2500
    changes: list[dict[str, Any]] = [
        {
            "name": n,
            "bytes": [[rng.randrange(head), rng.choice((0, 1, 127, 255, rng.randrange(256)))] for _ in range(2)],
        }
        for n in range(400)
    ]
    changes += [{"name": f"cut{n}", "bytes": [], "length": length} for n, length in enumerate((0, 3, 9, 200, 4000))]
    (answer,) = in_node(tmp_path, {"task": "damaged", "path": str(path), "changes": changes})
    assert answer["others"] == []
    assert answer["outcomes"]["CogError"] >= 10
    assert sum(answer["outcomes"].values()) == len(changes)


@needs_node
def test_grids_are_projected_as_proj_projects_them(tmp_path: Path) -> None:
    zones = {32601: -177.0, 32632: 9.0, 32660: 177.0, 32701: -177.0, 32750: 117.0}
    rng = random.Random(3)
    places: dict[int, list[tuple[float, float]]] = {}
    tasks, expected = [], []
    for code, middle in zones.items():
        south = code > 32700
        points = [
            (middle + rng.uniform(-3.5, 3.5), rng.uniform(-80, 0) if south else rng.uniform(0, 84)) for _ in range(40)
        ]
        places[code] = points
    places[3035] = [(rng.uniform(-16, 40), rng.uniform(32, 71)) for _ in range(80)] + [(10.0, 52.0)]
    places[3857] = [(rng.uniform(-180, 180), rng.uniform(-80, 80)) for _ in range(40)]
    for code, points in places.items():
        tasks.append({"task": "places", "code": f"EPSG:{code}", "lonlats": points})
        to_grid = Transformer.from_crs(4326, code, always_xy=True)
        expected.append((points, [to_grid.transform(*point) for point in points]))
    for answer, (points, metres) in zip(in_node(tmp_path, *tasks), expected, strict=True):
        np.testing.assert_allclose(answer["forward"], metres, rtol=0, atol=1e-3)
        np.testing.assert_allclose(answer["back"], points, rtol=0, atol=1e-8)


def test_the_page_brings_everything_and_asks_nothing_of_other_places() -> None:
    files = page_files()
    assert {"index.html", "app.js", "cog.js", "page.css", "leaflet.js", "leaflet.css", "strings/en.json"} <= set(files)
    assert b"Vladimir Agafonkin" in files["third-party.txt"]
    for name, content in files.items():
        if name.startswith("leaflet"):
            continue
        text = content.decode()
        assert not re.search(
            r"(src|href)=[\"']?(https?:)?//|@import|url\(|import\(|innerHTML|outerHTML|eval\(", text
        ), name
        for imported in re.findall(r'from "\./([^"]+)"', text):
            assert imported in files


def test_every_language_has_every_text_that_the_page_uses() -> None:
    files = page_files()
    sources = " ".join(
        files[name].decode() for name in files if name.endswith((".js", ".html")) and "leaflet" not in name
    )
    used = set(re.findall(r'\bt\("(\w+)"', sources)) | set(re.findall(r'data-(?:text|label)="(\w+)"', sources))
    texts = {name: json.loads(files[name]) for name in files if name.startswith("strings/")}
    english = texts["strings/en.json"]
    assert used == set(english)
    for name, words in texts.items():
        assert {key for key in words if not key.startswith("class:")} == set(english), name
        for key, text in english.items():
            assert set(re.findall(r"\{\w+\}", words[key])) == set(re.findall(r"\{\w+\}", text)), (name, key)


def test_it_is_written_once_and_lists_what_is_there(tmp_path: Path) -> None:
    write_items(tmp_path, product())
    (item,) = published_maps(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "view").rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path / "view").as_posix() for path in before} == {*page_files(), "maps.json"}
    assert write_page(tmp_path, [item])
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (entry,) = json.loads((tmp_path / "view" / "maps.json").read_text())["maps"]
    assert entry["folder"] == f"{item[0]}/{item[1]['id']}"
    assert entry["files"] == {"landcover": "landcover.tif", "thumbnail": "thumbnail.png"}
    assert [c["code"] for c in entry["classes"]] == [10, 20, 30, 40, 50, 60, 70, 80, 90]


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../../etc"},
        {"assets": {"landcover": {"href": "../x/landcover.tif"}}},
        {"assets": {"landcover": {"href": "https://evil.example/landcover.tif"}}},
        {"assets": []},
        {"assets": None, "properties": None},
    ],
    ids=str,
)
def test_an_item_that_leads_elsewhere_is_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    write_items(tmp_path, product())
    ((collection, item),) = published_maps(tmp_path)
    assert json.loads(maps_json([(collection, {**item, **change})], ["en"]))["maps"] == []


def test_strange_fields_of_an_item_are_left_out(tmp_path: Path) -> None:
    write_items(tmp_path, product())
    ((collection, item),) = published_maps(tmp_path)
    strange = {
        "spex:run_name": 7,
        "spex:accuracy": {"overall": "much"},
        "providers": ["x", {"name": 1}],
        "spex:observed_share": -1,
    }
    classes = [{"value": "x"}, 3, {"value": 10, "color_hint": "red"}]
    landcover = {**item["assets"]["landcover"], "classification:classes": classes}
    changed = {**item, "properties": strange, "assets": {"landcover": landcover}}
    (entry,) = json.loads(maps_json([(collection, changed)], ["en"]))["maps"]
    assert (entry["name"], entry["accuracy"], entry["providers"], entry["observed"]) == ("7", None, ["1"], None)
    assert entry["classes"] == [{"code": 10, "name": "10", "color": "#808080", "count": None}]


def test_without_its_library_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_page, "LIBRARY", "no-such-package")
    with pytest.raises(InstallationError, match="pip install no-such-package"):
        page_files()
