"""Many runs, one catalog: nothing lost, nothing twice, nothing written that is there; and others' tools read it."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import rustac
import shapely
import stackstac

from pipeline.machine.addresses import public_address
from pipeline.mapstore.journal import BlockFailed
from pipeline.outputs.assets import ASSETS
from pipeline.planning.plan_file import read_plan
from pipeline.records.scene import Scene, SceneAsset
from tests.pipeline.outputs.small_items import COLLECTION
from tests.pipeline.outputs.test_publish import EAST, WEST, finished_run, publish
from tests.pipeline.small_plans import LEGEND, region_of, run_config

SECRET = "S3CR3Tvalue"
_WRITER = """
import datetime as dt, sys
from pathlib import Path
from tests.pipeline.outputs.small_items import product, write_items
sys.stdin.readline()
for month in (4, 5, 6):
    write_items(Path(sys.argv[1]), product(sys.argv[2], dt.date(2026, month, 1)))
"""


def contents(output: Path) -> dict[str, tuple[bytes, int]]:
    found = (p for p in output.rglob("*") if p.is_file() and ".spex" not in p.parts)
    return {str(p.relative_to(output)): (p.read_bytes(), p.stat().st_mtime_ns) for p in found}


def test_three_months_of_two_regions_at_once_are_six_items(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, name], stdin=subprocess.PIPE, text=True) for name in ("coast", "inland")]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    assert [writer.wait(timeout=240) for writer in writers] == [0, 0]
    collection = json.loads((tmp_path / COLLECTION / "collection.json").read_text())
    hrefs = [link["href"] for link in collection["links"] if link["rel"] == "item"]
    assert len(hrefs) == len(set(hrefs)) == 6
    table = rustac.read_sync(str(tmp_path / COLLECTION / "items.parquet"))["features"]
    assert {f"./{item['id']}/{item['id']}.json" for item in table} == set(hrefs)
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("<img ") == 6
    assert page.index("2026-06-01 to") < page.index("2026-04-01 to")  # the newest first
    for href in hrefs:
        assert f"../{COLLECTION}/{href.split('/')[1]}/thumbnail.png" in page


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A folder of two zones that says where it will be found."""
    output = tmp_path_factory.mktemp("served")
    told = {"url": output.as_uri(), "license": "CC-BY-4.0", "citation": "Agency (2026)", "scores": True}
    prepared, store = finished_run(output, region_of(WEST, EAST), publish=told)
    return output, prepared, publish(prepared, store)


def test_publishing_again_writes_nothing(tmp_path: Path) -> None:
    prepared, store = finished_run(tmp_path, region_of(WEST, EAST))
    publish(prepared, store)
    before = contents(tmp_path)
    publish(prepared, store)
    after = contents(tmp_path)
    assert {name for name in before if before[name][0] != after[name][0]} == set()
    shared = ("catalog.json", f"{COLLECTION}/collection.json", f"{COLLECTION}/items.parquet", "report/index.html",
              "view/index.html", "view/maps.json")  # fmt: skip
    assert all(before[name] == after[name] for name in shared)


def test_the_table_leads_to_the_files_from_where_it_lies(tmp_path: Path) -> None:
    publish(*finished_run(tmp_path, region_of(WEST)))
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    (item,) = rustac.read_sync(str(moved / COLLECTION / "items.parquet"))["features"]
    for asset in item["assets"].values():
        assert (moved / COLLECTION / asset["href"]).is_file()


def test_stackstac_opens_the_table_of_a_served_folder_to_the_same_pixels(served: tuple[Path, Any, Any]) -> None:
    output, _, _ = served
    items = rustac.read_sync(str(output / COLLECTION / "items.parquet"))["features"]
    (item,) = [item for item in items if item["id"].endswith("_32632")]
    bands = ["landcover", "valid_count"]
    stacked = stackstac.stack([item], assets=bands, dtype="uint8", fill_value=np.uint8(0), rescale=False)
    for band in ("landcover", "valid_count"):
        with rasterio.open(item["assets"][band]["href"]) as source:
            pixels = source.read(1, masked=True).filled(0)
            np.testing.assert_array_equal(stacked.sel(band=band).squeeze().values, pixels)
            assert (float(stacked.x[0]), float(stacked.y[0])) == (source.bounds.left, source.bounds.top)
    assert str(stacked.time.values[0]).startswith("2026-05-01T00:00:00")


