"""What a plan will cover and cost, told before anything is read: gaps, bytes, memory, device time."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from pyproj import Transformer

from pipeline.planning.footprints import footprint, scenes_per_window
from pipeline.planning.model_cost import ModelCost, model_cost
from pipeline.planning.rates import Rates, local_actors
from pipeline.records.grid import INDEX_CELL_PX, SEEN_PX
from pipeline.records.plan import MapPlan, ZonePlan
from pipeline.records.region import Region
from pipeline.records.scene import Scene
from pipeline.settings.model import text_questions
from pipeline.settings.run_file import DEFAULT_STORE_MB, RunConfig
from spex_core.bands import BANDS, SENTINEL2_BANDS
from spex_core.cloud_classes import cloud_bands
from spex_core.indices import SPECTRAL_INDICES
from spex_core.legend import Legend

EQUAL_AREA_EPSG = 6933
"""WGS 84 / NSIDC EASE-Grid 2.0 Global (cylindrical equal-area): shares of area over any extent."""
COMPRESSED_SHARE = 0.6
"""Bytes on the wire per decoded byte of a Sentinel-2 L2A deflate COG: typical, scenes vary from 0.4 to 0.8."""
STORED_SHARE = 0.35
"""Bytes of the run's store per byte before compression; a simulated scene: 0.20, a real one is less smooth."""
PUBLISHED_BYTES_PER_PIXEL = 2.2
"""Of the maps and the picture together, compressed."""
DRAFT_BYTES_PER_PIXEL = 1.0 + 4.0 / 3.0
"""Of a band while it is written: an uncompressed draft, and its copy with overviews."""
WORKER_BYTES = 700_000_000
"""Resident size of one worker process with its libraries loaded."""
NETWORK_HALO_M = 1280.0
"""Ground around a window that the cloud network looks at."""
SEAM_PX = 2.0
"""A gap that is nowhere wider than this from a footprint is none."""
METRES_PER_DEGREE = 111_000.0
_GAP_TOLERANCE = 1e-9


@dataclass(frozen=True)
class RegionGap:
    """A sub-region that no scene covers fully."""

    id: str
    name: str
    share: float
    """Share of its area without any scene footprint, 0..1."""


@dataclass(frozen=True)
class ZoneSummary:
    """One UTM zone of a plan."""

    epsg: int
    height: int
    width: int
    scenes: int
    blocks: int
    tiles: int


@dataclass(frozen=True)
class PlanSummary:
    """What ``spex plan`` prints. Bytes, memory and seconds are estimates from stated constants of this module."""

    run_id: str
    scenes: int
    zones: tuple[ZoneSummary, ...]
    region_area_ha: float
    gap_share: float
    """Share of the region's area without any scene footprint, 0..1 (clouds not counted)."""
    gaps: tuple[RegionGap, ...]
    """Sub-regions with a gap, worst first."""
    blocks: int
    tiles: int
    passes: int
    """Images that the model sees at most: the tiles, or with ``composite.method: fuse`` the dates of each of them."""
    bytes_to_read: int
    """Decoded bytes of all bands and the SCL over all read windows; of the scenes there, at most
    ``composite.max_observations`` (more masks are read where clouds persist). With a cloud network, its bands of
    the windows and their surroundings besides."""
    compressed_bytes_to_read: int
    """The same on the wire."""
    peak_memory_bytes: int
    """All processes of the run together."""
    disk_bytes: int
    """Below the output folder, the run's own state included."""
    cpu_core_seconds: float
    """Model time on CPU cores."""
    gpu_seconds: float
    """Model time on one GPU."""
    actors: int
    """Model actors of a run on this machine."""
    seconds: float | None
    """Of the whole run on this machine, as fast as the last ones of its kind; None if there was none."""
    text_images: int = 0
    """Most images of sub-regions that the model is asked about once the map is there (``model.explain``)."""
    text_questions: int = 0
    """Most questions about them."""


@dataclass(frozen=True)
class DiskUse:
    """What a run will write below its output folder, besides what is there."""

    blocks: int
    """Blocks to be computed."""
    total_bytes: int
    """Store, maps, and what lies beside the largest of them while it is written. An estimate."""
    least_bytes: int
    """Of the largest map while it is written: no content makes it less."""
    largest_file_bytes: int


