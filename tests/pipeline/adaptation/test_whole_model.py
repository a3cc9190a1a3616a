"""The whole model learns labelled pixels: stopped and begun again it ends the same, and is kept only where it gains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.adaptation import whole_model
from pipeline.adaptation.adapt import AdaptOptions, _tensors, adapt
from pipeline.adaptation.samples import block_ids
from pipeline.adaptation.seen import Chip
from pipeline.adaptation.whole_model import Labelled, check_patience, train_whole
from pipeline.errors import SurveyError
from pipeline.machine.progress import LogProgress
from spex_core.adapting import sampled_sources
from spex_core.bands import SENTINEL2_BANDS
from spex_core.errors import CheckpointError
from spex_core.legend import Legend
from tests.conftest import tiny_config
from tests.spex_core.conftest import build_tiny_model


class Stopped(Exception):
    """Somebody pressed Ctrl-C."""


class Stopping(LogProgress):
    """Stops after so many steps."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def advance(self, amount: int = 1) -> None:
        self.left -= amount
        if self.left < 0:
            raise Stopped


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STEPS", 4), ("CHIPS_PER_STEP", 1), ("SAVE_EVERY", 2), ("SIDE_PX", 32), ("FOLDS", 2)):
        monkeypatch.setattr(whole_model, name, value)
    monkeypatch.setattr("pipeline.adaptation.validation.TREES", 5)


def labelled(seed: int = 0) -> Labelled:
    """Eight chips of 32 px, dark and bright halves."""
    rng = np.random.default_rng(seed)
    model: Any = build_tiny_model(Legend.from_yaml(), band_encoding=True)
    model.config.masks_by_class_words = True
    words = model.class_word_prompts(Legend.from_yaml()).clone()
    chips, sources, pixels, labels, xy = [], [], [], [], []
    for number in range(8):
        tile = rng.uniform(0.02, 0.05, (10, 32, 32)).astype(np.float32)
        tile[:, :, 16:] += 0.3
        rows, columns = [4, 12, 20, 28], [4, 20, 12, 28]
        chips.append(Chip(tile, rows, columns, [4 * number + i for i in range(4)]))
        found = sampled_sources(model, torch.from_numpy(tile[None]), rows, columns, words)
        sources.append({name: table.numpy() for name, table in found.items()})
        pixels.append(tile[:, rows, columns].T)
        labels += [int(column >= 16) for column in columns]
        xy += [(1000.0 * number + 10 * column, -10.0 * row) for row, column in zip(rows, columns, strict=True)]
    legend = Legend("own", "Own", Legend.from_yaml().classes[:2])
    joined = {name: np.concatenate([part[name] for part in sources]) for name in sources[0]}
    at, known = np.array(xy), np.array(labels, np.int64)
    blocks = block_ids(at, 1000.0)
    return Labelled(
        model, legend, words, joined, np.concatenate(pixels), known, blocks, at, 0.0, chips, SENTINEL2_BANDS
    )


@pytest.mark.usefixtures("short")
def test_a_training_that_was_stopped_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_model, "splits", lambda *_: [])  # nothing to compare with: it is trained and kept
    whole, figures = train_whole(labelled(), _tensors, tmp_path / "a", LogProgress())
    assert whole is not None
    assert figures is None
    with pytest.raises(Stopped):
        train_whole(labelled(), _tensors, tmp_path / "b", Stopping(2))
    assert (tmp_path / "b" / "all" / "training" / "state.pt").exists()
    with pytest.raises(CheckpointError, match=r"another training: .*labelled"):
        train_whole(labelled(1), _tensors, tmp_path / "b", LogProgress())
    again, _ = train_whole(labelled(), _tensors, tmp_path / "b", LogProgress())
    assert again is not None
    before = labelled().model.state_dict()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    moved = [n for n, v in whole.state_dict().items() if n in before and not torch.equal(v, before[n])]
    assert any(name.startswith("encoder") for name in moved)
    assert not any(name.startswith("language_model") for name in moved)
    assert not list(tmp_path.iterdir()), "what is done needs no state"


@pytest.mark.usefixtures("short")
def test_it_is_kept_only_where_left_out_blocks_gain(tmp_path: Path) -> None:
    model, figures = train_whole(labelled(), _tensors, tmp_path / "state", LogProgress())
    assert figures is not None
    assert figures.kept == (figures.full.overall > figures.head.overall)
    assert (model is not None) == figures.kept
    assert figures.to_dict()["held_out"] == 16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused_before_anything_is_read(tiny_archive: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_archive, tmp_path / "map")
    with pytest.raises(SurveyError, match="--on-cpu"):
        adapt(config, AdaptOptions(None, "class", tmp_path / "own", labels=True, full=True), LogProgress())
    check_patience(True)
