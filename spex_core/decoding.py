"""Answers, token by token: greedy, with the end tokens and repetition penalty of a ``generation_config.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from spex_core.cached_steps import CachedSteps
from spex_core.errors import CheckpointError
from spex_core.processing import TextBatch
from spex_core.prompts import whole_sentences
from spex_core.quoted_decoding import QuotingChoice

GENERATION_FILE = "generation_config.json"


@dataclass(frozen=True)
class DecodingRule:
    """Greedy decoding; sampling settings of the file are not used, as in the published procedure."""

    end_ids: tuple[int, ...]
    """Any of these ends an answer."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens that the answer already holds."""

    @classmethod
    def read(cls, folder: Path) -> DecodingRule | None:
        """The rule of a checkpoint folder; None if it has no generation file or the file names no end token.

        Raises:
            CheckpointError: The file is not a generation configuration.
        """
        path = folder / GENERATION_FILE
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            ends = content.get("eos_token_id")
            ends = [ends] if isinstance(ends, int) else ends or []
            penalty = content.get("repetition_penalty") or 1.0
            if not all(isinstance(end, int) for end in ends) or not float(penalty) > 0:
                raise ValueError("eos_token_id must be integers and repetition_penalty positive")
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{path} is not a generation configuration: {error}") from error
        return cls(tuple(ends), float(penalty)) if ends else None

    def choose(self, logits: Tensor, written: Tensor) -> Tensor:
        """Next tokens int64 ``[N]`` from logits ``[N, vocab]`` and the answers so far, int64 ``[N, t]``."""
        return self.scores(logits, written).argmax(-1)

    def scores(self, logits: Tensor, written: Tensor) -> Tensor:
        """Logits after the penalty, the same shape."""
        if self.repetition_penalty != 1.0 and written.shape[1]:
            seen = logits.gather(1, written)
            seen = torch.where(seen < 0, seen * self.repetition_penalty, seen / self.repetition_penalty)
            logits = logits.scatter(1, written, seen)
        return logits

    def ends(self, tokens: Tensor) -> Tensor:
        """bool, same shape: whether a token ends its answer."""
        return torch.isin(tokens, torch.tensor(self.end_ids, device=tokens.device))


@dataclass(frozen=True)
class WrittenAnswers:
    """What :func:`greedy_answers` wrote for N questions, and the states it wrote with."""

    states: Tensor
    """float ``[N, T, hidden]``: the states of the answer tokens without the last one, as the published inference pools
    them. A row that ends at once holds the last prompt state."""
    mask: Tensor
    """bool ``[N, T]``: which of the states belong to the row's answer."""
    token_ids: list[list[int]]
    """Answers without end tokens."""
    cut: list[bool]
    """Whether an answer came to the limit before its end token."""

    def texts(self, decode: Callable[[Sequence[int]], str]) -> list[str]:
        """The answers as text; of one that was cut, the whole sentences."""
        said = [decode(row) for row in self.token_ids]
        return [whole_sentences(text) if cut else text for text, cut in zip(said, self.cut, strict=True)]


@torch.no_grad()
def greedy_answers(
    language_model: nn.Module,
    text_logits: Callable[[Tensor], Tensor],
    rule: DecodingRule,
    text: TextBatch,
    states: Tensor,
    cache: DynamicCache,
    new_tokens: int,
    quoting: QuotingChoice | None = None,
) -> WrittenAnswers:
    """Greedy decoding of every row until its end token.

    Args:
        language_model: A transformers decoder.
        text_logits: Hidden states ``[N, hidden]`` → logits ``[N, vocab]``.
        rule: What ends an answer.
        text: N encoded questions without answers.
        states: float ``[N, T, hidden]``, the last hidden states of ``text``.
        cache: Keys and values of prefix and questions.
        new_tokens: Longest answer.
        quoting: Chooses instead of the rule, from the scores that the rule gives; made for these N rows.
    """
    rows = text.suffix_ids.shape[0]
    last = text.attention_mask.sum(1) - 1
    state = states[torch.arange(rows, device=states.device), last]
    before = cache.get_seq_length() - text.suffix_ids.shape[1]
    seen = torch.cat([text.attention_mask.new_ones(rows, before), text.attention_mask], 1)
    steps = CachedSteps(language_model, cache, seen, before + last + 1, new_tokens)
    going = torch.ones(rows, dtype=torch.bool, device=states.device)
    written = text.suffix_ids.new_zeros(rows, 0)
    kept_states, kept = [], []
    for place in range(new_tokens):
        kept_states.append(state)
        scores = rule.scores(text_logits(state), written)
        chosen = scores.argmax(-1) if quoting is None else quoting.choose(scores, going)
        token = torch.where(going, chosen, rule.end_ids[0])
        written = torch.cat([written, token[:, None]], dim=1)
        # The last prompt state counts for an answer that ends at once, and for no other.
        kept.append(going if place else rule.ends(token))
        going = going & ~rule.ends(token)
        if not going.any() or place == new_tokens - 1:
            break
        state = steps.step(token, going)
    answers = [[t for t in row if t not in rule.end_ids] for row in written.tolist()]
    return WrittenAnswers(torch.stack(kept_states, dim=1), torch.stack(kept, dim=1), answers, going.tolist())