def summarise(plan: MapPlan, region: Region, rates: Rates | None = None) -> PlanSummary:
    """Counts and estimates of a plan.

    Args:
        plan: The plan.
        region: What it maps.
        rates: How fast runs of its kind were here.

    Raises:
        CatalogError: A scene's footprint is not a geometry.
        LegendError: The legend cannot be read.
    """
    config = RunConfig.model_validate(plan.config)
    covered = shapely.union_all([footprint(scene) for scene in plan.scenes])
    nearly = shapely.buffer(covered, SEAM_PX * config.tiling.resolution_m / METRES_PER_DEGREE)

    def gap(area: shapely.Geometry) -> float:
        # Footprints are told to some metres: a seam between two of them, or along an edge, is none on the map.
        return gap_share(area, covered) if gap_share(area, nearly) else 0.0

    tiles = sum(len(block.tiles) for zone in plan.zones for block in zone.blocks)
    passes = sum(model_passes(zone, plan.scenes, config) for zone in plan.zones)
    classes = len(Legend.from_yaml(config.legend))
    cost = model_cost(config, classes)
    read = sum(_zone_bytes(zone, plan.scenes, config) for zone in plan.zones)
    images, questions = text_questions(config.model, len(region.subregions))
    gaps = [
        RegionGap(part.id, part.name, share)
        for part in region.subregions
        if (share := gap(part.geometry)) > _GAP_TOLERANCE
    ]
    return PlanSummary(
        run_id=plan.run_id,
        scenes=len(plan.scenes),
        zones=tuple(
            ZoneSummary(
                epsg=zone.grid.epsg,
                height=zone.grid.height,
                width=zone.grid.width,
                scenes=len(zone.scene_ids),
                blocks=len(zone.blocks),
                tiles=sum(len(block.tiles) for block in zone.blocks),
            )
            for zone in plan.zones
        ),
        region_area_ha=_area_m2(region.geometry) / 10_000.0,
        gap_share=gap(region.geometry),
        gaps=tuple(sorted(gaps, key=lambda gap: (-gap.share, gap.id))),
        blocks=sum(len(zone.blocks) for zone in plan.zones),
        tiles=tiles,
        passes=passes,
        bytes_to_read=read,
        compressed_bytes_to_read=round(read * COMPRESSED_SHARE),
        peak_memory_bytes=_peak_memory_bytes(plan, config, cost),
        disk_bytes=disk_use(plan, classes).total_bytes,
        cpu_core_seconds=passes * cost.cpu_s,
        gpu_seconds=passes * cost.gpu_s,
        actors=local_actors(config.compute),
        seconds=rates.seconds(mapped_pixels(plan)) if rates else None,
        text_images=images,
        text_questions=questions,
    )


def mapped_pixels(plan: MapPlan) -> int:
    """Pixels of all blocks of a plan."""
    return sum(block.window.height * block.window.width for zone in plan.zones for block in zone.blocks)


def gap_share(area: shapely.Geometry, covered: shapely.Geometry) -> float:
    """Share (0..1, by equal-area) of a lon/lat geometry that another does not cover."""
    total = _area_m2(area)
    if total <= 0:
        return 0.0
    share = _area_m2(shapely.difference(area, covered)) / total
    return 0.0 if share < _GAP_TOLERANCE else min(float(share), 1.0)


def _area_m2(geometry: shapely.Geometry) -> float:
    densified = shapely.segmentize(geometry, 0.05)
    return float(shapely.area(shapely.transform(densified, _to_equal_area().transform, interleaved=False)))


@functools.lru_cache(maxsize=1)
def _to_equal_area() -> Transformer:
    return Transformer.from_crs(4326, EQUAL_AREA_EPSG, always_xy=True)


