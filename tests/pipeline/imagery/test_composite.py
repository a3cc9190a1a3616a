"""Composites: radiometry applied, clouds left out, order deterministic, failures local."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

import pipeline.imagery.file_reader as file_reader
from pipeline.errors import SceneError
from pipeline.imagery.composite import Composite, nan_median, read_composite
from pipeline.planning.scene_order import acquisition_numbers
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import Scene
from pipeline.settings.run_file import CompositeConfig, SourceConfig
from pipeline.sources.items import normalise_item
from spex_core.bands import SENTINEL2_BANDS
from tests.pipeline.loopback_server import Response, file_answer, serve
from tests.pipeline.tiny_scenes import EPSG, LEFT, SIZE_M, TOP, write_scene

PX = int(SIZE_M / 10)
GRID = ZoneGrid(EPSG, LEFT, TOP, 10.0, PX, PX)
WHOLE = Window(0, 0, PX, PX)
REAL_DATA = Path(__file__).resolve().parents[4] / "shared" / "real-data" / "coastal-accra"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, so that the tests of patience are not themselves slow."""
    monkeypatch.setattr(file_reader, "BACKOFF_S", 0.01)
    options = file_reader.gdal_options
    monkeypatch.setattr(file_reader, "gdal_options", lambda href: {**options(href), "GDAL_HTTP_MAX_RETRY": 0})


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Scene]:
    """Writes a tiny scene and normalises it; ``day`` stands for its id and time."""

    def scene(day: int, tag: str = "T30UXB", **options: Any) -> Scene:
        options.setdefault("time", f"2026-06-{day:02d}T10:30:00Z")
        return normalise_item(write_scene(tmp_path, f"S2A_{tag}_{day:02d}", **options), "planetary-computer")

    return scene


def composite(method: str = "median", dilation: int = 0, limit: int = 8) -> CompositeConfig:
    return CompositeConfig.model_validate({"method": method, "mask_dilation_px": dilation, "max_observations": limit})


def read(scenes: list[Scene], window: Window = WHOLE, grid: ZoneGrid = GRID, **options: Any) -> Composite:
    return read_composite(scenes, grid, window, composite(**options))


