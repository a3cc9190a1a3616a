"""Tiny Sentinel-2 scenes on disk, with STAC items in the manner of each provider. Test support, not a test."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer
from shapely.geometry import mapping

from pipeline.records.scene import SCL
from pipeline.sources.providers import NATIVE_GSD_M, READ_ASSETS

EPSG = 32630
LEFT, TOP = 600_000.0, 5_700_000.0
"""Corner of the first tiny granule, on the 10 m lattice of UTM zone 30."""
SIZE_M = 1280.0

COLOUR_KEYS = {
    "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2", "B07": "rededge3",
    "B08": "nir", "B8A": "nir08", "B11": "swir16", "B12": "swir22", SCL: "scl",
}  # fmt: skip


def write_raster(
    path: Path, values: npt.NDArray[Any], *, left: float, top: float, gsd: float, epsg: int = EPSG, nodata: Any = 0
) -> None:
    """One single-band tiled GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype=values.dtype,
        crs=f"EPSG:{epsg}", transform=Affine(gsd, 0, left, 0, -gsd, top), nodata=nodata, compress="deflate",
        tiled=True, blockxsize=64, blockysize=64,
    ) as ds:  # fmt: skip
        ds.write(values, 1)


def footprint_lonlat(epsg: int, left: float, top: float, size_m: float) -> shapely.Geometry:
    """Square granule, lon/lat."""
    box = shapely.segmentize(shapely.box(left, top - size_m, left + size_m, top), size_m / 4)
    return shapely.transform(box, Transformer.from_crs(epsg, 4326, always_xy=True).transform, interleaved=False)


def write_scene(
    folder: Path,
    identifier: str,
    *,
    dn: int | dict[str, Any] = 2000,
    scl: int | npt.NDArray[Any] = 4,
    left: float = LEFT,
    top: float = TOP,
    size_m: float = SIZE_M,
    epsg: int = EPSG,
    time: str = "2026-06-01T10:30:00Z",
    cloud: float | None = 10.0,
    style: str = "planetary-computer",
    projection: str = "2.0",
    baseline: str | None = "05.11",
    file_nodata: int | None = 0,
    href_prefix: str | None = None,
    properties: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes eleven rasters and returns the STAC item.

    ``dn`` and ``scl`` are constants or arrays at the native resolution of their band.
    """
    assets: dict[str, Any] = {}
    for name in READ_ASSETS:
        gsd = NATIVE_GSD_M[name]
        pixels = round(size_m / gsd)
        value = scl if name == SCL else (dn.get(name, 2000) if isinstance(dn, dict) else dn)
        dtype = np.uint8 if name == SCL else np.uint16
        values = np.broadcast_to(np.asarray(value, dtype), (pixels, pixels))
        path = folder / identifier / f"{name}.tif"
        write_raster(path, np.ascontiguousarray(values), left=left, top=top, gsd=gsd, epsg=epsg, nodata=file_nodata)
        key = COLOUR_KEYS[name] if style == "earth-search" else name
        if style == "cdse":
            key = f"{name}_{gsd:.0f}m"
        assets[key] = {
            "href": str(path) if href_prefix is None else f"{href_prefix}/{identifier}/{name}.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "proj:shape": [pixels, pixels],
            "proj:transform": [gsd, 0.0, left, 0.0, -gsd, top],
        }
    footprint = footprint_lonlat(epsg, left, top, size_m)
    own: dict[str, Any] = {"datetime": time, **(properties or {})}
    own |= {"proj:epsg": epsg} if projection == "1.x" else {"proj:code": f"EPSG:{epsg}"}
    if cloud is not None:
        own["eo:cloud_cover"] = cloud
    if baseline is not None:
        own["s2:processing_baseline"] = baseline
    return {
        "type": "Feature",
        "stac_version": "1.0.0" if projection == "1.x" else "1.1.0",
        "stac_extensions": [],
        "id": identifier,
        "collection": "sentinel-2-l2a",
        "geometry": mapping(footprint),
        "bbox": list(footprint.bounds),
        "properties": own,
        "links": [],
        "assets": assets,
    }


def day(text: str) -> dt.date:
    """A date from ISO text."""
    return dt.date.fromisoformat(text)
