"""Processor: pixels are checked, prompts are built from imagery and tokenised. No labels, no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from spex_core.bands import SENTINEL2_BANDS
from spex_core.checkpoints import UNREADABLE, unreadable
from spex_core.configuration import LARGEST_STRIDE
from spex_core.errors import ModelInputError
from spex_core.indices import with_either_near_infrared
from spex_core.legend import Legend, LegendClass
from spex_core.priors import MIN_OBJECT_PX, AttributeRecord, candidate_masks, region_attributes
from spex_core.prompts import END_OF_TURN, PUBLISHED_DIGITS, SYSTEM_PREFIX, USER_SUFFIX, question_text, short_answer
from spex_core.quoted_decoding import token_bytes
from spex_core.reflectance import check_reflectance


@dataclass
class TextBatch:
    """Token ids of B tiles x K questions. The image tokens stand between ``prefix_ids`` and ``suffix_ids``."""

    prefix_ids: Tensor
    """int64 ``[P]``, shared by every row."""
    suffix_ids: Tensor
    """int64 ``[B*K, T]``: question, assistant header, answer (if any), right-padded."""
    attention_mask: Tensor
    """int64 ``[B*K, T]``: 1 where ``suffix_ids`` holds a token."""
    answer_mask: Tensor
    """bool ``[B*K, T]``: answer tokens without the end-of-turn token, whose states condition the mask."""
    labels: Tensor
    """int64 ``[B*K, T]``: answer tokens with the end-of-turn token, -100 elsewhere."""

    def to(self, device: torch.device) -> TextBatch:
        """The same on another device."""
        return TextBatch(*(tensor.to(device) for tensor in self.tensors()))

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in the order of the constructor."""
        return (self.prefix_ids, self.suffix_ids, self.attention_mask, self.answer_mask, self.labels)


