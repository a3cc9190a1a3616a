"""How far a pixel's spectrum is from all that a checkpoint was trained on: a small statistic beside the weights.

The distance is to the nearest of some centres of training spectra, in units of the spread around them, of the bands
that a pixel has: of fewer bands it is the same statistic without the others. Square roots of reflectance are compared,
because a step in the dark means more than the same step in the bright. The network's own features were tried and say
less: they fold spectra that no land has into the ones they know (docs/benchmarks/familiarity.md). A pixel alone
decides, and all sums are of whole numbers, so a score depends neither on tiles nor on who computes it. NumPy only:
readers of images need no torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spex_core.bands import SENTINEL2_BANDS
from spex_core.errors import CheckpointError
from spex_core.weight_files import weight_files

FAMILIARITY_FILE = "familiarity.npz"
"""Beside the weights; a checkpoint without it has no such score."""
SCORES = (50, 75, 90, 95, 98, 99, 100)
"""What a pixel can score, but for 0: it is farther than this percent of the training pixels (100: than 99.9 %)."""
SHARES = (0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.999)
UNLIKE = 98
"""From this score on a pixel is unlike anything that the model was trained on."""
UNKNOWN = 255
"""Where there is no measurement, or one of too few bands."""
LEAST_BANDS = 3
"""Two bands are like everything."""
STEPS = 10_000
"""Steps per unit of reflectance."""
RADIOMETRY = 0.02
"""Roots of reflectance that differ so much (a tenth of a dark wood, 4 % of a bright field) may be of one material."""
_LOWEST, _HIGHEST = -200, 20_000
"""Reflectance beyond, in steps, counts as this."""
_FLOOR = 0.03
_ROOT_STEPS = 2**12
_PROJECTION_STEPS = 2**10
_UNIT = 2**4
"""Steps of a unit of spread."""
_CHUNK = 4096
_SCHEMA = 2
_ROOTS: npt.NDArray[np.float64] = np.rint(
    np.sqrt(np.arange(_LOWEST, _HIGHEST + 1) / STEPS + _FLOOR) * _ROOT_STEPS
).astype(np.float64)

FloatArray = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Measure:
    """The statistic of some of the bands; every number is whole, so that float64 has all sums exactly."""

    bands: tuple[int, ...]
    projection: Doubles
    """Roots, less their origin, to units of the spread: ``[b, b]``."""
    origin: Doubles
    """``[b, 1]``."""
    centres: Doubles
    """Projected, ``[K, b]``."""
    limits: Doubles
    """Squared distances that belong to :data:`SCORES`."""

    def distances(self, roots: Doubles) -> Doubles:
        """Squared distance to the nearest centre, in squares of a sixteenth of the spread: ``[b, n]`` → ``[n]``."""
        found = np.empty(roots.shape[1], np.float64)
        double, norms = -2 * self.centres, (self.centres**2).sum(axis=1)[:, None]
        for first in range(0, roots.shape[1], _CHUNK):
            projected = _to_units(self.projection @ (roots[:, first : first + _CHUNK] - self.origin))
            each = double @ projected
            each += norms
            found[first : first + _CHUNK] = each.min(axis=0) + (projected * projected).sum(axis=0)
        return found


def _to_units(projected: Doubles) -> Doubles:
    scale = _UNIT / (_ROOT_STEPS * _PROJECTION_STEPS)  # a power of two
    return np.rint(projected * scale)


@dataclass(frozen=True)
class Familiarity:
    """What a checkpoint's training pixels look like."""

    centres: Doubles
    """Roots of reflectance, ``[K, 10]``."""
    spread: Doubles
    """Their covariance around the centres, ``[10, 10]``."""
    sample: npt.NDArray[np.int16]
    """Training pixels that the centres were not fitted to, ``[10, n]``, in steps: the measure of what is far."""
    weights_sha256: str
    """Of the weights that this belongs to."""
    _measures: dict[int, _Measure] = field(default_factory=dict, repr=False, compare=False)

    def distances(self, spectra: FloatArray) -> FloatArray:
        """Distance to the nearest centre, in units of the spread around it, divided by the root of the bands.

        Args:
            spectra: Surface reflectance, float32 ``[10, n]`` in the order of ``SENTINEL2_BANDS``; NaN in bands that
                there are not.

        Returns:
            float32 ``[n]``, NaN with fewer than :data:`LEAST_BANDS` bands.
        """
        found = np.full(spectra.shape[1], np.nan, np.float32)
        for measure, where in self._parts(spectra):
            squares = measure.distances(_roots(spectra, measure.bands, where))
            found[where] = np.sqrt(squares / len(measure.bands)) / _UNIT
        return found

    def scores(self, reflectance: FloatArray) -> npt.NDArray[np.uint8]:
        """How unfamiliar pixels are.

        Args:
            reflectance: Surface reflectance, float32 ``[10, ...]`` in the order of ``SENTINEL2_BANDS``; NaN in bands
                that there are not.

        Returns:
            uint8 ``[...]``: 0, or the highest of :data:`SCORES` that is reached; 255 with fewer than
            :data:`LEAST_BANDS` bands.
        """
        spectra = reflectance.reshape(len(SENTINEL2_BANDS), -1)
        found = np.full(spectra.shape[1], UNKNOWN, np.uint8)
        levels = np.array((0, *SCORES), np.uint8)
        for measure, where in self._parts(spectra):
            squares = measure.distances(_roots(spectra, measure.bands, where))
            found[where] = levels[np.searchsorted(measure.limits, squares, side="left")]
        return found.reshape(reflectance.shape[1:])

    def _parts(self, spectra: FloatArray) -> list[tuple[_Measure, Any]]:
        """Pixels that have the same bands, each with the statistic of these."""
        patterns = np.zeros(spectra.shape[1], np.uint16)
        for row, values in enumerate(spectra):
            patterns |= np.isfinite(values).astype(np.uint16) << np.uint16(row)
        found: list[tuple[_Measure, Any]] = []
        for pattern in np.flatnonzero(np.bincount(patterns)):
            if int(pattern).bit_count() >= LEAST_BANDS:
                where = patterns == pattern
                found.append((self._measure(int(pattern)), slice(None) if where.all() else where))
        return found

    def _measure(self, pattern: int) -> _Measure:
        if pattern not in self._measures:
            bands = tuple(row for row in range(len(SENTINEL2_BANDS)) if pattern >> row & 1)
            lower = np.linalg.cholesky(self.spread[np.ix_(bands, bands)])
            projection = np.rint(np.linalg.inv(lower) * _PROJECTION_STEPS)
            centres = np.rint(self.centres[:, bands] * _ROOT_STEPS)
            origin = np.rint(centres.mean(axis=0))[:, None]
            projected = _to_units(projection @ (centres.T - origin)).T
            plain = _Measure(bands, projection, origin, np.ascontiguousarray(projected), np.zeros(len(SHARES)))
            squares = np.sort(plain.distances(_ROOTS[self.sample[bands, :].astype(np.intp) - _LOWEST]))
            ranks = [min(int(share * len(squares)), len(squares) - 1) for share in SHARES]
            self._measures[pattern] = _Measure(bands, projection, origin, plain.centres, squares[ranks])
        return self._measures[pattern]

    def write(self, folder: Path) -> Path:
        """Puts the statistic beside the weights of a checkpoint.

        Raises:
            CheckpointError: It cannot be written.
        """
        path = folder / FAMILIARITY_FILE
        arrays = {name: getattr(self, name) for name in ("centres", "spread", "sample")}
        try:
            with path.open("wb") as stream:
                np.savez_compressed(stream, schema=np.array(_SCHEMA), weights=np.array(self.weights_sha256), **arrays)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be written: {error}") from error
        return path

    def fingerprint(self) -> str:
        """sha256 (hex) of all that decides a score."""
        digest = hashlib.sha256(f"{_SCHEMA} {SHARES} {SCORES}".encode())
        for array in (self.centres, self.spread, self.sample):
            digest.update(f"{array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _roots(spectra: FloatArray, bands: tuple[int, ...], where: Any) -> Doubles:
    """Roots of reflectance in whole steps, ``[b, n]``."""
    return _ROOTS[_steps(spectra[list(bands)][:, where]) - _LOWEST]


def _steps(reflectance: npt.NDArray[np.floating]) -> npt.NDArray[np.int32]:
    steps: npt.NDArray[np.int32] = np.rint(np.clip(reflectance * np.float32(STEPS), _LOWEST, _HIGHEST)).astype(np.int32)
    return steps


def fit_familiarity(spectra: FloatArray, weights_sha256: str, *, centres: int = 32, seed: int = 0) -> Familiarity:
    """The statistic of training pixels: one half gives the centres, the other says what is far from them.

    Args:
        spectra: Surface reflectance, float32 ``[10, n]``, finite; a hundred pixels for each centre, or more.
        weights_sha256: Of the weights, see :func:`weights_fingerprint`.
        centres: K.
        seed: Of the halves and the first centres.

    Raises:
        CheckpointError: Fewer pixels than centres.
    """
    spectra = spectra[:, np.isfinite(spectra).all(axis=0)]
    if spectra.shape[1] < 20 * centres:
        raise CheckpointError(f"{spectra.shape[1]} training pixels are too few for {centres} centres")
    rng = np.random.default_rng(seed)
    steps = _steps(spectra[:, rng.permutation(spectra.shape[1])])
    half = steps.shape[1] // 2
    roots = _ROOTS[steps[:, :half] - _LOWEST].T / _ROOT_STEPS
    whiten = np.linalg.inv(np.linalg.cholesky(_covariance(roots)))
    points = roots @ whiten.T
    found = _first_centres(points, centres, rng)
    for _ in range(20):
        found = _means(points, _nearest(points, found), found)
    nearest = _nearest(points, found)
    own = _means(roots, nearest, np.asarray(np.linalg.solve(whiten, found.T).T, np.float64))
    # The spread around the centres, not of the whole: what is between two centres is not land because both are.
    sample = steps[:, half : half + MOST_SAMPLES].astype(np.int16)
    return Familiarity(own, _covariance(roots - own[nearest]), sample, weights_sha256)


MOST_SAMPLES = 8192
"""Pixels kept in the file."""


def _covariance(points: Doubles) -> Doubles:
    return np.asarray(np.cov(points.T) + RADIOMETRY**2 * np.eye(points.shape[1]))


def _first_centres(points: Doubles, count: int, rng: np.random.Generator) -> Doubles:
    """Points far from each other, but for the farthest half percent: these are nobody's centre."""
    found = [points[rng.integers(len(points))]]
    squares = ((points - found[0]) ** 2).sum(axis=1)
    for _ in range(count - 1):
        weight = np.minimum(squares, np.quantile(squares, 0.995))
        found.append(points[rng.choice(len(points), p=weight / weight.sum())])
        squares = np.minimum(squares, ((points - found[-1]) ** 2).sum(axis=1))
    return np.stack(found)


def _means(points: Doubles, nearest: npt.NDArray[np.intp], otherwise: Doubles) -> Doubles:
    """Mean of the points of each centre, or the centre where it has none."""
    return np.stack([points[nearest == k].mean(axis=0) if (nearest == k).any() else c for k, c in enumerate(otherwise)])


def _nearest(points: Doubles, centres: Doubles) -> npt.NDArray[np.intp]:
    return np.asarray(((centres**2).sum(axis=1) - 2 * points @ centres.T).argmin(axis=1))


def weights_fingerprint(folder: Path) -> str:
    """sha256 (hex) over the files of a checkpoint's weights, and nothing else.

    Raises:
        CheckpointError: There are none, or one cannot be read.
    """
    files = weight_files(folder)
    if not files:
        raise CheckpointError(f"checkpoint {folder} holds no weights")
    digest = hashlib.sha256()
    try:
        for path in files:
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise CheckpointError(f"checkpoint {folder} cannot be read: {error}") from error
    return digest.hexdigest()


def read_familiarity(folder: Path) -> tuple[Familiarity | None, str]:
    """The statistic of a checkpoint, and why there is none (empty where there is, or never was one).

    One that was made for other weights is left aside: what it knows is not what these were trained on.
    """
    path = folder / FAMILIARITY_FILE
    if not path.is_file():
        return None, ""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if int(file["schema"]) != _SCHEMA:
                raise ValueError(f"schema {file['schema']}, expected {_SCHEMA}")
            centres, spread = (file[name].astype(np.float64) for name in ("centres", "spread"))
            found = Familiarity(centres, spread, file["sample"].astype(np.int16), str(file["weights"]))
        _check(found)
        if found.weights_sha256 != weights_fingerprint(folder):
            return None, f"{path} was made for other weights: make it anew (python -m workflows.familiarity)"
    except Exception as error:  # a damaged archive has many faces
        return None, f"{path} is not used: {error}"
    return found, ""


def inherit_familiarity(base: Path, folder: Path) -> None:
    """Gives a checkpoint that was made from another, whose vision it kept, the statistic of that one, if it has any.

    Raises:
        CheckpointError: It cannot be written.
    """
    found, _ = read_familiarity(base)
    if found is not None:
        Familiarity(found.centres, found.spread, found.sample, weights_fingerprint(folder)).write(folder)


def _check(found: Familiarity) -> None:
    bands = len(SENTINEL2_BANDS)
    shapes = [array.shape for array in (found.centres, found.spread, found.sample)]
    if [shape[-1:] for shape in shapes[:1]] != [(bands,)] or shapes[1] != (bands, bands) or shapes[2][:1] != (bands,):
        raise ValueError(f"arrays of {shapes} do not belong together")
    if not (1 <= len(found.centres) <= 1024 and 100 <= found.sample.shape[-1] <= 2**17):
        raise ValueError(f"{len(found.centres)} centres, {found.sample.shape[-1]} pixels")
    if not (np.isfinite(found.centres).all() and np.isfinite(found.spread).all()):
        raise ValueError("not all of its numbers are finite")
    if found.sample.min() < _LOWEST or found.sample.max() > _HIGHEST or not (np.abs(found.centres) < 2).all():
        raise ValueError("its numbers are no reflectance")
    if (np.abs(found.spread - found.spread.T) > 1e-9).any() or np.linalg.eigvalsh(found.spread)[0] < 1e-7:
        raise ValueError("its spread is none")
