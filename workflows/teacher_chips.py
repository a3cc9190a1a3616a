"""Real scenes with the labels of a teacher: ``python -m workflows.teacher_chips OUT --scenes DIR --teacher DIR``.

The teacher is Dynamic World (Brown et al. 2022, doi 10.1038/s41597-022-01307-4); its network and weights are not part
of this project (``--teacher`` names a folder with ``dynamic_world.py``). It reads top-of-atmosphere reflectance; scenes
that exist as surface reflectance alone are brought there by an average atmosphere, and the other way round. Each scene
is labelled as it is and in many other looks (:mod:`workflows.teacher_colourings`), so that the student learns what the
teacher does with more than a handful of spectra. Writes chip folders, see :mod:`pipeline.chips.chip_folder`.

Sixty looks of four million pixels take about an hour on one CPU core and under a minute on a GPU; some 7 GB of chips.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.chips.chip_folder import SCALE
from spex_core.augmentation import BOA_TO_TOA
from spex_core.bands import BANDS, SENTINEL2_BANDS
from spex_core.durable_files import new_draft, put_in_place
from spex_core.legend import Legend
from workflows.labelled.registry import Split
from workflows.teacher_colourings import Look, other_look
from workflows.teacher_scenes import RealScene, real_scenes
from workflows.training_chips import CHIP_PX

FloatArray = npt.NDArray[np.float32]

TEACHER_CODES = (80, 10, 30, 90, 40, 20, 50, 60, 70)
"""WorldCover code of each Dynamic World class, in its channel order."""
TEACHER_CONFIDENCE = 0.45
"""Pixels whose best teacher class is less probable than this are not labelled, but for scenes of which a person knows
what is absent."""
SHARPENING = 1.5
"""Exponent on the teacher's probabilities: at 0.7 it is right 94 times in 100, so it is too modest by itself."""
FIXED_CODES = (50, 70, 80)
"""Classes that another colour does not make of others: towns, snow and water."""


class Teacher:
    """Dynamic World as a function of surface reflectance.

    Args:
        folder: With ``dynamic_world.py`` and its weights.
        legend: The order of its probabilities.
        device: Where it runs.
    """

    bands = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")

    def __init__(self, folder: Path, legend: Legend, device: str) -> None:
        module = _dynamic_world(folder)
        self._network = module.DW().to(device)
        self._offset, self._slope = (
            torch.tensor([BOA_TO_TOA[band][column] for band in SENTINEL2_BANDS], device=device)[:, None, None]
            for column in (1, 0)
        )
        scale = torch.tensor(np.asarray(module.NORM, np.float32), device=device)[:, :, None, None]
        self._centre, self._width = scale[:, 0], scale[:, 1]
        self._channels = [SENTINEL2_BANDS.index(band) for band in self.bands]
        self._order = [TEACHER_CODES.index(code) for code in legend.codes]

    def residual(self, surface: Tensor, top_of_atmosphere: Tensor) -> Tensor:
        """What the sky of a scene adds to the average one, ``[10, H, W]``; 0 where that one was assumed."""
        return top_of_atmosphere - (surface * self._slope + self._offset)

    @torch.inference_mode()
    def probabilities(self, surface: Tensor, residual: Tensor) -> Tensor:
        """Class probabilities ``[K, H, W]`` in legend order. Sides must be even."""
        toa = (surface * self._slope + self._offset + residual).clamp_min(0)
        # As the published preprocessing has it: a logistic curve of the logarithm of the digital number.
        logs = torch.log1p(toa[self._channels] * SCALE * 0.005)
        inputs = torch.sigmoid((logs - self._centre) * 5 / self._width - 1)
        probability: Tensor = self._network(inputs[None])[0].softmax(0)
        return probability[self._order]


