"""A checkpoint's language model, asked about images of a finished map: greedy answers, so the same each time.

It runs on the CPU of the driver, whatever the map was computed on: a few images a region. torch is imported on first
use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from pipeline.explain.views import Depth
from pipeline.predict.classifier import fill_invalid
from pipeline.predict.word_model import without_bars
from pipeline.settings.model import INDEX_RULES
from pipeline.settings.run_file import RunConfig
from spex_core.asked_images import AskedImage, ImageQuestion
from spex_core.bands import SENTINEL2_BANDS
from spex_core.checkpoints import checkpoint_fingerprint, resolve_checkpoint
from spex_core.label_facts import ClassFacts
from spex_core.map_prompts import map_question, map_quotes

IMAGES_PER_PASS = 8
"""Images whose questions are answered together."""


class Speaker(Protocol):
    """Answers questions about an image."""

    fingerprint: str
    """Of what it answers with."""

    def question(self, noun: str, facts: ClassFacts) -> ImageQuestion:
        """The question about one class of a map, and what its answer may quote."""
        ...

    def answers(self, images: Sequence[AskedImage]) -> list[list[str]]:
        """One answer to each question about each image.

        Args:
            images: NaN where there is no measurement; sides multiples of 32. At least one question each.
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

    def question(self, noun: str, facts: ClassFacts) -> ImageQuestion:
        """See :meth:`Speaker.question`: as the checkpoint was taught, about objects alone or about a map.

        Only an answer about a map is held to its question: of objects alone none of the numbers is of the class.
        """
        processor = self._model.processor
        if self._model.config.map_questions:
            return ImageQuestion(processor.asked(map_question(noun, facts)), map_quotes(noun, facts))
        records = [found.record for found in facts.objects[: processor.attribute_records]]
        return ImageQuestion(processor.asked_about(noun, records))

    def answers(self, images: Sequence[AskedImage]) -> list[list[str]]:
        """See :meth:`Speaker.answers`. Images of one size are answered together, in the order given."""
        from spex_core.image_answers import answer_images
        from spex_core.modeling import NEW_TOKENS

        said = [[""] * len(image.questions) for image in images]
        groups: dict[tuple[int, ...], list[tuple[int, AskedImage]]] = {}
        for place, image in enumerate(images):
            pixels = fill_invalid(np.ascontiguousarray(image.pixels))
            if pixels is None:
                continue
            if not self._model.config.band_encoding:  # takes the ten bands at 10 m, and nothing else
                pixels = np.nan_to_num(pixels)
            groups.setdefault(pixels.shape, []).append((place, dataclasses.replace(image, pixels=pixels)))
        for group in groups.values():
            for first in range(0, len(group), IMAGES_PER_PASS):
                together = group[first : first + IMAGES_PER_PASS]
                found = answer_images(self._model, [image for _, image in together], NEW_TOKENS[self._depth])
                for (place, _), answers in zip(together, found, strict=True):
                    said[place] = answers
        return said
