"""Simulated chips on demand: made once, kept in a cache, named by what they depend on.

The name of a cache folder holds a fingerprint of the simulator's source, so that chips of an older simulator are never
taken for those of this one. Making them can be stopped and goes on; a folder under its final name is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import pipeline.simulation
from pipeline.atomic_files import write_json
from pipeline.chip_folder import SCALE
from pipeline.progress import LogProgress, Progress
from spex_core.bands import BANDS

CHIP_PX = 256
ONE_CLASS = 0.85
"""Chips with more than this share of one class are mostly passed over: open sea teaches little."""
SAVE_EVERY = 20


def simulated_folder(cache: Path, count: int, first_seed: int, progress: Progress) -> Path:
    """The chip folder of so many worlds, made if it is missing.

    Args:
        cache: Folder of such folders.
        count: Chips.
        first_seed: Seed of the first; later ones follow, with gaps where chips were passed over.
        progress: Told what is being made.

    Raises:
        OutputError: The cache cannot be written.
    """
    folder = cache / f"simulated-{first_seed}-{count}-{simulator_fingerprint()}"
    if not folder.exists():
        partial = folder.with_name(f".{folder.name}.partial")
        write_simulated(partial, count, first_seed, progress)
        os.replace(partial, folder)
    return folder


def simulator_fingerprint() -> str:
    """Eight hexadecimal digits that change with the simulator's source."""
    digest = hashlib.sha256()
    for path in sorted(Path(pipeline.simulation.__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def write_simulated(folder: Path, count: int, first_seed: int, progress: Progress | None = None) -> None:
    """Writes a chip folder, or finishes one that was interrupted.

    Raises:
        OutputError: The folder cannot be written.
    """
    progress = progress or LogProgress()
    state = folder / "made.json"
    made, seed = 0, first_seed
    if state.exists():
        saved = json.loads(state.read_text(encoding="utf-8"))
        made, seed = int(saved["chips"]), int(saved["seed"])
    write_json(state, {"chips": made, "seed": seed})
    mode = "r+" if made else "w+"
    shape = (count, CHIP_PX, CHIP_PX)
    reflectance = _array(folder / "reflectance.npy", mode, np.int16, (count, len(BANDS), CHIP_PX, CHIP_PX))
    codes, weight = (_array(folder / name, mode, np.uint8, shape) for name in ("codes.npy", "weight.npy"))
    weight[:] = 1
    progress.start("simulated chips", count, "chips", made)
    for index in range(made, count):
        pixels, labels, seed = varied_chip(seed)
        reflectance[index] = np.clip(np.round(pixels * SCALE), -30_000, 30_000).astype(np.int16)
        codes[index] = labels
        progress.advance()
        if (index + 1) % SAVE_EVERY == 0 or index + 1 == count:
            for array in (reflectance, codes, weight):
                array.flush()
            write_json(state, {"chips": index + 1, "seed": seed})


def varied_chip(seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], int]:
    """The first chip from a seed on that is not mostly one class, and the seed after it; at most five are looked at."""
    from pipeline.simulation.chips import simulate_chip

    while True:
        pixels, labels = simulate_chip(seed, CHIP_PX, season=mapping_season(seed))
        seed += 1
        if np.bincount(labels.ravel()).max() <= ONE_CLASS * labels.size or (seed - 1) % 5 == 0:
            return pixels, labels, seed


def mapping_season(seed: int) -> float:
    """Year phase of a chip: maps are mostly made of growing-season imagery, so most chips are."""
    rng = np.random.default_rng((seed, 7))
    return float(rng.uniform(0.28, 0.72) if rng.random() < 0.7 else rng.uniform())


def _array(path: Path, mode: str, dtype: type, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    return np.lib.format.open_memmap(path, mode, dtype, shape)
