"""Runs of published SPEX checkpoints: what their file must say (docs/decisions/0052)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.settings.model import INDEX_RULES
from spex_core.checkpoints import read_configuration, resolve_checkpoint, sees_true_color
from spex_core.errors import CheckpointError
from spex_core.published import ANSWER_TOKENS, IMAGE_TOKENS, PUBLISHED_PX

if TYPE_CHECKING:
    from pipeline.settings.run_file import ModelConfig, RunConfig

PUBLISHED_VERSION = 1
"""Rises when the same answers and logits of a published checkpoint give other scores, or it is asked otherwise."""
COARSEST_M = 10.0
"""The coarsest pixels of the published training data are Sentinel-2's; nothing tells the network a pixel's size."""
LEAST_TEXT_TOKENS = 128
"""Of a question without attributes, and the chat's own words around it."""


def is_published(config: ModelConfig) -> bool:
    """Whether a run's model is a converted published checkpoint.

    Raises:
        CheckpointError: No such checkpoint.
    """
    return config.checkpoint != INDEX_RULES and sees_true_color(resolve_checkpoint(config.checkpoint))


def check_published(config: RunConfig) -> None:
    """Refuses what a published checkpoint cannot map; nothing for any other.

    Raises:
        ConfigError: Tiles of another size than its images, or pixels that are coarser than any it was made for.
        CheckpointError: Its language model has no room for an image, a question and an answer.
    """
    if not is_published(config.model):
        return
    name, tiling = config.model.checkpoint, config.tiling
    if tiling.tile_px != PUBLISHED_PX:
        raise ConfigError(
            f"tiling.tile_px is {tiling.tile_px}, but the published checkpoint {name} sees {PUBLISHED_PX} px: "
            f"set it to {PUBLISHED_PX}, or leave it out"
        )
    if tiling.resolution_m > COARSEST_M:
        raise ConfigError(
            f"tiling.resolution_m is {tiling.resolution_m:g}, but no image that published checkpoints were trained on "
            f"has pixels larger than {COARSEST_M:g} m, and {name} is not told their size: set it to {COARSEST_M:g}"
        )
    text = read_configuration(resolve_checkpoint(name)).get("text_config")
    context = text.get("max_position_embeddings") if isinstance(text, dict) else None
    least = IMAGE_TOKENS + LEAST_TEXT_TOKENS + ANSWER_TOKENS
    if isinstance(context, int) and context < least:
        raise CheckpointError(
            f"checkpoint {name}: its language model reads {context} tokens (max_position_embeddings), and an image, a "
            f"question and an answer take {least} or more"
        )
