"""A finished store becomes outputs that agree with each other and with the map."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import shapely

from pipeline.machine.progress import LogProgress
from pipeline.mapstore.journal import BlockFailed, BlockFinished
from pipeline.mapstore.store import RunStore, run_folder
from pipeline.outputs.assets import ASSETS
from pipeline.outputs.publish import Publication, publish_run
from pipeline.outputs.report import Accuracy
from pipeline.planning.blocks import build_plan
from pipeline.planning.prepare import Prepared
from pipeline.records.region import Region
from pipeline.records.scene import Scene
from pipeline.sources.catalog import SceneSearch
from spex_core.legend import Legend
from tests.pipeline.small_plans import random_layers, region_of, run_config, scene_over
from tests.stac_schemas import problems

LEGEND = Legend.from_yaml()
NOW = dt.datetime(2026, 6, 2, 8, 0, tzinfo=dt.UTC)
TILING = {"tile_px": 64, "overlap_px": 16, "block_px": 64}
WEST, EAST = shapely.box(11.992, 46.0, 11.998, 46.01), shapely.box(11.998, 46.0, 12.006, 46.01)
"""The second area spans the zones 32 and 33."""


def finished_run(
    output: Path,
    region: Region,
    *,
    fail_block: bool = False,
    skipped: tuple[tuple[str, str], ...] = (),
    spoil: Callable[[Scene], Scene] = lambda scene: scene,
    **settings: Any,
) -> tuple[Prepared, RunStore]:
    config = run_config(tiling=TILING, output=str(output), **settings)
    both = shapely.box(11.9, 45.9, 12.1, 46.1)
    scenes = [
        spoil(scene_over("S2_1", both, self_href="https://example.org/S2_1.json")),
        scene_over("S2_2", both, self_href="https://example.org/S2_2.json", epsg=32633),
    ]
    plan = build_plan(config, region, scenes, model_fingerprint="rules:1", legend=LEGEND)
    store = RunStore.create(run_folder(output, plan.run_id), plan, LEGEND)
    rng = np.random.default_rng(0)
    with store.journal_writer() as journal:
        for zone in plan.zones:
            for block in zone.blocks:
                if fail_block and zone is plan.zones[0] and block.index == 0:
                    journal.append(BlockFailed(zone.grid.epsg, 0, 3, "worker died"))
                    continue
                layers, counts, means = random_layers(rng, block.window.height, block.window.width)
                digest = store.write_block(zone.grid.epsg, block, layers, counts, means)
                journal.append(BlockFinished(zone.grid.epsg, block.index, 0.1, 0.9, digest))
    return Prepared(config, region, LEGEND, SceneSearch(plan.scenes, skipped), "rules:1", plan), store


def publish(prepared: Prepared, store: RunStore, accuracy: Accuracy | None = None) -> Publication:
    return publish_run(prepared, store, LogProgress(), accuracy, seconds=1.0, created=NOW)


def item_of(path: Path) -> dict[str, Any]:
    item: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return item


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, Publication]:
    return tmp_path, publish(*finished_run(tmp_path, region_of(WEST, EAST)), Accuracy("a reference", 0.9, 0.7))


def test_everything_promised_is_there_and_validates(published: tuple[Path, Publication]) -> None:
    output, publication = published
    assert all(path.is_file() for paths in publication.outputs.values() for path in paths)
    found = {str(p.relative_to(output)) for p in output.rglob("*") if p.is_file() and ".spex" not in p.parts}
    for epsg in (32632, 32633):
        item = f"test_2026-05-01_2026-05-31_{epsg}"
        optional = {"scores.tif", "classes.parquet", "unfamiliar.tif"}
        names = {*(kind.file for kind in ASSETS.values()), f"{item}.json"} - optional
        assert {f"spex-landcover/{item}/{name}" for name in names} <= found
    assert {
        "catalog.json",
        "spex-landcover/collection.json",
        "spex-landcover/items.parquet",
        "report/index.html",
        "view/index.html",
        "view/maps.json",
    } <= found
    assert not [name for name in found if ".tmp" in name]
    for path in output.rglob("*.json"):
        if not {".spex", "view"} & set(path.parts) and path.name not in (
            "explanations.json",
            "plan.json",
            "provenance.json",
        ):
            assert problems(json.loads(path.read_text(encoding="utf-8"))) == [], path


def test_numbers_agree_with_the_published_raster(published: tuple[Path, Publication]) -> None:
    _, publication = published
    counts = np.zeros(256, dtype=np.int64)
    for path in publication.outputs["landcover"]:
        with rasterio.open(path) as source:
            counts += np.bincount(source.read(1).ravel(), minlength=256)
    totals = {c.code: c.pixels for c in publication.statistics.overall.classes}
    # The run was not clipped here, so the raster may hold a rim of pixels outside the region.
    inside = {code: sum(zone[code] for zone in publication.statistics.zone_pixels.values()) for code in LEGEND.codes}
    assert totals == {code: n for code, n in inside.items() if n}
    assert all(totals.get(code, 0) <= counts[code] for code in LEGEND.codes)
    parts = [sum(c.pixels for c in r.classes) for r in publication.statistics.regions]
    assert sum(parts) == sum(totals.values())


def test_an_area_across_zones_is_explained_beside_both_maps(published: tuple[Path, Publication]) -> None:
    output, _ = published
    texts = {}
    for path in sorted(output.glob("spex-landcover/*/explanations.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        texts[document["item"][-5:]] = {r["id"]: r["text"] for r in document["regions"]}
    assert set(texts["32632"]) == {"r0", "r1"}
    assert set(texts["32633"]) == {"r1"}
    assert texts["32632"]["r1"] == texts["32633"]["r1"]
    assert texts["32632"]["r1"].startswith("Region 1 (")


def test_the_catalog_leads_to_the_report_and_the_plan(published: tuple[Path, Publication]) -> None:
    output, publication = published
    items = [
        i for i in pystac.Catalog.from_file(str(output / "catalog.json")).get_items(recursive=True)
        if i.collection_id == "spex-landcover"
    ]  # fmt: skip
    assert len(items) == 2
    for item in items:
        assert Path(str(item.assets["report"].get_absolute_href())) in publication.outputs["report"]
        rels = {link.rel: link for link in item.links}
        assert Path(str(rels["processing-execution"].get_absolute_href())).name == "plan.json"
        assert [x.target for x in item.links if x.rel == "derived_from" and "example.org" in str(x.target)]
    assert "90.0%" in publication.outputs["report"][0].read_text(encoding="utf-8")


def test_a_missing_block_is_told_in_item_and_report(tmp_path: Path) -> None:
    prepared, store = finished_run(tmp_path, region_of(WEST), fail_block=True, skipped=(("S2_9", "no SCL"),))
    publication = publish(prepared, store)
    item = item_of(publication.outputs["items"][0])
    assert item["properties"]["spex:missing_blocks"] == [0]
    assert "worker died" in item["properties"]["spex:problem_messages"][0]
    assert item["properties"]["spex:observed_share"] < 1
    html = publication.outputs["report"][0].read_text(encoding="utf-8")
    assert "1 block is missing" in html
    assert "S2_9" in html


def test_publishing_twice_gives_the_same_rasters_and_catalog(tmp_path: Path) -> None:
    prepared, store = finished_run(tmp_path, region_of(WEST, EAST))
    contents = []
    for _ in range(2):
        publish(prepared, store)
        contents.append({str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and ".spex" not in p.parts})
    differing = [name for name in contents[0] if contents[0][name] != contents[1][name]]
    assert set(contents[0]) == set(contents[1])
    assert differing == []


def test_an_item_of_several_zones_does_not_carry_the_figures_of_all(published: tuple[Path, Publication]) -> None:
    _, publication = published
    for path in publication.outputs["items"]:
        properties = item_of(path)["properties"]
        assert "spex:observed_share" not in properties
        assert "spex:mean_confidence" not in properties
        assert properties["processing:lineage"].startswith("2 Sentinel-2 L2A scenes of 2026-05-01 to 2026-05-31")


def test_a_block_that_was_never_reached_is_missing_too(tmp_path: Path) -> None:
    prepared, store = finished_run(tmp_path, region_of(WEST))
    lines = store.journal_path.read_text(encoding="utf-8").splitlines(keepends=True)
    store.journal_path.write_text("".join(lines[:-1]), encoding="utf-8")
    publication = publish(prepared, store)
    last = prepared.plan.zones[0].blocks[-1].index
    assert item_of(publication.outputs["items"][0])["properties"]["spex:missing_blocks"] == [last]
    assert "1 block is missing" in publication.outputs["report"][0].read_text(encoding="utf-8")


def test_a_sub_region_without_a_pixel_is_told(tmp_path: Path) -> None:
    speck = shapely.box(11.995, 46.005, 11.99501, 46.00501)  # a metre wide, between pixel centres
    publication = publish(*finished_run(tmp_path, region_of(WEST, speck)))
    document = json.loads(publication.outputs["explanations"][0].read_text(encoding="utf-8"))
    assert [r["id"] for r in document["regions"]] == ["r0", "r1"]
    assert document["regions"][1]["classes"] == []


def test_a_smaller_region_takes_the_other_zone_out_of_the_catalog(tmp_path: Path) -> None:
    publish(*finished_run(tmp_path, region_of(WEST, EAST)))
    publish(*finished_run(tmp_path, region_of(WEST)))
    items = pystac.Catalog.from_file(str(tmp_path / "catalog.json")).get_items(recursive=True)
    zones = {item.id[-5:] for item in items if item.collection_id == "spex-landcover"}
    assert zones == {"32632"}
    assert not list((tmp_path / "spex-landcover").glob("*_32633"))
