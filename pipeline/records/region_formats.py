"""Which format a region file is, told from its first bytes, and its features whatever the format."""

from __future__ import annotations

import hashlib
import re
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyproj

from pipeline.errors import RegionError
from pipeline.records.region_filter import matching
from pipeline.records.region_json import ACCEPTED, read_json
from pipeline.records.region_parquet import read_parquet
from pipeline.records.region_vectors import SIDECARS, read_vectors, sidecars

MAX_FILE_BYTES = 256 * 1024 * 1024
"""Of a GeoJSON or GeoParquet file, which is read as a whole, and of what is unpacked from an archive."""

Kind = Literal["JSON", "GPKG", "SHP", "FGB", "KML", "ZIP", "PARQUET"]

_FIRST_BYTES: tuple[tuple[bytes, Kind], ...] = (
    (b"SQLite format 3\0", "GPKG"),
    (b"fgb\x03fgb", "FGB"),
    (b"\x00\x00\x27\x0a", "SHP"),
    (b"PK\x03\x04", "ZIP"),
    (b"PAR1", "PARQUET"),
)
_HEAD_BYTES = 65_536
_ROOT = re.compile(rb"<(?:[A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)")
_SKIPPED = re.compile(rb"<\?.*?\?>|<!--.*?-->", re.DOTALL)
_INSIDE = {".shp": "SHP", ".gpkg": "GPKG", ".kml": "KML", ".fgb": "FGB", ".geojson": "JSON", ".json": "JSON"}


@dataclass(frozen=True)
class RegionSource:
    """What a region file holds."""

    features: list[tuple[int, dict[str, Any]]]
    """Place in the file, and a GeoJSON-like Feature; its geometry may be shapely's, or None."""
    crs: pyproj.CRS | None
    """None: longitude and latitude, WGS 84."""
    named: bool
    """Whether the file says so; else it is a guess that the coordinates have to bear out."""
    notes: tuple[str, ...] = ()


def read_source(
    path: Path, *, layer: str | None, where: str | None, fields: Sequence[str] | None, most: int
) -> RegionSource:
    """Reads a region file of any format.

    Args:
        path: The file.
        layer: Layer of a file that has several; None: the only one.
        where: An SQL condition on properties; None: all features.
        fields: Properties that are wanted; None: all.
        most: Features that the caller takes at most; more need not be read.

    Raises:
        RegionError: Unreadable, another format, no such layer or feature; the message says what would help.
        InstallationError: What reads the format is not installed.
    """
    told = f"region file {path}"
    try:
        if path.is_dir():
            database = path.suffix.lower() == ".gdb"
            what = "an Esri file geodatabase: ogr2ogr out.gpkg in.gdb" if database else "a folder: name the file in it"
            raise RegionError(f"{told} is {what}")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        kind = kind_of(head, path)
        if kind == "ZIP":
            return _unpacked(path, layer=layer, where=where, fields=fields, most=most)
        if kind in ("JSON", "PARQUET") and path.stat().st_size > MAX_FILE_BYTES:
            raise RegionError(f"{told} is larger than {MAX_FILE_BYTES >> 20} MiB; simplify it first")
        if kind == "JSON":
            _one_layer(layer, path)
            source = RegionSource(*read_json(path.read_bytes(), path))
            return source if where is None else _filtered(source, where, told)
    except OSError as error:
        raise RegionError(f"{told} cannot be read: {error.strerror or error}") from error
    if kind == "PARQUET":
        _one_layer(layer, path)
        found = read_parquet(path, fields=fields or (), all_fields=where is not None or fields is None, told=told)
        source = RegionSource(list(enumerate(found[0])), *found[1:])
        return source if where is None else _filtered(source, where, told)
    found = read_vectors(path, kind, layer=layer, where=where, fields=fields, most=most, told=told, stem=path.stem)
    if not found[0]:
        raise RegionError(
            f"no feature of {path} satisfies regions.where {where!r}" if where else f"{told} has no features"
        )
    return RegionSource(list(enumerate(found[0])), *found[1:])


def kind_of(head: bytes, path: Path) -> Kind:
    """The format of a file.

    Args:
        head: Its first bytes.
        path: Its name, for messages.

    Raises:
        RegionError: It is one that is not read; the message says which and how to convert it.
    """
    for first, kind in _FIRST_BYTES:
        if head.startswith(first):
            return kind
    if head.startswith(b"\x1f\x8b"):
        raise RegionError(f"region file {path} is compressed (gzip): unpack it with gunzip")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return _xml_kind(head, path)
    if head.startswith((b"\xff\xfe<\0", b"\xfe\xff\0<")):
        raise RegionError(f"region file {path} is XML in UTF-16: save it as UTF-8")
    if path.suffix.lower() in SIDECARS:
        raise RegionError(f"region file {path} is a part of a Shapefile: name {path.with_suffix('.shp').name}")
    return "JSON"