def _dynamic_world(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("dynamic_world", folder / "dynamic_world.py")
    if spec is None or spec.loader is None or not (folder / "dynamic_world.py").exists():
        raise SystemExit(f"no dynamic_world.py in {folder}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class TaughtScene:
    """A scene on the teacher's device, or a part of it."""

    name: str
    look: Look
    residual: Tensor
    """See :meth:`Teacher.residual`."""
    reference: Tensor | None
    """uint8 ``[H, W]``, codes of a map made by people; 0 where it says nothing."""
    absent: tuple[int, ...]
    """Codes of classes that are not there."""

    @classmethod
    def of(cls, scene: RealScene, teacher: Teacher, device: str) -> TaughtScene:
        """Cut to even sides, as the teacher needs."""
        height, width = (side // 2 * 2 for side in scene.observed.shape)

        def tensor(array: npt.NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array[..., :height, :width])).to(device)

        surface = tensor(scene.surface)
        return cls(
            scene.name,
            Look(surface, tensor(scene.observed)),
            teacher.residual(surface, tensor(scene.top_of_atmosphere)),
            None if scene.reference is None else tensor(scene.reference),
            scene.absent,
        )

    def columns(self, start: int, stop: int) -> TaughtScene:
        """Some columns of it."""
        part = (..., slice(start, stop))
        look = Look(self.look.surface[part], self.look.observed[part])
        reference = None if self.reference is None else self.reference[part]
        return replace(self, look=look, residual=self.residual[part], reference=reference)


def write_real(
    folder: Path,
    scenes: Sequence[RealScene],
    teacher: Teacher,
    legend: Legend,
    *,
    stride: int = 160,
    looks: int = 60,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Labels real scenes and cuts them into chips; smaller scenes are padded with unlabelled mean values.

    Beside ``folder`` a second one, named with ``-held-out``, receives what is not to be trained on: the eastern fifth
    of every scene wider than 512 px, and whole scenes of places that are for evaluation alone.

    Args:
        folder: Receives the chips.
        scenes: What is labelled.
        teacher: Who labels.
        legend: Its classes.
        stride: Distance of chips in a scene, px.
        looks: Of each scene, beside its own.
        seed: Of the looks.
        device: Where they are computed.

    Raises:
        ChipError: A scene's place is not in the split.
    """
    trained, kept_back = [], []
    split = Split.from_yaml()
    for real in scenes:
        scene = TaughtScene.of(real, teacher, device)
        width = scene.look.observed.shape[1]
        evaluated = real.place is not None and split.side(real.place) == "evaluate"
        border = 0 if evaluated else (width - width // 5) // 2 * 2 if width > 512 else width
        if border:
            trained.append(scene.columns(0, border))
        if border < width:
            kept_back.append(replace(scene.columns(border, width), reference=None))
    # What is measured against are the teacher's own probabilities.
    with _Chips(folder.with_name(folder.name + "-held-out"), legend, stride, sharpening=1.0) as chips:
        for scene in kept_back:
            chips.cut(scene, teacher.probabilities(scene.look.surface, scene.residual))
    with _Chips(folder, legend, stride, SHARPENING) as chips:
        for number, scene in enumerate(trained):
            own = teacher.probabilities(scene.look.surface, scene.residual)
            chips.cut(scene, own)
            others = [other.look for other in trained if other is not scene] or [scene.look]
            for index in range(looks):
                rng = np.random.default_rng((seed, number, index))
                look = other_look(scene.look, own.argmax(0), others, rng)
                again = teacher.probabilities(look.surface, scene.residual)
                if look.same_place:
                    look = replace(look, observed=look.observed & ~_implausible(own, again, legend))
                changed = replace(scene, look=look)
                if not look.same_place:  # nobody knows what is there
                    changed = replace(changed, reference=None, absent=())
                chips.cut(changed, again, turn=int(rng.integers(0, stride)))


def _implausible(before: Tensor, after: Tensor, legend: Legend) -> Tensor:
    """Where other colours turned plants into water, towns or snow, or the reverse: greener or drier they may become."""
    fixed = torch.isin(torch.tensor(legend.codes, device=before.device), torch.tensor(FIXED_CODES).to(before.device))
    first, second = before.argmax(0), after.argmax(0)
    return (first != second) & (fixed[first] | fixed[second])


class _Chips:
    """Chips on their way to a folder: written one by one, for they may be more than memory holds."""

    def __init__(self, folder: Path, legend: Legend, stride: int, sharpening: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._name, self._legend, self._stride, self._sharpening = folder.name, legend, stride, sharpening
        self._arrays = [
            _GrowingArray(folder / "reflectance.npy", np.int16, (len(BANDS), CHIP_PX, CHIP_PX)),
            _GrowingArray(folder / "target.npy", np.uint8, (len(legend), CHIP_PX, CHIP_PX)),
            _GrowingArray(folder / "weight.npy", np.uint8, (CHIP_PX, CHIP_PX)),
        ]

    def __enter__(self) -> _Chips:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        for array in self._arrays:
            array.close(complete=kind is None)

    def cut(self, scene: TaughtScene, probability: Tensor, turn: int = 0) -> None:
        """Adds the chips of a scene; ``turn`` shifts their lattice."""
        if scene.absent:
            there = [float(code not in scene.absent) for code in self._legend.codes]
            probability = probability * torch.tensor(there, device=probability.device)[:, None, None]
            probability = probability / probability.sum(0).clamp_min(1e-6)
        labelled = scene.look.observed & ((probability.amax(0) >= TEACHER_CONFIDENCE) | bool(scene.absent))
        target = probability**self._sharpening
        target = target / target.sum(0)
        if scene.reference is not None:
            told = scene.reference > 0
            codes = torch.tensor(self._legend.codes, dtype=torch.uint8, device=told.device)[:, None, None]
            # OpenStreetMap land use is coarse: the teacher keeps a third of the say.
            target = torch.where(told, (2 * (scene.reference == codes) + target) / 3, target)
            labelled = labelled | (told & scene.look.observed)
        surface = (scene.look.surface * SCALE).round().clamp(-30_000, 30_000).to(torch.int16).cpu().numpy()
        targets = (target * 255).round().to(torch.uint8).cpu().numpy()
        weights, observed = labelled.cpu().numpy(), scene.look.observed.cpu().numpy()
        count = 0
        for row in _origins(weights.shape[0], self._stride, turn):
            for col in _origins(weights.shape[1], self._stride, turn):
                window = (..., slice(row, row + CHIP_PX), slice(col, col + CHIP_PX))
                weight, seen = weights[window], observed[window]
                if weight.mean() < 0.2:
                    continue
                pad = ((0, CHIP_PX - weight.shape[0]), (0, CHIP_PX - weight.shape[1]))
                # What is not observed, as at run time, is filled with the mean of the rest.
                mean = surface[window][:, seen].mean(1).round().astype(np.int16)[:, None, None]
                pixels = np.where(np.pad(seen, pad), np.pad(surface[window], ((0, 0), *pad)), mean)
                rows = (pixels, np.pad(targets[window], ((0, 0), *pad)), np.pad(weight, pad).astype(np.uint8))
                for array, part in zip(self._arrays, rows, strict=True):
                    array.append(part)
                count += 1
        best = target.argmax(0)[labelled].cpu().numpy()
        shares = np.bincount(best, minlength=len(self._legend)) / max(best.size, 1)
        summary = ", ".join(f"{c.name} {s:.2f}" for c, s in zip(self._legend, shares, strict=True) if s > 0.01)
        print(
            f"{self._name}: {scene.name}: {count} chips, labelled {labelled.float().mean():.2f} ({summary})", flush=True
        )


class _GrowingArray:
    """A ``.npy`` file whose first dimension grows; it takes its final name when it is complete."""

    HEADER = 256

    def __init__(self, path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
        self._path, self._partial = path, new_draft(path)
        self._dtype, self._shape, self._count = np.dtype(dtype), shape, 0
        self._file: BinaryIO = self._partial.open("wb")
        self._file.write(bytes(self.HEADER))

    def append(self, row: npt.NDArray[Any]) -> None:
        """Adds one row of the array's shape."""
        if row.shape != self._shape:
            raise ValueError(f"{self._path}: a row is {row.shape}, expected {self._shape}")
        self._file.write(np.ascontiguousarray(row, self._dtype).tobytes())
        self._count += 1

    def close(self, complete: bool) -> None:
        """Writes the header, now that the length is known; an incomplete file is removed."""
        described = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._count, *self._shape)}
        # Version 1.0 of the format: magic, length of the text, the text, padded with spaces and a line end.
        text = repr(described).encode("latin1")
        text = text.ljust(self.HEADER - 11) + b"\n"
        self._file.seek(0)
        self._file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
        self._file.close()
        if complete:
            put_in_place(self._partial, self._path)
        else:
            self._partial.unlink()


def _origins(size: int, stride: int, turn: int = 0) -> list[int]:
    last = max(size - CHIP_PX, 0)
    return sorted({0, *range(turn, last + 1, stride), last})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m workflows.teacher_chips",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--looks", type=int, default=60, help="other looks of each scene")
    parser.add_argument("--seed", type=int, default=0, help="of these looks")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    legend = Legend.from_yaml()
    write_real(
        arguments.output,
        list(real_scenes(arguments.scenes)),
        Teacher(arguments.teacher, legend, arguments.device),
        legend,
        looks=arguments.looks,
        seed=arguments.seed,
        device=arguments.device,
    )


if __name__ == "__main__":
    main()
