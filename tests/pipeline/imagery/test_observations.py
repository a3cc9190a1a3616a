"""The rule of the composite, pixel by pixel, against the reader that looks only where a pixel is still open."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import tracemalloc
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from shapely.geometry import mapping

from pipeline.imagery import composite, open_pixels, window_reader
from pipeline.imagery.cloud_mask import clear_mask
from pipeline.imagery.composite import read_composite
from pipeline.imagery.layers import NumberLayers
from pipeline.imagery.open_pixels import open_rectangles
from pipeline.imagery.stack import load
from pipeline.planning.scene_order import acquisition_numbers, compositing_order
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import SCL, Scene, SceneAsset
from pipeline.settings.run_file import CompositeConfig
from tests.pipeline.tiny_scenes import EPSG, LEFT, TOP, footprint_lonlat, write_raster

PX = 48
GRID = ZoneGrid(EPSG, LEFT, TOP, 10.0, PX, PX)
MARGIN, HALO = 8, 3
WHOLE = Window(-MARGIN, -MARGIN, PX + 2 * MARGIN, PX + 2 * MARGIN)
EXAMPLES = int(os.environ.get("SPEX_COMPOSITE_EXAMPLES", "15"))
START = dt.datetime(2026, 5, 1, 10, tzinfo=dt.UTC)


def scene_of(
    folder: Path, name: str, band: np.ndarray, classes: np.ndarray, *, epsg: int = EPSG, left: float = LEFT,
    top: float = TOP, time: dt.datetime = START, cloud: float = 10.0,
) -> Scene:  # fmt: skip
    """A scene of one band."""
    assets = {}
    for key, values, gsd in (("B02", band, 10), (SCL, classes, 20)):
        path = folder / f"{name}_{key}.tif"
        write_raster(path, values, left=left, top=top, gsd=gsd, epsg=epsg)
        place = (float(gsd), 0.0, left, 0.0, -float(gsd), top)
        assets[key] = SceneAsset(str(path), 1.0 if key == SCL else 1e-4, 0.0, 0, gsd, values.shape, place)
    outline = footprint_lonlat(epsg, left, top, 10.0 * band.shape[0])
    return Scene(name, "c", "generic", time, cloud, epsg, outline.bounds, mapping(outline), assets, "r")


@dataclasses.dataclass(frozen=True)
class Archive:
    """What the rule is applied to."""

    scenes: tuple[Scene, ...]
    classes: dict[str, np.ndarray]
    """By scene id: the classification on the whole window and its halo."""
    values: dict[str, np.ndarray]
    """By scene id: reflectance on the whole window."""

    def __repr__(self) -> str:
        return "Archive"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Sixteen mostly cloudy scenes of seven passes: own zone, granule beside, the next zone."""
    folder = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(3)
    x, y = Transformer.from_crs(EPSG, EPSG + 1, always_xy=True).transform(LEFT + 5 * PX, TOP - 5 * PX)
    places: list[dict[str, Any]] = [
        {}, {"left": LEFT + 200.0}, {"top": TOP + 160.0, "left": LEFT - 240.0},
        {"epsg": EPSG + 1, "left": round(x / 20) * 20.0 - 240, "top": round(y / 20) * 20.0 + 240},
    ]  # fmt: skip
    scenes = []
    for i in range(16):
        band = rng.integers(1000, 9000, (PX, PX)).astype(np.uint16)
        band[rng.random(band.shape) < 0.01] = 0
        coarse = rng.choice([4, 9, 3, 0], (6, 6), p=[0.35, 0.45, 0.1, 0.1]).astype(np.uint8)
        classes = np.kron(coarse, np.ones((4, 4), np.uint8))
        classes[10:12, 10:13] = 9  # a roof that is always called a cloud
        time = START + dt.timedelta(days=i // 3 + i // 9, seconds=15 * i)
        scenes.append(scene_of(folder, f"s{i:02d}", band, classes, time=time, cloud=float(i * 7 % 5), **places[i % 4]))
    grown = Window(WHOLE.row - HALO, WHOLE.col - HALO, WHOLE.height + 2 * HALO, WHOLE.width + 2 * HALO)
    classes_of = {s.id: np.nan_to_num(load([s], [SCL], GRID, grown)[0, 0]).astype(np.uint8) for s in scenes}
    values_of = {s.id: load([s], ["B02"], GRID, WHOLE)[0, 0] * np.float32(1e-4) for s in scenes}
    return Archive(tuple(scenes), classes_of, values_of)


def rule(
    archive: Archive, scenes: Sequence[Scene], config: CompositeConfig, gone: Collection[str] = ()
) -> tuple[np.ndarray, np.ndarray, set[str]]:
    """What the rule says of each pixel of the whole window: value, count, and the scenes that give any.

    Scenes that are ``gone`` are passed over; what is a pass is decided by all.
    """
    method, dilation, limit, mask_scl = (
        config.method, config.mask_dilation_px, config.max_observations, config.mask_scl
    )  # fmt: skip
    order = compositing_order(scenes, EPSG)
    passes = dict(zip((s.id for s in order), acquisition_numbers(order), strict=True))
    order = [s for s in order if s.id not in gone]
    cut = HALO - dilation
    inner = np.s_[cut : cut + WHOLE.height + 2 * dilation, cut : cut + WHOLE.width + 2 * dilation]
    clear = {s.id: clear_mask(archive.classes[s.id][inner], mask_scl, dilation) for s in order}
    seen = {s.id: archive.classes[s.id][HALO:-HALO, HALO:-HALO] != 0 for s in order}
    value = np.full((WHOLE.height, WHOLE.width), np.nan, np.float32)
    count = np.zeros(value.shape, np.uint8)
    used: set[str] = set()
    for at in np.ndindex(value.shape):
        seen_passes: set[int] = set()
        taken: dict[int, str] = {}
        for scene in order:
            number, number_clear = passes[scene.id], bool(clear[scene.id][at])
            if method != "median":
                if number_clear and np.isfinite(archive.values[scene.id][at]):
                    taken[number] = scene.id
                    break
                continue
            if len(seen_passes) >= limit and taken:
                break
            if number_clear and number not in taken:
                taken[number] = scene.id
            if seen[scene.id][at] and len(seen_passes) < limit:
                seen_passes.add(number)
        used |= set(taken.values())
        values = [archive.values[i][at] for i in taken.values() if np.isfinite(archive.values[i][at])]
        if values:
            value[at], count[at] = np.median(values), len(values)
    return value, count, used


@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_pixel_is_what_the_rule_says_in_any_window(archive: Archive, data: st.DataObject) -> None:
    scenes = data.draw(st.lists(st.sampled_from(archive.scenes), unique_by=lambda s: s.id, min_size=1))
    method = data.draw(st.sampled_from(["median", "median", "least-cloudy-first"]))
    dilation, limit = data.draw(st.sampled_from([0, 2])), data.draw(st.integers(1, 4))
    row, col = data.draw(st.integers(-MARGIN, PX)), data.draw(st.integers(-MARGIN, PX))
    rows, cols = data.draw(st.integers(1, PX + MARGIN - row)), data.draw(st.integers(1, PX + MARGIN - col))
    config = CompositeConfig.model_validate({"method": method, "mask_dilation_px": dilation, "max_observations": limit})
    value, count, _ = rule(archive, scenes, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_pixels, "CELL_PX", data.draw(st.sampled_from([8, 13, 256])))
        patch.setattr(open_pixels, "MASKS_PER_LOAD", data.draw(st.integers(1, 4)))
        patch.setattr(composite, "IMAGES_PER_LOAD", data.draw(st.integers(1, 8)))
        patch.setattr(window_reader, "MASKS_KEPT", data.draw(st.integers(0, 3)))
        out = read_composite(scenes, GRID, Window(row, col, rows, cols), config)
    cut = np.s_[row + MARGIN : row + MARGIN + rows, col + MARGIN : col + MARGIN + cols]
    np.testing.assert_array_equal(out.valid_count, count[cut])
    np.testing.assert_allclose(out.reflectance[0], value[cut], rtol=1e-6)
    assert out.problems == ()


def dates_by_rule(archive: Archive, scenes: Sequence[Scene], limit: int) -> list[list[dict[int, float]]]:
    """Of each pixel of the whole window: the passes that it considers and takes, with their values."""
    order = compositing_order(scenes, EPSG)
    passes = dict(zip((s.id for s in order), acquisition_numbers(order), strict=True))
    inner = np.s_[HALO:-HALO, HALO:-HALO]
    clear = {s.id: clear_mask(archive.classes[s.id][inner], CompositeConfig().mask_scl, 0) for s in order}
    found: list[list[dict[int, float]]] = [[{} for _ in range(WHOLE.width)] for _ in range(WHOLE.height)]
    for row, col in np.ndindex(WHOLE.height, WHOLE.width):
        seen: set[int] = set()
        taken: dict[int, float] = {}
        for scene in order:
            number = passes[scene.id]
            if len(seen) >= limit:
                break
            if clear[scene.id][row, col] and number not in taken:
                taken[number] = float(archive.values[scene.id][row, col])
            if archive.classes[scene.id][inner][row, col] != 0:
                seen.add(number)
        found[row][col] = {number: value for number, value in taken.items() if np.isfinite(value)}
    return found


@given(data=st.data())
@settings(
    max_examples=max(EXAMPLES // 3, 1), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_dates_are_the_passes_of_each_pixel_in_any_window_and_their_median_is_the_composite(
    archive: Archive, data: st.DataObject
) -> None:
    scenes = data.draw(st.lists(st.sampled_from(archive.scenes), unique_by=lambda s: s.id, min_size=1))
    limit = data.draw(st.integers(1, 4))
    row, col = data.draw(st.integers(-MARGIN, PX - 8)), data.draw(st.integers(-MARGIN, PX - 8))
    window = Window(row, col, PX - row, PX - col)
    settings_of = {"mask_dilation_px": 0, "max_observations": limit}
    out, median = (
        read_composite(scenes, GRID, window, CompositeConfig.model_validate({"method": method, **settings_of}))
        for method in ("fuse", "median")
    )
    np.testing.assert_array_equal(out.reflectance, median.reflectance)
    np.testing.assert_array_equal(out.valid_count, median.valid_count)
    expected = [line[col + MARGIN :][: window.width] for line in dates_by_rule(archive, scenes, limit)[row + MARGIN :]]
    if out.dated is None:
        assert len({number for line in expected for pixel in line for number in pixel}) <= 1
        return
    assert len(out.dated.layers) <= limit
    images = {number: out.dated.image(number) for number in out.dated.dates()}
    passes: dict[int, set[int]] = {number: set() for number in images}
    for r, c in np.ndindex(window.height, window.width):
        own = {number: image[0, r, c] for number, (image, there) in images.items() if there[r, c]}
        assert np.allclose(list(own.values()), [expected[r][c][n] for n in sorted(expected[r][c])])  # in order of time
        for number, acquisition in zip(own, sorted(expected[r][c]), strict=True):
            passes[number].add(acquisition)
    assert all(len(acquisitions) == 1 for acquisitions in passes.values())


@given(data=st.data())
@settings(
    max_examples=max(EXAMPLES // 3, 1), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_scenes_that_cannot_be_read_leave_what_the_others_give(archive: Archive, data: st.DataObject) -> None:
    method, limit = data.draw(st.sampled_from(["median", "least-cloudy-first"])), data.draw(st.integers(1, 4))
    broken = data.draw(st.dictionaries(st.sampled_from([s.id for s in archive.scenes]), st.sampled_from(["B02", SCL])))

    def damaged(scene: Scene) -> Scene:
        key = broken.get(scene.id)
        gone = {key: dataclasses.replace(scene.assets[key], href=f"{scene.assets[key].href}.gone")} if key else {}
        return dataclasses.replace(scene, assets={**scene.assets, **gone})

    config = CompositeConfig.model_validate({"method": method, "mask_dilation_px": 0, "max_observations": limit})
    gone = {name for name, key in broken.items() if key == SCL}
    while True:
        value, count, used = rule(archive, archive.scenes, config, gone)
        missed = used & broken.keys()
        if not missed:
            break
        gone |= missed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_pixels, "CELL_PX", 13)
        patch.setattr(window_reader, "MASKS_KEPT", data.draw(st.integers(0, 3)))
        out = read_composite([damaged(s) for s in archive.scenes], GRID, WHOLE, config)
    np.testing.assert_array_equal(out.valid_count, count)
    np.testing.assert_allclose(out.reflectance[0], value, rtol=1e-6)
    assert set(out.unread) <= broken.keys()


def long_period(folder: Path, passes: int, side: int) -> list[Scene]:
    """Two granules of each pass over the same ground, all of the same files; one roof is never clear."""
    classes = np.full((side // 2, side // 2), 4, np.uint8)
    classes[60, 70] = 9
    scene = scene_of(folder, "roof", np.full((side, side), 2000, np.uint16), classes)
    return [
        dataclasses.replace(
            scene, id=f"s{i:04d}{granule}", cloud_cover=float(i),
            datetime=START + dt.timedelta(days=2 * i, seconds=15 * granule),
        )
        for i in range(passes)
        for granule in range(2)
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["median", "least-cloudy-first"])
def test_a_spot_that_is_never_clear_costs_little(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    side = 512
    grid, window = ZoneGrid(EPSG, LEFT, TOP, 10.0, side, side), Window(0, 0, side, side)
    read_px: dict[str, int] = {}

    def counting(
        scenes: Sequence[Scene], names: Sequence[str], grid: ZoneGrid, window: Window, *more: Any
    ) -> np.ndarray:
        for scene in scenes:
            for name in names:
                read_px[name] = read_px.get(name, 0) + window.height * window.width
                asked.add(scene.id)
        return load(scenes, names, grid, window, *more)

    monkeypatch.setattr(window_reader, "load", counting)
    cost, peak = {}, {}
    for passes in (9, 24):
        read_px.clear()
        asked: set[str] = set()
        tracemalloc.start()
        out = read_composite(long_period(tmp_path, passes, side), grid, window, CompositeConfig(method=method))
        peak[passes] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        cost[passes] = read_px[SCL] / side**2
        assert (out.valid_count == 0).sum() == 24
        assert asked == {s.id for s in long_period(tmp_path, passes, side)}, "the rule asks every scene for it"
    assert cost[24] < cost[9] + 0.5, "windows' worth of masks"
    assert peak[24] < 1.1 * peak[9]


def test_memory_does_not_grow_with_scenes_that_each_fill_a_little(tmp_path: Path) -> None:
    side = 320
    grid, window = ZoneGrid(EPSG, LEFT, TOP, 10.0, side, side), Window(0, 0, side, side)
    rng = np.random.default_rng(0)
    owner = rng.integers(0, 24, (side // 2, side // 2))
    peak = {}
    for passes in (8, 24):
        scenes = [
            scene_of(
                tmp_path, f"p{passes}_{i}", np.full((side, side), 2000 + i, np.uint16),
                np.where(owner % passes == i, 4, 9).astype(np.uint8), time=START + dt.timedelta(days=i),
            )
            for i in range(passes)
        ]  # fmt: skip
        tracemalloc.start()
        out = read_composite(scenes, grid, window, CompositeConfig(mask_dilation_px=0, max_observations=4))
        peak[passes] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (out.valid_count == 1).all()
        expected = (2000 + np.kron(owner % passes, np.ones((2, 2), int))) * 1e-4
        np.testing.assert_allclose(out.reflectance[0], expected, rtol=1e-5)
    assert peak[24] < 1.2 * peak[8]


@given(data=st.data(), rows=st.integers(1, 60), cols=st.integers(1, 60), cell=st.integers(3, 30))
@settings(max_examples=150, deadline=None)
def test_rectangles_hold_every_open_pixel_once(data: st.DataObject, rows: int, cols: int, cell: int) -> None:
    offset = (data.draw(st.integers(-99, 99)), data.draw(st.integers(-99, 99)))
    share, seed = data.draw(st.sampled_from([0.0, 0.002, 0.02, 0.5, 1.0])), data.draw(st.integers(0, 99))
    pixels = np.random.default_rng(seed).random((rows, cols)) < share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_pixels, "CELL_PX", cell)
        found = open_rectangles(pixels, offset)
    covered = np.zeros((rows, cols), int)
    for w in found:
        assert w.row >= 0
        assert w.col >= 0
        inside = np.s_[w.row : w.row + w.height, w.col : w.col + w.width]
        assert covered[inside].shape == (w.height, w.width)
        assert pixels[inside].any(axis=1)[[0, -1]].all()
        assert pixels[inside].any(axis=0)[[0, -1]].all()
        covered[inside] += 1
    assert covered.max() <= 1
    assert (covered[pixels] == 1).all()


@given(limit=st.integers(1, 4), seed=st.integers(0, 2**32 - 1), share=st.floats(0.05, 0.9))
@settings(max_examples=60, deadline=None)
def test_layers_hold_every_number_within_their_limit(limit: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    layers, at = NumberLayers((9, 7), limit), np.s_[2:8, 1:6]
    held: dict[int, np.ndarray] = {}
    count = np.zeros((6, 5), int)
    for number in range(1, 20):
        pixels = (rng.random((6, 5)) < share) & (count < limit)
        if pixels.any():
            where = layers.add(number, at, pixels.copy())
            held[number] = pixels
            count += pixels
            parts = [layers.holds_in(index, number, at) for index in where]
            assert (np.sum(parts, axis=0) == pixels).all()
    assert len(layers) <= limit
    assert (layers.count()[at] == count).all()
    assert layers.count().sum() == count.sum()
    assert all((layers.holds(number, at) == pixels).all() for number, pixels in held.items())


def test_the_archive_of_these_tests_is_worth_it(archive: Archive) -> None:
    _, count, used = rule(archive, archive.scenes, CompositeConfig(max_observations=2))
    assert {0, 1, 2} == set(np.unique(count))
    assert len(used) > 10, "most scenes fill something"
    assert shapely.union_all([shapely.geometry.shape(s.footprint) for s in archive.scenes]).area > 0
