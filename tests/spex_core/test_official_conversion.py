"""Conversion of published checkpoints: every format, every weight accounted for, every mistake told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spex_core import CheckpointError, Legend, SpexConfig, SpexForLandCover
from spex_core.decoding import DecodingRule
from spex_core.official import convert_checkpoint
from spex_core.official_layout import config_of, our_name
from spex_core.official_procedure import freeze_as_published, prompt_ids, published_losses, published_mask
from tests.spex_core.official_fixtures import FIXTURES, manifest, needs_fixtures
from tests.spex_core.published_state import (
    lively_state,
    published_shapes,
    random_state,
    tiny_published_config,
    write_config,
    write_published,
)

CONFIG = tiny_published_config()
STATE = random_state(CONFIG)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return write_published(tmp_path / "published", STATE, CONFIG)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpexForLandCover:
    folder = tmp_path_factory.mktemp("conversion")
    convert_checkpoint(write_published(folder / "published", STATE, CONFIG), folder / "ours")
    return SpexForLandCover.from_pretrained(folder / "ours")


def assert_holds(folder: Path, state: dict[str, Tensor], *, half: bool = True) -> None:
    """A converted folder loads and holds exactly these published weights."""
    ours = SpexForLandCover.from_pretrained(folder).state_dict()
    assert len(ours) == len(state)
    for key, tensor in state.items():
        assert torch.equal(ours[our_name(key)], tensor.half().float() if half else tensor), key


def test_a_published_folder_becomes_ours_rounded_to_float16(published: Path, tmp_path: Path) -> None:
    report = convert_checkpoint(published, tmp_path / "ours")
    assert report.keys == len(STATE)
    assert report.rounded == len(STATE)
    assert report.ignored == ()
    assert report.tokenizer
    assert_holds(tmp_path / "ours", STATE)
    stored = load_file(tmp_path / "ours" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert not list(tmp_path.glob(".ours*"))


def test_the_layout_is_read_from_the_shapes(model: SpexForLandCover) -> None:
    for name in ("channels", "depths", "group_channels", "mlp_ratio", "aggregator_channels", "condensation_widths"):
        assert getattr(model.config, name) == getattr(CONFIG, name), name
    for name in ("decoder_width", "decoder_heads", "decoder_mlp", "decoder_layers", "mask_tokens", "mixer"):
        assert getattr(model.config, name) == getattr(CONFIG, name), name
    assert model.config.offset_scale == 2.0
    assert model.config.double_softmax
    assert model.config.text.rope_parameters["rope_theta"] == 1e6


def test_float32_weights_can_be_kept(published: Path, tmp_path: Path) -> None:
    assert convert_checkpoint(published, tmp_path / "ours", keep_float32=True).rounded == 0
    assert_holds(tmp_path / "ours", STATE, half=False)


def split(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    names = list(state)
    return [{name: state[name] for name in names[part::2]} for part in (0, 1)]


@pytest.mark.parametrize("layout", ["bin", "old bin", "shards", "bin shards"])
def test_every_weight_format_gives_the_same(layout: str, tmp_path: Path) -> None:
    source = tmp_path / "published"
    write_config(source, CONFIG)
    if layout in ("bin", "old bin"):
        path = source / "pytorch_model.bin"
        torch.save(STATE, path, _use_new_zipfile_serialization=layout == "bin")
    else:
        kind = "model.safetensors" if layout == "shards" else "pytorch_model.bin"
        weight_map = {}
        for index, shard in enumerate(split(STATE)):
            name = f"{index}.{kind}"
            (save_file if layout == "shards" else torch.save)(shard, source / name)
            weight_map |= dict.fromkeys(shard, name)
        (source / f"{kind}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    report = convert_checkpoint(source, tmp_path / "ours")
    assert not report.tokenizer
    assert_holds(tmp_path / "ours", STATE)
    assert SpexForLandCover.from_pretrained(tmp_path / "ours").processor is None


def test_large_results_are_sharded(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spex_core.official.SHARD_BYTES", 50_000)
    convert_checkpoint(published, tmp_path / "ours")
    assert len(list((tmp_path / "ours").glob("model-*-of-*.safetensors"))) > 2
    assert_holds(tmp_path / "ours", STATE)


def test_a_tied_head_and_old_buffers_are_named_as_ignored(tmp_path: Path) -> None:
    extra = {"lm_head.weight": torch.zeros(300, 32), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    report = convert_checkpoint(write_published(tmp_path / "published", STATE | extra, CONFIG), tmp_path / "ours")
    assert sorted(report.ignored) == sorted(extra)
    assert_holds(tmp_path / "ours", STATE)


def test_a_head_of_its_own_is_used_where_it_is_not_tied(tmp_path: Path) -> None:
    state = STATE | {"lm_head.weight": torch.randn(300, 32)}
    source = write_published(tmp_path / "published", state, CONFIG)
    write_config(source, CONFIG, tie_word_embeddings=False)
    convert_checkpoint(source, tmp_path / "ours")
    assert_holds(tmp_path / "ours", state)
    loaded = SpexForLandCover.from_pretrained(tmp_path / "ours")
    states = torch.randn(2, 32)
    torch.testing.assert_close(loaded.text_logits(states), states @ state["lm_head.weight"].half().float().T)


def test_an_image_newline_is_loaded_and_appended_when_asked(tmp_path: Path) -> None:
    state = STATE | {"model.image_newline": torch.randn(32)}
    convert_checkpoint(write_published(tmp_path / "published", state, CONFIG), tmp_path / "ours")
    assert_holds(tmp_path / "ours", state)
    image = torch.rand(1, 3, 64, 64)
    demo = SpexForLandCover.from_pretrained(tmp_path / "ours").encode_image(image).image_tokens
    trained = SpexForLandCover.from_pretrained(tmp_path / "ours", append_image_newline=True)
    tokens = trained.encode_image(image).image_tokens
    assert (demo.shape[1], tokens.shape[1]) == (16, 17)
    assert torch.equal(tokens[0, -1], state["model.image_newline"].half().float())


LORA_TARGET = "model.layers.1.self_attn.q_proj.weight"


def write_lora(folder: Path, base: Path, **changes: object) -> dict[str, Tensor]:
    """A LoRA folder: the vision tower beside the adapter, but without its buffer; returns the merged state."""
    trained = {key: tensor + 1 for key, tensor in STATE.items() if "vision_tower" in key and "positional" not in key}
    a, b = torch.randn(4, 32), torch.randn(32, 4)
    write_config(folder, CONFIG)
    adapter = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(adapter | changes))
    name = "base_model.model." + LORA_TARGET.removesuffix(".weight")
    save_file({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, folder / "adapter_model.safetensors")
    prefixed = {f"base_model.model.{key}": tensor for key, tensor in trained.items()}
    torch.save(prefixed, folder / "non_lora_trainables.bin")
    return STATE | trained | {LORA_TARGET: STATE[LORA_TARGET] + 2 * b @ a}


def test_lora_is_merged_into_its_base_with_what_was_trained_beside_it(published: Path, tmp_path: Path) -> None:
    merged = write_lora(tmp_path / "lora", published)
    report = convert_checkpoint(tmp_path / "lora", tmp_path / "ours")
    assert report.tokenizer  # the base's
    assert_holds(tmp_path / "ours", merged)


def test_the_base_of_a_lora_can_be_named(published: Path, tmp_path: Path) -> None:
    merged = write_lora(tmp_path / "lora", Path("MiliLab/not-here"))
    with pytest.raises(CheckpointError, match="MiliLab/not-here', which is not a local folder"):
        convert_checkpoint(tmp_path / "lora", tmp_path / "ours")
    convert_checkpoint(tmp_path / "lora", tmp_path / "ours", base=published)
    assert_holds(tmp_path / "ours", merged)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "plain LoRA only, not use_dora"),
        ({"r": 0}, "no usable r and lora_alpha"),
        ({"r": 8}, "has not the shapes of rank 8"),
    ],
)
def test_adapters_that_are_not_plain_lora_are_refused(
    published: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    write_lora(tmp_path / "lora", published, **changes)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(tmp_path / "lora", tmp_path / "ours")


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in STATE.items() if key != name}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (STATE | {"model.surprise": torch.ones(1)}, "1 x unknown key: model.surprise"),
        (without("model.norm.weight"), "1 x missing key: language_model.norm.weight"),
        (without("model.embed_tokens.weight"), "no weight for 'language_model.embed_tokens.weight'"),
        (STATE | {"model.norm.weight": torch.ones(7)}, r"1 x wrong shape: language_model.norm.weight \(7,\) instead"),
        (STATE | {"model.norm.weight": torch.full((32,), 7e4)}, "model.norm.weight does not fit float16"),
        (STATE | {"model.norm.weight": torch.full((32,), torch.nan)}, "model.norm.weight holds NaN or infinity"),
        (STATE | {"model.layers.2.mlp.up_proj.weight": torch.ones(48, 32)}, "1 x key without a place in this layout"),
    ],
)
def test_keys_are_accounted_for_strictly(state: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(write_published(tmp_path / "published", state, CONFIG), tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_truncated_weights_are_told(published: Path, tmp_path: Path) -> None:
    path = published / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model.safetensors is corrupt or truncated"):
        convert_checkpoint(published, tmp_path / "ours")


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_is_not_weights_is_not_executed(
    tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "published", CONFIG)
    path = tmp_path / "published" / "pytorch_model.bin"
    torch.save({"weights": Bomb()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="is not a file of weights, and nothing else is opened"):
        convert_checkpoint(tmp_path / "published", tmp_path / "ours")
    assert not (tmp_path / "exploded").exists()


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        convert_checkpoint(tmp_path / "nothing", tmp_path / "ours")
    write_config(tmp_path / "published", CONFIG)
    with pytest.raises(CheckpointError, match="has no weights"):
        convert_checkpoint(tmp_path / "published", tmp_path / "ours")
    index = tmp_path / "published" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"misses gone.safetensors, which model.safetensors.index.json names"):
        convert_checkpoint(tmp_path / "published", tmp_path / "ours")
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(CheckpointError, match="names no weight files of its own folder"):
        convert_checkpoint(tmp_path / "published", tmp_path / "ours")


def test_a_checkpoint_that_lost_weights_is_not_filled_up_at_random(published: Path, tmp_path: Path) -> None:
    convert_checkpoint(published, tmp_path / "ours")
    path = tmp_path / "ours" / "model.safetensors"
    weights = load_file(path)
    weights["surprise"] = weights.pop("encoder.stem.conv1.bias")
    save_file(weights, path)
    with pytest.raises(CheckpointError, match=r"missing keys: encoder.stem.conv1.bias"):
        SpexForLandCover.from_pretrained(tmp_path / "ours")


def test_a_config_of_another_model_is_refused(published: Path, tmp_path: Path) -> None:
    write_config(published, CONFIG, model_type="llama")
    with pytest.raises(CheckpointError, match="model_type 'llama'; a published SPEX checkpoint has 'llava_qwen'"):
        convert_checkpoint(published, tmp_path / "ours")


def test_a_folder_that_holds_something_is_not_overwritten(published: Path, tmp_path: Path) -> None:
    target = tmp_path / "ours"
    target.mkdir()
    (target / "mine.txt").write_text("keep me")
    with pytest.raises(CheckpointError, match="already holds something"):
        convert_checkpoint(published, target)
    (target / "mine.txt").unlink()
    convert_checkpoint(published, target)  # an empty folder is as good as none


def test_a_converted_model_answers_a_legend_and_a_question(model: SpexForLandCover, legend: Legend) -> None:
    image = torch.rand(1, 3, 64, 64)
    prediction = model.predict(image, legend, explain="brief")
    assert prediction.scores.shape == (1, 9, 64, 64)
    torch.testing.assert_close(prediction.scores.sum(1), torch.ones(1, 64, 64))
    question = model.processor.question(next(iter(legend)), ())
    assert question.startswith("\\nBased on the provided image")
    ids = prompt_ids(model, question)
    assert ids.tolist().count(-200) == 1
    result = published_mask(model, image[0], ids, max_new_tokens=5)
    assert result.mask.shape == (64, 64)
    assert set((result.mask * 64).unique().tolist()) <= set(range(65))  # grey edges of a thresholded quarter-size mask
    assert result.answer_states.shape[0] == max(len(result.token_ids) - 1, 1)


def test_parity_mode_scores_are_the_published_masks_of_every_class(tmp_path: Path, legend: Legend) -> None:
    """One pass over all classes equals the published procedure, one class at a time."""
    convert_checkpoint(write_published(tmp_path / "published", lively_state(CONFIG), CONFIG), tmp_path / "ours")
    model = SpexForLandCover.from_pretrained(tmp_path / "ours")
    official = SpexForLandCover(SpexConfig.from_dict(model.config.to_dict() | {"official_numerics": True})).eval()
    official.load_state_dict(model.state_dict())
    official.processor, official.decoding = model.processor, model.decoding
    image = torch.rand(2, 3, 64, 64)
    prediction = official.predict(image, legend, explain="brief")
    torch.testing.assert_close(prediction.scores.sum(1), torch.ones(2, 64, 64))
    prompts = [prompt_ids(official, official.processor.question(entry, ())) for entry in legend]
    for tile, scores, texts in zip(image, prediction.scores, prediction.texts, strict=True):
        answers = [published_mask(official, tile, ids, max_new_tokens=48) for ids in prompts]
        assert texts == [official.processor.decode([t for t in a.token_ids if t not in (0, 2)]) for a in answers]
        masks = torch.stack([answer.mask for answer in answers])
        assert ((masks > 0) & (masks < 1)).any(), "edges of masks that were thresholded before they were resized"
        claimed = masks.sum(0)
        expected = torch.where(claimed > 0, masks / claimed.clamp_min(1e-6), torch.tensor(1 / 9))
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)


def test_frequencies_of_positions_are_never_rounded_to_half(model: SpexForLandCover, tmp_path: Path) -> None:
    exact = torch.randn(2, 8) * 640
    copy = SpexForLandCover(model.config)
    copy.mask_decoder.position.positional_embedding.copy_(exact)
    copy.save_pretrained(tmp_path)
    for half in (copy.to(torch.bfloat16), SpexForLandCover.from_pretrained(tmp_path, dtype=torch.bfloat16)):
        assert half.neck.conv1.weight.dtype == torch.bfloat16
        assert torch.equal(half.mask_decoder.position.positional_embedding, exact)


def test_the_generation_file_is_honoured(model: SpexForLandCover) -> None:
    assert model.decoding == DecodingRule((2, 0), 1.1)
    rule = DecodingRule((9,), 2.0)
    logits = torch.tensor([[1.0, 0.9, -0.1], [1.0, 0.9, -0.1]])
    assert rule.choose(logits, torch.tensor([[0], [1]])).tolist() == [1, 0]
    assert rule.choose(-logits, torch.tensor([[2], [0]])).tolist() == [2, 2]
    assert rule.ends(torch.tensor([9, 2])).tolist() == [True, False]


def test_an_unreadable_generation_file_is_told(published: Path, tmp_path: Path) -> None:
    (published / "generation_config.json").write_text('{"eos_token_id": "two"}')
    with pytest.raises(CheckpointError, match=r"generation_config.json is not a generation configuration"):
        convert_checkpoint(published, tmp_path / "ours")


def test_every_part_of_a_published_layout_learns(model: SpexForLandCover) -> None:
    ids = torch.tensor([[1, 5, -200, 7, 2, 8, 9, 2]])
    labels = torch.tensor([[-100, -100, -100, -100, 2, 8, 9, 2]])
    target = torch.zeros(1, 64, 64)
    target[:, :32] = 1
    model.zero_grad(set_to_none=True)
    kept = torch.ones_like(ids, dtype=torch.bool)
    published_losses(model, torch.rand(1, 3, 64, 64), ids, kept, labels, target).total.backward()
    still = {name for name, p in model.named_parameters() if p.grad is None and ".unused_heads." not in name}
    assert still == set()


def test_the_released_recipe_trains_the_vision_side_only(model: SpexForLandCover) -> None:
    copied = SpexForLandCover(model.config)
    trained = freeze_as_published(copied)
    parts = {name.split(".")[0] for name in trained}
    assert parts == {"encoder", "aggregator", "neck", "condensation", "mask_decoder"}
    ids = torch.tensor([[1, 5, -200, 7, 2]])
    kept, labels = torch.ones_like(ids, dtype=torch.bool), torch.tensor([[-100, -100, -100, 7, 2]])
    published_losses(copied, torch.rand(1, 3, 64, 64), ids, kept, labels, torch.zeros(1, 64, 64)).ce.backward()
    assert copied.language_model.embed_tokens.weight.grad is None
    assert copied.encoder.stem.conv1.weight.grad.abs().sum() > 0


def test_stochastic_depth_grows_with_depth_and_keeps_the_mean() -> None:
    encoder = SpexForLandCover(CONFIG).encoder
    blocks = [block for stage in encoder.stages for block in stage]
    assert [round(block.drop_path, 3) for block in blocks] == [0.0, 0.1, 0.2, 0.3, 0.4]
    torch.manual_seed(0)
    branch = torch.ones(20_000, 1, 1, 1)
    kept = blocks[-1].train()._kept(branch)
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert kept.mean().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(blocks[-1].eval()._kept(branch), branch)


def test_the_full_layout_has_the_published_number_of_weights() -> None:
    config = SpexConfig.official()
    shapes = {our_name(key): shape for key, shape in published_shapes(config).items() if key != "lm_head.weight"}
    with torch.device("meta"):
        model = SpexForLandCover(config)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == shapes
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_778_308_322


@needs_fixtures
def test_the_full_layout_has_the_published_keys_and_shapes() -> None:
    stored = json.loads((FIXTURES / "fullsize_state_dict_1p5b.json").read_text())
    assert len(stored) == 1327
    assert published_shapes(SpexConfig.official()) == {key: tuple(shape) for key, shape in stored.items()}
    shapes = {our_name(key): tuple(shape) for key, shape in stored.items() if key != "lm_head.weight"}
    document = {"model_type": "llava_qwen", "tie_word_embeddings": True, "hidden_size": 1536, "num_attention_heads": 12}
    document |= {"num_key_value_heads": 2, "intermediate_size": 8960, "num_hidden_layers": 28}
    config = config_of(document, shapes, None)
    assert (config.decoder_heads, config.group_channels, config.depths) == (8, 16, (5, 5, 22, 5))
    assert manifest()["full_size"]["param_counts"]["1.5B"]["total_unique"] == 1_778_308_322