def test_a_served_folder_says_its_address_its_terms_and_every_asset(served: tuple[Path, Any, Any]) -> None:
    output, _, publication = served
    documents = [output / "catalog.json", output / COLLECTION / "collection.json", *publication.outputs["items"]]
    for path in documents:
        document = json.loads(path.read_text())
        links = {link["rel"]: link for link in document["links"]}
        assert links["self"]["href"] == path.as_uri()
        assert all(link.get("title") for link in document["links"])
    collection, item = (json.loads(path.read_text()) for path in documents[1:3])
    assert collection["license"] == item["properties"]["license"] == "CC-BY-4.0"
    assert collection["sci:citation"] == item["properties"]["sci:citation"] == "Agency (2026)"
    assert set(collection["item_assets"]) == set(item["assets"])
    assert (output / COLLECTION / collection["assets"]["thumbnail"]["href"]).is_file()
    assert item["assets"]["valid_count"]["nodata"] == 255


def test_scores_are_a_band_per_class_in_percent(served: tuple[Path, Any, Any]) -> None:
    _, _, publication = served
    with (
        rasterio.open(publication.outputs["scores"][0]) as scores,
        rasterio.open(publication.outputs["landcover"][0]) as landcover,
    ):
        assert scores.descriptions == tuple(c.name for c in LEGEND)
        values, codes = scores.read(), landcover.read(1)
    assert (values[:, codes == 0] == 255).all()
    assert values[:, codes > 0].max() <= 100


def test_tables_of_regions_agree_with_the_text(served: tuple[Path, Any, Any]) -> None:
    _, _, publication = served
    document = json.loads(publication.outputs["explanations"][0].read_text())
    expected = {(r["id"], c["code"]): c["area_ha"] for r in document["regions"] for c in r["classes"]}
    rows = list(csv.DictReader(io.StringIO(publication.outputs["regions"][0].read_text())))
    assert {(row["region"], int(row["code"])): float(row["class_area_ha"]) for row in rows} == expected
    table = pq.read_table(publication.outputs["regions_parquet"][0])
    for row in table.to_pylist():
        assert row["trees_ha"] == expected.get((row["region"], 10), 0.0)
        assert shapely.from_wkb(row["geometry"]).equals_exact(
            {"r0": WEST, "r1": EAST}[row["region"]], tolerance=1e-9, normalize=True
        )
    assert json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"]["encoding"] == "WKB"


def test_qgis_is_told_the_classes_and_nothing_else(served: tuple[Path, Any, Any]) -> None:
    _, _, publication = served
    style = publication.outputs["style"][0].read_text()
    assert style.count("<paletteEntry ") == len(LEGEND)
    assert all(f'label="{c.name}"' in style for c in LEGEND)


def test_no_secret_is_in_any_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signed = f"https://user:{SECRET}@example.org/S2_1/B02.tif?X-Amz-Signature={SECRET}"

    def spoiled(scene: Scene) -> Scene:
        copy = SceneAsset(signed)
        asset = SceneAsset(signed, 1e-4, -0.1, copies=(copy,))
        changes = {"assets": {"B02": asset}, "self_href": f"{signed}&sig={SECRET}", "doubt": f"{signed} is odd"}
        return Scene(**{**vars(scene), **changes})

    source = {"provider": "generic", "url": f"https://user:{SECRET}@example.org/stac?token={SECRET}"}
    prepared, store = finished_run(
        tmp_path, region_of(WEST), source=source, spoil=spoiled, skipped=(("S2_9", f"{signed} is gone"),)
    )
    with store.journal_writer() as journal:
        journal.append(BlockFailed(32632, 0, 3, f"/vsicurl/{signed} answered 403"))
    publish(prepared, store)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > len(ASSETS)
    assert [str(path) for path in files if SECRET.encode() in path.read_bytes()] == []
    captured = capsys.readouterr()
    assert SECRET not in captured.out + captured.err
    assert read_plan(store.folder / "plan.json").scenes[0].assets["B02"].href == public_address(signed)


def test_no_folder_of_this_machine_is_given_away(tmp_path: Path) -> None:
    prepared, store = finished_run(tmp_path, region_of(WEST))
    publish(prepared, store)
    for path in tmp_path.rglob("*"):
        if path.is_file() and ".spex" not in path.parts:
            assert str(tmp_path).encode() not in path.read_bytes(), path


def test_a_raster_that_is_not_asked_for_any_more_goes(tmp_path: Path) -> None:
    prepared, store = finished_run(tmp_path, region_of(WEST), publish={"scores": True})
    assert publish(prepared, store).outputs["scores"][0].is_file()
    config = prepared.config.model_copy(update={"publish": run_config().publish})
    made = publish(dataclasses.replace(prepared, config=config), store)
    assert "scores" not in made.outputs
    assert "scores" not in json.loads(made.outputs["items"][0].read_text())["assets"]
    assert not list(tmp_path.rglob("scores.tif"))