def scl(clear: int = 4, **patches: int) -> np.ndarray:
    """20 m classification; ``left=9`` gives the left half class 9."""
    half = PX // 4
    out = np.full((PX // 2, PX // 2), clear, np.uint8)
    for side, value in patches.items():
        out[:, :half] = value if side == "left" else out[:, :half]
        out[:, half:] = value if side == "right" else out[:, half:]
    return out


def test_reflectance_is_dn_times_scale_plus_offset_per_scene(make: Callable[..., Scene]) -> None:
    new, old = make(1, dn=2500, baseline="05.11"), make(2, dn=1500, baseline="02.14")
    for scene in (new, old):
        out = read([scene])
        assert out.reflectance.dtype == np.float32
        assert out.reflectance.shape == (10, PX, PX)
        np.testing.assert_allclose(out.reflectance, 0.15, atol=1e-6)
        assert out.valid_count.dtype == np.uint8
        assert (out.valid_count == 1).all()
        assert out.problems == ()


def test_channels_stand_in_band_order(make: Callable[..., Scene]) -> None:
    dn = {name: 2000 + 100 * i for i, name in enumerate(SENTINEL2_BANDS)}
    out = read([make(1, dn=dn)])
    np.testing.assert_allclose(out.reflectance[:, 5, 7], 0.1 + 0.01 * np.arange(10), atol=1e-6)


@pytest.mark.parametrize("method", ["median", "least-cloudy-first"])
def test_a_scene_that_is_no_reflectance_is_left_out_and_told(make: Callable[..., Scene], method: str) -> None:
    right, wrong = make(1, dn=2500), make(2, dn=1500, cloud=1.0)
    assets = {name: dataclasses.replace(a, scale=1.0, offset=0.0) for name, a in wrong.assets.items()}
    out = read([right, dataclasses.replace(wrong, assets=assets)], method=method)
    np.testing.assert_allclose(out.reflectance, 0.15, atol=1e-6)
    assert out.unread == (wrong.id,)
    assert "half of the values are reflectances around 1.5e+03" in out.problems[0]


@pytest.mark.parametrize("method", ["median", "least-cloudy-first"])
def test_a_run_may_read_fewer_bands(tmp_path: Path, method: str) -> None:
    item = write_scene(tmp_path, "S2A_FEW", dn={"B02": 2100, "B04": 2200, "B08": 2300})
    for name in ("B03", "B05", "B06", "B07", "B8A", "B11", "B12"):
        del item["assets"][name]
    few = SourceConfig.model_validate({"bands": ["B08", "B02", "B04"]})  # any order: the scene's is the table's
    scene = normalise_item(item, "planetary-computer", source=few)
    out = read([scene], method=method)
    present = [0, 2, 6]
    np.testing.assert_allclose(out.reflectance[present, 5, 7], [0.11, 0.12, 0.13], atol=1e-6)
    assert np.isnan(np.delete(out.reflectance, present, axis=0)).all()
    assert (out.valid_count == 1).all()
    with pytest.raises(SceneError, match=r"no asset for B03, .*source\.bands"):
        normalise_item(item, "planetary-computer")


def test_a_window_may_hang_over_grid_and_granule(make: Callable[..., Scene]) -> None:
    out = read([make(1)], Window(-30, PX - 10, 50, 60))
    assert (out.valid_count[30:, :10] == 1).all()
    assert out.valid_count.sum() == 20 * 10
    assert np.isnan(out.reflectance[:, out.valid_count == 0]).all()
    assert np.isfinite(out.reflectance[:, out.valid_count == 1]).all()


def test_a_window_without_scenes_is_empty(make: Callable[..., Scene]) -> None:
    for scenes in ([], [make(1)]):
        for method in ("median", "least-cloudy-first"):
            out = read(scenes, Window(5000, 5000, 8, 9), method=method)
            assert out.valid_count.shape == (8, 9)
            assert out.valid_count.max() == 0
            assert np.isnan(out.reflectance).all()
            assert out.problems == ()


def test_the_median_takes_clear_observations_only(make: Callable[..., Scene]) -> None:
    scenes = [make(1, dn=2000), make(2, dn=3000), make(3, dn=9000, scl=scl(left=9)), make(4, dn=4000)]
    out = read(scenes)
    assert np.allclose(out.reflectance[:, :, : PX // 2], 0.2, atol=1e-6)
    assert (out.valid_count[:, : PX // 2] == 3).all()
    assert np.allclose(out.reflectance[:, :, PX // 2 :], 0.25, atol=1e-6)  # mean of the middle two
    assert (out.valid_count[:, PX // 2 :] == 4).all()


def test_least_cloudy_first_fills_from_the_next_best(make: Callable[..., Scene]) -> None:
    scenes = [make(1, dn=5000, cloud=50.0), make(2, dn=3000, cloud=5.0, scl=scl(right=8))]
    out = read(scenes, method="least-cloudy-first")
    assert np.allclose(out.reflectance[:, :, : PX // 2], 0.2, atol=1e-6)
    assert np.allclose(out.reflectance[:, :, PX // 2 :], 0.4, atol=1e-6)
    assert (out.valid_count == 1).all()


def test_ties_in_cloud_cover_go_by_time_then_id(make: Callable[..., Scene]) -> None:
    later, earlier = make(2, dn=3000), make(1, dn=5000)
    twin = make(1, tag="T30UXA", dn=7000)
    for scenes in ([later, earlier, twin], [twin, earlier, later]):
        out = read(scenes, method="least-cloudy-first")
        np.testing.assert_allclose(out.reflectance, 0.6, atol=1e-6)


@pytest.mark.parametrize("method", ["median", "least-cloudy-first"])
def test_the_order_of_the_scenes_does_not_matter(make: Callable[..., Scene], method: str) -> None:
    rng = np.random.default_rng(0)
    scenes = [
        make(d, dn={"B03": rng.integers(1000, 5000, (PX, PX))}, cloud=float(d % 3), scl=rng.choice([4, 9], (64, 64)))
        for d in range(1, 6)
    ]
    first = read(scenes, method=method, limit=3)
    second = read(scenes[::-1], method=method, limit=3)
    np.testing.assert_array_equal(first.reflectance, second.reflectance)
    np.testing.assert_array_equal(first.valid_count, second.valid_count)


def remove(scene: Scene, *names: str) -> None:
    for name in names:
        Path(scene.assets[name].href).unlink()


def test_only_the_least_cloudy_observations_count(make: Callable[..., Scene]) -> None:
    scenes = [make(1, dn=2000, cloud=1.0), make(2, dn=4000, cloud=2.0), make(3, dn=9000, cloud=3.0)]
    remove(scenes[2], "B02", "SCL")
    out = read(scenes, limit=2)
    np.testing.assert_allclose(out.reflectance, 0.2, atol=1e-6)
    assert (out.valid_count == 2).all()
    assert out.problems == ()


def test_where_all_of_these_are_cloudy_the_next_clear_one_fills(make: Callable[..., Scene]) -> None:
    scenes = [
        make(1, dn=2000, cloud=1.0, scl=scl(left=9)),
        make(2, dn=4000, cloud=2.0, scl=scl(left=9)),
        make(3, dn=6000, cloud=3.0, scl=scl(right=9)),
        make(4, dn=8000, cloud=4.0),
    ]
    remove(scenes[3], "B02")
    out = read(scenes, limit=2)
    assert np.allclose(out.reflectance[:, :, : PX // 2], 0.5, atol=1e-6)
    assert (out.valid_count[:, : PX // 2] == 1).all()
    assert np.allclose(out.reflectance[:, :, PX // 2 :], 0.2, atol=1e-6)
    assert (out.valid_count[:, PX // 2 :] == 2).all()
    assert out.problems == ()


@pytest.mark.parametrize("method", ["median", "least-cloudy-first"])
def test_bands_of_a_scene_that_is_cloudy_here_are_not_read(make: Callable[..., Scene], method: str) -> None:
    cloudy = make(1, scl=9, cloud=0.0)
    remove(cloudy, *SENTINEL2_BANDS)
    out = read([cloudy, make(2, dn=3000)], method=method)
    np.testing.assert_allclose(out.reflectance, 0.2, atol=1e-6)
    assert out.problems == ()


def test_a_mosaic_stops_reading_when_it_is_full(make: Callable[..., Scene]) -> None:
    spare = make(2, cloud=60.0)
    remove(spare, "SCL", *SENTINEL2_BANDS)
    assert read([make(1), spare], method="least-cloudy-first").problems == ()


@pytest.mark.parametrize("method", ["median", "least-cloudy-first"])
@pytest.mark.parametrize("band", ["B02", "B12", "SCL"])
def test_a_bad_file_costs_its_scene_here_and_is_told(make: Callable[..., Scene], method: str, band: str) -> None:
    bad, good = make(1, dn=9000, cloud=0.0), make(2, dn=3000, cloud=40.0)
    remove(bad, band)
    out = read([bad, good], method=method)
    np.testing.assert_allclose(out.reflectance, 0.2, atol=1e-6)
    assert (out.valid_count == 1).all()
    assert len(out.problems) == 1
    for words in (bad.id, f" {band}: ", f"{band}.tif"):
        assert words in out.problems[0]


def test_several_bad_scenes_are_all_told(make: Callable[..., Scene]) -> None:
    scenes = [make(d) for d in (1, 2, 3)]
    remove(scenes[0], "B03")
    remove(scenes[1], "B12")
    remove(scenes[2], "B02")
    out = read(scenes)
    assert out.valid_count.max() == 0
    assert np.isnan(out.reflectance).all()
    assert [p.split(":")[0] for p in out.problems] == [s.id for s in scenes]


def test_nodata_that_the_classification_does_not_know_of_is_no_observation(make: Callable[..., Scene]) -> None:
    holes = np.full((PX, PX), 3000, np.uint16)
    holes[10:20, 10:20] = 0
    first, second = make(1, dn={"B08": holes}), make(2, dn=5000)
    out = read([first])
    assert (out.valid_count[10:20, 10:20] == 0).all()
    assert np.isnan(out.reflectance[:, 10:20, 10:20]).all()
    assert np.isfinite(out.reflectance).sum() == 10 * (PX * PX - 100)
    assert (read([first, second]).valid_count[10:20, 10:20] == 1).all()
    mosaic = read([first, second], method="least-cloudy-first")
    np.testing.assert_allclose(mosaic.reflectance[:, 10:20, 10:20], 0.4, atol=1e-6)


def test_the_overlap_of_two_granules_of_one_pass_is_one_observation(make: Callable[..., Scene]) -> None:
    west = make(1, dn=2000)
    east = make(1, tag="T30UYB", dn=4000, left=LEFT + 640, time="2026-06-01T10:30:14Z")
    other_day = make(4, dn=6000)
    out = read([west, east, other_day], Window(0, 0, PX, PX + 64))
    assert (out.valid_count[:, :PX] == 2).all()
    assert (out.valid_count[:, PX:] == 1).all()
    np.testing.assert_allclose(out.reflectance[:, :, 64:PX], (0.1 + 0.5) / 2, atol=1e-6)
    np.testing.assert_allclose(out.reflectance[:, :, PX:], 0.3, atol=1e-6)


def test_the_other_granule_of_a_pass_fills_what_is_cloudy_in_one(make: Callable[..., Scene]) -> None:
    west = make(1, dn=2000, scl=9, cloud=5.0)
    east = make(1, tag="T30UYB", dn=4000, left=LEFT + 640, cloud=10.0)
    out = read([west, east], limit=1)
    assert (out.valid_count[:, 64:] == 1).all()
    assert (out.valid_count[:, :64] == 0).all()


def test_passes_are_told_apart_by_time_alone(make: Callable[..., Scene]) -> None:
    scenes = [
        make(1, time="2026-06-01T10:30:00Z"),
        make(2, time="2026-06-01T12:09:00Z"),
        make(3, time="2026-06-01T10:30:25Z"),
        make(4, time="2026-06-03T10:30:00Z"),
    ]
    assert acquisition_numbers(scenes) == [0, 1, 0, 2]
    assert acquisition_numbers([]) == []


def test_a_granule_of_the_neighbouring_zone_is_used_too(make: Callable[..., Scene]) -> None:
    x, y = Transformer.from_crs(EPSG, EPSG + 1, always_xy=True).transform(LEFT + 640, TOP - 640)
    left, top = round(x / 10) * 10.0 - 2000, round(y / 10) * 10.0 + 2000
    far = make(1, tag="T31UCS", epsg=EPSG + 1, left=left, top=top, size_m=4000.0, dn=3000)
    out = read([far])
    assert (out.valid_count == 1).all()
    np.testing.assert_allclose(out.reflectance, 0.2, atol=1e-6)


def test_cloud_margins_are_ten_metre_pixels_on_any_grid(make: Callable[..., Scene]) -> None:
    classes = scl()
    classes[30, 30] = 9
    scene = make(1, scl=classes)
    assert (read([scene], dilation=4).valid_count == 0).sum() > 50
    coarse = ZoneGrid(EPSG, LEFT, TOP, 20.0, PX // 2, PX // 2)
    out = read([scene], Window(0, 0, PX // 2, PX // 2), coarse, dilation=4)
    assert (out.valid_count[30, 28:33] == 0).all()
    assert out.valid_count[30, 27] == out.valid_count[30, 33] == 1


def test_one_file_of_one_scene_down_does_not_stop_the_rest(tmp_path: Path) -> None:
    with serve(lambda r: Response(500) if r.path.endswith("_01/B11.tif") else file_answer(tmp_path, r)) as server:
        items = [
            write_scene(tmp_path, f"S2A_T30UXB_{day:02d}", dn=1000 * (day + 1), cloud=10.0 * day,
                        time=f"2026-06-{day:02d}T10:30:00Z", href_prefix=server.url)
            for day in (1, 2)
        ]  # fmt: skip
        scenes = [normalise_item(item, "planetary-computer") for item in items]
        first, asked = read(scenes), len(server.requests)
        again = read(scenes, Window(0, 0, 10, 10))
        asked_again = [r.path for r in server.requests[asked:]]
    np.testing.assert_allclose(first.reflectance, 0.2, atol=1e-6)
    assert len(first.problems) == 1
    assert f"S2A_T30UXB_01: B11: {server.url}/S2A_T30UXB_01/B11.tif cannot be read" in first.problems[0]
    assert again.problems == first.problems
    assert "/S2A_T30UXB_01/B11.tif" not in asked_again, "a file given up is left alone for a while"


def test_a_scene_whose_offset_was_forgotten_is_reported(make: Callable[..., Scene]) -> None:
    water = dict.fromkeys(SENTINEL2_BANDS, 1150) | {"B02": 1600, "B03": 1500}
    wrong = make(1, dn=water, baseline="02.00", size_m=2560.0)
    right = make(2, dn=water, baseline="05.11", size_m=2560.0)
    for method in ("median", "least-cloudy-first"):
        out = read([wrong], Window(0, 0, 256, 256), method=method)
        assert len(out.problems) == 1
        assert out.problems[0].startswith(f"{wrong.id}: ")
        assert "offset of -0.1 seems to be missing" in out.problems[0]
        assert read([right], Window(0, 0, 256, 256), method=method).problems == ()


@pytest.mark.parametrize(
    ("band", "number", "doubted"),
    [
        *(("B03", number, doubted) for number, doubted in ((600, True), (820, True), (980, False), (1300, False))),
        *(("B06", number, doubted) for number, doubted in ((600, True), (820, False), (1300, False))),
    ],
)
def test_one_file_that_carries_the_offset_already_is_told(
    make: Callable[..., Scene], band: str, number: int, doubted: bool
) -> None:
    scene = make(1, dn=dict.fromkeys(SENTINEL2_BANDS, 2500) | {band: number}, baseline="05.11", size_m=2560.0)
    problems = read([scene], Window(0, 0, 256, 256)).problems
    found = [text for text in problems if text.startswith(f"{scene.id}: doubtful: half of the pixels of {band} are")]
    assert len(found) == doubted


@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_the_median_ignores_nan_and_equals_numpy(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stack = rng.normal(size=(n, 6, 7)).astype(np.float32)
    stack[rng.random(stack.shape) < 0.4] = np.nan
    stack[:, 0, 0] = np.nan
    expected_count = np.isfinite(stack).sum(axis=0)
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning):
        expected = np.nanmedian(stack, axis=0)
    median, count = nan_median(stack.copy())
    np.testing.assert_array_equal(count, expected_count)
    np.testing.assert_allclose(median, expected, rtol=1e-6)


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the sampled real scene coastal-accra is not here")
def test_water_is_dark_in_a_real_scene_of_baseline_05(tmp_path: Path) -> None:
    """Gulf of Guinea, baseline 05.10: reflectance of clear sea in the short-wave infrared is near zero, not 0.1."""
    stand_in = {"B05": "B06", "B07": "B06", "B8A": "B08", "B12": "B11"}
    with rasterio.open(REAL_DATA / "accra.tif") as ds:
        bands = dict(zip(ds.descriptions, ds.read(), strict=True))
        left, top, epsg = ds.transform.c, ds.transform.f, ds.crs.to_epsg()
    dn: dict[str, Any] = {}
    for name in SENTINEL2_BANDS:
        values = bands[stand_in.get(name, name)]
        dn[name] = values if name in ("B02", "B03", "B04", "B08") else values[::2, ::2]
    item = write_scene(
        tmp_path, "S2A_MSIL2A_20240407T100551_R022_T30NZM_20240407T174137", dn=dn, scl=bands["SCL"][::2, ::2],
        left=left, top=top, epsg=epsg, size_m=5120.0, baseline="05.10",
    )  # fmt: skip
    grid = ZoneGrid(epsg, left, top, 10.0, 512, 512)
    out = read([normalise_item(item, "planetary-computer")], Window(0, 0, 512, 512), grid)
    assert out.problems == ()
    water = (bands["SCL"] == 6) & (out.valid_count == 1)
    swir = out.reflectance[SENTINEL2_BANDS.index("B11")][water]
    assert water.sum() > 1000
    assert -0.02 < np.median(swir) < 0.03
    item["properties"]["s2:processing_baseline"] = "03.00"
    wrong = read([normalise_item(item, "planetary-computer")], Window(0, 0, 512, 512), grid)
    assert "offset of -0.1 seems to be missing" in wrong.problems[0]
