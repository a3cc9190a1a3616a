"""Greedy decoding that keeps to :class:`spex_core.quoted_values.Quotes`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spex_core.quoted_values import Quotes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TRIED = 64
"""Tokens that are looked at, best first, before all are put in order."""


class QuotingChoice:
    """Greedy choice of the next token of N answers, each held to its own values.

    Args:
        quotes: Of each answer; None: anything may be written.
        pieces: Bytes of every token, see :func:`token_bytes`.
        end_ids: Any of these ends an answer.
    """

    def __init__(self, quotes: Sequence[Quotes | None], pieces: Sequence[bytes], end_ids: Sequence[int]) -> None:
        self._quotes, self._pieces, self._ends = quotes, pieces, frozenset(end_ids)
        self._written = [b""] * len(quotes)

    def choose(self, scores: Tensor, going: Tensor) -> Tensor:
        """The best token of each row that its values allow, int64 ``[N]``.

        Args:
            scores: float ``[N, vocab]``.
            going: bool ``[N]``; of other rows the best token is given, whatever it is.
        """
        best = scores.argmax(-1).tolist()
        for row, (token, goes) in enumerate(zip(best, going.tolist(), strict=True)):
            quotes = self._quotes[row]
            if not goes or quotes is None:
                continue
            if not self._fits(quotes, row, token):
                best[row] = token = self._next_best(quotes, row, scores[row])
            if token not in self._ends:
                self._written[row] += self._pieces[token]
        return torch.tensor(best, device=scores.device)

    def _fits(self, quotes: Quotes, row: int, token: int) -> bool:
        if token in self._ends:
            return quotes.allows(self._written[row], known=len(self._written[row]), ended=True)
        written = self._written[row]
        return token < len(self._pieces) and quotes.allows(written + self._pieces[token], known=len(written))

    def _next_best(self, quotes: Quotes, row: int, scores: Tensor) -> int:
        some = min(_TRIED, len(scores))
        for order in (scores.topk(some).indices, scores.argsort(descending=True, stable=True)):
            for token in order.tolist():
                if self._fits(quotes, row, token) and (token in self._ends or self._pieces[token]):
                    return int(token)
        return min(self._ends)  # no token can go on: the tokenizer lacks a byte of the value


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """What each token of a byte-level tokenizer stands for; nothing for special tokens and gaps in the vocabulary."""
    special = set(tokenizer.all_special_ids)
    found = [b""] * len(tokenizer)
    for token in range(len(tokenizer)):
        piece = tokenizer.convert_ids_to_tokens(token)
        if token in special or not isinstance(piece, str):
            continue
        known = [_BYTE_OF.get(character) for character in piece]
        found[token] = piece.encode() if None in known else bytes(b for b in known if b is not None)
    return found


def _byte_alphabet() -> dict[str, int]:
    """Character that stands for each byte in byte-level vocabularies: itself if it can be printed, else from 256 on."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
