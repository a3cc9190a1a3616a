"""What an adaptation made, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.adaptation.validation import Validation
from pipeline.adaptation.whole_figures import Whole
from spex_core.legend import Legend


@dataclass(frozen=True)
class Adaptation:
    """A checkpoint that was made, and what it is worth."""

    output: Path
    base: str
    legend: Legend
    validation: Validation | None
    """None: too few blocks to leave some out."""
    chosen: str
    temperature: float
    samples: dict[str, int]
    """Class → pixels."""
    left_out: dict[str, int]
    """Reason → features or pixels."""
    dropped: dict[str, int]
    """Class that is not learnt → its pixels."""
    similar: dict[str, str]
    """Class → the word that it is like."""
    block_m: float
    gap_m: float
    outside_share: float | None
    other_dates: int
    """Places that the survey visited outside of the run's period."""
    problems: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    """Of the run: name, period, bands, points file."""
    seconds: float = 0.0
    whole: Whole | None = None
    """What the whole model (``--full``) was worth beside the head; None: not trained, or no block could be left out."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; without the seconds it is the same for the same inputs."""
        return {
            "output": str(self.output),
            "base": self.base,
            "classes": [{"code": c.code, "name": c.name, "like": self.similar.get(c.name)} for c in self.legend],
            "samples": self.samples,
            "left_out": self.left_out,
            "dropped": self.dropped,
            "head": self.chosen,
            "temperature": round(self.temperature, 4),
            "block_m": self.block_m,
            "gap_m": self.gap_m,
            "validation": None if self.validation is None else self.validation.to_dict(),
            "outside_share": None if self.outside_share is None else round(self.outside_share, 4),
            "other_dates": self.other_dates,
            "problems": list(self.problems),
            "whole_model": None if self.whole is None else self.whole.to_dict(),
            **self.facts,
        }
