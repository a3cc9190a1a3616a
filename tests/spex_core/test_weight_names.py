"""Names of weights are a file format: checkpoints that people have must keep loading."""

from __future__ import annotations

import re

from spex_core import SpexForLandCover

PREFIXES = """
    aggregator.fuse
    aggregator.norm
    condensation.mlp.N
    detail.context
    detail.laterals.N
    detail.mix
    detail.norm
    detail.out_norm
    detail.pixel1
    detail.pixel2
    encoder.downsamples.N.conv
    encoder.downsamples.N.norm
    encoder.stages.N.N
    encoder.stages.N.N.fc1
    encoder.stages.N.N.fc2
    encoder.stages.N.N.mixer.depthwise
    encoder.stages.N.N.mixer.input_proj
    encoder.stages.N.N.mixer.output_proj
    encoder.stages.N.N.norm1
    encoder.stages.N.N.norm2
    encoder.stem.conv1
    encoder.stem.conv2
    encoder.stem.norm1
    encoder.stem.norm2
    language_model.embed_tokens
    language_model.layers.N.input_layernorm
    language_model.layers.N.mlp.down_proj
    language_model.layers.N.mlp.gate_proj
    language_model.layers.N.mlp.up_proj
    language_model.layers.N.post_attention_layernorm
    language_model.layers.N.self_attn.k_proj
    language_model.layers.N.self_attn.o_proj
    language_model.layers.N.self_attn.q_proj
    language_model.layers.N.self_attn.v_proj
    language_model.norm
    mask_decoder
    mask_decoder.detail_hyper.hidden
    mask_decoder.detail_hyper.proj_in
    mask_decoder.detail_hyper.proj_out
    mask_decoder.final_attention.k_proj
    mask_decoder.final_attention.out_proj
    mask_decoder.final_attention.q_proj
    mask_decoder.final_attention.v_proj
    mask_decoder.final_norm
    mask_decoder.hyper.hidden
    mask_decoder.hyper.proj_in
    mask_decoder.hyper.proj_out
    mask_decoder.layers.N.fc1
    mask_decoder.layers.N.fc2
    mask_decoder.layers.N.image_to_token.k_proj
    mask_decoder.layers.N.image_to_token.out_proj
    mask_decoder.layers.N.image_to_token.q_proj
    mask_decoder.layers.N.image_to_token.v_proj
    mask_decoder.layers.N.norm1
    mask_decoder.layers.N.norm2
    mask_decoder.layers.N.norm3
    mask_decoder.layers.N.norm4
    mask_decoder.layers.N.self_attention.k_proj
    mask_decoder.layers.N.self_attention.out_proj
    mask_decoder.layers.N.self_attention.q_proj
    mask_decoder.layers.N.self_attention.v_proj
    mask_decoder.layers.N.token_to_image.k_proj
    mask_decoder.layers.N.token_to_image.out_proj
    mask_decoder.layers.N.token_to_image.q_proj
    mask_decoder.layers.N.token_to_image.v_proj
    mask_decoder.position
    mask_decoder.upscale1
    mask_decoder.upscale2
    mask_decoder.upscale_norm
    neck.conv1
    neck.conv2
    neck.norm1
    neck.norm2
    projector.N
"""


def test_the_weights_of_small_models_keep_their_names(tiny_model: SpexForLandCover) -> None:
    names = list(tiny_model.state_dict())
    assert len(names) == 247
    assert {re.sub(r"\.\d+", ".N", name).rsplit(".", 1)[0] for name in names} == set(PREFIXES.split())
