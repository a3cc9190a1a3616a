"""Wrong ways to read a file as reflectance end in the right one or in a refusal; right ones stay."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.imagery.examination import examine
from pipeline.records.scene import SCL
from tests.pipeline.simulated_spectra import BANDS, COVERS, SIDE, digital, ground, sample_of, scene_of

LAND = {"forest": 2.0, "crops": 3.0, "soil": 2.0, "lake": 1.0, "town": 0.5}
DESERT = {"desert": 3.0, "dark rock": 0.5}
REFLECTANCE, CLASSES = ground(LAND)


def way(verdict: Any) -> tuple[float, float, float]:
    """Scale, offset and nodata, the same for all bands."""
    (found,) = {(a.scale, a.offset, a.nodata) for name, a in verdict.scene.assets.items() if name != SCL}
    return found


def with_marks(numbers: Any, mark: float, share: float = 0.1) -> Any:
    marked = numbers.copy()
    marked[:, : int(share * SIDE * SIDE)] = mark
    return marked


RIGHT = digital(REFLECTANCE, -0.1)
APPLIED = digital(REFLECTANCE, 0.0)
TOLD = {"told": (-0.1,)}
ONE = {"scale": 1.0, "offset": 0.0}
FAULTS: dict[str, tuple[Any, str, dict[str, Any], tuple[float, float, float]]] = {
    # name: numbers in the files, their type, what the metadata say, what is right
    "offset taken away twice": (APPLIED, "uint16", TOLD, (1e-4, 0.0, 0)),
    "offset left in, baseline known": (RIGHT, "uint16", {"offset": 0.0, "told": (0.0, -0.1)}, (1e-4, -0.1, 0)),
    "offset left in, nothing known": (RIGHT, "uint16", {"offset": 0.0}, (1e-4, -0.1, 0)),
    "integers of scale 1, baseline known": (RIGHT, "uint16", ONE | TOLD, (1e-4, -0.1, 0)),
    "integers of scale 1, offset in": (RIGHT, "uint16", ONE, (1e-4, -0.1, 0)),
    "integers of scale 1, offset applied": (APPLIED, "int16", ONE, (1e-4, 0.0, 0)),
    "scale 1 beside the offset": (RIGHT, "uint16", {"scale": 1.0, "offset": -0.1}, (1e-4, -0.1, 0)),
    "scale ten times too large": (APPLIED, "uint16", {"scale": 1e-3, "offset": 0.0}, (1e-4, 0.0, 0)),
    "scale ten times too small": (REFLECTANCE, "float32", {"scale": 1e-3, "offset": 0.0}, (1.0, 0.0, 0)),
    "reflectance scaled again": (REFLECTANCE, "float32", {"offset": 0.0, "told": (0.0,)}, (1.0, 0.0, 0)),
    "reflectance scaled and shifted again": (REFLECTANCE, "float64", TOLD, (1.0, 0.0, 0)),
    "reflectance scaled but not shifted": (REFLECTANCE + 0.1, "float32", TOLD, (1.0, -0.1, 0)),
    "percent taken for numbers": (100 * REFLECTANCE, "float32", {"offset": 0.0}, (0.01, 0.0, 0)),
    "percent taken for reflectance": (100 * REFLECTANCE, "float32", ONE, (0.01, 0.0, 0)),
    "numbers as floats": (RIGHT, "float32", ONE | TOLD, (1e-4, -0.1, 0)),
    "nodata -9999": (with_marks(APPLIED, -9999), "int16", {"offset": 0.0}, (1e-4, 0.0, -9999)),
    "nodata -32768 beside an offset": (with_marks(RIGHT, -32768), "int16", TOLD, (1e-4, -0.1, -32768)),
    "nodata 65535": (with_marks(RIGHT, 65535), "uint16", TOLD, (1e-4, -0.1, 65535)),
    "nodata 60000": (with_marks(RIGHT, 60000, 0.4), "uint16", TOLD, (1e-4, -0.1, 60000)),
    "nodata 0 where another is named": (with_marks(RIGHT, 0), "uint16", TOLD | {"nodata": 65535}, (1e-4, -0.1, 0)),
    "nodata -1 in a float": (with_marks(REFLECTANCE, -1.0), "float32", ONE, (1.0, 0.0, -1)),
    "nodata -9999 in a float": (with_marks(REFLECTANCE, -9999), "float32", ONE, (1.0, 0.0, -9999)),
    "nodata and scale": (with_marks(REFLECTANCE, -9999), "float32", {"offset": 0.0}, (1.0, 0.0, -9999)),
}  # fmt: skip


@pytest.mark.parametrize("classified", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_way_to_read_a_file_ends_in_the_right_one(fault: str, classified: bool) -> None:
    numbers, dtype, metadata, right = FAULTS[fault]
    verdict = examine(scene_of(**metadata), sample_of(numbers, CLASSES if classified else None, dtype))
    assert not verdict.refused
    assert way(verdict) == right
    assert verdict.changes
    assert "corrected: " in verdict.noted().doubt
    assert "as the metadata say" in verdict.noted().radiometry


REFUSED: dict[str, tuple[Any, str, dict[str, Any], str]] = {
    "integers of scale 1 over a desert": (
        digital(ground(DESERT)[0]), "uint16", ONE, "offset 0 or scale 0.0001, offset -0.1"),
    "percent in bytes": (
        np.round(100 * REFLECTANCE).clip(1), "uint8", ONE, "scale 0.01, offset 0 or scale"),
    "one number everywhere": (np.full_like(RIGHT, 60000), "uint16", TOLD, "no usual scale would do"),
    "noise over the whole range": (
        np.random.default_rng(1).integers(1, 65535, RIGHT.shape), "uint16", TOLD, "no usual scale"),
    "two values for nodata": (
        with_marks(with_marks(RIGHT, -9999, 0.2), 0, 0.1), "int16", TOLD, "cannot be a measurement"),
    "an offset of 0.2": (APPLIED, "uint16", {"offset": -0.2, "told": (-0.2,)}, "no other fits"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_where_no_single_way_is_left_the_scene_is_set_aside(case: str) -> None:
    numbers, dtype, metadata, words = REFUSED[case]
    assert words in examine(scene_of(**metadata), sample_of(numbers, None, dtype)).refused


RIGHT_WAYS = {
    "offset in the files": lambda r: (digital(r, -0.1), "uint16", TOLD),
    "offset applied": lambda r: (digital(r, 0.0), "uint16", {"offset": 0.0, "told": (0.0, -0.1)}),
    "no baseline": lambda r: (digital(r, 0.0), "int16", {"offset": 0.0, "nodata": -9999}),
    "floats": lambda r: (r, "float32", {"scale": 1.0, "offset": 0.0}),
    "percent": lambda r: (100 * r, "float32", {"scale": 0.01, "offset": 0.0}),
}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    covers=st.dictionaries(st.sampled_from(sorted(COVERS)), st.floats(0.05, 1.0), min_size=1, max_size=4),
    light=st.sampled_from([0.5, 0.7, 1.0, 1.15]),
    kind=st.sampled_from(sorted(RIGHT_WAYS)),
    classified=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_plausible_ground_read_rightly_is_left_alone(
    covers: dict[str, float], light: float, kind: str, classified: bool, seed: int
) -> None:
    reflectance, classes = ground(covers, seed, light)
    numbers, dtype, metadata = RIGHT_WAYS[kind](reflectance)
    verdict = examine(scene_of(**metadata), sample_of(numbers, classes if classified else None, dtype))
    assert (verdict.refused, verdict.changes, verdict.doubts) == ("", (), ())


@pytest.mark.parametrize("cover", sorted(COVERS))
def test_a_scene_of_one_cover_is_left_alone(cover: str) -> None:
    reflectance, classes = ground({cover: 1.0})
    for offset in (0.0, -0.1):
        for one in (classes, None):
            verdict = examine(scene_of(offset=offset, told=(0.0, -0.1)), sample_of(digital(reflectance, offset), one))
            assert (verdict.refused, verdict.changes, verdict.doubts) == ("", (), ())


@pytest.mark.parametrize("bands", [("B02", "B04"), ("B02", "B04", "B8A"), ("B8A", "B12"), ("B04",), BANDS])
def test_any_bands_can_be_examined(bands: tuple[str, ...]) -> None:
    at = [BANDS.index(name) for name in bands]
    whole = sample_of(APPLIED, CLASSES)
    sample = dataclasses.replace(whole, bands={name: whole.bands[name] for name in bands})
    assert len(at) == len(sample.bands)
    assert examine(scene_of(offset=0.0), sample).changes == ()
    assert way(examine(scene_of(offset=-0.1), sample))[1] == 0.0


@pytest.mark.parametrize("cover", ["forest", "crops", "desert", "salt", "snow", "lake", "winter forest"])
@pytest.mark.parametrize("left_in", [True, False])
def test_without_infrared_an_offset_left_in_is_a_doubt_where_there_is_vegetation(cover: str, left_in: bool) -> None:
    reflectance, classes = ground({cover: 1.0})
    whole = sample_of(digital(reflectance, -0.1), classes)
    sample = dataclasses.replace(whole, bands={name: whole.bands[name] for name in ("B02", "B04")})
    verdict = examine(scene_of(offset=0.0 if left_in else -0.1), sample)
    assert (verdict.refused, verdict.changes) == ("", ())
    vegetated = cover in ("forest", "crops", "winter forest")
    assert bool(verdict.doubts) == (left_in and vegetated)


def test_haze_over_a_forest_is_no_offset() -> None:
    reflectance, classes = ground({"forest": 1.0, "crops": 1.0})
    hazy = reflectance + np.array([[0.12], [0.1], [0.05], [0.01]], np.float32)
    for told in ((), (0.0, -0.1)):
        verdict = examine(scene_of(offset=0.0, told=told), sample_of(digital(hazy, 0.0), classes))
        assert (verdict.refused, verdict.changes, verdict.doubts) == ("", (), ())


def test_glint_is_doubted_and_not_changed_unless_the_metadata_name_the_offset() -> None:
    reflectance, classes = ground({"lake": 1.0})
    sample = sample_of(digital(reflectance + 0.1, 0.0), classes)
    untold = examine(scene_of(offset=0.0), sample)
    assert (untold.refused, untold.changes) == ("", ())
    assert "seems to be missing" in untold.noted().doubt
    assert way(examine(scene_of(offset=0.0, told=(0.0, -0.1)), sample))[1] == -0.1


def test_clouds_and_what_the_classification_leaves_out_do_not_count() -> None:
    classes = np.full_like(CLASSES, 9)
    assert examine(scene_of(offset=-0.1), sample_of(APPLIED, classes)).changes == ()
    marked = with_marks(RIGHT, 65535)
    outside = np.where(marked[0] == 65535, 0, CLASSES).astype(np.uint8)
    assert examine(scene_of(), sample_of(marked, outside)).changes == ()


def test_a_small_region_says_nothing_of_offsets_and_little_of_scales() -> None:
    few = sample_of(APPLIED[:, :40], CLASSES[:40])
    assert examine(scene_of(scale=1.0), few).changes == ()
    more = sample_of(APPLIED[:, :300], CLASSES[:300])
    assert examine(scene_of(offset=-0.1), more).changes == ()


def test_bands_of_one_scene_may_be_wrong_in_different_ways() -> None:
    scene = scene_of(offset=0.0)
    assets = dict(scene.assets)
    for name in ("B8A", "B12"):
        assets[name] = dataclasses.replace(assets[name], scale=1.0)
    verdict = examine(dataclasses.replace(scene, assets=assets), sample_of(APPLIED, CLASSES))
    assert way(verdict)[:2] == (1e-4, 0.0)
    assert "for B8A, B12 (" in verdict.changes[0]


def test_a_nodata_value_of_some_bands_is_theirs_and_of_those_not_looked_at() -> None:
    numbers = RIGHT.copy()
    numbers[2, :300] = 65535
    verdict = examine(scene_of(told=(-0.1,)), sample_of(numbers, CLASSES))
    found = {name: asset.nodata for name, asset in verdict.scene.assets.items()}
    assert (found["B8A"], found["B11"], found["B02"], found[SCL]) == (65535, 65535, 0, 0)


def test_overviews_that_mix_nodata_with_its_neighbours_are_no_dark_pixels() -> None:
    numbers = with_marks(RIGHT, -9999)
    edge = slice(int(0.1 * SIDE * SIDE), int(0.1 * SIDE * SIDE) + 80)
    numbers[:, edge] = np.linspace(-9000, 1500, 80)
    verdict = examine(scene_of(nodata=-9999, told=(-0.1,)), sample_of(numbers, CLASSES, "int16"))
    assert (verdict.refused, verdict.changes) == ("", ())


@pytest.mark.parametrize(
    ("grid", "epsg", "known"),
    [
        ({}, 32632, True),
        ({"epsg": 32633}, 32633, False),
        ({"epsg": 32732}, 32632, True),
        ({"epsg": None}, 32632, True),
        ({"transform": (10.0, 0.0, 700_000.0, 0.0, -10.0, 5_100_000.0)}, 32632, False),
        ({"shape": (2 * SIDE, SIDE)}, 32632, False),
        ({"shape": (SIDE // 2, SIDE // 2), "transform": (20.0, 0.0, 600_000.0, 0.0, -20.0, 5_100_000.0)}, 32632, True),
    ],
)
def test_the_grid_of_the_files_wins(grid: dict[str, Any], epsg: int, known: bool) -> None:
    verdict = examine(scene_of(told=(-0.1,)), sample_of(RIGHT, CLASSES, **grid))
    assert verdict.scene.epsg == epsg
    assert all((asset.transform is not None) == known for n, asset in verdict.scene.assets.items() if n != SCL)
    assert bool(verdict.changes) != known
