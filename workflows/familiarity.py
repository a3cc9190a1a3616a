"""What a checkpoint was trained on, as a statistic beside its weights: ``python -m workflows.familiarity``.

    python -m workflows.familiarity [--checkpoint NAME] [--labelled FOLDER] [--chips 300] [--write]

Pixels of simulated training chips and, with ``--labelled``, of the training side of the public samples (see
docs/training-data.md) are fitted; nonsense is told from the held-out worlds, and the share of each sample that is
unlike anything known is listed. ``--write`` puts ``familiarity.npz`` into the checkpoint's folder, tied to its weights:
repeat it after every training. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.errors import BadInputError
from pipeline.simulation.chips import simulate_chip
from pipeline.simulation.held_out import FIRST_TRAINING_SEED, HELD_OUT_WORLDS
from spex_core.checkpoints import DEFAULT_CHECKPOINT, resolve_checkpoint
from spex_core.errors import CheckpointError
from spex_core.familiarity import UNKNOWN, UNLIKE, Familiarity, fit_familiarity, weights_fingerprint
from workflows.labelled.registry import Split, labelled_scenes

FloatArray = npt.NDArray[np.float32]

CHIP_PX = 128
PIXELS_PER_IMAGE = 300
"""Each image counts alike, whatever its size."""
HELD_OUT_CHIPS = 3
"""Of each world."""


def training_spectra(chips: int, labelled: Path | None) -> FloatArray:
    """Spectra of what a checkpoint is trained on: float32 ``[10, n]``.

    Raises:
        ChipError: A sample cannot be read.
    """
    rng = np.random.default_rng(0)
    found = [_some(simulate_chip(FIRST_TRAINING_SEED + i, CHIP_PX)[0], rng) for i in range(chips)]
    if labelled is not None:
        for scene in labelled_scenes(labelled, Split.from_yaml(), "train"):
            if len(scene.bands) == 10:
                found.append(_some(in_order(scene.slots, scene.reflectance), rng))
    return np.concatenate(found, axis=1)


def in_order(slots: tuple[int, ...], reflectance: FloatArray) -> FloatArray:
    """Bands in the order of the channels."""
    image = np.empty_like(reflectance)
    image[list(slots)] = reflectance
    return image


def _some(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    pixels = image.reshape(10, -1)
    pixels = pixels[:, np.isfinite(pixels).all(axis=0)]
    chosen = rng.choice(pixels.shape[1], min(PIXELS_PER_IMAGE, pixels.shape[1]), replace=False)
    return pixels[:, np.sort(chosen)]


def held_out() -> list[FloatArray]:
    """Chips of the held-out worlds."""
    return [world.chip(500 + i, CHIP_PX)[0] for world in HELD_OUT_WORLDS for i in range(HELD_OUT_CHIPS)]


def nonsense(chips: list[FloatArray]) -> Iterator[tuple[str, FloatArray]]:
    """Kinds of images that no land looks like, each from the same chips where it starts from one."""
    rng = np.random.default_rng(1)
    kinds: dict[str, Callable[[FloatArray], FloatArray]] = {
        "every pixel at random": lambda chip: rng.uniform(0, 0.8, chip.shape),
        "smooth fields at random": lambda chip: np.clip(
            0.25 + 16 * ndimage.gaussian_filter(rng.normal(0, 0.15, chip.shape), (0, 8, 8)), 0, 1.2
        ),
        "bands in another order": lambda chip: chip[rng.permutation(10)],
        "inverted": lambda chip: 0.6 - np.clip(chip, 0, 0.6),
        "two and a half times as bright": lambda chip: np.clip(2.5 * chip, 0, 1.5),
    }
    for name, make in kinds.items():
        for chip in chips[::HELD_OUT_CHIPS]:
            yield name, make(chip).astype(np.float32)


def auroc(familiar: npt.NDArray[np.float32], strange: npt.NDArray[np.float32]) -> float:
    """Chance that a strange pixel is farther than a familiar one."""
    below = np.searchsorted(np.sort(familiar), strange, side="left")
    return float(below.mean() / len(familiar))


def measured(statistic: Familiarity, labelled: Path | None) -> dict[str, dict[str, float]]:
    """Tables of nonsense and of samples, printed and returned."""
    chips = held_out()
    familiar = np.concatenate([statistic.distances(chip.reshape(10, -1)) for chip in chips])
    strange: dict[str, list[FloatArray]] = {}
    for name, image in nonsense(chips):
        strange.setdefault(name, []).append(image)
    tables: dict[str, dict[str, float]] = {"auroc": {}, "unlike": {"held-out worlds": unlike(statistic, chips)}}
    print(f"{'':40s}  AUROC  unlike anything known")
    print(f"{'held-out worlds':40s}         {tables['unlike']['held-out worlds']:6.1%}")
    for name, images in strange.items():
        distances = np.concatenate([statistic.distances(image.reshape(10, -1)) for image in images])
        tables["auroc"][name], tables["unlike"][name] = auroc(familiar, distances), unlike(statistic, images)
        print(f"{name:40s}  {tables['auroc'][name]:.3f}  {tables['unlike'][name]:6.1%}")
    if labelled is not None:
        split = Split.from_yaml()
        places: dict[str, list[FloatArray]] = {}
        for scene in labelled_scenes(labelled, split):
            if len(scene.bands) == 10:
                place = f"{scene.place} ({split.side(scene.place)})"
                places.setdefault(place, []).append(in_order(scene.slots, scene.reflectance))
        for place, images in sorted(places.items()):
            tables["unlike"][place] = unlike(statistic, images)
            print(f"{place:40s}         {tables['unlike'][place]:6.1%}")
    return tables


def unlike(statistic: Familiarity, images: list[FloatArray]) -> float:
    """Share of the measured pixels that are unlike anything known."""
    scores = np.concatenate([statistic.scores(image).ravel() for image in images])
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
    parser.add_argument("--chips", type=int, default=300, help="simulated training chips")
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
    image = np.full((10, 1024, 1024), 0.2, np.float32)
    begun = time.process_time()
    statistic.scores(image)
    print(json.dumps({"cpu_s_per_mpx": round((time.process_time() - begun) / 1.048576, 3), **tables}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
