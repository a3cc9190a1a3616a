"""What a class rests on: evidence that was planted is found, and deleting what is named beats chance."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.explain.attribution import (
    AROUND,
    BAND_GROUPS,
    DIRECTIONS,
    SPOT,
    Part,
    attribute,
    odds_of,
    places_around,
)
from spex_core.bands import BAND_INDEX
from spex_core.legend import Legend
from spex_core.priors import index_scores

SHAPE = (10, 96, 96)
AT = (48, 50)


def image(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.05, 0.4, SHAPE).astype(np.float32)


class Planted:
    """A model whose score of class 0 at the pixel falls as some values move away from what they are in an image."""

    def __init__(self, original: np.ndarray, bands: str, place: str) -> None:
        pixels = places_around(AT, SHAPE[1:])[place]
        self.chosen = np.zeros(SHAPE, bool)
        for name in BAND_GROUPS[bands]:
            self.chosen[BAND_INDEX[name]] = pixels
        self.original = original
        self.asked: list[np.ndarray] = []

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.asked.append(pixels)
        changed = np.mean(pixels[self.chosen] != self.original[self.chosen])
        score = np.float32(0.95 - 0.9 * changed)
        return np.stack([np.full(SHAPE[1:], score), np.full(SHAPE[1:], 1 - score)]).astype(np.float32)


@pytest.mark.parametrize("place", [SPOT, *DIRECTIONS])
@pytest.mark.parametrize("bands", [*BAND_GROUPS])
def test_planted_evidence_is_named_and_beats_chance(bands: str, place: str) -> None:
    original = image()
    found = attribute(original, AT, 0, Planted(original, bands, place))
    assert found.named[0].part == Part(bands, place)
    assert found.odds == pytest.approx(19, rel=0.01)
    assert found.without_named == pytest.approx(0.05 / 0.95, rel=0.01)
    assert found.faithful
    assert min(found.without_random) > 10 * found.without_named


def test_what_is_deleted_becomes_the_mean_and_nothing_else_changes() -> None:
    original = image()
    model = Planted(original, "near infrared", "west")
    found = attribute(original, AT, 0, model)
    means = original.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
    for asked in model.asked:
        changed = asked != original
        assert np.array_equal(asked[changed], np.broadcast_to(means[:, None, None], SHAPE)[changed])
    most = sum(len(BAND_GROUPS[e.part.bands]) for e in found.named) * 65 * 65
    assert 0 < found.values < most
    random = [asked for asked in model.asked[-5:] if (asked != original).sum() <= found.values]
    assert len(random) == 5
    assert (model.asked[-5] != model.asked[-4]).any()


def test_a_model_that_sees_pixels_alone_rests_on_the_spot_alone() -> None:
    legend = Legend.from_yaml()
    original = image(3)
    channel = int(index_scores(original, legend)[(slice(None), *AT)].argmax())
    found = attribute(original, AT, channel, lambda pixels: index_scores(pixels, legend))
    effects = {effect.part.place: effect.drop for effect in found.places}
    assert all(effects[name] == 0 for name in (AROUND, *DIRECTIONS))
    assert all(effect.part.place == SPOT for effect in found.named)


def test_nothing_is_named_where_nothing_lowers_the_odds() -> None:
    scores = np.stack([np.full(SHAPE[1:], 0.4), np.full(SHAPE[1:], 0.6)]).astype(np.float32)
    found = attribute(image(), AT, 0, lambda pixels: scores)
    assert found.named == ()
    assert found.without_named == found.odds
    assert not found.faithful


def test_bands_that_are_not_read_stay_missing_and_are_never_deleted() -> None:
    original = image()
    original[[BAND_INDEX["B11"], BAND_INDEX["B12"]]] = np.nan
    model = Planted(original, "visible", SPOT)
    found = attribute(original, AT, 0, model)
    assert "shortwave infrared" not in {effect.part.bands for effect in found.groups}
    assert all(np.array_equal(np.isnan(asked), np.isnan(original)) for asked in model.asked)


@pytest.mark.parametrize("at", [(0, 0), (0, 40), (31, 31), (5, 31)])
def test_places_share_no_pixel_and_stay_in_the_image(at: tuple[int, int]) -> None:
    places = places_around(at, (32, 32))
    count = np.sum([*places.values()], axis=0)
    assert count.max() == 1
    assert places[SPOT][min(at[0], 31), min(at[1], 31)] or at[1] > 31
    assert all(pixels.any() for name, pixels in places.items() if name != SPOT)


def test_certain_scores_have_finite_odds() -> None:
    assert odds_of(1.0) == pytest.approx(1e6, rel=0.01)
    assert odds_of(0.0) == pytest.approx(1e-6, rel=0.01)
