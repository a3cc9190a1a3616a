"""What the map says in numbers: areas, shares, patches, confidence and spectral indices per sub-region.

Layers are streamed block by block, so memory is bounded by one block and the number of patches (rule 2), and all
sums are sums of integers, so the result does not depend on how the map is cut into blocks (rule 1).

Areas count pixels of the projected UTM grid, as GDAL and QGIS do. The scale of a UTM zone differs from the ground's by
-0.04 % at its middle to +0.1 % at its edge, so an area is true to 0.2 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from pipeline.explain.patches import PatchCounter, PatchSummary
from pipeline.machine import pixel_loops
from pipeline.mapstore.index_cells import INDEX_SCALE, class_sums
from pipeline.mapstore.layers import LayerName
from pipeline.mapstore.unfamiliar_cells import count_unlike, pixels_of
from pipeline.records.grid import grid_window, project, region_mask, window_bounds
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.windows import intersection, slices
from spex_core.indices import SPECTRAL_INDICES
from spex_core.legend import Legend

_LAYERS: tuple[LayerName, ...] = ("landcover", "confidence", "valid_count")


class LayerReader(Protocol):
    """Reads finished layers of one zone, e.g. ``pipeline.mapstore.store.ZoneStore``."""

    def read(self, layer: LayerName, window: Window) -> NDArray[Any]:
        """uint8 ``[h, w]`` of landcover, confidence (percent) or valid_count; of index_means the cells that the window
        touches, int16 ``[I, K, rows, columns]``."""
        ...


class AreaOfInterest(Protocol):
    """A named area, e.g. ``pipeline.records.region.SubRegion``."""

    @property
    def id(self) -> str:
        """Unique in its region file."""
        ...

    @property
    def name(self) -> str:
        """Shown to people."""
        ...

    @property
    def geometry(self) -> BaseGeometry:
        """Polygon or multipolygon, lon/lat (WGS 84)."""
        ...


@dataclass(frozen=True)
class ZoneLayers:
    """One UTM zone of a finished run."""

    grid: ZoneGrid
    blocks: tuple[Window, ...]
    """Windows that tile the grid, row-major on a lattice."""
    reader: LayerReader
    geometry: BaseGeometry
    """The part of the region that this zone maps, lon/lat."""
    unfamiliar: bool = False
    """Whether the run knows how unlike the training its pixels are."""


@dataclass(frozen=True)
class ClassStatistics:
    """One class in one area."""

    code: int
    name: str
    pixels: int
    area_ha: float
    share: float
    """Of the mapped area, 0..1."""
    patches: int
    """8-connected; a patch cut by a zone border counts once in each zone."""
    largest_patch_ha: float
    mean_confidence: float
    """0..1."""
    indices: dict[str, float]
    """Index name → mean over the class's pixels; an index without any valid pixel is left out."""
    unfamiliar_share: float | None = None
    """Of its pixels, those unlike anything the model was trained on, 0..1; None: not known of this model."""


@dataclass(frozen=True)
class RegionStatistics:
    """One sub-region, all zones together."""

    id: str
    name: str
    geometry: dict[str, Any]
    """GeoJSON, lon/lat."""
    epsgs: tuple[int, ...]
    """Zones that hold some of its pixels."""
    area_ha: float
    mapped_ha: float
    observed_share: float
    """Mapped pixels (those with a class) per pixel of the sub-region, 0..1."""
    mean_confidence: float
    """Over mapped pixels, 0..1."""
    mean_observations: float
    """Valid scenes per mapped pixel."""
    classes: tuple[ClassStatistics, ...]
    """Classes that occur, largest first."""
    unfamiliar_share: float | None = None
    """Of the mapped area, what is unlike anything the model was trained on, 0..1; None: not known of this model."""


@dataclass(frozen=True)
class MapStatistics:
    """Statistics of a run."""

    regions: tuple[RegionStatistics, ...]
    overall: RegionStatistics
    """The whole mapped region as one area."""
    zone_pixels: dict[int, dict[int, int]]
    """EPSG code → class code → pixels inside the region."""


