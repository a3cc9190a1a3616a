"""The run file: YAML read into one frozen pydantic model that holds every default and every limit.

Relative paths in a run file are relative to the file, so that a run can be started from any folder.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from pipeline.errors import ConfigError
from pipeline.records.scene import SCL_GROWING
from pipeline.settings.days import whole_day
from pipeline.settings.publishing import OutputConfig
from pipeline.settings.yaml_file import Section, SettingsFile, anchored, anchored_name
from spex_core.bands import SENTINEL2_BANDS
from spex_core.checkpoints import DEFAULT_CHECKPOINT, DEFAULT_CLOUD_CHECKPOINT

Provider = Literal["earth-search", "planetary-computer", "cdse", "generic"]
Explain = Literal["none", "brief", "full"]


class CatalogConfig(Section):
    """One catalog."""

    provider: Provider = "earth-search"
    """Decides asset names, radiometry and signing."""
    url: str | None = None
    """STAC API root, or the path/URL of a static ``catalog.json``; default: the provider's public API."""
    collection: str | None = None
    """Collection id; default: the provider's Sentinel-2 L2A collection."""


class SourceConfig(CatalogConfig):
    """Where scenes come from: one catalog, or several in order of preference, written as a list or as names."""

    others: tuple[CatalogConfig, ...] = ()
    """Further catalogs, in order of preference: for granules that those before lack, and as places of second copies."""
    bands: tuple[str, ...] = SENTINEL2_BANDS
    """Sentinel-2 bands that are read: fewer than the ten for collections that hold fewer (RGB and near infrared, say),
    with a checkpoint trained for missing bands."""
    max_cloud_cover: float = Field(default=80.0, ge=0, le=100)
    """Percent (``eo:cloud_cover``); checked again on the client."""
    max_scenes: int = Field(default=2000, ge=1)
    """Safety limit on the number of scenes in one run."""
    allowed_schemes: tuple[str, ...] = ("https", "http", "s3", "file")
    """Asset hrefs of any other scheme are refused."""
    allowed_roots: tuple[str, ...] = ()
    """If given, asset hrefs must start with one of these (URL prefixes or folders)."""

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, data: Any) -> Any:
        """A list of catalogs, or names of providers with commas between them, as the first one and the others."""
        if isinstance(data, str):
            data = [name.strip() for name in data.split(",")]
        if not isinstance(data, list | tuple):
            return data
        entries = [{"provider": entry} if isinstance(entry, str) else entry for entry in data]
        if not entries or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError("a list of catalogs, each the name of a provider or a mapping (provider, url, collection)")
        first, *others = entries
        if any("others" in entry for entry in entries):
            raise ValueError("others is what a list has behind its first entry: write one or the other")
        shared = cls.model_fields.keys() - CatalogConfig.model_fields.keys()
        for key in sorted(shared):
            if any(key in entry and entry[key] != first.get(key) for entry in others):
                raise ValueError(f"{key} holds for all catalogs of the list: give it in the first entry")
        return {**first, "others": [{k: v for k, v in entry.items() if k not in shared} for entry in others]}

    @model_validator(mode="after")
    def _each_once(self) -> SourceConfig:
        places = [(entry.provider, entry.url, entry.collection) for entry in (self, *self.others)]
        if len(set(places)) < len(places):
            raise ValueError("the same catalog is listed twice")
        return self

    @property
    def catalogs(self) -> tuple[SourceConfig, ...]:
        """Each catalog as a source of its own, with the limits of all, in order of preference."""
        alone = {"others": ()}
        places = ({"provider": c.provider, "url": c.url, "collection": c.collection} for c in (self, *self.others))
        return tuple(self.model_copy(update={**place, **alone}) for place in places)

    @field_validator("bands")
    @classmethod
    def _known_bands(cls, bands: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in bands if name not in SENTINEL2_BANDS]
        if unknown:
            raise ValueError(f"no band of Sentinel-2: {', '.join(unknown)}; there are {' '.join(SENTINEL2_BANDS)}")
        if len(set(bands)) < 3:
            raise ValueError("a map needs three different bands or more")
        return tuple(name for name in SENTINEL2_BANDS if name in bands)


