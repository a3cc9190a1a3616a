"""Runs in which something breaks: the failure stays local, is told, and is mended by running again."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio

import pipeline
from pipeline.engine.cluster import Cluster
from pipeline.machine.progress import LogProgress
from pipeline.mapstore.store import RunStore, run_folder
from pipeline.records.result import RunResult
from pipeline.runs.map_region import map_region
from spex_core.errors import CheckpointError, SpexError
from tests.conftest import tiny_config

pytestmark = pytest.mark.ray


def digest(result: RunResult) -> str:
    files = (result.outputs["landcover"][0], result.outputs["confidence"][0])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@pytest.fixture(scope="module")
def clean(tiny_archive: Path, local_ray: Cluster, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return pipeline.run(tiny_config(tiny_archive, tmp_path_factory.mktemp("clean")))


class KillActor(LogProgress):
    """Kills one model actor, as the kernel would, once the first block is finished."""

    def __init__(self) -> None:
        super().__init__()
        self.killed: list[int] = []

    def advance(self, amount: int = 1) -> None:
        super().advance(amount)
        if self.killed:
            return
        for process in psutil.Process().children(recursive=True):
            if "BlockClassifier" in process.name() or "BlockClassifier" in " ".join(process.cmdline()[:1]):
                os.kill(process.pid, signal.SIGKILL)
                self.killed.append(process.pid)
                return


def test_a_killed_actor_costs_nothing_but_time(tiny_archive: Path, clean: RunResult, tmp_path: Path) -> None:
    progress = KillActor()
    config = tiny_config(tiny_archive, tmp_path, compute={"actors": 1, "prefetch": 0, "readers": 1})
    result = map_region(config, progress)
    assert progress.killed, "no actor was found to kill"
    assert result.exit_code == 0
    assert digest(result) == digest(clean)


def test_a_truncated_asset_is_filled_by_the_other_scene_and_told(
    tiny_archive: Path, clean: RunResult, tmp_path: Path
) -> None:
    broken = tmp_path / "archive"
    shutil.copytree(tiny_archive, broken)
    victim = sorted((broken / "scenes").glob("*/20260618*/B04.tif"))[0]
    victim.write_bytes(victim.read_bytes()[:2000])
    result = pipeline.run(tiny_config(broken, tmp_path / "out"))
    assert result.exit_code == 3
    assert result.missing_blocks == 0
    assert result.incomplete_blocks == result.blocks
    with (
        rasterio.open(result.outputs["valid_count"][0]) as counts,
        rasterio.open(clean.outputs["landcover"][0]) as whole,
    ):
        found = counts.read(1, masked=True).filled(0)
        assert found.max() == 1
        covered = whole.read(1) != 0
        assert np.array_equal(found > 0, covered)
    journal = (run_folder(tmp_path / "out", result.run_id) / "journal.jsonl").read_text()
    assert "20260618" in journal
    assert "B04" in journal
    report = result.outputs["report"][0].read_text()
    assert "B04" in report


@pytest.mark.long
def test_a_mended_asset_completes_the_map_on_the_next_run(tiny_archive: Path, tmp_path: Path) -> None:
    broken = tmp_path / "archive"
    shutil.copytree(tiny_archive, broken)
    victim = sorted((broken / "scenes").glob("*/20260618*/B04.tif"))[0]
    content = victim.read_bytes()
    victim.write_bytes(content[:2000])
    config = tiny_config(broken, tmp_path / "out")
    assert pipeline.run(config).exit_code == 3
    victim.write_bytes(content)
    mended = pipeline.run(config)
    assert (mended.exit_code, mended.incomplete_blocks, mended.computed_blocks) == (0, 0, 4)


@pytest.mark.long
def test_a_block_that_cannot_be_written_is_given_up_alone_and_mended_later(
    tiny_archive: Path, clean: RunResult, tmp_path: Path
) -> None:
    config = tiny_config(tiny_archive, tmp_path)
    planned = pipeline.plan(config)
    folder = run_folder(tmp_path, planned.run_id)
    from spex_core.legend import Legend

    RunStore.create(folder, planned, Legend.from_yaml())
    # A folder stands where the chunk of the last block must go.
    obstacle = folder / "scores.zarr" / "32632" / "landcover" / "c" / "1" / "1"
    (obstacle / "in the way").mkdir(parents=True)
    result = pipeline.run(config)
    assert (result.exit_code, result.missing_blocks, result.computed_blocks) == (3, 1, 3)
    state = RunStore.open(folder).state()
    assert set(state.failed) == {(32632, 3)}
    assert state.failed[32632, 3].attempts == config.compute.attempts
    again = pipeline.run(config)  # still in the way: what there is, is published
    assert (again.exit_code, again.missing_blocks, again.computed_blocks) == (3, 1, 0)
    assert again.outputs["landcover"][0].is_file()
    shutil.rmtree(obstacle)
    mended = pipeline.run(config)
    assert (mended.exit_code, mended.missing_blocks, mended.computed_blocks) == (0, 0, 1)
    assert digest(mended) == digest(clean)


def test_a_model_that_cannot_be_loaded_ends_the_run_with_its_own_error(
    tiny_archive: Path, local_ray: Cluster, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "model.safetensors").write_bytes(b"not weights")
    config = tiny_config(tiny_archive, tmp_path / "out", model={"checkpoint": str(checkpoint)})
    with pytest.raises(SpexError) as caught:
        pipeline.run(config)
    assert "Traceback" not in str(caught.value)


def test_a_checkpoint_that_is_not_there_is_said_before_the_search(tiny_archive: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_archive, tmp_path, model={"checkpoint": str(tmp_path / "none")})
    with pytest.raises(CheckpointError, match="none"):
        pipeline.run(config)
