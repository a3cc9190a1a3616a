"""A survey: labelled points or polygons of a file, each with the name of its class. Nothing in it is trusted."""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from pipeline.errors import RegionError, SurveyError
from pipeline.records.region_crs import to_lonlat
from pipeline.records.region_formats import read_source
from pipeline.records.region_geometry import is_empty

MOST_PLACES = 200_000
MOST_CLASSES = 60
"""More names than these are names of places, not of classes."""
MAX_CSV_BYTES = 64 * 1024 * 1024
_LON, _LAT = ("lon", "longitude", "lng", "long"), ("lat", "latitude")
_KINDS = {"Point", "MultiPoint", "Polygon", "MultiPolygon"}


@dataclass(frozen=True)
class LabelledPlace:
    """One feature of a survey."""

    geometry: BaseGeometry
    """Points or polygons, lon/lat."""
    name: str
    """Of its class."""
    date: str | None = None
    """``YYYY-MM-DD``, where the survey tells it."""


@dataclass
class Survey:
    """What a file of points or polygons holds."""

    places: list[LabelledPlace] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason → features that are not used."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of classes, sorted without regard to letters' case."""
        return tuple(sorted({place.name for place in self.places}, key=lambda name: (name.casefold(), name)))


def read_survey(
    path: Path, class_field: str, *, date_field: str = "date", layer: str | None = None, where: str | None = None
) -> Survey:
    """Reads points or polygons of GeoPackage, GeoJSON, Shapefile, FlatGeobuf, KML, GeoParquet or CSV.

    Args:
        path: The file; a CSV has columns ``lon`` and ``lat`` in degrees (WGS 84).
        class_field: Column that names the class.
        date_field: Column with the day of a visit; need not be there.
        layer: Of a file that has several.
        where: An SQL condition on attributes.

    Raises:
        SurveyError: Unreadable, another format or coordinate system, or no such column; the message has those that
            are there.
        InstallationError: What reads the format is not installed.
    """
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        if layer is not None or where is not None:
            raise SurveyError(f"points file {path} is a table: --layer and --where are for vector files")
        survey = _read_table(path, class_field, date_field)
    else:
        survey = _read_vectors(path, class_field, date_field, layer, where)
    if not survey.places:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(survey.left_out.items())) or "it is empty"
        raise SurveyError(f"points file {path} has no labelled point or polygon: {reasons}")
    if len(survey.names) > MOST_CLASSES:
        raise SurveyError(
            f"column {class_field!r} of {path} has {len(survey.names)} different values, more than {MOST_CLASSES} "
            f"classes ({', '.join(repr(name[:30]) for name in survey.names[:5])}, ...): name the one with the classes"
        )
    return survey


def _read_table(path: Path, class_field: str, date_field: str) -> Survey:
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise SurveyError(f"points file {path} is larger than {MAX_CSV_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SurveyError(f"points file {path} is not in UTF-8 ({error}): save it as UTF-8") from error
    except OSError as error:
        raise SurveyError(f"points file {path} cannot be read: {error.strerror or error}") from error
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        columns = [str(name).strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        lon, lat = (_column(columns, wanted) for wanted in (_LON, _LAT))
        named, dated = _column(columns, (class_field,)), _column(columns, (date_field,))
        for wanted, found in (("lon", lon), ("lat", lat), (class_field, named)):
            if found is None:
                raise SurveyError(_no_column(path, wanted, columns))
        survey = Survey()
        for row in reader:
            _add(survey, _point(row.get(lon or ""), row.get(lat or "")), row, named or "", dated)
            _bounded(survey, path)
    except csv.Error as error:
        raise SurveyError(f"points file {path} is not a table that can be read: {error}") from error
    return survey


def _point(lon: Any, lat: Any) -> BaseGeometry | None:
    try:
        x, y = float(lon), float(lat)
    except (TypeError, ValueError):
        return None
    return shapely.Point(x, y) if math.isfinite(x) and math.isfinite(y) else None


def _read_vectors(path: Path, class_field: str, date_field: str, layer: str | None, where: str | None) -> Survey:
    try:
        source = read_source(path, layer=layer, where=where, fields=None, most=MOST_PLACES)
        columns = list(dict.fromkeys(name for _, feature in source.features for name in _properties(feature)))
        named, dated = _column(columns, (class_field,)), _column(columns, (date_field,))
        if named is None:
            raise SurveyError(_no_column(path, class_field, columns))
        survey = Survey()
        for number, feature in source.features:
            geometry = None
            if not is_empty(feature.get("geometry")):
                geometry = _geometry(feature["geometry"], number, path)
                if source.crs is not None:
                    geometry = to_lonlat(geometry, source.crs, f"feature {number + 1} of {path}")
            _add(survey, geometry, _properties(feature), named, dated)
            _bounded(survey, path)
    except RegionError as error:  # the reader is the one of region files
        said = str(error).replace("region file", "points file").replace("regions.layer", "--layer")
        raise SurveyError(said.replace("regions.where", "--where")) from error
    return survey


def _geometry(data: Any, number: int, path: Path) -> BaseGeometry:
    try:
        return shapely.force_2d(data if isinstance(data, BaseGeometry) else shape(data))
    except Exception as error:  # shapely raises many kinds for malformed coordinates
        raise SurveyError(f"feature {number + 1} of {path} has a malformed geometry: {error}") from error


def _properties(feature: Mapping[str, Any]) -> Mapping[str, Any]:
    found = feature.get("properties")
    return found if isinstance(found, dict) else {}


def _add(survey: Survey, geometry: BaseGeometry | None, row: Mapping[str, Any], named: str, dated: str | None) -> None:
    if geometry is None or geometry.is_empty:
        survey.left_out["without a position"] += 1
        return
    name = _plain_text(row.get(named))
    if not name:
        survey.left_out["without a class"] += 1
        return
    if geometry.geom_type not in _KINDS:
        survey.left_out["neither points nor polygons"] += 1
        return
    xy = shapely.get_coordinates(geometry)
    if not np.isfinite(xy).all() or (np.abs(xy) > (180.0, 90.0)).any():
        raise SurveyError(
            f"a {geometry.geom_type.lower()} of class {name!r} lies at ({xy[0, 0]:g}, {xy[0, 1]:g}), which is no "
            "longitude and latitude: give the file's coordinate system (a .prj, GeoPackage), or degrees with the "
            "longitude first"
        )
    if not geometry.is_valid:
        geometry = shapely.make_valid(geometry)
    date = _plain_text(row.get(dated))[:10] if dated is not None else ""
    survey.places.append(LabelledPlace(geometry, name, date or None))


def _bounded(survey: Survey, path: Path) -> None:
    if len(survey.places) > MOST_PLACES:
        raise SurveyError(f"points file {path} has more than {MOST_PLACES} features: take a sample of them (--where)")


def _column(columns: list[str], wanted: tuple[str, ...]) -> str | None:
    """A column by one of its names; exactly, or else in letters of either case."""
    for name in wanted:
        if name in columns:
            return name
    folded = {name.casefold(): name for name in reversed(columns)}
    return next((folded[name.casefold()] for name in wanted if name.casefold() in folded), None)


def _no_column(path: Path, wanted: str, columns: list[str]) -> str:
    there = ", ".join(repr(name[:60]) for name in columns[:40]) or "none"
    return f"points file {path} has no column {wanted!r}; there are: {there}"


def _plain_text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = "".join(" " if unicodedata.category(c).startswith("C") else c for c in str(value))
    return " ".join(text.split())[:80]
