"""Stacks of many files: lazy until they are asked for, every scene in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.imagery.stack import lazy_stack, load
from pipeline.records.plan import Window
from pipeline.sources.items import normalise_item
from tests.pipeline.imagery.test_composite import GRID
from tests.pipeline.tiny_scenes import LEFT, TOP, write_scene


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    scene = normalise_item(write_scene(tmp_path, "S2A_T30UXB_01"), "planetary-computer")
    Path(scene.assets["B02"].href).unlink()
    lazy = lazy_stack([scene], ["B02"], GRID, Window(3, 4, 20, 30))
    assert lazy.dims == ("time", "band", "y", "x")
    assert lazy.shape == (1, 1, 20, 30)
    assert lazy.attrs["spec"].bounds == (LEFT + 40, TOP - 230, LEFT + 340, TOP - 30)
    assert lazy.data.__dask_graph__()


def test_stacks_keep_the_places_of_what_lies_outside(tmp_path: Path) -> None:
    outside, inside = (
        normalise_item(write_scene(tmp_path, name, **options), "planetary-computer")
        for name, options in (("outside", {"left": LEFT + 50_000}), ("inside", {"dn": 2345}))
    )
    values = load([outside, inside], ["B02", "B11"], GRID, Window(0, 0, 4, 4))
    assert np.isnan(values[0]).all()
    assert (values[1] == 2345).all()


@pytest.mark.parametrize(
    "window", [Window(0, 0, 8, 8), Window(-7, 3, 30, 21), Window(5, -9, 11, 60), Window(500, 0, 4, 4)]
)
@pytest.mark.parametrize("names", [["B02", "B11"], ["SCL"]])
def test_what_is_read_now_is_what_the_lazy_stack_holds(tmp_path: Path, names: list[str], window: Window) -> None:
    scenes = [
        normalise_item(write_scene(tmp_path, name, **options), "planetary-computer")
        for name, options in (("here", {"dn": 2345}), ("beside", {"left": LEFT + 70}), ("far", {"left": LEFT + 50_000}))
    ]
    lazy = lazy_stack(scenes, names, GRID, window)
    expected = np.full((len(scenes), len(names), window.height, window.width), np.nan, np.float32)
    if lazy.size:
        expected[np.ix_([int(i) for i in lazy["id"].values], [names.index(b) for b in lazy["band"].values])] = lazy
    np.testing.assert_array_equal(load(scenes, names, GRID, window), expected)
