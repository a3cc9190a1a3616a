"""What users and servers hand in, made wrong: every door answers with a result or with one clear message.

    python -m tests.faults.foreign_documents [--count 20000] [--first 0] [--kinds item,region,...] [--jobs N]

Each document is a real one with one or two changes (:mod:`tests.faults.mutations`), given to the same function that a
run gives it to, within ten seconds and two gigabytes. Anything but a result or a :class:`SpexError` fails, and so does
a message that a terminal would act on, and a file that is opened for writing anywhere but where the document lies.
"""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.engine.tasks import finish_block, read_block
from pipeline.mapstore.journal import (
    BlockFailed,
    BlockFinished,
    JournalWriter,
    RunEnded,
    RunStarted,
    read_journal,
    replay,
)
from pipeline.mapstore.store import RunStore
from pipeline.planning.plan_file import read_plan
from pipeline.planning.prepare import prepare
from pipeline.records.region import read_region
from pipeline.runs.map_region import zone_contexts
from pipeline.settings.run_file import RunConfig, SourceConfig
from pipeline.sources import http
from pipeline.sources.catalog import find_scenes
from spex_core.checkpoints import BUILT_IN, DEFAULT_CHECKPOINT, check_checkpoint, checkpoint_fingerprint
from spex_core.errors import SpexError
from spex_core.legend import Legend
from tests.conftest import write_tiny_archive
from tests.faults.mutations import as_json, as_yaml, changed, damaged

SECONDS = 10
BYTES = 2 * 2**30
LONGEST_MESSAGE = 8200
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
DAYS = (dt.date(2026, 6, 1), dt.date(2026, 7, 31))


class TooSlow(BaseException):
    """Not an Exception: what is tried must not be able to catch it."""


@dataclass(frozen=True)
class Ground:
    """Real documents, and where they lie."""

    archive: Path
    """A simulated one, see ``tiny_archive``."""
    run: Path
    """Folder of a finished run over it (``.spex/<id>``)."""


@dataclass
class Outcome:
    """What became of the documents of a kind."""

    taken: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


# --- doors: the function that a run gives a document to -------------------------------------------------------------


def _item(ground: Ground, folder: Path, dice: random.Random) -> Callable[[], object]:
    path = dice.choice(sorted(ground.archive.glob("sentinel-2-l2a/*/*.json")))
    document = json.loads(path.read_text(encoding="utf-8"))
    links = [{"rel": "item", "href": "item.json"}]
    catalog = {"type": "Catalog", "stac_version": "1.0.0", "id": "c", "description": "", "links": links}
    if dice.random() < 0.2:
        catalog = _twisted(catalog, dice)
    else:
        document = _twisted(document, dice)
    (folder / "item.json").write_bytes(as_json(document, dice))
    (folder / "catalog.json").write_bytes(as_json(catalog, dice))
    provider = dice.choice(("earth-search", "planetary-computer", "cdse", "generic"))
    source = SourceConfig.model_validate({"provider": provider, "url": str(folder / "catalog.json")})
    region = read_region(ground.archive / "region.geojson")
    return lambda: find_scenes(source, region, *DAYS)


def _region(ground: Ground, folder: Path, dice: random.Random) -> Callable[[], object]:
    document = json.loads((ground.archive / "region.geojson").read_text(encoding="utf-8"))
    path = folder / "region.geojson"
    path.write_bytes(as_json(_twisted(document, dice), dice))
    return lambda: read_region(path, grid_km=dice.choice((5.0, 0.5)))


def _run_settings(ground: Ground, output: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "region": str(ground.archive / "region.geojson"),
        "start": "2026-06-01",
        "end": "2026-07-31",
        "output": str(output),
        "legend": "worldcover9",
        "source": {"provider": "earth-search", "url": str(ground.archive / "catalog.json"), "max_cloud_cover": 80},
        "composite": {"method": "median", "mask_scl": [0, 1, 3], "max_observations": 4},
        "model": {"checkpoint": "index-rules"},
        "tiling": {"resolution_m": 10, "tile_px": 64, "overlap_px": 16, "block_px": 128},
        "compute": {"actors": 1},
        "regions": {"grid_km": 5.0, "id_field": "id"},
        "publish": {"clip": True, "collection_id": "maps"},
    }


