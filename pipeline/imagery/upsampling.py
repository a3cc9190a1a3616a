"""Coarse pixels on a finer lattice that divides them evenly, interpolated from whole native pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.machine import pixel_loops

_Float = npt.NDArray[np.float32]


def upsample_bilinear(native: _Float, ratio: int, out: _Float | None = None) -> _Float:
    """Interpolates whole pixels onto a ``ratio`` times finer lattice and drops the outermost ring of pixels.

    Neighbours without a value take no part (weights are renormalised), and a fine pixel is NaN exactly where the
    pixel that holds it is NaN: no value grows into nodata and none is eaten by it.

    Args:
        native: float32 [h, w], NaN = none, with one ring of neighbours around the wanted pixels.
        ratio: Fine pixels per native pixel, along each axis.
        out: May be written to and returned, if it has the shape.

    Returns:
        float32 [(h - 2) * ratio, (w - 2) * ratio].
    """
    if ratio == 2 and pixel_loops.fits(native, types=(np.float32,)):
        height, width = (2 * (size - 2) for size in native.shape)
        fine = np.empty((height, width), np.float32) if out is None or out.shape != (height, width) else out
        pixel_loops.loops.upsample_twice(native, fine, np.empty((6, width), np.float32))
        return fine
    known = np.isfinite(native)
    if known.all():
        return _interpolate(native, ratio)
    values = _interpolate(np.where(known, native, np.float32(0.0)), ratio)
    weights = _interpolate(known.astype(np.float32), ratio)
    missing = ~known[1:-1, 1:-1].repeat(ratio, axis=0).repeat(ratio, axis=1)
    weights[missing] = np.nan
    values /= weights
    return values


def _interpolate(native: _Float, ratio: int) -> _Float:
    height, width = native.shape[0] - 2, native.shape[1] - 2
    # Columns first: writing every other pixel of a row is slow, so it is done while there are few rows.
    columns = np.empty((height + 2, width, ratio), np.float32)
    _fill_phases(np.moveaxis(columns, -1, 0), native, (slice(None), slice(1, -1)))
    wide = columns.reshape(height + 2, width * ratio)
    out = np.empty((height, ratio, width * ratio), np.float32)
    _fill_phases(np.moveaxis(out, 1, 0), wide, (slice(1, -1), slice(None)))
    return out.reshape(height * ratio, width * ratio)


def _fill_phases(phases: _Float, native: _Float, inner: tuple[slice, slice]) -> None:
    """Values of the fine pixels of each phase, interpolated along the one axis that ``inner`` cuts."""
    ratio = len(phases)
    along = 0 if inner[0].start else 1
    before, after = ((slice(None),) * along + (part,) for part in (slice(None, -2), slice(2, None)))
    for phase in range(ratio // 2):  # the phase at the other end has the same weights
        # Centre of the fine pixel, in native pixels from the centre of its own: 0 < weight < 0.5.
        weight = np.float32(0.5 - (phase + 0.5) / ratio)
        neighbour, own = native * weight, native[inner] * (np.float32(1.0) - weight)
        np.add(neighbour[before], own, out=phases[phase])
        np.add(neighbour[after], own, out=phases[ratio - 1 - phase])
    if ratio % 2:
        phases[ratio // 2] = native[inner]
