"""A SPEX checkpoint that is asked for words it was not given a class for, beside the classes of a legend.

One softmax decides (docs/decisions/0008), so a phrase has a mask only against other words. It takes the place of the
class that the model takes it for: a synonym then competes with the other classes and not with its own.

Whether the model knows the words at all is looked at where it reads them: the prompt that it makes of a phrase must lie
near that of a class, nearer than to what it makes of letters that mean nothing. See docs/decisions/0044.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import BadInputError
from pipeline.predict.stitch import Arrays, HostArrays
from pipeline.settings.model import INDEX_RULES, INDEX_RULES_VERSION
from spex_core.bands import SENTINEL2_BANDS
from spex_core.checkpoints import checkpoint_fingerprint, resolve_checkpoint, unreadable
from spex_core.errors import SpexError
from spex_core.legend import Legend, LegendClass

if TYPE_CHECKING:
    from pipeline.settings.run_file import ModelConfig

FloatArray = npt.NDArray[np.float32]
MEANINGLESS = ("xqzt", "blorf", "wug vump", "ffth", "zzkr oo", "jyx", "mrrp tlon", "quibz")
"""What the model makes of these is what it makes of words that it does not know."""
MAX_PHRASES, MAX_CHARACTERS = 20, 80
NEAR_SHARE = 0.5
"""A phrase means a class if its prompt is nearer to the class's than half the way between the two nearest classes, and
than half the way from the class to what the model makes of letters without meaning."""
Verdict = Literal["a class", "like a class", "unlike any class"]


@dataclass(frozen=True)
class Understood:
    """What the model makes of a phrase."""

    phrase: str
    verdict: Verdict
    nearest: tuple[tuple[str, float], ...]
    """Class names, nearest first, each with the distance of the prompts in units of the distance between the two
    nearest classes: 0 is the same word, 1 as far apart as two classes are."""
    nonsense: float
    """The same to the nearest of the meaningless words."""

    @property
    def said(self) -> str:
        """One sentence."""
        name = self.nearest[0][0]
        if self.verdict == "a class":
            return f"{self.phrase!r} is the class {name} of the legend."
        if self.verdict == "like a class":
            return f"{self.phrase!r} reads to the model like {name}."
        return (
            f"{self.phrase!r}: these words are unlike any class that the model was taught; it reads them as it reads "
            f"letters without meaning, and takes them for {name}. Do not trust this mask."
        )


def check_phrases(phrases: Sequence[str]) -> tuple[str, ...]:
    """Phrases with their spaces in order.

    Raises:
        BadInputError: None, too many, too long, empty, or twice the same.
    """
    plain = tuple(" ".join(phrase.split()) for phrase in phrases)
    if not 1 <= len(plain) <= MAX_PHRASES:
        raise BadInputError(f"{len(plain)} phrases: give 1 to {MAX_PHRASES}")
    for phrase in plain:
        if not phrase or len(phrase) > MAX_CHARACTERS or not phrase.isprintable():
            raise BadInputError(f"{phrase[:MAX_CHARACTERS]!r} is no phrase: 1 to {MAX_CHARACTERS} printable characters")
        if any(mark in phrase for mark in ("<|", "|>", "[", "]", "{", "}")):
            raise BadInputError(f"{phrase!r} holds brackets, which mark parts of the model's questions: leave them out")
    if len({phrase.casefold() for phrase in plain}) < len(plain):
        raise BadInputError("the same phrase is given twice")
    return plain


class WordModel:
    """Scores of phrases; a :class:`pipeline.predict.classifier.Classifier`.

    Channels are the phrases in their order and, unless they stand alone, "none of these" as the last.

    Args:
        config: The run's model.
        legend: The run's legend.
        phrases: From :func:`check_phrases`.
        alone: Every pixel belongs to one of the phrases; no class of the legend competes.

    Raises:
        BadInputError: The run's model knows no words, or one phrase stands alone.
        CheckpointError: It cannot be loaded.
    """

    def __init__(self, config: ModelConfig, legend: Legend, phrases: Sequence[str], *, alone: bool = False) -> None:
        if config.checkpoint == INDEX_RULES:
            raise BadInputError("the map was made by index rules, which know no words: ask a map of a SPEX checkpoint")
        if alone and len(phrases) < 2:
            raise BadInputError("a legend of one class leaves nothing to decide: give two or more")
        import torch

        from spex_core.published_model import load_sentinel2_model

        without_bars()
        self._torch, self._classes = torch, len(legend)
        self._phrases, self._alone = tuple(phrases), alone
        folder = resolve_checkpoint(config.checkpoint)
        self._fingerprint = checkpoint_fingerprint(folder)
        loaded: Any = load_sentinel2_model(folder)
        self._model = loaded.eval()
        self._legend = with_phrases(legend, self._phrases)
        self.arrays: Arrays = HostArrays()
        self.notes: list[str] = []
        try:
            with torch.inference_mode():
                read = self._model.class_word_prompts(with_phrases(legend, (*self._phrases, *MEANINGLESS)))
        except SpexError:
            raise
        except (RuntimeError, IndexError, ValueError) as error:
            raise unreadable(folder, error) from error
        prompts = read.flatten(1).double().numpy()
        self.understood = understood(prompts, legend, self._phrases)
        names = list(legend.names)
        self._taken_for = tuple(names.index(one.nearest[0][0]) for one in self.understood)
        self._words = read[: len(self._legend)] if self._model.config.masks_by_class_words else None

    @property
    def channels(self) -> int:
        """Phrases, and "none of these"."""
        return len(self._phrases) + (not self._alone)

    def fingerprint(self) -> str:
        """Identity of the weights and the words."""
        return f"{self._fingerprint}:{INDEX_RULES_VERSION}:{'|'.join(self._phrases)}:{self._alone}"

    def scores(self, pixels: FloatArray) -> FloatArray:
        """float32 ``[B, 10, H, W]`` → float32 ``[B, channels, H, W]``; sums to 1."""
        return self.of_phrases(self.joint_scores(pixels))

    def joint_scores(self, pixels: FloatArray) -> FloatArray:
        """One softmax over the classes of the legend and, behind them, the phrases."""
        torch = self._torch
        read = ~np.isnan(pixels[0, :, 0, 0])
        bands = None if read.all() else [name for name, there in zip(SENTINEL2_BANDS, read, strict=True) if there]
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(pixels[:, read]))
            found = self._model.predict(batch, self._legend, bands=bands, class_words=self._words)
            scores: FloatArray = found.scores.float().numpy()
        return scores

    def device_scores(self, pixels: FloatArray) -> FloatArray:
        """The same."""
        return self.scores(pixels)

    def of_phrases(self, scores: FloatArray) -> FloatArray:
        """One softmax over classes and phrases → scores of the phrases, which take the place of classes."""
        own = scores[:, self._classes :].copy()
        for position, one in enumerate(self.understood):
            if one.verdict == "a class":  # its own word, as the map asks for it
                own[:, position] = scores[:, self._taken_for[position]]
        if not self._alone:
            others = [k for k in range(self._classes) if k not in self._taken_for]
            own = np.concatenate([own, scores[:, others].sum(axis=1, keepdims=True)], axis=1)
        total = own.sum(axis=1, keepdims=True)
        even = np.float32(1 / own.shape[1])
        return np.asarray(np.where(total > 1e-30, own / np.maximum(total, 1e-30), even), np.float32)


def without_bars() -> None:
    """transformers draws a bar for every model that is loaded; a command has its own progress."""
    from transformers.utils import logging

    bars: Any = logging
    bars.disable_progress_bar()


def with_phrases(legend: Legend, phrases: Sequence[str]) -> Legend:
    """The legend and, behind its classes, one class for each phrase, without index rules of its own."""
    free = [code for code in range(1, 256) if code not in {legend.nodata, *legend.codes}]
    names = {text for entry in legend for text in (entry.name, entry.noun)}
    added = []
    for code, phrase in zip(free, phrases, strict=False):
        noun = phrase if phrase not in names else f"{phrase} "  # a legend has each noun once
        added.append(LegendClass(code, f"asked: {phrase}", noun, "#808080"))
    return Legend(f"{legend.name}+asked", legend.title, (*legend.classes, *added), legend.nodata)


def understood(prompts: npt.NDArray[np.float64], legend: Legend, phrases: Sequence[str]) -> tuple[Understood, ...]:
    """Judges phrases by the prompts that the model makes of them.

    Args:
        prompts: float ``[K + P + M, features]``: of the legend's classes, the phrases and :data:`MEANINGLESS`.
        legend: K classes.
        phrases: P phrases.
    """
    classes, asked = prompts[: len(legend)], prompts[len(legend) : len(legend) + len(phrases)]
    nothing = prompts[len(legend) + len(phrases) :]
    between = _distances(classes, classes) + np.where(np.eye(len(legend)), np.inf, 0)
    unit = float(between.min()) if len(legend) > 1 else float(_distances(classes, nothing).min())
    unit = max(unit, 1e-9)
    to_class, to_nothing = _distances(asked, classes) / unit, _distances(asked, nothing).min(axis=1) / unit
    class_to_nothing = _distances(classes, nothing).min(axis=1) / unit
    spoken = {text.casefold().rstrip("s"): entry.name for entry in legend for text in (entry.name, entry.noun)}
    found = []
    for phrase, near, nonsense in zip(phrases, to_class, to_nothing, strict=True):
        order = sorted(range(len(legend)), key=lambda k: (near[k], k))
        nearest = tuple((legend.names[k], round(float(near[k]), 3)) for k in order[:3])
        first = order[0]
        verdict: Verdict = "unlike any class"
        if (name := spoken.get(phrase.casefold().rstrip("s"))) is not None:
            verdict = "a class"
            nearest = ((name, 0.0), *(entry for entry in nearest if entry[0] != name))[:3]
        elif near[first] < NEAR_SHARE * min(1.0, class_to_nothing[first]):
            verdict = "like a class"
        found.append(Understood(phrase, verdict, nearest, round(float(nonsense), 3)))
    return tuple(found)


def _distances(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.sqrt(((one[:, None] - other[None]) ** 2).sum(axis=-1)))
