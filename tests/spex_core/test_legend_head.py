"""A legend's own head: what it is fitted on is what it answers on a map, and it is bound to its legend."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spex_core.adapting import HEAD, adapted_model, check_adaptable, sampled_sources, write_adapted
from spex_core.errors import CheckpointError, ModelInputError
from spex_core.legend import Legend, LegendClass
from spex_core.modeling import SpexForLandCover
from spex_core.word_masks import WordMasks, read_word_masks, write_word_masks
from tests.spex_core.conftest import build_tiny_model

OWN = Legend("own", "own", tuple(LegendClass(code, name, name, "#102030") for code, name in ((3, "reed"), (7, "tree"))))
ROWS, COLUMNS = [0, 5, 31, 63, 40], [0, 60, 32, 63, 7]


@pytest.fixture(scope="module")
def base(legend: Legend) -> SpexForLandCover:
    model = build_tiny_model(legend, band_encoding=True)
    model.config.masks_by_class_words = True
    return model


def adapted(base: SpexForLandCover, legend: Legend, tiles: torch.Tensor) -> tuple[SpexForLandCover, torch.Tensor]:
    """A head with random weights, and the scores that its weights give at some pixels."""
    words = base.class_word_prompts(legend).clone()
    sources = sampled_sources(base, tiles[:1], ROWS, COLUMNS, words)
    generator = torch.Generator().manual_seed(1)
    weights = {name: torch.randn(2, table.shape[1], generator=generator) * 0.1 for name, table in sources.items()}
    bias = torch.tensor([0.3, -0.2])
    logits = bias + sum(table @ weights[name].T for name, table in sources.items())
    return adapted_model(base, OWN, weights, bias, words, 2.0), (logits / 2.0).softmax(dim=1)


def test_a_map_answers_what_was_fitted(base: SpexForLandCover, legend: Legend, tiles: torch.Tensor) -> None:
    model, expected = adapted(base, legend, tiles)
    scores = model.predict(tiles[:1], OWN).scores
    assert scores is not None
    torch.testing.assert_close(scores[0][:, ROWS, COLUMNS].T, expected, atol=2e-5, rtol=1e-4)


def test_it_is_the_same_from_its_folder_and_without_its_language_model(
    base: SpexForLandCover, legend: Legend, tiles: torch.Tensor, tmp_path: Path
) -> None:
    model, _ = adapted(base, legend, tiles)
    write_adapted(model, tmp_path / "own", torch.float32)
    again = SpexForLandCover.from_pretrained(tmp_path / "own")
    scores = model.predict(tiles, OWN).scores
    assert scores is not None
    found = again.predict(tiles, OWN).scores
    assert found is not None
    assert found.numpy().tobytes() == scores.numpy().tobytes()
    write_word_masks(again, again.class_word_prompts(OWN), tmp_path / "kept.safetensors")
    kept = read_word_masks(tmp_path / "kept.safetensors")
    assert isinstance(kept, WordMasks)
    assert kept.scores(tiles).numpy().tobytes() == scores.numpy().tobytes()
    some = [name for name in again.config.bands if name not in ("B05", "B06", "B07")]
    left = [again.config.bands.index(name) for name in some]
    fewer = again.predict(tiles[:, left], OWN, bands=some).scores
    assert fewer is not None
    assert torch.isfinite(fewer).all()


def test_half_precision_is_for_the_frozen_part(
    base: SpexForLandCover, legend: Legend, tiles: torch.Tensor, tmp_path: Path
) -> None:
    model, _ = adapted(base, legend, tiles)
    write_adapted(model, tmp_path / "own", torch.float16)
    again = SpexForLandCover.from_pretrained(tmp_path / "own")
    for name, value in model.state_dict().items():
        stored = again.state_dict()[name]
        assert torch.equal(stored, value if name.startswith(HEAD) else value.half().float()) or "position" in name


def test_another_legend_and_a_second_adaptation_are_refused(
    base: SpexForLandCover, legend: Legend, tiles: torch.Tensor
) -> None:
    model, _ = adapted(base, legend, tiles)
    with pytest.raises(ModelInputError, match=r"adapted to the classes 3 7.*legend\.yaml"):
        model.predict(tiles, legend)
    with pytest.raises(CheckpointError, match="adapted already"):
        check_adaptable(model, "own")
    with pytest.raises(CheckpointError, match="masks_by_class_words"):
        check_adaptable(build_tiny_model(legend), "plain")
