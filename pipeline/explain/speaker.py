"""A checkpoint's language model, asked about images of a finished map: greedy answers, so the same each time.

It runs on the CPU of the driver, whatever the map was computed on: a few images a region. torch is imported on first
use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.explain.views import Depth
from pipeline.predict.classifier import fill_invalid
from pipeline.predict.word_model import without_bars
from pipeline.settings.model import INDEX_RULES
from pipeline.settings.run_file import RunConfig
from spex_core.bands import BANDS, SENTINEL2_BANDS
from spex_core.checkpoints import checkpoint_fingerprint, resolve_checkpoint
from spex_core.label_facts import ClassFacts
from spex_core.map_prompts import map_question

FloatArray = npt.NDArray[np.float32]


class Speaker(Protocol):
    """Answers questions about an image."""

    fingerprint: str
    """Of what it answers with."""

    def question(self, noun: str, facts: ClassFacts) -> str:
        """The question about one class of a map."""
        ...

    def answers(self, reflectance: FloatArray, pixel_m: float, questions: Sequence[str]) -> list[str]:
        """One answer each.

        Args:
            reflectance: float32 ``[10, H, W]``, NaN where there is no measurement; sides multiples of 32.
            pixel_m: Side of a pixel, metres.
            questions: At least one.
        """
        ...


def load_speaker(config: RunConfig, depth: Depth) -> Speaker | str:
    """The speaker of a run's checkpoint, or why it has none.

    Raises:
        CheckpointError: The checkpoint cannot be loaded.
    """
    if config.model.checkpoint == INDEX_RULES:
        return f"{INDEX_RULES} has no words"
    from spex_core.published_model import load_sentinel2_model

    without_bars()
    folder = resolve_checkpoint(config.model.checkpoint)
    model: Any = load_sentinel2_model(folder)
    name = config.model.checkpoint
    if model.processor is None:
        return f"checkpoint {name} has no tokenizer"
    if tuple(model.processor.bands) != SENTINEL2_BANDS:
        return f"checkpoint {name} sees {' '.join(model.config.bands)}; texts are asked for with the ten bands"
    import torch

    torch.set_num_threads(config.compute.threads_per_actor)  # sums depend on it
    return ModelSpeaker(model, checkpoint_fingerprint(folder), depth)


class ModelSpeaker:
    """A loaded checkpoint.

    Args:
        model: :class:`spex_core.SpexForLandCover` with its processor.
        fingerprint: Of its weights.
        depth: How long answers may be.
    """

    def __init__(self, model: Any, fingerprint: str, depth: Depth) -> None:
        self._model, self._depth = model, depth
        self.fingerprint = fingerprint

    def question(self, noun: str, facts: ClassFacts) -> str:
        """See :meth:`Speaker.question`: as the checkpoint was taught, about objects alone or about a map."""
        processor = self._model.processor
        if self._model.config.map_questions:
            return str(processor.asked(map_question(noun, facts)))
        return str(
            processor.asked_about(noun, [found.record for found in facts.objects[: processor.attribute_records]])
        )

    def answers(self, reflectance: FloatArray, pixel_m: float, questions: Sequence[str]) -> list[str]:
        """See :meth:`Speaker.answers`."""
        import torch

        from spex_core.modeling import NEW_TOKENS

        model = self._model
        pixels = fill_invalid(np.ascontiguousarray(reflectance))
        if pixels is None:
            return [""] * len(questions)
        if not model.config.band_encoding:  # takes the ten bands at 10 m, and nothing else
            pixels = np.nan_to_num(pixels)
        sampling = torch.tensor([[max(pixel_m, band.gsd_m) for band in BANDS]])
        with torch.inference_mode():
            given = torch.from_numpy(pixels)[None]
            vision = model.encode_image(given, None, sampling if model.config.band_encoding else None)
            text = model.processor.encode(questions, None)
            room = model.config.text.max_position_embeddings - NEW_TOKENS[self._depth]
            if text.prefix_ids.numel() + vision.image_tokens.shape[1] + text.suffix_ids.shape[1] > room:
                return [""] * len(questions)
            cache = model.read_prefix(text.prefix_ids, vision.image_tokens, len(questions))
            states = model.read_suffix(text, cache)
            said = model.write_answers(text, states, cache, NEW_TOKENS[self._depth])
        return [str(answer) for answer in said.texts(model.processor.decode)]
