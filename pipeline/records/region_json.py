"""GeoJSON region files: one document (RFC 7946), or a sequence of them (newline-delimited, or RFC 8142)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

import pyproj

from pipeline.errors import RegionError
from pipeline.records.region_crs import crs_of_member

ACCEPTED = "GeoJSON, GeoPackage, Shapefile (also zipped), KML, KMZ, FlatGeobuf and GeoParquet are read"
"""Region files, for messages."""
_BETWEEN = re.compile(r"[\s\x1e]*")
"""What stands between the texts of a sequence."""
_GEOMETRIES = {"Polygon", "MultiPolygon", "GeometryCollection", "Point", "MultiPoint", "LineString", "MultiLineString"}


def read_json(
    data: bytes, path: Path
) -> tuple[list[tuple[int, dict[str, Any]]], pyproj.CRS | None, bool, tuple[str, ...]]:
    """Features of GeoJSON, each with its place in the file.

    Args:
        data: The file's bytes.
        path: Its name, for messages.

    Returns:
        Features; their coordinate system (None: longitude and latitude); whether anything speaks for it; notes.

    Raises:
        RegionError: Not JSON, not GeoJSON, no features, or an unknown coordinate system.
    """
    documents = _documents(data, path)
    found = [_crs(document, path) for document in documents]
    systems = {None if crs is None else crs.to_wkt(): crs for crs, _, _ in found}
    if len(systems) > 1:
        raise RegionError(f"region file {path} holds coordinates of {len(systems)} coordinate systems: make them one")
    if len(documents) > 1:
        features: list[Any] = []
        for document in documents:
            features += document["features"] if _is_collection(document) else [_feature(document)]
        documents = [{"type": "FeatureCollection", "features": features}]
    notes = tuple(dict.fromkeys(note for _, _, note in found if note))
    return _features(documents[0], path), found[0][0], all(known for _, known, _ in found), notes


def _documents(data: bytes, path: Path) -> list[dict[str, Any]]:
    def refuse_constant(token: str) -> NoReturn:
        raise RegionError(f"region file {path} holds the number {token}; coordinates must be finite")

    decoder = json.JSONDecoder(parse_constant=refuse_constant)
    documents: list[Any] = []
    try:
        text = data.decode(json.detect_encoding(data)).removeprefix("\ufeff")
        place, end = _past(text, 0), len(text)
        while place < end or not documents:
            document, place = decoder.raw_decode(text, place)
            documents.append(document)
            place = _past(text, place)
            if documents and not isinstance(documents[0], dict):
                break
    except (ValueError, RecursionError) as error:
        if not documents and not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[", b"\xff\xfe", b"\xfe\xff")):
            what = "is empty, not JSON" if not data.strip() else "is not JSON but of a format that is not read"
            raise RegionError(
                f"region file {path} {what}; {ACCEPTED}: ogr2ogr -t_srs EPSG:4326 out.geojson {path.name} converts "
                f"most others (as JSON: {error})"
            ) from error
        if isinstance(error, UnicodeDecodeError) and error.encoding == "utf-8":
            raise RegionError(
                f"region file {path} is JSON in an old encoding (Latin-1?), not in UTF-8 as GeoJSON is: "
                f"iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8.geojson ({error})"
            ) from error
        which = f" (text {len(documents) + 1} of a sequence)" if documents else ""
        raise RegionError(f"region file {path} is not JSON{which}: {error}") from error
    for document in documents:
        if not isinstance(document, dict) or not isinstance(document.get("type"), str):
            esri = isinstance(document, dict) and "features" in document
            what = "this is Esri JSON: ask the server for f=geojson" if esri else "the top level needs a 'type'"
            raise RegionError(f"region file {path} is not GeoJSON: {what}")
        if document["type"] == "Topology":
            raise RegionError(
                f"region file {path} is TopoJSON: convert it, for example: ogr2ogr out.geojson {path.name}"
            )
    return documents


def _past(text: str, place: int) -> int:
    match = _BETWEEN.match(text, place)
    return match.end() if match else place


def _crs(document: dict[str, Any], path: Path) -> tuple[pyproj.CRS | None, bool, str]:
    if "crs" not in document:
        return None, True, ""
    crs, named = crs_of_member(document["crs"], f"region file {path}")
    return crs, named, "" if named else "its 'crs' names no coordinate system: read as longitude and latitude (WGS 84)"


def _is_collection(document: dict[str, Any]) -> bool:
    return document["type"] == "FeatureCollection" and isinstance(document.get("features"), list)


def _feature(document: dict[str, Any]) -> dict[str, Any]:
    if document["type"] in _GEOMETRIES:
        return {"type": "Feature", "properties": {}, "geometry": document}
    return document


def _features(document: dict[str, Any], path: Path) -> list[tuple[int, dict[str, Any]]]:
    if document["type"] == "FeatureCollection":
        features = document.get("features")
        if not isinstance(features, list) or not features:
            raise RegionError(f"region file {path} has no features")
        for i, feature in enumerate(features):
            if not isinstance(feature, dict) or feature.get("type") != "Feature":
                raise RegionError(f"feature {i + 1} of {path} is not a GeoJSON Feature")
        return list(enumerate(features))
    if document["type"] == "Feature":
        return [(0, document)]
    return [(0, {"type": "Feature", "properties": {}, "geometry": document})]
