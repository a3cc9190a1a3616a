"""The evaluation file: YAML read into one frozen pydantic model. Relative paths start at the file's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.datasets.config import DatasetConfig
from pipeline.settings.yaml_file import Section, SettingsFile, anchored, anchored_name
from spex_core.bands import BAND_SETS, SENTINEL2_BANDS
from spex_core.checkpoints import DEFAULT_CHECKPOINT

RowName = Literal["model", "shuffled", "none", "index_rules", "forest"]


class WorldConfig(Section):
    """One world of the simulator."""

    seed: int = Field(ge=0)
    """Of its first chip; the others follow."""
    biome: str | None = None
    """Name of a biome of :mod:`pipeline.simulation.biomes`; default: a random one."""
    season: float | None = Field(default=None, ge=0, le=1)
    """Year phase, 0 midwinter, 0.5 midsummer; default: random per chip."""
    haze: float | None = None
    """Residual B02 reflectance of the atmosphere; default: random per chip."""


class SimulatedConfig(Section):
    """Chips of the simulator: a random world per chip from ``first_seed`` on, or chips of the listed worlds."""

    chips: int = Field(default=60, ge=1)
    """How many; with ``worlds``, so many of each."""
    first_seed: int = Field(default=900_000, ge=0)
    """Seeds from 900,000 on are never trained on."""
    worlds: tuple[WorldConfig, ...] | Literal["held-out"] = ()
    """``held-out``: the six worlds of :mod:`pipeline.simulation.held_out`. Each world is reported by itself as well."""
    size_px: int = Field(default=256, ge=32, le=2048)

    @field_validator("size_px")
    @classmethod
    def _even(cls, size_px: int) -> int:
        if size_px % 32:
            raise ValueError(f"{size_px} is not a multiple of 32")
        return size_px


class ChipsConfig(Section):
    """A chip folder (see :mod:`pipeline.chips.chip_folder`)."""

    folder: Path
    first: int = Field(default=0, ge=0)
    """Position of the first chip."""
    count: int | None = Field(default=None, ge=1)
    """Default: all from ``first`` on."""
    min_confidence: float = Field(default=0.0, ge=0, le=1)
    """Labels whose best class is less probable than this are not compared (labels of a teacher)."""


class ShardsConfig(Section):
    """A data set of ``spex spie``."""

    folder: Path
    split: Literal["train", "validation"] | None = None
    """Default: all chips."""
    min_confidence: float = Field(default=0.0, ge=0, le=1)


class RasterConfig(Section):
    """One image, with label polygons or a label raster."""

    image: Path
    """Any raster that GDAL reads."""
    image_bands: tuple[str, ...] = SENTINEL2_BANDS
    """Sentinel-2 band that each band of the file stands for, in the file's order."""
    sensor: Literal["sentinel-2", "landsat"] = "sentinel-2"
    """Whose band centres and pixel sizes the model is told; ``image_bands`` keep the names of Sentinel-2."""
    gsd_m: float | None = Field(default=None, gt=0)
    """Pixel size on the ground, metres, where the image was resampled to a coarser grid than the sensor's own."""
    scale: float = Field(default=1e-4, gt=0)
    """Reflectance is value * scale + offset."""
    offset: float = 0.0
    nodata: float | None = None
    """Default: the file's own."""
    labels: dict[str, Path] | Path
    """Vector file (GeoPackage or GeoJSON) per group, or one label raster."""
    label_codes: dict[str, tuple[int, ...]] | None = None
    """For a label raster: codes of each group; default: the legend's codes."""
    tile_px: int = Field(default=256, ge=32, le=2048)
    overlap_px: int = Field(default=64, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> RasterConfig:
        unknown = [band for band in self.image_bands if band not in SENTINEL2_BANDS]
        if unknown or len(set(self.image_bands)) != len(self.image_bands):
            raise ValueError(f"image_bands: name bands of {' '.join(SENTINEL2_BANDS)}, each once; got {unknown}")
        if self.tile_px % 32 or not self.overlap_px <= self.tile_px // 2:
            raise ValueError("tile_px must be a multiple of 32, overlap_px at most half of it")
        if isinstance(self.labels, dict) and self.label_codes is not None:
            raise ValueError("label_codes are for a label raster, not for polygons")
        return self


class SourceConfig(Section):
    """Labelled chips of one origin: exactly one of the fields."""

    simulated: SimulatedConfig | None = None
    chips: ChipsConfig | None = None
    shards: ShardsConfig | None = None
    raster: RasterConfig | None = None
    dataset: DatasetConfig | None = None

    @model_validator(mode="after")
    def _one(self) -> SourceConfig:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}; got {given or 'none'}")
        return self


