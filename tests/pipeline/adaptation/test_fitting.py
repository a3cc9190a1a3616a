"""Heads from few labels: blocks stay whole, a head is linear, and validation tells signal from noise."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.adaptation.domain import outside_share
from pipeline.adaptation.fitting import (
    CANDIDATES,
    MEAN,
    fit_candidate,
    rows,
    spatial_folds,
    splits,
)
from pipeline.adaptation.samples import block_ids
from pipeline.adaptation.validation import Figures, thinned, validate

WIDTHS = {"inputs": 5, "mean3": 5, "spread3": 5, "mean7": 5, "spread7": 5, "detail": 4, "level1": 30, "level2": 40,
          "aggregated": 50, "words": 9}  # fmt: skip


def world(signal: float, count: int = 120) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Sources, reflectance, labels and positions; what tells classes apart is in the features, not in the bands."""
    rng = np.random.default_rng(3)
    labels = np.tile(np.arange(3), count // 3)
    sources = {name: rng.normal(size=(count, width)).astype(np.float32) for name, width in WIDTHS.items()}
    for name in ("level1", "aggregated"):
        sources[name][np.arange(count), labels] += np.float32(signal)
    pixels = rng.uniform(0.05, 0.3, (count, 10)).astype(np.float32)
    return sources, pixels, labels.astype(np.int64), rng.uniform(0, 3000, (count, 2))


def test_blocks_are_never_on_both_sides_and_a_gap_keeps_neighbours_out() -> None:
    _, _, labels, xy = world(0)
    blocks = block_ids(xy, 300.0)
    folds = spatial_folds(blocks, labels, 5)
    assert all(len(np.unique(folds[blocks == block])) == 1 for block in np.unique(blocks))
    assert np.bincount(folds, minlength=5).min() >= 10
    for train, test in splits(folds, xy, 80.0):
        assert not set(blocks[train]) & set(blocks[test])
        apart = np.linalg.norm(xy[train][:, None] - xy[test][None], axis=2)
        assert apart.min() > 80.0


@pytest.mark.parametrize("name", [MEAN, *CANDIDATES])
def test_a_class_without_samples_is_never_answered_and_order_does_not_matter(name: str) -> None:
    sources, _, labels, _ = world(3.0)
    present = np.flatnonzero(labels != 1)
    head = fit_candidate(rows(sources, present), labels[present], 3, name)
    answers = head.logits(sources).argmax(axis=1)
    assert set(answers) <= {0, 2}
    again = fit_candidate(rows(sources, present[::-1]), labels[present[::-1]], 3, name)
    np.testing.assert_allclose(again.logits(sources), head.logits(sources), atol=0.05)
    assert fit_candidate(rows(sources, present), labels[present], 3, name).bias.tobytes() == head.bias.tobytes()


def test_validation_tells_signal_from_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.adaptation.validation.TREES", 20)
    monkeypatch.setattr("pipeline.adaptation.validation.FOLDS", 2)
    sources, pixels, labels, xy = world(10.0)
    found = validate(sources, pixels, labels, 3, block_ids(xy, 300.0), xy, 50.0)
    assert found is not None
    # Sixty samples a fold against 150 channels of noise; chance, and the forest on bands that tell nothing, is a third.
    assert found.adapted.overall > 0.7 > 0.5 > found.forest.overall
    assert not found.forest_ahead
    assert found.confusion.sum() == found.samples == len(labels)
    assert [count for count, _ in found.curve] == sorted(count for count, _ in found.curve)
    assert validate(sources, pixels, labels, 3, np.zeros(len(labels), np.int64), xy, 0.0) is None


@pytest.mark.long
def test_noise_is_not_learnt_and_is_not_believed() -> None:
    sources, pixels, labels, xy = world(0.0)
    found = validate(sources, pixels, labels, 3, block_ids(xy, 300.0), xy, 0.0)
    assert found is not None
    assert found.adapted.overall < 0.55
    assert found.calibration_error < 0.2


def test_figures_by_hand() -> None:
    f = Figures.of(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]), 3)
    assert (f.overall, f.mean_recall, f.mean_iou) == pytest.approx((0.75, (2 / 3 + 1) / 2, (2 / 3 + 1 / 2) / 2))
    assert thinned(np.array([0, 0, 0, 0, 1, 1]), 0.25).tolist() == [0, 3, 4, 5]


def test_what_is_far_from_all_samples_is_outside() -> None:
    sources, _, _, xy = world(0.0)
    blocks = block_ids(xy, 300.0)
    far = {name: table + np.float32(50) for name, table in sources.items()}
    assert outside_share(sources, blocks, far) == 1.0
    assert outside_share(sources, blocks, sources) == 0.0
    assert outside_share(sources, blocks, {}) is None
