"""A search of several catalogs in order of preference: one that fails costs what it alone has, and is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import pipeline.sources.http as pipeline_http
from pipeline.errors import BadInputError, CatalogError, ConfigError, NoCatalogError, TooManyScenesError
from pipeline.settings.run_file import RunConfig, SourceConfig
from pipeline.sources import catalog
from pipeline.sources.catalog import SceneSearch, asset_door, find_scenes
from pipeline.sources.http import retry_policy
from pipeline.spie.config import SpieConfig
from tests.pipeline.loopback_server import Request, Response, serve
from tests.pipeline.sources.test_catalog import REGION, Api, item
from tests.pipeline.tiny_scenes import COLOUR_KEYS, day

RUN = {"name": "alps", "region": "region.geojson", "start": "2026-06-01", "end": "2026-06-30"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = retry_policy
    for module in (catalog, pipeline_http):
        if hasattr(module, "retry_policy"):
            monkeypatch.setattr(module, "retry_policy", lambda *_: policy(1, 0.01))


def search(*catalogs: dict[str, Any], **shared: Any) -> SceneSearch:
    first, *others = catalogs
    config = SourceConfig.model_validate([{**first, **shared}, *others])
    return find_scenes(config, REGION, day("2026-06-01"), day("2026-06-30"))


def colours(number: int) -> dict[str, Any]:
    """The same granule in the words of Earth Search, on its server."""
    made = item(number, id=f"S2A_30UXB_202606{number:02d}_0_L2A")
    assets = {COLOUR_KEYS[key]: {"href": f"https://mirror.test/{number}/{key}.tif"} for key in made["assets"]}
    return {**made, "assets": assets}


def days(found: SceneSearch) -> list[int]:
    return [scene.datetime.day for scene in found.scenes]


def test_what_one_catalog_lacks_the_other_gives() -> None:
    with serve(Api([item(d) for d in (1, 3, 5)])) as one, serve(Api([colours(d) for d in (2, 3, 5, 8)])) as two:
        found = search({"provider": "planetary-computer", "url": one.url}, {"provider": "earth-search", "url": two.url})
    assert days(found) == [1, 2, 3, 5, 8]
    assert [scene.provider for scene in found.scenes] == [
        "planetary-computer", "earth-search", "planetary-computer", "planetary-computer", "earth-search",
    ]  # fmt: skip
    third = found.scenes[2].assets["B8A"]
    assert [(copy.href, copy.provider) for copy in third.copies] == [("https://mirror.test/3/B8A.tif", "earth-search")]
    assert [(s.url, s.scenes, s.copies, s.alone, s.failure) for s in found.catalogs] == [
        (one.url, 3, 0, 1, None), (two.url, 2, 2, 2, None),
    ]  # fmt: skip
    assert found.skipped == found.superseded == ()


def dies_on_page(number: int, items: Sequence[Any]) -> Callable[[Request], Response]:
    api, pages = Api(list(items), page=2), [0]

    def answer(request: Request) -> Response:
        pages[0] += request.path == "/search"
        return Response(500) if pages[0] >= number else api(request)

    return answer


@pytest.mark.parametrize(
    "failing",
    [
        pytest.param(lambda r: Response(0), id="dead"),
        pytest.param(lambda r: Response(503), id="overloaded"),
        pytest.param(lambda r: Response(404), id="moved"),
        pytest.param(lambda r: Response(200, b"<html>"), id="no catalog"),
        pytest.param(dies_on_page(2, [item(d) for d in (1, 2, 3, 4, 5)]), id="dies in mid-search"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_catalog_that_fails_costs_nothing_that_another_has(
    failing: Callable[[Request], Response], first: bool
) -> None:
    with serve(failing) as bad, serve(Api([colours(d) for d in (1, 2, 3)])) as good:
        urls = [bad.url, good.url] if first else [good.url, bad.url]
        found = search(*({"provider": "earth-search", "url": url} for url in urls))
    assert days(found) == [1, 2, 3]
    ((name, reason),) = found.skipped
    assert name == bad.url
    assert reason.startswith("scenes that only this catalog has may be missing: ")
    failed = [share.failure is not None for share in found.catalogs]
    assert failed == [first, not first]


def test_if_no_catalog_answers_all_reasons_are_told(tmp_path: Path) -> None:
    with serve(lambda r: Response(404)) as one, serve(lambda r: Response(503)) as two:
        with pytest.raises(CatalogError, match=f"none of the 2 catalogs answers: {one.url}.*404.*{two.url}") as caught:
            search({"url": one.url}, {"url": two.url})
        assert not isinstance(caught.value, BadInputError)
        with pytest.raises(NoCatalogError, match="none of the 2"):
            search({"url": one.url}, {"url": str(tmp_path / "catalog.json")})


def test_limits_hold_for_all_catalogs_together() -> None:
    with serve(Api([item(d) for d in (1, 2, 3)])) as one, serve(Api([colours(d) for d in (3, 4, 5)])) as two:
        places = [{"provider": "planetary-computer", "url": one.url}, {"url": two.url}]
        assert len(search(*places, max_scenes=5).scenes) == 5
        with pytest.raises(TooManyScenesError, match=f"{one.url}.*{two.url}.*5 scenes"):
            search(*places, max_scenes=4)
        with pytest.raises(BadInputError, match=r"the catalog returned 6 items, of which 6 are cloudier"):
            search(*places, max_cloud_cover=5)


def test_a_remote_catalog_may_not_name_files_because_a_local_one_may(tmp_path: Path) -> None:
    local, remote = item(1), item(2)
    for made in (local, remote):
        made["assets"] = {key: {"href": f"file://{tmp_path}/{key}.tif"} for key in made["assets"]}
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [local]}))
    places = [{"provider": "planetary-computer", "url": str(tmp_path / "items.json")}, {"url": "https://far.test/v1"}]
    door = asset_door(SourceConfig.model_validate(places))
    assert door.local_source
    far = catalog._offer(catalog.FoundItem(remote, "https://far.test/v1"), *far_catalog(places))
    assert far.scene is None
    assert "a remote catalog names the local file" in far.reason


def far_catalog(places: Any) -> tuple[SourceConfig, Any]:
    far = SourceConfig.model_validate(places).catalogs[1]
    return far, asset_door(far)


@pytest.mark.parametrize(
    ("alternate", "schemes", "hrefs"),
    [
        ({"s3": {"href": "s3://bucket/B02.tif"}}, None, ["https://data.test/B02.tif", "s3://bucket/B02.tif"]),
        ({"s3": {"href": "s3://bucket/B02.tif"}}, ["s3"], ["s3://bucket/B02.tif"]),
        ({"s3": {"href": "s3://bucket/B02.tif"}}, ["https"], ["https://data.test/B02.tif"]),
        ({"own": {"href": "https://data.test/B02.tif"}}, None, ["https://data.test/B02.tif"]),
        ({"bad": {"href": "/vsicurl/x"}, "none": {}, "no": 7}, None, ["https://data.test/B02.tif"]),
        ([{"href": "s3://bucket/B02.tif"}], None, ["https://data.test/B02.tif"]),
        ("s3://bucket/B02.tif", None, ["https://data.test/B02.tif"]),
    ],
)
def test_alternate_addresses_are_copies(alternate: Any, schemes: Any, hrefs: list[str]) -> None:
    made = item(1)
    for asset in made["assets"].values():
        asset |= {"href": "https://data.test/B02.tif", "alternate": alternate}
    source = SourceConfig.model_validate({} if schemes is None else {"allowed_schemes": schemes})
    scene = catalog.normalise_item(made, "planetary-computer", source=source)
    asset = scene.assets["B02"]
    assert [asset.href, *(copy.href for copy in asset.copies)] == hrefs
    assert {(copy.scale, copy.offset) for copy in asset.copies} <= {(asset.scale, asset.offset)}


# --- the run file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        "earth-search, planetary-computer",
        ["earth-search", {"provider": "planetary-computer"}],
        [{"provider": "earth-search"}, "planetary-computer"],
        {"provider": "earth-search", "others": [{"provider": "planetary-computer"}]},
    ],
)
def test_a_list_or_names_are_catalogs_in_order_of_preference(written: Any) -> None:
    config = RunConfig.from_dict({**RUN, "source": written})
    assert [one.provider for one in config.source.catalogs] == ["earth-search", "planetary-computer"]
    assert all(not one.others for one in config.source.catalogs)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_what_holds_for_all_is_given_once_and_paths_start_at_the_file(tmp_path: Path) -> None:
    listed = [{"url": "a/catalog.json", "max_cloud_cover": 30}, {"url": "b/catalog.json", "provider": "generic"}]
    for kind, data in ((RunConfig, RUN), (SpieConfig, {"name": "c", "areas": [dict(RUN) | {"name": "x"}]})):
        data = {**data, "source": listed}
        if kind is SpieConfig:
            data["areas"] = [{key: RUN[key] for key in ("region", "start", "end")}]
        found = kind.from_dict(data, base=tmp_path).source
        assert [one.url for one in found.catalogs] == [str(tmp_path / d / "catalog.json") for d in "ab"]
        assert [one.max_cloud_cover for one in found.catalogs] == [30, 30]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "source: a list of catalogs, each the name of a provider or a mapping"),
        ([7], "source: a list of catalogs"),
        ("earth-search, sentinelhub", r"source\.others\.0\.provider: Input should be 'earth-search'"),
        ("earth-search,earth-search", "source: the same catalog is listed twice"),
        ([{}, {"max_cloud_cover": 3}], "source: max_cloud_cover holds for all catalogs of the list"),
        ([{}, {"colection": "x"}], r"source\.others\.0\.colection: .*did you mean collection"),
        ([{"others": []}, "cdse"], "source: others is what a list has"),
    ],
)
def test_a_wrong_list_is_one_message(source: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_dict({**RUN, "source": source})