def _run_file(ground: Ground, folder: Path, dice: random.Random) -> Callable[[], object]:
    path = folder / "run.yaml"
    path.write_bytes(as_yaml(_twisted(_run_settings(ground, folder / "out"), dice), dice))
    return lambda: prepare(RunConfig.from_yaml(path))


def _legend(ground: Ground, folder: Path, dice: random.Random) -> Callable[[], object]:
    document = Legend.from_yaml("worldcover9").to_dict()
    path = folder / "legend.yaml"
    path.write_bytes(as_yaml(_twisted(document, dice), dice))

    def door() -> object:
        legend = Legend.from_yaml(path)
        return legend.fingerprint(), legend.digest(), legend.colormap(), legend.to_dict()

    return door


def _plan(ground: Ground, folder: Path, dice: random.Random) -> Callable[[], object]:
    run = folder / "run"
    shutil.copytree(ground.run, run)
    document = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    (run / "plan.json").write_bytes(as_json(_twisted(document, dice), dice))
    return lambda: RunStore.open(run, read_plan(run / "plan.json")).finished_blocks()


def _journal(ground: Ground, folder: Path, dice: random.Random) -> Callable[[], object]:
    lines = (ground.run / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    path = folder / "journal.jsonl"
    for _ in range(dice.choice((1, 1, 2))):
        at = dice.randrange(len(lines))
        lines[at] = json.dumps(changed(json.loads(lines[at]), dice))
    if dice.random() < 0.3:
        dice.shuffle(lines)
    path.write_bytes(damaged(("\n".join(lines) + dice.choice(("\n", ""))).encode("utf-8", "surrogatepass"), dice))

    def door() -> object:
        state = replay(read_journal(path))
        with JournalWriter(path) as writer:
            writer.append(RunStarted("2026-06-01T00:00:00+00:00", "x", 0))
        return state

    return door


def _checkpoint(ground: Ground, folder: Path, dice: random.Random) -> Callable[[], object]:
    built_in = BUILT_IN / DEFAULT_CHECKPOINT
    copy = folder / "checkpoint"
    copy.mkdir()
    twisted = dice.choice(("config.json", "config.json", "processor_config.json", "tokenizer_config.json"))
    for path in built_in.iterdir():
        if path.name == twisted:
            document = json.loads(path.read_text(encoding="utf-8"))
            (copy / path.name).write_bytes(as_json(_twisted(document, dice), dice))
        elif path.suffix in (".json", ".safetensors"):
            (copy / path.name).symlink_to(path)
    loaded = dice.random() < LOADED_SHARE

    def door() -> object:
        check_checkpoint(copy, ("B02", "B03", "B04", "B08"))
        if loaded:
            from pipeline.predict.classifier import load_classifier
            from pipeline.settings.run_file import ModelConfig

            return load_classifier(ModelConfig(checkpoint=str(copy)), Legend.from_yaml("worldcover9"))
        return checkpoint_fingerprint(copy)

    return door


LOADED_SHARE = 0.1
"""Of the checkpoints that are loaded, not only looked at: half a second each."""
DOORS: dict[str, Callable[[Ground, Path, random.Random], Callable[[], object]]] = {
    "item": _item,
    "region": _region,
    "run file": _run_file,
    "legend": _legend,
    "plan": _plan,
    "journal": _journal,
    "checkpoint": _checkpoint,
}


def _twisted(document: Any, dice: random.Random) -> Any:
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        document = changed(document, dice)
    return document


# --- one document, watched -------------------------------------------------------------------------------------------

_written: list[str] | None = None


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if _written is None or event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
        return
    if isinstance(arguments[2], int) and arguments[2] & WRITES:
        _written.append(os.path.abspath(os.fsdecode(arguments[0])))


@contextmanager
def _watched(within: Path) -> Iterator[list[str]]:
    """Files that are opened for writing elsewhere than below ``within``, and a clock."""
    global _written

    def ring(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _written = opened = []
    elsewhere: list[str] = []
    allowed = (str(within), "/dev/", "/proc/", os.environ["XDG_CACHE_HOME"])
    try:
        yield elsewhere
    finally:
        _written = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        elsewhere += [path for path in opened if not path.startswith(allowed)]


def tried(kind: str, number: int, ground: Ground, outcome: Outcome) -> None:
    """Makes one document and gives it to its door."""
    dice = random.Random(f"{kind} {number}")
    with tempfile.TemporaryDirectory(prefix="spex-fuzz-") as name:
        folder = Path(name)
        door = DOORS[kind](ground, folder, dice)
        title = f"{kind} {number}"
        try:
            with _watched(folder) as elsewhere:
                door()
            outcome.taken += 1
        except TooSlow:
            outcome.faults.append(f"{title}: no answer within {SECONDS} s")
        except SpexError as error:
            outcome.refused += 1
            if told := _unfit(str(error)):
                outcome.faults.append(f"{title}: {told}: {str(error)[:300]!r}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            where = traceback.extract_tb(error.__traceback__)[-1]
            outcome.faults.append(
                f"{title}: {type(error).__name__}: {str(error)[:200]!r} ({where.filename}:{where.lineno})"
            )
        if elsewhere:
            outcome.faults.append(f"{title}: opened for writing: {elsewhere}")


def _unfit(message: str) -> str | None:
    """What is wrong with a message."""
    if not message.strip():
        return "no message"
    if len(message) > LONGEST_MESSAGE:
        return f"a message of {len(message)} characters"
    if not all(character.isprintable() or character in "\n\t" for character in message):
        return "a message that a terminal would act on"
    return None


def many(kind: str, numbers: range, ground: Ground, *, limited: bool = True) -> Outcome:
    """Tries some documents of a kind in this process, within :data:`BYTES` more than it has now."""
    if not _hooked:
        sys.addaudithook(_note_opened)
        _hooked.append(True)
    if limited:
        if kind == "checkpoint":
            from spex_core import SpexForLandCover

            SpexForLandCover.from_pretrained(
                BUILT_IN / DEFAULT_CHECKPOINT
            )  # its libraries are no part of a document's cost
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    outcome = Outcome()
    patience = http.retry_policy.__defaults__
    http.retry_policy.__defaults__ = (0, 0.0)  # patience with servers is tried elsewhere
    try:
        for number in numbers:
            tried(kind, number, ground, outcome)
    finally:
        http.retry_policy.__defaults__ = patience
    return outcome


_hooked: list[bool] = []


def make_ground(folder: Path) -> Ground:
    """A tiny archive, and a run over it whose blocks are in the store, without Ray and without a class."""
    (folder / "archive").mkdir()
    archive = write_tiny_archive(folder / "archive")
    prepared = prepare(RunConfig.from_dict(_run_settings(Ground(archive, archive), folder / "out")))
    store = RunStore.create(folder / "run", prepared.plan, prepared.legend)
    with store.journal_writer() as journal:
        journal.append(RunStarted("2026-06-01T00:00:00+00:00", prepared.plan.run_id))
        for context, zone in zip(zone_contexts(prepared, store), prepared.plan.zones, strict=True):
            for block in zone.blocks:
                _, layers, _ = read_block(context, block)
                report = finish_block(context, block, layers)
                journal.append(BlockFinished(zone.grid.epsg, block.index, 0.5, report.valid_share, report.sha256))
        journal.append(BlockFailed(zone.grid.epsg, block.index, 3, "out of memory"))
        journal.append(RunEnded("2026-06-01T00:01:00+00:00", "partial", 60.0))
    return Ground(archive, store.folder)


def main() -> None:
    """Tries many, and ends with 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="documents, of all kinds together")
    parser.add_argument("--first", type=int, default=0, help="number of the first of each kind")
    parser.add_argument("--kinds", default=",".join(DOORS), help="comma-separated")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    each = -(-options.count // len(kinds))
    failed = 0
    with tempfile.TemporaryDirectory(prefix="spex-ground-") as name:
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        ground = make_ground(Path(name))
        with ProcessPoolExecutor(options.jobs) as pool:
            parts = [
                (kind, pool.submit(many, kind, range(first, min(first + 250, options.first + each)), ground))
                for kind in kinds
                for first in range(options.first, options.first + each, 250)
            ]
            totals: dict[str, Outcome] = collections.defaultdict(Outcome)
            for kind, part in parts:
                found, total = part.result(), totals[kind]
                total.taken, total.refused = total.taken + found.taken, total.refused + found.refused
                total.faults += found.faults
                for fault in found.faults:
                    print(fault, flush=True)
    for kind, total in totals.items():
        failed += len(total.faults)
        print(f"{kind:12} {total.taken:6} taken, {total.refused:6} refused, {len(total.faults):4} faults")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
