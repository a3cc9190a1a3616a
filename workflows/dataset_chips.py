"""A public data set as training chips: ``python -m workflows.dataset_chips OUT --dataset NAME --root DIR``.

Writes a chip folder (see :mod:`pipeline.chips.chip_folder`) and beside it ``legend.yaml``, the data set's classes, so
that ``spex train`` can take them::

    legend: OUT/legend.yaml
    sources:
      - {name: floods, kind: chips, folder: OUT}

and ``spex evaluate`` with ``legend: dataset`` measures the result on the test split. Chips are cut to one size, a
multiple of 32 px.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from pipeline.chips.chip_folder import MISSING, SCALE
from pipeline.datasets import DATASETS, open_dataset
from pipeline.datasets.config import DatasetConfig
from pipeline.datasets.dataset import Opened
from pipeline.errors import BadInputError, ChipError
from pipeline.machine.atomic_files import replacing, write_text
from spex_core.bands import BANDS
from spex_core.configuration import LARGEST_STRIDE


def write_chips(found: Opened, folder: Path, size_px: int | None = None, count: int | None = None) -> int:
    """Writes the chips of a split; all files appear when all are complete. Every chip is read twice, one at a time.

    Args:
        found: The opened split.
        folder: Created if missing; arrays in it are replaced.
        size_px: Side of the chips, cut from the upper left; default: the largest multiple of 32 in the first chip.
        count: At most so many, evenly spread.

    Returns:
        How many were written: chips that are smaller, or have no label, are left out.

    Raises:
        ChipError: No chip is left, or a file of the data set cannot be read.
        OutputError: The folder cannot be written.
    """
    total = len(found.chips)
    if not total:
        raise ChipError(f"{found.dataset.title}, {found.split}: the split has no chips")
    if size_px is None:
        size_px = min(found.chips.chip(0)[0].shape[1:]) // LARGEST_STRIDE * LARGEST_STRIDE
    if size_px < LARGEST_STRIDE or size_px % LARGEST_STRIDE:
        raise ChipError(f"chips of {size_px} px: the side must be a multiple of {LARGEST_STRIDE}")
    side = (size_px, size_px)
    asked = np.unique(np.linspace(0, total - 1, min(total, count or total)).round().astype(int)).tolist()
    kept = [index for index in asked if _usable(found.chips.chip(index)[2][:size_px, :size_px], side)]
    if not kept:
        raise ChipError(f"{found.dataset.title}, {found.split}: no labelled chip of {size_px} px")
    codes_of = np.array([*found.dataset.legend.codes, found.dataset.legend.nodata], np.uint8)
    with (
        replacing(folder / "reflectance.npy") as pixels_path,
        replacing(folder / "codes.npy") as codes_path,
        replacing(folder / "weight.npy") as weight_path,
    ):
        pixels = np.lib.format.open_memmap(pixels_path, "w+", np.int16, (len(kept), len(BANDS), *side))
        codes = np.lib.format.open_memmap(codes_path, "w+", np.uint8, (len(kept), *side))
        weights = np.lib.format.open_memmap(weight_path, "w+", np.uint8, (len(kept), *side))
        for position, index in enumerate(kept):
            reflectance, target, weight = (layers[..., :size_px, :size_px] for layers in found.chips.chip(index))
            scaled = np.clip(np.round(reflectance * SCALE), -30_000, 30_000)
            pixels[position] = np.where(np.isnan(scaled), MISSING, scaled).astype(np.int16)
            codes[position] = codes_of[np.where(weight > 0, target.argmax(axis=0), -1)]
            weights[position] = weight > 0
        for array in (pixels, codes, weights):
            array.flush()
    write_text(folder / "legend.yaml", yaml.safe_dump(found.dataset.legend.to_dict(), sort_keys=False))
    return len(kept)


def _usable(weight: npt.NDArray[np.float32], side: tuple[int, int]) -> bool:
    return weight.shape == side and bool(weight.any())


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code (2 for bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m workflows.dataset_chips",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--dataset", required=True, choices=sorted(DATASETS))
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set, as it was released")
    parser.add_argument("--split", default="train")
    parser.add_argument("--size-px", type=int, help="side of the chips; default: as large as the first one allows")
    parser.add_argument("--count", type=int, help="at most so many chips, evenly spread")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the data set")
    given = parser.parse_args(arguments)
    try:
        options = dict(_option(text) for text in given.option)
        found = open_dataset(DatasetConfig(name=given.dataset, root=given.root, split=given.split, options=options))
        written = write_chips(found, given.output, given.size_px, given.count)
    except BadInputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {written} of {len(found.chips)} chips to {given.output}")
    return 0


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ChipError(f"--option {text!r} is not NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
