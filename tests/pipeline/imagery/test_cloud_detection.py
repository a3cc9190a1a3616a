"""The cloud network in the composite: which mask decides, whichever window asks, and what unreadable files do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import pipeline.imagery.file_reader as file_reader
from pipeline.imagery.cloud_detection import detect_clouds
from pipeline.imagery.composite import Composite, read_composite
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.scene import Scene
from pipeline.settings.run_file import CompositeConfig
from pipeline.sources.items import normalise_item
from spex_core.bands import BANDS
from spex_core.checkpoints import DEFAULT_CLOUD_CHECKPOINT
from tests.pipeline.tiny_scenes import EPSG, LEFT, TOP, write_scene

SIZE_M = 5120.0
PX = int(SIZE_M / 10)
GRID = ZoneGrid(EPSG, LEFT, TOP, 10.0, PX, PX)
WHOLE = Window(0, 0, PX, PX)
FIELD = dict(zip((b.name for b in BANDS), (400, 700, 500, 1100, 2800, 3500, 3700, 3800, 2000, 1100), strict=True))
CLOUD = dict(zip((b.name for b in BANDS), (7200, 7000, 7000, 7100, 7200, 7300, 7300, 7400, 5600, 4300), strict=True))
SHADE = dict(zip((b.name for b in BANDS), (230, 330, 200, 400, 800, 900, 950, 950, 420, 220), strict=True))


def _blob(seed: int, row: float, col: float, radius: float) -> np.ndarray:
    """0..1 on the 10 m grid: a round patch with a frayed edge."""
    y, x = np.mgrid[:PX, :PX] + 0.5
    ragged = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((PX, PX)), 4) * 60
    return np.clip((radius - np.hypot(y - row, x - col) + ragged) / 6, 0, 1)


def _bands(cloud: np.ndarray, shade: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    noise = 1 + 0.06 * ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((PX, PX)), 1.0)
    found = {}
    for band in BANDS:
        ground = FIELD[band.name] * noise * (1 - shade) + SHADE[band.name] * noise * shade
        seen = ground * (1 - cloud) + CLOUD[band.name] * cloud
        if band.gsd_m == 20:
            seen = seen.reshape(PX // 2, 2, PX // 2, 2).mean((1, 3))
        found[band.name] = np.round(seen).astype(np.uint16)
    return found


CLOUD_COVER, SHADE_COVER = _blob(1, 230, 300, 70), _blob(1, 170, 190, 70)
NOTHING = np.zeros((PX, PX))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_reader, "BACKOFF_S", 0.01)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    """``cloudy`` has a cloud and its shadow of which its classification knows nothing, ``clear`` has none."""
    folder = tmp_path_factory.mktemp("scenes")
    options: dict[str, Any] = {"size_m": SIZE_M, "baseline": "02.14"}
    made = {
        "cloudy": write_scene(
            folder, "S2A_T30UXB_01", dn=_bands(CLOUD_COVER, SHADE_COVER), time="2026-06-01T10:30:00Z", **options
        ),
        "clear": write_scene(
            folder, "S2A_T30UXB_11", dn=_bands(NOTHING, NOTHING, 1), time="2026-06-11T10:30:00Z", cloud=20.0, **options
        ),
    }
    return {name: normalise_item(item, "planetary-computer") for name, item in made.items()}


def read(scenes: list[Scene], mask: str, window: Window = WHOLE, grid: ZoneGrid = GRID, **options: Any) -> Composite:
    settings = {"cloud_mask": mask, "mask_dilation_px": 0, **options}
    return read_composite(scenes, grid, window, CompositeConfig.model_validate(settings))


def test_the_network_finds_the_cloud_and_the_shadow_that_the_classification_missed(scenes: dict[str, Scene]) -> None:
    found = detect_clouds(scenes["cloudy"], GRID, WHOLE, DEFAULT_CLOUD_CHECKPOINT)
    assert found[CLOUD_COVER > 0.9].mean() > 0.97
    # A flat patch on flat ground might be a pond: less sure than in any image. How good it is: benchmarks.clouds.
    assert found[(SHADE_COVER > 0.9) & (CLOUD_COVER == 0)].mean() > 0.6
    assert found[(CLOUD_COVER == 0) & (SHADE_COVER == 0)].mean() < 0.03
    assert detect_clouds(scenes["clear"], GRID, WHOLE, DEFAULT_CLOUD_CHECKPOINT).mean() < 0.01


@settings(deadline=None, max_examples=12)
@given(
    st.integers(-30, 300),
    st.integers(-30, 300),
    st.integers(1, 250),
    st.integers(1, 250),
    st.sampled_from([(10.0, 0, 0), (10.0, 7, 3), (20.0, 0, 0), (30.0, 1, 0), (5.0, 1, 2), (13.0, 0, 5)]),
)
def test_a_window_does_not_show(
    scenes: dict[str, Scene], row: int, col: int, height: int, width: int, lattice: tuple[float, int, int]
) -> None:
    step, down, right = lattice
    size = int(SIZE_M / step)
    left, top = (int(LEFT / step) + right) * step, (int(TOP / step) - down) * step
    grid = ZoneGrid(EPSG, left, top, step, size, size)
    scale = 10.0 / step
    window = Window(round(row * scale), round(col * scale), max(1, round(height * scale)), max(1, round(width * scale)))
    part = detect_clouds(scenes["cloudy"], grid, window, DEFAULT_CLOUD_CHECKPOINT)
    around = Window(window.row - 3, window.col - 11, window.height + 40, window.width + 30)
    whole = detect_clouds(scenes["cloudy"], grid, around, DEFAULT_CLOUD_CHECKPOINT)
    assert part.shape == (window.height, window.width)
    np.testing.assert_array_equal(part, whole[3 : 3 + window.height, 11 : 11 + window.width])


def test_scl_model_and_both(scenes: dict[str, Scene], tmp_path: Path) -> None:
    left_half = np.full((PX // 2, PX // 2), 4, np.uint8)
    left_half[:, : PX // 8] = 9
    left_half[:, PX // 8 : PX // 4] = 1  # defective: whatever the network says
    wrong = normalise_item(
        write_scene(
            tmp_path, "S2A_T30UXB_02", dn=_bands(CLOUD_COVER, SHADE_COVER), scl=left_half, size_m=SIZE_M,
            baseline="02.14",
        ),
        "planetary-computer",
    )  # fmt: skip
    by = {mask: read([wrong], mask).valid_count > 0 for mask in ("scl", "model", "both")}
    network = detect_clouds(wrong, GRID, WHOLE, DEFAULT_CLOUD_CHECKPOINT)
    called_cloud, defective = np.zeros((2, PX, PX), bool)
    called_cloud[:, : PX // 4], defective[:, PX // 4 : PX // 2] = True, True
    np.testing.assert_array_equal(by["scl"], ~(called_cloud | defective))
    np.testing.assert_array_equal(by["model"], ~(network | defective))
    np.testing.assert_array_equal(by["both"], ~(network | defective | called_cloud))


def test_what_the_network_finds_grows_like_what_the_classification_calls_cloud(scenes: dict[str, Scene]) -> None:
    grown = read([scenes["cloudy"]], "model", mask_dilation_px=3).valid_count == 0
    found = detect_clouds(scenes["cloudy"], GRID, WHOLE, DEFAULT_CLOUD_CHECKPOINT)
    np.testing.assert_array_equal(grown, ndimage.distance_transform_edt(~found) <= 3)


def test_the_clear_date_takes_the_place_of_the_cloud(scenes: dict[str, Scene]) -> None:
    both = [scenes["cloudy"], scenes["clear"]]
    alone = read([scenes["clear"]], "model").reflectance
    for method in ("median", "least-cloudy-first"):
        by_scl, by_model = (
            read(both, mask, method=method, mask_dilation_px=2).reflectance for mask in ("scl", "model")
        )
        covered = CLOUD_COVER > 0.5
        assert np.abs(by_scl - alone)[0][covered].mean() > 0.2
        assert np.abs(by_model - alone)[0][covered].mean() < 0.01
        deep = (SHADE_COVER > 0.5) & ~covered
        assert np.abs(by_model - alone)[7][deep].mean() < 0.4 * np.abs(by_scl - alone)[7][deep].mean()


def test_outliers_are_rejected_without_any_mask(scenes: dict[str, Scene]) -> None:
    both = [scenes["cloudy"], scenes["clear"]]
    alone = read([scenes["clear"]], "scl").reflectance
    kept, rejected = (read(both, "scl", reject_outliers=reject) for reject in (False, True))
    covered = CLOUD_COVER > 0.5
    assert np.abs(kept.reflectance - alone)[0][covered].mean() > 0.2
    np.testing.assert_allclose(rejected.reflectance[:, covered], alone[:, covered], atol=1e-6)
    assert (rejected.valid_count[covered] == 1).all()
    untouched = ndimage.distance_transform_edt((CLOUD_COVER == 0) & (SHADE_COVER == 0)) > 4
    np.testing.assert_array_equal(rejected.reflectance[:, untouched], kept.reflectance[:, untouched])
    part = Window(150, 130, 97, 141)
    cut = read(both, "scl", part, reject_outliers=True)
    np.testing.assert_array_equal(cut.reflectance, rejected.reflectance[:, 150:247, 130:271])


def test_no_data_is_neither_cloud_nor_clear(scenes: dict[str, Scene]) -> None:
    beyond = Window(PX + 20, 0, 64, 64)
    assert not detect_clouds(scenes["cloudy"], GRID, beyond, DEFAULT_CLOUD_CHECKPOINT).any()
    assert not read([scenes["cloudy"]], "model", beyond).valid_count.any()


def test_a_band_that_cannot_be_read_for_the_network_leaves_the_scene_out(
    tmp_path: Path, scenes: dict[str, Scene], capsys: pytest.CaptureFixture[str]
) -> None:
    item = write_scene(tmp_path, "S2A_T30UXB_03", dn=_bands(NOTHING, NOTHING), size_m=SIZE_M, baseline="02.14")
    broken = normalise_item(item, "planetary-computer")
    path = tmp_path / "S2A_T30UXB_03" / "B11.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    out = read([broken, scenes["clear"]], "both")
    assert out.unread == (broken.id,)
    assert f"{broken.id}: B11: " in out.problems[0]
    assert out.used == (scenes["clear"].id,)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Scene]:
    """Writes a scene without a cloud."""

    def scene(**options: Any) -> Scene:
        item = write_scene(tmp_path, "S2A_T30UXB_04", size_m=SIZE_M, baseline="02.14", **options)
        return normalise_item(item, "planetary-computer")

    return scene


def test_snow_and_water_are_no_cloud_and_no_shadow(make: Callable[..., Scene]) -> None:
    """Half snow with slopes, half a lake; the scene classification has no say."""
    rng = np.random.default_rng(0)
    relief = ndimage.gaussian_filter(rng.standard_normal((PX, PX)), 6)
    lit = 1 + 0.15 * relief / relief.std()
    snow = dict(zip((b.name for b in BANDS), (8200, 8300, 8200, 8000, 7900, 7700, 7600, 7500, 1100, 900), strict=True))
    water = dict(zip((b.name for b in BANDS), (420, 360, 210, 160, 120, 110, 90, 90, 50, 40), strict=True))
    bands = {}
    for band in BANDS:
        image = snow[band.name] * lit
        image[:, : PX // 2] = water[band.name] * (1 + 0.05 * rng.standard_normal((PX, PX // 2)))
        if band.gsd_m == 20:
            image = image.reshape(PX // 2, 2, PX // 2, 2).mean((1, 3))
        bands[band.name] = np.round(image).astype(np.uint16)
    found = detect_clouds(make(dn=bands), GRID, WHOLE, DEFAULT_CLOUD_CHECKPOINT)
    assert found[:, : PX // 2 - 8].mean() < 0.02
    assert found[:, PX // 2 + 8 :].mean() < 0.05
