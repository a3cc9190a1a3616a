"""The written catalog: valid against the recorded schemas, relative, and kind to what was there before."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rustac
import shapely

from pipeline.errors import OutputError
from pipeline.outputs.imprint import Imprint
from pipeline.outputs.stac_catalog import CatalogFiles, CatalogWarning, publish
from pipeline.outputs.stac_item import MapProduct, item_folder, item_id, map_item
from pipeline.outputs.stac_model import ModelCard, model_item, model_link
from pipeline.outputs.thumbnail import write_thumbnail
from pipeline.records.plan import ZoneGrid
from pipeline.records.scene import Scene
from spex_core.legend import Legend
from tests.pipeline.outputs.test_thumbnail import write_map
from tests.stac_schemas import problems

LEGEND = Legend.from_yaml()
NOW = dt.datetime(2026, 7, 1, 12, 0, tzinfo=dt.UTC)
CARD = ModelCard("spex-s2-tiny", "ab" * 32, LEGEND, 256, "2.13.0+cpu", NOW)


def scene(id_: str, href: str | None) -> Scene:
    moment = dt.datetime(2026, 6, 3, 10, 0, tzinfo=dt.UTC)
    return Scene(id_, "sentinel-2-l2a", "earth-search", moment, 3.0, 32633, (12, 46, 13, 47), {}, {}, "by rule", href)


def product(
    name: str = "valley", start: dt.date = dt.date(2026, 6, 1), epsg: int = 32633, **changes: Any
) -> MapProduct:
    base = MapProduct(
        run_name=name,
        run_id="0123456789abcdef",
        start=start,
        end=start + dt.timedelta(days=29),
        grid=ZoneGrid(epsg, 500_000.0, 5_200_000.0, 10.0, 40, 60),
        geometry=shapely.box(15.0, 46.9, 15.008, 46.9036),
        legend=LEGEND,
        scenes=(
            scene("S2_B", "https://example.com/S2_B.json"),
            scene("S2_A", "https://example.com/S2_A.json"),
            scene("S2_C", None),
        ),
        software={"torch": "2.13.0", "spex-landcover": "0.1.0"},
        version="0.1.0",
        created=NOW,
        lineage="Median of three scenes, classified with SPEX.",
        class_pixels={10: 300, 80: 100},
        observed_share=0.97,
        mean_confidence=0.91,
    )
    return replace(base, **changes)


def write(
    output: Path, *products: MapProduct, collection: str = "maps", model: bool = True, **told: Any
) -> CatalogFiles:
    items = []
    for p in products:
        folder = item_folder(output, collection, p.item_id)
        folder.mkdir(parents=True, exist_ok=True)
        codes = np.full((40, 60), 10, dtype=np.uint8)
        for name in ("landcover", "confidence", "valid_count"):
            write_map(folder / f"{name}.tif", codes)
        write_thumbnail(folder / "landcover.tif", folder / "thumbnail.png", LEGEND)
        (folder / "explanations.json").write_text('{"regions": []}', encoding="utf-8")
        (folder / "explanations.md").write_text("# none\n", encoding="utf-8")
        items.append(map_item(p, folder, collection, model_link=model_link(CARD, collection) if model else None))
    return publish(output, collection, items, LEGEND, model=model_item(CARD, collection) if model else None, **told)


def every_json(output: Path) -> list[Path]:
    others = {".spex", "view"}
    return sorted(p for p in output.rglob("*.json") if not others & {*p.parts} and p.name != "explanations.json")


def read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def test_every_written_object_validates(tmp_path: Path) -> None:
    told = Imprint("CC-BY-4.0", ({"name": "Agency", "roles": ["producer"]},), "Agency (2026)", "https://maps.test/lc")
    write(tmp_path, product(imprint=told), product(epsg=32632), imprint=told)
    paths = every_json(tmp_path)
    assert len(paths) == 6  # catalog, two collections, two items, one model
    for path in paths:
        assert problems(read(path)) == [], path


def test_the_recorded_schemas_catch_a_broken_item(tmp_path: Path) -> None:
    item = read(write(tmp_path, product()).items[0])
    for path, value in (
        (("properties", "proj:code"), 32633),
        (("properties", "processing:level"), 4),
        (("assets", "landcover", "file:size"), "big"),
        (("assets", "landcover", "raster:sampling"), "volume"),
        (("assets", "landcover", "classification:classes"), []),
        (("properties", "renders"), {"x": {"assets": "landcover"}}),
        (("bbox",), None),
    ):
        broken = json.loads(json.dumps(item))
        at = broken
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        assert problems(broken), path
    model = read(next(tmp_path.glob("maps-models/*/*.json")))
    del model["properties"]["mlm:input"]
    assert problems(model)


def test_pystac_opens_the_folder_and_every_link_resolves(tmp_path: Path) -> None:
    write(tmp_path, product(), product(epsg=32632))
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)  # self-contained: a moved folder still opens
    catalog = pystac.Catalog.from_file(str(moved / "catalog.json"))
    items = list(catalog.get_items(recursive=True))
    assert {i.collection_id for i in items} == {"maps", "maps-models"}
    for item in items:
        for link in item.links:
            target = link.get_absolute_href()
            assert target is not None
            if not target.startswith("https://"):
                assert Path(target).is_file(), link
        for asset in item.get_assets().values():
            href = asset.get_absolute_href()
            assert href is not None
            assert href.startswith("urn:") or Path(href).is_file()


def test_the_item_says_what_a_map_item_should(tmp_path: Path) -> None:
    files = write(
        tmp_path,
        product(missing_blocks=(7, 3), problems=("S2_A: B04 unreadable",), skipped_scenes=(("S2_X", "no B11"),)),
    )
    item = read(files.items[0])
    properties = item["properties"]
    assert item["id"] == "valley_2026-06-01_2026-06-30_32633"
    assert properties["datetime"] == "2026-06-01T00:00:00Z"
    assert (properties["start_datetime"], properties["end_datetime"]) == (
        "2026-06-01T00:00:00Z",
        "2026-06-30T23:59:59Z",
    )
    assert (properties["proj:code"], properties["proj:epsg"]) == ("EPSG:32633", 32633)
    assert properties["proj:shape"] == [40, 60]
    assert properties["proj:transform"][:6] == [10.0, 0.0, 500_000.0, 0.0, -10.0, 5_200_000.0]
    assert properties["proj:bbox"] == [500_000.0, 5_199_600.0, 500_600.0, 5_200_000.0]
    assert properties["spex:missing_blocks"] == [3, 7]
    assert properties["spex:problems"] == 4
    landcover = item["assets"]["landcover"]
    data = (files.items[0].parent / "landcover.tif").read_bytes()
    assert landcover["file:size"] == len(data)
    assert landcover["file:checksum"] == "1220" + hashlib.sha256(data).hexdigest()
    trees = next(c for c in landcover["classification:classes"] if c["value"] == 10)
    assert (trees["count"], trees["percentage"], trees["color_hint"]) == (300, 75.0, "006400")
    derived = [link for link in item["links"] if link["rel"] == "derived_from"]
    assert [link["href"] for link in derived[:2]] == ["https://example.com/S2_A.json", "https://example.com/S2_B.json"]
    assert derived[2]["mlm:name"] == "spex-s2-tiny"
    assert properties["processing:expression"] == {"format": "stac-mlm", "expression": derived[2]["href"]}


def test_another_run_joins_the_catalog_and_keeps_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, product(start=dt.date(2026, 5, 1)))
    collection = read(tmp_path / "maps" / "collection.json")
    collection.update({"title": "Maps of our agency", "license": "CC-BY-4.0"})
    (tmp_path / "maps" / "collection.json").write_text(json.dumps(collection), encoding="utf-8")
    write(tmp_path, product(start=dt.date(2026, 6, 1)))
    write(tmp_path, product(name="coast"), collection="other")

    catalog = pystac.Catalog.from_file(str(tmp_path / "catalog.json"))
    assert {c.id for c in catalog.get_children()} == {"maps", "maps-models", "other", "other-models"}
    maps = catalog.get_child("maps")
    assert isinstance(maps, pystac.Collection)
    assert len(list(maps.get_items())) == 2
    assert (maps.title, maps.license) == ("Maps of our agency", "CC-BY-4.0")
    interval = maps.extent.temporal.intervals[0]
    assert interval[0] is not None
    assert interval[1] is not None
    assert (interval[0].month, interval[1].month) == (5, 6)
    for path in every_json(tmp_path):
        assert problems(read(path)) == []


def test_the_same_run_again_replaces_its_item_and_keeps_its_first_date(tmp_path: Path) -> None:
    write(tmp_path, product())
    files = write(tmp_path, product(created=NOW + dt.timedelta(days=3)))
    item = read(files.items[0])
    assert (item["properties"]["created"], item["properties"]["updated"]) == (
        "2026-07-01T12:00:00Z",
        "2026-07-04T12:00:00Z",
    )
    assert len([link for link in read(files.collection)["links"] if link["rel"] == "item"]) == 1


def test_the_parquet_holds_all_items_of_the_collection(tmp_path: Path) -> None:
    write(tmp_path, product(start=dt.date(2026, 5, 1)))
    files = write(tmp_path, product(start=dt.date(2026, 6, 1), missing_blocks=(1,)))
    table = rustac.read_sync(str(files.parquet))
    assert {i["id"] for i in table["features"]} == {
        "valley_2026-05-01_2026-05-30_32633",
        "valley_2026-06-01_2026-06-30_32633",
    }
    found = {i["id"]: i for i in table["features"]}["valley_2026-06-01_2026-06-30_32633"]
    assert found["properties"]["proj:code"] == "EPSG:32633"
    assert found["assets"]["landcover"]["file:size"] > 0


def test_a_lost_item_of_another_run_is_told_and_its_link_kept(tmp_path: Path) -> None:
    first = write(tmp_path, product(start=dt.date(2026, 5, 1)))
    first.items[0].unlink()
    with pytest.warns(CatalogWarning, match="2026-05-01"):
        files = write(tmp_path, product())
    hrefs = [link["href"] for link in read(files.collection)["links"] if link["rel"] == "item"]
    assert len(hrefs) == 2


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"type": "Feature", "id": "x", "properties": {}}), encoding="utf-8")
    output = tmp_path / "out"
    write(output, product())
    path = output / "maps" / "collection.json"
    collection = read(path)
    collection["links"].append({"rel": "item", "href": "../../secret.json"})
    path.write_text(json.dumps(collection), encoding="utf-8")
    with pytest.warns(CatalogWarning, match=r"secret\.json"):
        write(output, product())


def test_a_foreign_catalog_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "catalog.json").write_text('{"name": "mine"}', encoding="utf-8")
    with pytest.raises(OutputError, match=r"catalog\.json is not a STAC catalog"):
        write(tmp_path, product())
    assert (tmp_path / "catalog.json").read_text(encoding="utf-8") == '{"name": "mine"}'


@pytest.mark.parametrize("name", ["../evil", "a/b", "..", "", "-x", "a\\b", "x" * 300])
def test_ids_that_could_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot name a folder"):
        item_id(name, dt.date(2026, 1, 1), dt.date(2026, 1, 31), 32633)
    with pytest.raises(OutputError, match="cannot name a folder"):
        item_folder(tmp_path, name, "item")


def test_a_map_without_its_file_gets_no_item(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"no landcover\.tif"):
        map_item(product(), tmp_path, "maps")


def test_a_detailed_coast_is_simplified_for_the_catalog(tmp_path: Path) -> None:
    angle = np.linspace(0, 2 * np.pi, 20_001)[:-1]
    radius = 0.1 + 0.002 * np.sin(400 * angle)
    coast = shapely.Polygon(np.stack([15 + radius * np.cos(angle), 47 + radius * np.sin(angle)], axis=1))
    item = read(write(tmp_path, product(geometry=coast)).items[0])
    assert sum(len(ring) for ring in item["geometry"]["coordinates"]) <= 2000
    assert shapely.geometry.shape(item["geometry"]).area == pytest.approx(coast.area, rel=0.05)


def test_a_region_of_very_many_parts_gets_a_small_footprint(tmp_path: Path) -> None:
    fields = shapely.MultiPolygon([shapely.box(15 + i / 1e3, 46.9, 15.0005 + i / 1e3, 46.9005) for i in range(700)])
    path = write(tmp_path, product(geometry=fields)).items[0]
    footprint = shapely.geometry.shape(json.loads(path.read_text(encoding="utf-8"))["geometry"])
    assert shapely.get_num_coordinates(footprint) <= 2000
    assert footprint.area >= fields.area
    assert footprint.intersects(fields)


def test_a_run_name_with_two_dots_has_a_folder(tmp_path: Path) -> None:
    assert write(tmp_path, product("valley..north")).items[0].is_file()
