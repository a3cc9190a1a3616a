"""A model without its language model scores as the whole one does, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spex_core import Legend, SpexForLandCover
from spex_core.errors import CheckpointError, ModelInputError
from spex_core.word_masks import WordMasks, read_word_masks, write_word_masks
from tests.spex_core.conftest import build_tiny_model

LEGEND = Legend.from_yaml()
PIXELS = 0.4 * torch.rand(2, 10, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def whole() -> SpexForLandCover:
    model = build_tiny_model(LEGEND, band_encoding=True)
    model.config.masks_by_class_words = True
    model.config.finer_look_gsd_m = 15.0
    return model.eval()


@pytest.fixture
def kept(whole: SpexForLandCover, tmp_path: Path) -> WordMasks:
    with torch.inference_mode():
        write_word_masks(whole, whole.class_word_prompts(LEGEND), tmp_path / "kept.safetensors")
    return read_word_masks(tmp_path / "kept.safetensors")


@pytest.mark.parametrize(
    "bands", [None, ["B02", "B03", "B04", "B08"], ["B11", "B8A", "B04"]], ids=["all", "four", "coarse"]
)
def test_scores_are_those_of_the_whole_model(whole: SpexForLandCover, kept: WordMasks, bands: list[str] | None) -> None:
    pixels = PIXELS if bands is None else PIXELS[:, : len(bands)]
    expected = whole.predict(pixels, LEGEND, bands=bands).scores
    assert expected is not None
    assert torch.equal(kept.scores(pixels, bands), expected)


def test_it_needs_nothing_of_transformers(kept: WordMasks, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from spex_core.word_masks import read_word_masks\n"
        f"read_word_masks(Path({str(tmp_path / 'kept.safetensors')!r}))\n"
        "assert 'transformers' not in sys.modules and 'tokenizers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pixels_that_are_not_finite_are_refused(kept: WordMasks) -> None:
    with pytest.raises(ModelInputError, match="NaN"):
        kept.scores(torch.full((1, 10, 32, 32), torch.nan))


def test_bands_are_refused_by_a_model_that_was_not_trained_for_them(tmp_path: Path) -> None:
    model = build_tiny_model(LEGEND).eval()
    with torch.inference_mode():
        write_word_masks(model, model.class_word_prompts(LEGEND), tmp_path / "kept.safetensors")
    with pytest.raises(ModelInputError, match="band_encoding"):
        read_word_masks(tmp_path / "kept.safetensors").scores(PIXELS[:, :3], ["B02", "B03", "B04"])


@pytest.mark.parametrize("damage", ["cut", "text", "foreign", "missing"])
def test_a_damaged_file_is_told(kept: WordMasks, tmp_path: Path, damage: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "kept.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "text":
        path.write_text("nothing")
    elif damage == "foreign":
        save_file({"a": torch.zeros(1)}, path)
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=r"kept\.safetensors"):
        read_word_masks(path)
