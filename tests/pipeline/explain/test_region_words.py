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
    questions_of,
    read_words,
    words_document,
    words_of,
)
from pipeline.explain.statistics import ZoneLayers, map_statistics
from pipeline.explain.view_facts import MeasuredView, measure_view
from pipeline.explain.views import WHOLE_PX, View, choose_views
from pipeline.records.grid import INDEX_CELL_PX, grid_window, project, unproject, window_bounds
from pipeline.records.plan import Window, ZoneGrid
from pipeline.records.windows import slices
from pipeline.runs.region_texts import kept_words
from spex_core.asked_images import AskedImage, ImageQuestion
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

    def question(self, noun: str, facts: ClassFacts) -> ImageQuestion:
        return ImageQuestion(noun)

    def answers(self, images: Sequence[AskedImage]) -> list[list[str]]:
        self.asked += sum(len(image.questions) for image in images)
        return [[self.said.get(question.text, "") for question in image.questions] for image in images]


def told(codes: np.ndarray, speaker: Says, depth: str = "full"):  # type: ignore[no-untyped-def]
    zone = a_zone(codes)
    region = map_statistics("m", [], [zone], LEGEND).overall
    pixels = lambda view: np.full((10, *[view.window.height // view.factor] * 2), 0.1, np.float32)  # noqa: E731
    asked = questions_of(region, zone.geometry, [zone], LEGEND, depth, speaker, pixels)  # type: ignore[arg-type]
    return region, words_of([asked], LEGEND, speaker)[0]


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


@pytest.mark.parametrize(
    ("side", "places", "factor"),
    [
        (100, ("whole",), 2),
        (513, ("whole",), 4),
        (WHOLE_PX, ("whole",), 4),
        (WHOLE_PX + 60, ("overview", "typical", "unusual"), 4),
        (2100, ("overview", "typical", "unusual"), 10),
    ],
)
def test_views_follow_the_rule(side: int, places: tuple[str, ...], factor: int) -> None:
    codes = np.full((side, side), 10, np.uint8)
    codes[: side // 5, : side // 5] = 80
    codes[-40:] = 30
    zone = a_zone(codes)
    shares = {code: float((codes == code).mean()) for code in (10, 80, 30)}
    views = choose_views(zone.geometry, shares, zone, LEGEND, "full")
    assert tuple(view.place for view in views) == places
    assert views[0].factor == factor
    first = views[0].window
    assert first.row <= 0
    assert first.row + first.height >= side
    for view in views:
        assert view.window.height == view.window.width
        assert (view.window.row % view.factor, view.window.col % view.factor) == (0, 0)
        assert view.window.height % (32 * view.factor) == 0
        assert view.window.height // view.factor <= 288
    assert len({view.window for view in views}) == len(views)
    assert len(choose_views(zone.geometry, shares, zone, LEGEND, "brief")) == 1


def test_amounts_of_an_overview_are_of_every_pixel() -> None:
    rng = np.random.default_rng(1)
    codes = rng.choice(np.array([10, 80], np.uint8), (1600, 1600), p=[0.7, 0.3])
    codes[:100] = 0
    zone = a_zone(codes)
    view = View("overview", zone.grid.epsg, Window(0, 0, 1792, 1792), 8)
    measured = measure_view(view, zone.geometry, zone, LEGEND)
    known = int((codes != 0).sum())
    assert measured.codes.shape == (896, 896)
    assert measured.mapped(LEGEND) == known
    assert measured.facts(80, LEGEND).share == int((codes == 80).sum()) / known


def test_nothing_is_asked_where_nothing_was_mapped() -> None:
    speaker = Says({})
    _, words = told(np.zeros((64, 64), np.uint8), speaker)
    assert (words.sentences, speaker.asked) == ((), 0)
    nothing = MeasuredView(np.zeros((4, 4), np.uint8), np.zeros(256, np.int64), {})
    assert asked_classes(nothing, {}, LEGEND, "a") == []


@pytest.mark.parametrize("line", ["", "{", "[]", '{"key": "a"}', '{"key": "a", "words": [{"code": 1}]}'])
def test_a_damaged_line_of_what_was_kept_costs_that_line_alone(tmp_path: Path, line: str) -> None:
    path = tmp_path / "words.jsonl"
    path.write_text(f'{line}\n{{"key": "b", "words": []}}\n', encoding="utf-8")
    assert set(kept_words(path)) == {"b"}


def test_a_region_in_two_zones_is_seen_in_the_one_that_holds_more_of_it() -> None:
    region = shapely.box(11.985, 46.0, 12.008, 46.008)
    parts = {32632: shapely.box(11.985, 46.0, 12.0, 46.008), 32633: shapely.box(12.0, 46.0, 12.008, 46.008)}
    zones = []
    for epsg, part in parts.items():
        west, _, _, north = project(part, epsg).bounds
        grid = ZoneGrid(epsg, west // 10 * 10.0, north // 10 * 10.0 + 10, 10.0, 128, 160)
        codes = np.full((128, 160), 10 if epsg == 32632 else 80, np.uint8)
        zones.append(ZoneLayers(grid, (grid_window(grid),), Layers(codes), part))  # type: ignore[arg-type]
    statistics = map_statistics("m", [], zones, LEGEND).overall
    assert statistics.epsgs == (32632, 32633)
    pixels = lambda view: np.full((10, *[view.window.height // view.factor] * 2), 0.1, np.float32)  # noqa: E731
    speaker = Says({"tree": "The tree regions cover about 100 percent of this image."})
    asked = questions_of(statistics, region, zones, LEGEND, "full", speaker, pixels)
    (seen,) = asked.views
    assert (seen.view.place, seen.view.epsg) == ("part", 32632)
    (words,) = words_of([asked], LEGEND, speaker)
    assert words.lines == (("of its larger part, in one UTM zone", speaker.said["tree"]),)
