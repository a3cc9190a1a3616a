"""Spectra that no land has are told from those that were trained on; a statistic of other weights is not believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spex_core.errors import CheckpointError
from spex_core.familiarity import (
    FAMILIARITY_FILE,
    UNKNOWN,
    UNLIKE,
    Familiarity,
    fit_familiarity,
    read_familiarity,
    weights_fingerprint,
)

Array = np.ndarray


def land(rng: np.random.Generator, count: int) -> Array:
    """Mixtures of water, plants and soil under other light."""
    materials = np.array(
        [
            [0.04, 0.035, 0.03, 0.025, 0.02, 0.02, 0.02, 0.02, 0.01, 0.01],
            [0.03, 0.06, 0.04, 0.1, 0.25, 0.32, 0.35, 0.36, 0.18, 0.09],
            [0.08, 0.11, 0.15, 0.18, 0.2, 0.22, 0.24, 0.25, 0.32, 0.28],
        ]
    )
    shares = rng.dirichlet([0.4, 0.4, 0.4], count)
    noise = rng.normal(0, 0.003, (count, 10))
    return np.asarray(((shares @ materials) * rng.uniform(0.9, 1.1, (count, 1)) + noise).T, np.float32)


@pytest.fixture(scope="module")
def statistic() -> Familiarity:
    return fit_familiarity(land(np.random.default_rng(0), 4000), "0" * 64)


def test_scores_are_percent_of_the_training_pixels_and_nonsense_is_beyond_them(statistic: Familiarity) -> None:
    rng = np.random.default_rng(1)
    seen = statistic.scores(land(rng, 4000))
    assert 0.002 < (seen >= UNLIKE).mean() < 0.03
    assert 45 < np.median(seen) < 55
    for strange in (rng.uniform(0, 0.8, (10, 500)), land(rng, 500)[rng.permutation(10)], 0.5 - land(rng, 500)):
        assert (statistic.scores(strange.astype(np.float32)) >= UNLIKE).mean() > 0.9


def test_a_pixel_decides_alone_and_one_without_all_bands_has_no_score(statistic: Familiarity) -> None:
    image = land(np.random.default_rng(2), 300 * 300).reshape(10, 300, 300)
    image[3, 7, 9] = np.nan
    whole = statistic.scores(image)
    assert whole[7, 9] == UNKNOWN
    assert (whole == UNKNOWN).sum() == 1
    difference = whole[100:150, 20:60].astype(int) - statistic.scores(image[:, 100:150, 20:60])
    assert np.abs(difference).max() <= 1  # a limit may lie in the last digit


def test_the_same_pixels_give_the_same_file(statistic: Familiarity, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        fit_familiarity(land(np.random.default_rng(0), 4000), "0" * 64).write(tmp_path / name)
    files = [(tmp_path / name / FAMILIARITY_FILE).read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    assert len(files[0]) < 20_000


def folder_with(tmp_path: Path, statistic: Familiarity, weights: bytes = b"weights") -> Path:
    (tmp_path / "model.safetensors").write_bytes(weights)
    made = Familiarity(**{**vars(statistic), "weights_sha256": weights_fingerprint(tmp_path)})
    made.write(tmp_path)
    return tmp_path


def test_it_is_read_back_and_belongs_to_its_weights(statistic: Familiarity, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, statistic)
    found, note = read_familiarity(folder)
    assert note == ""
    assert found is not None
    pixels = land(np.random.default_rng(3), 100)
    assert np.array_equal(found.scores(pixels), statistic.scores(pixels))
    (folder / "model.safetensors").write_bytes(b"trained on")
    assert read_familiarity(folder)[0] is None
    assert "made for other weights" in read_familiarity(folder)[1]


def test_a_checkpoint_without_one_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert read_familiarity(tmp_path) == (None, "")


@pytest.mark.parametrize("damage", ["garbage", "cut", "infinite", "shape", "limits", "missing"])
def test_a_damaged_one_is_left_aside_with_a_reason(statistic: Familiarity, tmp_path: Path, damage: str) -> None:
    folder = folder_with(tmp_path, statistic)
    path = folder / FAMILIARITY_FILE
    changed = {
        "infinite": {"mean": np.full_like(statistic.mean, np.inf)},
        "shape": {"centres": statistic.centres[:, 1:]},
        "limits": {"limits": statistic.limits[::-1]},
    }
    if damage == "garbage":
        path.write_bytes(b"no archive")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "missing":
        np.savez(path, schema=np.array(1))
    else:
        Familiarity(**{**vars(statistic), **changed[damage]}).write(folder)
    found, note = read_familiarity(folder)
    assert found is None
    assert str(path) in note


def test_too_few_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="too few"):
        fit_familiarity(land(np.random.default_rng(4), 50), "0" * 64)
    with pytest.raises(CheckpointError, match="holds no weights"):
        weights_fingerprint(tmp_path)
