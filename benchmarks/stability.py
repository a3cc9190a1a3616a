"""The same land, the same answer: how many pixels of stitched maps change class where only the viewing did.

    python -m benchmarks.stability --real FOLDER [--quick] [--checkpoint NAME]

Four real scenes are mapped by the map's own tiles, overlaps and blending, and mapped again: in a region that begins
77 px up and left; as an image that lies 77 px down and right of where it did, so that other pixels share the network's
groups; 0.01 brighter and darker; flipped, and flipped back. Then the months of one place: the share of pixels that keep
one class through all of them, and the mean share of the months in which a pixel has its most frequent class. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.fusion import dated
from pipeline.imagery.composite import nan_median
from pipeline.planning.blocks import plan_blocks
from pipeline.predict.classifier import Classifier, MicroBatch, cut_tile, load_classifier, scored_tiles
from pipeline.predict.fusion import fused_tiles
from pipeline.predict.stitch import Piece, TileAccumulator, finalise, merge
from pipeline.records.dated_pixels import DatedPixels
from pipeline.records.plan import Tile, Window, ZoneGrid, ZonePlan
from pipeline.records.windows import intersection, slices
from pipeline.settings.run_file import ModelConfig, TilingConfig
from spex_core.bands import SENTINEL2_BANDS
from spex_core.checkpoints import DEFAULT_CHECKPOINT
from spex_core.legend import Legend
from workflows.labelled import sentinel2
from workflows.labelled.scene import LabelledScene, read_bands

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

SHIFT_PX, LEVEL = 77, 0.01
COLUMNS = {
    "region": "region begins 77 px elsewhere, % changed",
    "image": "image lies 77 px elsewhere",
    "darker": "0.01 darker",
    "brighter": "0.01 brighter",
    "flips": "flipped (the worse of two)",
}
BARS = {"region": 0.04, "image": 0.04, "darker": 0.04, "brighter": 0.04, "flips": 0.05, "kept": 0.75}
"""Most pixels that may change, and least that must keep their class."""
QUICK_PX = 300_000
ACCRA_BANDS = ("B02", "B03", "B04", "B06", "B08", "B11")
ACCRA_CLOUDY = (0, 1, 3, 8, 9, 10)
MOST_DATES = 8
"""As ``composite.max_observations``."""


@dataclass(frozen=True)
class Scene:
    """One real image."""

    name: str
    image: FloatArray
    """float32 ``[10, h, w]``; NaN: not observed."""


@dataclass(frozen=True)
class Series:
    """Images of one place, by month."""

    name: str
    months: tuple[tuple[str, tuple[FloatArray, ...]], ...]
    """``YYYY-MM`` (or ``MM``) and its dates, float32 ``[10, h, w]`` each."""


def scenes_of(root: Path) -> Iterator[Scene]:
    """Sea, town and fields in Wales; a city under few clouds; a lagoon and its plain; a desert."""
    labelled = next(sentinel2.hand_drawn_groups(root / "aberystwyth-rsgislib"))
    yield Scene("aberystwyth (10 bands)", labelled.reflectance)
    digital = read_bands(root / "coastal-accra" / "accra.tif", range(1, 8))
    image = np.full((len(SENTINEL2_BANDS), *digital.shape[1:]), np.nan, np.float32)
    image[[SENTINEL2_BANDS.index(band) for band in ACCRA_BANDS]] = digital[:6] / 1e4 - 0.1
    image[:, np.isin(digital[6], ACCRA_CLOUDY)] = np.nan
    yield Scene("accra (6 bands)", image)
    for name in ("aquileia", "pilbara"):
        path = next((root / "eobrowser").glob(f"{name}*.tif"))
        image = read_bands(path, range(1, 11)) / np.float32(1e4)
        image[:, ~((image > -0.05).all(axis=0) & (image.max(axis=0) > 0.001))] = np.nan
        yield Scene(f"{name} (10 bands)", image.astype(np.float32))


def series_of(root: Path) -> Iterator[Series]:
    """Farmland in Belgium: monthly composites of a year, and two chips with all their clear dates."""
    read: list[LabelledScene] = [*sentinel2.monthly_farmland(root / "belgium-worldcereal-timeseries")]
    read += sentinel2.farmers_parcels(root / "belgium-lpis-chips")
    months: dict[str, dict[str, list[FloatArray]]] = {}
    for scene in read:
        sides = tuple(size // 32 * 32 for size in scene.labels.shape)
        image = np.full((len(SENTINEL2_BANDS), *sides), np.nan, np.float32)
        image[list(scene.slots)] = scene.reflectance[:, : sides[0], : sides[1]]
        month = scene.date[:7] if scene.date else scene.name.rpartition("/")[2]
        months.setdefault(scene.place, {}).setdefault(month, []).append(image)
    for place, found in months.items():
        yield Series(place, tuple((month, tuple(images)) for month, images in sorted(found.items())))


class Mapper:
    """Maps arrays by the code of a run: plan, tiles, forward passes, weighted merge, final layers."""

    def __init__(self, model: Classifier, legend: Legend, tiling: TilingConfig) -> None:
        self._model, self._legend, self._tiling = model, legend, tiling

    def map(self, image: FloatArray | DatedPixels, region_px: int = 0, moved_px: int = 0) -> Codes:
        """Codes of an image ``[10, h, w]`` (or of its dates), 0 where nothing was observed.

        Args:
            image: What was observed; beyond it, as beyond the edge of a swath, nothing was.
            region_px: The mapped region begins so many px up and left of the image.
            moved_px: The image lies so many px down and right of its place.
        """
        composite = image.composite if isinstance(image, DatedPixels) else image
        height, width = composite.shape[1:]
        step, before = self._tiling.resolution_m, region_px + moved_px
        grid = ZoneGrid(32630, -region_px * step, region_px * step, step, height + before, width + before)
        zone = ZonePlan(grid, plan_blocks(grid, self._tiling, None), ())
        whole = Window(0, 0, grid.height, grid.width)
        pieces: list[dict[int, Piece]] = []
        for block in zone.blocks:
            accumulator = TileAccumulator(block, zone, self._tiling, self._model.arrays)
            window = block.read_window
            scored = self._tiles(image, block.tiles, window, before)
            for tile, scores in zip(block.tiles, scored, strict=True):
                accumulator.add(tile, scores)
            pieces.append(accumulator.finish())
        codes = np.zeros((grid.height, grid.width), np.uint8)
        observed = _placed(np.isfinite(composite).any(axis=0).astype(np.uint8), whole, before, 0)
        for block in zone.blocks:
            own = slices(block.window, whole)
            found = [pieces[other][block.index] for other in block.needs if block.index in pieces[other]]
            scores = merge(block.window, found, len(self._legend))
            there = np.ascontiguousarray(observed[own])
            codes[own] = finalise(scores, there, np.ones(there.shape, np.bool_), self._legend).landcover
        return codes[before:, before:]

    def _tiles(
        self, image: FloatArray | DatedPixels, tiles: Sequence[Tile], window: Window, before: int
    ) -> Iterator[Any]:
        score = functools.partial(scored_tiles, self._model, classes=len(self._legend), batch=MicroBatch(1))
        if isinstance(image, DatedPixels):
            dated_ = DatedPixels(
                _placed(image.composite, window, before, np.nan),
                _placed(image.layers, window, before, np.nan),
                _placed(image.numbers, window, before, 0),
            )
            return fused_tiles((dated_.cut(*slices(t.window, window)) for t in tiles), score, self._model.arrays)
        placed = _placed(image, window, before, np.nan)
        return score(np.ascontiguousarray(cut_tile(placed, window, tile)) for tile in tiles)


def _placed(values: Array, window: Window, before: int, nothing: float) -> Array:
    """A window of an image whose first pixel lies at (before, before)."""
    found = np.full((*values.shape[:-2], window.height, window.width), nothing, values.dtype)
    own = Window(before, before, *values.shape[-2:])
    shared = intersection(window, own)
    if shared is not None:
        found[(..., *slices(shared, window))] = values[(..., *slices(shared, own))]
    return found


def changed(one: Codes, other: Codes) -> float:
    """Share of the pixels that both maps have, and that differ."""
    both = (one > 0) & (other > 0)
    return float((one != other)[both].mean()) if both.any() else float("nan")


def robustness(mapper: Mapper, image: FloatArray, quick: bool) -> dict[str, float]:
    """Shares of pixels that change their class."""
    plain = mapper.map(image)
    found = {
        "region": changed(plain, mapper.map(image, region_px=SHIFT_PX)),
        "image": changed(plain, mapper.map(image, moved_px=SHIFT_PX)),
        "darker": changed(plain, mapper.map(image - np.float32(LEVEL))),
    }
    if not quick:
        found["brighter"] = changed(plain, mapper.map(image + np.float32(LEVEL)))
    flips = []
    for axis in (2,) if quick else (1, 2):
        again = mapper.map(np.ascontiguousarray(np.flip(image, axis)))
        flips.append(changed(plain, np.flip(again, axis - 1)))
    return {**found, "flips": max(flips)}


def kept(maps: Sequence[Codes]) -> tuple[float, float]:
    """Share of pixels with one class in all maps; mean share of the maps that have a pixel's most frequent class."""
    stack = np.stack(maps)
    stack = stack[:, (stack > 0).all(axis=0)]
    most = np.max([(stack == code).sum(axis=0) for code in np.unique(stack)], axis=0)
    return float((most == len(stack)).mean()), float(most.mean() / len(stack))


