"""A composite does not know its window: every pixel is the same in whatever window it is read."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from pipeline.imagery.composite import Composite
from pipeline.records.plan import Window
from pipeline.records.scene import Scene
from pipeline.sources.items import normalise_item
from spex_core.bands import SENTINEL2_BANDS
from tests.pipeline.imagery.test_composite import PX, read
from tests.pipeline.tiny_scenes import EPSG, LEFT, TOP, write_scene


@functools.lru_cache(maxsize=1)
def varied_scenes(folder: Path) -> tuple[Scene, ...]:
    """Five scenes with noise, clouds and holes; one granule beside, one of the next zone."""
    rng = np.random.default_rng(7)
    x, y = Transformer.from_crs(EPSG, EPSG + 1, always_xy=True).transform(LEFT + 640, TOP - 640)
    places: list[dict[str, Any]] = [
        {"time": "2026-06-01T10:30:00Z", "cloud": 30.0},
        {"time": "2026-06-04T10:30:00Z", "cloud": 10.0},
        {"time": "2026-06-04T10:30:10Z", "cloud": 10.0, "left": LEFT + 400},
        {"time": "2026-06-09T10:30:00Z", "cloud": 20.0},
        {"time": "2026-06-12T10:30:00Z", "cloud": 25.0, "epsg": EPSG + 1, "left": round(x / 10) * 10.0 - 640,
         "top": round(y / 10) * 10.0 + 640},
    ]  # fmt: skip
    scenes = []
    for i, place in enumerate(places):
        noise10, noise20 = rng.integers(1100, 5000, (PX, PX)), rng.integers(1100, 5000, (PX // 2, PX // 2))
        noise10[40:44, 90:99] = 0
        dn = {b: noise10 if b in ("B02", "B03", "B04", "B08") else noise20 for b in SENTINEL2_BANDS}
        classes = rng.choice([4, 5, 6, 9, 3, 0], (PX // 2, PX // 2), p=[0.5, 0.2, 0.2, 0.03, 0.03, 0.04])
        item = write_scene(folder, f"varied_{i}", dn=dn, scl=classes, **place)
        scenes.append(normalise_item(item, "planetary-computer"))
    return tuple(scenes)


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    return list(varied_scenes(tmp_path_factory.mktemp("varied")))


@pytest.fixture(scope="module")
def varied_whole(varied: list[Scene]) -> dict[Any, Composite]:
    window = Window(-20, -20, PX + 80, PX + 80)
    return {
        (method, dilation): read(varied, window, method=method, dilation=dilation, limit=2)
        for method in ("median", "least-cloudy-first")
        for dilation in (0, 2)
    }


@given(
    row=st.integers(-20, 120), col=st.integers(-20, 120), rows=st.integers(1, 60), cols=st.integers(1, 60),
    method=st.sampled_from(["median", "least-cloudy-first"]), dilation=st.sampled_from([0, 2]),
)  # fmt: skip
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_pixel_does_not_depend_on_the_window_it_is_read_in(
    varied: list[Scene], varied_whole: dict[Any, Composite],
    row: int, col: int, rows: int, cols: int, method: str, dilation: int,
) -> None:  # fmt: skip
    whole = varied_whole[method, dilation]
    part = read(varied, Window(row, col, rows, cols), method=method, dilation=dilation, limit=2)
    cut = np.s_[row + 20 : row + 20 + rows, col + 20 : col + 20 + cols]
    np.testing.assert_array_equal(part.valid_count, whole.valid_count[cut])
    np.testing.assert_array_equal(part.reflectance, whole.reflectance[(slice(None), *cut)])


def test_the_varied_composite_is_worth_comparing(varied_whole: dict[Any, Composite]) -> None:
    count = varied_whole["median", 2].valid_count
    assert {0, 1, 2} == set(np.unique(count))
    assert (varied_whole["median", 0].valid_count > 0).mean() > (count > 0).mean()
