"""The section ``publish`` of a run file: what is written beside the class map, and what it says of its publisher."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from pipeline.settings.yaml_file import Section


class ProviderConfig(Section):
    """An organisation that made, hosts or licences the map."""

    name: str = Field(min_length=1, max_length=300)
    url: str | None = Field(default=None, pattern=r"^https?://[^\s@]+$")
    description: str | None = Field(default=None, max_length=2000)
    roles: tuple[Literal["producer", "processor", "host", "licensor"], ...] = ("producer", "processor")


class OutputConfig(Section):
    """What is written."""

    clip: bool = True
    """Pixels outside the region become nodata."""
    collection_id: str = Field(default="spex-landcover", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    overview_resampling: Literal["mode", "nearest"] = "mode"
    scores: bool = False
    """Also the score of every class as ``scores.tif``, one band each; about as large as all other rasters together."""
    polygons: bool | Literal["smooth"] = False
    """Also the areas of the classes as polygons (``classes.parquet``): along the pixels, or with smooth outlines."""
    mosaic: str | None = Field(default=None, pattern=r"^EPSG:[0-9]{4,6}$")
    """Also one map of all zones, in this projected system (``EPSG:3035``), by the nearest pixel."""
    unfamiliar: bool = True
    """Also how unlike anything the model was trained on a pixel is (``unfamiliar.tif``), where the checkpoint knows."""
    license: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]{0,99}$")
    """SPDX identifier of the licence of the map (``CC-BY-4.0``), or ``other``."""
    providers: tuple[ProviderConfig, ...] = ()
    """Who made, hosts or licences the map; Copernicus is named after them."""
    citation: str | None = Field(default=None, min_length=1, max_length=2000)
    """How the map is to be cited."""
    url: str | None = None
    """Address under which the output folder will be found (``https://maps.example.org/landcover``): then catalog,
    items and ``items.parquet`` name it, which an API that serves the table needs."""

    @field_validator("mosaic")
    @classmethod
    def _in_metres(cls, mosaic: str | None) -> str | None:
        if mosaic is not None:
            from pyproj import CRS
            from pyproj.exceptions import CRSError

            try:
                system = CRS(mosaic)
            except CRSError:
                raise ValueError(f"{mosaic} is not known") from None
            if not system.is_projected or {axis.unit_name for axis in system.axis_info} != {"metre"}:
                raise ValueError(f"{mosaic} ({system.name}) is no projected system in metres, as EPSG:3035 is")
        return mosaic

    @field_validator("url")
    @classmethod
    def _plain_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https", "s3", "gs", "az", "file") and (parts.netloc or parts.path)
        if not known or "@" in parts.netloc or parts.query or parts.fragment or not url.isprintable() or " " in url:
            raise ValueError(f"{parts.scheme or 'it'} is no plain address of a folder: https://host/path is")
        return url
