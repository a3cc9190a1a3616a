"""The order of scenes: least cloudy first, but of one pass the granule of the map's own zone before any other."""

from __future__ import annotations

import dataclasses
import datetime as dt
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from pipeline.imagery.composite import Composite, read_composite
from pipeline.planning.scene_order import acquisition_numbers, compositing_order
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import Scene
from pipeline.settings.run_file import CompositeConfig
from pipeline.sources.items import normalise_item
from tests.pipeline.small_plans import scene_over
from tests.pipeline.tiny_scenes import EPSG, LEFT, SIZE_M, TOP, write_scene

PX = int(SIZE_M / 10)
GRID = ZoneGrid(EPSG, LEFT, TOP, 10.0, PX, PX)
METHODS = ("median", "least-cloudy-first")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Scene]:
    """A granule of noise, so that resampled pixels are told from copied ones; ``zone`` 31 lies over the same ground."""

    def scene(identifier: str, zone: int = 30, **options: Any) -> Scene:
        noise = np.random.default_rng(len(identifier)).integers(1100, 6000, (PX, PX))
        place: dict[str, Any] = {"dn": {"B02": noise}}
        if zone != 30:
            x, y = Transformer.from_crs(EPSG, EPSG + 1, always_xy=True).transform(LEFT + 640, TOP - 640)
            noise = np.random.default_rng(5).integers(1100, 6000, (2 * PX, 2 * PX))
            place = {"dn": {"B02": noise}, "epsg": EPSG + 1, "left": round(x / 20) * 20.0 - 1280,
                     "top": round(y / 20) * 20.0 + 1280, "size_m": 2560.0}  # fmt: skip
        return normalise_item(write_scene(tmp_path, identifier, **(place | options)), "planetary-computer")

    return scene


def read(scenes: list[Scene], method: str, window: Window = Window(0, 0, PX, PX)) -> Composite:
    config = {"method": method, "mask_dilation_px": 0, "max_observations": 1}
    return read_composite(scenes, GRID, window, CompositeConfig.model_validate(config))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("clouds", [(10.0, 9.0), (60.0, 0.0), (0.0, 60.0)])
def test_the_granule_of_the_maps_zone_comes_first_in_its_pass(
    make: Callable[..., Scene], method: str, clouds: tuple[float, float]
) -> None:
    native = make("native", cloud=clouds[0])
    other = make("other", zone=31, cloud=clouds[1], time="2026-06-01T10:30:20Z")
    alone = read([native], method)
    both = read([other, native], method)
    assert both.used == ("native",)
    np.testing.assert_array_equal(both.reflectance, alone.reflectance)


@pytest.mark.parametrize("method", METHODS)
def test_the_other_zone_fills_what_is_cloudy_in_the_maps_own(make: Callable[..., Scene], method: str) -> None:
    classes = np.full((PX // 2, PX // 2), 4, np.uint8)
    classes[:, : PX // 4] = 9
    native = make("native", cloud=10.0, scl=classes)
    other = make("other", zone=31, cloud=9.0, time="2026-06-01T10:30:20Z")
    out = read([native, other], method)
    assert out.used == ("native", "other")
    assert (out.valid_count == 1).all()
    np.testing.assert_array_equal(out.reflectance[:, :, PX // 2 :], read([native], method).reflectance[:, :, PX // 2 :])
    np.testing.assert_array_equal(out.reflectance[:, :, : PX // 2], read([other], method).reflectance[:, :, : PX // 2])


@pytest.mark.parametrize("method", METHODS)
def test_a_clearer_pass_still_comes_first_whatever_its_zone(make: Callable[..., Scene], method: str) -> None:
    native = make("native", cloud=30.0)
    other_day = make("other", zone=31, cloud=5.0, time="2026-06-06T10:30:00Z")
    assert read([native, other_day], method).used == ("other",)


def granule(name: str, epsg: int, minutes: float, cloud: float, west: float) -> Scene:
    start = dt.datetime(2026, 5, 1, 10, tzinfo=dt.UTC)
    area = shapely.box(west, 45, west + 1.4, 46)
    return scene_over(name, area, epsg=epsg, cloud_cover=cloud, datetime=start + dt.timedelta(minutes=minutes))


granules = st.lists(
    st.tuples(
        st.sampled_from([32631, 32632, 32732, 32633, 3035]),
        st.sampled_from([0.0, 0.3, 5.0, 99.0, 99.4, 2000.0]),
        st.sampled_from([0.0, 1.0, 5.0, 5.5, 60.0]),
        st.sampled_from([10.0, 11.0, 12.0, 13.0]),
    ),
    max_size=9,
)


@given(data=granules, shuffle=st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_the_order_is_one_whatever_the_catalogs_is(
    data: list[tuple[int, float, float, float]], shuffle: random.Random
) -> None:
    scenes = [granule(f"s{i}", *values) for i, values in enumerate(data)]
    order = compositing_order(scenes, 32632)
    assert sorted(s.id for s in order) == sorted(s.id for s in scenes)
    mixed = list(scenes)
    shuffle.shuffle(mixed)
    assert [s.id for s in compositing_order(mixed, 32632)] == [s.id for s in order]
    # The zone's own granules, of either hemisphere, go by cloud, time and id, as if there were no others.
    own = [s for s in order if s.epsg % 100 == 32 and s.epsg != 3035]
    assert own == sorted(own, key=lambda s: (s.cloud_cover, s.datetime, s.id))
    # So do passes without any of them.
    numbers = dict(zip((s.id for s in scenes), acquisition_numbers(scenes), strict=True))
    served = {numbers[s.id] for s in own}
    foreign = [s for s in order if numbers[s.id] not in served]
    assert foreign == sorted(foreign, key=lambda s: (s.cloud_cover, s.datetime, s.id))
    for position, scene in enumerate(order):
        for later in order[position + 1 :]:
            same = numbers[scene.id] == numbers[later.id] and shapely.box(*scene.bbox).intersects(
                shapely.box(*later.bbox)
            )
            assert not (same and scene not in own and later in own), "resampled before copied"


@given(data=granules)
@settings(max_examples=50, deadline=None)
def test_one_zone_alone_goes_by_cloud_time_and_id(data: list[tuple[int, float, float, float]]) -> None:
    scenes = [dataclasses.replace(granule(f"s{i}", *values), epsg=32632) for i, values in enumerate(data)]
    expected = sorted(scenes, key=lambda s: (s.cloud_cover, s.datetime, s.id))
    assert compositing_order(scenes, 32632) == expected == compositing_order(scenes, 32732)
