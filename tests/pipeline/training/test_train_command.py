from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.engine.cluster import Cluster
from pipeline.errors import ChipError, ClusterError, ConfigError
from pipeline.machine.progress import LogProgress
from pipeline.training import train
from pipeline.training.launch import first_cause
from spex_core.errors import CheckpointError, ModelInputError
from spex_core.modeling import SpexForLandCover
from tests.pipeline.training.conftest import training_document, training_file


def curve(output: Path) -> list[dict[str, Any]]:
    lines = (output / "training" / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def finished(workplace: Path) -> Path:
    """Output of a training that was never interrupted."""
    output = workplace / "whole"
    train(training_file(workplace, output=str(output)), LogProgress())
    return output


def test_a_training_leaves_checkpoints_metrics_and_events(finished: Path) -> None:
    assert [row["step"] for row in curve(finished)] == [1, 2, 3, 4, 4, 5, 6, 6]
    for name in ("last", "best"):
        model = SpexForLandCover.from_pretrained(finished / name)
        assert model.processor is not None
    assert (finished / "last" / "model.safetensors").stat().st_size < 25e6
    events = b"".join(path.read_bytes() for path in (finished / "training" / "tensorboard").iterdir())
    for name in (b"reconstruction", b"joint", b"validation_accuracy"):
        assert name in events


@pytest.mark.long
def test_a_killed_training_goes_on_with_the_same_curve_and_weights(workplace: Path, finished: Path) -> None:
    """On one machine to the last digit; the issue asks for a stated tolerance, and this one is zero."""
    file = workplace / "killed.yaml"
    file.write_text(yaml.safe_dump(training_document(output="killed")))
    metrics = workplace / "killed" / "training" / "metrics.jsonl"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-m", "pipeline", "train", str(file), "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not (metrics.exists() and '"step": 3' in metrics.read_text()):  # any step after the first checkpoint
            assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    resumed = train(training_file(workplace, output="killed"), LogProgress())
    assert resumed.resumed_from in (2, 4)
    assert curve(workplace / "killed") == curve(finished)
    left, right = (SpexForLandCover.from_pretrained(folder / "last") for folder in (workplace / "killed", finished))
    for name, value in left.state_dict().items():
        assert torch.equal(value, right.state_dict()[name]), name


def test_a_finished_training_costs_nothing(workplace: Path, finished: Path) -> None:
    before = (finished / "training" / "metrics.jsonl").read_bytes()
    result = train(training_file(workplace, output=str(finished)), LogProgress())
    assert (result.resumed_from, result.loss) == (6, None)
    assert "nothing was computed" in result.summary()
    assert (finished / "training" / "metrics.jsonl").read_bytes() == before


@pytest.mark.ray
@pytest.mark.long
def test_two_workers_over_ray_train_as_one_does(workplace: Path, finished: Path, local_ray: Cluster) -> None:
    """The same batches; sums of floats are taken in another order, so losses agree to 1e-3."""
    train(training_file(workplace, output="shared", compute={"workers": 2}), LogProgress())
    one, two = curve(finished), curve(workplace / "shared")
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for row, other in zip(one, two, strict=True):
        for name in {"reconstruction", "bce", "dice", "joint", "text", "total"} & set(row):
            assert other[name] == pytest.approx(row[name], rel=1e-3), (row["step"], name)


def test_the_error_that_a_worker_raised_is_told_not_that_others_lost_it() -> None:
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    lost = UserExceptionWithTraceback(RuntimeError("connection closed by peer"), "Traceback ...")
    own = UserExceptionWithTraceback(ModelInputError("chip 3 is smaller than crop_px"), "Traceback ...")
    assert str(first_cause({0: lost, 1: own})) == "chip 3 is smaller than crop_px"
    assert isinstance(first_cause({0: lost}), ClusterError)


def test_what_is_missing_is_told_before_anything_starts(workplace: Path) -> None:
    sources = [{"name": "shore", "kind": "chips", "folder": "nowhere"}]
    with pytest.raises(ChipError, match=r"nowhere/reflectance\.npy"):
        train(training_file(workplace, output="none", sources=sources), LogProgress())
    with pytest.raises(CheckpointError, match="no-such"):
        train(training_file(workplace, output="none", model={"init": "no-such"}), LogProgress())
    with pytest.raises(ConfigError, match=r"model\.config: a model has no setting chanels"):
        train(training_file(workplace, output="none", model={"config": {"chanels": 8}}), LogProgress())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_told(workplace: Path) -> None:
    with pytest.raises(ClusterError, match="torch sees no GPU; set it to 0"):
        train(training_file(workplace, output="none", compute={"gpus_per_worker": 1}), LogProgress())
