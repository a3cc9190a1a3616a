"""The file of ``spex spie``: where images and labels come from, which chips are taken, and how they are stored.

Read like a run file (:mod:`pipeline.settings.run_file`): YAML through frozen pydantic models, paths relative to the
file, one line per wrong field.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.settings.run_file import CompositeConfig, SourceConfig
from pipeline.settings.yaml_file import Section, SettingsFile, anchored, anchored_name
from spex_core.bands import BAND_INDEX, SENTINEL2_BANDS

LabelProvider = Literal["planetary-computer", "cdse", "generic"]


class AreaConfig(Section):
    """A region at one time; the same region at several times is several areas."""

    region: Path
    """GeoJSON, lon/lat."""
    start: dt.date
    """First day of the imagery, inclusive (UTC)."""
    end: dt.date
    """Last day, inclusive (UTC). All scenes of the period become one composite; for single dates give single days."""

    @field_validator("end")
    @classmethod
    def _ordered(cls, end: dt.date, info: Any) -> dt.date:
        start = info.data.get("start")
        if start is not None and end < start:
            raise ValueError(f"end {end} is before start {start}")
        return end


class LabelConfig(Section):
    """The label collection; what is not given comes from the provider's land-cover product."""

    provider: LabelProvider = "planetary-computer"
    """``planetary-computer``: ESA WorldCover; ``cdse``: its successor, the Copernicus map; or ``generic``."""
    url: str | None = None
    """STAC API root, or the path/URL of a static ``catalog.json``."""
    collection: str | None = None
    asset: str | None = None
    """Key of the single-band class raster."""
    codes: dict[int, int] | None = None
    """Code in the raster → code of the legend; what is not listed is not labelled. Default: the product's own table,
    for ``generic`` each legend code as itself."""
    nodata: int | None = Field(default=None, ge=0, le=255)
    """Code that means "not labelled", beside what the files say."""
    start: dt.date = dt.date(1980, 1, 1)
    """Labels of this day or later; where several maps cover a pixel, the newest that has a class there counts."""
    end: dt.date = dt.date(2100, 1, 1)
    licence: str | None = None
    """Default: what the items say, or the product's."""
    allowed_schemes: tuple[str, ...] = ("https", "http", "s3", "file")
    allowed_roots: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> LabelConfig:
        if self.provider == "generic" and (self.url is None or self.asset is None):
            raise ValueError("the generic provider needs url and asset (and collection, where the catalog has several)")
        return self


class LocalConfig(Section):
    """Pairs of rasters on this machine."""

    image: str
    """File, or glob, of multi-band images in metres of a projected CRS; chips keep their pixel grid."""
    label: str
    """Single-band class raster; ``{stem}`` stands for the image's file name without extension."""
    bands: tuple[str, ...] = SENTINEL2_BANDS
    """Sentinel-2 names of the file's bands in order; ``-`` leaves one out. Bands that are not there stay missing."""
    scale: float = 1e-4
    """Reflectance = value * scale + offset."""
    offset: float = 0.0
    nodata: float | None = None
    """Value that means "no measurement", beside what the file says."""
    codes: dict[int, int] | None = None
    """Code in the label file → code of the legend; default: each legend code as itself."""
    date: dt.date | None = None
    """Day of the images, where known."""
    licence: str = "unspecified"
    """Of images and labels."""

    @field_validator("bands")
    @classmethod
    def _known(cls, bands: tuple[str, ...]) -> tuple[str, ...]:
        named = [band for band in bands if band != "-"]
        unknown = [band for band in named if band not in BAND_INDEX]
        if unknown or len(set(named)) != len(named) or not named:
            raise ValueError(
                f"{' '.join(unknown) or ' '.join(bands)}: name each band once, of {' '.join(SENTINEL2_BANDS)}, or -"
            )
        return bands


