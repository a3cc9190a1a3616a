"""How far a pixel's spectrum is from all that a checkpoint was trained on: a small statistic beside the weights.

The distance is to the nearest of some centres, in units of the spread around them, of the ten bands and the spectral
indices. The network's own features were tried and say less: they fold spectra that no land has into the ones they know
(docs/benchmarks/familiarity.md). A pixel alone decides, so a score does not depend on tiles. NumPy only: readers of
images need no torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spex_core.bands import SENTINEL2_BANDS
from spex_core.errors import CheckpointError
from spex_core.indices import DIFFERENCE_BANDS, SPECTRAL_INDICES, spectral_index
from spex_core.weight_files import weight_files

FAMILIARITY_FILE = "familiarity.npz"
"""Beside the weights; a checkpoint without it has no such score."""
UNLIKE = 99
"""From this score on a pixel is unlike anything that the model knows: farther than 99 % of the training pixels."""
SHARES = (*(share / 100 for share in range(1, 100)), 0.999)
"""Shares of the training pixels that the scores 1 to 100 exceed."""
UNKNOWN = 255
"""Where there is no measurement."""
_CHUNK = 16_384
_SCHEMA = 1

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Familiarity:
    """What a checkpoint's training pixels look like."""

    mean: FloatArray
    """Of the features, ``[D]``."""
    projection: FloatArray
    """Features, less their mean, to units of the spread around the centres: ``[D, d]``."""
    centres: FloatArray
    """Projected, ``[K, d]``."""
    limits: FloatArray
    """Squared distances that the :data:`SHARES` of training pixels stay below, ascending, ``[100]``."""
    weights_sha256: str
    """Of the weights that this belongs to."""

    def distances(self, spectra: FloatArray) -> FloatArray:
        """Squared distance to the nearest centre.

        Args:
            spectra: Surface reflectance, float32 ``[10, n]``; NaN where there is none.

        Returns:
            float32 ``[n]``, NaN where a band has no value.
        """
        found = np.empty(spectra.shape[1], np.float32)
        projection = np.ascontiguousarray(self.projection.T)
        origin = (projection @ self.mean)[:, None]
        double = np.float32(-2) * self.centres
        norms = (self.centres**2).sum(axis=1)[:, None]
        for first in range(0, spectra.shape[1], _CHUNK):
            projected = projection @ features_of(spectra[:, first : first + _CHUNK])
            projected -= origin
            each = double @ projected
            each += norms
            nearest = each.min(axis=0)
            nearest += np.einsum("dn,dn->n", projected, projected)
            np.maximum(nearest, 0, out=found[first : first + _CHUNK])
        return found

    def scores(self, reflectance: FloatArray) -> npt.NDArray[np.uint8]:
        """How unfamiliar pixels are.

        Args:
            reflectance: Surface reflectance, float32 ``[10, ...]`` in the order of ``SENTINEL2_BANDS``; NaN where
                there is none.

        Returns:
            uint8 ``[...]``: 0 to 99 is the percent of training pixels that are nearer, 100 more than 99.9 %;
            255 where a band has no value.
        """
        shape = reflectance.shape[1:]
        distances = self.distances(reflectance.reshape(len(SENTINEL2_BANDS), -1))
        scores = np.searchsorted(self.limits, distances, side="left").astype(np.uint8)
        scores[np.isnan(distances)] = UNKNOWN
        return scores.reshape(shape)

    def write(self, folder: Path) -> Path:
        """Puts the statistic beside the weights of a checkpoint.

        Raises:
            CheckpointError: It cannot be written.
        """
        path = folder / FAMILIARITY_FILE
        arrays = {name: getattr(self, name) for name in ("mean", "projection", "centres", "limits")}
        try:
            with path.open("wb") as stream:
                np.savez(stream, schema=np.array(_SCHEMA), weights=np.array(self.weights_sha256), **arrays)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be written: {error}") from error
        return path


