"""Two catalogs that each lack a third of the scenes make the map of one that has all, also when a server dies."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from rich.console import Console
from shapely.geometry import mapping

import pipeline
from pipeline.commands.screens import plan_document, show_plan
from pipeline.engine.cluster import Cluster
from pipeline.imagery import copies, file_reader
from pipeline.imagery.composite import read_composite
from pipeline.planning.blocks import summarise
from pipeline.planning.plan_file import read_plan, write_plan
from pipeline.planning.prepare import prepare
from pipeline.records.result import RunResult
from pipeline.settings.run_file import RunConfig
from pipeline.sources.catalog import asset_door
from tests.conftest import TINY_SETTINGS
from tests.pipeline.loopback_server import Request, Response, Server, file_answer, json_response, serve
from tests.pipeline.tiny_scenes import COLOUR_KEYS, LEFT, TOP, footprint_lonlat, write_scene

pytestmark = pytest.mark.ray

MINUTES = {"30UXB": 0, "30UYB": 4}
"""Two granules of each pass, over ground that they share in part."""


@dataclass
class World:
    """Files of six granules, and their items."""

    folder: Path
    items: list[dict[str, Any]]
    region: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(7)
    items = []
    for day in (1, 11, 21):
        for column, tile in enumerate(MINUTES):
            bands = {name: rng.integers(1100, 6000, (s, s), np.uint16) for name, s in (("B04", 128), ("B08", 128))}
            item = write_scene(
                folder, f"product-{day}-{tile}", dn=bands, scl=np.where(rng.random((64, 64)) < 0.5, 9, 4),
                left=LEFT + column * 640, time=f"2026-06-{day:02d}T10:30:00Z", cloud=20.0, href_prefix="FILES",
                properties={"s2:mgrs_tile": tile, "s2:datatake_id": f"GS2A_202606{day:02d}T103000_000001_N05.11"},
            )  # fmt: skip
            items.append(item)
    area = shapely.union(*(footprint_lonlat(32630, LEFT + 640 * c, TOP, 1280.0) for c in (0, 1))).buffer(-0.0005)
    region = folder / "region.geojson"
    region.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": mapping(area)}))
    return World(folder, items, region)


def as_served(item: dict[str, Any], number: int, style: str, url: str) -> dict[str, Any]:
    """The item in a catalog's own words: its ids, its names of assets, its idea of time, its files."""
    made = copy.deepcopy(item)
    if style == "earth-search":
        made["id"] = f"S2A_{9 - number}_L2A"  # another order than that of the products
        made["properties"]["datetime"] = made["properties"]["datetime"].replace("10:30", f"10:{42 + number}")
        made["assets"] = {COLOUR_KEYS[key]: asset for key, asset in made["assets"].items()}
    for asset in made["assets"].values():
        asset["href"] = asset["href"].replace("FILES", url)
    return made


@contextlib.contextmanager
def archive(
    world: World, style: str, lacks: int | None = None, files: Callable[[Request], Response] | None = None
) -> Iterator[Server]:
    """A catalog and its file server; every third granule may be missing."""

    def answer(request: Request) -> Response:
        if request.path == "/items.json":
            kept = [
                as_served(item, n, style, server.url)
                for n, item in enumerate(world.items)
                if lacks is None or n % 3 != lacks
            ]
            return json_response({"type": "FeatureCollection", "features": kept})
        return (files or (lambda request: file_answer(world.folder, request)))(request)

    with serve(answer) as server:
        yield server


def config(world: World, output: Path, *sources: dict[str, Any]) -> RunConfig:
    composite = {"max_observations": 2, "mask_dilation_px": 0}  # which passes are considered shows in the map
    place = {"region": str(world.region), "output": str(output)}
    return RunConfig.from_dict({**TINY_SETTINGS, **place, "composite": composite, "source": list(sources)})


def source(server: Server, style: str) -> dict[str, Any]:
    return {"provider": style, "url": f"{server.url}/items.json", "collection": "sentinel-2-l2a"}


def pixels(result: RunResult) -> bytes:
    kinds = ("landcover", "confidence", "valid_count")
    found = []
    for kind in kinds:
        with rasterio.open(result.outputs[kind][0]) as opened:
            found.append(opened.read().tobytes())
    return b"".join(found)


