"""What a Sentinel-2 scene is to the rest of the pipeline: a small frozen record, JSON in and out, no pixels."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, fields
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
    nodata: float = 0
    """DN that means "no measurement"; a whole number is an int."""
    gsd_m: float = 10.0
    """Native pixel size, metres."""
    shape: tuple[int, int] | None = None
    """Rows and columns of the file, where the item says."""
    transform: tuple[float, ...] | None = None
    """Affine of the file, six numbers row-major (pixel to easting and northing), where the item says."""
    provider: str | None = None
    """Whose signature the link needs, if not that of the scene's provider."""
    copies: tuple[SceneAsset, ...] = ()
    """The same raster in other places, in the order in which they are tried when this one cannot be read. None of them
    has copies itself."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, without what most files do not have."""
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        data["copies"] = [copy.to_dict() for copy in self.copies]
        return {name: value for name, value in data.items() if name not in ("provider", "copies") or value}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SceneAsset:
        """From JSON, where tuples have become lists."""
        shape, transform = data.get("shape"), data.get("transform")
        return cls(
            **{
                **data,
                "shape": None if shape is None else (int(shape[0]), int(shape[1])),
                "transform": None if transform is None else tuple(transform),
                "copies": tuple(cls.from_dict(copy) for copy in data.get("copies", ())),
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
    tile: str = ""
    """MGRS tile, such as ``31UFS``, where it is known."""
    datatake_start: dt.datetime | None = None
    """When the satellite began the swath that holds the granule, UTC, where it is known."""
    told_offsets: tuple[float, ...] = ()
    """Offsets that the item names in any way (flag, processing baseline, raster metadata), the most believed first."""
    doubt: str = ""
    """One line where the metadata could not be believed: what was put in their place, or what stays doubtful, and the
    evidence. Empty: nothing speaks against them."""

    @property
    def moment(self) -> dt.datetime:
        """The time that orders scenes: catalogs give the granule's or the datatake's as ``datetime``."""
        return self.datetime if self.datatake_start is None else self.datatake_start

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            **data,
            "datetime": self.datetime.isoformat(),
            "datatake_start": None if self.datatake_start is None else self.datatake_start.isoformat(),
            "assets": {name: asset.to_dict() for name, asset in self.assets.items()},
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Scene:
        """Inverse of :meth:`to_dict`."""
        began = data.get("datatake_start")
        return cls(
            **{
                **data,
                "datetime": dt.datetime.fromisoformat(data["datetime"]),
                "datatake_start": None if began is None else dt.datetime.fromisoformat(began),
                "bbox": tuple(data["bbox"]),
                "told_offsets": tuple(data.get("told_offsets", ())),
                "assets": {name: SceneAsset.from_dict(asset) for name, asset in data["assets"].items()},
            }
        )
