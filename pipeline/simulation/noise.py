"""Random fields as pure functions of (seed, absolute position), so that any window of a world can be drawn alone.

Positions are metres. ``x`` and ``y`` broadcast: a regular grid is given as ``x [1, W]`` and ``y [H, 1]`` (fast,
separable), scattered positions as two ``[H, W]`` arrays. Only additions, products, quotients and square roots decide a
value, which IEEE 754 rounds alike for every window size; transcendental functions may not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
HashArray = npt.NDArray[np.uint32]

_UNIT = np.float32(1.0 / 2**24)
_SPLINE_DEVIATION = 0.139  # standard deviation of cubic-spline interpolated uniform lattice values (mean over phases)


def _mix(h: HashArray) -> HashArray:
    # 32-bit finaliser with two multiplications; constants of C. Wellons' published low-bias search.
    h = h ^ (h >> np.uint32(16))
    h = h * np.uint32(0x7FEB352D)
    h = h ^ (h >> np.uint32(15))
    h = h * np.uint32(0x846CA68B)
    return h ^ (h >> np.uint32(16))


def hash_of(seed: int, *keys: npt.NDArray[np.int64] | HashArray) -> HashArray:
    """Hashes integer keys (broadcast against each other) to uint32."""
    h = _mix(np.asarray([seed * 0x9E3779B1 & 0xFFFFFFFF], np.uint32))
    for key in keys:
        h = _mix(h + np.asarray(key).astype(np.uint32) * np.uint32(0x85EBCA6B) + np.uint32(0x27220A95))
    return h


def unit(h: HashArray, salt: int = 0) -> FloatArray:
    """uint32 hashes → float32 in [0, 1); another ``salt`` gives an independent draw of the same object."""
    if salt:
        h = _mix(h + np.uint32(salt * 0x632BE5AB & 0xFFFFFFFF))
    return (h >> np.uint32(8)).astype(np.float32) * _UNIT


def pixel_noise(seed: int, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], cell_m: float) -> FloatArray:
    """Independent uniform values in [-1, 1), one per ``cell_m`` square of the world."""
    h = hash_of(seed, np.floor(x / cell_m).astype(np.int64), np.floor(y / cell_m).astype(np.int64))
    return unit(h) * np.float32(2.0) - np.float32(1.0)


def _spline(position: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], list[FloatArray]]:
    base = np.floor(position)
    t = (position - base).astype(np.float32)
    s = np.float32(1.0) - t
    sixth = np.float32(1.0 / 6.0)
    t2, s2 = t * t, s * s
    weights = [
        s2 * s * sixth,
        (np.float32(4.0) - np.float32(6.0) * t2 + np.float32(3.0) * t2 * t) * sixth,
        (np.float32(4.0) - np.float32(6.0) * s2 + np.float32(3.0) * s2 * s) * sixth,
        t2 * t * sixth,
    ]
    return base.astype(np.int64) - 1, weights


def smooth_noise(seed: int, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], wavelength_m: float) -> FloatArray:
    """Cubic B-spline value noise: isotropic, twice differentiable, mean 0, standard deviation about 1.

    Args:
        seed: Field identity.
        x: Eastings, metres, ``[1, W]`` or ``[H, W]``.
        y: Northings, metres, ``[H, 1]`` or ``[H, W]``.
        wavelength_m: Lattice spacing.

    Returns:
        float32 ``[H, W]``.
    """
    cols, wx = _spline(x / wavelength_m)
    rows, wy = _spline(y / wavelength_m)
    col0, row0 = int(cols.min()), int(rows.min())
    lattice_cols = np.arange(col0, int(cols.max()) + 4, dtype=np.int64)[None, :]
    lattice_rows = np.arange(row0, int(rows.max()) + 4, dtype=np.int64)[:, None]
    lattice = (unit(hash_of(seed, lattice_cols, lattice_rows)) - np.float32(0.5)) * np.float32(1 / _SPLINE_DEVIATION)
    cols, rows = cols - col0, rows - row0
    if x.shape[0] == 1 and y.shape[1] == 1:
        r = rows[:, 0]
        along = lattice[r] * wy[0] + lattice[r + 1] * wy[1] + lattice[r + 2] * wy[2] + lattice[r + 3] * wy[3]
        c = cols[0]
        spline: FloatArray = (
            along[:, c] * wx[0] + along[:, c + 1] * wx[1] + along[:, c + 2] * wx[2] + along[:, c + 3] * wx[3]
        )
        return spline
    # Scattered positions: the same sums in the same order (rows first), gathered point by point.
    total: FloatArray | None = None
    for i in range(4):
        column = lattice[rows, cols + i] * wy[0]
        for j in range(1, 4):
            column = column + lattice[rows + j, cols + i] * wy[j]
        term = column * wx[i]
        total = term if total is None else total + term
    assert total is not None
    return total


def fractal_noise(
    seed: int,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    wavelength_m: float,
    octaves: int,
    gain: float = 0.5,
) -> FloatArray:
    """Sum of ``octaves`` of :func:`smooth_noise`, each 2.03 times finer and ``gain`` times weaker; deviation 1."""
    norm = sum(gain ** (2 * k) for k in range(octaves)) ** -0.5
    total: FloatArray | None = None
    for k in range(octaves):
        octave = smooth_noise(seed + 7919 * k, x, y, wavelength_m / 2.03**k) * np.float32(norm * gain**k)
        total = octave if total is None else total + octave
    assert total is not None
    return total


@dataclass(frozen=True)
class Cells:
    """Voronoi cells of a jittered square lattice, seen from every pixel. All ``[H, W]``."""

    key: HashArray
    """Identity of the cell a pixel lies in."""
    dx: FloatArray
    """Metres east of the cell's centre."""
    dy: FloatArray
    """Metres north of the cell's centre."""
    distance: FloatArray
    """Metres to the cell's centre."""
    edge: FloatArray
    """Metres to the nearest border with another cell."""