def monthly(model: Classifier, legend: Legend, series: Series) -> dict[str, tuple[int, float, float]]:
    """Method → number of maps, and what :func:`kept` says of them."""
    side = max(series.months[0][1][0].shape[1:])
    mapper = Mapper(
        model, legend, TilingConfig(tile_px=-(-side // 32) * 32, overlap_px=0, block_px=-(-side // 64) * 64)
    )
    single = [list(dates[:MOST_DATES]) for _, dates in series.months]
    triple = [
        [date for month in single[first : first + 3] for date in month][:MOST_DATES]
        for first in range(0, len(single) - 2, 3)
    ]
    found = {}
    for name, groups in (("a month", single), ("three months", triple)):
        medians = [mapper.map(np.stack([nan_median(np.stack(g)[:, b].copy())[0] for b in range(10)])) for g in groups]
        found[f"{name}, median"] = (len(groups), *kept(medians))
        if any(len(group) > 1 for group in groups):
            found[f"{name}, fuse"] = (len(groups), *kept([mapper.map(dated(group)) for group in groups]))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stability", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--real", type=Path, required=True, help="folder of the samples (docs/training-data.md)")
    parser.add_argument("--quick", action="store_true", help="two small scenes, one flip, one level")
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT)
    given = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    legend = Legend.from_yaml()
    model = load_classifier(ModelConfig(checkpoint=given.checkpoint), legend)
    mapper = Mapper(model, legend, TilingConfig())
    document: dict[str, Any] = {"scenes": {}, "months": {}, "bars": BARS}
    print("| scene | " + " | ".join(COLUMNS.values()) + " |\n|---|" + "--:|" * len(COLUMNS))
    for scene in scenes_of(given.real):
        if given.quick and scene.image[0].size > QUICK_PX:
            continue
        found = robustness(mapper, scene.image, given.quick)
        cells = (f"{100 * found[name]:.1f}" if name in found else "" for name in COLUMNS)
        print(f"| {scene.name} | {' | '.join(cells)} |", flush=True)
        document["scenes"][scene.name] = {name: round(value, 4) for name, value in found.items()}
    print("| *bar* | " + " | ".join(f"{100 * BARS[name]:.0f}" for name in COLUMNS) + " |\n")
    print("| place | a map of | maps | one class in all | most frequent class |\n|---|---|--:|--:|--:|")
    for series in series_of(given.real):
        for name, (count, all_, most) in monthly(model, legend, series).items():
            print(f"| {series.name} | {name} | {count} | {100 * all_:.1f} | {100 * most:.1f} |", flush=True)
            document["months"].setdefault(series.name, {})[name] = [count, round(all_, 4), round(most, 4)]
    print(f"| *bar* | | | {100 * BARS['kept']:.0f} | |")
    print(json.dumps(document))
    return 0 if document["scenes"] else 2


if __name__ == "__main__":
    sys.exit(main())
