"""Labelled chips for training: ``python -m workflows.training_chips OUT --count 600`` writes simulated landscapes.

Real ones are made by :mod:`workflows.teacher_chips`.

The format of a chip folder is described in :mod:`pipeline.chip_folder`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.chip_folder import MISSING, SCALE, ChipFolder
from spex_core.bands import BANDS
from spex_core.training import ChipSource

__all__ = ["CHIP_PX", "MISSING", "SCALE", "BalancedChips", "ChipFolder", "write_simulated"]

CHIP_PX = 256
FloatArray = npt.NDArray[np.float32]


def write_simulated(folder: Path, count: int, first_seed: int) -> None:
    """Writes ``count`` chips of the simulator, most single-class ones passed over (open sea teaches little)."""
    from pipeline.simulation.chips import simulate_chip

    folder.mkdir(parents=True, exist_ok=True)
    shape = (count, CHIP_PX, CHIP_PX)
    reflectance = np.lib.format.open_memmap(
        folder / "reflectance.npy", "w+", np.int16, (count, len(BANDS), CHIP_PX, CHIP_PX)
    )
    codes = np.lib.format.open_memmap(folder / "codes.npy", "w+", np.uint8, shape)
    weight = np.lib.format.open_memmap(folder / "weight.npy", "w+", np.uint8, shape)
    seed = first_seed
    for index in range(count):
        pixels, labels = simulate_chip(seed, CHIP_PX, season=_mapping_season(seed))
        while np.bincount(labels.ravel()).max() > 0.85 * labels.size and seed % 5:
            seed += 1
            pixels, labels = simulate_chip(seed, CHIP_PX, season=_mapping_season(seed))
        seed += 1
        reflectance[index] = np.clip(np.round(pixels * SCALE), -30_000, 30_000).astype(np.int16)
        codes[index] = labels
        weight[index] = 1
        if (index + 1) % 50 == 0:
            print(f"{index + 1}/{count} simulated chips", flush=True)


def _mapping_season(seed: int) -> float:
    """Year phase of a chip: maps are mostly made of growing-season imagery, so most chips are."""
    rng = np.random.default_rng((seed, 7))
    return float(rng.uniform(0.28, 0.72) if rng.random() < 0.7 else rng.uniform())


class BalancedChips:
    """Chips drawn so that those with rare classes come more often: real scenes are mostly one class.

    Args:
        source: Chips with labels.
        count: Length of the drawn list (with repetition).
        seed: Decides the draw.
    """

    def __init__(self, source: ChipSource, count: int, seed: int = 0) -> None:
        self._source = source
        shares = []
        for index in range(len(source)):
            _, target, weight = source.chip(index)
            shares.append((target * weight).sum((1, 2)) / max(float(weight.sum()), 1.0))
        share = np.stack(shares)
        rarity = 1.0 / np.sqrt(share.mean(0) + 1e-3)
        probability = (share * rarity).sum(1)
        rng = np.random.default_rng(seed)
        self._drawn = rng.choice(len(source), size=count, p=probability / probability.sum())

    def __len__(self) -> int:
        return len(self._drawn)

    def chip(self, index: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """See :meth:`spex_core.training.ChipSource.chip`."""
        return self._source.chip(int(self._drawn[index]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m workflows.training_chips", description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--first-seed", type=int, default=10_000, help="seeds below 1000 belong to demos and tests")
    arguments = parser.parse_args()
    write_simulated(arguments.output, arguments.count, arguments.first_seed)


if __name__ == "__main__":
    main()