class CompositeConfig(Section):
    """How several scenes become one image."""

    method: Literal["median", "least-cloudy-first", "fuse"] = "median"
    """What is classified: the median of the dates; the least cloudy date of each pixel; or every date by itself, and
    the mean of their log scores is taken (``fuse``: as many passes of the model as there are dates)."""
    mask_scl: tuple[int, ...] = (0, 1, 3, 8, 9, 10)
    """Scene classification values that are not used: nodata, saturated, shadow, clouds, cirrus. Snow (11) stays."""
    cloud_mask: Literal["scl", "model", "both"] = "scl"
    """What decides where cloud and its shadow are: the scene classification, the cloud network instead of its values 3,
    8, 9 and 10, or either of the two. The network reads six bands of every date and takes about a CPU second for a
    hundred square kilometres of each."""
    cloud_checkpoint: str = DEFAULT_CLOUD_CHECKPOINT
    """Built-in name or folder of the cloud network."""
    mask_dilation_px: int = Field(default=2, ge=0, le=64)
    """Cloud and shadow are grown by this many 10 m pixels."""
    reject_outliers: bool = False
    """Leaves out of a pixel's median the dates that are far brighter or darker than its others: cloud and shadow that
    the masks have missed. Takes ``method: median`` or ``fuse``, and blue, red and near infrared."""
    max_observations: int = Field(default=8, ge=1, le=64)
    """A pixel's median is over the so many least cloudy passes that saw it; bounds memory, and of ``fuse`` the passes
    of the model. Where all of them are cloudy, the next clear one is taken."""

    @model_validator(mode="after")
    def _outliers_of_a_median(self) -> CompositeConfig:
        if self.reject_outliers and self.method == "least-cloudy-first":
            raise ValueError("reject_outliers compares dates: set method to median or fuse, or leave it out")
        return self

    @property
    def masked_scl(self) -> tuple[int, ...]:
        """Scene classification values in force: those of cloud and shadow are not where the network stands for them."""
        if self.cloud_mask != "model":
            return self.mask_scl
        return tuple(value for value in self.mask_scl if value not in SCL_GROWING)

    def dilation_px(self, resolution_m: float) -> int:
        """The growth in pixels of a grid, which may be coarser than 10 m."""
        return round(self.mask_dilation_px * 10.0 / resolution_m)


