"""Words of a model about a region: which images, what is printed, what is kept and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import shapely

from pipeline.explain.region_words import (
    Spoken,
    asked_classes,
    block_means,
    read_words,
    words_document,
    words_of,
)
from pipeline.explain.statistics import ZoneLayers, map_statistics
from pipeline.explain.views import COARSEST, VIEW_PX, choose_views
from pipeline.records.grid import INDEX_CELL_PX, grid_window, unproject, window_bounds
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.windows import slices
from pipeline.runs.region_texts import kept_words
from spex_core.indices import SPECTRAL_INDICES
from spex_core.label_facts import ClassFacts
from spex_core.legend import Legend

LEGEND = Legend.from_yaml()


class Layers:
    """A map in memory."""

    def __init__(self, codes: np.ndarray) -> None:
        self.codes = codes

    def read(self, layer: str, window: Window) -> np.ndarray:
        if layer == "index_means":
            shape = (
                len(SPECTRAL_INDICES),
                len(LEGEND),
                *(-(-side // INDEX_CELL_PX) for side in (window.height, window.width)),
            )
            return np.zeros(shape, np.int16)
        whole = Window(0, 0, *self.codes.shape)
        return (
            self.codes[slices(window, whole)]
            if layer == "landcover"
            else np.full_like(self.codes, 90)[slices(window, whole)]
        )


def a_zone(codes: np.ndarray) -> ZoneLayers:
    grid = ZoneGrid(32632, 600_000.0, 5_100_000.0, 10.0, *codes.shape)
    area = unproject(shapely.box(*window_bounds(grid, grid_window(grid))), grid.epsg)
    return ZoneLayers(grid, (grid_window(grid),), Layers(codes), area)  # type: ignore[arg-type]


class Says:
    """Answers what it is told to."""

    fingerprint = "says"

    def __init__(self, answers: dict[str, str]) -> None:
        self.said, self.asked = answers, 0

    def question(self, noun: str, facts: ClassFacts) -> str:
        return noun

    def answers(self, reflectance: np.ndarray, pixel_m: float, questions: Sequence[str]) -> list[str]:
        assert reflectance.shape == (10, VIEW_PX, VIEW_PX)
        self.asked += len(questions)
        return [self.said.get(noun, "") for noun in questions]


def told(codes: np.ndarray, speaker: Says, depth: str = "full"):  # type: ignore[no-untyped-def]
    zone = a_zone(codes)
    region = map_statistics("m", [], [zone], LEGEND).overall
    pixels = lambda _, window: np.full((10, window.height, window.width), 0.1, np.float32)  # noqa: E731
    return region, words_of(region, zone.geometry, [zone], LEGEND, depth, speaker, pixels)  # type: ignore[arg-type]


def half_and_half(side: int = 120) -> np.ndarray:
    codes = np.full((side, side), 10, np.uint8)
    codes[:, side // 2 :] = 80
    return codes


@pytest.mark.parametrize(
    ("sentence", "printed"),
    [
        ("The tree regions cover about 50 percent of this image.", True),
        ("The tree regions cover about 20 percent of this image.", False),
        ("There is no tree in this image.", False),
        ("The tree regions are outlined.", None),
        ("Trees everywhere!", False),
        ("They mostly border water regions.", False),  # names no class
        ("The tree regions cover about 50 percent of this image. They mostly border water regions.", True),
        ("<b>The tree regions</b> cover about 50 percent of this image.", False),
    ],
)
def test_only_what_holds_and_names_its_class_is_printed(sentence: str, printed: bool | None) -> None:
    region, words = told(half_and_half(), Says({"tree": sentence}))
    own = [s for s in words.sentences if s.code == 10]
    claims = [claim for s in own for claim in s.claims]
    assert bool([s for s in words.printed if s.code == 10]) is bool(printed)
    assert bool(claims) is (printed is not None)
    assert read_words(words_document(words)) == words
    found = Spoken.of([(region, words)])
    assert (found.classes, found.told_classes) == (2, int(bool(printed)))


def test_an_absent_class_is_asked_about_once_and_may_be_called_absent() -> None:
    absent = {entry.noun: f"There is no {entry.noun} in this image." for entry in LEGEND if entry.code not in (10, 80)}
    speaker = Says(absent)
    _, words = told(half_and_half(), speaker)
    assert speaker.asked == 3
    assert [s.printed for s in words.sentences] == [True]
    assert "absent" in {claim.kind for claim in words.claims}


@pytest.mark.parametrize(("side", "places"), [
    (100, ("whole",)), (300, ("overview", "typical", "unusual")), (VIEW_PX * COARSEST + 60, ("typical", "unusual")),
])  # fmt: skip
def test_views_follow_the_rule(side: int, places: tuple[str, ...]) -> None:
    codes = np.full((side, side), 10, np.uint8)
    codes[: VIEW_PX // 2, : VIEW_PX // 2] = 80
    codes[-40:] = 30
    zone = a_zone(codes)
    shares = {10: float((codes == 10).mean()), 80: float((codes == 80).mean()), 30: float((codes == 30).mean())}
    views = choose_views(zone.geometry, shares, zone, LEGEND, "full")
    expected = places if side != 300 else places[: len(views)]
    assert tuple(view.place for view in views) == expected
    assert all(view.window.height == view.window.width == VIEW_PX * view.factor for view in views)
    assert len({view.window for view in views}) == len(views)
    assert len(choose_views(zone.geometry, shares, zone, LEGEND, "brief")) == 1


def test_nothing_is_asked_where_nothing_was_mapped() -> None:
    speaker = Says({})
    _, words = told(np.zeros((64, 64), np.uint8), speaker)
    assert (words.sentences, speaker.asked) == ((), 0)
    assert asked_classes(np.zeros((4, 4), np.uint8), {}, LEGEND, "a") == []


def test_means_of_blocks_leave_out_what_nobody_saw() -> None:
    pixels = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    pixels[0, :2, :2] = np.nan
    pixels[0, 0, 2] = np.nan
    assert np.isnan(block_means(pixels, 2)[0, 0, 0])
    assert block_means(pixels, 2)[0, 0, 1] == pytest.approx((3 + 6 + 7) / 3)


@pytest.mark.parametrize("line", ["", "{", "[]", '{"key": "a"}', '{"key": "a", "words": [{"code": 1}]}'])
def test_a_damaged_line_of_what_was_kept_costs_that_line_alone(tmp_path: Path, line: str) -> None:
    path = tmp_path / "words.jsonl"
    path.write_text(f'{line}\n{{"key": "b", "words": []}}\n', encoding="utf-8")
    assert set(kept_words(path)) == {"b"}
