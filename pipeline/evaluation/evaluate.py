"""One evaluation: every row of the table over the same chips and the same pixels."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.evaluation.asking import ModelImage, ask, model_image, questions
from pipeline.evaluation.chips import LabelledChip, Source
from pipeline.evaluation.classes import Classes, channels_of, compared_classes
from pipeline.evaluation.config import EvaluationConfig, RowName
from pipeline.evaluation.result import EvaluationResult, Row, SourceFigures
from pipeline.evaluation.rules import rule_scores
from pipeline.evaluation.sources import open_sources
from pipeline.evaluation.tally import Tally
from pipeline.evaluation.texts import TextCheck
from pipeline.machine.progress import Progress
from pipeline.settings.model import INDEX_RULES
from spex_core.bands import SENTINEL2_BANDS
from spex_core.checkpoints import resolve_checkpoint
from spex_core.legend import Legend

if TYPE_CHECKING:
    from pipeline.evaluation.forest import Forest
    from spex_core.modeling import SpexForLandCover

FloatArray = npt.NDArray[np.float32]
MODEL_ROWS: tuple[RowName, ...] = ("model", "shuffled", "none")


def evaluate(config: EvaluationConfig, progress: Progress) -> EvaluationResult:
    """Measures a checkpoint beside index rules, false and no attributes, and a random forest.

    Args:
        config: The evaluation file.
        progress: Where progress is told.

    Raises:
        BadInputError: Chips, labels, legend or checkpoint do not fit together.
        CheckpointError: The checkpoint cannot be loaded.
        LegendError: No such legend.
    """
    begun = time.monotonic()
    asked = asked_legend(config)
    sources, classes = compared_sources(config, asked)
    chips = EvaluationChips(config, sources, asked, classes)
    model = None if config.checkpoint == INDEX_RULES else load_model(config)
    forest, notes = _forest(config, asked, chips.allowed, progress)
    notes += chips.left_out()
    rows = [row for row in config.rows if _possible(row, model, forest, len(chips), notes)]
    if not rows:
        raise ConfigError("no row can be measured: name a checkpoint, or 'index_rules' among the rows")
    tallies = {row: Tally(classes, config.boundary_tolerance_px, config.calibration_bins) for row in rows}
    by_source = [
        {row: Tally(classes, config.boundary_tolerance_px, config.calibration_bins) for row in rows} for _ in sources
    ]
    texts = TextCheck(config, asked, classes, len(chips)) if config.texts and model is not None else None
    objects = [source.dataset.object_matches() if source.dataset else None for source in sources]
    progress.start("comparing", len(chips), "chips")
    for index in range(len(chips)):
        source, chip, image = chips.at(index)
        reference = chips.reference(source, chip)
        if image is not None and (reference >= 0).any():
            scorers = _scorers(asked, sources[source], image, partial(chips.another, index), model, forest)
            for row in rows:
                scores = scorers[row]()
                found = tallies[row].add(scores, reference)
                if len(sources) > 1:
                    by_source[source][row].add(scores, reference)
                matches = objects[source]
                if row == rows[0] and matches is not None:
                    matches.add(reference, found)
            if texts is not None and model is not None:
                texts.add(index, model, sources[source], chip, image)
        progress.advance()
    # What a part of a split gives is no figure of the benchmark; the note says so, the figures stand all the same.
    dataset = sources[0].dataset if len(sources) == 1 else None
    measured = tallies[rows[0]]
    return EvaluationResult(
        name=config.name,
        checkpoint=config.checkpoint,
        legend=asked.name,
        bands=config.bands if isinstance(config.bands, tuple) else SENTINEL2_BANDS,
        sources=tuple(
            SourceFigures(source.name, len(source.chips), {row: _row(tally) for row, tally in own.items()})
            for source, own in zip(sources, by_source if len(sources) > 1 else [tallies], strict=True)
        ),
        chips=len(chips),
        boundary_tolerance_px=config.boundary_tolerance_px,
        calibration_bins=config.calibration_bins,
        rows={row: _row(tallies[row]) for row in rows},
        notes=tuple(notes),
        texts=None if texts is None else texts.quality,
        protocol=() if dataset is None else dataset.figures(measured.assessment, objects[0]),
        protocol_note="" if dataset is None else dataset.protocol_note(complete=sources[0].complete, asked=asked.name),
        seconds=time.monotonic() - begun,
    )


def asked_legend(config: EvaluationConfig) -> Legend:
    """Classes that the model is asked for.

    Raises:
        ConfigError: ``dataset`` is meant, but there is not exactly one.
        LegendError: No such legend.
    """
    if config.legend != "dataset":
        return Legend.from_yaml(config.legend)
    from pipeline.datasets import dataset_named

    names = {source.dataset.name for source in config.sources if source.dataset is not None}
    if len(names) != 1 or any(source.dataset is None for source in config.sources):
        raise ConfigError("legend: dataset means the classes of the one data set under 'sources'; name just one")
    (name,) = names
    options = next(source.dataset.options for source in config.sources if source.dataset is not None)
    return dataset_named(name, options).legend


def compared_sources(config: EvaluationConfig, asked: Legend) -> tuple[list[Source], Classes]:
    """Opens all sources and decides what is compared: the groups of the file, of the data set, or the legend.

    Raises:
        BadInputError: A source cannot be opened, or its labels fit no compared class.
    """
    classes = compared_classes(asked, config.groups)
    sources = [opened for source in config.sources for opened in open_sources(source, asked, classes.legend)]
    crosswalks = [source.groups for source in sources if source.groups]
    if not config.groups and config.legend != "dataset" and crosswalks:
        if asked.name != "worldcover9":
            raise ConfigError(
                f"say under 'groups' which codes of legend {asked.name!r} count as each class of the data set"
            )
        classes = compared_classes(asked, crosswalks[0])
    return sources, classes


class EvaluationChips:
    """All chips of all sources, with the bands that the file leaves out taken away.

    Args:
        config: The evaluation file.
        sources: Opened sources.
        asked: Classes that the model is asked for.
        classes: Compared classes.
    """

    def __init__(self, config: EvaluationConfig, sources: list[Source], asked: Legend, classes: Classes) -> None:
        self.sources = sources
        self._places = [(s, i) for s, source in enumerate(sources) for i in range(len(source.chips))]
        self._channels = [channels_of(source.classes, asked, classes) for source in sources]
        self.allowed = np.isin(SENTINEL2_BANDS, list(config.bands))
        """Bands that are used, bool ``[10]``."""
        self._kept: dict[int, tuple[int, LabelledChip, ModelImage | None]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def at(self, index: int) -> tuple[int, LabelledChip, ModelImage | None]:
        """Position of the source, the chip, and what the model sees of it (None: nothing)."""
        if index not in self._kept:
            source, position = self._places[index]
            chip = self.sources[source].chips.chip(position)
            reflectance = np.where(self.allowed[:, None, None], chip.reflectance, np.float32(np.nan))
            # The next chip lends its attributes to this one and then has its own turn: two are worth keeping.
            self._kept = dict([*self._kept.items()][-1:])
            self._kept[index] = source, LabelledChip(reflectance, chip.labels), model_image(reflectance)
        return self._kept[index]

    def another(self, index: int) -> ModelImage | None:
        """What the model sees of the next chip that has any pixel; None if there is no other."""
        for step in range(1, len(self)):
            image = self.at((index + step) % len(self))[2]
            if image is not None:
                return image
        return None

    def left_out(self) -> list[str]:
        """A note per source whose labels have classes that are not compared."""
        notes = []
        for source, channels in zip(self.sources, self._channels, strict=True):
            names = [name for name, channel in zip(source.classes.names, channels, strict=True) if channel < 0]
            if names:
                notes.append(f"{source.name}: not compared: {', '.join(names)}")
        return notes

    def reference(self, source: int, chip: LabelledChip) -> npt.NDArray[np.int16]:
        """Compared channel per pixel, ``[H, W]``; -1: not compared."""
        channels = self._channels[source]
        return np.where(chip.labels >= 0, channels[chip.labels], np.int16(-1))


def _scorers(
    asked: Legend,
    source: Source,
    image: ModelImage,
    another: Callable[[], ModelImage | None],
    model: SpexForLandCover | None,
    forest: Forest | None,
) -> dict[RowName, Callable[[], FloatArray]]:
    """How each row scores a chip; ``another`` is the chip whose attributes a shuffled prompt carries."""
    height, width = image.shape

    def asking(prompts: Callable[[SpexForLandCover], list[str]]) -> Callable[[], FloatArray]:
        def scores() -> FloatArray:
            assert model is not None  # rows of a model are measured only with one
            return ask(model, image, asked, prompts(model), sensor=source.sensor, gsd_m=source.gsd_m)[0]

        return scores

    def other(found: SpexForLandCover) -> list[str]:
        return questions(found, another() or image, asked, "measured")

    def of_rules() -> FloatArray:
        return rule_scores(image.in_slots(), asked)[:, :height, :width]

    def of_forest() -> FloatArray:
        assert forest is not None
        return forest.scores(image.in_slots()[:, :height, :width])

    return {
        "model": asking(lambda found: questions(found, image, asked, "measured")),
        "shuffled": asking(other),
        "none": asking(lambda found: questions(found, image, asked, "none")),
        "index_rules": of_rules,
        "forest": of_forest,
    }


def _possible(
    row: RowName, model: SpexForLandCover | None, forest: Forest | None, chips: int, notes: list[str]
) -> bool:
    if row in MODEL_ROWS and model is None:
        return False
    if row == "shuffled" and chips < 2:
        notes.append("attributes cannot be shuffled: there is one chip only")
        return False
    return row != "forest" or forest is not None


def _forest(
    config: EvaluationConfig, asked: Legend, allowed: npt.NDArray[np.bool_], progress: Progress
) -> tuple[Forest | None, list[str]]:
    if "forest" not in config.rows:
        return None, []
    if not config.training:
        return None, ["no random forest: the file has no 'training' source to fit it on"]
    from pipeline.evaluation.forest import Forest, Together

    sources = [opened for source in config.training for opened in open_sources(source, asked, asked)]
    for source in sources:
        if source.classes.names != asked.names:
            raise ConfigError(f"training source {source.name}: its labels are not the classes of legend {asked.name!r}")
    training = Together([source.chips for source in sources])
    progress.say(f"fitting a random forest on pixels of {min(len(training), config.forest.chips)} chips")
    forest = Forest(training, asked, allowed, config.forest, config.seed)
    names = ", ".join(source.name for source in sources)
    return forest, [f"random forest: {config.forest.trees} trees, {forest.pixels} pixels of {names}"]


def load_model(config: EvaluationConfig) -> SpexForLandCover:
    """The checkpoint on the device that the file names.

    Raises:
        CheckpointError: It cannot be loaded.
        ConfigError: Bands are left out, but the checkpoint needs all of them.
    """
    import torch
    from transformers.utils import logging

    from spex_core.modeling import SpexForLandCover

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # one of our own is on the screen
    model = SpexForLandCover.from_pretrained(resolve_checkpoint(config.checkpoint))
    if len(config.bands) < len(SENTINEL2_BANDS) and not model.config.band_encoding:
        raise ConfigError(
            f"bands: checkpoint {config.checkpoint} takes all of {' '.join(model.config.bands)}; a subset needs one "
            "that was trained with band_encoding"
        )
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device is {config.device!r}, but torch finds no CUDA device here; set it to auto or cpu")
    model.to(device)  # type: ignore[arg-type]
    return model


def _row(tally: Tally) -> Row:
    return Row(
        assessment=tally.assessment,
        boundary_f1=tuple(float(v) for v in tally.boundary.f1),
        mean_boundary_f1=tally.boundary.mean_f1,
        calibration_error=tally.calibration.error,
        by_chip=tally.by_chip,
    )
