"""What a training leaves on disk: its state, its metrics, and the checkpoints it exports. All complete or absent.

``training/state.pt`` is read with ``weights_only=True``: tensors, numbers and text, never code. ``training/
metrics.jsonl`` has one JSON object per line. ``last`` and ``best`` are checkpoint folders in half precision, which
``from_pretrained`` loads as float32.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from spex_core.durable_files import make_folder, open_own, put_in_place, remove, replacing
from spex_core.errors import CheckpointError
from spex_core.modeling import SpexForLandCover

STATE, METRICS = "state.pt", "metrics.jsonl"


@dataclass
class Progressed:
    """How far a training is, beside its weights."""

    step: int = 0
    """Steps done."""
    best: float = -1.0
    """Best validation accuracy so far; -1: none yet."""
    sums: dict[str, float] = field(default_factory=dict)
    """Losses summed since the last record."""


class TrainingFolder:
    """The output folder of a training.

    Args:
        folder: Made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = folder / "training" / STATE
        self.metrics = folder / "training" / METRICS

    def save(
        self,
        progressed: Progressed,
        parts: Mapping[str, nn.Module | Optimizer],
        identity: str,
    ) -> None:
        """Writes the state that :meth:`restore` reads, in place of the last one.

        Args:
            progressed: How far the training is.
            parts: Models and optimiser by name.
            identity: What the training is; a state of another one is not resumed from.
        """
        state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
        state |= {"step": progressed.step, "best": progressed.best, "sums": progressed.sums, "identity": identity}
        with replacing(self._state) as partial, partial.open("wb") as file:
            torch.save(state, file)

    def restore(self, parts: Mapping[str, nn.Module | Optimizer], identity: str) -> Progressed:
        """Loads the last state into ``parts``; nothing done if there is none.

        Raises:
            CheckpointError: The state is of another training, corrupt, or not weights.
        """
        if not self._state.exists():
            return Progressed()
        remedy = f"remove {self._state.parent} to begin again, or choose another output"
        try:
            state = torch.load(self._state, weights_only=True, map_location="cpu")
            if state["identity"] != identity:
                raise CheckpointError(
                    f"{self._state} belongs to another training: {_changes(state, identity)}; {remedy}"
                )
            for name, part in parts.items():
                part.load_state_dict(state[name])
            return Progressed(int(state["step"]), float(state["best"]), dict(state["sums"]))
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{self._state} cannot be resumed from: {error}; {remedy}") from error

    def keep_metrics_until(self, step: int) -> None:
        """Drops the lines that a killed training wrote after its last state; they will be written again."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # the line that was being written
        with replacing(self.metrics) as partial:
            partial.write_text("".join(kept), encoding="utf-8")

    def record(self, record: Mapping[str, object]) -> None:
        """Appends one line to the metrics."""
        make_folder(self.metrics.parent)
        with open_own(self.metrics, "ab") as file:
            file.write(json.dumps(record).encode() + b"\n")

    def export(self, model: SpexForLandCover, name: str) -> None:
        """Writes a checkpoint folder in half precision, in place of the last of that name."""
        target, partial, old = (self._folder / part for part in (name, f".{name}.partial", f".{name}.old"))
        for left in (partial, old):
            remove(left)
        write_half_precision(model, partial)
        if os.path.lexists(target):
            target.rename(old)
        put_in_place(partial, target)
        shutil.rmtree(old, ignore_errors=True)


def write_half_precision(model: SpexForLandCover, folder: Path) -> None:
    """Writes a checkpoint folder of half the size; the model stays as it is."""
    half: SpexForLandCover = copy.deepcopy(model)
    nn.Module.to(half, torch.float16)
    half.processor = model.processor
    half.save_pretrained(folder)


def saved_step(folder: Path) -> int:
    """Steps of the state in a training's output folder; 0 if there is none that can be read."""
    try:
        # Mapped, so that only the pages of the number are read.
        return int(torch.load(folder / "training" / STATE, weights_only=True, map_location="cpu", mmap=True)["step"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError):
        return 0


def _changes(state: Mapping[str, Any], identity: str) -> str:
    before, now = json.loads(state["identity"]), json.loads(identity)
    names = [name for name in now if before.get(name) != now[name]]
    return ", ".join(names) + (" differs" if len(names) == 1 else " differ")
