"""What people labelled, place by place: ``python -m workflows.labelled_table --real FOLDER``.

Prints one Markdown table: place, split, sensor, pixel size, how the labels came about, images, and pixels (or spectra)
of each class, summed over the images. FOLDER holds the samples' folders; those that are missing are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import BadInputError, ChipError
from spex_core.legend import Legend
from workflows.labelled.registry import PLACES, Split, labelled_scenes, labelled_spectra
from workflows.labelled.scene import LabelledScene, LabelledSpectra, Meanings


class _Row:
    """A place with one kind of labels."""

    def __init__(self, place: str, side: str, sensor: str, pixel: str, kind: str) -> None:
        self.cells = [place, side, sensor, pixel, kind]
        self.images = 0
        self.counts = np.zeros(256, np.int64)
        self.untold = 0

    def add(self, codes: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer], meanings: Meanings) -> None:
        """Counts one image or table: codes, and labels whose name does not tell one."""
        self.counts += np.bincount(codes.ravel(), minlength=256)
        several = [number for number, meaning in meanings.items() if not meaning.code]
        self.untold += int(np.isin(labels, several).sum())


def table(scenes: Iterable[LabelledScene | LabelledSpectra], split: Split, legend: Legend) -> Iterator[str]:
    """Lines of the table, in the order of the scenes.

    Raises:
        ChipError: There is no scene, one cannot be read, or its place is not in the split.
    """
    rows: dict[tuple[str, str], _Row] = {}
    for scene in scenes:
        pixel = f"{scene.pixel_m:g} m" if isinstance(scene, LabelledScene) else "–"
        key = (scene.place, scene.kind)
        if key not in rows:
            rows[key] = _Row(scene.place, split.side(scene.place), scene.sensor, pixel, scene.kind)
        rows[key].add(scene.codes, scene.labels, scene.meanings)
        rows[key].images += isinstance(scene, LabelledScene)
    if not rows:
        raise ChipError("none of the samples that are known here is there")
    heads = ["place", "split", "sensor", "pixel", "labels", "images", *map(str, legend.codes), "not told"]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * 5}{'--:|' * (len(heads) - 5)}"
    for row in rows.values():
        numbers = [row.images, *(int(row.counts[code]) for code in legend.codes), row.untold]
        yield f"| {' | '.join([*row.cells, *(f'{n:,}' if n else '' for n in numbers)])} |"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code (2 for bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m workflows.labelled_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--real", type=Path, required=True, help="folder of the samples")
    parser.add_argument("--split", type=Path, default=PLACES, help="another split than the project's")
    given = parser.parse_args(arguments)
    try:
        split = Split.from_yaml(given.split)
        images, spectra = labelled_scenes(given.real, split), labelled_spectra(given.real, split)
        scenes: Iterable[LabelledScene | LabelledSpectra] = chain(images, spectra)
        for line in table(scenes, split, Legend.from_yaml()):
            print(line)
    except BadInputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
