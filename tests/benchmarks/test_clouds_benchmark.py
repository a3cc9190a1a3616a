"""The cloud benchmark's figures, on masks whose overlap is known, and the drawn labels that come with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.clouds import (
    CLEAR_LAND,
    CLEAR_WATER,
    CLOUD,
    CLOUD_SHADOW,
    LABELS,
    NOTHING,
    SHADED,
    THICK_CLOUD,
    THIN_CLOUD,
    UNKNOWN,
    Counts,
    Labelled,
    by_classification,
    either,
    measure,
)
from spex_core.checkpoints import DEFAULT_CLOUD_CHECKPOINT, resolve_checkpoint
from spex_core.cloud_detector import CloudDetector


def test_intersection_over_union_leaves_out_what_nobody_labelled() -> None:
    truth = np.array([THICK_CLOUD, THIN_CLOUD, CLOUD_SHADOW, CLEAR_LAND, CLEAR_WATER, CLEAR_WATER, UNKNOWN], np.uint8)
    said = np.array([CLOUD, NOTHING, CLOUD, CLOUD, SHADED, NOTHING, CLOUD], np.uint8)
    counts = Counts()
    counts.add(said, truth)
    assert counts.figures() == {"cloud": 0.25, "shadow": 0.0, "water called shadow": 0.5}
    counts.add(np.array([SHADED], np.uint8), np.array([CLOUD_SHADOW], np.uint8))
    assert counts.iou(SHADED) == pytest.approx(1 / 3)
    assert Counts().figures() == {"cloud": None, "shadow": None, "water called shadow": None}


def test_classes_of_the_scene_classification_and_the_union_of_masks() -> None:
    scl = by_classification(np.arange(12, dtype=np.uint8))
    assert scl.tolist() == [0, 0, 0, SHADED, 0, 0, 0, 0, CLOUD, CLOUD, CLOUD, 0]
    ways = np.array([NOTHING, CLOUD, SHADED], np.uint8)
    union = [either(np.full(3, way, np.uint8), ways).tolist() for way in ways]
    assert union == [[NOTHING, CLOUD, SHADED], [CLOUD, CLOUD, CLOUD], [SHADED, CLOUD, SHADED]]


def test_drawn_labels_hold_cloud_shadow_and_clear_ground(tmp_path: Path) -> None:
    paths = sorted(LABELS.glob("*.png"))
    assert len(paths) == 7
    from PIL import Image

    codes = np.concatenate([np.asarray(Image.open(path)).ravel() for path in paths])
    assert np.unique(codes).tolist() == [UNKNOWN, CLEAR_LAND, THICK_CLOUD, THIN_CLOUD, CLOUD_SHADOW, CLEAR_WATER]
    assert (codes != UNKNOWN).sum() > 300_000


def test_a_scene_of_any_size_is_measured_and_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0.03, 0.3, (6, 75, 90)).astype(np.float32)
    truth = rng.integers(0, 6, (75, 90)).astype(np.uint8)
    scene = Labelled("somewhere", "made", "l2a", image, truth, rng.integers(0, 12, (75, 90)).astype(np.uint8))
    detector = CloudDetector.load(resolve_checkpoint(DEFAULT_CLOUD_CHECKPOINT))
    found, seconds = measure([scene], lambda _: detector, public=False, pictures=tmp_path)
    assert set(found) == {"somewhere", "made"}
    assert set(found["made"]) == {"scl", "network", "both"}
    assert list(seconds) == ["network"]
    assert (tmp_path / "somewhere.png").stat().st_size > 1000