def disk_use(plan: MapPlan, classes: int, finished: Container[tuple[int, int]] = frozenset()) -> DiskUse:
    """What a run will write.

    Args:
        plan: The plan.
        classes: Number of classes of its legend.
        finished: EPSG code and index of the blocks that the store holds already.
    """
    left = [b for zone in plan.zones for b in zone.blocks if (zone.grid.epsg, b.index) not in finished]
    stored = sum(block.window.height * block.window.width for block in left)
    # Ground without a block takes no room in a map, however far the blocks lie apart.
    pixels = [sum(block.window.height * block.window.width for block in zone.blocks) for zone in plan.zones]
    # A byte each: the classes' scores, class, confidence, count and three colours; two: a class's mean index in a cell.
    indices = 2 * len(SPECTRAL_INDICES) * classes / INDEX_CELL_PX**2
    # Two for each band of the coarser composite that words are asked with.
    words = plan.config.get("model", {}).get("explain", "none") != "none"
    seen = 2 * len(SENTINEL2_BANDS) / SEEN_PX**2 if words else 0
    store = stored * (classes + 6 + indices + seen) * STORED_SHARE
    # Bands of the largest file: the colours, or the scores where they are asked for.
    bands = max(3, classes if plan.config.get("publish", {}).get("scores") else 0)
    least = bands * max(pixels) * DRAFT_BYTES_PER_PIXEL
    return DiskUse(
        blocks=len(left),
        total_bytes=round(store + sum(pixels) * PUBLISHED_BYTES_PER_PIXEL + least),
        least_bytes=round(least),
        largest_file_bytes=round(bands * max(pixels) * (DRAFT_BYTES_PER_PIXEL - 1.0)),
    )


# --- costs --------------------------------------------------------------------------------------------------------


def bytes_per_pixel(resolution_m: float, bands: Sequence[str] = SENTINEL2_BANDS) -> float:
    """Decoded bytes of uint16 bands and the uint8 SCL, at native resolution, under one output pixel."""
    read = sum(2.0 * (resolution_m / band.gsd_m) ** 2 for band in BANDS if band.name in bands)
    return read + (resolution_m / 20.0) ** 2


def model_passes(zone: ZonePlan, scenes: Iterable[Scene], config: RunConfig) -> int:
    """Images of a zone that the model sees; where its dates are classified one by one, as if none were cloudy."""
    tiles = np.array([len(block.tiles) for block in zone.blocks])
    if config.composite.method != "fuse":
        return int(tiles.sum())
    windows = [block.read_window for block in zone.blocks]
    dates = scenes_per_window(zone.grid, windows, _scenes_of(zone, scenes), passes=True)
    return int((tiles * np.clip(dates, 1, config.composite.max_observations)).sum())


def _scenes_of(zone: ZonePlan, scenes: Iterable[Scene]) -> list[Scene]:
    wanted = set(zone.scene_ids)
    return [scene for scene in scenes if scene.id in wanted]


def _zone_bytes(zone: ZonePlan, scenes: Iterable[Scene], config: RunConfig) -> int:
    windows = [block.read_window for block in zone.blocks]
    counts = scenes_per_window(zone.grid, windows, _scenes_of(zone, scenes))
    read = np.minimum(counts, config.composite.max_observations)
    step = zone.grid.resolution_m
    pixels = np.array([window.height * window.width for window in windows], dtype=np.float64)
    found = float((pixels * read).sum()) * bytes_per_pixel(step, config.source.bands)
    if config.composite.cloud_mask != "scl":  # the network looks beyond the window, before its pixels are read
        halo = 2 * NETWORK_HALO_M / step
        around = np.array([(window.height + halo) * (window.width + halo) for window in windows])
        bands = [name for name in cloud_bands(config.source.bands) if name]
        found += float((around * read).sum()) * (bytes_per_pixel(step, bands) - bytes_per_pixel(step, ()))
    return round(found)


def _peak_memory_bytes(plan: MapPlan, config: RunConfig, cost: ModelCost) -> int:
    """Readers and actors at work on the largest block, plus the object store and the driver."""
    blocks = [block for zone in plan.zones for block in zone.blocks]
    actors = min(local_actors(config.compute), len(blocks))
    readers = config.compute.readers or actors
    pixels = max(block.read_window.height * block.read_window.width for block in blocks)
    observations = min(config.composite.max_observations, max(len(zone.scene_ids) for zone in plan.zones))
    dates = max(plan.date_layers(zone) for zone in plan.zones)
    reader = WORKER_BYTES + pixels * 4 * len(BANDS) * (observations + 1 + dates)
    # Reflectance in, one channel set of scores out (about as many classes as bands), float32.
    actor = WORKER_BYTES + pixels * 4 * len(BANDS) * 2 + cost.memory_bytes
    # Where the run file does not say: composite and pieces of what is in flight, with a tenth for the front.
    in_flight = 1.1 * actors * (1 + config.compute.prefetch) * pixels * 4 * len(BANDS) * (2 + dates)
    store = (config.compute.object_store_mb or max(DEFAULT_STORE_MB, round(in_flight / 2**20))) * 2**20
    return readers * reader + actors * actor + store + WORKER_BYTES
