"""Text quality: the share of what the model writes that the labels support."""

from __future__ import annotations

import numpy as np

from pipeline.evaluation.asking import ModelImage, ask, questions
from pipeline.evaluation.chips import LabelledChip, Source
from pipeline.evaluation.classes import Classes
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.result import TextQuality
from spex_core.answers import Claim, check
from spex_core.label_facts import BoolArray
from spex_core.legend import Legend
from spex_core.modeling import SpexForLandCover

LABELLED_SHARE = 0.9
"""A claim such as "covers 30 percent" can be checked only where so much of a chip is labelled."""


class TextCheck:
    """Lets the model write about some chips and checks every claim.

    Args:
        config: How many chips, which texts.
        asked: K classes.
        classes: Compared classes; texts are checked only where they are those asked for.
        chips: How many chips there are; those written about are evenly spread among them.
    """

    def __init__(self, config: EvaluationConfig, asked: Legend, classes: Classes, chips: int) -> None:
        self._explain, self._asked = config.explain, asked
        self._chosen = set(np.linspace(0, chips - 1, min(config.texts, chips)).round().astype(int).tolist())
        self._comparable = not classes.grouped
        self._kinds: dict[str, tuple[int, int]] = {}
        self._chips = self._texts = self._written = self._written_supported = 0

    def add(self, index: int, model: SpexForLandCover, source: Source, chip: LabelledChip, image: ModelImage) -> None:
        """Counts the claims about a chip if it is one of the chosen ones."""
        labelled = chip.labels >= 0
        if index not in self._chosen or not self._comparable or labelled.mean() < LABELLED_SHARE:
            return
        prompts = questions(model, image, self._asked, "measured")
        answer = ask(
            model, image, self._asked, prompts, explain=self._explain, sensor=source.sensor, gsd_m=source.gsd_m
        )
        self._chips += 1
        masks = {entry.noun: chip.labels == k for k, entry in enumerate(self._asked)}
        for entry, text, written in zip(self._asked, answer.texts, answer.written, strict=True):
            self._texts += 1
            others = {noun: mask for noun, mask in masks.items() if noun != entry.noun}

            def judged(said: str, noun: str = entry.noun, others: dict[str, BoolArray] = others) -> list[Claim]:
                return check(said, noun, masks[noun], chip.reflectance, others)

            for claim in judged(text):
                claims, supported = self._kinds.get(claim.kind, (0, 0))
                self._kinds[claim.kind] = claims + 1, supported + claim.supported
            for claim in judged(written):
                self._written += 1
                self._written_supported += claim.supported

    @property
    def quality(self) -> TextQuality | None:
        """None if no chip could be checked."""
        if not self._chips:
            return None
        claims, supported = (sum(counts[i] for counts in self._kinds.values()) for i in (0, 1))
        written = (self._written, self._written_supported)
        return TextQuality(self._chips, self._texts, claims, supported, dict(self._kinds), *written)
