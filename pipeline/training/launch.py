"""``spex train``: Ray Train around the loop, in this process or over a cluster, and what is seen of it meanwhile."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.engine.cluster import connected
from pipeline.engine.ray_errors import plain_error
from pipeline.errors import ClusterError, ConfigError, OutputError
from pipeline.machine.atomic_files import write_json
from pipeline.machine.own_files import own_folder, refuse_links
from pipeline.machine.progress import Progress, duration_text
from pipeline.settings.run_file import ComputeConfig
from pipeline.training.config import TrainFile
from pipeline.training.sources import open_sources, with_chips_made
from pipeline.training.worker import initial_folder, run_worker
from spex_core.durable_files import put_in_place, remove
from spex_core.errors import ModelInputError, SpexError
from spex_core.legend import Legend
from spex_core.training_state import METRICS, saved_step

POLL_S = 0.5

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # A busy laptop needs more than Ray's 60 s to import torch in every worker, and would begin again and again.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
}
"""Environment of Ray Train; what the user has set stays."""


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves."""

    output: Path
    steps: int
    seconds: float
    """Of this start; a resumed training took more in all."""
    resumed_from: int
    """Steps that an earlier start had done."""
    loss: float | None
    """Total loss at the end, mean since the line before; None if there was nothing left to do."""
    validation_accuracy: float | None
    """Of the average at the last step."""
    best_accuracy: float | None
    size_mb: float
    """Of the weights of ``last``, megabytes."""

    def summary(self) -> str:
        """For people."""
        lines = [f"{self.output / 'last'}: {self.size_mb:.1f} MB after {self.steps} steps"]
        if self.resumed_from == self.steps:
            lines.append("nothing was computed: this training is finished")
        else:
            resumed = f", resumed from step {self.resumed_from}" if self.resumed_from else ""
            lines.append(f"{duration_text(self.seconds)}{resumed}; total loss at the end {self.loss:.3f}")
        if self.validation_accuracy is not None and self.best_accuracy is not None:
            lines.append(
                f"validation accuracy {self.validation_accuracy:.1%}, best {self.best_accuracy:.1%} "
                f"({self.output / 'best'})"
            )
        lines.append(f"curves: tensorboard --logdir {self.output / 'training' / 'tensorboard'}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return asdict(self) | {"output": str(self.output), "last": str(self.output / "last")}


def train(file: TrainFile, progress: Progress) -> TrainResult:
    """Trains, or goes on where the same file stopped.

    Args:
        file: What to train, on what, and where.
        progress: Told of every step.

    Raises:
        BadInputError: A source, checkpoint or setting is wrong.
        TrainingError: The training cannot go on.
        ClusterError: Ray cannot be started or joined, or carries too few GPUs.
    """
    trainer_class = _trainer()
    started = time.monotonic()
    _check_output(file)
    file = with_chips_made(file, progress)
    _prepare(file, progress)
    metrics = file.output / "training" / METRICS
    resumed = saved_step(file.output)
    write_json(file.output / "training" / "file.json", file.model_dump(mode="json"))
    progress.start("training", file.steps, "steps", resumed)
    with _followed(metrics, resumed, progress), _torch_threads():
        _fit(trainer_class, file, progress)
    return _result(file, metrics, resumed, time.monotonic() - started)


def _trainer() -> Any:
    # Before the import: Ray reads them when it is loaded. This product sends no telemetry.
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from ray.train.torch import TorchTrainer

        import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise ConfigError(
            f"spex train needs Ray Train and TensorBoard: pip install 'spex-landcover[train]' ({error})"
        ) from error
    return TorchTrainer


def _check_output(file: TrainFile) -> None:
    own_folder(file.output, "training")
    refuse_links(file.output, "training/tensorboard", "training/ray", *(() if file.cache else ("chips",)))


def _prepare(file: TrainFile, progress: Progress) -> None:
    """The initial model, once for all workers; sources that cannot be opened are told before they start."""
    legend = Legend.from_yaml(file.legend)
    chips = open_sources(file, legend, progress)
    folder = initial_folder(file)
    if file.model.init is None and not folder.exists():
        from transformers.utils import logging as transformers_logging

        from spex_core.initial_model import initial_model

        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

        own = file.model
        try:
            first = chips.sources[0][0]
            model = initial_model(first, legend, file.seed, vocabulary=own.vocabulary, config=own.config)
        except ModelInputError as error:
            raise ConfigError(f"model.config: {error}") from error
        partial = folder.with_name(".initial.partial")
        try:
            remove(partial)
            model.save_pretrained(partial)
            put_in_place(partial, folder)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error


def _fit(trainer_class: Any, file: TrainFile, progress: Progress) -> None:
    ray_train: Any = import_module("ray.train")
    compute = file.compute
    alone = compute.in_process
    if alone and compute.gpus_per_worker and not import_module("torch").cuda.is_available():
        raise ClusterError("compute.gpus_per_worker is 1 but torch sees no GPU; set it to 0 to train on the CPU")
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    with contextlib.ExitStack() as stack:
        if not alone:
            wanted = ComputeConfig(
                actors=compute.workers,
                gpus_per_actor=compute.gpus_per_worker,
                threads_per_actor=compute.threads,
                address=compute.address,
            )
            cluster = stack.enter_context(connected(wanted))
            progress.say(cluster.description)
            if cluster.local:
                # Nobody takes this machine away with notice: one process less.
                os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
                _check_gpus(compute.workers * compute.gpus_per_worker)
        trainer = trainer_class(
            run_worker,
            train_loop_config=file.model_dump(mode="json"),
            # 0 workers: Ray Train calls the function in this process, without a Ray.
            scaling_config=ray_train.ScalingConfig(
                num_workers=0 if alone else compute.workers,
                use_gpu=compute.gpus_per_worker > 0,
                resources_per_worker={"CPU": compute.threads, **({"GPU": 1} if compute.gpus_per_worker else {})},
            ),
            run_config=ray_train.RunConfig(
                name="ray",
                storage_path=str(file.output.resolve() / "training"),
                failure_config=ray_train.FailureConfig(max_failures=compute.attempts - 1),
                logging_config=ray_train.LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            trainer.fit()
        except SpexError:
            raise
        except Exception as error:
            failures = getattr(error, "worker_failures", None)
            if not failures:
                if alone:
                    raise
                raise ClusterError(f"the training failed: {plain_error(error)}") from error
            raise first_cause(failures) from error


def first_cause(failures: dict[int, Exception]) -> Exception:
    """A worker's own error, if there is one: the others fail because it is gone."""
    # Ray Train wraps what a worker raised in an error of its own.
    raised = [getattr(failures[rank], "_base_exc", failures[rank]) for rank in sorted(failures)]
    found = [error if isinstance(error, SpexError) else plain_error(error) for error in raised]
    own = [error for error in found if type(error) is not SpexError]
    return own[0] if own else ClusterError(f"workers of the training failed: {found[0]}")


def _check_gpus(wanted: int) -> None:
    ray: Any = import_module("ray")
    found = int(ray.cluster_resources().get("GPU", 0))
    if wanted > found:
        raise ClusterError(f"the training wants {wanted} GPUs but Ray sees {found}; set compute.gpus_per_worker to 0")


def _records(metrics: Path) -> list[dict[str, Any]]:
    if not metrics.exists():
        return []
    records = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # the line that is being written
            records.append(json.loads(line))
    return records


@contextmanager
def _followed(metrics: Path, done: int, progress: Progress) -> Iterator[None]:
    """Shows what rank 0 writes, wherever it runs."""
    stop = threading.Event()

    def show(seen: int) -> int:
        for record in _records(metrics):
            step = int(record["step"])
            if step > seen:
                progress.advance(step - seen)
                seen = step
            if "validation_accuracy" in record and step not in told and step > done:
                told.add(step)
                progress.say(f"step {step}: validation accuracy {record['validation_accuracy']:.3f}")
        return seen

    def watch() -> None:
        seen = done
        while not stop.wait(POLL_S):
            seen = show(seen)
        show(seen)

    told: set[int] = set()
    thread = threading.Thread(target=watch, name="spex-train-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _torch_threads() -> Iterator[None]:
    """Leaves the number of threads of this process as it was."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _result(file: TrainFile, metrics: Path, resumed: int, seconds: float) -> TrainResult:
    records = _records(metrics)
    losses = [record["total"] for record in records if "total" in record and record["step"] > resumed]
    accuracies = [record["validation_accuracy"] for record in records if "validation_accuracy" in record]
    weights = sum(path.stat().st_size for path in (file.output / "last").glob("*.safetensors"))
    return TrainResult(
        output=file.output,
        steps=file.steps,
        seconds=round(seconds, 1),
        resumed_from=resumed,
        loss=losses[-1] if losses else None,
        validation_accuracy=accuracies[-1] if accuracies else None,
        best_accuracy=max(accuracies) if accuracies else None,
        size_mb=round(weights / 1e6, 2),
    )
