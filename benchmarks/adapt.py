"""``spex adapt`` on real samples with people's labels: polygons or blocks left out, beside a random forest.

    python -m benchmarks.adapt --real FOLDER [--quick]

Each sample is cut into halves by polygons (or blocks of 24 pixels where labels are points or a map); a head and a
forest learn from the same 50, 200 or all pixels (at most 1,000) of the one half, and answer for the other. Figures are
means over halves and draws. Nothing that is learnt here is released. The last line is one JSON object: for each sample
and number the overall accuracy of both.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from pipeline.adaptation.fitting import Labels, fit_head, rows
from pipeline.adaptation.samples import block_ids
from pipeline.adaptation.validation import Figures, forest_on, forest_table
from pipeline.predict.classifier import fill_invalid
from spex_core import SpexForLandCover
from spex_core.adapting import sampled_sources
from spex_core.bands import BANDS, band_slots
from spex_core.checkpoints import DEFAULT_CHECKPOINT, resolve_checkpoint
from spex_core.legend import Legend
from workflows.labelled import landsat, sentinel2
from workflows.labelled.scene import LabelledScene

SIDE, HALO = 256, 32
PER_PLACE = 40
"""Pixels of one polygon or block and class."""
NUMBERS = (50, 200, 1000)
SAMPLES: dict[str, tuple[Any, str]] = {
    "amazon-landsat8": (landsat.amazon_points, "blocks"),
    "gewata-ethiopia-landsat7": (landsat.ethiopian_forest, "polygons"),
    "aberystwyth-rsgislib": (sentinel2.hand_drawn_groups, "polygons"),
    "zion-south-landsat8": (landsat.desert_mountains, "blocks"),
    "potsdam-enmap-simulated-s2": (sentinel2.folded_town, "blocks"),
    "costarica-landsat5": (landsat.forest_or_not, "polygons"),
}
"""Folder → reader, and what is left out together."""


@dataclass(frozen=True)
class Sample:
    """Labelled pixels of one image, as a frozen model sees them."""

    name: str
    sensor: str
    sources: dict[str, npt.NDArray[np.float32]]
    pixels: npt.NDArray[np.float32]
    labels: Labels
    places: Labels
    """Polygon or block."""
    xy: npt.NDArray[np.float64]
    pixel_m: float


def seen_sample(model: Any, words: Any, scene: LabelledScene, unit: str, empty: int) -> Sample:
    """Looks at some labelled pixels of every place, in windows as a map's tiles are."""
    labelled = (scene.labels != empty) & scene.observed
    numbers, classes = np.unique(scene.labels[labelled], return_inverse=True)
    labels = np.full(scene.labels.shape, -1)
    labels[labelled] = classes
    places = np.zeros(labels.shape, np.int64)
    if unit == "polygons":
        for k in range(len(numbers)):
            found = ndimage.label(labels == k)[0]
            places[found > 0] = found[found > 0] + places.max()
    else:
        row, col = np.indices(labels.shape)
        places = block_ids(np.c_[row.ravel(), col.ravel()].astype(float), 24.0).reshape(labels.shape)
    rng = np.random.default_rng(0)
    at = rng.permutation(np.argwhere(labelled))
    order = np.lexsort((labels[tuple(at.T)], places[tuple(at.T)]))
    at = at[order]
    keys = places[tuple(at.T)] * 100 + labels[tuple(at.T)]
    start = np.r_[0, np.flatnonzero(np.diff(keys)) + 1]
    rank = np.arange(len(at)) - np.repeat(start, np.diff(np.r_[start, len(at)]))
    at = at[rank < PER_PLACE]
    stride = SIDE - 2 * HALO
    parts: list[dict[str, Any]] = []
    positions: list[npt.NDArray[np.int64]] = []
    cells = at // stride
    for cell in np.unique(cells, axis=0):
        own = at[(cells == cell).all(axis=1)]
        top, left = cell * stride - HALO
        tile = np.full((len(scene.bands), SIDE, SIDE), np.nan, np.float32)
        rows_, cols_ = (
            np.clip(np.arange(o, o + SIDE), 0, n - 1) for o, n in zip((top, left), labels.shape, strict=True)
        )
        inside = np.ix_(np.isin(np.arange(top, top + SIDE), rows_), np.isin(np.arange(left, left + SIDE), cols_))
        part = scene.reflectance[:, max(top, 0) : top + SIDE, max(left, 0) : left + SIDE]
        tile[:, inside[0], inside[1]] = part
        filled = fill_invalid(tile)
        if filled is None:
            continue
        batch = torch.from_numpy(np.ascontiguousarray(filled[None]))
        bands = None if scene.bands == BANDS else scene.bands
        found_ = sampled_sources(model, batch, own[:, 0] - top, own[:, 1] - left, words, bands, scene.pixel_m)
        parts.append({name: table.numpy() for name, table in found_.items()})
        positions.append(own)
    at = np.concatenate(positions)
    pixels = np.full((len(at), 10), np.nan, np.float32)
    pixels[:, list(band_slots(scene.bands)[0])] = scene.reflectance[:, at[:, 0], at[:, 1]].T
    return Sample(
        scene.place,
        scene.sensor,
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        pixels,
        labels[tuple(at.T)].astype(np.int64),
        places[tuple(at.T)],
        at[:, ::-1] * scene.pixel_m,
        scene.pixel_m,
    )