def features_of(spectra: FloatArray) -> FloatArray:
    """Bands and spectral indices: float32 ``[10, n]`` → ``[10 + I, n]``, NaN where a band has no value."""
    features = np.empty((len(SENTINEL2_BANDS) + len(SPECTRAL_INDICES), spectra.shape[1]), np.float32)
    features[: len(SENTINEL2_BANDS)] = spectra
    computed: dict[tuple[str, ...], int] = {}
    with np.errstate(invalid="ignore"):
        for row, name in enumerate(SPECTRAL_INDICES, start=len(SENTINEL2_BANDS)):
            formula = DIFFERENCE_BANDS.get(name, (name,))  # two indices have the same one
            if formula in computed:
                features[row] = features[computed[formula]]
                continue
            features[row] = spectral_index(name, spectra, band_axis=-2)
            computed[formula] = row
    return features


def fit_familiarity(spectra: FloatArray, weights_sha256: str, *, centres: int = 16, seed: int = 0) -> Familiarity:
    """The statistic of training pixels.

    Args:
        spectra: Surface reflectance, float32 ``[10, n]``, finite; a thousand pixels for each centre, or more.
        weights_sha256: Of the weights, see :func:`weights_fingerprint`.
        centres: K.
        seed: Of the first centres.

    Raises:
        CheckpointError: Fewer pixels than centres.
    """
    features = features_of(spectra).T.astype(np.float64)
    features = features[np.isfinite(features).all(axis=1)]
    if len(features) < 10 * centres:
        raise CheckpointError(f"{len(features)} training pixels are too few for {centres} centres")
    mean = features.mean(axis=0)
    whiten = _whitening(features - mean)
    points = (features - mean) @ whiten
    rng = np.random.default_rng(seed)
    found = points[np.sort(rng.choice(len(points), centres, replace=False))]
    for _ in range(25):
        nearest = _nearest(points, found)
        found = np.stack(
            [points[nearest == i].mean(axis=0) if (nearest == i).any() else found[i] for i in range(centres)]
        )
    # The spread around the centres, not of the whole: a centre of water is as tight as one of forest.
    tight = _whitening(points - found[_nearest(points, found)], floor=1e-3)
    made = Familiarity(
        mean.astype(np.float32),
        (whiten @ tight).astype(np.float32),
        (found @ tight).astype(np.float32),
        np.zeros(len(SHARES), np.float32),
        weights_sha256,
    )
    limits = np.quantile(made.distances(features[:, : len(SENTINEL2_BANDS)].T.astype(np.float32)), SHARES)
    return Familiarity(made.mean, made.projection, made.centres, limits.astype(np.float32), weights_sha256)


def _whitening(points: npt.NDArray[np.float64], floor: float = 0.0) -> npt.NDArray[np.float64]:
    """Directions of some spread, each divided by it: ``[D, d]``."""
    values, vectors = np.linalg.eigh(np.cov(points.T) + floor * np.eye(points.shape[1]))
    kept = values > values.max() * 1e-5
    return np.asarray(vectors[:, kept] / np.sqrt(values[kept]))


def _nearest(points: npt.NDArray[np.float64], centres: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
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
            arrays = {name: file[name].astype(np.float32) for name in ("mean", "projection", "centres", "limits")}
            found = Familiarity(weights_sha256=str(file["weights"]), **arrays)
        _check(found)
        if found.weights_sha256 != weights_fingerprint(folder):
            return None, f"{path} was made for other weights: make it anew (python -m workflows.familiarity)"
    except Exception as error:  # a damaged archive has many faces
        return None, f"{path} is not used: {error}"
    return found, ""


def _check(found: Familiarity) -> None:
    features = len(SENTINEL2_BANDS) + len(SPECTRAL_INDICES)
    inner = found.projection.shape[-1]
    shapes = [array.shape for array in (found.mean, found.projection, found.centres, found.limits)]
    if shapes != [(features,), (features, inner), (len(found.centres), inner), (len(SHARES),)] or not len(
        found.centres
    ):
        raise ValueError(f"arrays of {shapes} do not belong together")
    if not all(np.isfinite(a).all() for a in (found.mean, found.projection, found.centres, found.limits)):
        raise ValueError("not all of its numbers are finite")
    if (np.diff(found.limits) < 0).any():
        raise ValueError("its limits do not ascend")
