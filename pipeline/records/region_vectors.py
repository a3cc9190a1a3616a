"""Region files that GDAL reads: GeoPackage, Shapefile, FlatGeobuf, KML; through pyogrio, which is imported here only.

Nothing from outside is trusted: which format a file is was told from its first bytes, GDAL sees it under a name made
here in a folder of its own (so no name means a network, an archive or another file), and what it then says to have
opened must be one of :data:`DRIVERS`.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely

from pipeline.errors import InstallationError, RegionError
from pipeline.records.region_crs import described_crs

DRIVERS = {
    "GPKG": (".gpkg", "GeoPackage", frozenset(("GPKG",))),
    "SHP": (".shp", "Shapefile", frozenset(("ESRI Shapefile",))),
    "FGB": (".fgb", "FlatGeobuf", frozenset(("FlatGeobuf",))),
    "KML": (".kml", "KML", frozenset(("LIBKML", "KML"))),
}
"""Kind → suffix under which GDAL sees it, name for people, drivers that may open it."""
SIDECARS = (".shx", ".dbf", ".prj", ".cpg")
"""Files beside a Shapefile that are read with it."""
_PRIVATE_STEM = "region"
_CERTIFICATES = ("GDAL_CURL_CA_BUNDLE", "PROJ_CURL_CA_BUNDLE")
_UNDEFINED = ("Undefined", "Unknown engineering", "unknown", "LOCAL_CS", "LOCAL_", "ENGCRS", "ENGINEERINGCRS")


def read_vectors(
    path: Path,
    kind: str,
    *,
    layer: str | None,
    where: str | None,
    fields: Sequence[str] | None,
    most: int,
    told: str,
    stem: str,
) -> tuple[list[dict[str, Any]], pyproj.CRS | None, bool]:
    """Reads one layer.

    Args:
        path: The file.
        kind: Of :data:`DRIVERS`.
        layer: Its name; None: the only one that has geometries.
        where: An SQL condition on attributes; None: all features.
        fields: Attributes that are wanted; letters of either case will do. None: all.
        most: One feature more than this is read at most, so that the caller sees that there are too many.
        told: What messages call the file.
        stem: The file's own name, which is that of its layer where the format has only one.

    Returns:
        Features with ``properties`` (the wanted fields, as they are called by the caller) and ``geometry`` (or None);
        their coordinate system (None: longitude and latitude); and whether the file names one.

    Raises:
        RegionError: Unreadable, no such layer, several and none named, or the condition is none.
        InstallationError: pyogrio is missing or broken.
    """
    suffix, _, drivers = DRIVERS[kind]
    pyogrio = _pyogrio()
    with _private_copy(path, suffix, told) as private, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            info = _chosen_layer(pyogrio, str(private), kind, layer, told, stem)
            if info["driver"] not in drivers:
                raise RegionError(f"{told} is not what its first bytes say: GDAL calls it {info['driver']}")
            fields = [str(name) for name in info["fields"]] if fields is None else fields
            names = {str(name).casefold(): str(name) for name in reversed(info["fields"])}
            wanted = {field: names[field.casefold()] for field in fields if field.casefold() in names}
            exact = {str(name) for name in info["fields"]}
            wanted |= {field: field for field in fields if field in exact}
            read = functools.partial(
                pyogrio.raw.read,
                str(private),
                layer=info["layer_name"],
                # With a condition all are read: the drivers differ in whether it may name what is not read.
                columns=None if where else sorted(set(wanted.values())),
                where=where,
                max_features=most + 1,
                return_fids=True,
                force_2d=True,
                datetime_as_string=True,
            )
            meta, numbers, geometries, columns = _in_own_letters(read, kind, path)
        except RegionError:
            raise
        except Exception as error:  # pyogrio has a dozen kinds, and GDAL's text is what helps
            reason = " ".join(str(error).replace(str(private), path.name).split())
            if "SHAPE_RESTORE_SHX" in reason:
                raise RegionError(
                    f"{told} is a Shapefile without its {path.stem}.shx, which must lie beside it, as the .dbf and "
                    ".prj should (copy all of them, or zip them)"
                ) from None
            if where and ("SQL" in reason or "where" in reason.lower() or "column" in reason.lower()):
                there = ", ".join(str(name) for name in info["fields"][:30]) or "none"
                raise RegionError(
                    f"regions.where {where[:200]!r}: {reason}; the fields of {told} are: {there}"
                ) from None
            raise RegionError(
                f"{told} looks like {DRIVERS[kind][1]} and cannot be read (cut short?): {reason[:500]}; where ogrinfo "
                f"can read it, convert it: ogr2ogr -t_srs EPSG:4326 out.geojson {path.name}"
            ) from None
    if geometries is None:
        raise RegionError(f"{told} has no geometries in layer {info['layer_name']!r}")
    table = {str(name): column for name, column in zip(meta["fields"], columns, strict=True)}
    key = str(info.get("fid_column") or "fid").casefold()
    table |= {field: numbers for field in fields if field not in wanted and field.casefold() == key}
    wanted |= {field: field for field in fields if field in table and field not in wanted}
    features = [
        {
            "type": "Feature",
            "properties": {field: _plain(table[name][row]) for field, name in wanted.items()},
            "geometry": _geometry(wkb, row, told),
        }
        for row, wkb in enumerate(geometries)
    ]
    text = str(meta["crs"] or "")
    named = bool(text) and not any(text.startswith(f'{word}["') or f'["{word}' in text[:60] for word in _UNDEFINED)
    return features, described_crs(text, told) if named else None, named


def _in_own_letters(read: Callable[..., Any], kind: str, path: Path) -> Any:
    """A Shapefile whose letters no ``.cpg`` names is read as UTF-8 where it is that, else as GDAL has it (Latin 1)."""
    if kind != "SHP" or any(p.suffix.lower() == ".cpg" for p in sidecars(path)):
        return read()
    try:
        return read(encoding="UTF-8")
    except UnicodeDecodeError:
        return read()


def vector_formats() -> str:
    """Names of the formats that are read here, with the version of GDAL.

    Raises:
        InstallationError: pyogrio is missing or broken.
    """
    there = set(_pyogrio().list_drivers(read=True))
    names = [name for _, name, drivers in DRIVERS.values() if drivers & there]
    return f"{', '.join(names)} (GDAL {'.'.join(map(str, _pyogrio().__gdal_version__))})"


def _pyogrio() -> Any:
    """The package; what its import puts into the environment is taken out again: it would reach rasterio's GDAL too."""
    before = {name: os.environ.get(name) for name in _CERTIFICATES}
    try:
        import pyogrio
        import pyogrio.raw
    except Exception as error:  # a wheel for another machine raises many kinds
        raise InstallationError(
            f"region files other than GeoJSON need pyogrio, which cannot be imported ({error}): "
            "pip install -c constraints.txt pyogrio, or give GeoJSON"
        ) from error
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
    logging.getLogger("pyogrio").setLevel(logging.ERROR)
    return pyogrio


