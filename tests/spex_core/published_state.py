"""Names and shapes of a published checkpoint for any layout, spelled out: the tests' own statement of the format."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config

from spex_core.configuration import SpexConfig
from spex_core.official import convert_checkpoint
from spex_core.prompts import question_text
from spex_core.tokenizer import build_tokenizer

TOWER = "model.vision_tower."
ENCODER = TOWER + "vision_tower.vision_model."


def tiny_published_config() -> SpexConfig:
    """A published layout of a few ten thousand weights."""
    text = Qwen2Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return SpexConfig.official(
        channels=16,
        depths=(1, 1, 2, 1),
        aggregator_channels=32,
        aggregator_dropout=0.0,
        text_config=text,
        condensation_widths=(24, 20),
        decoder_width=16,
        decoder_heads=2,
        decoder_mlp=24,
    )


def published_shapes(config: SpexConfig) -> dict[str, tuple[int, ...]]:
    """Every published key and its shape."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, *weight: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = weight
        if bias:
            shapes[f"{name}.bias"] = weight[:1]

    text, hidden = config.text, config.text.hidden_size
    head = hidden // text.num_attention_heads
    add("model.embed_tokens", text.vocab_size, hidden, bias=False)
    for layer in range(text.num_hidden_layers):
        name = f"model.layers.{layer}"
        for part in "qkv":
            heads = text.num_attention_heads if part == "q" else text.num_key_value_heads
            add(f"{name}.self_attn.{part}_proj", heads * head, hidden)
        add(f"{name}.self_attn.o_proj", hidden, hidden, bias=False)
        for part in ("gate", "up"):
            add(f"{name}.mlp.{part}_proj", text.intermediate_size, hidden, bias=False)
        add(f"{name}.mlp.down_proj", hidden, text.intermediate_size, bias=False)
        for part in ("input", "post_attention"):
            add(f"{name}.{part}_layernorm", hidden, bias=False)
    add("model.norm", hidden, bias=False)
    add("lm_head", text.vocab_size, hidden, bias=False)

    c = config.channels
    add(ENCODER + "patch_embed.conv1", c // 2, 3, 3, 3)
    add(ENCODER + "patch_embed.norm1.1", c // 2)
    add(ENCODER + "patch_embed.conv2", c, c // 2, 3, 3)
    add(ENCODER + "patch_embed.norm2.1", c)
    for level, depth in enumerate(config.depths):
        c = config.channels * 2**level
        groups = c // config.group_channels
        for block in range(depth):
            name = f"{ENCODER}levels.{level}.blocks.{block}."
            shapes[name + "weight1"] = shapes[name + "weight2"] = (c,)
            for part in ("norm1.0", "norm2.0", "dcn.dw_conv.1.1"):
                add(name + part, c)
            add(name + "dcn.dw_conv.0", c, 1, 3, 3)
            add(name + "dcn.offset", groups * 18, c)
            add(name + "dcn.mask", groups * 9, c)
            add(name + "dcn.input_proj", c, c)
            add(name + "dcn.output_proj", c, c)
            add(name + "mlp.fc1", int(c * config.mlp_ratio), c)
            add(name + "mlp.fc2", c, int(c * config.mlp_ratio))
        if level < 3:
            add(f"{ENCODER}levels.{level}.downsample.conv", 2 * c, c, 3, 3, bias=False)
            add(f"{ENCODER}levels.{level}.downsample.norm.1", 2 * c)
    add(ENCODER + "feat_aggregator.fuse_all.0", config.aggregator_channels, 15 * config.channels, 1, 1)
    add(ENCODER + "feat_aggregator.fuse_all.1", config.aggregator_channels)

    width = config.decoder_width
    add(ENCODER + "visionneck.conv1", width, config.aggregator_channels, 1, 1, bias=False)
    add(ENCODER + "visionneck.layer_norm1", width)
    add(ENCODER + "visionneck.conv2", width, width, 3, 3, bias=False)
    add(ENCODER + "visionneck.layer_norm2", width)
    add("model.mm_projector.0", hidden, config.aggregator_channels)
    add("model.mm_projector.2", hidden, hidden)
    wide = hidden
    for index, narrow in enumerate((*config.condensation_widths, width)):
        add(f"{TOWER}lan_neck.text_mlp.{2 * index}", narrow, wide)
        wide = narrow

    prompts = TOWER + "sampromptencoder."
    shapes[prompts + "shared_embedding.positional_embedding"] = (2, width // 2)
    for name in ("no_mask_embed", "not_a_point_embed", *(f"point_embed.{index}" for index in range(4))):
        add(prompts + name, 1, width, bias=False)
    for name, shape in (("conv1", (4, 1, 2, 2)), ("conv2", (16, 4, 2, 2)), ("conv3", (width, 16, 1, 1))):
        add(prompts + "mask_embed." + name, *shape)
    add(prompts + "mask_embed.layer_norm1", 4)
    add(prompts + "mask_embed.layer_norm2", 16)

    decoder = TOWER + "mask_decoder."
    add(decoder + "iou_token", 1, width, bias=False)
    add(decoder + "mask_tokens", config.mask_tokens, width, bias=False)

    def add_attention(name: str, inner: int) -> None:
        for part in "qkv":
            add(f"{name}.{part}_proj", inner, width)
        add(f"{name}.out_proj", width, inner)

    for layer in range(config.decoder_layers):
        name = f"{decoder}transformer.layers.{layer}."
        add_attention(name + "self_attn", width)
        add_attention(name + "cross_attn_token_to_image", width // 2)
        add_attention(name + "cross_attn_image_to_token", width // 2)
        add(name + "mlp.lin1", config.decoder_mlp, width)
        add(name + "mlp.lin2", width, config.decoder_mlp)
        for index in range(1, 5):
            add(f"{name}layer_norm{index}", width)
    add_attention(decoder + "transformer.final_attn_token_to_image", width // 2)
    add(decoder + "transformer.layer_norm_final_attn", width)
    add(decoder + "upscale_conv1", width, width // 4, 2, 2)
    add(decoder + "upscale_conv2", width // 4, width // 8, 2, 2)
    for name, channels in (("upscale_conv1", width // 4), ("upscale_conv2", width // 8)):
        shapes[f"{decoder}{name}.bias"] = (channels,)  # transposed convolutions: outputs come second
    add(decoder + "upscale_layer_norm", width // 4)
    hyper = {f"output_hypernetworks_mlps.{index}": width // 8 for index in range(config.mask_tokens)}
    for name, out in {**hyper, "iou_prediction_head": config.mask_tokens}.items():
        add(f"{decoder}{name}.proj_in", width, width)
        add(f"{decoder}{name}.layers.0", width, width)
        add(f"{decoder}{name}.proj_out", out, width)
    return shapes


def random_state(config: SpexConfig, seed: int = 0) -> dict[str, Tensor]:
    """float32 weights under published names, without the tied head."""
    generator = torch.Generator().manual_seed(seed)
    shapes = published_shapes(config)
    del shapes["lm_head.weight"]
    return {name: 0.2 * torch.randn(shape, generator=generator) + 0.1 for name, shape in shapes.items()}


def write_config(folder: Path, config: SpexConfig, **changes: object) -> None:
    """A published config.json: it tells of the language model only."""
    folder.mkdir(parents=True, exist_ok=True)
    text = config.text
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    document: dict[str, object] = {name: getattr(text, name) for name in (*names, "max_position_embeddings")}
    document |= {"model_type": "llava_qwen", "mm_projector_type": "mlp2x_gelu", "tie_word_embeddings": True}
    document |= {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "eos_token_id": 2, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(document | changes))


def write_published(folder: Path, state: dict[str, Tensor], config: SpexConfig) -> Path:
    """A whole published folder with tokenizer and generation file."""
    write_config(folder, config)
    save_file(state, folder / "model.safetensors")
    build_tokenizer(["Based on the provided image.", "0.123"] * 3, 300).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0], "repetition_penalty": 1.1}))
    return folder


# --- a checkpoint that maps ---------------------------------------------------------------------------------------

TWO_CLASSES = """
name: two
title: Plants and water
nodata: 0
classes:
  - {code: 1, name: Vegetation, noun: vegetation, color: "#006400", prior: [[ndvi, 0.40, null]]}
  - {code: 2, name: Water, noun: water, color: "#0064c8", prior: [[mndwi, -0.05, null], [ndvi, null, 0.05]]}
"""


def lively_state(config: SpexConfig, seed: int = 0) -> dict[str, Tensor]:
    """Random weights whose masks and answers differ: scaled by their inputs, norms near one."""
    generator = torch.Generator().manual_seed(seed)
    shapes = published_shapes(config)
    del shapes["lm_head.weight"]
    found = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            found[name] = 0.1 * noise + float(name.endswith(("weight", "weight1", "weight2")))
        elif name.endswith(("embed_tokens.weight", "embed.weight", "_tokens.weight")) or "positional" in name:
            found[name] = noise
        else:
            found[name] = 2 * noise / math.sqrt(math.prod(shape[1:]))
    return found


def converted(folder: Path, seed: int = 0) -> Path:
    """A tiny checkpoint in the published format, converted; many of its words end an answer, so that it is short."""
    config = tiny_published_config()
    config.text.max_position_embeddings = 8192
    source = write_published(folder / "published", lively_state(config, seed), config)
    nouns = ("vegetation", "water", "tree", "built-up")
    build_tokenizer([question_text(noun, (), ()) for noun in nouns] * 3, 300).save_pretrained(source)
    ends = {"eos_token_id": [2, *range(3, 300, 6)], "repetition_penalty": 1.1}
    (source / "generation_config.json").write_text(json.dumps(ends))
    convert_checkpoint(source, folder / "ours")
    return folder / "ours"
