"""The report page: complete, self-contained, and safe with hostile names."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from pipeline.explain.sentences import explain_map
from pipeline.explain.statistics import MapStatistics, RegionStatistics
from pipeline.outputs.report import (
    MAX_REGIONS,
    Accuracy,
    ClassAccuracy,
    ReportContext,
    map_picture,
    render_report,
    write_report,
)
from pipeline.records.grid import unproject
from pipeline.records.plan import ZoneGrid
from pipeline.records.scene import Scene
from spex_core.legend import Legend
from tests.pipeline.explain.test_sentences import VALLEY
from tests.pipeline.outputs.test_thumbnail import write_map

LEGEND = Legend.from_yaml()
GRID = ZoneGrid(32633, 500_000.0, 5_200_000.0, 10.0, 40, 60)
VOID = {"meta", "link", "br", "hr", "img", "input", "image"}


class Page(HTMLParser):
    """Every attribute and every unclosed tag of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.errors: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)


def context(tmp_path: Path, **changes: Any) -> ReportContext:
    codes = np.full((40, 60), 40, dtype=np.uint8)
    codes[:20, :30] = 10
    landcover = write_map(tmp_path / "landcover.tif", codes)
    regions = (VALLEY, replace(VALLEY, id="r2", name="Lower valley"))
    statistics = MapStatistics(regions, replace(VALLEY, id="map"), {})
    west, east = (
        shapely.box(500_000, 5_199_600, 500_300, 5_200_000),
        shapely.box(500_300, 5_199_600, 500_600, 5_200_000),
    )
    areas = [("r1", "Upper valley", unproject(west, 32633)), ("r2", "Lower valley", unproject(east, 32633))]
    moment = dt.datetime(2026, 6, 3, 10, 0, tzinfo=dt.UTC)
    scenes = (
        Scene("S2A_A", "s2", "generic", moment, 3.0, 32633, (0, 0, 1, 1), {}, {}, "offset −1000", "https://x.org/a"),
        Scene("S2A_B", "s2", "generic", moment, 3.0, 32633, (0, 0, 1, 1), {}, {}, "offset 0", "javascript:alert(1)"),
    )
    base = ReportContext(
        title="Land cover of the valley",
        run_name="valley",
        run_id="0123456789abcdef",
        start=dt.date(2026, 6, 1),
        end=dt.date(2026, 6, 30),
        created=dt.datetime(2026, 7, 1, tzinfo=dt.UTC),
        legend=LEGEND,
        statistics=statistics,
        explanations=explain_map(statistics, LEGEND),
        pictures=(map_picture(landcover, GRID, LEGEND, areas),),
        scenes=scenes,
        software={"torch": "2.13.0"},
        model="spex-s2-tiny",
        items=("maps/valley_2026-06-01_2026-06-30_32633",),
    )
    return replace(base, **changes)


def test_the_page_is_well_formed_and_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    path = write_report(tmp_path / "report" / "index.html", context(tmp_path))
    page = Page(path.read_text(encoding="utf-8"))
    assert (page.errors, page.open) == ([], [])
    loaded = [(t, v) for t, n, v in page.attributes if n == "src" or (n == "href" and t in ("link", "image", "use"))]
    assert loaded
    assert all(v.startswith("data:image/png;base64,") for _, v in loaded)
    assert not {t for t, _, _ in page.attributes} & {"script", "iframe", "object", "embed", "link"}
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]


def test_the_page_shows_figures_texts_and_how_to_go_on(tmp_path: Path) -> None:
    accuracy = Accuracy("the simulated truth", 0.934, 0.71, 0.80, (ClassAccuracy("Trees", 0.95, 0.92, 0.88),))
    html = render_report(context(tmp_path, accuracy=accuracy, figures={"Run time": "84 s"}))
    for text in (
        "2,200 ha", "is dominated by cropland", "S2A_A", "offset −1000", "93.4%", "80.0%", "84 s", "0123456789abcdef",
        "maps/valley_2026-06-01_2026-06-30_32633/landcover.tif", "pystac.Catalog.from_file", "torch 2.13.0",
    ):  # fmt: skip
        assert text in html, text
    assert "problem" not in html


