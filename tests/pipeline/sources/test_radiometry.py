"""Scale, offset and nodata per provider: decided by metadata and baseline, never by the date, evidence recorded."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import SceneError
from pipeline.records.scene import SCL
from pipeline.sources.baselines import parse_baseline, processing_baseline
from pipeline.sources.radiometry import Calibration, Radiometry, calibrate
from spex_core.bands import SENTINEL2_BANDS


def raster_bands(offset: float | None = None, scale: float = 1e-4, nodata: Any = 0) -> dict[str, Any]:
    band: dict[str, Any] = {"nodata": nodata, "scale": scale}
    if offset is not None:
        band["offset"] = offset
    return {"href": "x.tif", "raster:bands": [band]}


def item(**properties: Any) -> dict[str, Any]:
    return {"id": "scene", "properties": {"datetime": "2020-01-01T00:00:00Z", **properties}}


def assets(**asset: Any) -> dict[str, dict[str, Any]]:
    return {name: {"href": "x.tif", **asset} for name in (*SENTINEL2_BANDS, SCL)}


def offset_of(provider: Any, properties: dict[str, Any], asset: dict[str, Any]) -> tuple[float, str]:
    found = calibrate(provider, item(**properties), assets(**asset))
    table, why = found.table, found.why
    offsets = {c.offset for name, c in table.items() if name != SCL}
    assert len(offsets) == 1
    assert {c.scale for name, c in table.items() if name != SCL} == {1e-4}
    assert {c.nodata for c in table.values()} == {0}
    assert (table[SCL].scale, table[SCL].offset) == (1.0, 0.0)
    return offsets.pop(), why


@pytest.mark.parametrize("provider", ["planetary-computer", "generic", "cdse", "earth-search"])
@pytest.mark.parametrize(("baseline", "offset"), [("02.14", 0.0), ("03.01", 0.0), ("04.00", -0.1), ("05.11", -0.1)])
@pytest.mark.parametrize("date", ["2017-07-01T00:00:00Z", "2026-07-01T00:00:00Z"])
def test_the_baseline_decides_and_the_date_never_does(provider: str, baseline: str, offset: float, date: str) -> None:
    found, why = offset_of(provider, {"s2:processing_baseline": baseline, "datetime": date}, {})
    assert found == offset
    assert f"processing baseline {baseline}" in why


def test_planetary_computer_ignores_nothing_and_needs_the_baseline() -> None:
    with pytest.raises(SceneError, match="s2:processing_baseline"):
        calibrate("planetary-computer", item(), assets())


def test_earth_search_flag_says_the_files_carry_the_offset_even_if_raster_bands_says_otherwise() -> None:
    properties = {"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.09"}
    offset, why = offset_of("earth-search", properties, raster_bands(-0.1))
    assert offset == 0.0
    assert "boa_offset_applied is true" in why
    assert "raster:bands says offset -0.1, overruled" in why


def test_earth_search_flag_false_leaves_it_to_the_baseline() -> None:
    for baseline, expected in (("05.09", -0.1), ("02.12", 0.0)):
        properties = {"earthsearch:boa_offset_applied": False, "s2:processing_baseline": baseline}
        offset, why = offset_of("earth-search", properties, raster_bands(-0.1))
        assert offset == expected
        assert ("overruled" in why) == (expected == 0.0)


def test_earth_search_flag_false_without_baseline_takes_the_raster_metadata() -> None:
    assert offset_of("earth-search", {"earthsearch:boa_offset_applied": False}, raster_bands(-0.1))[0] == -0.1


def test_earth_search_c1_takes_scale_and_offset_of_raster_bands() -> None:
    offset, why = offset_of("earth-search", {"s2:processing_baseline": "05.00"}, raster_bands(-0.1))
    assert offset == -0.1
    assert "raster metadata" in why


def test_copernicus_data_space_takes_stac_1_1_raster_fields() -> None:
    on_asset = {"raster:scale": 1e-4, "raster:offset": -0.1, "nodata": 0}
    on_band = {"bands": [{"name": "B02", "raster:scale": 1e-4, "raster:offset": -0.1, "nodata": 0}]}
    for asset in (on_asset, on_band):
        offset, why = offset_of("cdse", {"processing:version": "02.14"}, asset)
        assert offset == -0.1
        assert "cdse raster metadata" in why


def test_generic_metadata_wins_over_the_baseline_and_may_have_any_scale() -> None:
    found = calibrate("generic", item(**{"s2:processing_baseline": "05.00"}), assets(**raster_bands(None, 1e-3)))
    assert {(c.scale, c.offset) for n, c in found.table.items() if n != SCL} == {(1e-3, 0.0)}
    assert found.why.startswith("scale 0.001, offset 0: generic raster metadata")


def test_an_undecidable_item_says_what_to_add() -> None:
    with pytest.raises(SceneError, match=r"raster:bands.*s2:processing_baseline"):
        calibrate("generic", item(), assets())


@pytest.mark.parametrize(
    ("baseline", "scale", "offset"),
    [(None, 1e-4, -0.1), ("02.14", 1e-4, -0.1), ("05.10", 1e-4, 0.0), ("05.10", 1e-3, -0.1)],
)
def test_metadata_for_some_bands_only_is_refused_and_names_the_rest(
    baseline: str | None, scale: float, offset: float
) -> None:
    table = assets(**raster_bands(offset, scale))
    table["B8A"] = {"href": "x.tif"}
    with pytest.raises(SceneError, match="B8A have none"):
        calibrate("generic", item(**{"s2:processing_baseline": baseline}), table)


@pytest.mark.parametrize(("baseline", "offset"), [("05.10", -0.1), ("02.14", 0.0)])
@pytest.mark.parametrize("provider", ["generic", "earth-search"])
def test_a_band_without_metadata_is_read_by_the_baseline_that_the_others_agree_with(
    provider: Any, baseline: str, offset: float
) -> None:
    table = assets(**raster_bands(offset))
    table["B8A"] = {"href": "x.tif"}
    found = calibrate(provider, item(**{"s2:processing_baseline": baseline}), table)
    assert {(c.scale, c.offset) for name, c in found.table.items() if name != SCL} == {(1e-4, offset)}
    assert "without raster metadata of B8A" in found.why


@pytest.mark.parametrize(
    ("asset", "words"),
    [
        (raster_bands(-20000.0), "not -1000"),
        (raster_bands(float("nan")), "offset"),
        (raster_bands(-0.1, 0.0), "scale"),
        (raster_bands(-0.1, 10000.0), "scale"),
        ({"raster:bands": [{"scale": "much"}]}, "not a number"),
        ({"raster:bands": [{"scale": 1e-4, "nodata": "none"}]}, "not a number"),
        ({"raster:bands": [{"scale": 1e-4}, {"scale": 1e-4}]}, "2 bands"),
    ],
)
def test_impossible_metadata_is_refused(asset: dict[str, Any], words: str) -> None:
    with pytest.raises(SceneError, match=words):
        calibrate("generic", item(), assets(**asset))


@pytest.mark.parametrize("baseline", [None, "05.10", "02.14"])
def test_an_offset_in_digital_numbers_is_read_as_what_it_means(baseline: str | None) -> None:
    """Some catalogs give BOA_ADD_OFFSET itself, though STAC's offset is added after scaling."""
    found = calibrate("generic", item(**{"s2:processing_baseline": baseline}), assets(**raster_bands(-1000.0)))
    assert {(c.scale, c.offset) for name, c in found.table.items() if name != SCL} == {(1e-4, -0.1)}
    assert "digital numbers (-1000), read as -0.1" in found.why
    assert bool(found.doubt) == (baseline is None)


