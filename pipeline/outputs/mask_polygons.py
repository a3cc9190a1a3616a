"""Polygons of a class raster with area and confidence, as GeoJSON and, where pyarrow is installed, GeoParquet.

GDAL traces the raster line by line; confidence is read in strips. Memory follows the number of polygons.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.features
import shapely
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow
from shapely.geometry import mapping, shape

from pipeline.errors import ReadError
from pipeline.machine.atomic_files import replacing
from pipeline.predict.stitch import CONFIDENCE_NODATA
from pipeline.records.grid import unproject

STRIP_PX = 512
COORDINATE_DIGITS = 7
"""A centimetre."""


@dataclass(frozen=True)
class MaskPolygon:
    """One connected patch of one class."""

    geometry: shapely.Geometry
    """Lon/lat."""
    code: int
    area_ha: float
    """Its pixels on the UTM grid."""
    confidence: float
    """Mean over its pixels, 0..1."""


def mask_polygons(
    classes: Path, confidence: Path, codes: Sequence[int], *, min_pixels: int = 1
) -> Iterator[MaskPolygon]:
    """Traces the 4-connected patches of some classes, in the order in which GDAL ends them.

    Args:
        classes: uint8 raster of codes, in metres of a UTM zone.
        confidence: uint8 raster of percent on the same grid.
        codes: Classes that are wanted.
        min_pixels: Smaller patches are left out.

    Raises:
        ReadError: A raster cannot be read.
    """
    try:
        with rasterio.open(classes) as source, rasterio.open(confidence) as percent:
            epsg, pixel_m2 = int(source.crs.to_epsg()), abs(source.transform.a * source.transform.e)
            for traced, value in rasterio.features.shapes(rasterio.band(source, 1), transform=source.transform):
                outline = shape(traced)
                pixels = round(outline.area / pixel_m2)
                if int(value) not in codes or pixels < min_pixels:
                    continue
                yield MaskPolygon(
                    geometry=unproject(outline, epsg),
                    code=int(value),
                    area_ha=pixels * pixel_m2 / 10_000,
                    confidence=_mean_confidence(percent, outline),
                )
    except RasterioError as error:
        raise ReadError(f"{classes.name} cannot be traced: {error}") from None


def _mean_confidence(percent: Any, outline: shapely.Geometry) -> float:
    west, south, east, north = outline.bounds
    (top, left), (bottom, right) = ((percent.index(x, y)) for x, y in ((west, north), (east, south)))
    total = count = 0
    for row in range(top, bottom, STRIP_PX):
        window = RasterWindow(left, row, right - left, min(STRIP_PX, bottom - row))
        values = percent.read(1, window=window)
        inside = rasterio.features.geometry_mask(
            [outline], values.shape, percent.window_transform(window), invert=True
        ) & (values != CONFIDENCE_NODATA)
        total += int(values[inside].sum(dtype=np.int64))
        count += int(np.count_nonzero(inside))
    return total / count / 100 if count else 0.0


def write_geojson(polygons: Sequence[MaskPolygon], names: Mapping[int, str], path: Path) -> Path:
    """Writes a FeatureCollection (RFC 7946), atomically, feature by feature.

    Raises:
        OutputError: It cannot be written.
    """
    with replacing(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for position, polygon in enumerate(polygons):
            feature = {
                "type": "Feature",
                "properties": _properties(polygon, names),
                "geometry": mapping(
                    shapely.set_precision(polygon.geometry, 10.0**-COORDINATE_DIGITS, mode="pointwise")
                ),
            }
            file.write(("" if position == 0 else ",") + "\n" + json.dumps(feature, ensure_ascii=False))
        file.write("\n]}\n")
    return path


def write_geoparquet(polygons: Sequence[MaskPolygon], names: Mapping[int, str], path: Path) -> Path | None:
    """Writes GeoParquet 1.1 (WKB, lon/lat), atomically; None where pyarrow is not installed.

    Raises:
        OutputError: It cannot be written.
    """
    if importlib.util.find_spec("pyarrow") is None:
        return None
    import pyarrow
    import pyarrow.parquet

    rows = [_properties(polygon, names) for polygon in polygons]
    columns = {
        "code": pyarrow.array([row["code"] for row in rows], pyarrow.int32()),
        "name": pyarrow.array([row["name"] for row in rows], pyarrow.string()),
        "area_ha": pyarrow.array([row["area_ha"] for row in rows], pyarrow.float64()),
        "confidence": pyarrow.array([row["confidence"] for row in rows], pyarrow.float64()),
        "geometry": pyarrow.array([shapely.to_wkb(polygon.geometry) for polygon in polygons], pyarrow.binary()),
    }
    kinds = sorted({polygon.geometry.geom_type for polygon in polygons})
    geo = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": kinds}},
    }
    table = pyarrow.table(columns).replace_schema_metadata({"geo": json.dumps(geo)})
    with replacing(path) as draft:
        pyarrow.parquet.write_table(table, draft)
    return path


def _properties(polygon: MaskPolygon, names: Mapping[int, str]) -> dict[str, Any]:
    return {
        "code": polygon.code,
        "name": names[polygon.code],
        "area_ha": round(polygon.area_ha, 4),
        "confidence": round(polygon.confidence, 4),
    }
