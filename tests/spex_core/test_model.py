from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from spex_core import CheckpointError, Legend, ModelInputError, SpexForLandCover, resolve_checkpoint
from spex_core.checkpoints import checkpoint_fingerprint
from spex_core.condensation import Condensation
from spex_core.prompts import question_text


def test_scores_are_one_distribution_over_the_legend_per_pixel(
    tiny_model: SpexForLandCover, legend: Legend, tiles: torch.Tensor
) -> None:
    prediction = tiny_model.predict(tiles, legend)
    assert prediction.scores.shape == (2, 9, 64, 64)
    torch.testing.assert_close(prediction.scores.sum(1), torch.ones(2, 64, 64))
    assert prediction.texts == []


def test_a_tile_scores_the_same_alone_and_in_a_batch(
    tiny_model: SpexForLandCover, legend: Legend, tiles: torch.Tensor
) -> None:
    tiles[1, :, :, :40] = 0.2  # other attributes, other prompt lengths
    together = tiny_model.predict(tiles, legend).scores
    alone = torch.cat([tiny_model.predict(tile[None], legend).scores for tile in tiles])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_the_shared_prefix_cache_equals_reading_each_prompt_whole(
    tiny_model: SpexForLandCover, legend: Legend, tiles: torch.Tensor
) -> None:
    processor = tiny_model.processor
    questions = processor.questions(tiles[0].numpy(), legend)
    text = processor.encode(questions, processor.short_answers(legend))
    with torch.inference_mode():
        tokens = tiny_model.encode_image(tiles[:1]).image_tokens
        shared = tiny_model.read_suffix(text, tiny_model.read_prefix(text.prefix_ids, tokens, len(legend)))
        embed = tiny_model.language_model.embed_tokens
        for row in range(len(legend)):
            length = int(text.attention_mask[row].sum())
            suffix = embed(text.suffix_ids[row : row + 1, :length])
            whole = torch.cat([embed(text.prefix_ids)[None], tokens, suffix], dim=1)
            states = tiny_model.language_model(inputs_embeds=whole).last_hidden_state[0, -length:]
            torch.testing.assert_close(shared[row, :length], states, atol=2e-5, rtol=1e-4)


def test_masks_depend_on_the_class_that_is_asked(
    tiny_model: SpexForLandCover, legend: Legend, tiles: torch.Tensor
) -> None:
    processor = tiny_model.processor
    text = processor.encode(processor.questions(tiles[0].numpy(), legend), processor.short_answers(legend))
    with torch.inference_mode():
        logits = tiny_model(tiles[:1], text).mask_logits[0]
    differences = (logits[:, None] - logits[None]).abs().amax((-2, -1))
    assert (differences + torch.eye(9) > 1e-4).all()


@pytest.mark.parametrize("explain", ["brief", "full"])
def test_explaining_writes_one_text_per_tile_and_class(
    tiny_model: SpexForLandCover, legend: Legend, tiles: torch.Tensor, explain: str
) -> None:
    prediction = tiny_model.predict(tiles, legend, explain=explain)
    assert [len(row) for row in prediction.texts] == [9, 9]
    assert torch.isfinite(prediction.scores).all()


@pytest.mark.parametrize("explain", ["none", "brief"])
def test_all_classes_at_once_equal_one_class_at_a_time(
    tiny_model: SpexForLandCover, legend: Legend, tiles: torch.Tensor, explain: str
) -> None:
    tiles[1, :, :, :40] = 0.2  # another tile, with other attributes and prompt lengths
    together = tiny_model.predict(tiles, legend, explain=explain)
    pairs = []
    for entry in legend:  # a legend of one class scores 1 everywhere, so each class is asked beside the first
        if entry is legend.classes[0]:
            continue
        two = dataclasses.replace(legend, classes=(legend.classes[0], entry))
        alone = [tiny_model.predict(tile[None], two, explain=explain) for tile in tiles]
        if explain != "none":
            position = legend.codes.index(entry.code)
            assert [a.texts[0][1] for a in alone] == [row[position] for row in together.texts]
        pairs.append(torch.cat([a.scores[:, 1] / a.scores[:, 0] for a in alone]))
    odds = torch.stack([torch.ones_like(pairs[0]), *pairs], dim=1)
    torch.testing.assert_close(together.scores, odds / odds.sum(1, keepdim=True), atol=1e-4, rtol=0)


def test_decoding_a_batch_equals_decoding_each_tile(
    tiny_model: SpexForLandCover, legend: Legend, tiles: torch.Tensor
) -> None:
    tiles[1, :, :, :40] = 0.2
    together = tiny_model.predict(tiles, legend, explain="brief")
    alone = [tiny_model.predict(tile[None], legend, explain="brief") for tile in tiles]
    assert together.texts == [a.texts[0] for a in alone]
    torch.testing.assert_close(together.scores, torch.cat([a.scores for a in alone]), atol=1e-4, rtol=1e-3)


