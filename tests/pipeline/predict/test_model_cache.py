"""What is kept between runs: the same bytes as without it, and never in the way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipeline.predict import model_cache
from pipeline.predict.model_cache import kept_file
from pipeline.predict.spex_model import SpexModel
from pipeline.settings.run_file import ModelConfig
from spex_core import SpexForLandCover
from spex_core.legend import Legend
from tests.spex_core.conftest import build_tiny_model

LEGEND = Legend.from_yaml()
PIXELS = np.random.default_rng(0).uniform(0.02, 0.4, (2, 10, 64, 64)).astype(np.float32)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spex"


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    model = build_tiny_model(LEGEND, band_encoding=True)
    model.config.masks_by_class_words = True
    model.save_pretrained(tmp_path / "model")
    return ModelConfig(checkpoint=str(tmp_path / "model"))


def test_the_second_model_is_the_kept_one_and_scores_the_same(
    config: ModelConfig, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = SpexModel(config, LEGEND, "cpu").scores(PIXELS)
    assert len(list(home.iterdir())) == 1

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the whole model was loaded")

    monkeypatch.setattr(SpexForLandCover, "from_pretrained", refuse)
    again = SpexModel(config, LEGEND, "cpu")
    assert again.scores(PIXELS).tobytes() == first.tobytes()
    some = PIXELS.copy()
    some[:, 3:6] = np.nan  # source.bands without the red edge
    assert np.isfinite(again.scores(some)).all()


def test_another_legend_checkpoint_or_thread_count_has_a_file_of_its_own(config: ModelConfig) -> None:
    renamed = dataclasses.replace(LEGEND, classes=LEGEND.classes[:4])
    files = {
        kept_file("a", LEGEND, 1),
        kept_file("b", LEGEND, 1),
        kept_file("a", renamed, 1),
        kept_file("a", LEGEND, 2),
    }
    assert len(files) == 4


@pytest.mark.parametrize("harm", ["damaged", "link", "folder"])
def test_what_cannot_be_used_is_loaded_again(config: ModelConfig, home: Path, tmp_path: Path, harm: str) -> None:
    first = SpexModel(config, LEGEND, "cpu").scores(PIXELS)
    (file,) = home.iterdir()
    if harm == "damaged":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        file.unlink()
        if harm == "link":
            (tmp_path / "elsewhere").write_text("precious")
            file.symlink_to(tmp_path / "elsewhere")
        else:
            file.mkdir()
    assert SpexModel(config, LEGEND, "cpu").scores(PIXELS).tobytes() == first.tobytes()
    if harm == "link":
        assert (tmp_path / "elsewhere").read_text() == "precious"


def test_a_home_that_cannot_be_written_costs_nothing(
    config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert np.isfinite(SpexModel(config, LEGEND, "cpu").scores(PIXELS)).all()


def test_old_files_go(config: ModelConfig, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_cache, "KEPT_FILES", 2)
    for classes in (9, 8, 7):
        SpexModel(config, dataclasses.replace(LEGEND, classes=LEGEND.classes[:classes]), "cpu")
    assert len(list(home.glob("*.safetensors"))) == 2


def test_a_model_that_reads_the_image_for_its_masks_is_not_kept(tmp_path: Path, home: Path) -> None:
    build_tiny_model(LEGEND).save_pretrained(tmp_path / "other")
    SpexModel(ModelConfig(checkpoint=str(tmp_path / "other")), LEGEND, "cpu")
    assert not home.exists()
