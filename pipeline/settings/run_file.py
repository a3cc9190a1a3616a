"""The run file: YAML read into one frozen pydantic model that holds every default and every limit.

Relative paths in a run file are relative to the file, so that a run can be started from any folder.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.errors import ConfigError
from spex_core.bands import SENTINEL2_BANDS
from spex_core.checkpoints import DEFAULT_CHECKPOINT

Provider = Literal["earth-search", "planetary-computer", "cdse", "generic"]
Explain = Literal["none", "brief", "full"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceConfig(_Section):
    """Where scenes come from."""

    provider: Provider = "earth-search"
    """Decides asset names, radiometry and signing."""
    url: str | None = None
    """STAC API root, or the path/URL of a static ``catalog.json``; default: the provider's public API."""
    collection: str | None = None
    """Collection id; default: the provider's Sentinel-2 L2A collection."""
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

    @field_validator("bands")
    @classmethod
    def _known_bands(cls, bands: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in bands if name not in SENTINEL2_BANDS]
        if unknown:
            raise ValueError(f"no band of Sentinel-2: {', '.join(unknown)}; there are {' '.join(SENTINEL2_BANDS)}")
        if len(set(bands)) < 3:
            raise ValueError("a map needs three different bands or more")
        return tuple(name for name in SENTINEL2_BANDS if name in bands)


class CompositeConfig(_Section):
    """How several scenes become one image."""

    method: Literal["median", "least-cloudy-first"] = "median"
    mask_scl: tuple[int, ...] = (0, 1, 3, 8, 9, 10)
    """Scene classification values that are not used: nodata, saturated, shadow, clouds, cirrus. Snow (11) stays."""
    mask_dilation_px: int = Field(default=2, ge=0, le=64)
    """Cloud and shadow are grown by this many 10 m pixels."""
    max_observations: int = Field(default=8, ge=1, le=64)
    """A pixel's median is over the so many least cloudy passes that saw it; bounds memory. Where all of them are
    cloudy, the next clear one is taken."""


class ModelConfig(_Section):
    """Which model, and how it is asked."""

    checkpoint: str = DEFAULT_CHECKPOINT
    """A built-in name or a folder written by ``save_pretrained``."""
    explain: Explain = "none"
    """``none`` conditions masks on a fixed short answer; ``brief``/``full`` let the model write one (slower)."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products, convolutions and attention; ``auto`` is bfloat16 on CUDA, float32 on a CPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """``torch.compile`` of the vision part; ``auto``: on CUDA for plans of many tiles, where a compiler is found."""
    tiles_per_forward: int = Field(default=4, ge=1, le=1024)
    """Tiles in one forward pass; part of the plan, because float sums depend on it."""


class TilingConfig(_Section):
    """The output grid and its cut into tiles and blocks, all in pixels of ``resolution_m``."""

    resolution_m: float = Field(default=10.0, gt=0)
    tile_px: int = Field(default=256, ge=32, le=4096)
    overlap_px: int = Field(default=64, ge=0)
    """Overlap of neighbouring tiles."""
    margin_px: int | None = None
    """Outermost pixels of a tile that get no weight at all; default ``overlap_px // 4``."""
    block_px: int = Field(default=1024, ge=64, le=16384)
    """Output block: one chunk of the store, one unit of work, written once."""

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


class ComputeConfig(_Section):
    """Ray resources. None of these change a pixel, except ``threads_per_actor`` (float sums)."""

    actors: int | None = Field(default=None, ge=1, le=4096)
    """Model actors; default: one per core, or one per GPU if ``gpus_per_actor`` > 0."""
    gpus_per_actor: float = Field(default=0.0, ge=0)
    threads_per_actor: int = Field(default=1, ge=1)
    readers: int | None = Field(default=None, ge=1)
    """Concurrent block reads; default: as many as actors."""
    prefetch: int = Field(default=2, ge=0, le=64)
    """Blocks read ahead per actor (back-pressure: no more are in flight)."""
    attempts: int = Field(default=3, ge=1, le=20)
    """Attempts per block before it is recorded as missing."""
    answer_within_s: float = Field(default=3600.0, gt=0)
    """A read, classification or write that has not answered after so many seconds is ended and counts as an attempt."""
    object_store_mb: int = Field(default=1024, ge=128)
    """Shared memory of a local Ray."""
    address: str | None = None
    """Ray cluster to join (``auto``, ``ray://...``); default: start a local one."""


class RegionsConfig(_Section):
    """Sub-regions that get statistics and an explanation."""

    id_field: str = "id"
    name_field: str = "name"
    grid_km: float = Field(default=5.0, gt=0)
    """Cell size of the automatic grid, used when the region file has a single area."""
    max_regions: int = Field(default=10_000, ge=1)


class OutputConfig(_Section):
    """What is written."""

    clip: bool = True
    """Pixels outside the region become nodata."""
    collection_id: str = Field(default="spex-landcover", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    overview_resampling: Literal["mode", "nearest"] = "mode"


class RunConfig(_Section):
    """One mapping run. ``RunConfig.from_yaml(path)`` reads a run file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    region: Path
    """GeoJSON file, lon/lat (WGS 84): the area to map; its features are the sub-regions."""
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

    @field_validator("end")
    @classmethod
    def _ordered(cls, end: dt.date, info: Any) -> dt.date:
        start = info.data.get("start")
        if start is not None and end < start:
            raise ValueError(f"end {end} is before start {start}")
        return end

    @classmethod
    def from_dict(cls, data: Any, base: Path | None = None, source: str = "run file") -> RunConfig:
        """Validates plain data; relative ``region``, ``output``, ``legend``, checkpoint and catalog paths start at
        ``base``.

        Raises:
            ConfigError: With one line per wrong field.
        """
        try:
            config = cls.model_validate(data)
        except ValidationError as error:
            lines = [
                f"  {'.'.join(str(p) for p in e['loc']) or '(top level)'}: {e['msg'].removeprefix('Value error, ')}"
                for e in error.errors()
            ]
            raise ConfigError(f"{source} is not a valid run file:\n" + "\n".join(lines)) from error
        return config if base is None else config._anchored(base)

    @classmethod
    def from_yaml(cls, path: str | Path) -> RunConfig:
        """Reads a run file.

        Raises:
            ConfigError: Unreadable, not YAML, or a field is wrong.
        """
        path = Path(path)
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"run file {path} cannot be read: {error}") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"run file {path} is not valid YAML: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"run file {path} must be a mapping of settings, see 'spex plan --help'")
        return cls.from_dict(data, path.parent.resolve(), str(path))

    def _anchored(self, base: Path) -> RunConfig:
        def anchor(value: str) -> str:
            looks_like_path = value.startswith((".", "~")) or "/" in value or value.endswith((".yaml", ".yml", ".json"))
            return str(base / Path(value).expanduser()) if looks_like_path and "://" not in value else value

        source = self.source
        if source.url is not None:
            source = source.model_copy(update={"url": anchor(source.url)})
        roots = tuple(root if "://" in root else str(base / root) for root in source.allowed_roots)
        return self.model_copy(
            update={
                "region": base / self.region.expanduser(),
                "output": base / self.output.expanduser(),
                "legend": anchor(self.legend),
                "source": source.model_copy(update={"allowed_roots": roots}),
                "model": self.model.model_copy(update={"checkpoint": anchor(self.model.checkpoint)}),
            }
        )
