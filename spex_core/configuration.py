"""Configuration of a SPEX model: one class covers the published layout and the small Sentinel-2 models."""

from __future__ import annotations

import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config

from spex_core.bands import SENTINEL2_BANDS

STRIDE = 16
"""Pixels per image token and per cell of the mask decoder's image embedding (arXiv 2508.05202)."""
LARGEST_STRIDE = 32
"""Image sides must be multiples of this: the stride of the last encoder stage."""


@strict
class SpexConfig(PreTrainedConfig):
    """Everything that decides the shape of a :class:`spex_core.SpexForLandCover`.

    The defaults are a small Sentinel-2 model. ``text_config`` is a transformers Qwen2 configuration.
    """

    model_type = "spex"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=Qwen2Config)}  # noqa: RUF012 (transformers' API)

    # input
    bands: tuple[str, ...] | list[str] = SENTINEL2_BANDS
    """Band names in channel order."""
    band_mean: tuple[float, ...] | list[float] = (0.08, 0.10, 0.11, 0.14, 0.21, 0.24, 0.25, 0.26, 0.21, 0.15)
    """Mean surface reflectance per band; inputs are normalised by it."""
    band_std: tuple[float, ...] | list[float] = (0.09, 0.09, 0.10, 0.10, 0.11, 0.12, 0.12, 0.12, 0.12, 0.11)
    """Standard deviation of surface reflectance per band."""
    index_channels: bool = True
    """Whether spectral indices join the bands as extra input channels (needs the ten Sentinel-2 bands)."""

    band_encoding: bool = False
    """Whether bands enter by wavelength and pixel size, and may be missing (needs the ten Sentinel-2 bands)."""

    # vision encoder
    channels: int = 32
    """Width of the first stage; each later stage doubles it."""
    depths: tuple[int, ...] | list[int] = (2, 2, 4, 2)
    """Blocks per stage, at strides 4, 8, 16, 32."""
    mixer: Literal["dwconv", "dcnv3"] = "dwconv"
    """Spatial mixer of a block: ``dwconv`` is a depthwise convolution (see docs/decisions/0007), ``dcnv3`` is the
    published deformable one."""
    mixer_kernel: int = 5
    """Side of the depthwise convolution; ``dcnv3`` always has 3 x 3 points."""
    group_channels: int = 16
    """Channels that share the offsets of a ``dcnv3``."""
    offset_scale: float = 1.0
    """Spacing of the points of a ``dcnv3``, and factor of its learnt offsets (2 in the published encoder)."""
    mlp_ratio: float = 4.0
    layer_scale: float = 1.0
    """Initial value of the per-channel residual scales."""
    drop_path: float = 0.0
    """Share of samples that skip the branches of the last block in training; earlier blocks linearly less."""
    aggregator_channels: int = 192
    aggregator_norm: Literal["group", "channel"] = "channel"
    """``group`` (16 groups, published) pools over the tile; ``channel`` is local, so tiles agree at seams."""
    aggregator_dropout: float = 0.0

    # language model and condensation
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    condensation_widths: tuple[int, ...] | list[int] = (256, 128)
    """Hidden widths of the MLP from language-model states to mask prompts."""
    condensed_tokens: int = 4
    """Answer states are pooled to this many mask prompts."""
    attribute_records: int = 2
    """At most so many attribute records per class in a prompt (the published data have up to ten)."""
    attribute_fields: tuple[str, ...] | list[str] = ("size", "centroid", "location", "indices")
    """Fields of a record that are written into the prompt; see :mod:`spex_core.prompts`."""
    attribute_digits: int = 3
    """Decimals of the numbers in a prompt; each digit is a token. A checkpoint's processor keeps its own."""

    checked_answers: bool = False
    """Whether answers are sentences of :mod:`spex_core.answer_templates`, so that they can be held against the masks:
    :meth:`SpexForLandCover.predict` then says only what these bear out (:mod:`spex_core.grounding`)."""

    masks_by_class_words: bool = False
    """Whether masks are anchored to the class words (:mod:`spex_core.describing`): with ``explain="none"`` these alone
    are then read, once for all tiles, without image and attributes."""

    map_questions: bool = False
    """Whether it was taught to answer questions about the objects of a finished map (:mod:`spex_core.map_prompts`)."""

    # mask decoder
    decoder_width: int = 96
    decoder_layers: int = 2
    decoder_heads: int = 4
    decoder_mlp: int = 256
    mask_tokens: int = 4
    double_softmax: bool = False
    """Reproduces the softmax that the published implementation takes twice in token-to-image attention."""
    mask_detail: Literal["none", "full", "half"] = "full"
    """``none``: logits at stride 4 (published); ``full``: spectral detail at every pixel joins them; ``half``: detail
    that is computed at half the size, for a third of the arithmetic (:mod:`spex_core.detail`)."""
    detail_channels: int = 32
    """Features of a pixel that join the masks."""
    published_heads: bool = False
    """Keeps the weights of the published decoder that land cover does not use: mask quality, masks 1 to 3, prompts by
    point and mask. A converted checkpoint loses nothing; nothing is computed with them."""

    # the published procedure
    image_newline: bool = False
    """Whether there is a learnt token of this name: published training appends it, the published demo does not."""
    append_image_newline: bool = False
    """Appends it to the image tokens: 1025 instead of 1024 at 512 px."""
    prompt_limit: int = 8192
    """Longer prompts, image tokens included, are cut by the published procedure."""
    official_numerics: bool = False
    """Parity mode: sets ``double_softmax``, and :meth:`SpexForLandCover.predict` thresholds masks at stride 4 before it
    resizes them, as published. What else the published code does is in :mod:`spex_core.official_procedure`."""

    finer_look_gsd_m: float | None = None
    """Images whose pixels are at least this large, metres, are also read with pixels half the size, and the scores are
    averaged (docs/decisions/0020). For models with ``band_encoding``; None: never."""

    # an adapted model
    head_codes: tuple[int, ...] | list[int] = ()
    """Codes of the one legend that a :class:`spex_core.legend_head.LegendHead` answers; none: there is no such head."""
    head_words: int = 0
    """Class words whose masks the head weighs."""

    temperature: float = 1.0
    """Scores are softmax(logits / temperature): calibration on held-out chips."""

    def __post_init__(self, **kwargs: Any) -> None:
        if self.text_config is None:
            self.text_config = Qwen2Config(
                vocab_size=1024,
                hidden_size=192,
                intermediate_size=512,
                num_hidden_layers=3,
                num_attention_heads=6,
                num_key_value_heads=2,
                max_position_embeddings=4096,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=None,
            )
        super().__post_init__(**kwargs)
        for name in (
            "bands",
            "band_mean",
            "band_std",
            "depths",
            "condensation_widths",
            "attribute_fields",
            "head_codes",
        ):
            setattr(self, name, tuple(getattr(self, name)))
        if not len(self.bands) == len(self.band_mean) == len(self.band_std):
            raise ValueError(
                f"bands, band_mean and band_std differ in length: {len(self.bands)}, {len(self.band_mean)}, "
                f"{len(self.band_std)}"
            )
        if len(self.depths) != 4:
            raise ValueError(f"depths must name four stages, got {self.depths}")
        if self.official_numerics:
            self.double_softmax = True
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in 0..1, got {self.drop_path}")
        if self.mixer == "dcnv3" and self.channels % self.group_channels:
            raise ValueError(f"channels ({self.channels}) must be a multiple of group_channels ({self.group_channels})")
        if self.append_image_newline and not self.image_newline:
            raise ValueError("append_image_newline needs image_newline=True")
        for name in ("index_channels", "band_encoding"):
            if getattr(self, name) and tuple(self.bands) != SENTINEL2_BANDS:
                raise ValueError(f"{name} needs the ten Sentinel-2 bands in order; set {name}=False")

    def check(self) -> None:
        """Refuses what a file may say and no model can be: it is read without the checks of the constructor.

        Raises:
            ValueError: A field of another type, or a number out of its range; the message names the field.
        """
        for name, kinds in _PLAIN_FIELDS.items():
            value = getattr(self, name)
            if type(value) not in kinds:
                raise ValueError(f"{name} is {value!r:.80}, not of type {kinds[0].__name__}")
        if not all(type(code) is int and 0 <= code <= 255 for code in self.head_codes) or self.head_words > 255:
            raise ValueError(f"head_codes {self.head_codes!r:.80} and head_words {self.head_words} are of no legend")
        for name in ("band_mean", "band_std", "temperature", "finer_look_gsd_m"):
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                if value is None and name == "finer_look_gsd_m":
                    continue
                if type(value) not in (int, float) or not math.isfinite(value) or (name != "band_mean" and value <= 0):
                    raise ValueError(f"{name} is {values!r:.80}: no such number can be used")

    @classmethod
    def official(cls, **changes: Any) -> SpexConfig:
        """The published layout (NAIP-style RGB tiles, InternImage-L, Qwen2.5-1.5B), with any field changed."""
        text = Qwen2Config(
            vocab_size=151936,
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
            max_position_embeddings=32768,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=151645,
            pad_token_id=None,
        )
        layout: dict[str, Any] = {
            "bands": ("red", "green", "blue"),
            "band_mean": (0.485, 0.456, 0.406),
            "band_std": (0.229, 0.224, 0.225),
            "index_channels": False,
            "channels": 160,
            "depths": (5, 5, 22, 5),
            "mixer": "dcnv3",
            "offset_scale": 2.0,
            "drop_path": 0.4,
            "aggregator_channels": 1024,
            "aggregator_norm": "group",
            "aggregator_dropout": 0.5,
            "text_config": text,
            "condensation_widths": (2048, 512),
            "attribute_records": 10,
            "attribute_fields": ("size", "centroid", "location", "box"),
            "decoder_width": 256,
            "decoder_heads": 8,
            "decoder_mlp": 2048,
            "double_softmax": True,
            "mask_detail": "none",
            "published_heads": True,
        }
        return cls(**(layout | changes))

    @property
    def text(self) -> Qwen2Config:
        """The language model's configuration, typed."""
        assert isinstance(self.text_config, Qwen2Config)
        return self.text_config


_KINDS: dict[type, tuple[type, ...]] = {int: (int,), float: (float, int), bool: (bool,), str: (str,)}
_PLAIN_FIELDS = {
    name: _KINDS[type(value)]
    for name, value in vars(SpexConfig).items()
    if name in SpexConfig.__annotations__ and type(value) in _KINDS
}
"""Fields of :class:`SpexConfig` whose default is a plain value, and the types that a value may have."""

# Auto classes read config.json first: they must know the model type to load the tokenizer beside it.
AutoConfig.register(SpexConfig.model_type, SpexConfig, exist_ok=True)