def digest(path: Path) -> str:
    """sha256 over a region file and what belongs to it.

    Raises:
        OSError: One cannot be read.
    """
    total = hashlib.sha256()
    for part in (path, *sidecars(path)):
        with part.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _xml_kind(head: bytes, path: Path) -> Kind:
    plain = _SKIPPED.sub(b"", head)
    if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:
        raise RegionError(f"region file {path} is XML with definitions of its own (DOCTYPE), which is not read")
    root = _ROOT.search(plain)
    name = root[1].decode("ascii", "replace") if root else "?"
    if name.lower() == "kml":
        return "KML"
    raise RegionError(
        f"region file {path} is XML of the kind {name[:60]!r}; {ACCEPTED}: convert it, for example: "
        f"ogr2ogr -t_srs EPSG:4326 out.geojson {path.name}"
    )


def _one_layer(layer: str | None, path: Path) -> None:
    if layer is not None and layer != path.stem:
        raise RegionError(f"region file {path} has no layers: there is no {layer!r}; remove regions.layer")


def _filtered(source: RegionSource, where: str, told: str) -> RegionSource:
    # A feature's own id is one of its fields, as GDAL has it too, where no property is called so.
    ids = [{"id": feature["id"]} if feature.get("id") is not None else {} for _, feature in source.features]
    properties = [feature.get("properties") for _, feature in source.features]
    rows = [{**own, **p} if isinstance(p, dict) else own for own, p in zip(ids, properties, strict=True)]
    numbers = matching(rows, where, told)
    if not numbers:
        raise RegionError(f"no feature of {told.removeprefix('region file ')} satisfies regions.where {where!r}")
    return replace(source, features=[source.features[number] for number in numbers])


# --- archives -------------------------------------------------------------------------------------------------------


def _unpacked(
    path: Path, *, layer: str | None, where: str | None, fields: Sequence[str] | None, most: int
) -> RegionSource:
    """Reads the one file of an archive; no name in it becomes a path, and no more than the limit is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory(prefix="spex-region-") as folder:
            names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX/")]
            name, layer = _member(names, path, layer)
            inner = PurePosixPath(name)
            members = {inner.suffix.lower(): name}
            if inner.suffix.lower() == ".shp":
                members |= {
                    other.suffix.lower(): text
                    for text in names
                    if (other := PurePosixPath(text)).with_suffix("") == inner.with_suffix("")
                    and other.suffix.lower() in SIDECARS
                }
            left = MAX_FILE_BYTES
            for suffix, text in members.items():
                with archive.open(text) as packed:
                    data = packed.read(left + 1)
                left -= len(data)
                if left < 0:
                    raise RegionError(f"region file {path} unpacks to more than {MAX_FILE_BYTES >> 20} MiB")
                (Path(folder) / f"region{suffix}").write_bytes(data)
            private = Path(folder) / f"region{inner.suffix.lower()}"
            if kind_of(private.read_bytes()[:_HEAD_BYTES], private) != _INSIDE[inner.suffix.lower()]:
                raise RegionError(f"region file {path}: {name[:100]!r} in it is not what its name says")
            try:
                return read_source(private, layer=layer, where=where, fields=fields, most=most)
            except RegionError as error:
                raise RegionError(str(error).replace(str(private), f"{path} ({name[:100]})")) from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, zipfile.LargeZipFile) as error:
        # RuntimeError, and what derives from it: a password is wanted, or another method of compression.
        raise RegionError(f"region file {path} is an archive that cannot be unpacked: {error}") from error


def _member(names: Sequence[str], path: Path, layer: str | None) -> tuple[str, str | None]:
    """The file of an archive that is the region, and the layer in it that is still to be chosen."""
    found = sorted(name for name in names if PurePosixPath(name).suffix.lower() in _INSIDE)
    if path.suffix.lower() == ".kmz" or any(PurePosixPath(n).name.lower() == "doc.kml" for n in found):
        # The first document at the top is the one, says the format; others are linked from it.
        documents = [n for n in found if n.lower().endswith(".kml")]
        documents.sort(key=lambda name: (name.count("/"), PurePosixPath(name).name.lower() != "doc.kml"))
        found = documents[:1]
    called = [name for name in found if PurePosixPath(name).stem == layer]
    if len(found) > 1 and len(called) == 1:
        return called[0], None
    if not found:
        raise RegionError(f"region file {path} is an archive without a region file; {ACCEPTED}")
    if len(found) > 1:
        listed = ", ".join(repr(PurePosixPath(name).stem[:80]) for name in found[:30])
        raise RegionError(f"region file {path} holds {len(found)} files: name one of them as regions.layer: {listed}")
    one_layer = PurePosixPath(found[0]).suffix.lower() in (".shp", ".fgb", ".geojson", ".json")
    return found[0], None if one_layer and called else layer
