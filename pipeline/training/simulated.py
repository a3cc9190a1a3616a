"""Simulated chips on demand: made once, kept in a cache, named by what they depend on.

The name of a cache folder holds a fingerprint of the simulator's source, so that chips of an older simulator are never
taken for those of this one. A chip is a function of its number, so several processes make them. Making them can be
stopped and goes on; a folder under its final name is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

import pipeline.simulation
from pipeline.chips.chip_folder import SCALE
from pipeline.errors import OutputError
from pipeline.machine.atomic_files import write_json
from pipeline.machine.own_files import own_folder, refuse_strangers
from pipeline.machine.progress import LogProgress, Progress
from spex_core.bands import BANDS
from spex_core.durable_files import check_own, put_in_place

CHIP_PX = 256
ONE_CLASS = 0.85
"""Chips with more than this share of one class are mostly passed over: open sea teaches little."""
SEEDS_PER_CHIP = 5
"""Seeds set aside for a chip: mostly one class under the first, it is drawn again under the next."""
SAVE_EVERY = 20
REFLECTANCE, CODES, WEIGHT = "reflectance.npy", "codes.npy", "weight.npy"
_LAYOUT = 2
"""Rises when another chip comes of the same simulator and seed."""


def simulated_folder(cache: Path, count: int, first_seed: int, progress: Progress, processes: int = 1) -> Path:
    """The chip folder of so many worlds, made if it is missing.

    Args:
        cache: Folder of such folders.
        count: Chips.
        first_seed: Seed of the first; each chip has :data:`SEEDS_PER_CHIP` of its own.
        progress: Told what is being made.
        processes: How many make chips; nothing in the result.

    Raises:
        OutputError: The cache cannot be written.
    """
    folder = cache / f"simulated-{first_seed}-{count}-{simulator_fingerprint()}"
    if not folder.exists():
        partial = own_folder(cache, f".{folder.name}.partial")
        write_simulated(partial, count, first_seed, progress, processes)
        try:
            put_in_place(partial, folder)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error
    return folder


def simulator_fingerprint() -> str:
    """Eight hexadecimal digits that change with the simulator's source."""
    digest = hashlib.sha256(str(_LAYOUT).encode())
    for path in sorted(Path(pipeline.simulation.__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def write_simulated(
    folder: Path, count: int, first_seed: int, progress: Progress | None = None, processes: int = 1
) -> None:
    """Writes a chip folder, or finishes one that was interrupted.

    Raises:
        OutputError: The folder cannot be written.
    """
    progress = progress or LogProgress()
    _check_own(folder)
    state = folder / "made.json"
    made = int(json.loads(state.read_text(encoding="utf-8"))["chips"]) if state.exists() else 0
    write_json(state, {"chips": made})
    mode = "r+" if made else "w+"
    shape = (count, CHIP_PX, CHIP_PX)
    reflectance = _array(folder / REFLECTANCE, mode, np.int16, (count, len(BANDS), CHIP_PX, CHIP_PX))
    codes, weight = (_array(folder / name, mode, np.uint8, shape) for name in (CODES, WEIGHT))
    weight[:] = 1
    progress.start("simulated chips", count, "chips", made)
    seeds = range(first_seed + SEEDS_PER_CHIP * made, first_seed + SEEDS_PER_CHIP * count, SEEDS_PER_CHIP)
    for index, (pixels, labels) in enumerate(_made(seeds, processes), made):
        reflectance[index] = np.clip(np.round(pixels * SCALE), -30_000, 30_000).astype(np.int16)
        codes[index] = labels
        progress.advance()
        if (index + 1) % SAVE_EVERY == 0 or index + 1 == count:
            for array in (reflectance, codes, weight):
                array.flush()
            write_json(state, {"chips": index + 1})


def _check_own(folder: Path) -> None:
    """The arrays are written in place: neither they nor their state may be links to anything else."""
    refuse_strangers(folder)
    for name in (REFLECTANCE, CODES, WEIGHT):
        try:
            check_own(folder / name)
        except OSError as error:
            raise OutputError(f"{folder / name} cannot be written: {error.strerror or error}") from error


Simulated = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]


def _made(seeds: range, processes: int) -> Iterator[Simulated]:
    """Chips of these seeds, in order."""
    if processes <= 1:
        yield from map(varied_chip, seeds)
        return
    # One thread each: as many processes as cores, with as many threads again, get in each other's way.
    with ProcessPoolExecutor(processes, get_context("spawn"), threadpool_limits, (1,)) as pool:
        # A bounded number ahead: finished chips wait in this process's memory.
        for start in range(0, len(seeds), 8 * processes):
            yield from pool.map(varied_chip, seeds[start : start + 8 * processes], chunksize=2)


def varied_chip(seed: int) -> Simulated:
    """The first chip from a seed on that is not mostly one class; the last of :data:`SEEDS_PER_CHIP` whatever it is."""
    from pipeline.simulation.chips import simulate_chip

    for own in range(seed, seed + SEEDS_PER_CHIP):
        pixels, labels = simulate_chip(own, CHIP_PX, season=mapping_season(own))
        if np.bincount(labels.ravel()).max() <= ONE_CLASS * labels.size:
            break
    return pixels, labels


def mapping_season(seed: int) -> float:
    """Year phase of a chip: maps are mostly made of growing-season imagery, so most chips are."""
    rng = np.random.default_rng((seed, 7))
    return float(rng.uniform(0.28, 0.72) if rng.random() < 0.7 else rng.uniform())


def _array(path: Path, mode: str, dtype: type, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    return np.lib.format.open_memmap(path, mode, dtype, shape)
