"""Spectra that no land has are told from those that were trained on; a statistic of other weights is not believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spex_core.checkpoints import DEFAULT_CHECKPOINT, resolve_checkpoint
from spex_core.errors import CheckpointError
from spex_core.familiarity import (
    FAMILIARITY_FILE,
    LEAST_BANDS,
    SCORES,
    UNKNOWN,
    UNLIKE,
    Familiarity,
    fit_familiarity,
    inherit_familiarity,
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
    return fit_familiarity(land(np.random.default_rng(0), 6000), "0" * 64)


SUBSETS = [tuple(range(10)), (0, 1, 2, 7, 8, 9), (0, 1, 2, 6), (0, 1, 2, 3, 4, 5, 6, 8, 9), (2, 6, 8)]
"""Of Sentinel-2, of Landsat 8, of four bands, without B8A, and as few as may be."""


@pytest.mark.parametrize("bands", SUBSETS)
def test_of_any_bands_two_percent_of_the_known_and_all_nonsense_is_unlike(
    statistic: Familiarity, bands: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(1)

    def of(pixels: Array) -> Array:
        fewer = np.full_like(pixels, np.nan)
        fewer[list(bands)] = pixels[list(bands)]
        return statistic.scores(fewer)

    seen = of(land(rng, 4000))
    assert set(np.unique(seen)) <= {0, *SCORES}
    assert 0.005 < (seen >= UNLIKE).mean() < 0.04
    assert 0.4 < (seen >= 50).mean() < 0.6
    for strange in (rng.uniform(0, 0.8, (10, 500)), 0.6 - land(rng, 500), 10 * land(rng, 500)):
        assert (of(strange.astype(np.float32)) >= UNLIKE).mean() > (0.6 if len(bands) < 5 else 0.85)


def test_a_pixel_decides_alone_to_the_last_bit(statistic: Familiarity) -> None:
    """Whatever stands beside it, in whatever piece it is scored, and with whatever bands others have."""
    rng = np.random.default_rng(2)
    image = land(rng, 150 * 150).reshape(10, 150, 150)
    image[3, 7, 9] = np.nan
    image[:, 100:, :20] = np.nan
    image[7, 60:70] = np.nan
    whole = statistic.scores(image)
    assert (whole == UNKNOWN).sum() == 50 * 20
    assert whole[7, 9] != UNKNOWN  # of the nine others
    for rows, columns in ((slice(50, 101), slice(7, 33)), (slice(0, 1), slice(0, 150)), (slice(7, 8), slice(9, 10))):
        assert np.array_equal(whole[rows, columns], statistic.scores(image[:, rows, columns]))
    order = rng.permutation(150 * 150)
    assert np.array_equal(statistic.scores(image.reshape(10, -1)[:, order]), whole.ravel()[order])


def test_too_few_bands_and_values_without_measure_have_no_score(statistic: Familiarity) -> None:
    pixels = land(np.random.default_rng(3), 4)
    pixels[LEAST_BANDS - 1 :, 0] = np.nan
    pixels[:, 1] = np.nan
    pixels[:, 2] = 1e30
    pixels[:, 3] = -5
    scores = statistic.scores(pixels)
    assert scores[:2].tolist() == [UNKNOWN, UNKNOWN]
    assert scores[2] == 100
    assert np.isnan(statistic.distances(pixels)[:2]).all()
    pixels[:, 2] = np.inf
    assert statistic.scores(pixels)[2] == UNKNOWN


def test_farther_is_never_more_familiar(statistic: Familiarity) -> None:
    """Along a way out of all land the score rises to the end."""
    brighter = np.array([0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2], np.float32)[:, None]
    ways = brighter * np.linspace(1, 6, 40, dtype=np.float32)
    scores = statistic.scores(ways).astype(int)
    assert scores[-1] == 100
    assert (np.diff(scores[10:]) >= 0).all()
    assert (np.diff(statistic.distances(ways)[10:]) > 0).all()


def test_the_same_pixels_give_the_same_file(statistic: Familiarity, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        fit_familiarity(land(np.random.default_rng(0), 6000), "0" * 64).write(tmp_path / name)
    files = [(tmp_path / name / FAMILIARITY_FILE).read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    assert len(files[0]) < 200_000


def folder_with(tmp_path: Path, statistic: Familiarity, weights: bytes = b"weights") -> Path:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(weights)
    replace(statistic, weights_sha256=weights_fingerprint(tmp_path)).write(tmp_path)
    return tmp_path


def test_it_is_read_back_and_belongs_to_its_weights(statistic: Familiarity, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, statistic)
    found, note = read_familiarity(folder)
    assert note == ""
    assert found is not None
    pixels = land(np.random.default_rng(3), 100)
    assert np.array_equal(found.scores(pixels), statistic.scores(pixels))
    assert found.fingerprint() == statistic.fingerprint()
    assert replace(found, centres=found.centres + 1e-3).fingerprint() != found.fingerprint()
    (folder / "model.safetensors").write_bytes(b"trained on")
    assert read_familiarity(folder)[0] is None
    assert "made for other weights" in read_familiarity(folder)[1]


def test_an_adapted_checkpoint_keeps_that_of_its_base(statistic: Familiarity, tmp_path: Path) -> None:
    base = folder_with(tmp_path / "base", statistic)
    adapted = tmp_path / "adapted"
    adapted.mkdir()
    (adapted / "model.safetensors").write_bytes(b"another head")
    inherit_familiarity(base, adapted)
    found, _ = read_familiarity(adapted)
    assert found is not None
    assert found.fingerprint() == statistic.fingerprint()
    (base / FAMILIARITY_FILE).unlink()
    (adapted / FAMILIARITY_FILE).unlink()
    inherit_familiarity(base, adapted)
    assert read_familiarity(adapted) == (None, "")


def test_a_checkpoint_without_one_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert read_familiarity(tmp_path) == (None, "")


DAMAGES = ["garbage", "cut", "infinite", "shape", "no spread", "beyond", "nothing", "missing"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_left_aside_with_a_reason(statistic: Familiarity, tmp_path: Path, damage: str) -> None:
    folder = folder_with(tmp_path, statistic)
    path = folder / FAMILIARITY_FILE
    changed = {
        "infinite": {"centres": np.full_like(statistic.centres, np.inf)},
        "shape": {"centres": statistic.centres[:, 1:]},
        "no spread": {"spread": np.zeros_like(statistic.spread)},
        "beyond": {"sample": np.full_like(statistic.sample, -300)},
        "nothing": {"centres": statistic.centres[:0]},
    }
    if damage == "garbage":
        path.write_bytes(b"no archive")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "missing":
        np.savez(path, schema=np.array(2))
    else:
        replace(statistic, **changed[damage]).write(folder)
    found, note = read_familiarity(folder)
    assert found is None
    assert str(path) in note


def test_too_few_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="too few"):
        fit_familiarity(land(np.random.default_rng(4), 50), "0" * 64)
    with pytest.raises(CheckpointError, match="holds no weights"):
        weights_fingerprint(tmp_path)


def test_the_built_in_checkpoint_knows_land_and_not_salt() -> None:
    """The file belongs to the weights beside it: a training that forgets to make it anew is told here."""
    found, note = read_familiarity(resolve_checkpoint(DEFAULT_CHECKPOINT))
    assert note == ""
    assert found is not None
    assert (found.scores(land(np.random.default_rng(5), 500)) < UNLIKE).mean() > 0.9
    salt = np.array([[0.52, 0.58, 0.62, 0.63, 0.64, 0.65, 0.66, 0.66, 0.52, 0.36]], np.float32).T
    assert found.scores(salt)[0] >= UNLIKE
