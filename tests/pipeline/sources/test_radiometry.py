"""Scale, offset and nodata per provider: decided by metadata and baseline, never by the date, evidence recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import SceneError
from pipeline.records.scene import SCL
from pipeline.sources.radiometry import calibrate, check_dark_pixels, processing_baseline
from spex_core.bands import BAND_INDEX, SENTINEL2_BANDS


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
    table, why = calibrate(provider, item(**properties), assets(**asset))
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
    table, why = calibrate("generic", item(**{"s2:processing_baseline": "05.00"}), assets(**raster_bands(None, 1e-3)))
    assert {(c.scale, c.offset) for n, c in table.items() if n != SCL} == {(1e-3, 0.0)}
    assert why.startswith("scale 0.001, offset 0: generic raster metadata")


def test_an_undecidable_item_says_what_to_add() -> None:
    with pytest.raises(SceneError, match=r"raster:bands.*s2:processing_baseline"):
        calibrate("generic", item(), assets())


def test_metadata_for_some_bands_only_is_refused_and_names_the_rest() -> None:
    table = assets(**raster_bands(-0.1))
    table["B8A"] = {"href": "x.tif"}
    with pytest.raises(SceneError, match="B8A have none"):
        calibrate("generic", item(), table)


@pytest.mark.parametrize(
    ("asset", "words"),
    [
        (raster_bands(-1000.0), "not -1000"),
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


def test_nodata_comes_from_the_metadata_and_nan_means_the_default() -> None:
    table, _ = calibrate("generic", item(), assets(**raster_bands(0.0, 1e-4, 65535)))
    assert table["B02"].nodata == 65535
    table, _ = calibrate("generic", item(), assets(**raster_bands(0.0, 1e-4, "nan")))
    assert table["B02"].nodata == 0


@pytest.mark.parametrize(
    ("properties", "identifier", "expected"),
    [
        ({"s2:processing_baseline": "05.11"}, "x", (5, 11)),
        ({"processing:version": "04.00"}, "x", (4, 0)),
        ({"s2:product_uri": "S2A_MSIL2A_20240407T100551_N0510_R022_T30NZM_20240407T174137.SAFE"}, "x", (5, 10)),
        ({}, "S2B_MSIL2A_20210407T100551_N0300_R022_T30NZM_20210407T174137", (3, 0)),
        ({"processing:version": "1.2.3-beta"}, "x", None),
        ({"s2:processing_baseline": None}, "N05_10", None),
    ],
)
def test_the_baseline_is_found_where_catalogs_put_it(properties: Any, identifier: str, expected: Any) -> None:
    assert processing_baseline({"id": identifier, "properties": properties}) == expected


def sample(**reflectance: float) -> np.ndarray:
    """[10, 4000] with a little noise; bands not given are 0.2."""
    rng = np.random.default_rng(1)
    values = np.full((10, 4000), 0.2, np.float32) + rng.normal(0, 0.003, (10, 4000)).astype(np.float32)
    for name, value in reflectance.items():
        values[BAND_INDEX[name]] += value - 0.2
    return values


VEGETATION = {"B02": 0.03, "B03": 0.06, "B04": 0.03, "B05": 0.09, "B08": 0.35, "B8A": 0.36, "B11": 0.16, "B12": 0.08}
WATER = dict.fromkeys(SENTINEL2_BANDS, 0.02) | {"B02": 0.06, "B03": 0.05}
DESERT = dict.fromkeys(SENTINEL2_BANDS, 0.3) | {"B02": 0.15, "B03": 0.2}


@pytest.mark.parametrize("cover", [VEGETATION, WATER, DESERT])
def test_right_offsets_raise_no_alarm(cover: dict[str, float]) -> None:
    assert check_dark_pixels(sample(**cover)) is None


@pytest.mark.parametrize("cover", [VEGETATION, WATER])
def test_a_forgotten_offset_is_noticed(cover: dict[str, float]) -> None:
    assert "seems to be missing" in str(check_dark_pixels(sample(**cover) + np.float32(0.1)))


@pytest.mark.parametrize("cover", [VEGETATION, WATER])
def test_a_doubled_offset_is_noticed(cover: dict[str, float]) -> None:
    assert "subtracted twice" in str(check_dark_pixels(sample(**cover) - np.float32(0.1)))


def test_small_or_empty_samples_say_nothing() -> None:
    assert check_dark_pixels(sample(**WATER)[:, :100] + np.float32(0.1)) is None
    assert check_dark_pixels(np.full((10, 4000), np.nan, np.float32)) is None