class ModelConfig(Section):
    """Which model, and how it is asked."""

    checkpoint: str = DEFAULT_CHECKPOINT
    """A built-in name or a folder written by ``save_pretrained``."""
    explain: Explain = "none"
    """Whether the model is asked about every sub-region of the finished map: ``brief`` about one image of it, ``full``
    about up to three. The map is the same for all values."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")
    """``auto``, ``cpu``, ``cuda`` (whichever GPUs Ray lends) or ``cuda:N`` (that GPU of this machine, no other)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products, convolutions and attention; ``auto`` is bfloat16 on CUDA, float32 on a CPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """``torch.compile`` of the vision part; ``auto``: on CUDA for plans of many tiles, where a compiler is found."""
    tiles_per_forward: int | None = Field(default=None, ge=1, le=1024)
    """Tiles in one forward pass; part of the plan, because float sums depend on it. Default: 1 on a CPU; 4
    on a GPU, which is what a block of the default size holds.
    """

    @field_validator("compile", mode="before")
    @classmethod
    def _as_written(cls, value: Any) -> Any:
        """YAML reads a bare ``on`` or ``off`` as a truth value."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _whole_tiles(tiling: dict[str, Any]) -> int:
    """Side of a block that tiles fill, px; a multiple of 16."""
    stride = int(tiling.get("tile_px", 0)) - int(tiling.get("overlap_px", 0))
    sides = range(stride, 2048, stride) if stride > 0 else ()
    fitting = (side for side in sides if side % 16 == 0 and side >= 64)
    return min(fitting, key=lambda side: abs(side - 900), default=1024)


class TilingConfig(Section):
    """The output grid and its cut into tiles and blocks, all in pixels of ``resolution_m``."""

    resolution_m: float = Field(default=10.0, gt=0, le=10_000)
    tile_px: int = Field(default=512, ge=32, le=4096)
    overlap_px: int = Field(default=64, ge=0)
    """Overlap of neighbouring tiles."""
    margin_px: int | None = None
    """Outermost pixels of a tile that get no weight at all; default ``overlap_px // 4``."""
    block_px: int = Field(default_factory=lambda data: _whole_tiles(data), ge=64, le=16384)
    """Output block: one chunk of the store, one unit of work, written once. Default: a whole number of tiles without
    their overlap, about 900 px, so that little is read for two blocks."""

    @model_validator(mode="after")
    def _fits(self) -> TilingConfig:
        if self.overlap_px > self.tile_px // 2:
            raise ValueError(f"overlap_px {self.overlap_px} must be at most half of tile_px {self.tile_px}")
        if self.overlap_px % 2:
            raise ValueError(f"overlap_px {self.overlap_px} must be even")
        if self.margin_px is not None and not 0 <= 2 * self.margin_px <= self.overlap_px:
            raise ValueError(f"margin_px {self.margin_px} must be between 0 and overlap_px/2 = {self.overlap_px // 2}")
        if self.tile_px % 32:
            raise ValueError(f"tile_px {self.tile_px} must be a multiple of 32 (the encoder's largest stride)")
        if self.block_px % 16:
            raise ValueError(f"block_px {self.block_px} must be a multiple of 16 (GeoTIFF tiles)")
        return self

    @property
    def margin(self) -> int:
        """The margin in force, px."""
        return self.overlap_px // 4 if self.margin_px is None else self.margin_px


DEFAULT_STORE_MB = 1024


class ComputeConfig(Section):
    """Ray resources. None of these change a pixel, except ``threads_per_actor`` (float sums)."""

    actors: int | None = Field(default=None, ge=1, le=4096)
    """Model actors, from the start to the end; default: one per usable CPU, or as many as the GPUs carry if
    ``gpus_per_actor`` > 0, and more when nodes join a cluster."""
    min_actors: int | None = Field(default=None, ge=1, le=4096)
    """Instead of ``actors``: so many from the start to the end; default: one if ``max_actors`` is given."""
    max_actors: int | None = Field(default=None, ge=1, le=4096)
    """Instead of ``actors``: so many at most. Actors are hired while blocks wait for one, and let go when none has for
    a minute; an autoscaler brings and takes their machines."""
    machines_within_s: float = Field(default=1800.0, gt=0)
    """How long a run waits for machines while it has no actor at all."""
    gpus_per_actor: float = Field(default=0.0, ge=0)
    """As Ray's ``num_gpus``: 1, 2, ... whole GPUs for each actor, or a fraction of one (0.5: two share a GPU)."""
    threads_per_actor: int = Field(default=1, ge=1)
    readers: int | None = Field(default=None, ge=1)
    """Most blocks that are read at the same time; default: as many as actors. A run begins with one, and adds one
    whenever an actor has had to wait for another block."""
    prefetch: int = Field(default=2, ge=0, le=64)
    """Blocks read ahead per actor (back-pressure: no more are in flight)."""
    attempts: int = Field(default=3, ge=1, le=20)
    """Attempts per block before it is recorded as missing."""
    answer_within_s: float = Field(default=3600.0, gt=0)
    """A read, classification or write that has not answered after so many seconds is ended and counts as an attempt."""
    object_store_mb: int | None = Field(default=None, ge=128)
    """Shared memory of a local Ray, MiB: blocks on their way lie there. Default: what the plan wants, at least 1024 and
    at most three tenths of the free memory."""
    address: str | None = None
    """Ray cluster to join (``auto``, ``ray://...``); default: start a local one."""

    @model_validator(mode="after")
    def _one_number_or_two(self) -> ComputeConfig:
        if self.actors is not None and (self.min_actors or self.max_actors):
            raise ValueError("actors is a fixed number of them: leave it out with min_actors or max_actors")
        if self.min_actors and self.max_actors and self.min_actors > self.max_actors:
            raise ValueError(f"min_actors {self.min_actors} must be at most max_actors {self.max_actors}")
        return self

    @field_validator("gpus_per_actor")
    @classmethod
    def _lendable(cls, gpus: float) -> float:
        if gpus > 1 and not gpus.is_integer():
            raise ValueError(f"{gpus:g} GPUs cannot be lent: a fraction of one (0.5), or whole ones (1, 2, ...)")
        return gpus


