"""How well checkpoints do on people's labels, place by place: ``python -m workflows.labelled_scores --real FOLDER``.

Prints Markdown tables of the places on one side of the split: overall accuracy, mean IoU, calibration and the recall of
each class, for every ``--checkpoint``, for a random forest of single pixels fitted on the training side (``--forest``),
and for Dynamic World where its bands are there (``--teacher FOLDER``). Spectra without an image are shown to a
checkpoint as patches of one colour, so classes that are known by their texture are out of its reach there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.errors import BadInputError
from spex_core.bands import BANDS, Band, band_slots
from spex_core.checkpoints import resolve_checkpoint
from spex_core.errors import CheckpointError
from spex_core.legend import Legend
from workflows.labelled.registry import Side, Split, labelled_scenes, labelled_spectra
from workflows.labelled.scene import LabelledScene, LabelledSpectra

if TYPE_CHECKING:
    from torch import Tensor

    from spex_core.modeling import SpexForLandCover

FloatArray = npt.NDArray[np.float32]
Scores = Callable[[FloatArray, tuple[Band, ...], float], "FloatArray | None"]
"""Reflectance ``[C, H, W]``, its bands and the side of a pixel in metres → scores ``[K, H, W]``, or None."""

TILE_PX, MARGIN_PX = 256, 32
SPECTRA = 1200
"""At most so many of a table."""
PATCH_PX = 32
FOREST_PIXELS = 3000
"""Of each class at most."""
BINS = 10


@dataclass
class Tally:
    """What a scorer said of one place."""

    confusion: npt.NDArray[np.int64]
    """``[K, K]``, label by answer."""
    possible: int = 0
    """Pixels whose label is one of several classes..."""
    among: int = 0
    """...and whose answer is one of these."""
    confidence: list[FloatArray] = field(default_factory=list)
    right: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """Overall."""
        return float(np.trace(self.confusion) / max(self.confusion.sum(), 1))

    @property
    def recalls(self) -> FloatArray:
        """``[K]``; NaN where there is no label."""
        count = self.confusion.sum(axis=1)
        return np.where(count, np.diag(self.confusion) / np.maximum(count, 1), np.nan).astype(np.float32)

    @property
    def mean_iou(self) -> float:
        """Over the classes that are labelled."""
        hits, labels, answers = np.diag(self.confusion), self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        there = labels > 0
        return float((hits[there] / (labels + answers - hits)[there]).mean())

    @property
    def calibration_error(self) -> float:
        """Expected, ten bins of confidence."""
        confidence, right = np.concatenate(self.confidence), np.concatenate(self.right)
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        gaps = [abs(float(confidence[bins == b].mean() - right[bins == b].mean())) for b in np.unique(bins)]
        return float(np.average(gaps, weights=np.bincount(bins)[np.unique(bins)]))

    def add(self, scores: FloatArray, truth: npt.NDArray[np.int64], sets: npt.NDArray[np.bool_]) -> None:
        """Counts pixels.

        Args:
            scores: ``[K, N]``.
            truth: ``[N]`` channel, -1: not told.
            sets: ``[K, N]``, classes that are possible where it is not told.
        """
        best, told = scores.argmax(axis=0), truth >= 0
        np.add.at(self.confusion, (truth[told], best[told]), 1)
        several = ~told & sets.any(axis=0)
        self.possible += int(several.sum())
        self.among += int(sets[best, np.arange(len(best))][several].sum())
        self.confidence.append(scores.max(axis=0)[told])
        self.right.append(best[told] == truth[told])


def tallies(scores: Scores, root: Path, split: Split, side: Side, legend: Legend) -> dict[str, Tally]:
    """What a scorer says of every place of a side, in order."""
    found: dict[str, Tally] = {}
    for scene in labelled_scenes(root, split, side):
        truth, sets = _labels(scene.codes, np.where(scene.observed, scene.labels, 0), scene, legend)
        if (truth >= 0).any() or sets.any():
            answer = scores(scene.filled, scene.bands, scene.pixel_m)
            if answer is not None:
                tally = found.setdefault(scene.place, Tally(np.zeros((len(legend), len(legend)), np.int64)))
                tally.add(answer.reshape(len(legend), -1), truth, sets)
    for table in labelled_spectra(root, split, side):
        truth, sets = _labels(table.codes, table.labels, table, legend)
        rows = np.flatnonzero(np.isfinite(table.reflectance).all(axis=1) & ((truth >= 0) | sets.any(axis=0)))
        if len(rows) > SPECTRA:
            rows = np.random.default_rng(0).choice(rows, SPECTRA, replace=False)
        pixel_m = 30.0 if table.sensor.startswith("landsat") else 10.0
        answers = [scores(_patch(row), table.bands, pixel_m) for row in table.reflectance[rows]]
        known = [answer[:, PATCH_PX // 2, PATCH_PX // 2] for answer in answers if answer is not None]
        if known:
            tally = found.setdefault(table.place, Tally(np.zeros((len(legend), len(legend)), np.int64)))
            tally.add(np.stack(known, axis=1), truth[rows], sets[:, rows])
    return found


def _labels(
    codes: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.integer],
    source: LabelledScene | LabelledSpectra,
    legend: Legend,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    table = np.full(256, -1, np.int64)
    table[list(legend.codes)] = np.arange(len(legend))
    truth, numbers = table[codes.ravel()], labels.ravel()
    sets = np.zeros((len(legend), truth.size), bool)
    for number, meaning in source.meanings.items():
        for code in meaning.among:
            sets[legend.codes.index(code)] |= (numbers == number) & (truth < 0)
    return truth, sets


def _patch(spectrum: FloatArray) -> FloatArray:
    return np.broadcast_to(spectrum[:, None, None], (len(spectrum), PATCH_PX, PATCH_PX)).copy()


def of_checkpoint(model: SpexForLandCover, legend: Legend) -> Scores:
    """A checkpoint, asked in overlapping tiles; images are mirrored at their border."""
    import torch

    with torch.inference_mode():
        words = model.class_word_prompts(legend)

    def scores(reflectance: FloatArray, bands: tuple[Band, ...], pixel_m: float) -> FloatArray:
        height, width = reflectance.shape[1:]
        out = np.zeros((len(legend), height, width), np.float32)
        step = TILE_PX - 2 * MARGIN_PX
        sides = [-(-(min(side, step) + 2 * MARGIN_PX) // 32) * 32 for side in (height, width)]
        for row in range(0, height, step):
            for col in range(0, width, step):
                rows = _mirrored(np.arange(row - MARGIN_PX, row - MARGIN_PX + sides[0]), height)
                cols = _mirrored(np.arange(col - MARGIN_PX, col - MARGIN_PX + sides[1]), width)
                tile = torch.from_numpy(np.ascontiguousarray(reflectance[:, rows][:, :, cols])[None])
                said = _predicted(model, tile, legend, bands, pixel_m, words)
                own = out[:, row : row + step, col : col + step]
                own[:] = said[:, MARGIN_PX : MARGIN_PX + own.shape[1], MARGIN_PX : MARGIN_PX + own.shape[2]]
        return out

    return scores


def _predicted(
    model: SpexForLandCover, tile: Tensor, legend: Legend, bands: tuple[Band, ...], pixel_m: float, words: Tensor
) -> FloatArray:
    sampling = pixel_m if pixel_m > 10 else None
    answer = model.predict(tile, legend, bands=bands, gsd_m=sampling, class_words=words)
    return np.asarray(answer.scores[0].float().cpu().numpy())


def _mirrored(index: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    if length == 1:
        return np.zeros_like(index)
    folded = np.abs(index) % (2 * length - 2)
    return np.where(folded < length, folded, 2 * length - 2 - folded)


def of_forest(root: Path, split: Split, legend: Legend) -> Scores:
    """A random forest of single pixels on the training side; one for each set of bands that is asked for."""
    from sklearn.ensemble import RandomForestClassifier

    pixels, labels = _training_pixels(root, split)
    forests: dict[tuple[int, ...], RandomForestClassifier] = {}

    def scores(reflectance: FloatArray, bands: tuple[Band, ...], pixel_m: float) -> FloatArray:
        slots = band_slots(bands)[0]
        if slots not in forests:
            has = np.isfinite(pixels[:, list(slots)]).all(axis=1)
            x, y = pixels[has][:, list(slots)], labels[has]
            rng = np.random.default_rng(0)
            rows = np.concatenate([_some(rng, np.flatnonzero(y == code)) for code in np.unique(y)])
            forests[slots] = RandomForestClassifier(300, min_samples_leaf=2, random_state=0).fit(x[rows], y[rows])
        forest = forests[slots]
        found = forest.predict_proba(reflectance.reshape(len(reflectance), -1).T)
        out = np.zeros((len(legend), reflectance[0].size), np.float32)
        out[[legend.codes.index(int(code)) for code in forest.classes_]] = found.T
        return out.reshape(len(legend), *reflectance.shape[1:])

    return scores


def _some(rng: np.random.Generator, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return rows if len(rows) <= FOREST_PIXELS else rng.choice(rows, FOREST_PIXELS, replace=False)


def _training_pixels(root: Path, split: Split) -> tuple[FloatArray, npt.NDArray[np.uint8]]:
    parts, codes = [], []
    for scene in labelled_scenes(root, split, "train"):
        told = scene.codes > 0
        row = np.full((int(told.sum()), len(BANDS)), np.nan, np.float32)
        row[:, list(scene.slots)] = scene.reflectance[:, told].T
        parts.append(row)
        codes.append(scene.codes[told])
    for table in labelled_spectra(root, split, "train"):
        told = table.codes > 0
        row = np.full((int(told.sum()), len(BANDS)), np.nan, np.float32)
        row[:, list(band_slots(table.bands)[0])] = table.reflectance[told]
        parts.append(row)
        codes.append(table.codes[told])
    return np.concatenate(parts), np.concatenate(codes)


def of_teacher(folder: Path, legend: Legend) -> Scores:
    """Dynamic World; None for images without its nine bands or with other pixels than 10 m."""
    import torch

    from workflows.teacher_chips import Teacher

    teacher = Teacher(folder, legend, "cpu")

    def scores(reflectance: FloatArray, bands: tuple[Band, ...], pixel_m: float) -> FloatArray | None:
        if bands != BANDS or pixel_m != 10:
            return None
        pad = [(0, side % 2) for side in reflectance.shape[1:]]
        surface = torch.from_numpy(np.pad(reflectance, ((0, 0), *pad), mode="edge"))
        answer = teacher.probabilities(surface, torch.zeros_like(surface)).numpy()
        return np.asarray(answer[:, : reflectance.shape[1], : reflectance.shape[2]])

    return scores


def table(found: dict[str, dict[str, Tally]], legend: Legend) -> Iterator[str]:
    """Lines of Markdown: a row for each place and scorer, then the means over the places that all have."""
    heads = ["place", "scorer", "OA", "mIoU", "calibration", *map(str, legend.codes), "possible"]
    yield f"| {' | '.join(heads)} |"
    yield f"|---|---|{'--:|' * (len(heads) - 2)}"
    places = list(dict.fromkeys(place for tally in found.values() for place in tally))
    for place in places:
        for name, by_place in found.items():
            if place in by_place:
                yield f"| {place} | {name} | {' | '.join(_cells(by_place[place]))} |"
    for name, by_place in found.items():
        told = [tally for tally in by_place.values() if tally.confusion.any()]
        if told:
            means = [
                np.mean([getattr(tally, of) for tally in told]) for of in ("accuracy", "mean_iou", "calibration_error")
            ]
            yield f"| **mean of {len(told)} places** | {name} | {' | '.join(f'{m:.3f}' for m in means)} |" + " |" * (
                len(legend) + 1
            )


def _cells(tally: Tally) -> list[str]:
    told = bool(tally.confusion.any())
    numbers = [tally.accuracy, tally.mean_iou, tally.calibration_error] if told else []
    cells = [f"{number:.3f}" for number in numbers] if told else [""] * 3
    cells += ["" if np.isnan(recall) else f"{recall:.2f}" for recall in tally.recalls]
    return [*cells, f"{tally.among / tally.possible:.2f}" if tally.possible else ""]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code (2 for bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m workflows.labelled_scores",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--real", type=Path, required=True, help="folder of the samples")
    parser.add_argument("--side", choices=("train", "evaluate"), default="evaluate", help="of the split by place")
    parser.add_argument("--checkpoint", action="append", default=[], help="built-in name or folder; may be repeated")
    parser.add_argument("--forest", action="store_true", help="a random forest beside them")
    parser.add_argument("--teacher", type=Path, help="folder of Dynamic World (see workflows.teacher_chips)")
    given = parser.parse_args(arguments)
    legend = Legend.from_yaml()
    try:
        split = Split.from_yaml()
        scorers: dict[str, Scores] = {}
        for name in given.checkpoint or ["spex-s2-tiny"]:
            from spex_core.modeling import SpexForLandCover

            model = SpexForLandCover.from_pretrained(resolve_checkpoint(name)).eval()
            scorers[Path(name).name] = of_checkpoint(model, legend)
        if given.forest:
            scorers["random forest"] = of_forest(given.real, split, legend)
        if given.teacher:
            scorers["Dynamic World"] = of_teacher(given.teacher, legend)
        found = {name: tallies(scores, given.real, split, given.side, legend) for name, scores in scorers.items()}
    except (BadInputError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in table(found, legend):
        print(line)
    figures = {
        name: {
            place: {"oa": tally.accuracy, "miou": tally.mean_iou}
            for place, tally in by.items()
            if tally.confusion.any()
        }
        for name, by in found.items()
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
