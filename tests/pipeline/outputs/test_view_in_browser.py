"""The page of the maps in a real browser: it draws what the files hold, and leaves the machine for nothing."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from benchmarks.headless_browser import CHROMIUM, Page, open_page
from pipeline.outputs.assets import ASSETS
from pipeline.outputs.cog_writer import RasterForm, write_cog
from pipeline.outputs.view_page import published_maps
from pipeline.outputs.view_server import ViewServer, open_server
from tests.pipeline.outputs.small_items import product, write_items

pytestmark = [pytest.mark.long, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")]
SIDE = 900
CODES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
LEFT, TOP = 640_000, 5_150_000
HOSTILE = "<img src=x onerror=\"document.title='OWNED'\">"
DRAWN = (
    "globalThis.spexView && Object.values(spexView.layers).some(l => l._map && Object.values(l._tiles).length) && "
    "Object.values(spexView.layers).every(l => !l._map || Object.values(l._tiles).every(t => t.loaded)) && "
    "document.querySelector('#chart h3')"
)


def code_at(x: int, y: int) -> int:
    """Class of a pixel: checks of 100 px."""
    return CODES[(x // 100 + y // 100) % 9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two periods of one area: classes in checks, a picture, confidence, scores, one sub-region of a hostile name."""
    output = tmp_path_factory.mktemp("out")
    months = [("2026-06-01", "2026-06-30"), ("2026-07-01", "2026-07-31")]
    write_items(output, *(product(start=dt.date.fromisoformat(a), end=dt.date.fromisoformat(b)) for a, b in months))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    number = (columns // 100 + rows // 100) % 9
    classes = np.asarray(CODES, np.uint8)[number][None]
    scores = np.where(np.arange(9)[:, None, None] == number, 75, 3).astype(np.uint8)
    pictures = {
        "landcover": (classes, 0, "mode"),
        "confidence": ((columns % 101).astype(np.uint8)[None], 255, "average"),
        "truecolor": (np.stack([rows % 250 + 1, columns % 250 + 1, rows * 0 + 90]).astype(np.uint8), 0, "average"),
        "scores": (scores, 255, "average"),
    }
    for collection, item in published_maps(output):
        item_folder = output / collection / item["id"]
        for key, (pixels, nodata, resampling) in pictures.items():
            _write(item_folder / ASSETS[key].file, pixels, nodata, resampling)
            item["assets"].setdefault(key, {"href": f"./{ASSETS[key].file}"})
        item["assets"]["explanations"] = {"href": "./explanations.json"}
        item["properties"]["proj:code"] = "EPSG:32632"
        (item_folder / "explanations.json").write_text(json.dumps({"regions": [_region()]}))
        (item_folder / f"{item['id']}.json").write_text(json.dumps(item))
    return output


def _write(path: Path, pixels: np.ndarray, nodata: int, resampling: Any) -> None:
    transform = rasterio.Affine(10, 0, LEFT, 0, -10, TOP)
    form = RasterForm(SIDE, SIDE, 32632, transform, "uint8", nodata, resampling, count=len(pixels))
    write_cog(path, form, lambda target: target.write(pixels))


def _region() -> dict[str, Any]:
    ring = [[10.8, 46.3], [11.1, 46.3], [11.1, 46.6], [10.8, 46.6], [10.8, 46.3]]
    return {
        "id": "valley", "name": HOSTILE, "text": f"Half is forest. {HOSTILE}", "area_ha": 8100.0, "observed_share": 1.0,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "classes": [{"code": 10, "name": "Trees", "area_ha": 60.0}, {"code": 80, "name": "Water", "area_ha": 40.0}],
    }  # fmt: skip


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ViewServer]:
    server = open_server(folder, 0, lambda run, lon, lat: f"because of {HOSTILE}")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


COLOUR = """(([x, y]) => {
  const {plane, layers} = spexView;
  for (const {coords, el, current} of Object.values(layers.classes._tiles)) {
    const place = plane.options.crs.latLngToPoint(L.latLng(y, x), coords.z).subtract(coords.scaleBy(L.point(512, 512)));
    if (!current || place.x < 0 || place.y < 0 || place.x >= 512 || place.y >= 512) continue;
    const copy = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
    copy.drawImage(el, Math.floor(place.x), Math.floor(place.y), 1, 1, 0, 0, 1, 1);
    return [...copy.getImageData(0, 0, 1, 1).data];
  }
})"""
SCREEN = """(([x, y]) => {
  const box = spexView.plane.getContainer().getBoundingClientRect();
  const place = spexView.plane.latLngToContainerPoint([y, x]);
  return [box.left + place.x, box.top + place.y];
})"""