@pytest.mark.parametrize(("flag", "offset"), [(True, 0.0), (False, -0.1)])
def test_a_flag_wins_over_an_offset_in_digital_numbers(flag: bool, offset: float) -> None:
    properties = {"earthsearch:boa_offset_applied": flag, "s2:processing_baseline": "05.10"}
    found = calibrate("earth-search", item(**properties), assets(**raster_bands(-1000.0)))
    assert {c.offset for name, c in found.table.items() if name != SCL} == {offset}


def test_nodata_comes_from_the_metadata_and_nan_means_the_default() -> None:
    for given, expected in ((65535, 65535), ("nan", 0), ("-inf", 0), (-9999.0, -9999), (-0.9999, -0.9999)):
        found = calibrate("generic", item(), assets(**raster_bands(0.0, 1e-4, given)))
        assert found.table["B02"].nodata == expected


@pytest.mark.parametrize(
    ("properties", "identifier", "expected"),
    [
        ({"s2:processing_baseline": "05.11"}, "x", (5, 11)),
        ({"processing:version": "04.00"}, "x", (4, 0)),
        ({"s2:product_uri": "S2A_MSIL2A_20240407T100551_N0510_R022_T30NZM_20240407T174137.SAFE"}, "x", (5, 10)),
        ({}, "S2B_MSIL2A_20210407T100551_N0300_R022_T30NZM_20210407T174137", (3, 0)),
        ({"sentinel:processing_baseline": "04.00"}, "x", (4, 0)),
        ({"sentinel2:processing_baseline": "N0400"}, "x", (4, 0)),
        ({"earthsearch:processing_baseline": 5.09}, "x", (5, 9)),
        ({"processingBaseline": "05.10"}, "x", (5, 10)),
        ({"processing:version": "2.11"}, "x", None),
        ({"processing:version": "02.14"}, "x", (2, 14)),
        ({"processing:version": 5.1}, "x", (5, 10)),
        ({"s2:datastrip_id": "S2A_OPER_MSI_L2A_DS_2APS_20240407T174137_S20240407T101550_N05.10"}, "x", (5, 10)),
        ({"title": "S2A_MSIL2A_20240407T100551_N0509_R022_T30NZM_20240407T174137.SAFE"}, "x", (5, 9)),
        ({"s2:processing_baseline": float("nan"), "s2:product_uri": 7}, "x", None),
        ({"processing:version": "1.2.3-beta"}, "x", None),
        ({"s2:processing_baseline": None}, "N05_10", None),
    ],
)
def test_the_baseline_is_found_where_catalogs_put_it(properties: Any, identifier: str, expected: Any) -> None:
    assert processing_baseline({"id": identifier, "properties": properties}) == expected


