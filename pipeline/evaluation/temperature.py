"""The temperature of a checkpoint, fitted on held-out chips: half of them fit it, the others say what it is worth."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.comparison.calibration import Calibration, fit_temperature, log_loss, rescaled
from pipeline.errors import ConfigError
from pipeline.evaluation.asking import ask, questions
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.evaluate import EvaluationChips, asked_legend, compared_sources, load_model
from pipeline.machine.atomic_files import write_json
from pipeline.machine.progress import Progress
from spex_core.errors import CheckpointError

FloatArray = npt.NDArray[np.float32]
PIXELS_PER_CHIP = 4000
"""Drawn from each chip: neighbouring pixels say the same, and all of them would not fit in memory."""


@dataclass(frozen=True)
class TemperatureFit:
    """What calibration changes, on chips that were not fitted on."""

    temperature_before: float
    temperature_after: float
    calibration_error_before: float
    calibration_error_after: float
    log_loss_before: float
    """Nats per pixel."""
    log_loss_after: float
    fitted_chips: int
    tested_chips: int
    bins: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in asdict(self).items()}


def calibrate(config: EvaluationConfig, progress: Progress) -> TemperatureFit:
    """Fits the temperature of a checkpoint on the sources of an evaluation file.

    Every second chip is fitted on (negative log-likelihood), the others are measured.

    Args:
        config: The evaluation file; its classes must be those that the model is asked for.
        progress: Where progress is told.

    Raises:
        BadInputError: The sources cannot be opened, are grouped, or hold fewer than two labelled chips.
        CheckpointError: The checkpoint cannot be loaded.
    """
    asked = asked_legend(config)
    sources, classes = compared_sources(config, asked)
    if classes.grouped:
        raise ConfigError("a temperature is fitted on the classes that the model is asked for; leave 'groups' out")
    chips = EvaluationChips(config, sources, asked, classes)
    model = load_model(config)
    if model.config.official_numerics:
        raise ConfigError(f"checkpoint {config.checkpoint} reproduces published numerics, which have no temperature")
    rng = np.random.default_rng(config.seed)
    parts: list[tuple[FloatArray, npt.NDArray[np.int64]]] = []
    progress.start("asking", len(chips), "chips")
    for index in range(len(chips)):
        source, chip, image = chips.at(index)
        reference = chips.reference(source, chip)
        labelled = np.flatnonzero(reference.ravel() >= 0)
        if image is not None and len(labelled):
            prompts = questions(model, image, asked, "measured")
            opened = sources[source]
            scores = ask(model, image, asked, prompts, sensor=opened.sensor, gsd_m=opened.gsd_m).scores
            chosen = rng.choice(labelled, min(PIXELS_PER_CHIP, len(labelled)), replace=False)
            parts.append((scores.reshape(len(asked), -1)[:, chosen], reference.ravel()[chosen].astype(np.int64)))
        progress.advance()
    if len(parts) < 2:
        raise ConfigError("two labelled chips are needed at least: one to fit the temperature on, one to measure it on")
    (fit_scores, fit_labels), (scores, labels) = (_joined(parts[start::2]) for start in (0, 1))
    factor = fit_temperature(fit_scores, _one_hot(fit_labels, len(asked)))
    after = rescaled(scores, factor)
    target = _one_hot(labels, len(asked))
    before = float(model.config.temperature)
    return TemperatureFit(
        temperature_before=before,
        temperature_after=before * factor,
        calibration_error_before=_error(scores, labels, config.calibration_bins),
        calibration_error_after=_error(after, labels, config.calibration_bins),
        log_loss_before=log_loss(scores, target),
        log_loss_after=log_loss(after, target),
        fitted_chips=len(parts[0::2]),
        tested_chips=len(parts[1::2]),
        bins=config.calibration_bins,
    )


def write_temperature(folder: Path, temperature: float) -> None:
    """Sets the temperature in a checkpoint folder; nothing else of it changes.

    Raises:
        CheckpointError: The folder has no readable ``config.json``.
        OutputError: It cannot be written.
    """
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not the configuration of a checkpoint: {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} is not the configuration of a checkpoint: it holds no mapping")
    write_json(path, {**settings, "temperature": round(temperature, 4)})


def _joined(parts: list[tuple[FloatArray, npt.NDArray[np.int64]]]) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    return np.concatenate([p for p, _ in parts], axis=1), np.concatenate([c for _, c in parts])


def _one_hot(labels: npt.NDArray[np.int64], classes: int) -> FloatArray:
    target: FloatArray = (labels[None] == np.arange(classes)[:, None]).astype(np.float32)
    return target


def _error(scores: FloatArray, labels: npt.NDArray[np.int64], bins: int) -> float:
    calibration = Calibration(bins)
    calibration.add(scores.max(axis=0), scores.argmax(axis=0) == labels)
    return calibration.error
