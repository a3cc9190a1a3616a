"""How long a person waits for the tiles of the page: a granule of 10,980 x 10,980 px, panned in a headless Chromium.

``python -m benchmarks.view [--side 10980] [--pans 6]`` writes one map (classes, confidence, true colour) with the code
that publishes maps, serves it by ``spex view``, and pans it at every zoom, over places that were not seen before. A
tile counts from the moment the page's map library asks for it until its pixels are in its canvas: request, range read,
unpacking, painting, and waiting for those that were asked for with it. The browser draws without a graphics card.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import shapely
from rasterio.io import DatasetWriter
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from benchmarks.headless_browser import Page, open_page
from pipeline.outputs.assets import ASSETS
from pipeline.outputs.cog_writer import RasterForm, write_cog
from pipeline.outputs.stac_catalog import publish
from pipeline.outputs.stac_item import MapProduct, item_folder, map_item
from pipeline.records.grid import transform
from pipeline.records.plan import ZoneGrid
from spex_core.legend import Legend

ByteArray = npt.NDArray[np.uint8]
SIDE_PX = 10_980
STRIP_PX = 1024
COLLECTION = "spex-landcover"
EPSG, LEFT, TOP = 32632, 600_000.0, 5_200_020.0
BAR_MS = 200.0
SCREEN = (1280, 800)
ZOOMS = (0, -1, -2, -3)
PAN_PX = (620, 410)
DRAWN = (
    "globalThis.spexView && Object.values(spexView.layers).some(l => l._map && Object.values(l._tiles).length) && "
    "Object.values(spexView.layers).every(l => !l._map || Object.values(l._tiles).every(t => t.loaded))"
)
PAN = f"""async (right, down) => {{
  const began = performance.now();
  spexView.plane.panBy([right, down], {{animate: false}});
  while (!({DRAWN})) await new Promise((resolve) => setTimeout(resolve, 8));
  return performance.now() - began;
}}"""
NAMES = {"classes": "classes", "picture": "true colour", "confidence": "confidence"}


class Ground:
    """Made pixels with the statistics of a map: patches of many sizes, soft edges, single pixels."""

    def __init__(self, side: int, legend: Legend, seed: int = 0) -> None:
        self.side = side
        self.codes = np.asarray(legend.codes, np.uint8)
        rng = np.random.default_rng(seed)
        self._coarse = [rng.random((side // cell + 2, side // cell + 2), np.float32) for cell in (24, 96, 480)]
        self._seed = seed

    def _strip(self, top: int, height: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
        """Number of the class, and a field between 0 and 1, of some rows."""
        rows, columns = np.arange(top, top + height), np.arange(self.side)
        field = np.zeros((height, self.side), np.float32)
        for cell, weight, coarse in zip((24, 96, 480), (0.25, 0.35, 0.4), self._coarse, strict=True):
            field += np.float32(weight) * _between(coarse, rows / cell, columns / cell)
        rng = np.random.default_rng((self._seed, top))
        noise = rng.random(field.shape, np.float32)
        number = np.clip(((field - 0.2) / 0.6 + 0.06 * (noise - 0.5)) * len(self.codes), 0, len(self.codes) - 1)
        return number.astype(np.intp), field + np.float32(0.08) * (noise - np.float32(0.5))

    def classes(self, top: int, height: int) -> ByteArray:
        """uint8 ``[1, h, side]``."""
        return self.codes[self._strip(top, height)[0]][None]

    def confidence(self, top: int, height: int) -> ByteArray:
        """uint8 percent ``[1, h, side]``."""
        return np.clip(self._strip(top, height)[1] * 100, 0, 100).astype(np.uint8)[None]

    def picture(self, top: int, height: int) -> ByteArray:
        """uint8 ``[3, h, side]``."""
        number, field = self._strip(top, height)
        tint = np.asarray([[90, 120, 60], [150, 140, 90], [40, 70, 110]], np.float32)[number % 3]
        return np.clip(tint + (field[..., None] - 0.5) * 160, 1, 255).astype(np.uint8).transpose(2, 0, 1)


def _between(
    coarse: npt.NDArray[np.float32], rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Bilinear values of a coarse grid."""
    i, j = rows.astype(int), columns.astype(int)
    v, u = (rows - i).astype(np.float32)[:, None], (columns - j).astype(np.float32)
    upper, lower = coarse[i], coarse[i + 1]
    along = upper + v * (lower - upper)
    left, right = along[:, j], along[:, j + 1]
    return np.asarray(left + u * (right - left), np.float32)


