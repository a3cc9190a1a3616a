"""The split by place: complete, without overlap, and kept by whoever reads; what the real samples hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ChipError
from spex_core.legend import Legend
from tests.workflows.labelled_samples import IMAGE_SAMPLES, SPECTRA_SAMPLES
from workflows.labelled.registry import (
    IMAGES,
    SPECTRA,
    ImageSample,
    SpectraSample,
    Split,
    labelled_scenes,
    labelled_spectra,
    registered_places,
)
from workflows.labelled_table import table

ROOT = Path(__file__).resolve().parents[2]
REAL_DATA = ROOT.parent / "shared" / "real-data"
LABELLED = (10, 20, 30, 40, 50, 60, 80, 90)
"""Every class but snow, which nobody labelled."""


@pytest.fixture(scope="module")
def split() -> Split:
    return Split.from_yaml()


@pytest.mark.parametrize("place", registered_places())
def test_every_place_is_on_one_side(split: Split, place: str) -> None:
    assert (place in split.train) != (place in split.evaluate)
    assert split.side(place) in ("train", "evaluate")


def test_places_are_registered_once() -> None:
    places = registered_places()
    assert len(set(places)) == len(places)
    assert all(p.split("/")[0] == sample.folder for sample in (*IMAGES, *SPECTRA) for p in sample.places)


def test_what_may_not_be_trained_on_is_for_evaluation(split: Split) -> None:
    noncommercial = [p for sample in (*IMAGES, *SPECTRA) if "NC" in sample.licence for p in sample.places]
    assert noncommercial
    assert {split.side(place) for place in noncommercial} == {"evaluate"}


def test_about_one_folder_in_four_is_for_evaluation(split: Split) -> None:
    def folders(places: frozenset[str]) -> set[str]:
        return {place.split("/")[0] for place in places}

    alone = folders(split.evaluate) - folders(split.train)
    every = folders(split.evaluate) | folders(split.train)
    assert 0.15 < len(alone) / len(every) < 0.3


@pytest.mark.parametrize("place", ["atlantis", "", "zion-south-landsat8", "terramind-examples"])
def test_a_place_that_nobody_decided_on_is_refused(split: Split, place: str) -> None:
    with pytest.raises(ChipError, match="not in the split"):
        split.side(place)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [a, b]\nevaluate: [b]\n", "twice: b"),
        ("train: [a, a]\nevaluate: [b]\n", "twice: a"),
        ("train: [a]\n", "two lists"),
        ("train: [a]\nevaluate: [b]\ntest: [c]\n", "two lists"),
        ("train: a\nevaluate: [b]\n", "train must be a list"),
        ("train: [1]\nevaluate: [b]\n", "train must be a list"),
        ("- a\n", "two lists"),
        ("train: [a\n", "cannot be read"),
    ],
)
def test_a_wrong_split_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "places.yaml"
    path.write_text(text)
    with pytest.raises(ChipError, match=message):
        Split.from_yaml(path)


def test_reading_keeps_to_the_side(tmp_path: Path, split: Split) -> None:
    for name in ("belgium-lpis-chips", "lahinch-worldfloods-l1c", "elkton-landsat8"):
        IMAGE_SAMPLES[name](tmp_path / name)
    SPECTRA_SAMPLES["ukraine-habitat-spectra-s2"](tmp_path / "ukraine-habitat-spectra-s2")
    train = {scene.place for scene in labelled_scenes(tmp_path, split, "train")}
    evaluate = {scene.place for scene in labelled_scenes(tmp_path, split, "evaluate")}
    assert train == {"belgium-lpis-chips/31UDS", "elkton-landsat8"}
    assert evaluate == {"belgium-lpis-chips/31UES", "lahinch-worldfloods-l1c"}
    assert {scene.place for scene in labelled_scenes(tmp_path, split)} == train | evaluate
    (south,) = labelled_spectra(tmp_path, split, "train")
    assert south.place == "ukraine-habitat-spectra-s2/south"


def test_a_sample_is_not_read_before_its_place_is_decided_on(tmp_path: Path) -> None:
    (tmp_path / "elkton-landsat8").mkdir()
    with pytest.raises(ChipError, match="elkton-landsat8' is not in the split"):
        list(labelled_scenes(tmp_path, Split(frozenset(), frozenset()), "train"))


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_DATA.exists(), reason="the sampled scenes are not here")
def test_the_real_samples_have_every_class_and_three_sensors_on_both_sides(split: Split) -> None:
    scenes = [*labelled_scenes(REAL_DATA, split), *labelled_spectra(REAL_DATA, split)]
    assert {scene.place for scene in scenes} == set(registered_places())
    for side in ("train", "evaluate"):
        here = [scene for scene in scenes if split.side(scene.place) == side]
        pixels = sum(np.bincount(scene.codes.ravel(), minlength=256) for scene in here)
        assert all(pixels[code] >= 100 for code in LABELLED)
        assert len({scene.sensor for scene in here}) >= 3
    for scene in scenes:
        assert -0.05 < np.nanpercentile(scene.reflectance, 1) < 0.5, scene.place
        assert np.nanpercentile(scene.reflectance, 99) < 1.5, scene.place
    page = (ROOT / "docs" / "training-data.md").read_text(encoding="utf-8")
    for line in table(scenes, split, Legend.from_yaml()):
        assert line in page.splitlines(), line


@pytest.mark.parametrize("sample", [*IMAGES, *SPECTRA], ids=lambda sample: sample.folder)
def test_every_sample_and_its_licence_is_on_the_page(sample: ImageSample | SpectraSample) -> None:
    page = (ROOT / "docs" / "training-data.md").read_text(encoding="utf-8")
    assert f"| {sample.folder} |" in page
    assert sample.licence in page
