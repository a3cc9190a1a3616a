"""A chip folder of three places and a tiny checkpoint: a training of seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.chips.chip_folder import SCALE
from pipeline.training import TrainFile
from spex_core.legend import Legend
from tests.spex_core.conftest import build_tiny_model

GREEN = np.array([0.03, 0.05, 0.03, 0.08, 0.22, 0.28, 0.30, 0.31, 0.15, 0.07])
WATER = np.array([0.05, 0.05, 0.03, 0.02, 0.01, 0.01, 0.01, 0.01, 0.005, 0.003])


def write_chips(folder: Path, count: int = 3, size_px: int = 64) -> Path:
    """Forest left, water right, the shore elsewhere in each chip."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    forest = np.arange(size_px) < rng.integers(16, 48, (count, 1))
    image = np.where(forest[:, None, None, :], GREEN[:, None, None], WATER[:, None, None])
    image = np.broadcast_to(image, (count, 10, size_px, size_px)) + rng.normal(0, 0.004, (count, 10, size_px, size_px))
    np.save(folder / "reflectance.npy", np.round(image * SCALE).astype(np.int16))
    codes = np.where(forest, 10, 80).astype(np.uint8)
    np.save(folder / "codes.npy", np.repeat(codes[:, None], size_px, axis=1))
    np.save(folder / "weight.npy", np.ones((count, size_px, size_px), np.uint8))
    return folder


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``chips`` and the checkpoint ``tiny``."""
    folder = tmp_path_factory.mktemp("training")
    write_chips(folder / "chips")
    build_tiny_model(Legend.from_yaml(), band_encoding=True).save_pretrained(folder / "tiny")
    return folder


def training_document(**settings: Any) -> dict[str, Any]:
    """A training of three stages and six steps."""
    shape = {"batch": 2, "crop_px": 32}
    return {
        "output": "out",
        "model": {"init": "./tiny"},
        "sources": [{"name": "shore", "kind": "chips", "folder": "chips"}],
        "stages": [
            {"kind": "pretrain", "steps": 2, **shape},
            {"kind": "words", "steps": 2, **shape},
            {"kind": "prompt", "steps": 2, "restart": True, **shape},
        ],
        "optimiser": {"learning_rate": 3e-3, "warmup_steps": 2},
        "validation": {"source": "shore", "chips": 1},
        "checkpoint_every": 2,
        "record_every": 1,
        **settings,
    }


def training_file(workplace: Path, **settings: Any) -> TrainFile:
    """The same, read."""
    return TrainFile.from_dict(training_document(**settings), workplace)
