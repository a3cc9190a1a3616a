"""One observation is used once, however often it was processed."""

from __future__ import annotations

from typing import Any

import pytest
import shapely
from shapely.geometry import mapping

from pipeline.sources.projections import mgrs_tile
from pipeline.sources.superseding import supersede

WHOLE = shapely.box(0, 0, 1, 1)


def item(identifier: str, time: str = "2026-06-01T10:30:00Z", where: Any = WHOLE, **properties: Any) -> dict[str, Any]:
    return {"id": identifier, "geometry": mapping(where), "properties": {"datetime": time, **properties}}


def kept_ids(*items: dict[str, Any], unusable: dict[int, str] | None = None) -> list[str]:
    kept, gone = supersede(list(items), unusable or {})
    assert len(kept) + len(gone) == len(items)
    return [i["id"] for i in kept]


@pytest.mark.parametrize(
    ("identifier", "properties", "tile"),
    [
        ("S2A_31UFS_20230101_0_L2A", {}, "31UFS"),
        ("S2A_5QKB_20230101_0_L2A", {}, "05QKB"),
        ("S2A_MSIL2A_20240407T100551_R022_T30NZM_20240407T174137", {}, "30NZM"),
        ("x", {"grid:code": "MGRS-30NZM"}, "30NZM"),
        ("x", {"s2:mgrs_tile": "30NZM"}, "30NZM"),
        ("x", {"mgrs:utm_zone": 5, "mgrs:latitude_band": "Q", "mgrs:grid_square": "KB"}, "05QKB"),
        ("scene-2024", {}, None),
    ],
)
def test_the_granule_is_known_from_properties_or_id(identifier: str, properties: Any, tile: str | None) -> None:
    assert mgrs_tile(item(identifier, **properties)) == tile


def test_the_newest_baseline_wins_then_the_newest_processing_then_the_id() -> None:
    old = item("S2A_31UFS_20260601_1_L2A", **{"s2:processing_baseline": "05.09", "created": "2026-09-01T00:00:00Z"})
    new = item("S2A_31UFS_20260601_0_L2A", **{"s2:processing_baseline": "05.11", "created": "2026-07-01T00:00:00Z"})
    later = item("S2A_31UFS_20260601_2_L2A", **{"s2:processing_baseline": "05.11", "created": "2026-08-01T00:00:00Z"})
    twin = item("S2A_31UFS_20260601_3_L2A", **{"s2:processing_baseline": "05.11", "created": "2026-08-01T00:00:00Z"})
    assert kept_ids(old, new) == [new["id"]]
    assert kept_ids(new, old) == [new["id"]]
    assert kept_ids(later, new, old) == [later["id"]]
    assert kept_ids(twin, later) == kept_ids(later, twin) == [twin["id"]]


def test_reprocessing_shifts_the_time_a_little_but_the_next_orbit_is_another_observation() -> None:
    first = item("S2A_31UFS_a", "2026-06-01T10:30:00Z")
    shifted = item("S2A_31UFS_b", "2026-06-01T10:30:07Z")
    next_orbit = item("S2B_31UFS_c", "2026-06-01T12:08:00Z")
    assert kept_ids(first, shifted, next_orbit) == ["S2A_31UFS_b", "S2B_31UFS_c"]


def test_other_tiles_and_items_without_a_tile_are_left_alone() -> None:
    assert len(kept_ids(item("S2A_31UFS_a"), item("S2A_31UFT_a"), item("one"), item("two"))) == 4


def test_the_halves_of_a_granule_cut_by_a_datastrip_are_both_kept() -> None:
    north, south = shapely.box(0, 0.45, 1, 1), shapely.box(0, 0, 1, 0.55)
    assert len(kept_ids(item("S2A_31UFS_a", where=north), item("S2A_31UFS_b", where=south))) == 2
    assert len(kept_ids(item("S2A_31UFS_a", where=north), item("S2A_31UFS_b"))) == 1


