"""The demonstration: a simulated archive, served as providers do on loopback, mapped, and compared with its truth."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.comparison.assessment import Assessment, assess
from pipeline.errors import OutputError
from pipeline.machine.atomic_files import write_json, write_text
from pipeline.machine.memory import PeakMemory
from pipeline.machine.own_files import refuse_links
from pipeline.machine.progress import Progress
from pipeline.mapstore.store import RunStore
from pipeline.outputs.report import Accuracy, ClassAccuracy
from pipeline.planning.prepare import Prepared
from pipeline.records.result import RunResult
from pipeline.runs.map_region import map_region, zone_contexts
from pipeline.settings.run_file import RunConfig
from pipeline.settings.yaml_file import of_command_line
from pipeline.simulation import DEMO_SPEC, ArchiveSpec, publish_items, serve_files, serve_stac, write_archive
from pipeline.simulation.stac_items import COLLECTION
from spex_core.durable_files import put_in_place, remove

RUN_FILE = "run.yaml"
STAMP = "demo.json"

_RUN_FILE_HEAD = """\
# The run file of the demonstration. `spex demo` itself asked a STAC API on this machine, which is gone by now; this
# file reads the same archive through its static catalog, so that it works at any time:
#
#   spex run {name}
#
"""


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration showed."""

    run: RunResult
    run_file: Path
    """A run file over the same archive, to try things with."""
    map: Assessment
    index_rules: Assessment
    seconds: float
    """Simulation, run and assessment together."""
    peak_memory_mb: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            **self.run.to_dict(),
            "seconds": round(self.seconds, 1),
            "run_seconds": round(self.run.seconds, 1),
            "peak_memory_mb": round(self.peak_memory_mb, 1),
            "accuracy": _rounded(self.map.overall),
            "index_accuracy": _rounded(self.index_rules.overall),
            "miou": _rounded(self.map.miou),
            "iou": {c.name: _rounded(float(v)) for c, v in zip(self.map.legend, self.map.iou, strict=True)},
            "run_file": str(self.run_file),
        }


def demo(
    output: Path,
    progress: Progress,
    *,
    actors: int | None = None,
    seed: int | None = None,
    checkpoint: str | None = None,
    spec: ArchiveSpec = DEMO_SPEC,
    settings: dict[str, Any] | None = None,
) -> DemoResult:
    """Simulates an archive below ``output``, maps it and measures the map.

    Args:
        output: Folder of the run; the archive goes to ``archive/`` below it and is used again by the next demo.
        progress: Where progress is told.
        actors: Model actors; default: one per core.
        seed: Another landscape.
        checkpoint: Another model than the default.
        spec: The archive.
        settings: Further settings of the run file.

    Raises:
        OutputError: The folder cannot be used.
        SpexError: The run failed.
    """
    begun = time.monotonic()
    output = of_command_line(output)
    if seed is not None:
        spec = dataclasses.replace(spec, world=dataclasses.replace(spec.world, seed=seed))
    data = _run_settings(spec, actors, checkpoint, settings or {})
    with PeakMemory() as peak:
        archive = simulated_archive(output / "archive", spec, progress)
        run_file = output / RUN_FILE
        write_text(run_file, _RUN_FILE_HEAD.format(name=run_file.name) + yaml.safe_dump(data, sort_keys=False))
        measured: list[tuple[Assessment, Assessment]] = []

        def evaluate(prepared: Prepared, store: RunStore) -> Accuracy:
            progress.say("comparing the map and the index rules with the simulated truth")
            truth = sorted((archive / "truth").glob("*.tif"))
            measured.append(assess(store, zone_contexts(prepared, store), prepared.legend, truth))
            return _accuracy(*measured[-1])

        with _served(archive) as url:
            config = RunConfig.from_dict({**data, "source": {**data["source"], "url": url}, "output": "."}, output)
            config = config.model_copy(update={"output": output})
            result = map_region(config, progress, evaluate)
    return DemoResult(result, run_file, *measured[-1], time.monotonic() - begun, max(peak.mb, result.peak_memory_mb))


def _run_settings(
    spec: ArchiveSpec, actors: int | None, checkpoint: str | None, settings: dict[str, Any]
) -> dict[str, Any]:
    dates = sorted(acquisition.datetime.date() for acquisition in spec.acquisitions)
    data: dict[str, Any] = {
        "name": "demo",
        "region": "archive/region.geojson",
        "start": dates[0].isoformat(),
        "end": dates[-1].isoformat(),
        "output": "maps",
        "source": {"provider": spec.style, "url": "archive/catalog.json", "collection": COLLECTION},
        # Smaller than the default: the demo's region has 2 million pixels, and both cores should have blocks to do.
        "tiling": {"block_px": 512},
    }
    if actors is not None:
        data["compute"] = {"actors": actors}
    if checkpoint is not None:
        # A folder is meant from where the command was given, not from where the run file lies.
        folder = Path(checkpoint)
        data["model"] = {"checkpoint": str(folder.resolve()) if folder.is_dir() else checkpoint}
    return {**data, **settings}


def simulated_archive(folder: Path, spec: ArchiveSpec, progress: Progress) -> Path:
    """Writes an archive unless the folder holds it already; a half-made one never has the final name.

    Args:
        folder: Its place; an archive of another specification there is replaced, anything else is not touched.
        spec: What it holds.
        progress: Where progress is told.

    Returns:
        The folder.

    Raises:
        OutputError: The folder cannot be written.
    """
    stamp = {"spec": repr(spec), "version": importlib.metadata.version("spex-landcover")}
    with contextlib.suppress(OSError, ValueError):
        if json.loads((folder / STAMP).read_text(encoding="utf-8")) == stamp:
            progress.say(f"using the simulated archive in {folder}")
            return folder
    scenes = len(spec.granules) * len(spec.acquisitions)
    progress.say(f"simulating {scenes} Sentinel-2 scenes in {folder}")
    draft = folder.with_name(f".{folder.name}.draft")
    refuse_links(folder.parent, folder.name)
    try:
        remove(draft)
        write_archive(draft, spec, str(folder))
        write_json(draft / STAMP, stamp)
        if (folder / STAMP).is_file():  # an archive of another demo; anything else there is not ours to remove
            remove(folder)
        put_in_place(draft, folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}; give another --output") from error
    return folder


@contextlib.contextmanager
def _served(archive: Path) -> Iterator[str]:
    """Files over HTTP and items through a STAC API; yields the API's address."""
    with serve_files(archive) as base_url, serve_stac(publish_items(archive, base_url)) as api_url:
        yield api_url


def _accuracy(found: Assessment, rules: Assessment) -> Accuracy:
    classes = zip(found.legend, found.users, found.producers, found.iou, found.confusion.sum(axis=1), strict=True)
    return Accuracy(
        reference="the simulated truth",
        simulated=True,
        overall=found.overall,
        miou=found.miou,
        baseline_overall=rules.overall,
        classes=tuple(
            ClassAccuracy(entry.name, _finite(users), _finite(producers), _finite(iou))
            for entry, users, producers, iou, pixels in classes
            if pixels
        ),
    )


def _rounded(value: float) -> float | None:
    """Four digits; None for NaN, which JSON lacks."""
    return round(value, 4) if value == value else None


def _finite(value: float) -> float:
    return float(value) if value == value else 0.0
