"""MGRS-like granules: squares on the 10 m lattice of a UTM zone, side by side with an overlap."""

from __future__ import annotations

from dataclasses import dataclass

from pyproj import Transformer

from pipeline.simulation.landscape import PIXEL_M
from pipeline.simulation.scene import Frame

_BANDS = "CDEFGHJKLMNPQRSTUVWX"
_COLUMNS = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")
_ROWS = "ABCDEFGHJKLMNPQRSTUV"


@dataclass(frozen=True)
class Granule:
    """One square of the archive's grid."""

    tile: str
    """Tile name in the manner of MGRS, e.g. ``32TPS``; unique in an archive."""
    frame: Frame


def granule_grid(
    epsg: int, left: int, top: int, *, size_px: int, overlap_px: int, columns: int = 1, rows: int = 1
) -> tuple[Granule, ...]:
    """Granules side by side, west to east and north to south.

    Real granules are 10,980 px with 980 px of overlap and are named after the 100 km square they cover; smaller ones
    take the name that a real granule at the same place in the row would have, so that names stay unique.

    Args:
        epsg: UTM zone, 326xx or 327xx.
        left: Easting of the first granule's left edge, metres, multiple of 20.
        top: Northing of its top edge, metres, multiple of 20.
        size_px: Side of a granule, 10 m pixels, a multiple of 4.
        overlap_px: Pixels shared by neighbours, even.
        columns: Granules from west to east.
        rows: Granules from north to south.

    Raises:
        ValueError: The grid would not lie on the 20 m lattice.
    """
    if left % 20 or top % 20 or size_px % 4 or overlap_px % 2 or not 0 <= overlap_px < size_px:
        raise ValueError(
            f"granule grid at {left}, {top} of {size_px} px, overlap {overlap_px}: edges must be multiples of 20 m, "
            "the size a multiple of 4 px, the overlap even and smaller than the size"
        )
    stride_m = (size_px - overlap_px) * int(PIXEL_M)
    zone = epsg % 100
    _, latitude = Transformer.from_crs(epsg, 4326, always_xy=True).transform(left, top)
    band = _BANDS[min(max(int((latitude + 80) // 8), 0), 19)]
    first_column = left // 100_000 - 1
    first_row = top // 100_000 + (5 if zone % 2 == 0 else 0)
    granules = []
    for row in range(rows):
        for column in range(columns):
            letters = _COLUMNS[(zone - 1) % 3]
            square = letters[(first_column + column) % 8] + _ROWS[(first_row - row) % 20]
            frame = Frame(epsg, left + column * stride_m, top - row * stride_m, size_px, size_px)
            granules.append(Granule(f"{zone:02d}{band}{square}", frame))
    return tuple(granules)
