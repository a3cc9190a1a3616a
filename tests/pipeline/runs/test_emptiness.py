"""A run without a mapped pixel is no success: its own exit code, a reason, and nothing published over what is there."""

from __future__ import annotations

import shutil
import types
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.engine.cluster import Cluster
from pipeline.errors import NothingMappedError
from pipeline.mapstore.journal import BlockFailed, BlockFinished, JournalState
from pipeline.mapstore.status import run_states
from pipeline.runs.emptiness import is_empty, refuse_empty
from tests.conftest import tiny_config

ONE_BLOCK = {"tile_px": 64, "overlap_px": 16, "block_px": 256}


def state(*shares: float, problems: tuple[str, ...] = (), failed: int = 0) -> JournalState:
    finished = {
        (32632, i): BlockFinished(32632, i, 1.0, share, "", problems, bool(problems)) for i, share in enumerate(shares)
    }
    gone = {(32632, 100 + i): BlockFailed(32632, 100 + i, 3, f"lost {i}") for i in range(failed)}
    return JournalState(finished, gone, None, None)


@pytest.mark.parametrize(
    ("journal", "words"),
    [
        (state(0.0), "1 block and 2 scenes: every pixel is cloud.*max_cloud_cover"),
        (state(0.0, 0.0), "2 blocks"),
        (state(0.0, problems=("B02 of X: 403",)), "cannot be read: B02 of X: 403; the same command"),
        (state(0.0, problems=tuple(f"file {i}" for i in range(9))), "file 2 and 6 more"),
        (state(0.0, failed=1), "lost 0"),
    ],
)
def test_why_nothing_is_mapped_is_told(journal: JournalState, words: str, tmp_path: Path) -> None:
    prepared: Any = types.SimpleNamespace(
        plan=types.SimpleNamespace(scenes=(1, 2)), config=types.SimpleNamespace(output=tmp_path)
    )
    assert is_empty(journal)
    with pytest.raises(NothingMappedError, match=words) as caught:
        refuse_empty(prepared, journal)
    assert "0 % of the region" in str(caught.value)
    assert "<1" not in str(caught.value)


@pytest.mark.parametrize("journal", [state(), state(0.0, 1e-6), state(0.0, 1.0, problems=("x",)), state(failed=2)])
def test_one_pixel_is_a_map_and_no_block_is_another_failure(journal: JournalState) -> None:
    prepared: Any = types.SimpleNamespace()
    refuse_empty(prepared, journal)


@pytest.mark.ray
@pytest.mark.long
def test_scenes_of_which_no_file_can_be_read_are_no_map(tiny_archive: Path, local_ray: Cluster, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(tiny_archive, archive)
    for path in archive.rglob("*.json"):
        path.write_text(path.read_text().replace(str(tiny_archive), str(archive)))
    assert [path.write_bytes(b"no raster") for path in archive.rglob("*.tif")]
    with pytest.raises(NothingMappedError, match="cannot be read"):
        pipeline.run(tiny_config(archive, tmp_path / "out", tiling=ONE_BLOCK))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".spex"]
    assert [run.stage for run in run_states(tmp_path / "out")] == ["empty"]
