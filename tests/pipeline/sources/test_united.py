"""Several catalogs are one list: each granule once, whatever each catalog calls it, and no copy is lost."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterable
from typing import Any

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import mapping

from pipeline.planning.scene_order import compositing_order
from pipeline.records.scene import Scene, SceneAsset
from pipeline.sources.projections import mgrs_tile
from pipeline.sources.united import Offer, datatake_start, unite

WHOLE = shapely.box(0, 0, 1, 1)
NORTH, SOUTH = shapely.box(0, 0.45, 1, 1), shapely.box(0, 0, 1, 0.55)
START = dt.datetime(2026, 6, 1, 10, 30, 21, tzinfo=dt.UTC)


def offer(
    identifier: str, where: Any = WHOLE, *, href: str = "", catalog: str = "a", reason: str = "", **properties: Any
) -> Offer:
    """An item that says when, where and what it is, and a scene of one file."""
    time = properties.pop("datetime", START)
    found = {"datetime": time.isoformat(), "s2:processing_baseline": "05.11", "s2:mgrs_tile": "31UFS", **properties}
    item = {"id": identifier, "geometry": mapping(where), "properties": found}
    asset = SceneAsset(href or f"https://{catalog}.test/{identifier}.tif", 1e-4, -0.1)
    scene = Scene(
        identifier, "c", catalog, time, 10.0, 32631, where.bounds, mapping(where), {"B02": asset}, "by hand",
        tile=mgrs_tile(item) or "", datatake_start=datatake_start(item),
    )  # fmt: skip
    return Offer(item, None if reason else scene, reason)


def places(scene: Scene) -> list[str]:
    asset = scene.assets["B02"]
    return [asset.href, *(copy.href for copy in asset.copies)]


TAKE = {"s2:datatake_id": "GS2A_20260601T103021_056789_N05.11"}
NAME = "S2A_MSIL2A_20260601T103021_N0511_R108_T31UFS_20260601T140000"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(offer("x"), offer("y", catalog="b"), id="the same time"),
        pytest.param(offer("x"), offer("y", datetime=START + dt.timedelta(seconds=40)), id="nearly the same time"),
        pytest.param(
            offer("x", **TAKE),
            offer(NAME, datetime=START + dt.timedelta(minutes=14)),
            id="the datatake's time and the granule's, which is many minutes later",
        ),
        pytest.param(
            offer("x", datetime=START + dt.timedelta(minutes=14), **TAKE), offer("y"), id="one names no datatake"
        ),
        pytest.param(
            offer("x", **{"s2:generation_time": "2026-06-01T14:00:00.000000Z"}),
            offer("y", **{"s2:generation_time": "2026-06-01T14:00:00.617Z"}),
            id="rounded time of processing",
        ),
        pytest.param(
            offer("x", **{"s2:mgrs_tile": None, "odc:region_code": "31UFS"}), offer("S2A_31UFS_20260601"), id="tile"
        ),
        pytest.param(
            offer("x", **{"s2:mgrs_tile": None}),
            offer("x", **{"s2:mgrs_tile": None}, catalog="b"),
            id="no tile, one id",
        ),
        pytest.param(offer("x"), offer("y", shapely.box(0.01, 0, 1, 0.99)), id="footprints drawn differently"),
    ],
)
def test_one_product_under_two_names_is_one_scene_with_a_copy(one: Offer, other: Offer) -> None:
    for first, second in ((one, other), (other, one)):
        united = unite([[first], [second]])
        assert [places(scene) for scene in united.scenes] == [[places(o.scene)[0] for o in (first, second) if o.scene]]
        assert united.superseded == united.unusable == ()
        assert [(s.scenes, s.copies, s.alone) for s in united.shares] == [(1, 0, 0), (0, 1, 0)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(offer("x"), offer("y", **{"s2:mgrs_tile": "31UFT"}), id="tile"),
        pytest.param(offer("x"), offer("y", datetime=START + dt.timedelta(minutes=98)), id="next orbit"),
        pytest.param(offer("x", NORTH), offer("y", SOUTH), id="halves"),
        pytest.param(offer("x", **{"s2:mgrs_tile": None}), offer("y", **{"s2:mgrs_tile": None}), id="unknown tiles"),
    ],
)
def test_different_granules_stay_apart(one: Offer, other: Offer) -> None:
    united = unite([[one], [other]])
    assert sorted(scene.id for scene in united.scenes) == ["x", "y"]
    assert all(not scene.assets["B02"].copies for scene in united.scenes)
    assert [share.alone for share in united.shares] == [1, 1]


@pytest.mark.parametrize(
    "newer",
    [
        {"s2:processing_baseline": "05.12"},
        {"s2:processing_baseline": "05.12", "datetime": START + dt.timedelta(minutes=14), **TAKE},
        {"s2:generation_time": "2026-09-01T00:00:00Z"},
    ],
)
def test_of_two_processings_the_newest_counts_whoever_has_it(newer: dict[str, Any]) -> None:
    old = offer("old", **{"s2:generation_time": "2026-06-01T14:00:00Z", **TAKE})
    new = offer("new", catalog="b", **newer)
    for catalogs in ([[old], [new]], [[new], [old]]):
        united = unite(catalogs)
        assert [places(scene) for scene in united.scenes] == [["https://b.test/new.tif"]]
        assert united.superseded == (("old", "superseded by new, a newer processing"),)


def test_a_copy_stands_in_for_what_cannot_be_used() -> None:
    bad, good = offer("bad", reason="no asset for B8A"), offer("good", catalog="b")
    for catalogs in ([[bad], [good]], [[good], [bad]]):
        united = unite(catalogs)
        assert [scene.id for scene in united.scenes] == ["good"]
        assert united.unusable == ()
        assert united.superseded == (("bad", "good is used in its place: no asset for B8A"),)
    worse = offer("worse", reason="no grid")
    assert unite([[bad], [worse]]).unusable == (("bad", "no asset for B8A"),)


def test_a_file_under_one_address_is_no_copy_of_itself() -> None:
    file = "https://files.test/B02.tif"
    united = unite([[offer("x", href=file)], [offer("y", href=file, catalog="b")], [offer("z", catalog="c")]])
    assert [places(scene) for scene in united.scenes] == [[file, "https://c.test/z.tif"]]
    assert united.scenes[0].assets["B02"].copies[0].provider == "c"


def test_clouds_are_those_of_the_first_catalog_that_knows_them() -> None:
    unknown, known = offer("x"), offer("y", **{"eo:cloud_cover": 33.0})
    assert unite([[unknown], [known]]).scenes[0].cloud_cover == 33.0


@pytest.mark.parametrize("wrong", ["GS2A_20260501T103021_1_N05.11", "GS2A_20269999T103021_1_N05.11", "", None, 7])
def test_a_datatake_that_cannot_be_the_items_own_is_not_believed(wrong: Any) -> None:
    made = offer("x", **{"s2:datatake_id": wrong})
    assert datatake_start(made.item) is None


GRANULES = [
    (tile, day, baseline, half)
    for tile in ("31UFS", "31UFT", "32ULA")
    for day in range(4)
    for baseline in ("05.10", "05.11")
    for half in (NORTH, SOUTH)
]


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(2, 3), st.randoms(use_true_random=False))
def test_however_granules_lie_in_catalogs_the_list_is_the_same(
    data: st.DataObject, count: int, chance: random.Random
) -> None:
    granules = data.draw(st.lists(st.sampled_from(GRANULES), min_size=1, max_size=12, unique=True))
    homes = [data.draw(st.sets(st.integers(0, count - 1), min_size=1)) for _ in granules]

    def one(number: int, catalog: int) -> Offer:
        tile, day, baseline, half = granules[number]
        return offer(
            f"{catalog}-{chance.randrange(10**9)}",
            half,
            href=f"https://{catalog}.test/{number}.tif",
            datetime=START + dt.timedelta(days=day, seconds=catalog),
            **{"s2:mgrs_tile": tile, "s2:processing_baseline": baseline},
        )

    def names(scenes: Iterable[Scene]) -> list[str]:
        return [places(scene)[0].rpartition("/")[2] for scene in scenes]

    whole = unite([[one(number, 9) for number in range(len(granules))]])
    split = [[one(n, c) for n in range(len(granules)) if c in homes[n]] for c in range(count)]
    for offers in split:
        chance.shuffle(offers)
    united = unite(split)
    assert united.unusable == ()
    assert sorted(names(united.scenes)) == sorted(names(whole.scenes))
    assert names(compositing_order(united.scenes, 32631)) == names(compositing_order(whole.scenes, 32631))
    assert sum(share.scenes for share in united.shares) == len(whole.scenes)
    for scene, name in zip(united.scenes, names(united.scenes), strict=True):
        home = sorted(homes[int(name.removesuffix(".tif"))])
        assert places(scene) == [f"https://{catalog}.test/{name}" for catalog in home]