class RegionsConfig(Section):
    """Sub-regions that get statistics and an explanation."""

    id_field: str = "id"
    name_field: str = "name"
    grid_km: float = Field(default=5.0, gt=0, le=1000)
    """Cell size of the automatic grid, used when the region file has a single area."""
    max_regions: int = Field(default=10_000, ge=1)
    layer: str | None = Field(default=None, min_length=1, max_length=200)
    """Layer of a region file that has several (GeoPackage, KML, an archive); default: the only one."""
    where: str | None = Field(default=None, min_length=1, max_length=2000)
    """Only features whose properties satisfy this SQL condition, ``country = 'BE' AND area_km2 > 5``."""


_Catalog = TypeVar("_Catalog", bound=CatalogConfig)


def _anchored_catalog(base: Path, catalog: _Catalog) -> _Catalog:
    return catalog if catalog.url is None else catalog.model_copy(update={"url": anchored_name(base, catalog.url)})


class RunConfig(SettingsFile):
    """One mapping run. ``RunConfig.from_yaml(path)`` reads a run file."""

    _kind: ClassVar[str] = "run file"
    _help: ClassVar[str] = "'spex plan --help'"

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    region: Path
    """The area to map: GeoJSON, GeoPackage, Shapefile (zip too), KML, KMZ, FlatGeobuf or GeoParquet; its features are
    the sub-regions."""
    start: dt.date
    """First day, inclusive (UTC)."""
    end: dt.date
    """Last day, inclusive (UTC)."""
    output: Path = Path("out")
    legend: str = "worldcover9"
    """Built-in name or YAML file."""
    source: SourceConfig = SourceConfig()
    composite: CompositeConfig = CompositeConfig()
    model: ModelConfig = ModelConfig()
    tiling: TilingConfig = TilingConfig()
    compute: ComputeConfig = ComputeConfig()
    regions: RegionsConfig = RegionsConfig()
    publish: OutputConfig = OutputConfig()

    @field_validator("start", "end", mode="before")
    @classmethod
    def _whole_day(cls, value: Any) -> Any:
        return whole_day(value)

    @field_validator("end")
    @classmethod
    def _ordered(cls, end: dt.date, info: Any) -> dt.date:
        start = info.data.get("start")
        if start is not None and end < start:
            raise ValueError(f"end {end} is before start {start}")
        return end

    def _anchored(self, base: Path) -> RunConfig:
        source = self.source
        others = tuple(_anchored_catalog(base, catalog) for catalog in source.others)
        source = _anchored_catalog(base, source).model_copy(update={"others": others})
        if len({(one.provider, one.url, one.collection) for one in source.catalogs}) <= len(others):
            raise ConfigError("source: the same catalog is listed twice, under two spellings of its path")
        roots = tuple(root if "://" in root else str(anchored(base, root)) for root in source.allowed_roots)
        # What the file does not name stays unnamed: an adapted checkpoint brings its own.
        legend = {"legend": anchored_name(base, self.legend)} if "legend" in self.model_fields_set else {}
        return self.model_copy(
            update={
                **legend,
                "region": anchored(base, self.region),
                "output": anchored(base, self.output),
                "source": source.model_copy(update={"allowed_roots": roots}),
                "composite": self.composite.model_copy(
                    update={"cloud_checkpoint": anchored_name(base, self.composite.cloud_checkpoint)}
                ),
                "model": self.model.model_copy(update={"checkpoint": anchored_name(base, self.model.checkpoint)}),
            }
        )
