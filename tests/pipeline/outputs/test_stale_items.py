"""A smaller region leaves no stale item behind, and nothing else is removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rustac

from pipeline.outputs.stac_catalog import CatalogFiles
from pipeline.outputs.stac_item import MapProduct
from pipeline.outputs.stale_items import run_of
from tests.pipeline.outputs.small_items import COLLECTION, product, write_items
from tests.strangers import snapshot

WEST, EAST = product(epsg=32632), product(epsg=32633)


def items_of(output: Path) -> set[str]:
    collection = json.loads((output / COLLECTION / "collection.json").read_text())
    return {Path(link["href"]).stem for link in collection["links"] if link["rel"] == "item"}


def folders_of(output: Path) -> set[str]:
    return {path.name for path in (output / COLLECTION).iterdir() if path.is_dir()}


def item_path(output: Path, made: MapProduct) -> Path:
    return output / COLLECTION / made.item_id / f"{made.item_id}.json"


def edit(path: Path, **properties: Any) -> dict[str, Any]:
    item: dict[str, Any] = json.loads(path.read_text())
    item["properties"] = {k: v for k, v in {**item["properties"], **properties}.items() if v is not None}
    path.write_text(json.dumps(item))
    return item


def test_a_zone_that_the_region_no_longer_reaches_leaves_catalog_and_disk(tmp_path: Path) -> None:
    write_items(tmp_path, WEST, EAST)
    assert items_of(tmp_path) == folders_of(tmp_path) == {WEST.item_id, EAST.item_id}
    files: CatalogFiles = write_items(tmp_path, WEST)
    assert files.removed == (EAST.item_id,)
    assert items_of(tmp_path) == folders_of(tmp_path) == {WEST.item_id}
    assert [item["id"] for item in rustac.read_sync(str(files.parquet))["features"]] == [WEST.item_id]
    write_items(tmp_path, WEST, EAST)
    assert items_of(tmp_path) == folders_of(tmp_path) == {WEST.item_id, EAST.item_id}


@pytest.mark.parametrize(
    "change",
    [
        {"spex:run_id": None},
        {"spex:run_name": "other"},
        {"end_datetime": "2026-07-30T23:59:59Z"},
        {"start_datetime": None},
        {"proj:code": "EPSG:32634"},
        {"proj:code": None},
    ],
    ids=str,
)
def test_only_what_our_own_run_made_is_removed(change: dict[str, Any], tmp_path: Path) -> None:
    write_items(tmp_path, WEST, EAST)
    assert run_of(edit(item_path(tmp_path, EAST), **change)) != run_of(
        json.loads(item_path(tmp_path, WEST).read_text())
    )
    before = snapshot(item_path(tmp_path, EAST).parent)
    assert write_items(tmp_path, WEST).removed == ()
    assert snapshot(item_path(tmp_path, EAST).parent) == before
    assert items_of(tmp_path) == {WEST.item_id, EAST.item_id}


@pytest.mark.parametrize("content", ["not JSON", "[]", "{}", '{"id": 1, "properties": 3}', "[" * 100_000, "\x00"])
def test_what_cannot_be_read_is_not_removed(content: str, tmp_path: Path) -> None:
    write_items(tmp_path, WEST)
    path = item_path(tmp_path, EAST)
    path.parent.mkdir()
    path.write_text(content)
    assert write_items(tmp_path, WEST).removed == ()
    assert path.read_text() == content


def test_an_item_of_an_older_version_is_known_by_its_id(tmp_path: Path) -> None:
    write_items(tmp_path, WEST, EAST)
    edit(item_path(tmp_path, EAST), **{"spex:run_name": None})
    assert write_items(tmp_path, WEST).removed == (EAST.item_id,)


def test_other_runs_and_periods_keep_their_items(tmp_path: Path) -> None:
    others = [product(name="valley_2", epsg=32633), product(start=EAST.end, epsg=32633)]
    others.append(product(name=f"valley_{EAST.start}_{EAST.end}", epsg=32633))  # the same beginning
    write_items(tmp_path, WEST, EAST)
    for other in others:
        write_items(tmp_path, other)
    assert write_items(tmp_path, WEST).removed == (EAST.item_id,)
    assert folders_of(tmp_path) == {WEST.item_id, *(other.item_id for other in others)}


def test_notes_beside_a_stale_item_stay_and_nothing_is_deleted_through_links(tmp_path: Path) -> None:
    output, theirs = tmp_path / "out", tmp_path / "theirs"
    write_items(output, WEST, EAST)
    path = item_path(output, EAST)
    theirs.mkdir()
    (theirs / "landcover.tif").write_bytes(b"theirs")
    (path.parent / "notes.txt").write_text("ours to keep")
    (path.parent / "landcover.tif").unlink()
    (path.parent / "landcover.tif").symlink_to(theirs / "landcover.tif")
    item = json.loads(path.read_text())
    for key, href in (
        ("up", "../../../theirs/landcover.tif"),
        ("absolute", str(theirs / "landcover.tif")),
        ("dots", ".."),
        ("here", "."),
        ("nothing", ""),
        ("number", 3),
    ):
        item["assets"][key] = {"href": href}
    item["assets"]["text"] = "landcover.tif"
    path.write_text(json.dumps(item))
    before = snapshot(theirs)
    write_items(output, WEST)
    assert snapshot(theirs) == before
    assert items_of(output) == {WEST.item_id}
    assert [entry.name for entry in path.parent.iterdir()] == ["notes.txt"]


def test_a_stale_item_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    output = tmp_path / "out"
    write_items(output, WEST, EAST)
    place = item_path(output, EAST).parent
    place.rename(tmp_path / "theirs")
    place.symlink_to(tmp_path / "theirs")
    before = snapshot(tmp_path / "theirs")
    write_items(output, WEST)
    assert snapshot(tmp_path / "theirs") == before


def test_a_removal_that_was_killed_is_finished_by_the_next_run(tmp_path: Path) -> None:
    write_items(tmp_path, WEST, EAST)
    path = item_path(tmp_path, EAST)
    item = path.read_bytes()
    write_items(tmp_path, WEST)
    path.parent.mkdir()
    path.write_bytes(item)
    (path.parent / "thumbnail.png").write_bytes(b"")  # no link leads here any more
    assert write_items(tmp_path, WEST).removed == (EAST.item_id,)
    assert folders_of(tmp_path) == {WEST.item_id}


def test_two_zones_of_one_run_are_never_stale_to_each_other(tmp_path: Path) -> None:
    write_items(tmp_path, WEST, EAST)
    assert write_items(tmp_path, EAST, WEST).removed == ()
    assert items_of(tmp_path) == {WEST.item_id, EAST.item_id}
