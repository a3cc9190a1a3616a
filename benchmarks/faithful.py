"""Whether explanations of points are faithful: deleting what they name lowers the odds more than chance does.

    python -m benchmarks.faithful DIR [--pixels 200] [--seed 0]

DIR is the output folder of a run whose store was kept, such as that of ``spex demo``. Random pixels of its map are
explained; for each, as many values as the explanation names are deleted at random from the same surroundings, and, a
harder test, patches of the same shape and as many bands at random places. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.explain import attribution as parts
from pipeline.explain.kept_run import KeptRun, MappedPixel, open_kept_run
from pipeline.explain.point import ASKED_PX, asked_start
from pipeline.explain.recomputed import model_of
from pipeline.imagery.composite import read_composite
from pipeline.predict.classifier import Classifier, fill_invalid
from pipeline.records.plan import Tile
from spex_core.bands import BAND_INDEX

PATCH_DRAWS = 5


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pixels", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="20 pixels")
    options = parser.parse_args()
    run = open_kept_run(options.folder)
    rows = measure(run, 20 if options.quick else options.pixels, options.seed)
    print(table(rows))
    print(json.dumps(summary(rows)))


def measure(run: KeptRun, count: int, seed: int) -> list[dict[str, Any]]:
    """One row for each pixel."""
    model = model_of(run.config, run.legend)
    rng = np.random.default_rng(seed)
    rows = []
    for tile, pixels in _by_tile(run, count, rng):
        zone = pixels[0].zone
        composite = read_composite(run.scenes(zone), zone.grid, tile.window, run.config.composite, run.door)
        image = fill_invalid(composite.reflectance)
        if image is None:
            continue
        for pixel in pixels:
            if (row := _one(run, image, tile, pixel, model, rng)) is not None:
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def _by_tile(run: KeptRun, count: int, rng: np.random.Generator) -> list[tuple[Tile, list[MappedPixel]]]:
    """Random mapped pixels, by the tile whose middle is nearest: each tile is read once."""
    found: dict[tuple[int, int], tuple[Tile, list[MappedPixel]]] = {}
    for zone in run.plan.zones[:1]:
        codes = run.store.zone(zone.grid.epsg).read("landcover")
        tiles = [tile for block in zone.blocks for tile in block.tiles]
        middles = np.array([[t.window.row + t.window.height / 2, t.window.col + t.window.width / 2] for t in tiles])
        rows, columns = np.nonzero(codes)
        for i in rng.choice(len(rows), count, replace=False):
            row, col = int(rows[i]), int(columns[i])
            block = next(
                b
                for b in zone.blocks
                if 0 <= row - b.window.row < b.window.height and 0 <= col - b.window.col < b.window.width
            )
            tile = tiles[int(np.abs(middles - [row, col]).max(axis=1).argmin())]
            pixel = MappedPixel(math.nan, math.nan, zone, block, row, col, int(codes[row, col]))
            found.setdefault((zone.grid.epsg, tile.index), (tile, []))[1].append(pixel)
    return [*found.values()]


def _one(
    run: KeptRun, image: np.ndarray, tile: Tile, pixel: MappedPixel, model: Classifier, rng: np.random.Generator
) -> dict[str, Any] | None:
    own = run.legend.codes.index(pixel.code)
    at = (pixel.row - tile.window.row, pixel.col - tile.window.col)
    side = min(ASKED_PX, tile.window.height)
    start = [asked_start(place, side, tile.window.height) for place in at]
    rows, columns = (slice(first, first + side) for first in start)
    piece = np.ascontiguousarray(image[:, rows, columns])
    inside = (at[0] - start[0], at[1] - start[1])

    def scorer(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(model.scores(pixels[None])[0])

    if int(scorer(piece)[(slice(None), *inside)].argmax()) != own:
        return None  # explained on the whole tile instead: too slow for a table
    found = parts.attribute(piece, inside, own, scorer)
    means = piece.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
    patched = [
        parts.odds_of(float(scorer(_patches(piece, means, found, inside, rng))[(own, *inside)]))
        for _ in range(PATCH_DRAWS if found.named else 0)
    ]
    return {
        "class": run.legend.classes[own].name,
        "named": len(found.named),
        "odds": found.odds,
        "without_named": found.without_named,
        "random": math.exp(float(np.mean(np.log(found.without_random)))) if found.named else math.nan,
        "patches": math.exp(float(np.mean(np.log(patched)))) if found.named else math.nan,
        "faithful": found.faithful,
        "beats_patches": bool(found.named) and math.log(found.without_named) < float(np.mean(np.log(patched))),
    }


def _patches(
    piece: np.ndarray, means: np.ndarray, found: parts.Attribution, at: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """The image without the named parts' shapes at other places, each with as many bands at random."""
    image, places = piece.copy(), parts.places_around(at, piece.shape[1:])
    reach = parts.AROUND_PX
    for effect in found.named:
        pixels = places[effect.part.place]
        count = len(parts.BAND_GROUPS[effect.part.bands])
        bands = rng.choice(len(BAND_INDEX), count, replace=False)
        centre = np.argwhere(pixels).mean(axis=0)
        aim = np.array(at) + rng.integers(-reach, reach + 1, 2)
        moved = np.roll(pixels, tuple(int(v) for v in np.rint(aim - centre)), axis=(0, 1))
        for band in bands:
            image[band][moved] = means[band]
    return image


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Headline numbers."""
    return {
        "pixels": len(rows),
        "faithful": round(float(np.mean([row["faithful"] for row in rows])), 4),
        "beats_patches": round(float(np.mean([row["beats_patches"] for row in rows])), 4),
        "named_nothing": round(float(np.mean([row["named"] == 0 for row in rows])), 4),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """One line for each class: how often, and the median odds."""
    head = "class | pixels | beats values at random | beats patches at random | odds | without what is named"
    lines = [f"| {head} | values at random | patches at random |", "|---" + "|--:" * 7 + "|"]
    for name in (*sorted({row["class"] for row in rows}), "all"):
        chosen = [row for row in rows if name in (row["class"], "all")]

        def middle(key: str, chosen: list[dict[str, Any]] = chosen) -> str:
            return f"{float(np.nanmedian([row[key] for row in chosen])):.3g}"

        shares = [f"{float(np.mean([row[key] for row in chosen])):.0%}" for key in ("faithful", "beats_patches")]
        values = [middle(key) for key in ("odds", "without_named", "random", "patches")]
        lines.append(f"| {name} | {len(chosen)} | {' | '.join([*shares, *values])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