class ForestConfig(Section):
    """The per-pixel random forest that stands beside the model."""

    trees: int = Field(default=100, ge=1, le=2000)
    pixels_per_class: int = Field(default=2000, ge=1)
    """Training pixels of each class; of rarer classes, all that were drawn."""
    chips: int = Field(default=400, ge=1)
    """Training chips that pixels are drawn from, evenly spread."""
    min_leaf: int = Field(default=3, ge=1)


class EvaluationConfig(SettingsFile):
    """One evaluation. ``EvaluationConfig.from_yaml(path)`` reads an evaluation file."""

    _kind: ClassVar[str] = "evaluation file"
    _help: ClassVar[str] = "workflows/examples/"

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    checkpoint: str = DEFAULT_CHECKPOINT
    """A built-in name, a folder, or ``index-rules`` (then there are no rows of a model)."""
    legend: str = "worldcover9"
    """What the model is asked for: a built-in name, a YAML file, or ``dataset``: the data set's own classes."""
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    training: tuple[SourceConfig, ...] = ()
    """What the checkpoint was trained on, for the random forest; without it that row says why it is empty."""
    groups: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Classes to compare: name → legend codes that count as it. Default: the legend's classes one by one."""
    bands: tuple[str, ...] | str = SENTINEL2_BANDS
    """Bands that are used, all others count as missing: a list, or ``sentinel-2``, ``rgb-nir`` or ``hls``."""
    rows: tuple[RowName, ...] = ("model", "shuffled", "none", "index_rules", "forest")
    texts: int = Field(default=0, ge=0)
    """Chips for which the model writes its texts, which are then checked against the labels (slow)."""
    explain: Literal["brief", "full"] = "full"
    """Which texts."""
    boundary_tolerance_px: float = Field(default=2.0, ge=0, le=50)
    calibration_bins: int = Field(default=15, ge=2, le=100)
    forest: ForestConfig = ForestConfig()
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _unseen(self) -> EvaluationConfig:
        for source in self.sources:
            for other in self.training:
                if _overlap(source, other):
                    raise ValueError("a chip under 'sources' is also under 'training'; measure on chips of their own")
        return self

    @field_validator("bands")
    @classmethod
    def _known_bands(cls, bands: tuple[str, ...] | str) -> tuple[str, ...]:
        if isinstance(bands, str):
            if bands not in BAND_SETS or any(band.name not in SENTINEL2_BANDS for band in BAND_SETS[bands]):
                raise ValueError(f"{bands!r} is no band set of Sentinel-2 (sentinel-2, rgb-nir, hls)")
            return tuple(band.name for band in BAND_SETS[bands])
        unknown = [band for band in bands if band not in SENTINEL2_BANDS]
        if unknown or not bands:
            raise ValueError(f"name bands of {' '.join(SENTINEL2_BANDS)}; got {', '.join(unknown) or 'none'}")
        return tuple(band for band in SENTINEL2_BANDS if band in bands)

    @field_validator("groups")
    @classmethod
    def _disjoint(cls, groups: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        codes = [code for group in groups.values() for code in group]
        repeated = sorted({code for code in codes if codes.count(code) > 1})
        if repeated:
            raise ValueError(f"code {', '.join(map(str, repeated))} stands in two groups")
        return groups

    def _anchored(self, base: Path) -> EvaluationConfig:
        return self.model_copy(
            update={
                "checkpoint": anchored_name(base, self.checkpoint),
                "legend": anchored_name(base, self.legend),
                "sources": tuple(_anchored(source, base) for source in self.sources),
                "training": tuple(_anchored(source, base) for source in self.training),
            }
        )


def _overlap(one: SourceConfig, other: SourceConfig) -> bool:
    """Whether two sources share chips, as far as their settings tell."""
    if one.simulated is not None and other.simulated is not None:
        ranges = [_seeds(source.simulated) for source in (one, other) if source.simulated is not None]
    elif one.chips is not None and other.chips is not None and one.chips.folder == other.chips.folder:
        ranges = [
            [range(chips.first, 1 << 62 if chips.count is None else chips.first + chips.count)]
            for chips in (one.chips, other.chips)
        ]
    else:
        return False
    return any(a.start < b.stop and b.start < a.stop for a in ranges[0] for b in ranges[1])


def _seeds(config: SimulatedConfig) -> list[range]:
    if config.worlds == "held-out":
        return []  # their seeds belong to nobody else
    starts = [world.seed for world in config.worlds] or [config.first_seed]
    return [range(start, start + config.chips) for start in starts]


def _anchored(source: SourceConfig, base: Path) -> SourceConfig:
    """Every path of a source, from ``base`` on."""

    def moved(value: Any) -> Any:
        if isinstance(value, Path):
            return anchored(base, value)
        if isinstance(value, dict):
            return {key: moved(entry) for key, entry in value.items()}
        return value

    update = {}
    for name in type(source).model_fields:
        section = getattr(source, name)
        if section is not None:
            update[name] = section.model_copy(update={f: moved(getattr(section, f)) for f in section.model_fields_set})
    return source.model_copy(update=update)
