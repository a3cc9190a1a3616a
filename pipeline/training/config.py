"""The training file: YAML read into one frozen pydantic model. Relative paths start at the file's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.settings.yaml_file import Section, SettingsFile, anchored, anchored_name
from pipeline.simulation.held_out import FIRST_TRAINING_SEED
from pipeline.training.simulated import SEEDS_PER_CHIP
from spex_core.batches import Attributes, Kind
from spex_core.training import TrainingConfig

HELD_OUT_SEED = 900_000
"""Worlds of the simulator from this seed on are for evaluation."""
_DEFAULTS = TrainingConfig()


class _Source(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """What stages and the validation call it."""
    share: float = Field(default=1.0, ge=0)
    """Sampling weight; 0: never drawn, unless a stage says otherwise (chips for validation alone)."""
    balanced: bool = False
    """Chips with rare classes are drawn more often."""
    colours: float = Field(default=1.0, ge=0, le=1)
    """Share of views in other light, air and vigour; less for chips that vary by themselves, as simulated ones do."""
    optional: bool = False
    """A missing folder is a warning, not an error: the training goes on with the other sources."""


class SimulatedSource(_Source):
    """Chips of the simulator, made when they are first needed."""

    kind: Literal["simulated"]
    count: int = Field(ge=1)
    first_seed: int = Field(default=FIRST_TRAINING_SEED, ge=FIRST_TRAINING_SEED)
    """Seeds below 10,000 belong to demos, tests and held-out worlds, those from 900,000 on to evaluations."""

    @model_validator(mode="after")
    def _unseen(self) -> SimulatedSource:
        if self.first_seed + SEEDS_PER_CHIP * self.count > HELD_OUT_SEED:
            raise ValueError(
                f"{self.count} chips from seed {self.first_seed} on may reach the evaluation's seeds ({HELD_OUT_SEED})"
            )
        return self


class FolderSource(_Source):
    """A chip folder (:mod:`pipeline.chips.chip_folder`)."""

    kind: Literal["chips"]
    folder: Path


class ShardsSource(_Source):
    """A data set of ``spex spie``."""

    kind: Literal["shards"]
    folder: Path
    split: Literal["train", "validation"] | None = "train"
    """Which chips of the data set; null: all."""


SourceSection = Annotated[SimulatedSource | FolderSource | ShardsSource, Field(discriminator="kind")]


class ModelSection(Section):
    """What the training starts from."""

    init: str | None = None
    """A built-in name or a folder: weights, normalisation and tokenizer. Default: a fresh model."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fields of a fresh model's :class:`spex_core.SpexConfig`, ``text_config`` included."""
    vocabulary: int = Field(default=1024, ge=300, le=65_536)
    """Largest vocabulary of a fresh model's tokenizer."""

    @model_validator(mode="after")
    def _one_of_them(self) -> ModelSection:
        if self.init is not None and self.config:
            raise ValueError("config is of fresh models; a checkpoint (init) brings its own")
        return self


class StageSection(Section):
    """One stage; stages follow each other."""

    kind: Kind
    """``pretrain``: masked reconstruction; ``words``: class words alone prompt masks; ``prompt``: the full prompt;
    ``describe``: the language model learns to describe, masks stay as they are."""
    steps: int = Field(ge=1)
    batch: int = Field(default=8, ge=1)
    """Chips per step, over all workers."""
    crop_px: int = Field(default=128, ge=32, le=2048)
    learning_rate_factor: float = Field(default=1.0, gt=0)
    restart: bool = False
    """Begins like a training of its own from the average so far: new optimiser, warm-up and cosine."""
    shares: dict[str, float] | None = None
    """Sampling weight by source in this stage; sources that are not named are not drawn."""
    attributes: Attributes = "imagery"
    """Of stages of descriptions: from the image by the legend's rules, or from a map with errors, as texts of a
    finished map are asked for."""

    @model_validator(mode="after")
    def _asked_about_maps(self) -> StageSection:
        if self.attributes == "map" and self.kind != "describe":
            raise ValueError(f"attributes: map is of stages of kind describe, not {self.kind}")
        return self

    @field_validator("crop_px")
    @classmethod
    def _whole_cells(cls, crop_px: int) -> int:
        if crop_px % 32:
            raise ValueError(f"{crop_px} is not a multiple of 32 (the encoder's largest stride)")
        return crop_px


