"""Scores on people's labels: what is counted, what is not, and that a tile's place does not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from spex_core.bands import BANDS, Band
from spex_core.legend import Legend
from tests.spex_core.conftest import build_tiny_model
from workflows import labelled_scores
from workflows.labelled.registry import Split
from workflows.labelled.scene import LabelledScene, LabelledSpectra, SourceLabel
from workflows.labelled_scores import Tally, main, of_checkpoint, table, tallies

LEGEND = Legend.from_yaml()
MEANINGS = {1: SourceLabel("grass", 30), 2: SourceLabel("trees", 10), 3: SourceLabel("green", among=(30, 40))}


def scene(labels: npt.NDArray[np.uint8]) -> LabelledScene:
    rng = np.random.default_rng(3)
    reflectance = rng.uniform(0.05, 0.3, (10, *labels.shape)).astype(np.float32)
    reflectance[:, 0, 0] = np.nan
    return LabelledScene("made", "made", "sentinel-2", BANDS, reflectance, 10.0, labels, MEANINGS, "drawn")


def always(code: int, share: float) -> labelled_scores.Scores:
    def scores(
        reflectance: npt.NDArray[np.float32], bands: tuple[Band, ...], pixel_m: float
    ) -> npt.NDArray[np.float32]:
        assert np.isfinite(reflectance).all()
        answer = np.full((len(LEGEND), *reflectance.shape[1:]), (1 - share) / (len(LEGEND) - 1), np.float32)
        answer[LEGEND.codes.index(code)] = share
        return answer

    return scores


def test_labels_are_counted_once_and_sets_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((6, 8), np.uint8)
    labels[0], labels[1], labels[2] = 1, 2, 3
    spectra = LabelledSpectra(
        "plots",
        "sentinel-2",
        BANDS,
        np.full((3, 10), 0.1, np.float32),
        np.array([1, 2, 3]),
        MEANINGS,
        np.arange(3),
        "drawn",
    )
    monkeypatch.setattr(labelled_scores, "labelled_scenes", lambda *given: iter([scene(labels)]))
    monkeypatch.setattr(labelled_scores, "labelled_spectra", lambda *given: iter([spectra]))
    found = tallies(always(30, 0.8), Path(), Split(frozenset(), frozenset()), "evaluate", LEGEND)
    made, plots = found["made"], found["plots"]
    assert made.confusion.sum() == 15, "the unobserved pixel is not counted"
    assert made.accuracy == pytest.approx(7 / 15)
    assert (made.among, made.possible) == (8, 8)
    assert made.mean_iou == pytest.approx((7 / 15 + 0) / 2)
    assert made.calibration_error == pytest.approx(0.8 - 7 / 15)
    assert (plots.accuracy, plots.among, plots.possible) == (0.5, 1, 1)
    lines = list(table({"it": found, "other": {}}, LEGEND))
    assert any(line.startswith("| made | it | 0.467 | 0.233 |") for line in lines)
    assert lines[-1].startswith("| **mean of 2 places** | it | 0.483 |")
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_a_perfect_scorer_is_calibrated() -> None:
    tally = Tally(np.zeros((2, 2), np.int64))
    tally.add(np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), np.array([0, 1]), np.zeros((2, 2), bool))
    assert (tally.accuracy, tally.mean_iou, tally.calibration_error) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("shape", [(40, 50), (1, 33), (200, 70)])
def test_every_pixel_of_an_image_is_scored(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled_scores, "TILE_PX", 96)
    scores = of_checkpoint(build_tiny_model(LEGEND, band_encoding=True).eval(), LEGEND)
    answer = scores(np.random.default_rng(0).uniform(0.02, 0.4, (10, *shape)).astype(np.float32), BANDS, 10.0)
    assert answer is not None
    assert np.allclose(answer.sum(axis=0), 1, atol=1e-3)


def test_a_checkpoint_that_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--real", str(tmp_path), "--checkpoint", str(tmp_path / "none")]) == 2
    assert "error:" in capsys.readouterr().err
