"""A grid's projection is found however it is written, and refused where it is none."""

from __future__ import annotations

from typing import Any

import pytest
from pyproj import CRS

from pipeline.errors import SceneError
from pipeline.sources.projections import item_epsg, mgrs_tile, tile_epsg

WKT = CRS.from_epsg(32632).to_wkt()
JSON = CRS.from_epsg(32632).to_json_dict()
SOUTHERN = CRS.from_epsg(32733).to_wkt()


def item(identifier: str = "scene", **properties: Any) -> dict[str, Any]:
    return {"id": identifier, "properties": properties}


@pytest.mark.parametrize("member", ["proj:epsg", "proj:code"])
@pytest.mark.parametrize(
    "value",
    [
        *(32632, 32632.0, "32632", "32632.0", "EPSG:32632", "epsg:32632", " EPSG:32632 ", "EPSG::32632"),
        *("urn:ogc:def:crs:EPSG::32632", "http://www.opengis.net/def/crs/EPSG/0/32632"),
    ],
)
def test_a_code_has_many_spellings(member: str, value: Any) -> None:
    assert item_epsg(item(**{member: value})) == 32632
    assert item_epsg(item(), [{member: value}, {}]) == 32632


@pytest.mark.parametrize("empty", [None, "", "None", "EPSG:None", "null"])
@pytest.mark.parametrize(
    "rest",
    [
        {"proj:epsg": 32632},
        {"proj:wkt2": WKT},
        {"proj:projjson": JSON},
        {"grid:code": "MGRS-32TPS"},
        {"s2:mgrs_tile": "32TPS"},
        {"sentinel:utm_zone": 32, "sentinel:latitude_band": "T", "sentinel:grid_square": "PS"},
        {"mgrs:utm_zone": 32.0, "mgrs:latitude_band": "T", "mgrs:grid_square": "PS"},
        {"proj:wkt2": 'PROJCRS["WGS 84 / UTM zone 32N",...]', "grid:code": "MGRS-32TPS"},
        {"proj:wkt2": "x" * 30_000, "proj:projjson": {"type": "nothing"}, "grid:code": "MGRS-32TPS"},
    ],
)
def test_where_the_code_is_null_the_rest_of_the_item_tells(empty: Any, rest: dict[str, Any]) -> None:
    assert item_epsg(item(**{"proj:code": empty, **rest})) == 32632


def test_a_definition_counts_more_than_a_tile_and_the_id_comes_last() -> None:
    assert item_epsg(item("S2A_31UFS_20230101_0_L2A", **{"proj:wkt2": SOUTHERN})) == 32733
    assert item_epsg(item("S2A_31UFS_20230101_0_L2A")) == 32631


@pytest.mark.parametrize("value", ["IAU:1", "UTM 32N", True, 32632.5, "EPSG:32632+5773", "nonsense"])
def test_what_is_no_code_is_refused(value: Any) -> None:
    with pytest.raises(SceneError, match="is not an EPSG code"):
        item_epsg(item(**{"proj:code": value, "grid:code": "MGRS-32TPS"}))


def test_an_item_that_says_nothing_is_refused_with_what_it_may_say() -> None:
    with pytest.raises(SceneError, match=r"no projection.*proj:wkt2.*grid:code"):
        item_epsg(item())


@pytest.mark.parametrize(
    ("tile", "epsg"), [("32TPS", 32632), ("01CCV", 32701), ("60XWF", 32660), ("36MZE", 32736), ("36NZE", 32636)]
)
def test_bands_from_n_on_lie_in_the_north(tile: str, epsg: int) -> None:
    assert tile_epsg(tile) == epsg


def test_zones_beyond_sixty_are_none() -> None:
    assert tile_epsg("61TPS") is None
    assert tile_epsg(None) is None
    assert mgrs_tile(item(**{"mgrs:utm_zone": "?", "mgrs:latitude_band": "T", "mgrs:grid_square": "PS"})) is None
