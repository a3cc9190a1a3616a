"""Refining: possible classes share their probability, two looks must agree, and a stop changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ChipError, ConfigError
from spex_core.legend import Legend
from spex_core.modeling import SpexForLandCover
from spex_core.training_state import write_half_precision
from tests.spex_core.conftest import build_tiny_model
from workflows import refine as refining
from workflows.labelled.by_eye import FOLDER, labelled_by_eye, read_codes
from workflows.labelled.registry import Split
from workflows.labelled.views import Ground
from workflows.refine import Batch, Land, Settings, batch_of, losses, main, open_land, refine

LEGEND = Legend.from_yaml()


def tiny() -> SpexForLandCover:
    return build_tiny_model(LEGEND, band_encoding=True)


def land() -> Land:
    rng = np.random.default_rng(0)
    grounds = []
    for channel in (1, 4):
        reflectance = rng.uniform(0.02, 0.06, (10, 64, 64)).astype(np.float32) * (1 + 3 * channel)
        grounds.append(Ground(f"made/{channel}", reflectance, np.full((64, 64), 1 << channel, np.uint16)))
    return Land(None, None, ((1.0, tuple(grounds)),), ())


@pytest.fixture
def small_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refining, "SIZE_PX", 32)
    monkeypatch.setattr(refining, "SHIFT_PX", 16)
    monkeypatch.setattr(refining, "SAVE_EVERY", 2)


def batch(possible: list[list[bool]]) -> Batch:
    """One pixel of each view, no pair."""
    told = torch.tensor(possible)[:, :, None, None]
    count = len(possible)
    return Batch(
        torch.zeros(count, 10, 1, 1), told, torch.zeros(count, 10), torch.zeros(count, 10), torch.ones(count), ()
    )


def test_surprise_of_a_single_class_is_its_cross_entropy_and_of_several_that_of_their_sum() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0]])[:, :, None, None]
    share = logits.softmax(1).flatten()
    for possible in ([True, False, False], [True, False, True], [False, True, True]):
        expected = -torch.log(share[torch.tensor(possible)].sum())
        # One pixel: its weight cancels in the mean.
        assert losses(logits.repeat(2, 1, 1, 1), _one_pair(batch([possible])))[0] == pytest.approx(
            float(expected), abs=1e-5
        )


def _one_pair(made: Batch) -> Batch:
    class Same:
        common = ((slice(0, 1), slice(0, 1)), (slice(0, 1), slice(0, 1)))

    doubled = {
        name: torch.cat([getattr(made, name)] * 2)
        for name in ("reflectance", "possible", "wavelength_nm", "gsd_m", "say")
    }
    return Batch(**doubled, pairs=(Same(),))  # type: ignore[arg-type]


def test_disagreement_is_of_two_looks_at_the_same_ground() -> None:
    said = torch.tensor([[1.0, 2.0, -1.0], [1.0, 2.0, -1.0]])[:, :, None, None]
    pair = _one_pair(batch([[False] * 3]))
    surprise, masks, apart = losses(said, pair)
    assert [float(surprise), float(masks), float(apart)] == [0, 0, 0], "nothing is labelled, and both say the same"
    other = torch.tensor([[1.0, 2.0, -1.0], [2.0, -1.0, 1.0]])[:, :, None, None]
    assert float(losses(other, pair)[2]) > 0.5


def test_a_step_depends_on_seed_and_number_alone() -> None:
    first, again, next_one = (batch_of(land(), len(LEGEND), 2, 0, step) for step in (5, 5, 6))
    assert torch.equal(first.reflectance.nan_to_num(9), again.reflectance.nan_to_num(9))
    assert torch.equal(first.possible, again.possible)
    assert not torch.equal(first.reflectance.nan_to_num(9), next_one.reflectance.nan_to_num(9))


def test_a_refinement_that_was_stopped_ends_like_one_that_was_not(tmp_path: Path, small_views: None) -> None:
    settings = Settings(steps=4, places=1)
    torch.manual_seed(0)
    whole = refine(tiny(), land(), LEGEND, settings, tmp_path / "whole")

    class Stopped(Exception):
        pass

    class Stops(Land):
        def draw(self, rng: np.random.Generator) -> tuple[Ground, float]:
            if next(calls) == 3:
                raise Stopped
            return super().draw(rng)

    calls, full = iter(range(100)), land()
    stops = Stops(full.simulated, full.painted, full.labelled, full.taught)
    with pytest.raises(Stopped):
        refine(tiny(), stops, LEGEND, settings, tmp_path / "parts")
    parts = refine(tiny(), full, LEGEND, settings, tmp_path / "parts")
    before = tiny()
    changed = set()
    for (name, one), other, start in zip(
        whole.named_parameters(), parts.parameters(), before.parameters(), strict=True
    ):
        assert torch.equal(one, other), name
        if not torch.equal(one, start):
            changed.add(name.split(".")[0])
    assert changed >= {"encoder", "mask_decoder"}
    assert not changed & {"language_model", "projector", "condensation"}
    with pytest.raises(ConfigError, match="another refinement"):
        refine(tiny(), full, LEGEND, Settings(steps=5, places=1), tmp_path / "parts")


def test_it_writes_a_checkpoint_that_loads(tmp_path: Path, small_views: None, monkeypatch: pytest.MonkeyPatch) -> None:
    write_half_precision(tiny(), tmp_path / "start")
    monkeypatch.setattr(refining, "open_land", lambda *given: land())
    command = ["--output", str(tmp_path / "out"), "--start", str(tmp_path / "start"), "--steps", "2", "--places", "1"]
    assert main(command) == 0
    model = SpexForLandCover.from_pretrained(tmp_path / "out" / "last")
    pixels = torch.rand(1, 10, 32, 32) * 0.3
    assert torch.allclose(model.predict(pixels, LEGEND).scores.sum(1), torch.ones(1, 32, 32), atol=1e-3)


def test_a_checkpoint_that_needs_all_bands_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="band_encoding"):
        refine(build_tiny_model(LEGEND), land(), LEGEND, Settings(steps=1), tmp_path)


def test_nothing_to_learn_from_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="--simulated"):
        open_land(None, None, None, LEGEND)
    assert main(["--output", str(tmp_path), "--simulated", str(tmp_path / "none")]) == 2
    assert "reflectance.npy" in capsys.readouterr().err


def test_labels_by_eye_are_codes_of_places_to_train_on() -> None:
    files = sorted(FOLDER.glob("*.png"))
    assert len(files) >= 10
    for path in files:
        assert set(np.unique(read_codes(path)).tolist()) <= {0, *LEGEND.codes}


def test_labels_by_eye_of_an_evaluation_place_or_of_another_size_are_refused(tmp_path: Path) -> None:
    from tests.workflows.labelled_samples import bands_apart, raster

    real, labels = tmp_path / "real", tmp_path / "labels"
    raster(real / "austria-ftw-s2" / "ftw_two_dates.tif", bands_apart(8))
    labels.mkdir()
    shutil.copy(FOLDER / "austria1.png", labels)
    split = Split.from_yaml()
    with pytest.raises(ChipError, match=r"austria1\.png is \[379, 578\]"):
        list(labelled_by_eye(real, split, labels))
    moved = Split(split.train - {"austria-ftw-s2"}, split.evaluate | {"austria-ftw-s2"})
    with pytest.raises(ChipError, match="for evaluation"):
        list(labelled_by_eye(real, moved, labels))
    (labels / "austria1.png").write_bytes(b"no picture")
    with pytest.raises(ChipError, match="cannot be read"):
        list(labelled_by_eye(real, split, labels))