@pytest.fixture(scope="module")
def complete(world: World, local_ray: Cluster, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The map of one catalog that has all."""
    with archive(world, "planetary-computer") as server:
        result = pipeline.run(config(world, tmp_path_factory.mktemp("one"), source(server, "generic")))
    assert result.exit_code == 0
    with rasterio.open(result.outputs["landcover"][0]) as landcover:
        assert len(np.unique(landcover.read(1))) > 3
    return pixels(result)


def test_two_catalogs_that_each_lack_a_third_make_the_same_map(world: World, complete: bytes, tmp_path: Path) -> None:
    with archive(world, "earth-search", 0) as one, archive(world, "planetary-computer", 1) as two:
        settings = config(world, tmp_path / "out", source(one, "earth-search"), source(two, "generic"))
        prepared = prepare(settings)
        result = pipeline.run(settings)
    assert result.exit_code == 0
    assert pixels(result) == complete
    # What each adds is shown, and the plan is the same when it is read again.
    write_plan(prepared.plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == prepared.plan
    summary = summarise(prepared.plan, prepared.region)
    console = Console(record=True, width=300)
    show_plan(prepared, summary, tmp_path / "plan.json", console)
    text = console.export_text()
    assert f"{one.url}/items.json (sentinel-2-l2a): 4 scenes, 2 of them nowhere else" in text
    assert f"{two.url}/items.json (sentinel-2-l2a): 2 scenes, 2 of them nowhere else; copies of 2 of those" in text
    document = plan_document(prepared, summary, tmp_path / "plan.json")
    assert [share["scenes"] for share in document["catalogs"]] == [4, 2]


def dying(world: World, after: int, served: list[str]) -> Callable[[Request], Response]:
    """A file server that answers so many requests."""

    def answer(request: Request) -> Response:
        served.append(request.path)
        return file_answer(world.folder, request) if len(served) <= after else Response(0)

    return answer


def composites(settings: RunConfig) -> tuple[list[bytes], list[str]]:
    """What the readers of a run make of each block, and their problems."""
    prepared = prepare(settings)
    scenes, door = prepared.plan.scenes, asset_door(settings.source)
    read = [
        read_composite(scenes, zone.grid, block.read_window, settings.composite, door)
        for zone in prepared.plan.zones
        for block in zone.blocks
    ]
    assert not any(composite.unread for composite in read)
    images = [composite.reflectance.tobytes() + composite.valid_count.tobytes() for composite in read]
    return images, [problem for composite in read for problem in composite.problems]


@pytest.mark.parametrize("after", [0, 40])
def test_a_file_server_that_dies_between_two_reads_costs_no_pixel(
    world: World, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = file_reader.gdal_options
    monkeypatch.setattr(file_reader, "gdal_options", lambda href: {**options(href), "GDAL_HTTP_RETRY_DELAY": "0.01"})
    copies._silent.clear()
    served: list[str] = []
    with (
        archive(world, "earth-search", files=dying(world, after, served)) as one,
        archive(world, "planetary-computer") as two,
    ):
        expected, _ = composites(config(world, tmp_path, source(two, "generic")))
        found, problems = composites(config(world, tmp_path, source(one, "earth-search"), source(two, "generic")))
    assert len(served) > after
    assert found == expected
    assert any("is read in its place" in problem for problem in problems)


@pytest.mark.long
def test_a_file_server_that_dies_in_mid_run_costs_nothing_that_another_has(
    world: World, complete: bytes, tmp_path: Path
) -> None:
    served: list[str] = []
    with (
        archive(world, "earth-search", files=dying(world, 20, served)) as one,
        archive(world, "planetary-computer") as two,
    ):
        result = pipeline.run(config(world, tmp_path, source(one, "earth-search"), source(two, "generic")))
    assert len(served) > 20
    assert (result.exit_code, result.incomplete_blocks) == (0, 0)
    assert pixels(result) == complete
    journal = (tmp_path / ".spex" / result.run_id / "journal.jsonl").read_text()
    assert "is read in its place" in journal


@pytest.mark.long
def test_a_catalog_that_does_not_answer_is_told(world: World, complete: bytes, tmp_path: Path) -> None:
    with serve(lambda request: Response(404)) as dead, archive(world, "planetary-computer") as two:
        result = pipeline.run(config(world, tmp_path, source(dead, "earth-search"), source(two, "generic")))
    assert result.exit_code == 3
    assert "scenes that only this catalog has may be missing" in result.skipped_scenes[0][1]
    assert pixels(result) == complete
