"""How far are simulated chips from real ones, class by class?

    python -m benchmarks.simulator_calibration REAL_CHIPS [SIMULATED_CHIPS ...] [--simulate 60]

Folders as :mod:`pipeline.chips.chip_folder` describes them; of real chips only pixels whose best class is more probable
than 0.55 count. Each figure is the median over chips with at least 300 pixels of a class: within one chip the
atmosphere and the date are the same, so spread, texture and correlation compare even where scenes of other seasons do
not. ``--simulate`` draws chips with the simulator of this checkout as one more row. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.chips.chip_folder import ChipFolder
from spex_core.legend import Legend
from spex_core.training import ChipSource

FloatArray = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.int16]

CONFIDENCE = 0.55
MIN_PX = 300
MIN_CHIPS = 3
"""A class seen in fewer chips than this is not compared."""
LAGS_PX = (1, 2, 3, 5)
RED, NIR = 2, 6
"""Channels whose autocorrelation is measured."""
BRIGHT_FLOOR = 0.02
"""Texture is relative to brightness, but not to less than this reflectance."""
FIRST_SEED = 400_000


@dataclass(frozen=True)
class ClassStatistics:
    """One class over many chips (medians)."""

    chips: int
    spectrum: FloatArray
    """Mean reflectance, ``[10]``."""
    range: FloatArray
    """10th and 90th percentile over chips of the mean reflectance, ``[2, 10]``."""
    spread: FloatArray
    """Standard deviation within a chip, ``[10]``."""
    texture: FloatArray
    """Standard deviation of a pixel and its four neighbours relative to their mean, ``[10]``."""
    autocorrelation: FloatArray
    """Of red and near infrared along rows, ``[2, len(LAGS_PX)]``."""
    correlation: FloatArray
    """Between bands within a chip, ``[10, 10]``."""


@dataclass(frozen=True)
class Distance:
    """Simulated against real, one class; 0 is equal."""

    spectrum: float
    """Mean over bands of |log ratio| of median reflectance; moved by season and haze as well as by the simulator."""
    spread: float
    """Mean over bands of |log ratio|: 0.69 is a factor of two."""
    texture: float
    """As ``spread``."""
    autocorrelation: float
    """Mean absolute difference."""
    correlation: float
    """Mean absolute difference."""


def chip_statistics(reflectance: FloatArray, chosen: npt.NDArray[np.bool_]) -> tuple[FloatArray, ...] | None:
    """Mean, spread, texture, autocorrelation and band correlation of the chosen pixels of one chip.

    Args:
        reflectance: ``[10, H, W]``.
        chosen: ``[H, W]``.

    Returns:
        Arrays ``[10]``, ``[10]``, ``[10]``, ``[2, len(LAGS_PX)]``, ``[10, 10]``; None if too few pixels have their
        four neighbours chosen as well.
    """
    inner = chosen[1:-1, 1:-1] & chosen[:-2, 1:-1] & chosen[2:, 1:-1] & chosen[1:-1, :-2] & chosen[1:-1, 2:]
    if chosen.sum() < MIN_PX or inner.sum() < MIN_PX // 3:
        return None
    values = reflectance[:, chosen]
    cross = np.stack(
        [
            part[:, inner]
            for part in (
                reflectance[:, 1:-1, 1:-1],
                reflectance[:, :-2, 1:-1],
                reflectance[:, 2:, 1:-1],
                reflectance[:, 1:-1, :-2],
                reflectance[:, 1:-1, 2:],
            )
        ]
    )
    texture = (cross.std(0) / np.maximum(np.abs(cross.mean(0)), BRIGHT_FLOOR)).mean(1)
    auto = np.full((2, len(LAGS_PX)), np.nan, np.float32)
    for row, band in enumerate((RED, NIR)):
        for column, lag in enumerate(LAGS_PX):
            both = chosen[:, :-lag] & chosen[:, lag:]
            if both.sum() >= MIN_PX // 3:
                auto[row, column] = _correlation(reflectance[band, :, :-lag][both], reflectance[band, :, lag:][both])
    deviation = values.std(1)
    centred = (values - values.mean(1, keepdims=True)) / np.maximum(deviation, 1e-6)[:, None]
    between = (centred @ centred.T / values.shape[1]).astype(np.float32)
    return values.mean(1), deviation, texture, auto, between


def _correlation(a: FloatArray, b: FloatArray) -> float:
    if a.std() < 1e-6 or b.std() < 1e-6:
        return float("nan")
    return float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std()))


def statistics(chips: Iterator[tuple[FloatArray, LabelArray]], classes: int) -> dict[int, ClassStatistics]:
    """Statistics of each class seen in ``MIN_CHIPS`` chips or more; chips carry class indices, -1: none is known."""
    found: dict[int, list[tuple[FloatArray, ...]]] = {index: [] for index in range(classes)}
    for reflectance, label in chips:
        for index in range(classes):
            one = chip_statistics(reflectance, label == index)
            if one is not None:
                found[index].append(one)
    result = {}
    for index, parts in found.items():
        if len(parts) < MIN_CHIPS:
            continue
        mean, spread, texture, auto, between = (np.stack(column) for column in zip(*parts, strict=True))
        result[index] = ClassStatistics(
            len(parts),
            np.median(mean, 0),
            np.percentile(mean, (10, 90), axis=0).astype(np.float32),
            np.median(spread, 0),
            np.median(texture, 0),
            np.nanmedian(auto, 0),
            np.median(between, 0),
        )
    return result


def distance(simulated: ClassStatistics, real: ClassStatistics) -> Distance:
    """How far apart two sets of statistics of one class are."""

    def ratio(a: FloatArray, b: FloatArray) -> float:
        return float(np.abs(np.log(np.maximum(a, 1e-4) / np.maximum(b, 1e-4))).mean())

    return Distance(
        ratio(simulated.spectrum, real.spectrum),
        ratio(simulated.spread, real.spread),
        ratio(simulated.texture, real.texture),
        float(np.nanmean(np.abs(simulated.autocorrelation - real.autocorrelation))),
        float(np.abs(simulated.correlation - real.correlation).mean()),
    )


def folder_chips(source: ChipSource, limit: int) -> Iterator[tuple[FloatArray, LabelArray]]:
    """Chips of a folder, evenly chosen, with class indices (-1: unlabelled, uncertain or a band missing)."""
    for index in np.unique(np.linspace(0, len(source) - 1, min(limit, len(source))).astype(int)):
        reflectance, target, weight = source.chip(int(index))
        known = (weight > 0) & (target.max(0) > CONFIDENCE) & np.isfinite(reflectance).all(0)
        yield reflectance, np.where(known, target.argmax(0), -1).astype(np.int16)


def simulated_chips(count: int, legend: Legend) -> Iterator[tuple[FloatArray, LabelArray]]:
    """Chips drawn now."""
    from pipeline.simulation import simulate_chip

    channel = np.full(256, -1, np.int16)
    channel[list(legend.codes)] = np.arange(len(legend))
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        reflectance, codes = simulate_chip(seed)
        yield reflectance, channel[codes]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path)
    parser.add_argument("simulated", type=Path, nargs="*")
    parser.add_argument("--simulate", type=int, default=0, help="chips to draw with the simulator of this checkout")
    parser.add_argument("--limit", type=int, default=150, help="chips read of each folder")
    options = parser.parse_args(arguments)
    legend = Legend.from_yaml()
    real = statistics(folder_chips(ChipFolder(options.real, legend), options.limit), len(legend))
    sets = {
        folder.name: statistics(folder_chips(ChipFolder(folder, legend), options.limit), len(legend))
        for folder in options.simulated
    }
    if options.simulate:
        sets["drawn now"] = statistics(simulated_chips(options.simulate, legend), len(legend))
    names = [item.name for item in legend.classes]
    measures = list(Distance.__dataclass_fields__)
    report: dict[str, dict[str, dict[str, float]]] = {}
    for title, found in sets.items():
        print(f"\n{title} against {options.real.name}")
        print(f"{'class':28s}{'chips':>6s}{'real':>6s}" + "".join(f"{name:>16s}" for name in measures))
        rows = {index: distance(found[index], real[index]) for index in found if index in real}
        for index, row in rows.items():
            figures = "".join(f"{getattr(row, name):16.3f}" for name in measures)
            print(f"{names[index]:28s}{found[index].chips:6d}{real[index].chips:6d}{figures}")
        mean = {name: float(np.mean([getattr(row, name) for row in rows.values()])) for name in measures}
        print(f"{'mean':40s}" + "".join(f"{mean[name]:16.3f}" for name in measures))
        report[title] = {names[index]: {name: getattr(row, name) for name in measures} for index, row in rows.items()}
        report[title]["mean"] = mean
    print(json.dumps(report))


if __name__ == "__main__":
    main()
