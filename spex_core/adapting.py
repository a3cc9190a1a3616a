"""From a frozen model to one with a head for a legend: what it sees at labelled pixels, and what is written."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from spex_core.bands import SENTINEL2_BANDS, Band
from spex_core.encoder import channels_of
from spex_core.errors import CheckpointError
from spex_core.legend import Legend
from spex_core.legend_head import WORDS, centred, pixel_sources
from spex_core.masking import VisionOutput
from spex_core.modeling import SpexForLandCover
from spex_core.processing import SpexProcessor

HEAD = "legend_head."
"""Beginning of the names of a head's tensors."""


def check_adaptable(model: SpexForLandCover, name: str) -> SpexProcessor:
    """Refuses a model that cannot be adapted; its processor otherwise.

    Raises:
        CheckpointError: Other bands than Sentinel-2's ten, masks that need more than words, or adapted already.
    """
    config = model.config
    if config.head_codes:
        raise CheckpointError(f"checkpoint {name} is adapted already: name the one that it was made from (--base)")
    if tuple(config.bands) != SENTINEL2_BANDS or not config.masks_by_class_words or model.processor is None:
        raise CheckpointError(
            f"checkpoint {name} cannot be adapted: that takes the ten Sentinel-2 bands, a processor, and masks that "
            "class words alone prompt (masks_by_class_words)"
        )
    return model.processor


@torch.inference_mode()
def sampled_sources(
    model: SpexForLandCover,
    pixel_values: Tensor,
    rows: Sequence[int],
    columns: Sequence[int],
    words: Tensor,
    bands: Sequence[Band | str] | None = None,
    gsd_m: float | None = None,
) -> dict[str, Tensor]:
    """What the model sees at some pixels of a tile, by the passes that a map takes.

    Args:
        model: Without a head.
        pixel_values: float ``[1, C, H, W]``, finite.
        rows: Of N pixels.
        columns: Of the same.
        words: Mask prompts, ``[P, condensed_tokens, decoder_width]``.
        bands: As in :meth:`SpexForLandCover.predict`.
        gsd_m: As there.

    Returns:
        Float ``[N, channels]`` of each source of a :class:`spex_core.legend_head.LegendHead`.
    """
    wavelengths, samplings = None, None
    if bands is not None or gsd_m is not None:
        pixel_values, described = channels_of(pixel_values, bands or model.config.bands, gsd_m)
        wavelengths, samplings = described.to(model.dtype).unbind()
    inputs = model.spectral_input(pixel_values, wavelengths, samplings)
    levels = model.encoder(inputs)
    aggregated = model.aggregator(levels)
    detail = None if model.detail is None else model.detail(inputs, levels, aggregated)
    sources = pixel_sources(inputs, levels, aggregated, detail)
    vision = VisionOutput(None, model.neck(aggregated), detail)
    size = pixel_values.shape[-2:]
    sources[WORDS] = centred(model.prompted_masks(vision, words[None], size))
    at = (torch.as_tensor(rows), torch.as_tensor(columns))
    found = {}
    for name, source in sources.items():
        if source.shape[-2:] != size:
            source = F.interpolate(source, size, mode="bilinear", align_corners=False)
        found[name] = source[0][:, at[0], at[1]].T.contiguous()
    return found


def adapted_model(
    model: SpexForLandCover,
    legend: Legend,
    weights: Mapping[str, Tensor],
    bias: Tensor,
    words: Tensor,
    temperature: float,
) -> SpexForLandCover:
    """A model with the weights of another, and a head for a legend.

    Args:
        model: Without a head; stays as it is.
        legend: K classes.
        weights: Of each source, ``[K, channels]``.
        bias: ``[K]``.
        words: Mask prompts that the head's last source was sampled with.
        temperature: Of the head's logits.
    """
    config = copy.deepcopy(model.config)
    config.head_codes, config.head_words = legend.codes, len(words)
    # The head learnt pixels of the survey's own size.
    config.temperature, config.finer_look_gsd_m = temperature, None
    adapted = SpexForLandCover(config)
    adapted.load_state_dict({**adapted.state_dict(), **model.state_dict()})
    assert adapted.legend_head is not None
    adapted.legend_head.fill(weights, bias, words)
    adapted.processor, adapted.decoding = model.processor, model.decoding
    adapted.train(False)
    return adapted


def write_adapted(model: SpexForLandCover, folder: Path, stored: torch.dtype) -> None:
    """Writes a checkpoint; the head in float32, the rest as the model that it was made from was stored.

    Args:
        model: Of :func:`adapted_model`.
        folder: Is made.
        stored: Type of the rest; nothing is lost where its values came from that type.
    """
    state = {
        name: value if name.startswith(HEAD) or not value.is_floating_point() else value.to(stored)
        for name, value in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=state)