def compared(sample: Sample, number: int, draws: int) -> Iterator[tuple[int, Figures, Figures]]:
    """Learnt pixels, then figures of head and forest, for each half and draw."""
    classes = int(sample.labels.max()) + 1
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        half = np.full(len(sample.labels), -1)
        for k in range(classes):  # places of each class in turn, so that no class is in one half alone
            own = rng.permutation(np.unique(sample.places[(sample.labels == k) & (half < 0)]))
            for side in (0, 1):
                half[np.isin(sample.places, own[side::2])] = side
        for left_out in (0, 1):
            test, train = np.flatnonzero(half == left_out), np.flatnonzero(half != left_out)
            each = max(2, number // len(np.unique(sample.labels[train])))
            chosen = [rng.permutation(train[sample.labels[train] == k])[:each] for k in range(classes)]
            train = np.sort(np.concatenate(chosen))
            labels = sample.labels[train]
            test = test[np.isin(sample.labels[test], np.unique(labels))]
            if not len(test) or len(np.unique(labels)) < 2:
                continue
            head, _ = fit_head(
                rows(sample.sources, train), labels, classes, sample.places[train], sample.xy[train], 0.0
            )
            answered = head.logits(rows(sample.sources, test)).argmax(axis=1)
            forest = forest_on(sample.pixels[train], labels).predict(forest_table(sample.pixels[test]))
            known = sample.labels[test]
            yield len(train), Figures.of(answered, known, classes), Figures.of(forest, known, classes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapt", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--real", type=Path, required=True, help="folder of the samples")
    parser.add_argument("--quick", action="store_true", help="fewer draws, no more than 200 pixels")
    parser.add_argument("--only", nargs="*", default=list(SAMPLES), help="folders of some samples")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model: Any = SpexForLandCover.from_pretrained(resolve_checkpoint(DEFAULT_CHECKPOINT))
    words = model.class_word_prompts(Legend.from_yaml()).clone()
    print("| sample | sensor | left out | pixels learnt | head | forest | head, recall | forest, recall | s |")
    print("|---|---|---|--:|--:|--:|--:|--:|--:|")
    document: dict[str, Any] = {}
    for folder, (read, unit) in SAMPLES.items():
        if folder not in given.only or not (given.real / folder).is_dir():
            continue
        scene = next(s for s in read(given.real / folder) if s.meanings)
        sample = seen_sample(model, words, scene, unit, landsat.NO_POINT if read is landsat.amazon_points else 0)
        for number in NUMBERS[: 2 if given.quick else 3]:
            begun = time.monotonic()
            found = list(compared(sample, number, 1 if given.quick else 3))
            learnt = round(float(np.mean([count for count, _, _ in found])))
            figures = [
                float(np.mean([getattr(row[which], name) for row in found]))
                for name in ("overall", "mean_recall")
                for which in (1, 2)
            ]
            cells = " | ".join(f"{value:.3f}" for value in figures)
            print(
                f"| {sample.name} | {sample.sensor} | {unit} | {learnt} | {cells} | {time.monotonic() - begun:.0f} |",
                flush=True,
            )
            document.setdefault(folder, {})[str(number)] = {"head": figures[0], "forest": figures[1]}
    print(json.dumps(document))
    return 0 if document else 2


if __name__ == "__main__":
    sys.exit(main())
