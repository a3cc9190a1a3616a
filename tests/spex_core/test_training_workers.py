"""Two processes on loopback (gloo) against one: the same training."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import distributed

from spex_core.legend import Legend
from spex_core.training import Stage, TrainingConfig, Worker, train
from tests.spex_core.conftest import build_tiny_model
from tests.spex_core.test_training import TwoHalves, curve

CONFIG = TrainingConfig(
    # A batch of three: the workers' parts differ in size, and one mean must come out of both.
    stages=(Stage(2, 3, 32, "pretrain"), Stage(2, 3, 32, "words"), Stage(2, 3, 32, "prompt")),
    learning_rate=3e-3,
    warmup_steps=2,
    record_every=1,
    checkpoint_every=6,
)


def run(rank: int, count: int, meeting: Path, folder: Path, tiles: torch.Tensor, legend: Legend) -> None:
    if count > 1:
        distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=count)
    chips = TwoHalves(tiles, legend)
    try:
        model = build_tiny_model(legend)
        train(model, [(chips, 1.0)], legend, CONFIG, folder, (chips, [0, 0, 0]), worker=Worker(rank, count))
    finally:
        if count > 1:
            distributed.destroy_process_group()


def test_two_workers_train_as_one_does(
    tmp_path: Path, tiles: torch.Tensor, legend: Legend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # the tokenizer's threads do not survive a fork
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    run(0, 1, tmp_path / "none", tmp_path / "one", tiles, legend)
    shared = (2, tmp_path / "meeting", tmp_path / "two", tiles, legend)
    other = multiprocessing.get_context("fork").Process(target=run, args=(1, *shared))
    other.start()
    run(0, *shared)
    other.join(60)
    assert other.exitcode == 0
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for row, same in zip(one, two, strict=True):
        for name in {"reconstruction", "bce", "dice", "joint", "text", "total", "gradient_norm"} & set(row):
            assert same[name] == pytest.approx(row[name], rel=1e-3), (row["step"], name)