class _Tally:
    """Integer sums of one area in one zone."""

    def __init__(self, col: int, width: int) -> None:
        self.pixels = 0
        self.counts = np.zeros(256, dtype=np.int64)
        self.confidence = np.zeros(256, dtype=np.int64)
        self.observations = 0
        self.unlike: NDArray[np.int64] | None = None
        """Pixels of each code that are unlike anything the model was trained on."""
        self.index_sums = np.zeros((len(SPECTRAL_INDICES), 256), dtype=np.int64)
        """Of the codes of the legend's classes."""
        self.index_counts = np.zeros((len(SPECTRAL_INDICES), 256), dtype=np.int64)
        self.counter = PatchCounter(col, width)

    def add(
        self,
        window: Window,
        inside: NDArray[np.bool_],
        layers: Mapping[LayerName, NDArray[Any]],
        index_means: NDArray[np.int16],
        legend: Legend,
    ) -> None:
        codes = layers["landcover"]
        mapped = inside & (codes != legend.nodata)
        pixels = codes, inside, layers["confidence"], layers["valid_count"]
        if pixel_loops.fits(*pixels, types=(np.uint8, np.bool_, np.uint8, np.uint8)):
            found = pixel_loops.loops.add_pixels(*pixels, legend.nodata, self.counts, self.confidence)
            self.pixels += found[0]
            self.observations += found[1]
        else:
            self._add_pixels(mapped, *pixels)
        sums, counts = class_sums(codes, mapped, window, index_means, legend.codes)
        self.index_sums[:, legend.codes] += sums
        self.index_counts[:, legend.codes] += counts
        self.counter.add(window, codes, mapped)

    def add_unfamiliar(self, mapped: NDArray[np.bool_], codes: NDArray[np.uint8], scores: NDArray[np.uint8]) -> None:
        found = count_unlike(codes, mapped, scores)
        self.unlike = found if self.unlike is None else self.unlike + found

    def _add_pixels(
        self,
        mapped: NDArray[np.bool_],
        codes: NDArray[np.uint8],
        inside: NDArray[np.bool_],
        confidence: NDArray[np.uint8],
        valid_count: NDArray[np.uint8],
    ) -> None:
        self.pixels += int(np.count_nonzero(inside))
        values = codes[mapped]
        self.counts += np.bincount(values, minlength=256)
        # bincount sums in float64: exact, a block's sum stays far below 2**53
        self.confidence += np.bincount(values, confidence[mapped], minlength=256).astype(np.int64)
        self.observations += int(valid_count[mapped].sum(dtype=np.int64))


@dataclass(frozen=True)
class _Placed:
    """An area on a zone's grid."""

    position: int
    geometry: BaseGeometry
    """Lon/lat."""
    projected: BaseGeometry
    """The same in metres of the zone."""
    window: Window
    tally: _Tally


def map_statistics(
    name: str, areas: Sequence[AreaOfInterest], zones: Sequence[ZoneLayers], legend: Legend
) -> MapStatistics:
    """Measures every area and the whole map in one pass over the blocks that touch the region.

    Args:
        name: Name of the whole map, for :attr:`MapStatistics.overall`.
        areas: Sub-regions; they may overlap and span zones.
        zones: Finished zones; their geometries do not overlap.
        legend: Names of the codes.
    """
    per_zone = [_zone_tallies(areas, zone, legend) for zone in zones]
    regions = tuple(
        _summarise(
            area.id,
            area.name,
            area.geometry,
            [(zone, tallies[i]) for zone, tallies in zip(zones, per_zone, strict=True)],
            legend,
        )
        for i, area in enumerate(areas)
    )
    whole = shapely.union_all([zone.geometry for zone in zones])
    overall = _summarise(
        "map", name, whole, [(zone, tallies[-1]) for zone, tallies in zip(zones, per_zone, strict=True)], legend
    )
    pixels = {
        zone.grid.epsg: {code: int(whole_zone.counts[code]) if whole_zone else 0 for code in legend.codes}
        for zone, (*_, whole_zone) in zip(zones, per_zone, strict=True)
    }
    return MapStatistics(regions, overall, pixels)


def _zone_tallies(areas: Sequence[AreaOfInterest], zone: ZoneLayers, legend: Legend) -> list[_Tally | None]:
    """One tally per area and, last, one of the whole zone; ``None`` where the area lies outside the zone."""
    geometries = [area.geometry.intersection(zone.geometry) for area in areas] + [zone.geometry]
    # Areas of one shape are measured once: most regions are one area, which is also the whole.
    shapes = [geometry.normalize().wkb for geometry in geometries]
    first = {shape: i for i, shape in reversed([*enumerate(shapes)])}
    placed = [p for i in first.values() if (p := _place(i, geometries[i], zone.grid)) is not None]
    for block in sorted(zone.blocks, key=lambda w: (w.row, w.col)):
        touching = [(p, part) for p in placed if (part := _touch(p, block, zone.grid)) is not None]
        if not touching:
            continue
        window = _hull([part for _, part in touching])
        layers = {layer: zone.reader.read(layer, window) for layer in _LAYERS}
        for area, part in touching:
            rows, cols = slices(part, window)
            cut = {layer: values[..., rows, cols] for layer, values in layers.items()}
            means = zone.reader.read("index_means", part)
            inside = region_mask(area.geometry, zone.grid, part)
            area.tally.add(part, inside, cut, means, legend)
            if zone.unfamiliar:
                codes, cells = cut["landcover"], zone.reader.read("unfamiliar", part)
                area.tally.add_unfamiliar(inside & (codes != legend.nodata), codes, pixels_of(cells, part))
    tallies = {area.position: area.tally for area in placed}
    return [tallies.get(first[shape]) for shape in shapes]


