"""A published SPEX checkpoint that looks like a model of the ten Sentinel-2 bands (docs/decisions/0052).

The published network sees red, green and blue of 512 px. All bands enter nevertheless, as the paper has it: spectral
indices find the objects of a class, and the objects stand in its question as words. Its masks hang on its answers, so
every class of every image is answered, token by token, before there is a mask.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spex_core.bands import SENTINEL2_BANDS, Band
from spex_core.checkpoints import sees_true_color
from spex_core.configuration import SpexConfig
from spex_core.encoder import SpectralInput, channels_of
from spex_core.errors import ModelInputError
from spex_core.indices import with_either_near_infrared
from spex_core.legend import Legend
from spex_core.masking import VisionOutput
from spex_core.modeling import Explain, SpexForLandCover, shares_of
from spex_core.modeling_outputs import LandCoverPrediction
from spex_core.priors import MIN_OBJECT_PX, AttributeRecord, candidate_masks, region_attributes
from spex_core.processing import SpexProcessor
from spex_core.published import ANSWER_TOKENS, IMAGE_TOKENS, PUBLISHED_PX, QUESTIONS_AT_ONCE
from spex_core.true_color import STEPS, TABLE, TRUE_COLOR_BANDS, TRUE_COLOR_SLOTS, WHITE


class TrueColorInput(SpectralInput):
    """Reflectance of the ten bands → the picture of :mod:`spex_core.true_color`, normalised, at 512 px.

    An image of another size is resized as the published demo does with any picture.
    """

    table: Tensor

    def __init__(self, config: SpexConfig) -> None:
        super().__init__(config)
        self.register_buffer("table", torch.from_numpy(TABLE.astype(np.float32) / 255), persistent=False)

    @torch.no_grad()
    def reset_normalisation(self) -> None:
        """See :meth:`SpectralInput.reset_normalisation`."""
        super().reset_normalisation()
        if "table" in self._buffers and not self.table.is_meta:
            self.table.copy_(torch.from_numpy(TABLE.astype(np.float32) / 255))

    def picture(self, reflectance: Tensor) -> Tensor:
        """float ``[B, 10, H, W]`` → float ``[B, 3, H, W]``, whole 255ths; pixel by pixel."""
        chosen = reflectance[:, list(TRUE_COLOR_SLOTS)].float()
        return self.table[(chosen.clamp(0, WHITE) * STEPS).round().long()]

    def forward(self, reflectance: Tensor, wavelength_nm: Tensor | None = None, gsd_m: Tensor | None = None) -> Tensor:
        """float ``[B, 10, H, W]`` → float ``[B, 3, 512, 512]``."""
        picture = self.picture(reflectance)
        if picture.shape[-2:] != (PUBLISHED_PX, PUBLISHED_PX):
            picture = F.interpolate(picture, (PUBLISHED_PX, PUBLISHED_PX), mode="bilinear", antialias=True)
        return super().forward(picture.to(reflectance.dtype))


class PublishedSpex(SpexForLandCover):  # type: ignore[no-untyped-call]  # transformers' __init_subclass__
    """A converted checkpoint, asked with the ten bands: :meth:`predict` takes what that of other models takes."""

    def __init__(self, config: SpexConfig) -> None:
        super().__init__(config)
        self.spectral_input = TrueColorInput(config)

    @torch.inference_mode()
    def predict(
        self,
        pixel_values: Tensor,
        legend: Legend,
        *,
        explain: Explain = "none",
        questions: Sequence[str] | None = None,
        bands: Sequence[Band | str] | None = None,
        gsd_m: float | None = None,
        class_words: Tensor | None = None,
    ) -> LandCoverPrediction:
        """Scores every class of a legend for a batch of images, one image after the other.

        Args:
            pixel_values: Surface reflectance, float ``[B, C, H, W]``, finite; H and W are multiples of 32.
            legend: K classes.
            explain: Whether the answers are handed out. They are written in full for any value: masks hang on them.
            questions: B*K prompts (tile-major) instead of those computed from the pixels.
            bands: What the C channels are, if not the ten bands in order; red, green and blue are among them.
            gsd_m: Taken and not used: the network knows nothing of the size of a pixel.
            class_words: As ``gsd_m``: a mask hangs on an answer about its image.

        Returns:
            Scores ``[B, K, H, W]`` that sum to 1 over K (:func:`joined`), and B x K texts (none for ``"none"``).

        Raises:
            ModelInputError: Wrong bands, dtype, size, NaN, values that cannot be reflectance, or a prompt that exceeds
                the model's context.
        """
        if self.processor is None:
            raise ModelInputError("this model has no processor; load it with from_pretrained or set model.processor")
        self.processor.check_pixels(pixel_values, None if bands is None else len(bands))
        channels = pixel_values if bands is None else channels_of(pixel_values, bands)[0]
        if channels[0, list(TRUE_COLOR_SLOTS), 0, 0].isnan().any():
            raise ModelInputError(f"a published checkpoint sees {' '.join(TRUE_COLOR_BANDS)}: one of them is missing")
        if questions is None:
            questions = [text for tile in channels.float().cpu().numpy() for text in self.questions(tile, legend)]
        elif len(questions) != len(channels) * len(legend):
            raise ModelInputError(f"{len(questions)} questions for {len(channels)} tiles x {len(legend)} classes")
        vision = self.encode_image(channels.to(self.device, self.dtype, non_blocking=True))
        assert vision.image_tokens is not None
        scores, texts = [], []
        for tile in range(len(channels)):
            one = VisionOutput(vision.image_tokens[tile : tile + 1], vision.image_embedding[tile : tile + 1], None)
            asked = questions[tile * len(legend) : (tile + 1) * len(legend)]
            found, written = self._one_image(one, asked, channels.shape[-2:])
            scores.append(found)
            texts.append(written)
        said = texts if explain != "none" else []
        return LandCoverPrediction(scores=torch.stack(scores), texts=said, written=said)

    def questions(self, reflectance: Any, legend: Legend) -> list[str]:
        """The K questions about an image; attribute records that do not fit the model's context are left out, smallest
        objects first.

        Args:
            reflectance: float32 ``[10, H, W]``; NaN throughout a missing band.
            legend: K classes.
        """
        assert self.processor is not None
        if np.isnan(reflectance[:, 0, 0]).any():
            reflectance = with_either_near_infrared(reflectance)
        limit = self.processor.attribute_records
        found = []
        for entry, mask in zip(legend, candidate_masks(reflectance, legend), strict=True):
            records: Sequence[AttributeRecord] = ()
            if limit:
                records = region_attributes(mask, reflectance, max_records=limit, min_pixels=MIN_OBJECT_PX)
            question = self.processor.question(entry, records)
            while records and self._tokens(question) > self._room():
                records = records[:-1]
                question = self.processor.question(entry, records)
            found.append(question)
        return found

    def _tokens(self, question: str) -> int:
        """Of a whole prompt without its image."""
        assert self.processor is not None
        text = self.processor.encode([question], None)
        return text.prefix_ids.numel() + text.suffix_ids.shape[1]

    def _room(self) -> int:
        """Most tokens of a prompt beside its image and its answer."""
        limit = min(self.config.text.max_position_embeddings - ANSWER_TOKENS, self.config.prompt_limit)
        return limit - IMAGE_TOKENS - self.config.append_image_newline

    def _one_image(self, vision: VisionOutput, questions: Sequence[str], size: torch.Size) -> tuple[Tensor, list[str]]:
        """Scores float32 ``[K, H, W]`` and K answers."""
        assert self.processor is not None
        assert vision.image_tokens is not None
        masks, texts = [], list[str]()
        read: Any = None
        for first in range(0, len(questions), QUESTIONS_AT_ONCE):
            asked = questions[first : first + QUESTIONS_AT_ONCE]
            text = self.processor.encode(asked, None).to(self.device)
            tokens = text.prefix_ids.numel() + text.suffix_ids.shape[1]
            if tokens > self._room():
                raise ModelInputError(f"a question of {tokens} tokens exceeds the model's room of {self._room()}")
            if read is None:  # system prompt and image are read once
                read = self.read_prefix(text.prefix_ids, vision.image_tokens, 1)
            cache = copy.deepcopy(read)
            cache.batch_repeat_interleave(len(asked))
            said = self.write_answers(text, self.read_suffix(text, cache), cache, ANSWER_TOKENS)
            texts += said.texts(self.processor.decode)
            prompts = self.condensation(said.states, said.mask)[None]
            hard = self.config.official_numerics
            masks.append((self.hard_masks if hard else self.mask_logits)(vision, prompts, size)[0].float())
        found = torch.cat(masks)
        if self.config.official_numerics:
            return shares_of(found[None])[0], texts
        return joined(found / self.config.temperature), texts

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any
    ) -> PublishedSpex:
        """Loads a converted checkpoint; see :meth:`SpexForLandCover.from_pretrained`."""
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model: PublishedSpex = loaded
        if model.processor is not None:
            model.processor = with_ten_bands(model.processor)
        return model


def with_ten_bands(processor: SpexProcessor) -> SpexProcessor:
    """A published checkpoint's processor, given the ten bands."""
    changed = copy.copy(processor)
    changed.bands = list(SENTINEL2_BANDS)
    return changed


def joined(logits: Tensor) -> Tensor:
    """Independent binary masks as one map.

    Each mask says, by itself, whether its class is there. Given that at most one class is, the chance of class k is its
    odds over one plus all odds, and one over the same that none is there. What none has is divided evenly: a pixel that
    no mask claims keeps its order of classes and loses its confidence.

    Args:
        logits: Of the masks, float ``[K, H, W]``.

    Returns:
        Scores, the same shape; they sum to 1 over K.
    """
    found = torch.cat([logits, torch.zeros_like(logits[:1])]).softmax(dim=0)
    return found[:-1] + found[-1:] / len(logits)


def load_sentinel2_model(folder: str | Path) -> SpexForLandCover:
    """A checkpoint as a model of the ten Sentinel-2 bands, whichever kind it is of.

    Raises:
        CheckpointError: It cannot be loaded.
    """
    kind = PublishedSpex if sees_true_color(Path(folder)) else SpexForLandCover
    return kind.from_pretrained(folder)
