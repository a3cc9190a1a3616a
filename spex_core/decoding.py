"""Which token comes next: greedy, with the end tokens and repetition penalty of a ``generation_config.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spex_core.errors import CheckpointError

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
        if self.repetition_penalty != 1.0 and written.shape[1]:
            seen = logits.gather(1, written)
            seen = torch.where(seen < 0, seen * self.repetition_penalty, seen / self.repetition_penalty)
            logits = logits.scatter(1, written, seen)
        return logits.argmax(-1)

    def ends(self, tokens: Tensor) -> Tensor:
        """bool, same shape: whether a token ends its answer."""
        return torch.isin(tokens, torch.tensor(self.end_ids, device=tokens.device))