def _summarise(
    id_: str,
    name: str,
    geometry: BaseGeometry,
    parts: Sequence[tuple[ZoneLayers, _Tally | None]],
    legend: Legend,
) -> RegionStatistics:
    found = [(zone.grid, tally, tally.counter.summary()) for zone, tally in parts if tally is not None and tally.pixels]
    area_ha = math.fsum(t.pixels * _pixel_ha(g) for g, t, _ in found)
    mapped_px = sum(int(t.counts.sum()) for _, t, _ in found)
    mapped_ha = math.fsum(int(t.counts.sum()) * _pixel_ha(g) for g, t, _ in found)
    confidence = sum(int(t.confidence.sum()) for _, t, _ in found)
    classes = [
        _class_statistics(c.code, c.name, found, mapped_ha)
        for c in legend
        if any(t.counts[c.code] for _, t, _ in found)
    ]
    return RegionStatistics(
        id=id_,
        name=name,
        geometry=dict(mapping(geometry)),
        epsgs=tuple(g.epsg for g, _, _ in found),
        area_ha=area_ha,
        mapped_ha=mapped_ha,
        observed_share=mapped_ha / area_ha if area_ha else 0.0,
        mean_confidence=confidence / mapped_px / 100 if mapped_px else 0.0,
        mean_observations=sum(t.observations for _, t, _ in found) / mapped_px if mapped_px else 0.0,
        classes=tuple(sorted(classes, key=lambda c: (-c.area_ha, c.code))),
        unfamiliar_share=_unlike_share(found, legend.codes, mapped_ha),
    )


def _unlike_share(found: Sequence[tuple[ZoneGrid, _Tally, Any]], codes: Sequence[int], area_ha: float) -> float | None:
    """Share of an area, of all its classes or of one."""
    known = [(g, int(t.unlike[list(codes)].sum())) for g, t, _ in found if t.unlike is not None]
    return math.fsum(pixels * _pixel_ha(g) for g, pixels in known) / area_ha if known and area_ha else None


def _class_statistics(
    code: int, name: str, found: Sequence[tuple[ZoneGrid, _Tally, dict[int, PatchSummary]]], mapped_ha: float
) -> ClassStatistics:
    pixels = sum(int(t.counts[code]) for _, t, _ in found)
    area_ha = math.fsum(int(t.counts[code]) * _pixel_ha(g) for g, t, _ in found)
    patches = [(g, summary[code]) for g, _, summary in found if code in summary]
    indices = {}
    for i, index in enumerate(SPECTRAL_INDICES):
        count = sum(int(t.index_counts[i, code]) for _, t, _ in found)
        if count:
            indices[index] = sum(int(t.index_sums[i, code]) for _, t, _ in found) / count / INDEX_SCALE
    return ClassStatistics(
        code=code,
        name=name,
        pixels=pixels,
        area_ha=area_ha,
        share=area_ha / mapped_ha,
        patches=sum(s.count for _, s in patches),
        largest_patch_ha=max((s.largest_px * _pixel_ha(g) for g, s in patches), default=0.0),
        mean_confidence=sum(int(t.confidence[code]) for _, t, _ in found) / pixels / 100,
        indices=indices,
        unfamiliar_share=_unlike_share(found, (code,), area_ha),
    )


def _pixel_ha(grid: ZoneGrid) -> float:
    return grid.resolution_m**2 / 10_000


def _place(position: int, geometry: BaseGeometry, grid: ZoneGrid) -> _Placed | None:
    if geometry.is_empty:
        return None
    projected = project(geometry, grid.epsg)
    west, south, east, north = projected.bounds
    row, row_end = math.floor((grid.top - north) / grid.resolution_m), math.ceil((grid.top - south) / grid.resolution_m)
    col, col_end = math.floor((west - grid.left) / grid.resolution_m), math.ceil((east - grid.left) / grid.resolution_m)
    window = intersection(Window(row, col, row_end - row, col_end - col), grid_window(grid))
    if window is None:
        return None
    shapely.prepare(projected)
    return _Placed(position, geometry, projected, window, _Tally(window.col, window.width))


def _touch(area: _Placed, block: Window, grid: ZoneGrid) -> Window | None:
    """The part of a block inside the area's bounding box, or ``None`` where the area does not touch it."""
    part = intersection(area.window, block)
    if part is None or not shapely.intersects(area.projected, shapely.box(*window_bounds(grid, part))):
        return None
    return part


def _hull(windows: Sequence[Window]) -> Window:
    row, col = min(w.row for w in windows), min(w.col for w in windows)
    return Window(row, col, max(w.row + w.height for w in windows) - row, max(w.col + w.width for w in windows) - col)
