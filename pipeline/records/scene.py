"""What a Sentinel-2 scene is to the rest of the pipeline: a small frozen record, JSON in and out, no pixels."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass
from typing import Any

SCL = "SCL"
"""Key of the scene classification layer in :attr:`Scene.assets`."""
SCL_NODATA = 0
SCL_GROWING = (3, 8, 9, 10)
"""Classes whose surroundings are doubtful too: shadow and cloud edges. Nodata and defects stay as they are."""


@dataclass(frozen=True)
class SceneAsset:
    """One raster file of a scene, on its native grid."""

    href: str
    """Unsigned location (https, s3, file); signed only when opened."""
    scale: float = 1.0
    """reflectance = DN * scale + offset. SCL: 1."""
    offset: float = 0.0
    nodata: int = 0
    """DN that means "no measurement"."""
    gsd_m: float = 10.0
    """Native pixel size, metres."""
    shape: tuple[int, int] | None = None
    """Rows and columns of the file, where the item says."""
    transform: tuple[float, ...] | None = None
    """Affine of the file, six numbers row-major (pixel to easting and northing), where the item says."""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SceneAsset:
        """From JSON, where tuples have become lists."""
        shape, transform = data.get("shape"), data.get("transform")
        return cls(
            **{
                **data,
                "shape": None if shape is None else (int(shape[0]), int(shape[1])),
                "transform": None if transform is None else tuple(transform),
            }
        )


@dataclass(frozen=True)
class Scene:
    """One granule at one time, normalised from whatever its provider serves."""

    id: str
    collection: str
    provider: str
    datetime: dt.datetime
    """Acquisition time, UTC."""
    cloud_cover: float
    """Percent; 100 where the item does not say."""
    epsg: int
    """UTM zone of the granule."""
    bbox: tuple[float, float, float, float]
    """lon/lat: west, south, east, north."""
    footprint: dict[str, Any]
    """GeoJSON geometry, lon/lat."""
    assets: dict[str, SceneAsset]
    """Band name of ``SENTINEL2_BANDS`` (and ``"SCL"``) → file."""
    radiometry: str
    """One line: which offset and scale were chosen, and by what evidence."""
    self_href: str | None = None
    """Link to the STAC item, for ``derived_from``."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**asdict(self), "datetime": self.datetime.isoformat()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Scene:
        """Inverse of :meth:`to_dict`."""
        return cls(
            **{
                **data,
                "datetime": dt.datetime.fromisoformat(data["datetime"]),
                "bbox": tuple(data["bbox"]),
                "assets": {name: SceneAsset.from_dict(asset) for name, asset in data["assets"].items()},
            }
        )
