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
