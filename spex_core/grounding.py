"""Answers held against the map that the same model draws: what its masks do not bear out is not said.

A model's sentences and its masks come from the same states, but nothing makes them agree. So every claim is measured on
the masks (:mod:`spex_core.answer_check`), and measured again on four maps on which the class is a little more and a
little less than the model thinks: a claim that a slight doubt would overturn is not made (docs/decisions/0018).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spex_core.answer_check import check
from spex_core.label_facts import BoolArray, FloatArray
from spex_core.legend import Legend
from spex_core.prompts import short_answer

DOUBTS = (0.0, -0.7, 0.7, -1.5, 1.5)
"""Changes of the class's log score under which a claim must hold; 1.5 is odds of 4.5."""
SURE = 0.7
"""Mean score of its pixels from which anything is claimed of a class."""


def supported_answer(
    text: str,
    legend: Legend,
    position: int,
    scores: npt.NDArray[np.float32],
    reflectance: FloatArray | None = None,
) -> str:
    """The sentences of an answer that the model's own masks bear out.

    Args:
        text: The answer about one class, as written.
        legend: K classes.
        position: Which of them the answer is about.
        scores: float32 ``[K, H, W]``, softmax over the classes.
        reflectance: Surface reflectance, float32 ``[10, H, W]`` (NaN: missing), to measure index values.

    Returns:
        Whole sentences in their order, each once; the short answer, which claims nothing, where none is left or where
        what is left does not name the class.
    """
    noun = legend.classes[position].noun
    kept = [text]
    logs = np.log(scores.clip(1e-9))
    for doubt in DOUBTS:
        changed = logs.copy()
        changed[position] += doubt
        best = changed.argmax(0)
        mask = best == position
        if doubt == 0.0 and mask.any() and scores[position][mask].mean() < SURE:
            return short_answer(noun)
        claims = check(" ".join(kept), noun, mask, reflectance, _others(best, legend, position))
        wrong = {claim.text for claim in claims if not claim.supported}
        kept = list(dict.fromkeys(claim.text for claim in claims if claim.text not in wrong))
        if not kept:
            return short_answer(noun)
    kept = _with_antecedents(kept)
    return " ".join(kept if kept and noun in kept[0] else [short_answer(noun), *kept])


def _with_antecedents(sentences: list[str]) -> list[str]:
    """Without those that say "Another ..." when nothing before them tells of the first."""
    return [
        sentence
        for place, sentence in enumerate(sentences)
        if not sentence.startswith("Another ") or any("largest" in before for before in sentences[:place])
    ]


def _others(best: npt.NDArray[np.int64], legend: Legend, position: int) -> dict[str, BoolArray]:
    return {entry.noun: best == k for k, entry in enumerate(legend) if k != position}
