"""What a checkpoint is refined on: simulated land, labelled scenes, and what a teacher leaves open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.chips.chip_folder import ChipFolder
from spex_core.bands import BANDS
from spex_core.legend import Legend
from workflows.labelled.painting import Palette, painted_chip
from workflows.labelled.registry import Split
from workflows.labelled.scene import LabelledScene
from workflows.labelled.views import WAVELENGTHS, Bits, Ground

FloatArray = npt.NDArray[np.float32]

SAY = {"drawn": 1.0, "points": 1.0, "register": 1.0, "field": 1.0, "map": 0.5, "mask": 0.5, "tags": 0.3, "eye": 1.0}
"""Weight of labels by how they came about."""
TAUGHT = 0.4
"""Weight of what a teacher says."""
LEAST = 0.35
"""A teacher whose best class is less probable says nothing."""
NEARLY = 0.5
"""Classes at least so probable, times the best, are possible too."""
AT_MOST = 2
"""A teacher that leaves more classes open says nothing."""


def bits_of(codes: npt.NDArray[np.uint8], legend: Legend) -> Bits:
    """Codes as bits of legend channels; codes that the legend lacks are 0."""
    table = np.zeros(256, np.uint16)
    for channel, code in enumerate(legend.codes):
        table[code] = 1 << channel
    return np.asarray(table[codes])


def ground_of(scene: LabelledScene, legend: Legend) -> Ground | None:
    """A labelled scene as ground; None where it says nothing."""
    possible = bits_of(scene.codes, legend)
    for number, meaning in scene.meanings.items():
        if meaning.among:
            which = bits_of(np.array(meaning.among, np.uint8), legend)
            possible[(scene.labels == number) & scene.observed] = np.bitwise_or.reduce(which)
    if not possible.any():
        return None
    slots = list(scene.slots)
    reflectance = np.full((len(BANDS), *possible.shape), np.nan, np.float32)
    reflectance[slots] = scene.filled
    centres = WAVELENGTHS.copy()
    centres[slots] = [band.wavelength_nm for band in scene.bands]
    own = None if np.array_equal(centres, WAVELENGTHS) else centres
    return Ground(scene.name, reflectance, possible, scene.pixel_m, own, SAY.get(scene.kind, 1.0))


def left_open(probability: FloatArray, observed: npt.NDArray[np.bool_], absent: Sequence[int]) -> Bits:
    """What a teacher's probabilities ``[K, H, W]`` leave open, as bits.

    Args:
        probability: In legend order.
        observed: ``[H, W]``; elsewhere nothing is said.
        absent: Channels that a person knows are not there.
    """
    share = probability.copy()
    share[list(absent)] = 0
    share /= np.maximum(share.sum(axis=0), 1e-6)
    best = share.max(axis=0)
    open_classes = share >= NEARLY * best
    channel = (np.uint16(1) << np.arange(len(share), dtype=np.uint16))[:, None, None]
    bits = np.where(open_classes, channel, 0).sum(axis=0, dtype=np.uint16)
    said = observed & (best >= LEAST) & (open_classes.sum(axis=0) <= AT_MOST)
    return np.where(said, bits, 0).astype(np.uint16)


@dataclass(frozen=True)
class SimulatedGrounds:
    """Chips of the simulator, painted with measured colours where palettes are given."""

    chips: ChipFolder
    legend: Legend
    palettes: tuple[Palette, ...] = ()

    def draw(self, rng: np.random.Generator) -> Ground:
        """One chip as ground."""
        reflectance, target, _ = self.chips.chip(int(rng.integers(len(self.chips))))
        channel = target.argmax(axis=0)
        if self.palettes:
            palette = self.palettes[int(rng.integers(len(self.palettes)))]
            codes = np.array(self.legend.codes, np.uint8)[channel]
            reflectance = painted_chip(reflectance, codes, palette, rng)
        return Ground("simulated", reflectance, (np.uint16(1) << channel.astype(np.uint16)).astype(np.uint16))


def taught_grounds(root: Path, teacher: Path, legend: Legend, split: Split) -> Iterator[Ground]:
    """Real scenes of the training side with what Dynamic World leaves open of them.

    The eastern fifth of scenes wider than 512 px is left out, as in :mod:`workflows.teacher_chips`.

    Args:
        root: Of the samples.
        teacher: Folder of Dynamic World.
        legend: Its classes.
        split: Says which places are for evaluation.
    """
    import torch

    from workflows.teacher_chips import Teacher
    from workflows.teacher_scenes import real_scenes

    network = Teacher(teacher, legend, "cpu")
    for scene in real_scenes(root):
        if scene.place is not None and split.side(scene.place) == "evaluate":
            continue
        height, width = (side // 2 * 2 for side in scene.observed.shape)
        if width > 512:
            width = (width - width // 5) // 2 * 2
        surface, above = (
            torch.from_numpy(np.ascontiguousarray(a[:, :height, :width]))
            for a in (scene.surface, scene.top_of_atmosphere)
        )
        probability = network.probabilities(surface, network.residual(surface, above)).numpy()
        absent = [legend.codes.index(code) for code in scene.absent]
        possible = left_open(probability, scene.observed[:height, :width], absent)
        yield Ground(scene.name, surface.numpy(), possible, say=TAUGHT)


def grounds_of(scenes: Iterable[LabelledScene], legend: Legend) -> Iterator[Ground]:
    """Grounds of labelled scenes, without those that say nothing."""
    for scene in scenes:
        ground = ground_of(scene, legend)
        if ground is not None:
            yield ground