def test_an_unusable_item_yields_to_a_usable_older_one() -> None:
    old = item("S2A_31UFS_a", **{"s2:processing_baseline": "04.00"})
    new = item("S2A_31UFS_b", **{"s2:processing_baseline": "05.11"})
    kept, gone = supersede([old, new], {id(new): "no asset for B8A"})
    assert [i["id"] for i in kept] == ["S2A_31UFS_a"]
    assert gone == (("S2A_31UFS_b", "S2A_31UFS_a is used in its place: no asset for B8A"),)


@pytest.mark.parametrize(
    ("newer", "older", "count"),
    [
        (shapely.box(0, 0.0, 1, 0.8), shapely.box(0, 0.2, 1, 1), 2),  # most of it overlaps, and a fifth is its own
        (shapely.box(0, 0.0, 1, 0.9), WHOLE, 2),
        (WHOLE, shapely.box(0, 0.2, 1, 1), 1),
        (WHOLE, shapely.box(0.001, -0.004, 1.004, 1.003), 1),  # traced anew
        (shapely.box(0, 0, 1, 0.97), WHOLE, 2),
        (shapely.box(0, 0, 1, 0.99), WHOLE, 1),
    ],
)
def test_an_older_product_gives_way_only_where_newer_ones_cover_it(newer: Any, older: Any, count: int) -> None:
    first = item("S2A_31UFS_a", where=older, created="2026-06-02T00:00:00Z")
    second = item("S2A_31UFS_b", where=newer, created="2026-07-02T00:00:00Z")
    assert len(kept_ids(first, second)) == count
    assert "S2A_31UFS_b" in kept_ids(first, second)


def test_the_parts_of_a_new_processing_cover_the_old_whole_together() -> None:
    old = item("S2A_31UFS_a", **{"s2:processing_baseline": "04.00"})
    parts = [
        item(f"S2A_31UFS_{name}", where=box, **{"s2:processing_baseline": "05.11"})
        for name, box in (("b", shapely.box(0, 0, 1, 0.6)), ("c", shapely.box(0, 0.4, 1, 1)))
    ]
    kept, gone = supersede([old, *parts], {})
    assert [i["id"] for i in kept] == ["S2A_31UFS_b", "S2A_31UFS_c"]
    assert gone == (("S2A_31UFS_a", "superseded by S2A_31UFS_c and S2A_31UFS_b, a newer processing"),)
    assert kept_ids(old, parts[0]) == ["S2A_31UFS_a", "S2A_31UFS_b"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("S2A_31UFS_a", {}), ("S2C_31UFS_a", {})),
        (("x_31UFS_a", {"platform": "sentinel-2a"}), ("x_31UFS_b", {"platform": "Sentinel-2C"})),
        (("S2A_MSIL2A_T31UFS_a", {"platform": "sentinel-2"}), ("S2C_MSIL2A_T31UFS_b", {"platform": "sentinel-2"})),
    ],
)
def test_two_satellites_one_behind_the_other_are_two_observations(first: Any, second: Any) -> None:
    one = item(first[0], "2026-06-01T10:30:00Z", **first[1])
    other = item(second[0], "2026-06-01T10:30:31Z", **second[1])
    assert len(kept_ids(one, other)) == 2


def test_a_satellite_that_is_named_by_one_item_only_may_be_the_same() -> None:
    named = item("S2A_31UFS_a", platform="sentinel-2a")
    assert kept_ids(named, item("scene_31UFS_b", "2026-06-01T10:30:07Z")) == ["scene_31UFS_b"]


def test_an_unusable_item_covers_nothing_that_can_be_used() -> None:
    old = item("S2A_31UFS_a", where=shapely.box(0, 0, 1, 0.5), **{"s2:processing_baseline": "04.00"})
    new = item("S2A_31UFS_b", **{"s2:processing_baseline": "05.11"})
    kept, gone = supersede([old, new], {id(new): "no asset for B8A"})
    assert [i["id"] for i in kept] == ["S2A_31UFS_a", "S2A_31UFS_b"]  # told as unusable: half of it is nobody else's
    assert gone == ()
