"""Views of labelled land: labels stay on their ground however it is shown, and colours are those that were measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from spex_core.bands import BANDS, LANDSAT_BANDS, SENTINEL2_BANDS
from spex_core.legend import Legend
from workflows.labelled.grounds import bits_of, ground_of, left_open
from workflows.labelled.painting import Palette, painted_chip, palettes
from workflows.labelled.scene import LabelledScene, LabelledSpectra, SourceLabel
from workflows.labelled.views import SHIFTED, WAVELENGTHS, Ground, look_twice

LEGEND = Legend.from_yaml()


def coded(height: int, width: int, pixel_m: float = 10.0, share: float = 0.4) -> Ground:
    """Ground whose labels can be read off its reflectance: bit k where B02 is about 0.1 + k / 10."""
    rng = np.random.default_rng(height * 1000 + width)
    channel = rng.integers(0, 4, (-(-height // 8), -(-width // 8))).repeat(8, 0).repeat(8, 1)[:height, :width]
    reflectance = np.broadcast_to(0.1 + channel / 10, (len(BANDS), height, width)).astype(np.float32).copy()
    told = rng.random((height, width)) < share
    possible = np.where(told, 1 << channel, 0).astype(np.uint16)
    return Ground("made", reflectance, possible, pixel_m)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 200), (300, 280), (128, 129)])
@pytest.mark.parametrize("pixel_m", [10.0, 30.0])
def test_two_looks_agree_on_their_common_ground(height: int, width: int, pixel_m: float) -> None:
    ground = coded(height, width, pixel_m)
    for seed in range(12):
        pair = look_twice(ground, 64, 32, np.random.default_rng(seed), coarse=0.4)
        (first, second), (here, there) = pair.looks, pair.common
        for look in pair.looks:
            assert look.reflectance.shape == (len(BANDS), 64, 64)
            assert look.possible.shape == (64, 64)
            missing = np.isnan(look.reflectance)
            assert np.array_equal(missing.any(axis=(1, 2)), missing.all(axis=(1, 2))), "a band is there or not"
            assert not missing.all()
            assert np.abs(look.wavelength_nm - WAVELENGTHS).max() < SHIFTED
            assert (look.gsd_m >= pixel_m / 2).all()
        assert min(first.possible[here].shape) >= 32
        assert np.array_equal(first.possible[here], second.possible[there])


def test_labels_stay_on_their_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    from workflows.labelled import views

    same: Callable[..., np.ndarray] = lambda pixels, rng: pixels  # noqa: E731
    monkeypatch.setattr(views, "with_other_light_and_air", same)
    monkeypatch.setattr(views, "DARK", 0.0)
    monkeypatch.setattr(views, "FEWER_BANDS", 0.0)
    ground = coded(90, 110, share=1.0)
    for seed in range(20):
        for look in look_twice(ground, 64, 32, np.random.default_rng(seed)).looks:
            channel = np.round((look.reflectance[0] - 0.1) * 10).astype(int)
            assert np.array_equal(look.possible, 1 << channel)


def test_averaged_pixels_of_two_classes_have_no_label() -> None:
    ground = coded(400, 400, share=1.0)
    found = False
    for seed in range(30):
        look = look_twice(ground, 64, 32, np.random.default_rng(seed), coarse=1.0).looks[0]
        assert (look.gsd_m > 10).any()
        told = look.possible > 0
        assert set(np.unique(look.possible[told]).tolist()) <= {1, 2, 4, 8}
        found |= not told.all()
    assert found


def test_a_scene_becomes_ground_in_its_own_channels() -> None:
    labels = np.array([[1, 2], [3, 0]], np.uint8).repeat(4, 0).repeat(4, 1)
    reflectance = np.full((6, 8, 8), 0.2, np.float32)
    reflectance[:, 0, 0] = np.nan
    scene = LabelledScene(
        "made", "made", "landsat-8", LANDSAT_BANDS, reflectance, 30.0, labels,
        {1: SourceLabel("grass", 30), 2: SourceLabel("green", among=(30, 40)), 3: SourceLabel("cloud")}, "map",
    )  # fmt: skip
    ground = ground_of(scene, LEGEND)
    assert ground is not None
    grass, crop = (1 << LEGEND.codes.index(code) for code in (30, 40))
    assert ground.possible[0, 0] == 0, "not observed"
    assert ground.possible[1, 1] == grass
    assert ground.possible[1, 5] == grass | crop
    assert ground.possible[5, 1] == ground.possible[5, 5] == 0
    present = ~np.isnan(ground.reflectance).any(axis=(1, 2))
    assert [name for name, here in zip(SENTINEL2_BANDS, present, strict=True) if here] == [
        "B02", "B03", "B04", "B8A", "B11", "B12",
    ]  # fmt: skip
    assert ground.wavelength_nm is not None
    assert ground.wavelength_nm[0] == LANDSAT_BANDS[0].wavelength_nm
    assert ground.say < 1, "a map says less than a person"


def test_a_scene_that_says_nothing_is_no_ground() -> None:
    scene = LabelledScene(
        "made", "made", "sentinel-2", BANDS, np.zeros((10, 4, 4), np.float32), 10.0, np.ones((4, 4), np.uint8),
        {1: SourceLabel("cloud")}, "mask",
    )  # fmt: skip
    assert ground_of(scene, LEGEND) is None


@pytest.mark.parametrize(
    ("probability", "absent", "expected"),
    [
        ((0.8, 0.1, 0.1), (), 0b001),
        ((0.5, 0.4, 0.1), (), 0b011),
        ((0.34, 0.33, 0.33), (), 0),  # it does not know
        ((0.5, 0.4, 0.1), (0,), 0b010),  # a person does
        ((0.36, 0.33, 0.31), (), 0),  # three are too many
    ],
)
def test_what_a_teacher_leaves_open(probability: tuple[float, ...], absent: tuple[int, ...], expected: int) -> None:
    share = np.array(probability, np.float32)[:, None, None].repeat(2, 1).repeat(2, 2)
    observed = np.array([[True, True], [True, False]])
    bits = left_open(share, observed, absent)
    assert bits[0, 0] == expected
    assert bits[1, 1] == 0, "not observed"


def spectra(bands: tuple[str, ...], codes: list[int]) -> LabelledSpectra:
    chosen = tuple(band for band in BANDS if band.name in bands)
    count = len(codes)
    values = np.linspace(0.05, 0.4, count * len(chosen), dtype=np.float32).reshape(count, len(chosen))
    meanings = {1: SourceLabel("grass", 30), 2: SourceLabel("crop", 40), 3: SourceLabel("either", among=(30, 40))}
    return LabelledSpectra(
        "plots", "sentinel-2", chosen, values, np.array(codes), meanings, np.arange(count) // 2, "drawn"
    )


def test_palettes_take_what_is_told_from_tables_with_enough_bands() -> None:
    few = spectra(("B02", "B03", "B04", "B08"), [1, 1, 2])
    unsure = spectra(SENTINEL2_BANDS, [3, 3])
    (palette,) = palettes([few, unsure, spectra(SENTINEL2_BANDS, [1, 1, 1, 2, 3])])
    assert {code: [len(plot) for plot in plots] for code, plots in palette.plots.items()} == {30: [2, 1], 40: [1]}


def test_painted_land_has_the_colours_of_its_class_and_keeps_the_rest() -> None:
    rng = np.random.default_rng(1)
    chip = rng.uniform(0.05, 0.3, (10, 32, 32)).astype(np.float32)
    codes = np.full((32, 32), 10, np.uint8)
    codes[:, 16:] = 30
    grass = np.full((5, 10), 0.9, np.float32)
    palette = Palette("plots", {30: (grass,), 80: (grass,)})
    painted = painted_chip(chip, codes, palette, np.random.default_rng(2))
    assert np.array_equal(painted[:, codes == 10], chip[:, codes == 10])
    assert abs(float(np.median(painted[:, codes == 30])) - 0.9) < 0.15
    assert np.array_equal(painted, painted_chip(chip, codes, palette, np.random.default_rng(2)), equal_nan=True)
    grass[:, 7] = np.nan
    assert np.isnan(painted_chip(chip, codes, palette, np.random.default_rng(2))[7]).all(), "missing throughout"


def test_codes_that_a_legend_lacks_say_nothing() -> None:
    assert bits_of(np.array([0, 95, 100, 10], np.uint8), LEGEND).tolist() == [0, 0, 0, 1 << LEGEND.codes.index(10)]
