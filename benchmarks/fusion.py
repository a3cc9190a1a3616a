"""One map of several dates: their median classified once, or every date classified and the scores joined.

    python -m benchmarks.fusion [--quick] [--labelled FOLDER] [--checkpoint NAME]

Simulated places of the held-out worlds are seen on six cloudy dates five days apart. ``agreement`` is the share of
pixels that have one class in two maps of three dates each that have no date in common. With ``--labelled`` the same of
public samples that have many dates of one place (see docs/training-data.md). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.imagery.cloud_mask import clear_mask
from pipeline.imagery.composite import nan_median
from pipeline.predict.classifier import Classifier, fill_invalid, load_classifier
from pipeline.predict.fusion import look, looks
from pipeline.predict.stitch import LEAST_SCORE
from pipeline.records.dated_pixels import DatedPixels
from pipeline.settings.run_file import CompositeConfig, ModelConfig
from pipeline.simulation.clouds import Clouds
from pipeline.simulation.held_out import HELD_OUT_WORLDS, HeldOutWorld
from pipeline.simulation.scene import OFFSET_DN, QUANTIFICATION, Acquisition, Frame, World, acquire
from pipeline.simulation.sensor import PAD_PX, upsample_20m
from spex_core.checkpoints import DEFAULT_CHECKPOINT
from spex_core.legend import Legend

SIDE_PX, MARGIN_PX = 256, 4
DATES, GROUP = 6, 3
BINS = 15
COLUMNS = ("accuracy", "miou", "calibration_error", "agreement")
SAMPLES = ("belgium-lpis-chips", "belgium-worldcereal-timeseries")
Array = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Place:
    """Several dates of one place."""

    name: str
    dates: tuple[Array, ...]
    """float32 ``[10, h, w]`` each, NaN where cloudy."""
    truth: Codes
    """WorldCover codes, 0: not known."""


def simulated(world: HeldOutWorld, number: int) -> Place:
    """A held-out world on cloudy dates."""
    land = World(world.first_seed + 900 + number, world.biome)
    side = SIDE_PX + 2 * MARGIN_PX
    frame = Frame(land.epsg, 500_000 + 40_000 * number, 5_200_000, side, side)
    cover = land.cover(frame, PAD_PX)
    inner = slice(MARGIN_PX, -MARGIN_PX)
    rng = np.random.default_rng([world.first_seed, number])
    dates = []
    for visit in range(DATES):
        day = dt.datetime(2026, 1, 5, 10, tzinfo=dt.UTC) + dt.timedelta(days=365.25 * world.season + 5 * visit)
        clouds = Clouds(int(rng.integers(1000)), float(rng.uniform(-1.3, -0.4)), 2200.0, cirrus=rng.uniform(-3, -1.5))
        taken = Acquisition(day, clouds, rng.uniform(140, 170), rng.uniform(35, 60), world.haze + rng.uniform(0, 0.01))
        seen = acquire(land, taken, frame, cover, OFFSET_DN)
        bands = [
            image[inner, inner] if image.shape[0] == side else upsample_20m(image.astype(np.float32))
            for image in seen.bands.values()
        ]
        reflectance = (np.stack(bands).astype(np.float32) - OFFSET_DN) / QUANTIFICATION
        scl = np.repeat(np.repeat(seen.scl, 2, axis=0), 2, axis=1)[MARGIN_PX - 2 : 2 - MARGIN_PX, 2:-2]
        reflectance[:, ~clear_mask(scl, CompositeConfig().mask_scl, 2)] = np.nan
        dates.append(reflectance.astype(np.float32))
    return Place(world.name, tuple(dates), land.classes(frame)[inner, inner])


def labelled(root: Path) -> Iterator[Place]:
    """Public samples of many dates."""
    from workflows.labelled.registry import IMAGES

    for sample in IMAGES:
        if sample.folder not in SAMPLES:
            continue
        scenes: dict[str, list[tuple[str, Array, Codes]]] = {}
        for scene in sample.read(root / sample.folder):
            sides = tuple(size // 32 * 32 for size in scene.labels.shape)
            image = np.full((10, *sides), np.nan, np.float32)
            image[list(scene.slots)] = scene.reflectance[:, : sides[0], : sides[1]]
            codes = scene.codes[: sides[0], : sides[1]]
            scenes.setdefault(scene.place, []).append((scene.date or scene.name, image, codes.astype(np.uint8)))
        for place, found in scenes.items():
            found.sort(key=lambda entry: entry[0])
            yield Place(place, tuple(image for _, image, _ in found), found[0][2])


def dated(dates: Sequence[Array]) -> DatedPixels:
    """Dates as the reader packs them, each in a layer of its own."""
    layers = np.stack(dates)
    read = ~np.isnan(layers).all(axis=(0, 2, 3))
    own = np.isfinite(layers[:, read]).all(axis=1)
    numbers = (own * np.arange(1, len(dates) + 1)[:, None, None]).astype(np.uint16)
    composite = np.stack([nan_median(layers[:, band].copy())[0] for band in range(10)])
    return DatedPixels(composite, layers, numbers)


def geometric(floor: float) -> Callable[[Array, npt.NDArray[np.bool_]], Array]:
    """Pooling by the mean of log scores, none of them below a floor."""

    def pool(scores: Array, own: npt.NDArray[np.bool_]) -> Array:
        logs = np.log(np.maximum(scores, floor)) * own[:, None]
        mean = np.exp(logs.sum(axis=0) / np.maximum(own.sum(axis=0), 1))
        return np.asarray(mean / mean.sum(axis=0), np.float32)

    return pool


def arithmetic(scores: Array, own: npt.NDArray[np.bool_]) -> Array:
    """Pooling by the mean of scores."""
    mean = (scores * own[:, None]).sum(axis=0) / np.maximum(own.sum(axis=0), 1)
    return np.asarray(mean / np.maximum(mean.sum(axis=0), 1e-9), np.float32)


def summed(scores: Array, own: npt.NDArray[np.bool_]) -> Array:
    """Pooling as if dates were independent: the sum of log scores."""
    logs = (np.log(np.maximum(scores, 1e-4)) * own[:, None]).sum(axis=0)
    odds = np.exp(logs - logs.max(axis=0))
    return np.asarray(odds / odds.sum(axis=0), np.float32)


POOLS = {
    "fuse: mean of log scores, floor 1e-2": geometric(1e-2),
    "fuse: mean of log scores, floor 1e-3": geometric(1e-3),
    "fuse: mean of log scores, floor 1e-4": geometric(1e-4),
    "fuse: mean of scores": arithmetic,
    "fuse: sum of log scores": summed,
}


def maps_of(model: Classifier, dates: Sequence[Array]) -> tuple[dict[str, Array], int]:
    """Scores of one group of dates by every method, NaN where nothing was observed; passes of the model of fusing."""
    pixels = dated(dates)
    observed = ~np.isnan(pixels.composite).all(axis=0)

    def ask(image: Array) -> Array:
        filled = fill_invalid(image)
        shape = (len(Legend.from_yaml()), *image.shape[1:])
        return np.zeros(shape, np.float32) if filled is None else model.scores(filled[None])[0]

    found = {"median": ask(pixels.composite)}
    images = [look(pixels, number) for number in looks(pixels)]
    scores, own = np.stack([ask(image) for image, _ in images]), np.stack([mask for _, mask in images])
    for name, pool in POOLS.items():
        found[name] = pool(scores, own)
    bare = np.stack([ask(np.where(mask, image, np.float32(np.nan))) for image, mask in images])
    found["fuse, holes filled by band means"] = geometric(LEAST_SCORE)(bare, own)
    first = int(np.argmax(own.reshape(len(own), -1).sum(axis=1)))
    found["clearest date alone"] = np.where(own[first], scores[first], np.float32(np.nan))
    for values in found.values():
        values[:, ~observed] = np.nan
    return found, len(images)


@dataclass
class Tally:
    """Sums over places of one method."""

    right: int = 0
    labelled: int = 0
    same: int = 0
    compared: int = 0
    bins: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, BINS)))
    """Pixels, those that are right, and confidences, by confidence."""
    crossed: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((101, 101), np.int64))

    def add(self, scores: Array, truth: Codes, codes: Codes) -> None:
        """A map against its truth."""
        known = np.isfinite(scores[0]) & (truth > 0)
        said, confidence = codes[scores[:, known].argmax(axis=0)], scores[:, known].max(axis=0)
        hits = said == truth[known]
        self.right += int(hits.sum())
        self.labelled += int(known.sum())
        place = np.minimum((confidence * BINS).astype(int), BINS - 1)
        for row, values in enumerate((np.ones(len(hits)), hits, confidence)):
            self.bins[row] += np.bincount(place, values, BINS)
        np.add.at(self.crossed, (truth[known], said), 1)

    def compare(self, one: Array, other: Array) -> None:
        """Two maps of one place."""
        both = np.isfinite(one[0]) & np.isfinite(other[0])
        self.same += int((one[:, both].argmax(axis=0) == other[:, both].argmax(axis=0)).sum())
        self.compared += int(both.sum())

    def figures(self) -> dict[str, float]:
        """Agreement, and where there are labels accuracy, mIoU and calibration error."""
        agreement = {"agreement": self.same / max(self.compared, 1)}
        if not self.labelled:
            return agreement
        hit = np.diag(self.crossed)
        union = self.crossed.sum(axis=0) + self.crossed.sum(axis=1) - hit
        there = self.crossed.sum(axis=1) > 0
        pixels, right, confidence = self.bins
        return {
            "accuracy": self.right / self.labelled,
            "miou": float((hit[there] / union[there]).mean()),
            "calibration_error": float(np.abs(right - confidence).sum() / pixels.sum()),
            **agreement,
        }


def measure(model: Classifier, places: Sequence[Place]) -> tuple[dict[str, dict[str, float]], float]:
    """Figures of every method, and passes of the model per map of fusing."""
    codes = np.array(Legend.from_yaml().codes, np.uint8)
    tallies: dict[str, Tally] = {}
    passes, maps = 0, 0
    for place in places:
        groups = [place.dates[first::2][:GROUP] for first in (0, 1)]
        if len(place.dates) > DATES:
            starts = range(0, len(place.dates) - GROUP + 1, GROUP)
            groups = [place.dates[start : start + GROUP] for start in starts]
        before: dict[str, Array] | None = None
        for group in groups:
            found, asked = maps_of(model, group)
            passes, maps = passes + asked, maps + 1
            for name, scores in found.items():
                tally = tallies.setdefault(name, Tally())
                tally.add(scores, place.truth, codes)
                if before is not None:
                    tally.compare(before[name], scores)
            before = found
    return {name: tally.figures() for name, tally in tallies.items()}, passes / max(maps, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one place of two worlds")
    parser.add_argument("--labelled", type=Path, help="folder of public samples")
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT)
    options = parser.parse_args(arguments)
    model = load_classifier(ModelConfig(checkpoint=options.checkpoint), Legend.from_yaml())
    worlds = HELD_OUT_WORLDS[:2] if options.quick else HELD_OUT_WORLDS
    sets = {"simulated": [simulated(world, n) for world in worlds for n in range(1 if options.quick else 2)]}
    if options.labelled:
        for place in labelled(options.labelled):
            sets.setdefault(place.name.split("/")[0], []).append(place)
    result: dict[str, object] = {}
    for name, places in sets.items():
        figures, passes = measure(model, places)
        print(f"\n{name}: {len(places)} places; passes of the model per tile: median 1, fuse {passes:.1f}")
        print(f"{'':40s}" + "".join(f"{column.replace('_', ' '):>20s}" for column in COLUMNS))
        for method, found in figures.items():
            cells = (f"{found[column]:20.3f}" if column in found else f"{'-':>20s}" for column in COLUMNS)
            print(f"{method:40s}" + "".join(cells))
        result[name] = {"passes": round(passes, 2), **figures}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