@contextmanager
def _private_copy(path: Path, suffix: str, told: str) -> Iterator[Path]:
    """A name without a meaning of its own for a file, and for those beside it."""
    try:
        with tempfile.TemporaryDirectory(prefix="spex-region-") as folder:
            private = Path(folder) / f"{_PRIVATE_STEM}{suffix}"
            private.symlink_to(path.resolve())
            for beside in sidecars(path) if suffix == ".shp" else ():
                private.with_suffix(beside.suffix.lower()).symlink_to(beside.resolve())
            yield private
    except OSError as error:
        raise RegionError(f"{told} cannot be read: {error}") from error


def sidecars(path: Path) -> list[Path]:
    """Files that belong to a Shapefile, sorted; none for another file."""
    if path.suffix.lower() != ".shp":
        return []
    try:
        beside = sorted(path.parent.iterdir())
    except OSError:
        return []
    return [p for p in beside if p.stem == path.stem and p.suffix.lower() in SIDECARS and p.is_file()]


def _chosen_layer(pyogrio: Any, path: str, kind: str, layer: str | None, told: str, stem: str) -> dict[str, Any]:
    found = [str(name) for name, geometry in pyogrio.list_layers(path) if geometry is not None]
    if kind in ("SHP", "FGB"):  # one layer, called as the file is
        if layer is not None and layer != stem:
            raise RegionError(f"{told} has one layer, {stem!r}: there is no {layer!r} (regions.layer)")
        return dict(pyogrio.read_info(path))
    infos = {name: dict(pyogrio.read_info(path, layer=name, force_feature_count=True)) for name in found}
    filled = [name for name in found if infos[name]["features"] != 0]
    listed = ", ".join(repr(name[:80]) for name in found[:30]) + (" ..." if len(found) > 30 else "")
    if layer is not None:
        if layer not in infos:
            raise RegionError(
                f"{told} has no layer {layer!r} (regions.layer); it has {listed or 'none with geometries'}"
            )
        return infos[layer]
    if not filled:
        raise RegionError(f"{told} has no features" if found else f"{told} has no layer with geometries")
    if len(filled) > 1:
        listed = ", ".join(f"{name[:80]!r} ({infos[name]['features']} features)" for name in filled[:30])
        raise RegionError(f"{told} has {len(filled)} layers: name one of them as regions.layer: {listed}")
    return infos[filled[0]]


def _geometry(wkb: bytes | None, row: int, told: str) -> Any:
    if wkb is None:
        return None
    try:
        return shapely.from_wkb(wkb)
    except Exception as error:
        raise RegionError(f"feature {row + 1} of {told} has a malformed geometry: {error}") from error


def _plain(value: Any) -> Any:
    """A NumPy value as JSON would have it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, bytes | dt.date | dt.time | np.ndarray):
        return str(value)
    return value
