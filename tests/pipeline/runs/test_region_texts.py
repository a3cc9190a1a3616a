"""A model that cannot speak costs words and nothing of the map; what was kept is read as a file of a stranger."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ReadError
from pipeline.machine.progress import LogProgress
from pipeline.outputs.publish import Publication, publish_run
from pipeline.runs import region_texts
from pipeline.runs.region_texts import ANSWERS_FILE, RegionTexts, kept_words
from pipeline.runs.view_images import ViewImages
from spex_core.asked_images import AskedImage, ImageQuestion
from spex_core.errors import CheckpointError
from tests.pipeline.outputs.test_publish import EAST, NOW, WEST, finished_run
from tests.pipeline.small_plans import region_of


class _Speaker:
    fingerprint = "a speaker"

    def __init__(self, failing: dict[int, BaseException]) -> None:
        self.failing, self.asked = failing, 0

    def question(self, noun: str, facts: Any) -> ImageQuestion:
        return ImageQuestion(f"What of the {noun} regions?")

    def answers(self, images: Sequence[AskedImage]) -> list[list[str]]:
        self.asked += 1
        if self.asked - 1 in self.failing:
            raise self.failing[self.asked - 1]
        return [["This image shows no water."] * len(image.questions) for image in images]


def spoken(
    output: Path, monkeypatch: pytest.MonkeyPatch, speaker: Any, *areas: Any
) -> tuple[Publication, RegionTexts, Path]:
    def load(*_: Any) -> Any:
        if isinstance(speaker, Exception):
            raise speaker
        return speaker

    monkeypatch.setattr(region_texts, "load_speaker", load)
    monkeypatch.setattr(
        ViewImages, "_read", lambda self, _, window: np.full((10, window.height // 2, window.width // 2), 100, np.int16)
    )
    prepared, store = finished_run(output, region_of(*areas), model={"explain": "brief"})
    words = RegionTexts.of(prepared, store, LogProgress())
    assert words is not None
    return publish_run(prepared, store, LogProgress(), None, seconds=1.0, created=NOW, words=words), words, store.folder


def told(publication: Publication) -> list[bool]:
    document = json.loads(publication.outputs["explanations"][0].read_text(encoding="utf-8"))
    return [bool(region["model_sentences"]) for region in document["regions"]]


@pytest.mark.parametrize("error", [CheckpointError("gone"), RuntimeError("out of memory"), ValueError("no number")])
def test_a_model_that_does_not_load_is_one_problem_of_a_published_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    publication, words, _ = spoken(tmp_path, monkeypatch, error, WEST, EAST)
    assert words.problems == [str(error)]
    assert all(path.is_file() for paths in publication.outputs.values() for path in paths)
    assert not any(told(publication))


@pytest.mark.parametrize("error", [ReadError("B04 is gone"), RuntimeError("shapes"), IndexError("3")])
def test_what_cannot_be_said_of_one_region_is_told_and_the_others_speak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    publication, words, folder = spoken(tmp_path, monkeypatch, _Speaker({0: error, 1: error}), WEST, EAST)
    (problem,) = words.problems
    assert problem.startswith("Region 0: ")
    assert str(error) in problem
    assert told(publication)[0] is False
    assert told(publication)[1] is True
    assert kept_words(folder / ANSWERS_FILE) == {}  # who was asked in other company is asked again


def test_who_has_spoken_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _Speaker({})
    spoken(tmp_path, monkeypatch, first, WEST)
    assert first.asked > 0
    publication, words, _ = spoken(tmp_path, monkeypatch, RuntimeError("nobody is asked"), WEST)
    assert words.problems == []
    assert told(publication) == [True]


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_of_ours_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ANSWERS_FILE
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        (tmp_path / "other").write_text('{"key": "a", "words": []}\n', encoding="utf-8")
        path.symlink_to("other")
    assert kept_words(path) == {}


def test_what_was_said_before_an_interruption_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(region_texts, "BATCH_REGIONS", 1)
    monkeypatch.setattr(region_texts, "cpu_count", lambda: 1)  # one thread: the first is asked first
    with pytest.raises(KeyboardInterrupt):
        spoken(tmp_path, monkeypatch, _Speaker({1: KeyboardInterrupt()}), WEST, EAST)
    again = _Speaker({})
    publication, words, folder = spoken(tmp_path, monkeypatch, again, WEST, EAST)
    assert again.asked == 1
    assert told(publication) == [True, True]
    assert len(kept_words(folder / ANSWERS_FILE)) == 2
    assert words.problems == []


def test_a_batch_is_known_by_all_of_its_sub_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, words, _ = spoken(tmp_path, monkeypatch, _Speaker({}), WEST, EAST)
    regions = publication_regions(words)
    (both,), (one,) = words._batches(regions), words._batches(regions[:1])
    assert len(set(both.keys)) == 2
    assert one.keys[0] not in both.keys


def publication_regions(words: RegionTexts) -> Any:
    from pipeline.explain.statistics import map_statistics
    from pipeline.outputs.publish import _zone_layers

    prepared, store = words._prepared, words._store
    zones = [_zone_layers(zone, prepared, store) for zone in prepared.plan.zones]
    return map_statistics("m", prepared.region.subregions, zones, prepared.legend).regions