class ChipConfig(Section):
    """Which chips are taken."""

    size_px: int = Field(default=256, ge=32, le=2048)
    per_stratum: int = Field(default=200, ge=1)
    """At most so many chips whose rarest class is the same."""
    presence: float = Field(default=0.02, gt=0, le=1)
    """A class counts as present from this share of a chip's labelled pixels on."""
    min_labelled: float = Field(default=0.5, ge=0, le=1)
    """Least share of pixels that have both a class of the legend and a clear observation."""
    max_cloud: float = Field(default=0.1, ge=0, le=1)
    """Largest share of the labelled pixels without a clear observation."""
    resolution_m: float = Field(default=10.0, gt=0)
    """Of areas; local images keep their own."""
    cell_chips: int = Field(default=4, ge=1, le=1024)
    """Side of a geographic cell in chips. Chips are spread over cells, and a cell is never split."""
    max_places: int = Field(default=20_000, ge=1)
    """Places whose labels are looked at; where there are more, so many are taken evenly over the cells."""

    @field_validator("size_px")
    @classmethod
    def _stride(cls, size_px: int) -> int:
        if size_px % 32:
            raise ValueError(f"{size_px} must be a multiple of 32 (the encoder's largest stride)")
        return size_px


class SpieConfig(SettingsFile):
    """One data set. ``SpieConfig.from_yaml(path)`` reads its file."""

    _kind: ClassVar[str] = "data set file"
    _help: ClassVar[str] = "'spex spie --help'"

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    output: Path = Path("out")
    legend: str = "worldcover9"
    """Built-in name or YAML file."""
    seed: int = Field(default=0, ge=0)
    areas: tuple[AreaConfig, ...] = ()
    source: SourceConfig = SourceConfig()
    """Imagery of the areas; as in a run file."""
    composite: CompositeConfig = CompositeConfig()
    """As in a run file."""
    imagery_licence: str | None = None
    """Default: that of Copernicus Sentinel data for the public catalogs, unspecified for another ``source.url``."""
    labels: LabelConfig = LabelConfig()
    local: tuple[LocalConfig, ...] = ()
    chips: ChipConfig = ChipConfig()
    validation: float = Field(default=0.0, ge=0, le=0.9)
    """Share of the geographic cells whose chips are for validation; 0: all chips are for training."""
    chips_per_shard: int = Field(default=64, ge=1, le=10_000)
    """One chip of 256 px takes 1.5 MB."""
    readers: int = Field(default=4, ge=1, le=64)
    """Chips read at the same time; changes nothing in the data set."""

    @model_validator(mode="after")
    def _has_input(self) -> SpieConfig:
        if not self.areas and not self.local:
            raise ValueError("give areas (region, start, end) or local (image, label), or both")
        return self

    def _anchored(self, base: Path) -> SpieConfig:
        def file(value: str) -> str:
            return value if "://" in value else str(anchored(base, value))

        def roots(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(file(value) for value in values)

        source, labels = (
            section.model_copy(
                update={
                    "url": None if section.url is None else file(section.url),
                    "allowed_roots": roots(section.allowed_roots),
                }
            )
            for section in (self.source, self.labels)
        )
        others = tuple(
            catalog if catalog.url is None else catalog.model_copy(update={"url": file(catalog.url)})
            for catalog in self.source.others
        )
        return self.model_copy(
            update={
                "output": anchored(base, self.output),
                "legend": anchored_name(base, self.legend),
                "areas": tuple(area.model_copy(update={"region": anchored(base, area.region)}) for area in self.areas),
                "source": source.model_copy(update={"others": others}),
                "labels": labels,
                "local": tuple(
                    pair.model_copy(update={"image": file(pair.image), "label": file(pair.label)})
                    for pair in self.local
                ),
            }
        )

    def fingerprint(self, **inputs: Any) -> str:
        """sha256 prefix (16 hex digits) over all that can change a chip; ``inputs`` stand for the content of files."""
        settings = self.model_dump(
            mode="json", exclude={"output": True, "readers": True, "legend": True, "areas": {"__all__": {"region"}}}
        )
        text = json.dumps({"settings": settings, **inputs}, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