def test_condensation_pools_like_adaptive_average_pooling(tiny_model: SpexForLandCover) -> None:
    condensation: Condensation = tiny_model.condensation
    states = torch.randn(4, 11, 32)
    spans = [(0, 11), (2, 9), (5, 8), (10, 11)]  # shorter than four tokens, too
    mask = torch.zeros(4, 11, dtype=torch.bool)
    for row, (start, end) in enumerate(spans):
        mask[row, start:end] = True
    expected = torch.stack(
        [
            torch.nn.functional.adaptive_avg_pool1d(states[row, start:end].T[None], 4)[0].T
            for row, (start, end) in enumerate(spans)
        ]
    )
    torch.testing.assert_close(condensation(states, mask), condensation.mlp(expected))


def test_a_checkpoint_round_trips(
    tiny_model: SpexForLandCover, legend: Legend, tiles: torch.Tensor, tmp_path: Path
) -> None:
    tiny_model.save_pretrained(tmp_path)
    again = SpexForLandCover.from_pretrained(tmp_path)
    assert torch.equal(again.predict(tiles, legend).scores, tiny_model.predict(tiles, legend).scores)
    assert not list(tmp_path.glob("*.bin"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :9], "has 9 bands; this model takes 10: B02"),
        (lambda x: (x * 10000).to(torch.int32), "give surface reflectance as float"),
        (lambda x: x[..., :50], "64 x 50 px; both sides must be multiples of 32"),
        (lambda x: x.where(x > 0.05, torch.nan), "holds NaN"),
        (lambda x: x * 10_000, "cannot be surface reflectance"),
        (lambda x: (x + 0.1) * 10_000, r"DN \* scale \+ offset"),
        (lambda x: (x + 0.05) * 100, "percent needs / 100"),
        (lambda x: x.where(x > 0.05, -9999.0), "missing pixels must be filled"),
        (lambda x: x - 1.0, "cannot be surface reflectance"),
        (lambda x: x[0], r"must be \[B, C, H, W\]"),
    ],
)
def test_bad_pixels_are_refused(
    tiny_model: SpexForLandCover, legend: Legend, tiles: torch.Tensor, change, message: str
) -> None:
    with pytest.raises(ModelInputError, match=message):
        tiny_model.predict(change(tiles), legend)


def test_saturated_and_over_corrected_pixels_are_reflectance(
    tiny_model: SpexForLandCover, legend: Legend, tiles: torch.Tensor
) -> None:
    odd = tiles.clone()
    odd[..., :8, :8] = 2.8
    odd[..., 8:16, :8] = -0.09
    assert torch.isfinite(tiny_model.predict(odd, legend).scores).all()


def test_a_prompt_longer_than_the_context_is_refused(tiny_model: SpexForLandCover, legend: Legend) -> None:
    with pytest.raises(ModelInputError, match="exceeds the model's context of 2048"):
        tiny_model.predict(torch.full((1, 10, 768, 768), 0.1), legend)


def test_unknown_explain_is_refused(tiny_model: SpexForLandCover, legend: Legend, tiles: torch.Tensor) -> None:
    with pytest.raises(ModelInputError, match="'verbose'"):
        tiny_model.predict(tiles, legend, explain="verbose")


def test_truncated_weights_are_a_checkpoint_error(tiny_model: SpexForLandCover, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a readable SPEX checkpoint"):
        SpexForLandCover.from_pretrained(tmp_path)


def test_a_pickle_is_not_loaded_as_weights(tiny_model: SpexForLandCover, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tiny_model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a readable SPEX checkpoint"):
        SpexForLandCover.from_pretrained(tmp_path)


def test_an_unknown_checkpoint_names_the_built_in_ones() -> None:
    with pytest.raises(CheckpointError, match="'spex-s3'"):
        resolve_checkpoint("spex-s3")


def test_a_fingerprint_follows_the_weights(tiny_model: SpexForLandCover, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path)
    before = checkpoint_fingerprint(tmp_path)
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert checkpoint_fingerprint(tmp_path) != before


def test_the_question_without_records_has_an_empty_list() -> None:
    assert question_text("water", (), ("size",)).endswith("regions, please provide a detailed description of them:[]")


def test_numbers_are_single_digit_tokens(tiny_model: SpexForLandCover) -> None:
    tokenizer = tiny_model.processor.tokenizer
    ids = tokenizer("0.48 and 0.84", add_special_tokens=False)["input_ids"]
    assert sorted(tokenizer.convert_ids_to_tokens(ids)[:3]) == ["0.", "4", "8"]
    assert tokenizer.decode(ids) == "0.48 and 0.84"


def test_the_legend_may_be_any(tiny_model: SpexForLandCover, tiles: torch.Tensor) -> None:
    legend = Legend.from_dict(
        {
            "name": "two",
            "classes": [
                {"code": 1, "name": "Water", "color": "#0000ff"},
                {"code": 2, "name": "Rest", "color": "#ffffff"},
            ],
        }
    )
    assert tiny_model.predict(tiles, legend).scores.shape == (2, 2, 64, 64)
