"""Links, pipes and second names in the place of every file that a real run writes: no victim ever changes.

One run makes the files; each is then replaced by something foreign, and the run is started again. It either puts its
own file in the place, or ends in one clear message.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.engine.cluster import Cluster
from pipeline.mapstore.store import STATE_FOLDER
from pipeline.settings.run_file import RunConfig
from spex_core.errors import SpexError
from tests.conftest import tiny_config
from tests.strangers import STRANGERS, snapshot, untouched

pytestmark = pytest.mark.ray

SETTINGS: dict[str, Any] = {"tiling": {"tile_px": 64, "overlap_px": 16, "block_px": 256}}
"""One block: what is tried here are files, not pixels."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class ComputesAgain(Exception):
    """Ray was asked for: a chunk that cannot be used is computed anew."""


@contextmanager
def watched(folder: Path) -> Iterator[tuple[set[str], set[str]]]:
    """Collects what this process opens for writing below a folder: names that were followed, and names that were not.

    A name is safe where the kernel refuses links (``O_NOFOLLOW``) or the file was made by this process and nobody else
    (``O_EXCL``, or inside a folder of its own with a random name).
    """
    followed: set[str] = set()
    safe: set[str] = set()
    active = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not active:
            return
        if event == "tempfile.mkdtemp":
            safe.add(str(arguments[0]))
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path, flags = os.fsdecode(arguments[0]), arguments[2]
        if not (flags & WRITES) or not path.startswith(str(folder)):
            return
        ours = path in safe or os.path.dirname(path) in safe or path.endswith(".partial")  # zarr's, with a uuid
        (safe if flags & (os.O_NOFOLLOW | os.O_EXCL) or ours else followed).add(path)

    sys.addaudithook(hook)  # cannot be taken off again: it sleeps
    try:
        yield followed, safe
    finally:
        active = False


@pytest.fixture(scope="module")
def whole(
    tiny_archive: Path, local_ray: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunConfig, Path, set[str]]:
    """A finished run, to be copied, and what its driver opened for writing by a name that may be a link."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    config = tiny_config(tiny_archive, folder, **SETTINGS)
    with watched(folder) as (followed, safe):
        assert pipeline.run(config).exit_code == 0
    assert any(path.endswith("journal.jsonl") for path in safe)
    return config, folder, followed


@pytest.fixture
def copy(whole: tuple[RunConfig, Path, set[str]], tmp_path: Path) -> RunConfig:
    """A finished run of its own, whose next start publishes again."""
    config, folder, _ = whole
    shutil.copytree(folder, tmp_path / "out")
    next((tmp_path / "out" / STATE_FOLDER).glob("*/result.json")).unlink()
    return config.model_copy(update={"output": tmp_path / "out"})


@pytest.fixture(autouse=True)
def no_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks are there: a second start that asks for Ray would compute what a foreign file made it lose."""
    if "copy" in request.fixturenames:

        def refuse(*_: object) -> None:
            raise ComputesAgain("a block is computed again")

        monkeypatch.setattr("pipeline.runs.map_region.connected", refuse)


def ends(config: RunConfig) -> str | None:
    """How a start of a run ends: ``None`` if it publishes, else its one message."""
    try:
        pipeline.run(config)
    except (SpexError, ComputesAgain) as error:
        return str(error)
    return None


def published(output: Path) -> list[Path]:
    return [p for p in sorted(output.rglob("*")) if p.is_file() and STATE_FOLDER not in p.parts]


def test_no_name_is_opened_for_writing_that_may_be_a_link(whole: tuple[RunConfig, Path, set[str]]) -> None:
    assert whole[2] == set()


