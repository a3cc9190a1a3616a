"""Scenes of one ground are held against each other: an offset too much is 0.1 in every band, a season is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.imagery.agreement import Examined, compare_scenes
from pipeline.imagery.examination import Verdict, examine
from pipeline.records.scene import SCL
from tests.pipeline.simulated_spectra import COVERS, digital, ground, sample_of, scene_of

DESERT, CLASSES = ground({"desert": 3.0, "dark rock": 1.0})
"""No water and no vegetation: no scene alone shows whether its offset is right."""
RNG = np.random.default_rng(3)


def examined(truth: float, offset: float, told: tuple[float, ...] = (), place: Any = ("here",), **how: Any) -> Examined:
    """A scene over the desert whose files were written with one offset and are read with another."""
    seen = how.get("seen", DESERT + RNG.normal(0.0, 0.004, DESERT.shape))
    scene = scene_of(offset=offset, told=told, identifier=how.get("name", f"read with {offset:g}, holds {truth:g}"))
    sample = sample_of(digital(seen, truth), how.get("classes", CLASSES), place=place)
    verdict = examine(scene, sample)
    assert (verdict.refused, verdict.changes, verdict.doubts) == ("", (), ())
    return Examined(verdict, sample)


def offsets(verdicts: list[Verdict]) -> list[float]:
    return [verdict.scene.assets["B02"].offset for verdict in verdicts]


def states(verdicts: list[Verdict]) -> list[str]:
    return [
        "aside" if v.refused else "corrected" if v.changes else "doubtful" if v.doubts else "fine" for v in verdicts
    ]


def test_the_metadata_of_one_of_two_name_the_other_offset() -> None:
    found = compare_scenes([examined(-0.1, 0.0, told=(0.0, -0.1)), examined(-0.1, -0.1, told=(-0.1,))])
    assert (states(found), offsets(found)) == (["corrected", "fine"], [-0.1, -0.1])
    assert "0.1 above that of read with -0.1, holds -0.1 in every band" in found[0].changes[0]
    assert {a.offset for name, a in found[0].scene.assets.items() if name != SCL} == {-0.1}


def test_most_of_several_scenes_are_believed() -> None:
    right = [examined(0.0, 0.0) for _ in range(3)]
    found = compare_scenes([*right, examined(-0.1, 0.0)])
    assert (states(found), offsets(found)) == (["fine"] * 3 + ["corrected"], [0.0, 0.0, 0.0, -0.1])
    found = compare_scenes([examined(0.0, -0.1), *[examined(-0.1, -0.1) for _ in range(3)]])
    assert (states(found), offsets(found)) == (["corrected"] + ["fine"] * 3, [0.0, -0.1, -0.1, -0.1])


def test_one_that_has_no_usual_offset_to_go_to_is_set_aside() -> None:
    found = compare_scenes([examined(0.0, 0.0), examined(0.0, 0.0), examined(0.0, 0.1)])
    assert states(found) == ["fine", "fine", "corrected"]
    found = compare_scenes([examined(-0.1, -0.1), examined(-0.1, -0.1), examined(-0.3, -0.2)])
    assert states(found) == ["fine", "fine", "corrected"] or found[2].refused


def test_two_that_differ_without_any_evidence_are_both_doubtful() -> None:
    found = compare_scenes([examined(0.0, 0.0), examined(-0.1, 0.0)])
    assert (states(found), offsets(found)) == (["doubtful", "doubtful"], [0.0, 0.0])


def test_other_ground_is_not_compared() -> None:
    found = compare_scenes([examined(0.0, 0.0), examined(-0.1, 0.0, place=("there",))])
    assert states(found) == ["fine", "fine"]


def test_clouds_and_few_places_are_not_compared() -> None:
    cloudy = np.where(np.arange(CLASSES.size) < 400, CLASSES, 9).astype(np.uint8)
    assert states(compare_scenes([examined(0.0, 0.0), examined(-0.1, 0.0, classes=cloudy)])) == ["fine", "fine"]


@settings(max_examples=60, deadline=None)
@given(
    first=st.dictionaries(st.sampled_from(sorted(COVERS)), st.floats(0.1, 1.0), min_size=1, max_size=4),
    second=st.dictionaries(st.sampled_from(sorted(COVERS)), st.floats(0.1, 1.0), min_size=1, max_size=4),
    light=st.sampled_from([0.4, 0.8, 1.0, 1.15]),
    haze=st.sampled_from([0.0, 0.03, 0.08]),
    seed=st.integers(0, 100),
)
def test_seasons_light_haze_and_snow_are_no_offset(
    first: dict[str, float], second: dict[str, float], light: float, haze: float, seed: int
) -> None:
    samples = []
    for number, (covers, bright, lifted) in enumerate(((first, 1.0, 0.0), (second, light, haze))):
        seen, classes = ground(covers, seed + number, bright)
        seen = seen + np.array([[lifted], [0.8 * lifted], [0.4 * lifted], [0.1 * lifted]], np.float32)
        sample = sample_of(digital(seen, -0.1), classes)
        samples.append(Examined(Verdict(scene_of(told=(-0.1, 0.0), identifier=str(number))), sample))
    assert states(compare_scenes(samples)) == ["fine", "fine"]


@pytest.mark.parametrize("gain", [0.7, 0.85, 1.2, 1.4])
def test_a_wet_ground_and_a_dry_one_are_no_offset(gain: float) -> None:
    pair = [examined(0.0, 0.0, told=(0.0, -0.1)), examined(0.0, 0.0, told=(0.0, -0.1), seen=DESERT * gain)]
    assert states(compare_scenes(pair)) == ["fine", "fine"]
