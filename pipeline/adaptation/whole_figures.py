"""What ``spex adapt --full`` says of itself. Apart from the training, which needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.adaptation.validation import Figures


@dataclass(frozen=True)
class Whole:
    """What the whole model is worth on one fold of left-out blocks."""

    held_out: int
    steps: int
    full: Figures
    head: Figures
    forest: Figures
    kept: bool
    """The whole model was better than the head, and is what the folder holds."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        figures = {name: getattr(self, name).to_dict() for name in ("full", "head", "forest")}
        return {"held_out": self.held_out, "steps": self.steps, "kept": self.kept, **figures}
