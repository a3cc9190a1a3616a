"""The part of a SPEX model that masks the classes of one legend by their words: no language model, no tokenizer.

With ``masks_by_class_words`` and ``explain="none"`` the language model is read once for a legend and its answer never
changes. A model that keeps the answer gives the same scores, bit for bit, and loads in a third of the time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spex_core.bands import Band
from spex_core.detail import make_detail
from spex_core.encoder import channels_of
from spex_core.errors import CheckpointError, ModelInputError
from spex_core.legend_head import make_legend_head
from spex_core.mask_decoder import MaskDecoder
from spex_core.masking import MaskingParts
from spex_core.reflectance import check_reflectance

if TYPE_CHECKING:
    from spex_core.modeling import SpexForLandCover

_PARTS = ("spectral_input", "encoder", "aggregator", "neck", "mask_decoder", "detail", "legend_head")
_SCHEMA = "2"


class WordMasks(MaskingParts, nn.Module):
    """Scores of one legend.

    Args:
        config: The model's configuration, or its fields.
        prompts: What :meth:`spex_core.SpexForLandCover.class_word_prompts` gave for the legend.
    """

    prompts: Tensor

    def __init__(self, config: Any, prompts: Tensor) -> None:
        super().__init__()
        self.config = config
        self.add_masking_parts(config)
        self.mask_decoder = MaskDecoder(config)
        self.detail = make_detail(config, self.spectral_input.channels)
        self.legend_head = make_legend_head(config)
        self.register_buffer("prompts", prompts)

    @torch.inference_mode()
    def scores(self, pixel_values: Tensor, bands: Sequence[Band | str] | None = None) -> Tensor:
        """What :meth:`spex_core.SpexForLandCover.predict` gives with ``explain="none"``: float32 ``[B, K, H, W]``.

        Args:
            pixel_values: Surface reflectance, float32 ``[B, C, H, W]``, finite; sides are multiples of 32.
            bands: What the C channels are, if not the model's own bands in order.

        Raises:
            ModelInputError: Pixels that are not finite or no reflectance, or a band that stands for no channel.
        """
        check_reflectance(pixel_values)
        wavelengths = samplings = None
        if bands is not None:
            if not self.config.band_encoding:
                raise ModelInputError("this model takes all its bands; others need one trained with band_encoding")
            pixel_values, described = channels_of(pixel_values, bands)
            wavelengths, samplings = described.to(self.prompts).unbind()
        vision = self.encode_image(pixel_values.to(self.prompts), wavelengths, samplings)
        prompts = self.prompts.expand(len(pixel_values), -1, -1, -1)
        return self.class_scores(pixel_values, wavelengths, samplings, vision, prompts)


def write_word_masks(model: SpexForLandCover, prompts: Tensor, path: Path) -> None:
    """Writes what :func:`read_word_masks` reads: one safetensors file."""
    tensors = {name: value for name, value in model.state_dict().items() if name.partition(".")[0] in _PARTS}
    tensors["prompts"] = prompts
    fields = {name: value for name, value in model.config.to_dict().items() if name != "text_config"}
    metadata = {"schema": _SCHEMA, "config": json.dumps(fields, sort_keys=True)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)


def read_word_masks(path: Path) -> WordMasks:
    """Reads a file of :func:`write_word_masks`.

    Raises:
        CheckpointError: It is not one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("schema") != _SCHEMA:
                raise CheckpointError(f"{path} has schema {metadata.get('schema')}, expected {_SCHEMA}")
            fields = json.loads(metadata["config"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        config = SimpleNamespace(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
        model = WordMasks(config, tensors["prompts"])
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return model.eval()
