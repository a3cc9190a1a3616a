"""The run id and what is found: each field of scenes, files, legends and regions is named here with what it can do."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
import shapely
import shapely.affinity
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import mapping

from pipeline.planning.identity import coarse_footprint
from pipeline.records.region import Region, read_region
from pipeline.records.scene import SCL, Scene, SceneAsset
from pipeline.settings.run_file import SourceConfig
from pipeline.sources.items import normalise_item
from spex_core.legend import IndexCondition, Legend, LegendClass
from tests.pipeline.planning.identity_plans import (
    AREA,
    FIRST,
    RULES,
    SCENES,
    SOFTWARE,
    WEST,
    asset,
    changed,
    changed_file,
    run_id,
    scene,
)
from tests.pipeline.small_plans import LEGEND, region_of
from tests.pipeline.tiny_scenes import write_scene

# --- every field of a scene and its files -------------------------------------------------------------------------

SCENE: dict[str, list[tuple[bool, dict[str, Any]]]] = {
    "id": [(True, {"id": "other"})],  # names the content where a link does not
    "collection": [(False, {"collection": "other"})],
    "provider": [(False, {"provider": "cdse"})],
    "datetime": [
        (False, {"datetime": SCENES[0].datetime + dt.timedelta(seconds=3)}),
        (True, {"datetime": SCENES[2].datetime + dt.timedelta(minutes=3)}),  # now one pass with another scene
    ],
    "cloud_cover": [(False, {"cloud_cover": 10.01}), (False, {"cloud_cover": 99.0})],  # fewer passes than the limit
    "epsg": [(True, {"epsg": 32633})],  # its files' extents are then of another zone
    "bbox": [(False, {"bbox": (11.0, 45.0, 12.0, 47.0)})],
    "footprint": [
        (True, {"footprint": mapping(shapely.box(11.5, 45.5, 12, 46.5))}),
        (False, {"footprint": mapping(shapely.reverse(WEST))}),
        (False, {"footprint": mapping(shapely.segmentize(WEST, 2.0))}),
    ],
    "assets": [
        (True, {"assets": {name: asset(name, "west") for name in ("B02", SCL)}}),
        (False, {"assets": dict(reversed(SCENES[0].assets.items()))}),
    ],
    "radiometry": [(False, {"radiometry": "other words"})],
    "told_offsets": [(False, {"told_offsets": (0.0, -0.1)})],  # what is done about it stands in the files' offsets
    "doubt": [(False, {"doubt": "other words"})],
    "self_href": [(False, {"self_href": "https://e.org/items/west?token=1"})],
    "tile": [(False, {"tile": "32TQT"})],
    "datatake_start": [
        (False, {"datatake_start": SCENES[0].datetime - dt.timedelta(minutes=9)}),
        (True, {"datatake_start": SCENES[2].datetime}),  # now one pass with another scene
    ],
}
ASSET: dict[str, list[tuple[bool, dict[str, Any]]]] = {
    "href": [
        (True, {"href": "https://e.org/west/B02_other.tif"}),
        (False, {"href": "https://u:pw@e.org/west/B02.tif?X-Amz-Signature=2#x"}),
    ],
    "scale": [(True, {"scale": 2e-4}), (False, {"scale": 1e-4 + 1e-16})],
    "offset": [(True, {"offset": 0.0}), (False, {"offset": -0.1 + 1e-12})],
    "nodata": [(True, {"nodata": 65535})],
    "gsd_m": [(False, {"gsd_m": 30.0})],
    "shape": [(True, {"shape": (5490, 5000)}), (True, {"shape": None})],
    "transform": [
        (True, {"transform": (10.0, 0.0, 700_000.0, 0.0, -10.0, 5_200_020.0)}),
        (False, {"transform": (10.0, -0.0, 699_960.0 + 1e-8, 0.0, -10.0, 5_200_020.0)}),
    ],
    "provider": [(False, {"provider": "cdse"})],
    "copies": [(False, {"copies": (SceneAsset("https://mirror.example.org/B02.tif"),)})],  # the same measurements
}


def test_every_field_of_scenes_and_files_is_listed() -> None:
    assert {field.name for field in dataclasses.fields(Scene)} == SCENE.keys()
    assert {field.name for field in dataclasses.fields(SceneAsset)} == ASSET.keys()


@pytest.mark.parametrize(("changes", "fields"), [t for trials in SCENE.values() for t in trials])
def test_a_scene_counts_by_what_can_change_a_pixel(changes: bool, fields: dict[str, Any]) -> None:
    assert (run_id(scenes=changed(0, **fields)) != run_id()) == changes


@pytest.mark.parametrize(("changes", "fields"), [t for trials in ASSET.values() for t in trials])
def test_a_file_counts_by_what_can_change_a_pixel(changes: bool, fields: dict[str, Any]) -> None:
    assert (run_id(scenes=changed_file("B02", **fields)) != run_id()) == changes


def test_an_item_counts_by_what_it_says_not_by_how(tmp_path: Path) -> None:
    item = write_scene(tmp_path, "S2A_30UXB", style="planetary-computer")

    def found(item: dict[str, Any], provider: Any = "planetary-computer", **settings: Any) -> str:
        source = SourceConfig.model_validate(settings)
        one = normalise_item(item, provider, source=source)
        return run_id(scenes=[one], region=region_of(shapely.box(*item["bbox"])))

    old = json.loads(json.dumps(item))
    old["properties"]["proj:epsg"] = int(old["properties"].pop("proj:code").removeprefix("EPSG:"))
    old["properties"] |= {"view:sun_azimuth": 140.1, "updated": "2026-11-01T00:00:00Z", "eo:cloud_cover": 10}
    for served in old["assets"].values():
        served["proj:transform"] = [*served["proj:transform"], 0, 0, 1]
        served["href"] = f"file://{served['href']}"
    old["assets"] = {name: old["assets"][name] for name in reversed(old["assets"])}
    assert found(old) == found(item)
    # What other providers call radiometry ends in the same numbers.
    assert found(item, "generic") == found(item, allowed_roots=[str(tmp_path)]) == found(item)
    item["properties"]["s2:processing_baseline"] = "02.14"
    assert found(item) != found(old)


@pytest.mark.parametrize(("shift", "same"), [(1e-7, True), (1e-3, False)])
def test_a_footprint_counts_to_some_metres(shift: float, same: bool) -> None:
    moved = dataclasses.replace(SCENES[0], footprint=mapping(shapely.affinity.translate(WEST, shift)))
    assert shapely.equals_exact(coarse_footprint(moved), coarse_footprint(SCENES[0])) == same
    assert (run_id(scenes=[moved, *SCENES[1:]]) == run_id()) == same


def test_the_classification_is_neither_scaled_nor_shifted() -> None:
    assert run_id(scenes=changed_file(SCL, scale=2.0, offset=1.0)) == run_id()
    assert run_id(scenes=changed_file(SCL, nodata=1)) != run_id()


def test_a_scene_that_meets_no_zone_does_not_count() -> None:
    far = scene("far", shapely.box(20, 46, 21, 47), day=5)
    assert run_id(scenes=[*SCENES, far]) == run_id()
    assert run_id(scenes=SCENES[:2]) != run_id()


@pytest.mark.parametrize(
    ("settings", "position", "cloud", "changes"),
    [
        (FIRST, 0, 10.01, False),
        (FIRST, 0, 30.01, True),  # behind "late", which it shares ground with
        (FIRST, 1, 9.99, False),  # before "west", which it shares none with
        ({"composite": {"max_observations": 2}}, 0, 30.01, False),  # two passes at most see a pixel
        ({"composite": {"max_observations": 1}}, 0, 30.01, True),
    ],
)
def test_the_cloud_figure_counts_by_the_order_that_can_show(
    settings: dict[str, Any], position: int, cloud: float, changes: bool
) -> None:
    far_east = shapely.box(12.1, 45.5, 13.0, 46.5)
    scenes = (SCENES[0], scene("east", far_east, day=2, cloud_cover=20.0), SCENES[2])
    after = list(scenes)
    after[position] = dataclasses.replace(after[position], cloud_cover=cloud)
    region = region_of(shapely.box(11.98, 46.0, 12.2, 46.02))
    assert (run_id(settings, scenes=after, region=region) != run_id(settings, scenes=scenes, region=region)) == changes


SIGNATURES = ("X-Amz-Date={0}&X-Amz-Signature={0}", "sv=2021&se={0}&sig={0}", "token={0}", "Expires={0}&Signature={0}")


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_a_new_search_may_bring_keeps_the_id(data: st.DataObject) -> None:
    """The same scenes, as a catalog may serve them an hour later, in any combination of what means nothing."""
    secret = data.draw(st.text("0123456789abcdef", min_size=4, max_size=12))
    query = data.draw(st.sampled_from(SIGNATURES)).format(secret)
    user = data.draw(st.sampled_from(["", f"me:{secret}@"]))
    noise = st.floats(-1e-12, 1e-12)
    scenes = []
    for one in data.draw(st.permutations(SCENES)):
        shifted = shapely.transform(shapely.from_geojson(_json(one.footprint)), lambda xy: xy + data.draw(noise))
        files = {
            name: dataclasses.replace(file, href=f"https://{user}e.org/{one.id}/{name}.tif?{query}")
            for name, file in data.draw(st.permutations(list(one.assets.items())))
        }
        scenes.append(
            dataclasses.replace(
                one,
                assets=files,
                cloud_cover=one.cloud_cover + data.draw(st.floats(-0.05, 0.05)),
                datetime=one.datetime + dt.timedelta(milliseconds=data.draw(st.integers(-999, 999))),
                footprint=mapping(shapely.reverse(shifted) if data.draw(st.booleans()) else shifted),
                bbox=shifted.bounds,
                radiometry=data.draw(st.text(max_size=5)),
                self_href=f"https://e.org/{one.id}?{query}",
            )
        )
    assert run_id(scenes=scenes) == run_id()
    assert run_id(FIRST, scenes=scenes) == run_id(FIRST)


def _json(geometry: dict[str, Any]) -> str:
    return json.dumps(geometry)


def test_the_port_of_a_server_on_this_machine_does_not_count() -> None:
    def served(port: int) -> list[Scene]:
        def files(one: Scene) -> dict[str, SceneAsset]:
            return {
                name: dataclasses.replace(file, href=f"http://127.0.0.1:{port}/{one.id}/{name}.tif")
                for name, file in one.assets.items()
            }

        return [dataclasses.replace(one, assets=files(one)) for one in SCENES]

    assert run_id(scenes=served(40_001)) == run_id(scenes=served(52_117)) != run_id()


# --- legend, region, model, software ------------------------------------------------------------------------------

CONDITION = LEGEND.classes[0].prior[0]
LEGEND_CHANGES: dict[str, list[tuple[bool, bool, Any]]] = {
    # field: (changes the map of a network, that of the index rules, the legend)
    "Legend.name": [(False, False, dataclasses.replace(LEGEND, name="other"))],
    "Legend.title": [(False, False, dataclasses.replace(LEGEND, title="other"))],
    "Legend.classes": [(True, True, dataclasses.replace(LEGEND, classes=LEGEND.classes[::-1]))],
    "Legend.nodata": [(True, True, dataclasses.replace(LEGEND, nodata=255))],
}


def with_class(**fields: Any) -> Legend:
    first = dataclasses.replace(LEGEND.classes[0], **fields)
    return dataclasses.replace(LEGEND, classes=(first, *LEGEND.classes[1:]))


def with_condition(**fields: Any) -> Legend:
    prior = LEGEND.classes[0].prior
    return with_class(prior=(dataclasses.replace(CONDITION, **fields), *prior[1:]))


LEGEND_CHANGES |= {
    "LegendClass.code": [(True, True, with_class(code=99))],
    "LegendClass.name": [(False, False, with_class(name="other"))],
    "LegendClass.noun": [(True, False, with_class(noun="other"))],
    "LegendClass.color": [(False, False, with_class(color="#123456"))],
    "LegendClass.prior": [
        (True, True, with_class(prior=())),
        (False, False, with_class(prior=LEGEND.classes[0].prior[::-1])),
    ],
    "IndexCondition.index": [(True, True, with_condition(index="ndsi"))],
    "IndexCondition.low": [(True, True, with_condition(low=0.123))],
    "IndexCondition.high": [(True, True, with_condition(high=0.987))],
    "IndexCondition.low_range": [(True, False, with_condition(low_range=(-1.0, 1.0)))],
    "IndexCondition.high_range": [(True, False, with_condition(high_range=(-1.0, 1.0)))],
}


def test_every_field_of_legends_and_regions_is_listed() -> None:
    records = (Legend, LegendClass, IndexCondition)
    assert {f"{r.__name__}.{f.name}" for r in records for f in dataclasses.fields(r)} == LEGEND_CHANGES.keys()
    assert {field.name for field in dataclasses.fields(Region)} == {"geometry", "subregions", "notes"}


@pytest.mark.parametrize(("network", "rules", "legend"), [t for trials in LEGEND_CHANGES.values() for t in trials])
def test_a_legend_counts_by_what_can_change_a_pixel(network: bool, rules: bool, legend: Legend) -> None:
    assert (run_id(legend=legend) != run_id()) == network
    assert (run_id(RULES, legend=legend) != run_id(RULES)) == rules


def test_region_counts_by_its_area() -> None:
    west, east = shapely.box(11.98, 46.0, 12.0, 46.02), shapely.box(12.0, 46.0, 12.02, 46.02)
    assert run_id(region=Region(AREA, region_of(west, east).subregions, ("mended",))) == run_id()
    assert run_id(region=region_of(AREA.buffer(1e-3))) != run_id()
    hole = AREA.difference(shapely.box(11.985, 46.005, 11.99, 46.01))
    assert run_id(region=region_of(hole)) != run_id()
    # Without clipping only the grid and the scenes of it count.
    whole = {"publish": {"clip": False}}
    assert run_id(whole, region=region_of(hole)) == run_id(whole)
    assert run_id(whole, region=region_of(AREA.buffer(1e-3))) != run_id(whole)


@settings(max_examples=20, deadline=None)
@given(turn=st.integers(0, 4), reverse=st.booleans(), repeat=st.integers(0, 4), swap=st.booleans())
def test_how_a_region_is_written_does_not_count(
    tmp_path_factory: pytest.TempPathFactory, turn: int, reverse: bool, repeat: int, swap: bool
) -> None:
    ring = [(11.98, 46.0), (12.02, 46.001), (12.021, 46.02), (12.0, 46.015), (11.98, 46.02)]
    island = shapely.box(12.03, 46.0, 12.04, 46.01)

    def written(coordinates: list[tuple[float, float]], parts_swapped: bool) -> Region:
        parts = [shapely.Polygon(coordinates), island]
        path = tmp_path_factory.mktemp("region") / "region.geojson"
        path.write_text(shapely.to_geojson(shapely.MultiPolygon(parts[::-1] if parts_swapped else parts)))
        return read_region(path)

    other = ring[turn:] + ring[:turn]
    other = other[::-1] if reverse else other
    other = other[: repeat + 1] + other[repeat:]
    first, second = written(ring, False), written(other, swap)
    assert run_id(region=first) == run_id(region=second)
    for epsg in first.utm_epsgs():
        assert first.zone_geometry(epsg).wkb == second.zone_geometry(epsg).wkb, "so the same pixels are inside"


def test_weights_and_versions_count() -> None:
    assert run_id(model="other weights") != run_id()
    assert run_id(software={**SOFTWARE, "numpy": "3"}) != run_id()
    assert run_id(software={**SOFTWARE, "torch": "3"}) != run_id()
    assert run_id(RULES, software={**SOFTWARE, "torch": "3"}) == run_id(RULES), "the index rules do not use it"
    assert run_id(RULES, software={**SOFTWARE, "numpy": "3"}) != run_id(RULES)