class SpexProcessor(ProcessorMixin):
    """Checks pixels and turns tiles and a legend into prompts.

    Args:
        tokenizer: A transformers tokenizer that knows ``<|im_start|>`` and ``<|im_end|>``.
        bands: Band names the model was built for, in channel order.
        attribute_records: Records per class in a prompt.
        attribute_fields: Fields of a record in a prompt.
        digits: Decimals of numbers in a prompt; each digit is a token.
        literal_newline: Starts a question with backslash and n, as the published demo does, not with a line break.
    """

    tokenizer: PreTrainedTokenizerBase
    _token_bytes: list[bytes] | None = None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        bands: Sequence[str] = SENTINEL2_BANDS,
        attribute_records: int = 2,
        attribute_fields: Sequence[str] = ("size", "centroid", "location", "indices"),
        digits: int = PUBLISHED_DIGITS,
        literal_newline: bool = False,
        **kwargs: object,
    ) -> None:
        self.bands = list(bands)
        self.attribute_records = attribute_records
        self.attribute_fields = list(attribute_fields)
        self.digits = digits
        self.literal_newline = literal_newline
        super().__init__(tokenizer)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # narrower on purpose: no code of the folder's own
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> SpexProcessor:
        """Loads a processor and its tokenizer; code that the folder brings is neither run nor asked about.

        Raises:
            CheckpointError: The files are missing or malformed, or name no class that transformers has itself.
        """
        path = str(pretrained_model_name_or_path)
        try:
            loaded: Any = super().from_pretrained(path, **(kwargs | {"trust_remote_code": False}))
        except UNREADABLE as error:
            raise unreadable(path, error) from error
        processor: SpexProcessor = loaded
        return processor

    def check_pixels(self, pixel_values: Tensor, bands: int | None = None) -> None:
        """Raises :class:`ModelInputError` unless ``pixel_values`` is reflectance ``[B, C, H, W]`` in the model's bands.

        Args:
            pixel_values: To be checked.
            bands: How many bands were announced, if not the model's own.
        """
        if pixel_values.ndim != 4:
            raise ModelInputError(f"pixel_values must be [B, C, H, W], got shape {tuple(pixel_values.shape)}")
        if bands is not None and pixel_values.shape[1] != bands:
            raise ModelInputError(f"pixel_values has {pixel_values.shape[1]} bands, but {bands} were named")
        if bands is None and pixel_values.shape[1] != len(self.bands):
            raise ModelInputError(
                f"pixel_values has {pixel_values.shape[1]} bands; this model takes {len(self.bands)}: "
                f"{' '.join(self.bands)}"
            )
        if not pixel_values.is_floating_point():
            raise ModelInputError(
                f"pixel_values is {pixel_values.dtype}; give surface reflectance as float (DN * scale + offset)"
            )
        height, width = pixel_values.shape[-2:]
        if height == 0 or height % LARGEST_STRIDE or width == 0 or width % LARGEST_STRIDE:
            raise ModelInputError(f"tile is {height} x {width} px; both sides must be multiples of {LARGEST_STRIDE}")
        check_reflectance(pixel_values)

    def questions(
        self, reflectance: npt.NDArray[np.float32], legend: Legend, *, max_records: int | None = None
    ) -> list[str]:
        """One question per legend class for one tile, attributes computed from the imagery by the legend's priors.

        Args:
            reflectance: float32 ``[10, H, W]``; NaN throughout a missing band.
            legend: K classes.
            max_records: Overrides ``attribute_records``; 0 asks without attributes.
        """
        limit = self.attribute_records if max_records is None else max_records
        if limit == 0 or tuple(self.bands) != SENTINEL2_BANDS:
            return [self.question(entry, ()) for entry in legend]
        if np.isnan(reflectance[:, 0, 0]).any():
            reflectance = with_either_near_infrared(reflectance)
        return [
            self.question(entry, region_attributes(mask, reflectance, max_records=limit, min_pixels=MIN_OBJECT_PX))
            for entry, mask in zip(legend, candidate_masks(reflectance, legend), strict=True)
        ]

    def question(self, entry: LegendClass, records: Sequence[AttributeRecord]) -> str:
        """The question for one class with given attribute records."""
        return self.asked_about(entry.noun, records)

    def asked_about(self, noun: str, records: Sequence[AttributeRecord]) -> str:
        """The question for a class by its noun."""
        return self.asked(question_text(noun, records, self.attribute_fields, self.digits))

    def asked(self, question: str) -> str:
        """A question begun as this checkpoint was taught."""
        return "\\n" + question.removeprefix("\n") if self.literal_newline else question

    def short_answers(self, legend: Legend) -> list[str]:
        """The fixed answers that condition masks when nothing is explained."""
        return [short_answer(entry.noun) for entry in legend]

    def class_words(self, legend: Legend) -> TextBatch:
        """The K questions without attributes, with their short answers."""
        return self.bare_words([entry.noun for entry in legend])

    def bare_words(self, nouns: Sequence[str]) -> TextBatch:
        """Questions without attributes, with their short answers."""
        return self.encode([self.asked(question_text(noun, (), ())) for noun in nouns], list(map(short_answer, nouns)))

    def encode(self, questions: Sequence[str], answers: Sequence[str] | None) -> TextBatch:
        """Tokenises questions and, if given, answers.

        Args:
            questions: B*K texts (tile-major).
            answers: As many texts, or None to leave the answer to decoding.
        """

        def ids(text: str) -> list[int]:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

        prefix = torch.tensor(ids(SYSTEM_PREFIX))
        rows, spans = [], []
        for position, question in enumerate(questions):
            asked = ids(question + USER_SUFFIX)
            answered = [] if answers is None else ids(answers[position] + END_OF_TURN)
            rows.append(asked + answered)
            spans.append((len(asked), len(asked) + len(answered)))
        length = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id
        suffix = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
        column = torch.arange(length)[None, :]
        start = torch.tensor([s for s, _ in spans])[:, None]
        end = torch.tensor([e for _, e in spans])[:, None]
        in_answer = (column >= start) & (column < end)
        return TextBatch(
            prefix_ids=prefix,
            suffix_ids=suffix,
            attention_mask=(column < end).long(),
            answer_mask=in_answer & (column < end - 1),
            labels=torch.where(in_answer, suffix, -100),
        )

    def token_bytes(self) -> list[bytes]:
        """What each token stands for, see :func:`spex_core.quoted_decoding.token_bytes`."""
        if self._token_bytes is None:
            self._token_bytes = token_bytes(self.tokenizer)
        return self._token_bytes

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated token ids, without special tokens."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True)).strip()