@pytest.mark.parametrize("kind", STRANGERS)
def test_every_published_file_takes_its_place_again(kind: str, copy: RunConfig, tmp_path: Path) -> None:
    files = published(copy.output)
    assert len(files) > 10
    rasters = {path: path.read_bytes() for path in files if path.suffix == ".tif"}
    with untouched(tmp_path / "theirs") as victim:
        for path in files:
            path.unlink()
            STRANGERS[kind](path, victim)
        told = ends(copy)
        if told is not None:  # a catalog or collection that is none of ours is not replaced
            assert "catalog.json" in told or "collection.json" in told
            for path in files:
                if path.name in ("catalog.json", "collection.json") or not (path.is_symlink() or path.is_file()):
                    path.unlink()
            assert ends(copy) is None
    for path in files:
        assert stat.S_ISREG(path.lstat().st_mode), path
        assert path.stat().st_nlink == 1
    assert {path: path.read_bytes() for path in rasters} == rasters


def state_files(folder: Path) -> list[str]:
    found = [p.relative_to(folder).as_posix() for p in sorted((folder / STATE_FOLDER).rglob("*")) if p.is_file()]
    return [name for name in found if not name.endswith("result.json")]


def test_every_file_of_the_state_is_refused_or_left_alone(copy: RunConfig, tmp_path: Path) -> None:
    """Each file meets one kind of stranger, in turn; with SPEX_ALL_STRANGERS=1 each file meets each kind."""
    names = state_files(copy.output)
    assert len(names) > 15
    kinds = list(STRANGERS)
    outcomes = set()
    for position, name in enumerate(names):
        for kind in kinds if os.environ.get("SPEX_ALL_STRANGERS") else [kinds[position % len(kinds)]]:
            path = copy.output / name
            kept = path.with_name(f"{path.name}.kept")
            path.rename(kept)
            with untouched(tmp_path / "theirs") as victim:
                STRANGERS[kind](path, victim)
                outcomes.add("published" if ends(copy) is None else "refused")
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}.middle").unlink(missing_ok=True)
            kept.rename(path)
            for result in (copy.output / STATE_FOLDER).glob("*/result.json"):
                result.unlink()
    assert "refused" in outcomes
    assert pipeline.run(copy).exit_code == 0


def test_folders_that_lead_elsewhere_are_refused_and_the_output_itself_may(copy: RunConfig, tmp_path: Path) -> None:
    output = copy.output
    folders = [p for p in sorted(output.rglob("*")) if p.is_dir()]
    assert len(folders) > 8
    for folder in folders:
        elsewhere = tmp_path / "elsewhere"
        folder.rename(elsewhere)
        folder.symlink_to(elsewhere, target_is_directory=True)
        before = snapshot(elsewhere)
        with pytest.raises(SpexError, match=r"symbolic link.*(remove it)"):
            pipeline.run(copy)
        assert snapshot(elsewhere) == before, folder
        folder.unlink()
        elsewhere.rename(folder)
    (tmp_path / "link").symlink_to(output, target_is_directory=True)
    assert pipeline.run(copy.model_copy(update={"output": tmp_path / "link"})).exit_code == 0


def test_a_block_is_written_beside_a_second_name_of_its_chunk(copy: RunConfig, tmp_path: Path) -> None:
    from pipeline.mapstore.layers import LAYERS, PICTURE
    from pipeline.mapstore.store import RunStore
    from pipeline.predict.stitch import BlockLayers

    store = RunStore.open(next(p for p in (copy.output / STATE_FOLDER).iterdir() if (p / "plan.json").is_file()))
    zone = store.plan.zones[0]
    block = zone.blocks[0]
    names = (*LAYERS, PICTURE)
    values = {name: store.zone(zone.grid.epsg).read(name, block.window) for name in names}
    chunks = [p for p in store.zarr_path.rglob("*") if p.is_file() and "c" in p.relative_to(store.zarr_path).parts]
    assert len(chunks) == len(names)
    (tmp_path / "backup").mkdir()
    for number, chunk in enumerate(chunks):
        os.link(chunk, tmp_path / "backup" / str(number))
    before = snapshot(tmp_path / "backup")
    store.write_block(
        zone.grid.epsg,
        block,
        BlockLayers(255 - values["scores"], values["landcover"], values["confidence"]),
        values["valid_count"],
        values["index_means"],
        values[PICTURE],
    )
    assert snapshot(tmp_path / "backup") == before
    assert all(chunk.stat().st_nlink == 1 for chunk in chunks)