def voronoi(
    seed: int, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], size_m: float, jitter: float = 0.7
) -> Cells:
    """Nearest and second-nearest point of a jittered lattice with spacing ``size_m``.

    Args:
        seed: Field identity.
        x: Eastings, metres, broadcastable with ``y``.
        y: Northings, metres.
        size_m: Mean cell diameter.
        jitter: Side of the square in which a point may lie, as a share of the spacing; at most 0.8, so that the 3 × 3
            neighbourhood always holds the nearest point.
    """
    u, v = np.broadcast_arrays(x / size_m, y / size_m)
    col, row = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    fu, fv = (u - col).astype(np.float32), (v - row).astype(np.float32)
    col0, row0 = int(col.min()) - 1, int(row.min()) - 1
    table_cols = np.arange(col0, int(col.max()) + 2, dtype=np.int64)[None, :]
    table_rows = np.arange(row0, int(row.max()) + 2, dtype=np.int64)[:, None]
    keys = hash_of(seed, table_cols, table_rows)
    width = keys.shape[1]
    px = ((unit(keys, 1) - np.float32(0.5)) * np.float32(jitter) + np.float32(0.5)).ravel()
    py = ((unit(keys, 2) - np.float32(0.5)) * np.float32(jitter) + np.float32(0.5)).ravel()
    flat = (row - row0) * width + (col - col0)

    shape = fu.shape
    best = np.full(shape, np.inf, np.float32)
    second = np.full(shape, np.inf, np.float32)
    bx, by = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    sx, sy = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    at = np.zeros(shape, np.int64)
    for j in (-1, 0, 1):
        for i in (-1, 0, 1):
            neighbour = flat + (j * width + i)
            dx = px[neighbour] + (np.float32(i) - fu)
            dy = py[neighbour] + (np.float32(j) - fv)
            d = dx * dx + dy * dy
            closer, next_closer = d < best, d < second
            demoted = np.where(closer, best, d)
            sx = np.where(closer, bx, np.where(next_closer, dx, sx))
            sy = np.where(closer, by, np.where(next_closer, dy, sy))
            second = np.where(next_closer, demoted, second)
            bx, by = np.where(closer, dx, bx), np.where(closer, dy, by)
            best, at = np.where(closer, d, best), np.where(closer, neighbour, at)
    gap_x, gap_y = sx - bx, sy - by
    size = np.float32(size_m)
    apart = np.sqrt(gap_x * gap_x + gap_y * gap_y) + np.float32(1e-6)
    return Cells(
        key=keys.ravel()[at],
        dx=-bx * size,
        dy=-by * size,
        distance=np.sqrt(best) * size,
        edge=(second - best) / (np.float32(2.0) * apart) * size,
    )
