"""SPEX for land cover: one vision pass per tile, one question per legend class, one mask per question.

Order of a forward pass (arXiv 2508.05202): encoder -> aggregation -> [projector -> language model -> condensation] ->
mask decoder. The system prompt and image tokens are read by the language model once per tile; their key/value cache is
shared by all class questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from spex_core.bands import Band
from spex_core.checkpoints import UNREADABLE, has_processor, refuse_fetched_code, unreadable
from spex_core.condensation import Condensation
from spex_core.configuration import SpexConfig
from spex_core.decoding import DecodingRule, WrittenAnswers, greedy_answers
from spex_core.detail import make_detail
from spex_core.encoder import SpectralInput, channels_of
from spex_core.errors import CheckpointError, ModelInputError
from spex_core.grounding import supported_answer
from spex_core.language_model import build_language_model
from spex_core.legend import Legend
from spex_core.legend_head import make_legend_head
from spex_core.mask_decoder import MaskDecoder
from spex_core.masking import MaskingParts
from spex_core.modeling_outputs import LandCoverPrediction, SpexOutput
from spex_core.processing import SpexProcessor, TextBatch
from spex_core.quoted_decoding import QuotingChoice
from spex_core.quoted_values import Quotes
from spex_core.weight_files import lazy_weights

Explain = Literal["none", "brief", "full"]
NEW_TOKENS: dict[str, int] = {"brief": 48, "full": 160}
"""Longest generated answer, tokens."""


def shares_of(masks: Tensor) -> Tensor:
    """Masks ``[B, K, H, W]`` in 0..1 as scores that sum to 1; a pixel that no mask claims is divided evenly."""
    claimed = masks.sum(dim=1, keepdim=True)
    return torch.where(claimed > 0, masks / claimed.clamp_min(1e-6), torch.full_like(masks, 1 / masks.shape[1]))


class SpexForLandCover(MaskingParts, PreTrainedModel):
    """Spectral vision-language model that extracts every class of a legend from multispectral tiles."""

    config_class = SpexConfig
    base_model_prefix = "spex"
    main_input_name = "pixel_values"
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    _keep_in_fp32_modules_strict = ["mask_decoder.position"]  # noqa: RUF012 (see PositionEncoding)
    config: SpexConfig
    processor: SpexProcessor | None = None
    """Set by :meth:`from_pretrained`; :meth:`predict` builds its prompts with it."""
    decoding: DecodingRule | None = None
    """Set by :meth:`from_pretrained` from ``generation_config.json``; without it the tokenizer's end token ends."""

    def __init__(self, config: SpexConfig) -> None:
        super().__init__(config)
        self.add_masking_parts(config)
        hidden = config.text.hidden_size
        self.projector = nn.Sequential(
            nn.Linear(config.aggregator_channels, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        self.language_model = build_language_model(config.text)
        if not config.text.tie_word_embeddings:
            self.lm_head = nn.Linear(hidden, config.text.vocab_size, bias=False)
        if config.image_newline:
            self.image_newline = nn.Parameter(torch.randn(hidden) * hidden**-0.5)
        self.condensation = Condensation(config)
        self.mask_decoder = MaskDecoder(config)
        self.detail = make_detail(config, self.spectral_input.channels)
        self.legend_head = make_legend_head(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # Convolutions and linear layers keep torch's own initialisation; the language model uses Qwen2's.
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.text.initializer_range)
        elif isinstance(module, SpectralInput):
            module.reset_normalisation()

    # -- parts ------------------------------------------------------------------------------------------------------

    def image_tokens(self, aggregated: Tensor) -> Tensor:
        """What the language model reads of the image: float ``[B, h*w, hidden]``."""
        tokens: Tensor = self.projector(aggregated.flatten(2).transpose(1, 2))
        if self.config.append_image_newline:
            tokens = torch.cat([tokens, self.image_newline.expand(len(tokens), 1, -1)], dim=1)
        return tokens

    def look(self, pixel_values: Tensor, gsd_m: Tensor | None = None) -> Tensor:
        """What the language model reads of images, and nothing that only masks need: float ``[B, h*w, hidden]``.

        Args:
            pixel_values: As :meth:`encode_image` takes them.
            gsd_m: As there.
        """
        return self.image_tokens(self.aggregator(self.encoder(self.spectral_input(pixel_values, None, gsd_m))))

    def read_prefix(self, prefix_ids: Tensor, image_tokens: Tensor, questions_per_tile: int) -> DynamicCache:
        """Key/value cache of system prompt and image tokens, one row per question (B * K rows, tile-major)."""
        prefix = self.language_model.embed_tokens(prefix_ids).expand(image_tokens.shape[0], -1, -1)
        cache = DynamicCache(config=self.config.text)
        self.language_model(
            inputs_embeds=torch.cat([prefix, image_tokens], dim=1), past_key_values=cache, use_cache=True
        )
        cache.batch_repeat_interleave(questions_per_tile)
        return cache

    def read_suffix(self, text: TextBatch, cache: DynamicCache) -> Tensor:
        """Last hidden states, after the final norm, of every suffix token: float ``[B*K, T, hidden]``."""
        past = cache.get_seq_length()
        rows, length = text.suffix_ids.shape
        seen = torch.ones(rows, past, dtype=text.attention_mask.dtype, device=text.attention_mask.device)
        positions = torch.arange(past, past + length, device=text.suffix_ids.device)
        states: Tensor = self.language_model(
            input_ids=text.suffix_ids,
            attention_mask=torch.cat([seen, text.attention_mask], dim=1),
            position_ids=positions.expand(rows, -1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return states

    def write_answers(
        self,
        text: TextBatch,
        states: Tensor,
        cache: DynamicCache,
        new_tokens: int,
        quotes: Sequence[Quotes | None] | None = None,
    ) -> WrittenAnswers:
        """Greedy answers to questions that were read, by the checkpoint's own rule; see :func:`greedy_answers`.

        With ``quotes``, one for each question, values in the answers are quoted from these alone.
        """
        assert self.processor is not None
        rule = self.decoding or DecodingRule((self.processor.tokenizer.eos_token_id,))
        quoting = None if quotes is None else QuotingChoice(quotes, self.processor.token_bytes(), rule.end_ids)
        return greedy_answers(self.language_model, self.text_logits, rule, text, states, cache, new_tokens, quoting)

    def read_whole(self, text: TextBatch, image_tokens: Tensor, questions_per_tile: int) -> Tensor:
        """What :meth:`read_suffix` returns, without a shared cache: every row reads its whole prompt.

        For training with gradient checkpointing, which computes a layer again and cannot keep a key/value cache. Needs
        little memory, but reads the image once per question.
        """
        embed = self.language_model.embed_tokens
        rows = text.suffix_ids.shape[0]
        image = image_tokens.repeat_interleave(questions_per_tile, dim=0)
        before = torch.cat([embed(text.prefix_ids).expand(rows, -1, -1), image], dim=1)
        seen = text.attention_mask.new_ones(rows, before.shape[1])
        states: Tensor = self.language_model(
            inputs_embeds=torch.cat([before, embed(text.suffix_ids)], dim=1),
            attention_mask=torch.cat([seen, text.attention_mask], dim=1),
            use_cache=False,
        ).last_hidden_state
        return states[:, before.shape[1] :]

    def text_logits(self, states: Tensor) -> Tensor:
        """Next-token logits of hidden states, in at least float32."""
        tied = self.config.text.tie_word_embeddings
        weight = self.language_model.embed_tokens.weight if tied else self.lm_head.weight
        return F.linear(states, weight).to(torch.promote_types(states.dtype, torch.float32))

    # -- training ---------------------------------------------------------------------------------------------------

    def forward(
        self, pixel_values: Tensor, text: TextBatch, see_image: bool = True, gsd_m: Tensor | None = None
    ) -> SpexOutput:
        """Teacher-forced pass over B tiles x K questions with answers.

        Args:
            pixel_values: float ``[B, C, H, W]``.
            text: B*K encoded questions with answers (tile-major), or K questions if ``see_image`` is False.
            see_image: False reads the K questions once without image tokens and shares them over the batch: a cheap
                warm-up in which the masks learn from the vision side and class words alone.
            gsd_m: float ``[B, C]``, metres; default: Sentinel-2's.
        """
        batch = pixel_values.shape[0]
        vision = self.encode_image(pixel_values, gsd_m=gsd_m)
        assert vision.image_tokens is not None  # there is a language model
        image_tokens = vision.image_tokens if see_image else vision.image_tokens[:1, :0]
        tiles = batch if see_image else 1
        questions_per_tile = text.suffix_ids.shape[0] // tiles
        if self.is_activation_checkpointing and self.training:
            states = self.read_whole(text, image_tokens, questions_per_tile)
        else:
            states = self.read_suffix(text, self.read_prefix(text.prefix_ids, image_tokens, questions_per_tile))
        prompts = self.condensation(states, text.answer_mask).unflatten(0, (tiles, -1)).expand(batch, -1, -1, -1)
        predicts = text.labels[:, 1:] != -100
        return SpexOutput(
            mask_logits=self.mask_decoder(vision.image_embedding, prompts, vision.detail),
            text_logits=self.text_logits(states[:, :-1][predicts]),
            text_targets=text.labels[:, 1:][predicts],
        )

    # -- inference --------------------------------------------------------------------------------------------------

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
        """Scores every class of a legend for a batch of tiles.

        Args:
            pixel_values: Surface reflectance, float ``[B, C, H, W]`` in the model's band order, finite; H and W are
                multiples of 32.
            legend: K classes; any legend whose nouns the model can read.
            explain: ``"none"`` conditions masks on a fixed short answer (one prefill, no decoding); ``"brief"`` and
                ``"full"`` let the model write an answer, whose states condition the masks.
            questions: B*K prompts (tile-major) instead of those computed from the pixels: for evaluations that
                shuffle or drop the attributes.
            bands: What the C channels are, if not the model's own bands in order: names of Sentinel-2 bands, or
                :class:`spex_core.bands.Band` of another sensor. For models with ``band_encoding``.
            gsd_m: Size of a pixel on the ground where it is not the bands' own, metres (images resampled to 20 m, say).
            class_words: What :meth:`class_word_prompts` gave for this legend, where many batches are predicted;
                default: computed for each.

        Returns:
            Scores ``[B, K, H, W]`` that sum to 1 over K, and B x K texts (none for ``"none"``).

        Raises:
            ModelInputError: Wrong bands, dtype, size, NaN, values that cannot be reflectance, or a prompt that exceeds
                the model's context.
        """
        if self.processor is None:
            raise ModelInputError("this model has no processor; load it with from_pretrained or set model.processor")
        if explain not in ("none", *NEW_TOKENS):
            raise ModelInputError(f"explain must be 'none', 'brief' or 'full', not {explain!r}")
        if self.config.head_codes and legend.codes != tuple(self.config.head_codes):
            raise ModelInputError(
                f"this checkpoint was adapted to the classes {' '.join(map(str, self.config.head_codes))}, and is "
                f"asked for {' '.join(map(str, legend.codes))}: give the legend.yaml of its folder"
            )
        self.processor.check_pixels(pixel_values, None if bands is None else len(bands))
        wavelengths, samplings = None, None
        if bands is not None or gsd_m is not None:
            if not self.config.band_encoding:
                raise ModelInputError(
                    f"this checkpoint takes {' '.join(self.config.bands)} as they are; other bands or pixel sizes need "
                    "one that was trained with band_encoding"
                )
            pixel_values, described = channels_of(pixel_values, bands or self.config.bands, gsd_m)
            wavelengths, samplings = described.to(self.device, self.dtype).unbind()
        if questions is None and explain == "none" and self.config.masks_by_class_words:
            vision = self.encode_image(
                pixel_values.to(self.device, self.dtype, non_blocking=True), wavelengths, samplings
            )
            words = self.class_word_prompts(legend) if class_words is None else class_words
            prompts = words.expand(len(pixel_values), -1, -1, -1)
            scores = self.class_scores(pixel_values, wavelengths, samplings, vision, prompts)
            return LandCoverPrediction(scores=scores, texts=[], written=[])
        tiles = pixel_values.float().cpu().numpy()
        if questions is None:
            questions = [text for tile in tiles for text in self.processor.questions(tile, legend)]
        elif len(questions) != len(tiles) * len(legend):
            raise ModelInputError(f"{len(questions)} questions for {len(tiles)} tiles x {len(legend)} classes")
        answers = self.processor.short_answers(legend) * len(tiles) if explain == "none" else None
        text = self.processor.encode(questions, answers).to(self.device)
        vision = self.encode_image(pixel_values.to(self.device, self.dtype, non_blocking=True), wavelengths, samplings)
        assert vision.image_tokens is not None
        context = text.prefix_ids.numel() + vision.image_tokens.shape[1] + text.suffix_ids.shape[1]
        context += NEW_TOKENS.get(explain, 0)
        if context > self.config.text.max_position_embeddings:
            raise ModelInputError(
                f"prompt of {context} tokens exceeds the model's context of "
                f"{self.config.text.max_position_embeddings}; use smaller tiles or fewer attribute records"
            )
        cache = self.read_prefix(text.prefix_ids, vision.image_tokens, len(legend))
        states = self.read_suffix(text, cache)
        texts: list[list[str]] = []
        answer_mask = text.answer_mask
        if explain != "none":
            said = self.write_answers(text, states, cache, NEW_TOKENS[explain])
            states, answer_mask, written = said.states, said.mask, said.texts(self.processor.decode)
            texts = [written[i : i + len(legend)] for i in range(0, len(written), len(legend))]
        prompts = self.condensation(states, answer_mask).unflatten(0, (len(tiles), len(legend)))
        if self.config.official_numerics:
            masks = self.hard_masks(vision, prompts, pixel_values.shape[-2:])
            return LandCoverPrediction(scores=shares_of(masks), texts=texts, written=texts)
        scores = self.class_scores(pixel_values, wavelengths, samplings, vision, prompts)
        supported = texts
        if self.config.checked_answers:
            drawn = scores.cpu().numpy()
            supported = [
                [supported_answer(text, legend, k, drawn[i], tiles[i]) for k, text in enumerate(row)]
                for i, row in enumerate(texts)
            ]
        return LandCoverPrediction(scores=scores, texts=supported, written=texts)

    def class_word_prompts(self, legend: Legend) -> Tensor:
        """Mask prompts of the bare class words, ``[K, condensed_tokens, decoder_width]``: no image, no attributes."""
        return self.word_prompts([entry.noun for entry in legend])

    def word_prompts(self, nouns: Sequence[str]) -> Tensor:
        """:meth:`class_word_prompts` of any nouns."""
        if self.processor is None:
            raise ModelInputError("this model has no processor; load it with from_pretrained or set model.processor")
        return self.bare_prompts(self.processor.bare_words(nouns).to(self.device))

    def bare_prompts(self, text: TextBatch) -> Tensor:
        """Mask prompts of encoded questions with answers, read without an image: float ``[N, tokens, width]``."""
        nothing = torch.zeros(1, 0, self.config.text.hidden_size, device=self.device, dtype=self.dtype)
        states = self.read_suffix(text, self.read_prefix(text.prefix_ids, nothing, len(text.suffix_ids)))
        prompts: Tensor = self.condensation(states, text.answer_mask)
        return prompts

    # -- checkpoints ------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(  # type: ignore[override]  # narrower on purpose: local folders, safetensors
        cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any
    ) -> SpexForLandCover:
        """Loads model and processor from a folder written by :meth:`save_pretrained` (safetensors only).

        A converted checkpoint whose source had no tokenizer has no processor: it takes token ids only. Code that a
        folder brings is neither run nor asked about.

        Raises:
            CheckpointError: The folder, a file in it or the weights are missing, truncated or not SPEX's.
        """
        path = str(pretrained_model_name_or_path)
        refuse_fetched_code(path)
        kwargs["trust_remote_code"] = False
        try:
            dtype = kwargs.pop("dtype", torch.float32)  # the configuration would keep it to itself
            config, kwargs = SpexConfig.from_pretrained(path, return_unused_kwargs=True, **kwargs)
            config.check()
            kwargs |= {"config": config, "dtype": dtype, "output_loading_info": True}
            with lazy_weights(Path(path)) as weights:
                loaded: Any = super().from_pretrained(None, *args, state_dict=weights, **kwargs)
            model: SpexForLandCover = loaded[0]
            found: dict[str, Any] = loaded[1]
            model.processor = SpexProcessor.from_pretrained(path) if has_processor(path) else None
        except UNREADABLE as error:
            raise unreadable(path, error) from error
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if found[problem]:
                keys = ", ".join(sorted(map(str, found[problem])))
                raise CheckpointError(f"{path} is not a readable SPEX checkpoint: {problem.replace('_', ' ')}: {keys}")
        model.decoding = DecodingRule.read(Path(path))
        model.eval()
        return model

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, *args: Any, **kwargs: Any
    ) -> None:
        """Writes configuration, safetensors weights and, if there is one, the processor."""
        super().save_pretrained(str(save_directory), *args, **kwargs)
        if self.processor is not None:
            self.processor.save_pretrained(str(save_directory))