class OptimiserSection(Section):
    """AdamW with warm-up, cosine and a moving average of the weights."""

    learning_rate: float = Field(default=_DEFAULTS.learning_rate, gt=0)
    weight_decay: float = Field(default=_DEFAULTS.weight_decay, ge=0)
    warmup_steps: int = Field(default=_DEFAULTS.warmup_steps, ge=0)
    clip_norm: float = Field(default=_DEFAULTS.clip_norm, gt=0)
    ema_decay: float = Field(default=_DEFAULTS.ema_decay, ge=0, lt=1)
    loss_weights: tuple[float, float, float, float] = _DEFAULTS.weights
    """Of text, BCE, Dice and the joint cross-entropy over the legend."""
    band_subsets: float = Field(default=_DEFAULTS.band_subsets, ge=0, le=1)
    """Share of views that lose bands, for models with ``band_encoding``."""
    coarse_views: float = Field(default=_DEFAULTS.coarse_views, ge=0, le=1)
    """Share of views whose pixels are averaged to 20 or 30 m: other sensors are coarser than Sentinel-2."""
    class_balance: float = Field(default=_DEFAULTS.class_balance, ge=0, le=1)
    """How much more the pixels of rare classes weigh: 0 not at all, 1 until all classes count alike."""
    language_model_rate: float = Field(default=_DEFAULTS.language_model_rate, ge=0, le=10)
    """Learning rate of the language model relative to the rest; it rests in stages of class words."""


class ValidationSection(Section):
    """Chips that are scored at every checkpoint and never trained on."""

    source: str
    chips: int | None = Field(default=16, ge=1)
    """The last so many of the source; null: all of them."""


class ComputeSection(Section):
    """Where it runs. None of these changes the result, but for the order of float sums and bfloat16."""

    workers: int = Field(default=1, ge=1, le=1024)
    """Processes that share every batch. One worker without an address runs in this process, without starting Ray."""
    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    threads: int = Field(default=1, ge=1)
    """CPU threads of a worker's tensor operations."""
    loaders: int = Field(default=0, ge=0, le=64)
    """Processes of each worker that make batches ahead; worth it on a GPU."""
    bf16: bool = True
    """bfloat16 on CUDA."""
    attempts: int = Field(default=3, ge=1)
    """How often a group of workers is started before the training fails; each start resumes."""
    address: str | None = None
    """Ray cluster to join; default: start a local one if there are several workers."""

    @property
    def in_process(self) -> bool:
        """Whether the training runs in the command's own process."""
        return self.workers == 1 and self.address is None


class TrainFile(SettingsFile):
    """One training. ``TrainFile.from_yaml(path)`` reads a training file."""

    _kind: ClassVar[str] = "training file"
    _help: ClassVar[str] = "'spex train --help'"

    output: Path
    """Receives ``last`` and ``best`` (checkpoints) and ``training`` (state, metrics, TensorBoard events)."""
    seed: int = Field(default=0, ge=0)
    legend: str = "worldcover9"
    cache: Path | None = None
    """Folder for simulated chips; default: ``chips`` in the output folder."""
    model: ModelSection = ModelSection()
    sources: tuple[SourceSection, ...] = Field(min_length=1)
    stages: tuple[StageSection, ...] = Field(min_length=1)
    optimiser: OptimiserSection = OptimiserSection()
    validation: ValidationSection | None = None
    checkpoint_every: int = Field(default=200, ge=1)
    """Steps between checkpoints; a killed training loses at most so many."""
    record_every: int = Field(default=20, ge=1)
    """Steps between lines of metrics."""
    compute: ComputeSection = ComputeSection()

    @model_validator(mode="after")
    def _consistent(self) -> TrainFile:
        names = [source.name for source in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are called {', '.join(twice)}")
        named = {name for stage in self.stages for name in stage.shares or {}}
        named |= {self.validation.source} if self.validation else set()
        if unknown := sorted(named - set(names)):
            raise ValueError(f"there is no source {', '.join(unknown)}; sources are {', '.join(names)}")
        for number, stage in enumerate(self.stages, 1):
            shares = {source.name: source.share for source in self.sources} if stage.shares is None else stage.shares
            if any(share < 0 for share in shares.values()) or not sum(shares.values()) > 0:
                raise ValueError(f"stage {number}: shares of its sources must not be negative nor all 0")
            if stage.batch < self.compute.workers:
                raise ValueError(
                    f"stage {number}: a batch of {stage.batch} cannot be shared by {self.compute.workers} workers"
                )
        return self

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def cache_folder(self) -> Path:
        """Where simulated chips are kept."""
        return self.cache or self.output / "chips"

    def with_options(self, output: Path | None, workers: int | None, address: str | None) -> TrainFile:
        """The same with options of a command line, which are relative to the current folder.

        Raises:
            ConfigError: More workers than a stage's batch.
        """
        given = {"workers": workers, "address": address}
        data = self.model_dump(mode="json")
        data["compute"] |= {name: value for name, value in given.items() if value is not None}
        if output is not None:
            data["output"] = str(output.resolve())
        return TrainFile.from_dict(data, source="training file with these options")

    def _anchored(self, base: Path) -> TrainFile:
        sources = tuple(
            source
            if isinstance(source, SimulatedSource)
            else source.model_copy(update={"folder": anchored(base, source.folder)})
            for source in self.sources
        )
        model = self.model
        if model.init is not None:
            model = model.model_copy(update={"init": anchored_name(base, model.init)})
        return self.model_copy(
            update={
                "output": anchored(base, self.output),
                "cache": None if self.cache is None else anchored(base, self.cache),
                "legend": anchored_name(base, self.legend),
                "sources": sources,
                "model": model,
            }
        )
