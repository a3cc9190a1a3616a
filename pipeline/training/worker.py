"""What each worker of a training runs; also, in this process, when there is only one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.training.config import TrainFile
from pipeline.training.sources import TrainingChips, open_sources
from spex_core.checkpoints import resolve_checkpoint
from spex_core.legend import Legend
from spex_core.training import Record, TrainingConfig, Worker, train


def training_config(file: TrainFile, chips: TrainingChips) -> TrainingConfig:
    """The loop's settings, in its own words."""
    optimiser = file.optimiser
    return TrainingConfig(
        stages=chips.stages,
        learning_rate=optimiser.learning_rate,
        weight_decay=optimiser.weight_decay,
        warmup_steps=optimiser.warmup_steps,
        clip_norm=optimiser.clip_norm,
        ema_decay=optimiser.ema_decay,
        seed=file.seed,
        weights=optimiser.loss_weights,
        band_subsets=optimiser.band_subsets,
        coarse_views=optimiser.coarse_views,
        colours=chips.colours,
        class_balance=optimiser.class_balance,
        language_model_rate=optimiser.language_model_rate,
        checkpoint_every=file.checkpoint_every,
        record_every=file.record_every,
    )


def initial_folder(file: TrainFile) -> Path:
    """Folder of the checkpoint that a training begins with; a fresh model is kept in the output folder."""
    return resolve_checkpoint(file.model.init) if file.model.init else file.output / "training" / "initial"


def run_worker(document: Mapping[str, Any]) -> None:
    """The training function of Ray Train: opens the chips, loads the initial model, runs the loop.

    Args:
        document: A training file as plain data with absolute paths; its chips and initial model are made already.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import ray.train
    import ray.train.torch
    import torch
    from transformers.utils import logging as transformers_logging

    from spex_core.modeling import SpexForLandCover

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    file = TrainFile.from_dict(dict(document))
    context = ray.train.get_context()
    rank, count = context.get_world_rank(), context.get_world_size()
    device = "cpu"
    if file.compute.gpus_per_worker:  # Ray, where it runs, says which of the machine's is this worker's
        device = "cuda" if file.compute.in_process else str(ray.train.torch.get_device())
    torch.set_num_threads(file.compute.threads)
    legend = Legend.from_yaml(file.legend)
    chips = open_sources(file, legend)
    model = SpexForLandCover.from_pretrained(initial_folder(file))
    bf16 = file.compute.bf16 and device.startswith("cuda")
    worker = Worker(rank, count, device, file.compute.loaders, bf16)
    with _Events(file.output / "training" / "tensorboard", rank == 0) as events:
        train(
            model,
            chips.sources,
            legend,
            training_config(file, chips),
            file.output,
            chips.validation,
            worker=worker,
            on_record=events.write,
        )


class _Events:
    """TensorBoard events of rank 0; a resumed training replaces the events of steps that it repeats."""

    def __init__(self, folder: Path, wanted: bool) -> None:
        self._folder, self._wanted = folder, wanted
        self._add: Callable[[str, float, int], None] | None = None
        self._close: Callable[[], None] = lambda: None

    def __enter__(self) -> _Events:
        return self

    def __exit__(self, *reason: object) -> None:
        self._close()

    def write(self, record: Record) -> None:
        """Adds every number of a line of metrics."""
        step = int(str(record["step"]))
        if self._wanted and self._add is None:
            self._open(step)
        for name, value in record.items():
            if self._add is not None and isinstance(value, float) and name != "seconds":
                self._add(name, value, step)

    def _open(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter(str(self._folder), purge_step=step, flush_secs=10)
        self._add, self._close = writer.add_scalar, writer.close
