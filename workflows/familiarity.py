"""What a checkpoint was trained on, as a statistic beside its weights: ``python -m workflows.familiarity``.

    python -m workflows.familiarity [--checkpoint NAME] [--labelled FOLDER] [--chips 200] [--write]

Ground of simulated training chips and, with ``--labelled``, of the training side of the public samples (see
docs/training-data.md) is fitted, those with all ten bands. Printed is the share that is unlike anything known: of the
held-out worlds, of input that no land looks like or that nobody trained on, and of each sample.

``--write`` puts ``familiarity.npz`` into the checkpoint's folder, tied to its weights: repeat it after every training.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import BadInputError
from pipeline.mapstore.unfamiliar_cells import cell_means, cell_scores
from pipeline.simulation.chips import simulate_chip
from pipeline.simulation.held_out import FIRST_TRAINING_SEED, HELD_OUT_WORLDS
from spex_core.augmentation import BOA_TO_TOA
from spex_core.bands import BANDS, band_slots
from spex_core.checkpoints import DEFAULT_CHECKPOINT, resolve_checkpoint
from spex_core.errors import CheckpointError
from spex_core.familiarity import UNKNOWN, UNLIKE, Familiarity, fit_familiarity, weights_fingerprint
from workflows.labelled.by_eye import labelled_by_eye
from workflows.labelled.registry import Split, labelled_scenes, labelled_spectra
from workflows.labelled.scene import LabelledScene

FloatArray = npt.NDArray[np.float32]

CHIP_PX = 128
PIXELS_PER_CHIP, PIXELS_PER_IMAGE, PIXELS_PER_DATE, PIXELS_PER_TABLE = 100, 700, 150, 1500
"""Each image counts alike, whatever its size; a date of thirteen of one place counts less."""
HELD_OUT_CHIPS = 3
"""Of each world."""
MADE = {
    "dry salt": (0.52, 0.58, 0.62, 0.63, 0.64, 0.65, 0.66, 0.66, 0.52, 0.36),
    "wet salt": (0.40, 0.46, 0.48, 0.47, 0.45, 0.44, 0.42, 0.42, 0.14, 0.07),
    "white limestone": (0.42, 0.48, 0.53, 0.55, 0.57, 0.58, 0.59, 0.60, 0.64, 0.55),
    "red sand": (0.05, 0.08, 0.22, 0.27, 0.30, 0.31, 0.31, 0.32, 0.45, 0.40),
    "dark lava": (0.06, 0.065, 0.07, 0.072, 0.074, 0.076, 0.078, 0.08, 0.10, 0.10),
    "burnt land": (0.035, 0.04, 0.045, 0.05, 0.055, 0.06, 0.065, 0.07, 0.16, 0.17),
    "thick cloud": (0.55, 0.55, 0.55, 0.56, 0.57, 0.58, 0.58, 0.58, 0.42, 0.35),
}
"""Typical spectra of such ground, written by hand and not measured; brightness varies by 15 %, each band by 3 %."""


def training_spectra(chips: int, labelled: Path | None) -> FloatArray:
    """Spectra of what a checkpoint is trained on: float32 ``[10, n]``.

    Raises:
        ChipError: A sample cannot be read.
    """
    rng = np.random.default_rng(0)
    found = [_some(simulate_chip(FIRST_TRAINING_SEED + i, CHIP_PX)[0], rng, PIXELS_PER_CHIP) for i in range(chips)]
    if labelled is None:
        return np.concatenate(found, axis=1)
    split = Split.from_yaml()
    dates: dict[str, int] = {}
    scenes = [s for s in scenes_of(labelled, split) if split.side(s.place) == "train"]
    for scene in scenes:
        dates[scene.place] = dates.get(scene.place, 0) + 1
    for scene in scenes:
        image = in_order(scene.slots, scene.reflectance)
        count = PIXELS_PER_IMAGE if dates[scene.place] < 5 else PIXELS_PER_DATE
        found.append(_some(image, rng, count, fine=scene.pixel_m <= FINE_M))
    for table in labelled_spectra(labelled, split, "train"):
        if len(table.bands) == 10:
            slots = band_slots(table.bands)[0]
            found.append(_some(in_order(slots, table.reflectance.T), rng, PIXELS_PER_TABLE, fine=False))
    return np.concatenate(found, axis=1)


FINE_M = 10.0
"""Pixels of this size or less are scored as means of two by two, as maps are."""


def scenes_of(labelled: Path, split: Split) -> Iterator[LabelledScene]:
    """Images of the samples that have all ten bands."""
    for scene in itertools.chain(labelled_scenes(labelled, split), labelled_by_eye(labelled, split)):
        if len(scene.bands) == 10:
            yield scene


def in_order(slots: tuple[int, ...], reflectance: FloatArray) -> FloatArray:
    """Bands in the order of the channels."""
    image = np.empty_like(reflectance)
    image[list(slots)] = reflectance
    return image


def _some(image: FloatArray, rng: np.random.Generator, count: int, *, fine: bool = True) -> FloatArray:
    pixels = (cell_means(image) if fine else image).reshape(10, -1)
    pixels = pixels[:, np.isfinite(pixels).all(axis=0)]
    chosen = rng.choice(pixels.shape[1], min(count, pixels.shape[1]), replace=False)
    return pixels[:, np.sort(chosen)]


def held_out() -> dict[str, FloatArray]:
    """Ground of the held-out worlds, float32 ``[10, n]`` each."""
    return {
        world.name: np.concatenate(
            [cell_means(world.chip(500 + i, CHIP_PX)[0]).reshape(10, -1) for i in range(HELD_OUT_CHIPS)], axis=1
        )
        for world in HELD_OUT_WORLDS
    }


def strangers(land: FloatArray) -> Iterator[tuple[str, FloatArray]]:
    """What a map should not be believed about, much of it made from known land: float32 ``[10, n]``."""
    rng = np.random.default_rng(1)
    column = np.array([band.wavelength_nm / 492.4 for band in BANDS])[:, None]
    cloud = np.array(MADE["thick cloud"])[:, None]
    slope, offset = (np.array([BOA_TO_TOA[band.name][i] for band in BANDS])[:, None] for i in (0, 1))
    yield "every pixel at random", rng.uniform(0, 0.8, land.shape).astype(np.float32)
    kinds = {
        "bands in another order": land[rng.permutation(10)],
        "inverted": 0.6 - np.clip(land, 0, 0.6),
        "ten times as bright": 10 * land,
        "two and a half times as bright": 2.5 * land,
        "two and a half times as dark": land / 2.5,
        "ten times as dark": land / 10,
        "offset of 0.1 left in": land + 0.1,
        "offset of 0.1 taken off twice": np.maximum(land - 0.1, 0),
        "top of atmosphere, not surface": slope * land + offset,
        "haze, a tenth": 0.9 * land + 0.045 * column**-1.3,
        "haze, a fifth": 0.8 * land + 0.09 * column**-1.3,
        "haze, two fifths": 0.6 * land + 0.18 * column**-1.3,
        "under a third of cloud": 0.7 * land + 0.3 * cloud,
        "under two thirds of cloud": 0.4 * land + 0.6 * cloud,
        "shadow, a third of the light": 0.3 * land * column**-0.15,
        "deep shadow, a tenth of the light": 0.1 * land * column**-0.3,
    }
    for name, pixels in kinds.items():
        yield name, pixels.astype(np.float32)
    for name, spectrum in MADE.items():
        light, noise = rng.normal(0, 0.15, (1, 4000)), rng.normal(0, 0.03, (10, 4000))
        yield name, (np.array(spectrum)[:, None] * np.exp(light + noise)).astype(np.float32)


def measured(statistic: Familiarity, labelled: Path | None) -> dict[str, float]:
    """Shares that are unlike anything known, printed and returned."""
    worlds = held_out()
    every = np.concatenate(list(worlds.values()), axis=1)
    table = {"held-out worlds": unlike(statistic.scores(every))}
    table |= {f"world {name}": unlike(statistic.scores(pixels)) for name, pixels in worlds.items()}
    table |= {name: unlike(statistic.scores(pixels)) for name, pixels in strangers(every[:, ::10])}
    if labelled is not None:
        split = Split.from_yaml()
        places: dict[str, list[npt.NDArray[np.uint8]]] = {}
        for scene in scenes_of(labelled, split):
            image = in_order(scene.slots, scene.reflectance)
            scores = cell_scores(statistic, image) if scene.pixel_m <= FINE_M else statistic.scores(image)
            when = f" {scene.date}" if scene.place.startswith("lahinch") else ""
            places.setdefault(f"{scene.place}{when} ({split.side(scene.place)})", []).append(scores.ravel())
        for spectra in labelled_spectra(labelled, split):
            if len(spectra.bands) == 10:
                image = in_order(band_slots(spectra.bands)[0], spectra.reflectance.T)
                places.setdefault(f"{spectra.place} ({split.side(spectra.place)})", []).append(statistic.scores(image))
        table |= {place: unlike(np.concatenate(scores)) for place, scores in sorted(places.items())}
    for name, share in table.items():
        print(f"{name:60s} {share:6.1%}")
    return table


def unlike(scores: npt.NDArray[np.uint8]) -> float:
    """Share of the measured pixels that are unlike anything known."""
    known = scores[scores != UNKNOWN]
    return float((known >= UNLIKE).mean()) if known.size else 0.0


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code (2 for bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m workflows.familiarity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT)
    parser.add_argument("--labelled", type=Path, help="folder of public samples")
    parser.add_argument("--chips", type=int, default=200, help="simulated training chips")
    parser.add_argument("--write", action="store_true", help="put the statistic beside the weights")
    options = parser.parse_args(arguments)
    try:
        folder = resolve_checkpoint(options.checkpoint)
        weights = weights_fingerprint(folder)
        statistic = fit_familiarity(training_spectra(options.chips, options.labelled), weights)
        tables = measured(statistic, options.labelled)
        if options.write:
            print(f"written: {statistic.write(folder)}")
    except (BadInputError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    image = np.random.default_rng(0).uniform(0, 0.4, (10, 1024, 1024)).astype(np.float32)
    begun = time.process_time()
    cell_scores(statistic, image)
    print(json.dumps({"cpu_s_per_mpx": round((time.process_time() - begun) / 1.048576, 3), "unlike": tables}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
