"""Names and shapes of the published SPEX checkpoints, and what they are called here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers.models.qwen2.configuration_qwen2 import Qwen2Config

from spex_core.configuration import SpexConfig
from spex_core.errors import CheckpointError

_TOWER = r"model\.vision_tower\."
_ENCODER = _TOWER + r"vision_tower\.vision_model\."
_BLOCK = _ENCODER + r"levels\.(\d+)\.blocks\.(\d+)\."
_DECODER = _TOWER + r"mask_decoder\."
_LAYER = _DECODER + r"transformer\.layers\.(\d+)\."
_PROMPTS = _TOWER + r"sampromptencoder\."
_ATTENTION = r"\.([qkv]|out)_proj\.(weight|bias)"
_WB = r"\.(weight|bias)"

_RULES: tuple[tuple[str, str], ...] = (
    # language model and projector
    (r"model\.(embed_tokens\.weight|norm\.weight|layers\.\d+\..+)", r"language_model.\1"),
    (r"lm_head\.weight", "lm_head.weight"),
    (r"model\.image_newline", "image_newline"),
    (r"model\.mm_projector\.([02])" + _WB, r"projector.\1.\2"),
    # encoder
    (_ENCODER + r"patch_embed\.conv([12])" + _WB, r"encoder.stem.conv\1.\2"),
    (_ENCODER + r"patch_embed\.norm([12])\.1" + _WB, r"encoder.stem.norm\1.\2"),
    (_BLOCK + r"weight([12])", r"encoder.stages.\1.\2.scale\3"),
    (_BLOCK + r"norm([12])\.0" + _WB, r"encoder.stages.\1.\2.norm\3.\4"),
    (_BLOCK + r"dcn\.dw_conv\.0" + _WB, r"encoder.stages.\1.\2.mixer.depthwise.\3"),
    (_BLOCK + r"dcn\.dw_conv\.1\.1" + _WB, r"encoder.stages.\1.\2.mixer.norm.\3"),
    (_BLOCK + r"dcn\.(offset|mask|input_proj|output_proj)" + _WB, r"encoder.stages.\1.\2.mixer.\3.\4"),
    (_BLOCK + r"mlp\.fc([12])" + _WB, r"encoder.stages.\1.\2.fc\3.\4"),
    (_ENCODER + r"levels\.(\d+)\.downsample\.conv\.weight", r"encoder.downsamples.\1.conv.weight"),
    (_ENCODER + r"levels\.(\d+)\.downsample\.norm\.1" + _WB, r"encoder.downsamples.\1.norm.\2"),
    (_ENCODER + r"feat_aggregator\.fuse_all\.0" + _WB, r"aggregator.fuse.\1"),
    (_ENCODER + r"feat_aggregator\.fuse_all\.1" + _WB, r"aggregator.norm.\1"),
    (_ENCODER + r"visionneck\.conv([12])\.weight", r"neck.conv\1.weight"),
    (_ENCODER + r"visionneck\.layer_norm([12])" + _WB, r"neck.norm\1.\2"),
    # condensation
    (_TOWER + r"lan_neck\.text_mlp\.(\d+)" + _WB, r"condensation.mlp.\1.\2"),
    # mask decoder
    (_PROMPTS + r"shared_embedding\.positional_embedding", "mask_decoder.position.positional_embedding"),
    (_PROMPTS + r"no_mask_embed\.weight", "mask_decoder.no_mask_embedding"),
    (_PROMPTS + r"point_embed\.([0-3])\.weight", r"mask_decoder.unused_heads.points.\1"),
    (_PROMPTS + r"not_a_point_embed\.weight", "mask_decoder.unused_heads.no_point"),
    (_PROMPTS + r"mask_embed\.conv([123])" + _WB, r"mask_decoder.unused_heads.mask_conv\1.\2"),
    (_PROMPTS + r"mask_embed\.layer_norm([12])" + _WB, r"mask_decoder.unused_heads.mask_norm\1.\2"),
    (_DECODER + r"iou_token\.weight", "mask_decoder.iou_token"),
    (_DECODER + r"mask_tokens\.weight", "mask_decoder.mask_tokens"),
    (_LAYER + r"self_attn" + _ATTENTION, r"mask_decoder.layers.\1.self_attention.\2_proj.\3"),
    (_LAYER + r"cross_attn_token_to_image" + _ATTENTION, r"mask_decoder.layers.\1.token_to_image.\2_proj.\3"),
    (_LAYER + r"cross_attn_image_to_token" + _ATTENTION, r"mask_decoder.layers.\1.image_to_token.\2_proj.\3"),
    (_LAYER + r"mlp\.lin([12])" + _WB, r"mask_decoder.layers.\1.fc\2.\3"),
    (_LAYER + r"layer_norm([1234])" + _WB, r"mask_decoder.layers.\1.norm\2.\3"),
    (_DECODER + r"transformer\.final_attn_token_to_image" + _ATTENTION, r"mask_decoder.final_attention.\1_proj.\2"),
    (_DECODER + r"transformer\.layer_norm_final_attn" + _WB, r"mask_decoder.final_norm.\1"),
    (_DECODER + r"upscale_conv([12])" + _WB, r"mask_decoder.upscale\1.\2"),
    (_DECODER + r"upscale_layer_norm" + _WB, r"mask_decoder.upscale_norm.\1"),
    (_DECODER + r"output_hypernetworks_mlps\.0\.(proj_in|proj_out)" + _WB, r"mask_decoder.hyper.\1.\2"),
    (_DECODER + r"output_hypernetworks_mlps\.0\.layers\.0" + _WB, r"mask_decoder.hyper.hidden.\1"),
    (_DECODER + r"iou_prediction_head\.(proj_in|proj_out)" + _WB, r"mask_decoder.unused_heads.quality.\1.\2"),
    (_DECODER + r"iou_prediction_head\.layers\.0" + _WB, r"mask_decoder.unused_heads.quality.hidden.\1"),
)
_OTHER_MASKS = re.compile(_DECODER + r"output_hypernetworks_mlps\.([1-9]\d*)\.(proj_in|proj_out|layers\.0)" + _WB)
_COMPILED = tuple((re.compile(pattern), target) for pattern, target in _RULES)
_IGNORABLE = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
"""Buffers that old checkpoints carry and every Qwen2 computes itself."""


def our_name(official: str) -> str | None:
    """Our name of a published key; None if there is none."""
    if other := _OTHER_MASKS.fullmatch(official):
        part = "hidden" if other[2] == "layers.0" else other[2]
        return f"mask_decoder.unused_heads.hyper.{int(other[1]) - 1}.{part}.{other[3]}"
    for pattern, target in _COMPILED:
        if match := pattern.fullmatch(official):
            return match.expand(target)
    return None


def is_ignorable(official: str) -> bool:
    """Whether a published key carries nothing that a model needs."""
    return _IGNORABLE.fullmatch(official) is not None


def config_of(
    document: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], decoder_heads: int | None
) -> SpexConfig:
    """The configuration of a published checkpoint, from its config.json and the shapes of its weights.

    Args:
        document: The published config.json. It describes the language model only.
        shapes: Shape of every weight, by our names.
        decoder_heads: Attention heads of the mask decoder, which no shape tells; default 8 as published, fewer where a
            head would be narrower than 8.

    Raises:
        CheckpointError: The document is of another model, or shapes that decide the layout are missing.
    """
    if document.get("model_type") != "llava_qwen":
        raise CheckpointError(
            f"config.json has model_type {document.get('model_type')!r}; a published SPEX checkpoint has 'llava_qwen'"
        )
    if document.get("mm_projector_type", "mlp2x_gelu") != "mlp2x_gelu":
        raise CheckpointError(f"mm_projector_type {document['mm_projector_type']!r} is not the published 'mlp2x_gelu'")
    try:
        channels = shapes["encoder.stem.conv2.weight"][0]
        groups = shapes["encoder.stages.0.0.mixer.mask.weight"][0] // 9
        width = shapes["neck.conv1.weight"][0]
        embedding = shapes["language_model.embed_tokens.weight"]
        return SpexConfig.official(
            channels=channels,
            depths=tuple(_count(shapes, rf"encoder\.stages\.{level}\.(\d+)\.scale1") for level in range(4)),
            group_channels=channels // groups,
            mlp_ratio=shapes["encoder.stages.0.0.fc1.weight"][0] / channels,
            aggregator_channels=shapes["aggregator.fuse.weight"][0],
            text_config=_text_config(document, embedding),
            condensation_widths=tuple(shapes[f"condensation.mlp.{layer}.weight"][0] for layer in (0, 2)),
            decoder_width=width,
            decoder_layers=_count(shapes, r"mask_decoder\.layers\.(\d+)\.norm1\.weight"),
            decoder_heads=decoder_heads or max(1, min(8, width // 8)),
            decoder_mlp=shapes["mask_decoder.layers.0.fc1.weight"][0],
            mask_tokens=shapes["mask_decoder.mask_tokens"][0],
            image_newline="image_newline" in shapes,
            prompt_limit=int(document.get("tokenizer_model_max_length") or 8192),
        )
    except KeyError as missing:
        raise CheckpointError(f"the checkpoint has no weight for {missing}: it is not a whole SPEX model") from missing
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"config.json or the shapes of the weights describe no SPEX model: {error}") from error


def _text_config(document: Mapping[str, Any], embedding: tuple[int, ...]) -> Qwen2Config:
    copied = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "hidden_act",
        "initializer_range",
        "attention_dropout",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    )
    return Qwen2Config(
        vocab_size=embedding[0],
        tie_word_embeddings=bool(document.get("tie_word_embeddings", False)),
        # Any scaling in the file is dropped, as the published loader does.
        rope_parameters={"rope_type": "default", "rope_theta": float(document.get("rope_theta", 1e6))},
        **{name: document[name] for name in copied if document.get(name) is not None},
    )


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    matches = [match for name in shapes if (match := re.fullmatch(pattern, name))]
    return max((int(match[1]) for match in matches), default=-1) + 1