def test_problems_are_told_at_the_top(tmp_path: Path) -> None:
    html = render_report(
        context(tmp_path, problems=("S2A_A: B04 unreadable",), skipped_scenes=(("S2A_X", "no B11"),), missing_blocks=2)
    )
    assert "4 problems in this run" in html
    assert html.index("B04 unreadable") < html.index("<h2>Sub-regions")
    assert "Scene S2A_X was not used: no B11" in html


def test_headings_skip_no_level_and_links_can_be_reached(tmp_path: Path) -> None:
    accuracy = Accuracy("the simulated truth", 0.934, 0.71, 0.80, (ClassAccuracy("Trees", 0.95, 0.92, 0.88),))
    html = render_report(context(tmp_path, accuracy=accuracy, problems=("S2A_A: B04 unreadable",)))
    levels = [int(level) for level in re.findall(r"<h(\d)[ >]", html)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for drawing in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert 'role="img"' not in drawing.partition(">")[0]  # what is in an image has no links for a screen reader
        links = re.findall(r"<a [^>]*>", drawing)
        assert links
        assert all("aria-label=" in link for link in links)
    assert all('tabindex="0"' in box for box in re.findall(r'<div class="scroll[^>]*>', html))


@pytest.mark.parametrize("simulated", [True, False])
def test_a_simulated_map_says_so_before_anything_else(tmp_path: Path, simulated: bool) -> None:
    html = render_report(context(tmp_path, accuracy=Accuracy("a reference", 0.9, 0.7, simulated=simulated)))
    before = html[: html.index("<dl")]
    assert ("the map shows no real place" in before) is simulated


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>'
    region = replace(VALLEY, name=evil)
    statistics = MapStatistics((region,), replace(region, id="map"), {})
    html = render_report(
        context(
            tmp_path, title=evil, statistics=statistics, explanations=explain_map(statistics, LEGEND), problems=(evil,)
        )
    )
    assert "<script" not in html
    assert not [v for _, n, v in Page(html).attributes if n == "href" and v.startswith("javascript")]
    assert 'href="https://x.org/a"' in html


def test_outlines_lie_on_the_picture_and_lead_to_their_text(tmp_path: Path) -> None:
    html = render_report(context(tmp_path))
    paths = re.findall(r'<a href="#(area-\d+)" aria-label="[^"]+"><path class="area" d="([^"]+)"', html)
    assert [anchor for anchor, _ in paths] == ["area-0", "area-1"]
    assert all(f'id="{anchor}"' in html for anchor, _ in paths)
    xs = [float(x) for x in re.findall(r"[ML](-?[\d.]+) ", paths[0][1])]
    assert min(xs) == pytest.approx(0, abs=0.6)
    assert max(xs) == pytest.approx(30, abs=0.6)


def test_a_page_of_very_many_areas_stays_readable(tmp_path: Path) -> None:
    regions = tuple(replace(VALLEY, id=f"r{i}", name=f"Cell {i}") for i in range(MAX_REGIONS + 7))
    statistics = MapStatistics(regions, replace(VALLEY, id="map"), {})
    html = render_report(context(tmp_path, statistics=statistics, explanations=explain_map(statistics, LEGEND)))
    assert html.count('<section class="card" id="area-') == MAX_REGIONS
    assert "7 further sub-regions" in html


def test_a_map_without_a_single_pixel_still_has_a_page(tmp_path: Path) -> None:
    nothing = RegionStatistics("map", "Cloudy", {}, (32633,), 100.0, 0.0, 0.0, 0.0, 0.0, ())
    statistics = MapStatistics((nothing,), nothing, {})
    html = render_report(context(tmp_path, statistics=statistics, explanations=explain_map(statistics, LEGEND)))
    assert "No pixel could be mapped" in html
    assert "could not be mapped" in html


def test_an_area_of_another_zone_has_no_outline_on_the_picture(tmp_path: Path) -> None:
    landcover = write_map(tmp_path / "landcover.tif", np.full((40, 60), 40, dtype=np.uint8))
    picture = map_picture(landcover, GRID, LEGEND, [("r9", "Far away", shapely.box(60, 46, 61, 47))])
    assert picture.outlines == ()
