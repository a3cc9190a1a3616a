"""Explanations: every printed number and class is measured, and a changed one is caught."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.explain.claims import check_sentence, supported
from pipeline.explain.files import explanations_markdown, write_explanations
from pipeline.explain.sentences import explain_map, explain_region, format_area, format_share
from pipeline.explain.statistics import ClassStatistics, MapStatistics, RegionStatistics
from spex_core.indices import SPECTRAL_INDICES
from spex_core.legend import Legend

LEGEND = Legend.from_yaml()
NAMES = {c.code: c.name for c in LEGEND}


def of_class(
    code: int, area_ha: float, share: float, patches: int, largest: float, confidence: float, **indices: float
) -> ClassStatistics:
    return ClassStatistics(
        code, NAMES[code], round(area_ha * 100), area_ha, share, patches, largest, confidence, dict(indices)
    )


def of_region(*classes: ClassStatistics, name: str = "Upper valley", observed: float = 1.0) -> RegionStatistics:
    mapped = sum(c.area_ha for c in classes)
    return RegionStatistics(
        id="r1",
        name=name,
        geometry={"type": "Polygon", "coordinates": []},
        epsgs=(32633,),
        area_ha=mapped / observed,
        mapped_ha=mapped,
        observed_share=observed,
        mean_confidence=0.9,
        mean_observations=2.43,
        classes=tuple(sorted(classes, key=lambda c: (-c.area_ha, c.code))),
    )


VALLEY = of_region(
    of_class(40, 1240.0, 0.5636, 34, 410.0, 0.93, ndvi=0.621),
    of_class(30, 550.0, 0.25, 212, 40.0, 0.88, ndvi=0.45),
    of_class(10, 330.0, 0.15, 12, 300.0, 0.95, ndvi=0.81),
    of_class(50, 80.0, 0.0364, 40, 20.0, 0.62, ndbi=-0.05),
)


@st.composite
def regions(draw: st.DrawFn) -> RegionStatistics:
    codes = draw(st.lists(st.sampled_from(LEGEND.codes), min_size=1, max_size=6, unique=True))
    pixels = [draw(st.integers(1, 10 ** draw(st.integers(1, 8)))) for _ in codes]
    total = sum(pixels)
    classes = []
    for code, count in zip(codes, pixels, strict=True):
        patches = draw(st.integers(1, min(count, 3000)))
        largest = count if patches == 1 else draw(st.integers(-(-count // patches), count - patches + 1))
        indices = {name: draw(st.floats(-1, 1)) for name in SPECTRAL_INDICES}
        confidence = draw(st.floats(0.3, 1.0))
        classes.append(of_class(code, count / 100, count / total, patches, largest / 100, confidence, **indices))
    name = draw(st.sampled_from(["Upper valley", "Cell 12", "37% cropland", "0", "Trees of Bad 7.5 Aibling"]))
    return of_region(*classes, name=name, observed=draw(st.floats(0.01, 1.0)))


@settings(max_examples=150, deadline=None)
@given(region=regions(), whole=regions())
def test_every_written_sentence_is_supported_by_its_statistics(
    region: RegionStatistics, whole: RegionStatistics
) -> None:
    explanation = explain_region(region, LEGEND, overall=whole)
    assert explanation.dropped == ()
    assert len(explanation.sentences) >= 3
    assert all(claim.supported for claim in explanation.claims)
    assert explanation.text.startswith(region.name)


@settings(max_examples=100, deadline=None)
@given(region=regions(), whole=regions(), data=st.data())
def test_a_changed_number_is_caught(region: RegionStatistics, whole: RegionStatistics, data: st.DataObject) -> None:
    sentence = data.draw(st.sampled_from(explain_region(region, LEGEND, overall=whole).sentences)).text
    body = sentence.removeprefix(region.name)
    numbers = [
        m for m in re.finditer(r"\d[\d,]*(?:\.\d+)?", body) if body[max(m.start() - 5, 0) : m.start()] != "than "
    ]
    if not numbers:
        return
    match = data.draw(st.sampled_from(numbers))
    factor = data.draw(st.sampled_from([0.4, 0.8, 1.25, 3.0]))
    value = float(match[0].replace(",", ""))
    changed = value * factor
    if abs(changed - value) < 1.5:
        changed = value + 2.0
    wrong = sentence.removesuffix(body) + body[: match.start()] + f"{changed:.2f}" + body[match.end() :]
    assert not supported(check_sentence(wrong, region, LEGEND, whole)), wrong


def test_the_paragraph_reads_well() -> None:
    explanation = explain_region(VALLEY, LEGEND)
    assert explanation.text == (
        "Upper valley (2,200 ha) is dominated by cropland, 56% of the mapped area, followed by grassland (25%) and "
        "trees (15%). Cropland forms 34 patches; the largest, 410 ha, holds 33% of it. The whole area was observed, "
        "with 2.4 clear observations per pixel on average; mean confidence is 90%, lowest for built-up land (62%): "
        "read that class with care."
    )


@pytest.mark.parametrize(
    "sentence",
    [
        "Cropland covers 56% of the mapped area.",
        "The cropland regions make up 1,240 ha.",
        "Trees have a mean NDVI of 0.81 (dense green canopy).",
        "56% cropland and 25% grassland.",
        "Most widespread is cropland, followed by grassland.",
        "Trees form twelve patches.",
    ],
)
def test_true_words_of_the_model_are_kept(sentence: str) -> None:
    explanation = explain_region(VALLEY, LEGEND, model_texts={40: sentence})
    assert explanation.sentences[-1].text == sentence
    assert explanation.sentences[-1].by_model


@pytest.mark.parametrize(
    ("sentence", "why"),
    [
        ("Water covers 56% of the mapped area.", "class not in the map"),
        ("There is some snow and ice on the heights.", "class not in the map"),
        ("Cropland covers 65% of the mapped area.", "wrong share"),
        ("Grassland covers 56%, cropland 25%.", "swapped classes"),
        ("56% grassland, 25% cropland.", "swapped classes, number first"),
        ("Trees have a mean NDVI of 0.31.", "wrong index"),
        ("Trees have a mean NDWI of 0.81.", "index not measured"),
        ("Cropland has a mean NDVI of 0.62 (little green, as before emergence or after harvest).", "wrong reading"),
        ("The area is dominated by trees.", "not dominant"),
        ("Trees are fragmented.", "one patch holds most of them"),
        ("Cropland feeds 3,400 people.", "a number that is not measured"),
        ("Half of the area is cropland.", "a fraction in words"),
        ("Trees form thirteen... no, dozens of patches.", "a vague count"),
        ("A quiet valley.", "nothing measurable"),
        ("Cropland covers 56 of the area.", "a number without a unit"),
        ("There is no grassland.", "denied though present"),
        ("Built-up land is larger than grassland.", "a comparison that does not hold"),
        ("Cropland covers 56% of the mapped area, mostly in the north.", "a place that is not measured"),
        ("Trees (15%) have increased.", "change that is not measured"),
        ("Most of the area is grassland.", "not the dominant class"),
        ("Grassland, followed by cropland, shapes the area.", "wrong order"),
    ],
)
def test_words_of_the_model_that_the_map_does_not_support_are_dropped(sentence: str, why: str) -> None:
    explanation = explain_region(VALLEY, LEGEND, model_texts={40: sentence})
    assert [s.text for s in explanation.dropped] == [sentence], why
    assert sentence not in explanation.text


def test_what_differs_most_from_the_whole_map_is_what_is_notable() -> None:
    dry = of_region(of_class(60, 1500.0, 0.75, 9, 900.0, 0.9), of_class(40, 500.0, 0.25, 30, 100.0, 0.9))
    told = explain_region(VALLEY, LEGEND, overall=dry).sentences
    assert len(told) == 3
    assert told[1].text == "The share of cropland lies 31 percentage points above that of the whole map."
    assert "percentage points" not in explain_region(VALLEY, LEGEND, overall=VALLEY).text


@pytest.mark.parametrize(
    "sentence",
    [
        "Only 63% of the area was observed; mean confidence is 90%.",
        "The whole area was observed; mean confidence is 63%.",
    ],
)
def test_a_percentage_belongs_to_its_own_clause(sentence: str) -> None:
    seen = of_region(*VALLEY.classes, observed=0.63 if "Only" in sentence else 1.0)
    assert supported(check_sentence(sentence, seen, LEGEND)) == ("63% of" in sentence)
    swapped = sentence.replace("63%", "90%").replace("90%.", "63%.")
    assert not supported(check_sentence(swapped, seen, LEGEND))


def test_an_unmapped_region_says_so() -> None:
    empty = RegionStatistics("c", "Cloudy", {}, (32633,), 123.4, 0.0, 0.0, 0.0, 0.0, ())
    assert explain_region(empty, LEGEND).text == (
        "Cloudy (123 ha) could not be mapped: no usable observation reached the map."
    )
    far = RegionStatistics("f", "Far", {}, (), 0.0, 0.0, 0.0, 0.0, 0.0, ())
    assert explain_region(far, LEGEND).text == (
        "Far lies outside the mapped area, or between the centres of its pixels."
    )


def test_a_poorly_observed_doubtful_region_carries_both_caveats() -> None:
    region = of_region(of_class(80, 200.0, 1.0, 1, 200.0, 0.55, mndwi=0.4), observed=0.63)
    text = explain_region(RegionStatistics(**{**vars(region), "mean_confidence": 0.55}), LEGEND).text
    assert "Only 63% of the area was observed" in text
    assert "mean confidence is only 55%: treat this area as provisional." in text


@pytest.mark.parametrize(
    ("area_ha", "text"),
    [(0.04, "0.04 ha"), (4.23, "4.2 ha"), (9.97, "10 ha"), (412.4, "412 ha"), (1236, "1,240 ha"), (9996, "10,000 ha"),
     (12_340, "123 km²"), (1_234_567, "12,300 km²")],
)  # fmt: skip
def test_areas_are_rounded_to_three_digits(area_ha: float, text: str) -> None:
    assert format_area(area_ha) == text


def test_shares_never_round_to_nothing_or_everything() -> None:
    assert [format_share(s) for s in (0.0, 0.0004, 0.0123, 0.5, 0.9949, 1.0)] == [
        "0%",
        "less than 1%",
        "1%",
        "50%",
        "more than 99%",
        "100%",
    ]


def test_files_hold_the_fixed_layout_and_escape_names(tmp_path: Path) -> None:
    region = RegionStatistics(**{**vars(VALLEY), "name": "<b>Ha*mlet*</b>\n# x"})
    explanations = explain_map(MapStatistics((region,), region, {}), LEGEND)
    as_json, as_markdown = write_explanations(tmp_path, explanations, title="Test", header={"run_id": "abc"})
    document = json.loads(as_json.read_text(encoding="utf-8"))
    assert document["run_id"] == "abc"
    entry = document["regions"][0]
    assert {"id", "name", "geometry", "area_ha", "observed_share", "classes", "text", "claims"} <= set(entry)
    assert set(entry["classes"][0]) == {
        "code", "name", "area_ha", "share", "patches", "largest_patch_ha", "mean_confidence", "indices",
    }  # fmt: skip
    assert all(set(c) == {"text", "kind", "value", "measured", "supported"} for c in entry["claims"])
    assert {c["kind"] for c in entry["claims"]} <= {
        "area", "share", "patches", "index", "confidence", "observed", "dominance",
    }  # fmt: skip
    markdown = as_markdown.read_text(encoding="utf-8")
    assert "<b>" not in markdown.replace("\\<", "")
    assert "\n# x" not in markdown
    assert sorted(p.name for p in tmp_path.iterdir()) == ["explanations.json", "explanations.md"]


def test_markdown_is_the_same_for_the_same_numbers() -> None:
    explanations = explain_map(MapStatistics((VALLEY, VALLEY), VALLEY, {}), LEGEND)
    assert explanations_markdown(explanations, "A") == explanations_markdown(explanations, "A")
    assert explanations_markdown(explanations, "A").count("## Upper valley") == 2


@pytest.mark.parametrize("name", ["C", "Crop", "Cropland", "Cropland (old)", "12 % grassland", "Trees"])
def test_a_region_that_is_called_like_a_class_keeps_its_true_sentences(name: str) -> None:
    region = of_region(*VALLEY.classes, name=name)
    explanation = explain_region(region, LEGEND)
    assert explanation.dropped == ()
    assert len(explanation.sentences) == len(explain_region(VALLEY, LEGEND).sentences)


@pytest.mark.parametrize(("name", "line"), [("1. North", "1\\. North"), ("- Isle", "\\- Isle"), ("12 Oaks", "12 Oaks")])
def test_a_name_does_not_start_a_list(name: str, line: str) -> None:
    region = of_region(*VALLEY.classes, name=name)
    lines = explanations_markdown(explain_map(MapStatistics((region,), region, {}), LEGEND), "A").splitlines()
    assert f"## {line}" in lines
    assert any(text.startswith(f"{line} (") for text in lines)


@pytest.mark.parametrize(("share", "said"), [(None, False), (0.0, False), (0.09, False), (0.34, True), (1.0, True)])
def test_what_is_unlike_the_training_is_said_where_it_is_much_and_a_false_share_is_refused(
    share: float | None, said: bool
) -> None:
    region = RegionStatistics(**{**vars(VALLEY), "unfamiliar_share": share})
    told = explain_region(region, LEGEND)
    assert not told.dropped
    assert ("unlike anything this model was trained on" in told.text) is said
    for text, holds in (
        (f"{(share or 0) * 100:.0f}% of the mapped area is unlike anything this model was trained on.", said),
        ("71% of the mapped area is unlike anything this model was trained on.", False),
        ("This area is unlike anything this model was trained on.", said),
    ):
        claims = check_sentence(text, region, LEGEND)
        assert any(c.kind == "familiarity" for c in claims)
        assert all(c.supported for c in claims) is holds
