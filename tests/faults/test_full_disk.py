"""A disk that fills up under a run: one clear message, nothing computed in vain, and the same command goes on."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline
import pipeline.runs.map_region as map_region
from pipeline.engine.cluster import Cluster
from pipeline.errors import DiskRefusedError, StoreError
from pipeline.mapstore.journal import BlockFailed, JournalWriter, RunEnded, read_journal
from pipeline.mapstore.refusal import write_error
from pipeline.mapstore.store import RunStore, run_folder
from tests.conftest import tiny_config


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "spex", str(folder)], check=False).returncode
    ):
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path, leave: int) -> Path:
    filler = folder / "filler"
    with filler.open("wb") as file:
        free = os.statvfs(folder)
        file.write(b"x" * (free.f_bavail * free.f_frsize - leave))
    return filler


@pytest.mark.ray
@pytest.mark.parametrize("left", [0, pytest.param(9_000, marks=pytest.mark.long)])
def test_a_disk_that_fills_up_ends_the_run_and_the_same_command_goes_on(
    left: int, tiny_archive: Path, local_ray: Cluster, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tiny_archive, small_disk / "out")
    plain = map_region.rehearse

    def then_it_fills(*arguments: object) -> None:
        plain(*arguments)  # type: ignore[arg-type]
        fill(small_disk, leave=left)

    monkeypatch.setattr(map_region, "rehearse", then_it_fills)
    with pytest.raises(DiskRefusedError, match=r"is full: free some space; .*the same command goes on") as caught:
        pipeline.run(config)
    assert isinstance(caught.value, pipeline.errors.BadInputError)  # exit code 2
    store = RunStore.open(run_folder(config.output, pipeline.plan(config).run_id))
    assert not [record for record in read_journal(store.journal_path) if isinstance(record, BlockFailed)]
    (small_disk / "filler").unlink()
    monkeypatch.setattr(map_region, "rehearse", plain)
    kept = len(store.finished_blocks())
    result = pipeline.run(config)
    assert (result.exit_code, result.computed_blocks) == (0, 4 - kept)


@pytest.mark.parametrize("leave", range(0, 400, 40))
def test_a_line_that_did_not_fit_leaves_no_trace(leave: int, small_disk: Path) -> None:
    path = small_disk / "journal.jsonl"
    end = RunEnded("2026-01-01T00:00:00+00:00", "x" * 3900, 1.0)
    with JournalWriter(path) as journal:
        journal.append(end)
        filler = fill(small_disk, leave)
        refused = 0
        for _ in range(3):
            try:
                journal.append(end)
            except DiskRefusedError:
                refused += 1
        assert refused
        filler.unlink()
        journal.append(end)
    assert set(read_journal(path)) == {end}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.EACCES])
def test_what_the_disk_says_decides_whether_the_run_ends(code: int) -> None:
    error = write_error("block 3", OSError(code, os.strerror(code)), Path("/maps/.spex/1"))
    ends = code not in (errno.EIO, errno.EACCES)
    assert isinstance(error, DiskRefusedError) == ends
    assert isinstance(error, StoreError)
    assert str(error).startswith("block 3 cannot be written")