@pytest.mark.parametrize("spelling", ["05.10", "5.10", "5.1", "0510", "N0510", "n0510", "N05.10", 5.1, 510, " 05.10 "])
def test_one_baseline_has_many_spellings(spelling: Any) -> None:
    assert parse_baseline(spelling) == (5, 10)


@pytest.mark.parametrize(
    ("value", "expected"), [(4.0, (4, 0)), (4, (4, 0)), ("04", (4, 0)), (2.09, (2, 9)), (400, (4, 0))]
)
def test_numbers_have_lost_zeros_at_their_end_only(value: Any, expected: Any) -> None:
    assert parse_baseline(value) == expected


@pytest.mark.parametrize("value", [True, None, "", "latest", "1.2.3", -4.0, float("inf"), [5, 10], {}, "5.100", "0"])
def test_what_is_no_baseline_is_none(value: Any) -> None:
    assert parse_baseline(value) is None


FLAGS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied", "s2:boa_offset_applied", "boa_offset_applied")


@pytest.mark.parametrize("provider", ["planetary-computer", "generic", "cdse", "earth-search"])
@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize(("value", "offset"), [(True, 0.0), ("true", 0.0), (1, 0.0), ("False", -0.1), (0, -0.1)])
def test_a_flag_counts_under_every_name_for_every_provider(provider: str, flag: str, value: Any, offset: float) -> None:
    found, why = offset_of(provider, {"sentinel:processing_baseline": "05.10", flag: value}, {})
    assert found == offset
    assert f"{flag} is " in why


def test_flags_that_say_nothing_or_contradict_each_other_do_not_count() -> None:
    for flags in ({FLAGS[0]: "maybe"}, {FLAGS[0]: None}, {FLAGS[0]: True, FLAGS[1]: False}):
        assert offset_of("earth-search", {"s2:processing_baseline": "05.10", **flags}, {})[0] == -0.1


@pytest.mark.parametrize("nodata", [-9999, 65535, -32768.0, 7])
@pytest.mark.parametrize("provider", ["planetary-computer", "generic", "earth-search"])
def test_nodata_counts_without_a_scale(provider: Any, nodata: Any) -> None:
    given = item(**{"s2:processing_baseline": "03.01"})
    for asset in ({"raster:bands": [{"nodata": nodata}]}, {"nodata": nodata}, {"bands": [{"nodata": nodata}]}):
        found = calibrate(provider, given, assets(**asset))
        assert found.table["B02"] == Calibration(1e-4, 0.0, nodata)
        assert found.table[SCL].nodata == 0


def integers(scale: float, offset: float | None = 0.0, data_type: str = "uint16") -> dict[str, Any]:
    return {"raster:bands": [{"data_type": data_type, "scale": scale, "offset": offset, "nodata": 0}]}


@pytest.mark.parametrize("provider", ["planetary-computer", "generic", "cdse", "earth-search"])
@pytest.mark.parametrize("asset", [integers(1.0), integers(1.0, None), integers(0.1), integers(1.0, 0.0, "int16")])
@pytest.mark.parametrize(("baseline", "offset"), [("05.10", -0.1), ("02.14", 0.0)])
def test_integers_of_scale_one_are_not_believed(provider: Any, asset: Any, baseline: str, offset: float) -> None:
    found = calibrate(provider, item(**{"s2:processing_baseline": baseline}), assets(**asset))
    assert {c for name, c in found.table.items() if name != SCL} == {Calibration(1e-4, offset, 0)}
    assert "not believed" in found.doubt
    assert "not believed" in found.why


def test_without_a_baseline_pixels_have_to_decide() -> None:
    found = calibrate("generic", item(), assets(**integers(1.0)))
    assert found.table["B02"] == Calibration(1.0, 0.0, 0)
    assert found.told_offsets == ()
    assert "not believed" in found.doubt


def test_floats_of_scale_one_are_believed() -> None:
    found: Radiometry = calibrate("generic", item(), assets(**integers(1.0, 0.0, "float32")))
    assert found.table["B02"] == Calibration(1.0, 0.0, 0)
    assert found.doubt == ""


def test_offsets_that_differ_between_bands_yield_to_the_baseline() -> None:
    table = assets(**raster_bands(-0.1))
    table["B8A"] = raster_bands(0.0)
    found = calibrate("cdse", item(**{"s2:processing_baseline": "05.10"}), table)
    assert {c.offset for name, c in found.table.items() if name != SCL} == {-0.1}
    found = calibrate("cdse", item(**{"s2:processing_baseline": "03.00"}), assets(**raster_bands(-0.1)))
    assert found.told_offsets == (-0.1, 0.0)