def write_map(output: Path, side: int) -> None:
    """Publishes one map of made pixels."""
    legend = Legend.from_yaml()
    ground = Ground(side, legend)
    grid = ZoneGrid(EPSG, LEFT, TOP, 10.0, side, side)
    bounds = transform_bounds(f"EPSG:{EPSG}", "OGC:CRS84", LEFT, TOP - 10 * side, LEFT + 10 * side, TOP)
    day = dt.datetime(2026, 7, 1, tzinfo=dt.UTC)
    made = MapProduct(
        "granule", "0" * 16, dt.date(2026, 6, 1), dt.date(2026, 6, 30), grid, shapely.box(*bounds), legend, (),
        {"spex-landcover": "0"}, "0", day, "Made pixels.",
        class_pixels=dict.fromkeys(legend.codes, side * side // len(legend.codes)),
    )  # fmt: skip
    folder = item_folder(output, COLLECTION, made.item_id)
    form = {"height": side, "width": side, "epsg": EPSG, "transform": transform(grid), "dtype": "uint8"}
    kinds = (
        ("landcover", ground.classes, RasterForm(**form, nodata=0, resampling="mode", colormap=legend.colormap())),
        ("confidence", ground.confidence, RasterForm(**form, nodata=255, resampling="average", predictor=2)),
        ("truecolor", ground.picture, RasterForm(**form, nodata=0, resampling="average", predictor=2, count=3)),
    )
    for key, pixels, shape in kinds:

        def fill(target: DatasetWriter, pixels: Any = pixels) -> None:
            for top in range(0, side, STRIP_PX):
                height = min(STRIP_PX, side - top)
                target.write(pixels(top, height), window=Window(0, top, side, height))

        write_cog(folder / ASSETS[key].file, shape, fill)
    publish(output, COLLECTION, [map_item(made, folder, COLLECTION)], legend)


@contextlib.contextmanager
def served(output: Path) -> Iterator[str]:
    """The address of the page while ``spex view`` serves a folder."""
    command = [sys.executable, "-m", "pipeline", "view", str(output), "--no-browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            told = ""
            for line in process.stdout:
                told += line
                words = [word for word in line.split() if word.startswith("http://")]
                if words:
                    yield words[0]
                    break
            else:
                raise SystemExit(f"spex view ended: {told}")
        finally:
            process.terminate()
            process.wait(20)


@dataclass
class Machine:
    """CPU seconds that passed: of this process with all that it started, and of everything on the machine."""

    began: float = field(default_factory=time.perf_counter)
    own_s: float = field(default_factory=lambda: _own_cpu_s())
    all_s: float = field(default_factory=lambda: _busy_s())

    def since(self) -> tuple[float, float]:
        """CPU seconds of our own, and how many cores others kept busy meanwhile."""
        own = _own_cpu_s() - self.own_s
        return own, max(0.0, (_busy_s() - self.all_s - own) / (time.perf_counter() - self.began))


def _own_cpu_s() -> float:
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


async def tile_times(
    address: str, profile: Path, side: int, pans: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Milliseconds of every tile, by zoom and layer, and what was going on on the machine."""
    found: list[dict[str, Any]] = []
    async with open_page(address, profile, *SCREEN) as page:
        await page.until(DRAWN)
        machine = Machine()
        for show in ("classes", "confidence"):
            await page.value(f"document.querySelector('[value={show}]').click(); 0")
            for zoom in ZOOMS:
                found += await _one_zoom(page, zoom, show, side, pans)
        own_s, others = machine.since()
        if page.errors:
            raise SystemExit(f"the page told errors: {page.errors}")
    return found, {"cpu_s": round(own_s, 1), "cores_used_by_others": round(others, 2)}


async def _one_zoom(page: Page, zoom: int, show: str, side: int, pans: int) -> list[dict[str, Any]]:
    # The picture was read beside the classes: only what is seen for the first time counts.
    layers = ("classes", "picture") if show == "classes" else ("confidence",)
    x, y = LEFT + 10 * side * 0.12, TOP - 10 * side * 0.12
    await page.value(f"spexView.plane.setView([{y}, {x}], {zoom}, {{animate: false}}); 0")
    await page.until(DRAWN)
    await page.value("Object.values(spexView.layers).forEach(l => { l.times = []; }); 0")
    waits = []
    for pan in range(pans):
        right, down = PAN_PX if pan % 2 == 0 else (PAN_PX[0] // 2, PAN_PX[1])
        waits.append(await page.value(f"({PAN})({right}, {down})"))
    return [
        {
            "zoom": zoom,
            "layer": layer,
            "ms": await page.value(f"spexView.layers.{layer}?.times ?? []"),
            "waits": waits,
        }
        for layer in layers
    ]


def table(found: list[dict[str, Any]]) -> tuple[list[str], dict[str, Any]]:
    """Rows to read, and the headline."""
    rows = ["| layer | map px per screen px | tiles | median ms | 9 of 10 | slowest | all of a pan, median |"]
    rows.append("|---|---|---|---|---|---|---|")
    for one in found:
        if one["ms"]:
            low, high, most = np.percentile(one["ms"], (50, 90, 100))
            rows.append(
                f"| {NAMES[one['layer']]} | {2 ** -one['zoom']} | {len(one['ms'])} | {low:.0f} | {high:.0f} "
                f"| {most:.0f} | {np.median(one['waits']):.0f} |"
            )
    every = [ms for one in found for ms in one["ms"]]
    median, high = np.percentile(every, (50, 90))
    headline = {"tile_ms_median": round(float(median), 1), "tile_ms_p90": round(float(high), 1), "tiles": len(every)}
    return rows, {**headline, "bar_ms": BAR_MS, "met": bool(median < BAR_MS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=SIDE_PX, help="of the map, pixels")
    parser.add_argument("--pans", type=int, default=6, help="per zoom and layer")
    parser.add_argument("--folder", type=Path, help="keeps the map here, or takes the one that is there")
    parser.add_argument("--quick", action="store_true", help="a smaller map and fewer pans")
    options = parser.parse_args()
    side, pans = (3000, 2) if options.quick else (options.side, options.pans)
    with tempfile.TemporaryDirectory() as scratch:
        output = options.folder or Path(scratch) / "out"
        if not (output / "catalog.json").exists():
            began = time.perf_counter()
            write_map(output, side)
            print(f"map of {side} x {side} px written in {time.perf_counter() - began:.0f} s", flush=True)
        with served(output) as address:
            found, machine = asyncio.run(tile_times(address, Path(scratch) / "profile", side, pans))
    rows, headline = table(found)
    print("\n".join(rows))
    print(json.dumps(headline | machine))


if __name__ == "__main__":
    main()
