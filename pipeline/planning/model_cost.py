"""What one image costs a model: seconds of a CPU core, seconds of a GPU, and memory beside the process's own.

Orders of magnitude, not promises: machines differ tenfold. A published checkpoint answers every class of every image
token by token, some thousand times the work of a small model, so its cost is counted from its layout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pipeline.settings.published import is_published
from pipeline.settings.run_file import RunConfig
from spex_core.checkpoints import read_configuration, resolve_checkpoint
from spex_core.published import ANSWER_TOKENS, IMAGE_TOKENS, PUBLISHED_PX, QUESTIONS_AT_ONCE

DEVICE_SECONDS_PER_TILE = {"cpu": 0.4, "cuda": 0.01}
"""Per 256 px image of a small model: one CPU core or one data-centre GPU."""
QUESTION_TOKENS = 500
"""Of a question with some attribute records; with all ten it has about 1,000."""
FLOPS = {"cpu": 6e10, "cuda": 1e14}
"""Arithmetic per second: one core in float32, measured; a data-centre GPU in bfloat16, estimated."""
WEIGHT_BYTES_PER_S = {"cpu": 5e9, "cuda": 5e11}
"""How fast weights are read: each token of the answers reads all of the language model's. One core, measured; a
data-centre GPU, estimated with its launches."""
_FLOAT32 = 4
_REFERENCE_PX = 256


@dataclass(frozen=True)
class ModelCost:
    """Of one image, an upper bound for a published checkpoint: its answers may end sooner."""

    cpu_s: float
    gpu_s: float
    memory_bytes: int = 0
    """Of an actor on a CPU: weights, keys and values."""


def model_cost(config: RunConfig, classes: int) -> ModelCost:
    """What a tile of a run costs.

    Args:
        config: The run.
        classes: Of its legend.

    Raises:
        CheckpointError: Its checkpoint cannot be read.
    """
    if not is_published(config.model):
        factor = (config.tiling.tile_px / _REFERENCE_PX) ** 2
        return ModelCost(DEVICE_SECONDS_PER_TILE["cpu"] * factor, DEVICE_SECONDS_PER_TILE["cuda"] * factor)
    return published_cost(read_configuration(resolve_checkpoint(config.model.checkpoint)), classes)


def published_cost(config: dict[str, Any], classes: int) -> ModelCost:
    """The same from the fields of a published checkpoint.

    Args:
        config: Its ``config.json``.
        classes: Of the legend.
    """
    text = config.get("text_config") or {}
    hidden, layers = int(text.get("hidden_size", 1536)), int(text.get("num_hidden_layers", 28))
    heads, shared = int(text.get("num_attention_heads", 12)), int(text.get("num_key_value_heads", 2))
    inner, words = int(text.get("intermediate_size", 8960)), int(text.get("vocab_size", 151936))
    keys = hidden * shared // heads
    body = layers * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner)
    head = hidden * words
    questions = classes * QUESTION_TOKENS
    groups = math.ceil(classes / QUESTIONS_AT_ONCE)
    context = IMAGE_TOKENS + QUESTION_TOKENS + ANSWER_TOKENS
    attended = 4.0 * layers * hidden * context
    flop = _vision_flop(config) + (2.0 * body + attended) * (IMAGE_TOKENS + questions)
    flop += (2.0 * (body + head) + attended) * classes * ANSWER_TOKENS
    read = groups * ANSWER_TOKENS * _FLOAT32 * (body + head)
    seconds = {kind: flop / FLOPS[kind] + read / WEIGHT_BYTES_PER_S[kind] for kind in FLOPS}
    rows = min(classes, QUESTIONS_AT_ONCE)
    # Twice: keys and values are copied while a token is added to them.
    memory = _FLOAT32 * (body + head + _vision_weights(config)) + 2 * rows * context * layers * 2 * keys * _FLOAT32
    return ModelCost(seconds["cpu"], seconds["cuda"], memory)


def _vision_weights(config: dict[str, Any]) -> int:
    channels, depths = int(config.get("channels", 160)), tuple(config.get("depths", (5, 5, 22, 5)))
    ratio = float(config.get("mlp_ratio", 4.0))
    widths = [channels << level for level in range(len(depths))]
    blocks = math.fsum(depth * _block_weights(width, ratio) for width, depth in zip(widths, depths, strict=True))
    return round(blocks) + sum(18 * width * width for width in widths[:-1])


def _vision_flop(config: dict[str, Any]) -> float:
    channels, depths = int(config.get("channels", 160)), tuple(config.get("depths", (5, 5, 22, 5)))
    ratio = float(config.get("mlp_ratio", 4.0))
    return math.fsum(
        2.0 * (PUBLISHED_PX // (4 << level)) ** 2 * depth * _block_weights(channels << level, ratio)
        for level, depth in enumerate(depths)
    )


def _block_weights(width: int, ratio: float) -> float:
    """Two projections, offsets and weights of nine points for groups of 16 channels, and the MLP."""
    return width * width * (2 + 27 / 16 + 2 * ratio)
