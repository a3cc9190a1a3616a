"""The page of one map: ``report.html`` in its item's folder, one file that needs nothing else, not even a network.

Text from outside (names of areas, scene ids, messages) is escaped by jinja2's autoescape; pictures are embedded.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import jinja2
import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from pipeline.explain.sentences import RegionExplanation, format_area, format_share
from pipeline.explain.statistics import MapStatistics
from pipeline.machine.addresses import public_address, published_text
from pipeline.machine.atomic_files import write_text
from pipeline.outputs.thumbnail import MAX_SIDE_PX, map_codes, map_image, png_bytes
from pipeline.records.grid import project
from pipeline.records.plan import ZoneGrid
from pipeline.records.scene import Scene
from spex_core.indices import INDEX_LABELS
from spex_core.legend import Legend

MAX_REGIONS = 200
"""Sub-regions shown on the page; the rest are in ``explanations.md``."""
_MAX_OUTLINE_POINTS = 400


@dataclass(frozen=True)
class Outline:
    """A sub-region's border on a picture."""

    region_id: str
    name: str
    path: str
    """SVG path data in picture pixels."""


@dataclass(frozen=True)
class MapPicture:
    """One zone's map as it is shown."""

    title: str
    png: bytes
    width_px: int
    height_px: int
    outlines: tuple[Outline, ...] = ()

    @property
    def data_uri(self) -> str:
        """The PNG, embedded."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class ClassAccuracy:
    """One class of an accuracy table, 0..1."""

    name: str
    users: float
    producers: float
    iou: float


@dataclass(frozen=True)
class Accuracy:
    """Measured against a reference, where there is one (the demo has the simulated truth)."""

    reference: str
    """What the map was compared with."""
    overall: float
    miou: float
    baseline_overall: float | None = None
    """The same for the index rules alone."""
    classes: tuple[ClassAccuracy, ...] = ()
    simulated: bool = False
    """The reference and the scenes are of a simulated place."""


@dataclass(frozen=True)
class ReportContext:
    """Everything on the page."""

    title: str
    run_name: str
    run_id: str
    start: dt.date
    end: dt.date
    created: dt.datetime
    legend: Legend
    statistics: MapStatistics
    explanations: tuple[RegionExplanation, ...]
    pictures: tuple[MapPicture, ...]
    scenes: tuple[Scene, ...]
    software: Mapping[str, str]
    model: str
    items: tuple[str, ...]
    """Item folders relative to the output folder, e.g. ``maps/valley_2026-06-01_2026-06-30_32633``."""
    skipped_scenes: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    missing_blocks: int = 0
    accuracy: Accuracy | None = None
    figures: Mapping[str, str] = field(default_factory=dict)
    """Further key figures, label → value (e.g. run time)."""


def map_picture(
    landcover: Path,
    grid: ZoneGrid,
    legend: Legend,
    areas: Sequence[tuple[str, str, BaseGeometry]] = (),
    *,
    title: str = "",
    max_side_px: int = MAX_SIDE_PX,
) -> MapPicture:
    """Draws a map file for the page.

    Args:
        landcover: The class map.
        grid: Its grid.
        legend: Colours.
        areas: Sub-regions: id, name, lon/lat geometry; drawn as outlines that lead to their text.
        title: Shown below the picture.
        max_side_px: Long side of the picture.

    Raises:
        ReadError: The map cannot be read.
    """
    codes = map_codes(landcover, max_side_px)
    height, width = codes.shape
    outlines = [
        Outline(id_, name, path)
        for id_, name, geometry in areas[:MAX_REGIONS]
        if (path := _svg_path(geometry, grid, width / grid.width, height / grid.height, (width, height)))
    ]
    return MapPicture(title or f"EPSG:{grid.epsg}", png_bytes(map_image(codes, legend)), width, height, tuple(outlines))


def write_report(path: Path, context: ReportContext) -> Path:
    """Writes the page atomically.

    Raises:
        OutputError: The folder cannot be written.
    """
    write_text(path, render_report(context))
    return path


def page_environment() -> jinja2.Environment:
    """For the templates of pages: everything that they are given is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.outputs", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        area=format_area, share=_short_share, link=_safe_link, percent=_percent, told=published_text
    )
    return environment


def render_report(context: ReportContext) -> str:
    """The page as HTML."""
    environment = page_environment()
    shown = context.explanations[:MAX_REGIONS]
    colors = {c.code: c.color for c in context.legend}
    largest = max((c.share for c in context.statistics.overall.classes), default=1.0)
    return environment.get_template("report.html.j2").render(
        c=context,
        overall=context.statistics.overall,
        colors=colors,
        largest=largest,
        shown=shown,
        hidden=len(context.explanations) - len(shown),
        anchors={e.statistics.id: f"area-{i}" for i, e in enumerate(shown)},
        index_labels=INDEX_LABELS,
        problem_count=len(context.problems) + len(context.skipped_scenes) + context.missing_blocks,
    )


def _short_share(share: float) -> str:
    """``>99%`` and ``<1%`` where a sentence would say it in words."""
    return format_share(share).replace("more than ", ">").replace("less than ", "<")


def _percent(value: float) -> str:
    return f"{value * 100:.1f}%"


def _safe_link(href: str | None) -> str:
    """An address that a browser may open, or nothing: hrefs come from catalogs."""
    return public_address(href) if href and urlsplit(href).scheme in ("http", "https") else ""


def _svg_path(geometry: BaseGeometry, grid: ZoneGrid, scale_x: float, scale_y: float, size: tuple[int, int]) -> str:
    """Projected border in picture pixels; empty where the area lies outside the picture."""
    step = grid.resolution_m

    def to_picture(xy: np.ndarray) -> np.ndarray:
        return np.stack([(xy[:, 0] - grid.left) / step * scale_x, (grid.top - xy[:, 1]) / step * scale_y], axis=1)

    shape = shapely.transform(project(geometry, grid.epsg), to_picture)
    tolerance = 0.5  # half a picture pixel
    while True:
        simple = shapely.simplify(shape, tolerance)
        if shapely.get_num_coordinates(simple) <= _MAX_OUTLINE_POINTS or tolerance > max(size):
            break
        tolerance *= 2
    seen = simple.intersection(shapely.box(0, 0, *size))
    rings = [
        ring
        for part in shapely.get_parts(seen)
        if part.geom_type == "Polygon" and not part.is_empty
        for ring in (part.exterior, *part.interiors)
    ]
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in ring.coords[:-1]) + "Z" for ring in rings)
