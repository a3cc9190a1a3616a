"""A region is the same whichever file, format and coordinate system it comes in; what cannot be read says why."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shapely

from pipeline.errors import RegionError
from pipeline.records.region import read_region
from pipeline.records.region_crs import named_crs
from pipeline.records.region_formats import digest
from tests.pipeline.records.region_files import (
    IDS,
    KINDS,
    NAMES,
    PARTS,
    feature,
    features,
    json_file,
    parquet_file,
    sequence,
    vector_file,
    zipped,
)

WHOLE = shapely.union_all(PARTS)
METRES = shapely.box(6e5, 5e6, 7e5, 6e6)


def collection(*parts: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(parts), **members}


@pytest.mark.parametrize("kind", KINDS)
def test_one_region_in_every_format(kind: str, tmp_path: Path) -> None:
    region = read_region(KINDS[kind](tmp_path))
    names = sorted((area.id, area.name) for area in region.subregions)  # FlatGeobuf keeps an order of its own
    # KML has no id of ours: LIBKML makes numbers up where none is given.
    assert [name for _, name in names] == list(NAMES)
    if "km" not in kind:
        assert [id_ for id_, _ in names] == list(IDS)
    assert shapely.symmetric_difference(region.geometry, WHOLE).area < 1e-5 * WHOLE.area
    assert region.notes == ()


# --- coordinate systems ---------------------------------------------------------------------------------------------

LONLAT_NAMES = (
    "urn:ogc:def:crs:OGC:1.3:CRS84", "urn:ogc:def:crs:OGC::CRS84", "OGC:CRS84", "CRS84", "CRS:84", "EPSG:4326",
    "epsg:4326", "urn:ogc:def:crs:EPSG::4326", "urn:ogc:def:crs:EPSG:6.18.3:4326", "WGS 84", "WGS84",
    "http://www.opengis.net/def/crs/OGC/1.3/CRS84", "https://www.opengis.net/def/crs/EPSG/0/4326", "4326",
    "http://www.opengis.net/gml/srs/epsg.xml#4326",
)  # fmt: skip
UTM_NAMES = (
    "EPSG:25832", "epsg:25832", "urn:ogc:def:crs:EPSG::25832", "urn:ogc:def:crs:EPSG:9.8.1:25832", "25832",
    "http://www.opengis.net/def/crs/EPSG/0/25832", "http://www.opengis.net/gml/srs/epsg.xml#25832",
    "urn:x-ogc:def:crs:EPSG:25832", "ETRS89 / UTM zone 32N",
)  # fmt: skip


@pytest.mark.parametrize("name", LONLAT_NAMES)
def test_longitude_and_latitude_however_spelt(name: str, tmp_path: Path) -> None:
    crs = {"type": "name", "properties": {"name": name}}
    region = read_region(json_file(tmp_path / "r.geojson", collection(*features(), crs=crs)))
    assert region.geometry.equals(shapely.normalize(WHOLE))
    assert region.notes == ()


@pytest.mark.parametrize("name", UTM_NAMES)
def test_a_projection_however_spelt(name: str, tmp_path: Path) -> None:
    crs = named_crs(name, "it")
    assert crs is not None
    assert crs.to_epsg() == 25832
    member = {"type": "name", "properties": {"name": name}}
    region = read_region(json_file(tmp_path / "r.geojson", collection(*features("EPSG:25832"), crs=member)))
    assert shapely.symmetric_difference(region.geometry, WHOLE).area < 1e-5 * WHOLE.area


@pytest.mark.parametrize(
    "member",
    [None, {}, {"type": "name", "properties": None}, {"type": "name", "properties": {"name": None}}, {"type": "name"}],
)
def test_a_crs_that_names_nothing_is_noted(member: Any, tmp_path: Path) -> None:
    region = read_region(json_file(tmp_path / "r.geojson", collection(*features(), crs=member)))
    assert len(region.notes) == 1
    assert "longitude and latitude" in region.notes[0]


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ({"type": "name", "properties": {"name": "EPSG:99999999"}}, "not known"),
        ({"type": "name", "properties": {"name": "EPSG:5773"}}, "no map projection"),
        ({"type": "name", "properties": {"name": "Our own grid"}}, "not known"),
        ({"type": "name", "properties": {"name": "+proj=utm +zone=32 +nadgrids=/etc/passwd"}}, "not known"),
        ({"type": "name", "properties": {"name": "/etc/passwd:25832"}}, "not known"),
        ({"type": "link", "properties": {"href": "http://127.0.0.1:1/crs", "type": "proj4"}}, "no link is followed"),
        ({"type": "name", "properties": {"name": ["EPSG:4326"]}}, "names no coordinate system"),
        ([4326], "names no coordinate system"),
    ],
)
def test_a_crs_that_is_not_known_is_refused(member: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(RegionError, match=words):
        read_region(json_file(tmp_path / "r.geojson", collection(*features(), crs=member)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda d: vector_file(d / "r.shp", None, geometries=[METRES] * 2), r"missing \.prj.*s_srs"),
        (lambda d: vector_file(d / "r.gpkg", None, geometries=[METRES] * 2), "s_srs EPSG"),
        (lambda d: json_file(d / "r.geojson", collection(*features("EPSG:25832"))), "projected metres"),
        (lambda d: json_file(d / "r.geojson", collection(*features("EPSG:25832"), crs=None)), "does not say"),
        (
            lambda d: json_file(
                d / "r.geojson", collection(*features(), crs={"type": "EPSG", "properties": {"code": 25832}})
            ),
            "look like degrees",
        ),
        (lambda d: parquet_file(d / "r.parquet", column={"crs": {"type": "nonsense"}}), "does not understand"),
    ],
)  # fmt: skip
def test_coordinates_that_do_not_fit_their_system_are_refused(
    make: Callable[[Path], Path], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RegionError, match=words):
        read_region(make(tmp_path))


def test_degrees_without_a_system_are_longitude_and_latitude(tmp_path: Path) -> None:
    region = read_region(vector_file(tmp_path / "r.shp", None))
    assert region.geometry.equals(shapely.normalize(WHOLE))


def test_a_projected_polygon_may_cross_the_antimeridian(tmp_path: Path) -> None:
    ring = feature(
        shapely.box(150_000, 8_000_000, 250_000, 8_050_000)
    )  # zone 1 begins 167 km east of its false easting
    crs = {"type": "name", "properties": {"name": "EPSG:32701"}}
    region = read_region(json_file(tmp_path / "r.geojson", {**ring, "crs": crs}))
    assert region.utm_epsgs() == (32701, 32760)
    west, east = sorted(shapely.bounds(shapely.get_parts(region.geometry)).tolist())
    assert (west[0], east[2]) == (-180.0, 180.0)
    assert west[2] < -179.0
    assert east[0] > 179.0


# --- features without a geometry, layers, conditions ----------------------------------------------------------------


def nothing_here(kind: str, folder: Path) -> Path:
    parts = [*PARTS, None]
    columns = {"id": [*IDS, "gps-failed"], "name": [*NAMES, "Gone"]}
    if kind == "geojson":
        document = collection(*features(), feature(None, id="gps-failed", name="Gone"))
        return json_file(folder / "r.geojson", document)
    if kind == "sequence":
        lost = json.dumps(feature(None, id="gps-failed", name="Gone"))
        return json_file(folder / "r.geojson", lost + "\n" + sequence("\n"))
    if kind == "no member":
        lost = {"type": "Feature", "properties": {"name": "Gone"}}
        return json_file(folder / "r.geojson", collection(*features(), lost))
    return vector_file(folder / f"r.{kind}", geometries=parts, columns=columns)


@pytest.mark.parametrize("kind", ["geojson", "sequence", "no member", "gpkg", "shp"])
def test_a_feature_without_a_geometry_is_left_out_and_noted(kind: str, tmp_path: Path) -> None:
    region = read_region(nothing_here(kind, tmp_path))
    assert [area.id for area in region.subregions] == list(IDS)
    assert len(region.notes) == 1
    assert "'Gone'" in region.notes[0]


def two_layers(folder: Path) -> Path:
    path = vector_file(folder / "r.gpkg", layer="fields", columns={"id": IDS, "name": NAMES, "crop": ["wheat", "rye"]})
    return vector_file(path, layer="parishes", geometries=PARTS[:1], columns={"id": ["p"]}, append=True)


def test_several_layers_are_listed_and_one_is_chosen(tmp_path: Path) -> None:
    path = two_layers(tmp_path)
    with pytest.raises(RegionError, match=r"2 layers.*regions\.layer.*'fields' \(2 features\), 'parishes' \(1"):
        read_region(path)
    assert len(read_region(path, layer="fields").subregions) == 2
    with pytest.raises(RegionError, match=r"no layer 'field'.*'fields', 'parishes'"):
        read_region(path, layer="field")


@pytest.mark.parametrize("kind", ["gpkg", "shp", "fgb", "geojson", "parquet"])
def test_a_condition_chooses_features_in_every_format(kind: str, tmp_path: Path) -> None:
    path = KINDS[{"gpkg": "geopackage", "shp": "shapefile", "fgb": "flatgeobuf"}.get(kind, f"geo{kind[-7:]}")
                 if kind != "geojson" else "geojson"](tmp_path)  # fmt: skip
    region = read_region(path, where="name LIKE 'B%' AND id IN ('b', 'c')")
    assert shapely.symmetric_difference(region.geometry, PARTS[1]).area < 1e-5 * WHOLE.area
    for where, words in (
        ("name = 'Nobody'", "no feature"),
        ("colour = 'red'", r"regions\.where.*name"),
        ("(", "where"),
    ):
        with pytest.raises(RegionError, match=words):
            read_region(path, where=where)


@pytest.mark.parametrize(
    "where", ["1) UNION SELECT 99 --", "load_extension('x')", "id IN (SELECT name FROM pragma_database_list)"]
)
def test_a_condition_reaches_nothing_but_the_properties(where: str, tmp_path: Path) -> None:
    with pytest.raises(RegionError, match="where"):
        read_region(KINDS["geojson"](tmp_path), where=where)


# --- what cannot be read --------------------------------------------------------------------------------------------


def text(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def bomb(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "r.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("r.shp", bytes(1_000_000))
    return folder / "r.zip"


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def several(folder: Path) -> Path:
    files = [json_file(folder / f"{name}.geojson", collection(*features())) for name in ("north", "south")]
    return zipped(folder / "r.zip", *files)


VRT = "<OGRVRTDataSource><OGRVRTLayer name='a'><SrcDataSource>/x</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>"
KML = '<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2"><Document></Document></kml>'


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (text("r.gpkg", b"SQLite format 3\0" + b"\x10\0\1\1"), "GeoPackage.*cut short.*ogr2ogr"),
        (text("r.gpkg", b"SQLite format 3\0" + bytes(5000)), "GeoPackage"),
        (text("r.fgb", b"fgb\x03fgb\x01" + bytes(40)), "FlatGeobuf"),
        (text("r.shp", b"\x00\x00\x27\x0a" + bytes(100)), "Shapefile"),
        (text("r.dbf", b"\x03\x7e"), r"name r\.shp"),
        (text("r.zip", b"PK\x03\x04broken"), "cannot be unpacked"),
        (text("r.parquet", b"PAR1" + bytes(40)), "cannot be read"),
        (text("r.vrt", VRT), "OGRVRTDataSource.*ogr2ogr"),
        (text("r.gml", '<?xml version="1.0"?><!-- kml --><gml:FeatureCollection/>'), "FeatureCollection.*ogr2ogr"),
        (text("r.kml", '<!DOCTYPE kml [<!ENTITY a "b">]><kml>&a;</kml>'), "DOCTYPE"),
        (text("r.kml", KML), "region file"),
        (text("r.topojson", '{"type": "Topology", "objects": {}, "arcs": []}'), "TopoJSON"),
        (text("r.json", '{"features": [{"geometry": {"rings": []}}]}'), "Esri JSON"),
        (text("r.geojson", sequence("\n") + '{"type": "Fea'), r"text 3 of a sequence"),
        (text("r.geojson", sequence("\n") + "[1]"), "not GeoJSON"),
        (text("r.geojson.gz", b"\x1f\x8b\x08" + bytes(20)), "gunzip"),
        (lambda d: _folder(d / "r.gdb"), "file geodatabase"),
        (text("r.csv", "id;wkt\n1;POLYGON((0 0))"), "not JSON"),
        (text("r.geojson", b"\xff\xfe\x81\x82\x83"), "not JSON"),
        (text("r.geojson", b""), "not JSON"),
        (several, r"2 files.*regions\.layer.*'north', 'south'"),
        (lambda d: zipped(d / "r.zip", json_file(d / "readme.txt", "hello")), "archive without a region file"),
        (lambda d: zipped(d / "r.zip", text("inner.gpkg", VRT)(d)), "region file"),
        (lambda d: d, "is a folder"),
        (lambda d: vector_file(d / "r.gpkg", geometries=[shapely.Point(1, 1)] * 2), r"is a Point.*regions\.where"),
        (lambda d: vector_file(d / "r.gpkg", geometries=[], columns={}), "no features"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_what_it_is_and_what_to_do(
    make: Callable[[Path], Path], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RegionError, match=words):
        read_region(make(tmp_path))


def test_an_archive_is_not_unpacked_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.records.region_formats.MAX_FILE_BYTES", 100_000)
    with pytest.raises(RegionError, match="unpacks to more"):
        read_region(bomb(tmp_path))


def test_a_file_of_an_archive_can_be_named(tmp_path: Path) -> None:
    assert len(read_region(several(tmp_path), layer="south").subregions) == 2


def test_too_many_features_are_not_read_to_the_end(tmp_path: Path) -> None:
    with pytest.raises(RegionError, match=r"more than 1 features.*regions\.where"):
        read_region(vector_file(tmp_path / "r.gpkg"), max_regions=1)


def test_a_polygon_with_the_point_of_its_label_is_a_polygon(tmp_path: Path) -> None:
    both = shapely.GeometryCollection([PARTS[0], PARTS[0].centroid])
    region = read_region(json_file(tmp_path / "r.geojson", collection(feature(both, id="a"), features()[1])))
    assert region.subregions[0].geometry.equals(PARTS[0])
    assert "points and lines" in region.notes[0]


@pytest.mark.parametrize("suffix", [".gpkg", ".shp"])
def test_the_number_of_a_feature_can_be_its_id(suffix: str, tmp_path: Path) -> None:
    region = read_region(vector_file(tmp_path / f"r{suffix}"), id_field="fid")
    first = 1 if suffix == ".gpkg" else 0
    assert [area.id for area in region.subregions] == [str(first), str(first + 1)]


def test_the_digest_covers_the_files_beside_a_shapefile(tmp_path: Path) -> None:
    path = vector_file(tmp_path / "r.shp")
    before = digest(path)
    path.with_suffix(".prj").write_text(path.with_suffix(".prj").read_text() + " ")
    assert digest(path) != before


def test_plain_geojson_imports_no_other_reader(tmp_path: Path) -> None:
    path = KINDS["newline-delimited"](tmp_path)
    code = (
        "import sys\nfrom pipeline.records.region import read_region\n"
        f"read_region({str(path)!r})\nprint([m for m in ('pyogrio', 'pyarrow', 'rasterio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
