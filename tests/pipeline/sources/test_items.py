"""Items of every provider become the same scene; what cannot be used is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import shapely
import stackstac

from pipeline.errors import SceneError
from pipeline.imagery.stack import stackstac_item
from pipeline.records.scene import SCL, Scene
from pipeline.settings.run_file import SourceConfig
from pipeline.sources.items import item_footprint, normalise_item
from pipeline.sources.providers import READ_ASSETS, find_assets
from spex_core.bands import SENTINEL2_BANDS
from tests.pipeline.tiny_scenes import EPSG, LEFT, TOP, write_scene


def planetary_computer_item(**changes: Any) -> dict[str, Any]:
    """Abridged from the shape of a real item: no files behind it."""
    keys = [*SENTINEL2_BANDS, "SCL", "AOT", "visual", "preview"]
    grid = {"proj:shape": [10980, 10980], "proj:transform": [10.0, 0.0, 600000.0, 0.0, -10.0, 5700000.0]}
    coarse = {"proj:shape": [5490, 5490], "proj:transform": [20.0, 0.0, 600000.0, 0.0, -20.0, 5700000.0, 0, 0, 1]}
    fine = {"B02", "B03", "B04", "B08"}
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": "S2A_MSIL2A_20240407T110621_R137_T30UXB_20240407T174137",
        "collection": "sentinel-2-l2a",
        "bbox": [-1.58, 50.44, 0.0, 51.45],
        "geometry": json.loads(shapely.to_geojson(shapely.box(-1.58, 50.44, 0.0, 51.45))),
        "properties": {
            "datetime": "2024-04-07T11:06:21.024000Z",
            "eo:cloud_cover": 12.5,
            "proj:code": f"EPSG:{EPSG}",
            "s2:processing_baseline": "05.10",
        },
        "assets": {
            key: {
                "href": f"https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/{key}.tif",
                "eo:bands": [{"name": key, "common_name": "rededge"}],
                **(grid if key in fine else coarse),
            }
            for key in keys
        },
        "links": [{"rel": "self", "href": "https://example.test/items/1"}],
    }
    for name, value in changes.items():
        if value is None:
            del item[name]
        else:
            item[name] = value
    return item


def test_a_scene_holds_what_the_item_says_and_survives_json() -> None:
    scene = normalise_item(planetary_computer_item(), "planetary-computer", local_source=False)
    assert set(scene.assets) == set(READ_ASSETS)
    assert scene.epsg == EPSG
    assert scene.cloud_cover == 12.5
    assert scene.datetime.isoformat() == "2024-04-07T11:06:21.024000+00:00"
    assert scene.assets["B02"].gsd_m == 10.0
    assert scene.assets["B11"].gsd_m == 20.0
    assert scene.assets["B11"].shape == (5490, 5490)
    assert scene.assets["B04"].offset == -0.1
    assert scene.self_href == "https://example.test/items/1"
    assert "?" not in scene.assets["B02"].href
    assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_red_edge_bands_are_told_apart_by_key_not_by_common_name() -> None:
    scene = normalise_item(planetary_computer_item(), "planetary-computer", local_source=False)
    hrefs = [scene.assets[name].href for name in ("B05", "B06", "B07", "B8A")]
    assert [h.rsplit("/", 1)[1] for h in hrefs] == ["B05.tif", "B06.tif", "B07.tif", "B8A.tif"]


@pytest.mark.parametrize(
    "keys",
    [
        ["blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22", "scl"],
        ["B02_10m", "B03_10m", "B04_10m", "B05_20m", "B06_20m", "B07_20m", "B08_10m", "B8A_20m", "B11_20m", "B12_20m",
         "SCL_20m"],
        ["b02", "b03", "b04", "b05", "b06", "b07", "b08", "b8a", "b11", "b12", "scl"],
    ],
)  # fmt: skip
def test_asset_names_of_all_providers_are_known(keys: list[str]) -> None:
    table = {key: {"href": f"{key}.tif"} for key in [*keys, "nir09", "aot", "visual", "blue-jp2", "B02_60m", "wvp"]}
    found, missing = find_assets(table)
    assert missing == ()
    assert [found[name][0] for name in READ_ASSETS] == keys


def test_the_native_resolution_is_preferred() -> None:
    found, _ = find_assets({k: {"href": k} for k in ("B02_60m", "B02_20m", "B02_10m", "B11_60m", "B11_20m")})
    assert found["B02"][0] == "B02_10m"
    assert found["B11"][0] == "B11_20m"


def test_unknown_keys_are_matched_by_the_band_they_declare() -> None:
    found, _ = find_assets({"image-3": {"href": "x.tif", "bands": [{"name": "B03"}]}, "all": {
        "href": "y.tif", "bands": [{"name": "B02"}, {"name": "B03"}]}})  # fmt: skip
    assert {name: key for name, (key, _) in found.items()} == {"B03": "image-3"}


def test_missing_bands_are_named() -> None:
    item = planetary_computer_item()
    del item["assets"]["B8A"], item["assets"]["SCL"]
    with pytest.raises(SceneError, match=r"T30UXB.*no asset for B8A, SCL"):
        normalise_item(item, "planetary-computer")


@pytest.mark.parametrize("projection", ["1.x", "2.0"])
@pytest.mark.parametrize("style", ["planetary-computer", "earth-search", "cdse"])
def test_stackstac_grid_equals_the_native_grid(tmp_path: Path, projection: str, style: str) -> None:
    """Projection 2.0 items lose their grid in stackstac 0.5.1 (issue 262) unless they are normalised first."""
    item = write_scene(tmp_path, "S2A_30UXB_x", projection=projection, style=style, size_m=640.0)
    provider: Any = style
    scene = normalise_item(item, provider)
    for name, pixels, step in (("B02", 64, 10.0), ("B11", 32, 20.0), (SCL, 32, 20.0)):
        stack = stackstac.stack([stackstac_item(scene, [name])], assets=[name])
        assert stack.shape == (1, 1, pixels, pixels)
        assert int(stack.attrs["spec"].epsg) == EPSG
        assert float(stack.x[0]) == LEFT
        assert float(stack.y[0]) == TOP
        assert float(stack.x[1] - stack.x[0]) == step


def test_a_projection_on_the_assets_alone_is_found() -> None:
    item = planetary_computer_item(id="without-a-tile")
    del item["properties"]["proj:code"]
    with pytest.raises(SceneError, match="no projection"):
        normalise_item(item, "planetary-computer")
    for asset in item["assets"].values():
        asset["proj:epsg"] = EPSG
    assert normalise_item(item, "planetary-computer").epsg == EPSG
    item["assets"]["B03"]["proj:epsg"] = EPSG + 1
    with pytest.raises(SceneError, match="several projections"):
        normalise_item(item, "planetary-computer")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": None}, "usable id"),
        ({"id": "x\ny"}, "unprintable"),
        ({"id": "x" * 300}, "usable id"),
        ({"properties": None}, "no properties"),
        ({"assets": []}, "no assets"),
        ({"properties": {"datetime": "yesterday", "proj:code": "EPSG:32630", "s2:processing_baseline": "05.10"}},
         "not a time"),
        ({"properties": {"datetime": "2024-01-01T00:00:00Z", "proj:code": "IAU:1", "s2:processing_baseline": "05.10"}},
         "not an EPSG"),
        ({"geometry": None, "bbox": [0, 0, 0, 0]}, "bbox"),
        ({"geometry": {"type": "Polygon", "coordinates": "x"}, "bbox": "y"}, "neither geometry nor bbox"),
    ],
)  # fmt: skip
def test_malformed_items_are_refused_with_a_reason(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SceneError, match=words):
        normalise_item(planetary_computer_item(**changes), "planetary-computer")


def test_an_item_without_geometry_uses_its_bbox_and_without_cloud_cover_is_ranked_last() -> None:
    item = planetary_computer_item(geometry=None)
    del item["properties"]["eo:cloud_cover"]
    scene = normalise_item(item, "planetary-computer")
    assert scene.bbox == (-1.58, 50.44, 0.0, 51.45)
    assert scene.cloud_cover == 100.0


def test_a_null_datetime_falls_back_to_the_start() -> None:
    item = planetary_computer_item()
    item["properties"] |= {"datetime": None, "start_datetime": "2024-04-07T13:06:21+02:00"}
    assert normalise_item(item, "planetary-computer").datetime.isoformat() == "2024-04-07T11:06:21+00:00"


def test_a_footprint_over_the_antimeridian_is_split_there() -> None:
    wide = {"type": "Polygon", "coordinates": [[[179, 0], [-179, 0], [-179, 1], [179, 1], [179, 0]]]}
    geometry = item_footprint({"id": "x", "geometry": wide})
    assert geometry.area == pytest.approx(2.0)
    assert geometry.intersects(shapely.Point(179.5, 0.5))
    assert geometry.intersects(shapely.Point(-179.5, 0.5))
    assert not geometry.intersects(shapely.Point(0, 0.5))
    by_bbox = item_footprint({"id": "x", "bbox": [179, 0, -179, 1]})
    assert by_bbox.equals(geometry)


def with_href(href: str) -> dict[str, Any]:
    item = planetary_computer_item()
    item["assets"]["B02"]["href"] = href
    return item


@pytest.mark.parametrize(
    "href",
    [
        "ftp://example.test/B02.tif",
        "javascript://x",
        "/vsicurl/http://example.test/B02.tif",
        "/vsizip//etc/x.zip",
        "<VRTDataset/>",
        "https://example.test/a/%2e%2e/secret.tif",
        "https://example.test/a\n.tif",
        "file://other.host/etc/passwd",
    ],
)
def test_hrefs_that_are_not_plain_files_or_urls_are_refused(href: str) -> None:
    with pytest.raises(SceneError, match=r"asset B02|another host"):
        normalise_item(with_href(href), "planetary-computer")


def test_a_remote_catalog_may_not_name_local_files(tmp_path: Path) -> None:
    item = with_href(str(tmp_path / "B02.tif"))
    with pytest.raises(SceneError, match="allowed_roots"):
        normalise_item(item, "planetary-computer", local_source=False)
    for name, asset in item["assets"].items():
        asset["href"] = str(tmp_path / f"{name}.tif")
    source = SourceConfig.model_validate({"allowed_roots": [str(tmp_path)]})
    scene = normalise_item(item, "planetary-computer", source=source, local_source=False)
    assert scene.assets["B02"].href == str(tmp_path / "B02.tif")


def test_local_paths_may_not_leave_the_allowed_roots(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "link.tif").symlink_to(outside / "x.tif")
    source = SourceConfig.model_validate(
        {"allowed_roots": [str(inside), "https://sentinel2l2a01.blob.core.windows.net/"]}
    )
    for href in (f"{inside}/../out/x.tif", str(inside / "link.tif"), str(tmp_path / "in-evil" / "x.tif")):
        with pytest.raises(SceneError, match=r"outside source\.allowed_roots"):
            normalise_item(with_href(href), "planetary-computer", source=source)


@pytest.mark.parametrize(
    ("href", "accepted"),
    [
        ("https://data.test/s2/B02.tif", True),
        ("https://DATA.test/s2/a/B02.tif?sig=1", True),
        ("https://data.test/s2-evil/B02.tif", False),
        ("https://data.test.evil/s2/B02.tif", False),
        ("http://data.test/s2/B02.tif", False),
        ("https://data.test/B02.tif", False),
    ],
)
def test_url_roots_are_whole_folders_of_one_host(href: str, accepted: bool) -> None:
    item = planetary_computer_item()
    for asset in item["assets"].values():
        asset["href"] = "https://data.test/s2/x.tif"
    item["assets"]["B02"]["href"] = href
    source = SourceConfig.model_validate({"allowed_roots": ["https://data.test/s2"]})
    if accepted:
        assert normalise_item(item, "planetary-computer", source=source).assets["B02"].href == href
    else:
        with pytest.raises(SceneError, match=r"outside source\.allowed_roots"):
            normalise_item(item, "planetary-computer", source=source)


def test_relative_hrefs_are_resolved_against_their_document(tmp_path: Path) -> None:
    item = planetary_computer_item()
    for name, asset in item["assets"].items():
        asset["href"] = f"./data/{name}.tif"
    scene = normalise_item(item, "planetary-computer", base=str(tmp_path / "items" / "x.json"))
    assert scene.assets["B02"].href == str(tmp_path / "items" / "data" / "B02.tif")
    scene = normalise_item(item, "planetary-computer", base="https://a.test/c/x.json", local_source=False)
    assert scene.assets["B02"].href == "https://a.test/c/data/B02.tif"
