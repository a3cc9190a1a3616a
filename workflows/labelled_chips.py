"""Images that people labelled as training chips: ``python -m workflows.labelled_chips OUT --real FOLDER --side train``.

Writes a chip folder (see :mod:`pipeline.chips.chip_folder`) of the places that
``workflows/training/split/places.yaml`` has on that side, and beside the arrays ``chips.json``: of each chip its place,
sensor, bands, pixel size, date and kind of labels. Bands that a sensor lacks stay missing; each labelled pixel is in
one chip.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.chips.chip_folder import MISSING, SCALE
from pipeline.errors import BadInputError, ChipError
from pipeline.machine.atomic_files import replacing, write_text
from spex_core.bands import BANDS
from spex_core.configuration import LARGEST_STRIDE
from workflows.labelled.registry import Split, labelled_scenes
from workflows.labelled.scene import LabelledScene

Chip = tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8], npt.NDArray[np.uint8], dict[str, Any]]

SIZE_PX = 64
"""Side of a chip; two of the samples are not larger."""


def write_chips(scenes: Iterable[LabelledScene], folder: Path, size_px: int = SIZE_PX) -> int:
    """Cuts labelled scenes into a chip folder; all files appear when all are complete.

    Args:
        scenes: Read one after the other; those without a label give no chip.
        folder: Created if missing; arrays in it are replaced.
        size_px: Side of the chips, a multiple of 32. Smaller scenes are mirrored at their border, without labels there.

    Returns:
        How many chips were written.

    Raises:
        ChipError: A size that is none, or no scene has a label.
        OutputError: The folder cannot be written.
    """
    if size_px < LARGEST_STRIDE or size_px % LARGEST_STRIDE:
        raise ChipError(f"chips of {size_px} px: the side must be a multiple of {LARGEST_STRIDE}")
    parts = [chip for scene in scenes for chip in cut(scene, size_px)]
    if not parts:
        raise ChipError("no scene has a label")
    names, columns = ("reflectance", "codes", "weight"), list(zip(*parts, strict=True))
    with (
        replacing(folder / f"{names[0]}.npy") as first,
        replacing(folder / f"{names[1]}.npy") as second,
        replacing(folder / f"{names[2]}.npy") as third,
    ):
        for path, arrays in zip((first, second, third), columns, strict=False):
            with path.open("wb") as file:
                np.save(file, np.stack(arrays), allow_pickle=False)
    write_text(folder / "chips.json", json.dumps(columns[3], indent=1) + "\n")
    return len(parts)


def cut(scene: LabelledScene, size_px: int) -> Iterator[Chip]:
    """Chips of a scene that hold a label.

    Yields:
        int16 ``[10, S, S]`` reflectance × 10000 with missing bands, uint8 ``[S, S]`` codes, uint8 ``[S, S]`` weight,
        0/1, and a dictionary that says whence it comes.
    """
    codes, observed = scene.codes, scene.observed
    pad = [(0, max(size_px - side, 0)) for side in codes.shape]
    reflectance = np.pad(scene.reflectance, ((0, 0), *pad), mode="symmetric")
    observed = np.pad(observed, pad, mode="symmetric")
    codes = np.pad(codes, pad)
    taken = np.zeros(codes.shape, bool)
    for row in _origins(codes.shape[0], size_px):
        for col in _origins(codes.shape[1], size_px):
            window = (slice(row, row + size_px), slice(col, col + size_px))
            # The last row and column of chips are moved inwards: what another chip has is not labelled again.
            own = np.where(taken[window], 0, codes[window]).astype(np.uint8)
            taken[window] = True
            if not own.any():
                continue
            pixels = reflectance[(slice(None), *window)]
            # What is not observed, as at run time, is filled with the mean of the rest.
            mean = pixels[:, observed[window]].mean(axis=1)[:, None, None]
            scaled = np.clip(np.round(np.where(observed[window], pixels, mean) * SCALE), -30_000, 30_000)
            stored = np.full((len(BANDS), size_px, size_px), MISSING, np.int16)
            stored[list(scene.slots)] = scaled.astype(np.int16)
            told = {
                "name": scene.name,
                "place": scene.place,
                "sensor": scene.sensor,
                "bands": [[band.name, band.wavelength_nm] for band in scene.bands],
                "pixel_m": scene.pixel_m,
                "date": scene.date,
                "labels": scene.kind,
                "row": row,
                "col": col,
            }
            yield stored, own, (own > 0).astype(np.uint8), told


def _origins(size: int, size_px: int) -> list[int]:
    last = size - size_px
    return sorted({*range(0, last + 1, size_px), last})


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code (2 for bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m workflows.labelled_chips",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--real", type=Path, required=True, help="folder of the samples")
    parser.add_argument("--side", choices=("train", "evaluate"), required=True, help="of the split by place")
    parser.add_argument("--size-px", type=int, default=SIZE_PX, help="side of the chips")
    given = parser.parse_args(arguments)
    try:
        count = write_chips(labelled_scenes(given.real, Split.from_yaml(), given.side), given.output, given.size_px)
    except BadInputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {count} chips to {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