async def _colour(page: Page, x: float, y: float) -> Any:
    """Of the drawn classes at a place of the map in metres."""
    await page.until(DRAWN)
    return await page.value(f"{COLOUR}([{x}, {y}])")


async def _look(address: str, profile: Path, width: int, height: int) -> None:
    async with open_page(address, profile, width, height) as page:
        await page.until(DRAWN)
        assert await page.value("document.documentElement.scrollWidth <= innerWidth")
        place = (LEFT + 10 * 350.5, TOP - 10 * 250.5)  # column 350, row 250
        expected = code_at(350, 250)
        palette = await page.value("Object.fromEntries(spexView.map.classes.map(c => [c.code, [c.name, c.color]]))")
        name, color = palette[str(expected)]
        drawn = await _colour(page, *place)
        assert drawn == [*(int(color[i : i + 2], 16) for i in (1, 3, 5)), 255]

        # a click tells class, confidence, scores and, when asked, reasons
        x, y = await page.value(f"{SCREEN}([{place[0]}, {place[1]}])")
        await page.click(x, y)
        await page.until("document.querySelector('#point strong')")
        told = await page.value("document.querySelector('#point').textContent")
        assert told.startswith(f"{name} · confidence ")
        assert "75 %" in told
        await page.value("document.querySelector('#point button').click()")
        await page.until("document.querySelector('#point pre')")
        assert HOSTILE in await page.value("document.querySelector('#point pre').textContent")

        # a sub-region opens its text, as text
        await page.value("document.querySelector('#regions button').click()")
        await page.until("document.querySelector('#region h3')")
        assert HOSTILE in await page.value("document.querySelector('#region').textContent")
        assert not await page.value("document.querySelector('main img')")
        await page.until("document.querySelectorAll('#chart svg g').length === 2")
        assert "60" in await page.value("document.querySelector('#chart table').textContent")

        # classes are switched off, the confidence is shown, the swipe moves by the keyboard
        box = f"#legend input[value='{expected}']"
        await page.value(f'document.querySelector("{box}").click()')
        assert (await _colour(page, *place))[3] == 0
        await page.value("document.querySelector('#swipe-on').click()")
        await page.value("document.querySelector('#swipe').focus()")
        await page.key("ArrowRight")
        assert await page.value("spexView.state.swipe") == 51
        assert "rect(" in await page.value("spexView.plane.getPane('top').style.clip")
        await page.value("document.querySelector('[value=confidence]').click()")
        await page.until("spexView.layers.confidence._map && Object.values(spexView.layers.confidence._tiles).length")
        await page.value("document.querySelector('#map').focus()")
        await page.key("Enter")
        await page.until("document.querySelector('#point p') && !document.querySelector('#point pre')")

        # the earlier period, and the address that shows all of this again
        await page.value("document.querySelector('#earlier').click()")
        await page.until("spexView.map.start === '2026-06-01'")
        await page.until(DRAWN)
        await page.until("location.hash.includes('2026-06-01')")
        kept = await page.value("location.hash")
        for part in ("show=confidence", "swipe=51", f"off={expected}", "region=valley", "2026-06-01"):
            assert part in kept
        assert page.errors == []
        own = address.split("/view/")[0]
        assert not [url for url in page.requests if not url.startswith((f"{own}/", "data:", "blob:"))]
        await page.call("Page.navigate", url="about:blank")
        await page.call("Page.navigate", url=f"{address}{kept}")
        await page.until(DRAWN)
        assert await page.value("[spexView.map.start, spexView.state.show, spexView.state.swipe]") == [
            "2026-06-01", "confidence", 51,
        ]  # fmt: skip
        assert await page.value("document.title") != "OWNED"
        assert page.errors == []


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_what_a_person_sees_and_does(server: ViewServer, tmp_path: Path, width: int, height: int) -> None:
    asyncio.run(_look(server.address, tmp_path / "profile", width, height))
