"""What does the engine cost beside its model, and how fast are others with the same model?

    python -m benchmarks.pipeline [--quick] [--size 5488] [--dates 2] [--checkpoint NAME] [--peers all|none|NAME,...]

A simulated scene is mapped end to end by ``spex run`` in a process of its own, and watched from outside: wall time, CPU
time and peak memory of every process. Beside it, in the same minutes, on the same machine: the model alone, fed from
memory by as many processes as the run has actors; and peers that map the same files with the same model, tiles and
overlap (:mod:`benchmarks.peers`). Everything outside the model is overhead: the start of Ray and of processes, reading,
decoding, compositing, stitching, storing, statistics, COGs and the catalog. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.peers import PEERS, available, cost_of_peer
from benchmarks.process_tree import Cost, cost_of
from pipeline.engine.cluster import worker_environment
from pipeline.machine.processors import cpu_count
from pipeline.machine.progress import LogProgress
from pipeline.planning.prepare import prepare
from pipeline.runs.demo import simulated_archive
from pipeline.settings.run_file import RunConfig
from pipeline.simulation import DEMO_SPEC, ArchiveSpec
from pipeline.simulation.archive import SubRegionSpec
from pipeline.simulation.clouds import Clouds
from pipeline.simulation.granules import granule_grid
from pipeline.simulation.scene import Acquisition
from pipeline.simulation.stac_items import COLLECTION
from spex_core.checkpoints import DEFAULT_CHECKPOINT

QUICK_SIZE_PX = 4096
MODEL_TILES = 48
"""Tiles that each process of the model alone computes at most; more give the same rate."""


@dataclass(frozen=True)
class ModelCost:
    """The forward passes of a whole plan."""

    wall_s: float
    cpu_s: float
    tiles: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SIZE_PX} px and one peer; under five minutes")
    parser.add_argument("--size", type=int, default=5488, help="side of the scene, px; a granule has 10980")
    parser.add_argument("--dates", type=int, default=2, help="scenes of the same place")
    parser.add_argument("--actors", type=int, default=cpu_count(), help="model actors, one thread each")
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="built-in name or folder")
    parser.add_argument("--peers", default="", help=f"all, none, or some of {','.join(PEERS)}")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="of the run file")
    parser.add_argument("--scene", type=Path, help="a simulated archive that is there already; --size then only names")
    parser.add_argument("--folder", type=Path, default=Path("out/benchmark"), help="archives are kept and used again")
    options = parser.parse_args(arguments)

    size = QUICK_SIZE_PX if options.quick else options.size
    archive = scene_archive(options.folder, size, options.dates, options.scene)
    run_file = options.folder.resolve() / "run.yaml"
    settings = run_settings(archive, options.actors, options.checkpoint, options.set)
    run_file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    output = options.folder.resolve() / "maps"
    shutil.rmtree(output, ignore_errors=True)

    model = model_alone(run_file, options.actors)
    ours = cost_of([sys.executable, "-m", "pipeline", "run", str(run_file), "--json"])
    result = json.loads(ours.output.splitlines()[-1])
    megapixels = mapped_megapixels(output)
    asked = options.peers or ("dask" if options.quick else "all")
    names = [] if asked == "none" else list(PEERS) if asked == "all" else asked.split(",")
    peers = {name: cost_of_peer(name, run_file, options.actors) for name in names if available(name)}

    print(f"{size} x {size} px, {options.dates} dates, {options.actors} actors, {settings['model']['checkpoint']}")
    print(f"{result['tiles']} tiles in {result['blocks']} blocks, {megapixels:.1f} Mpx mapped\n")
    (truth,) = (archive / "truth").glob("*.tif")
    (own_map,) = output.glob("*/*/landcover.tif")
    accuracies = {name: accuracy(run_file.parent / "peers" / f"{name}-landcover.tif", truth) for name in peers}
    print(f"{'':38} {'wall s':>8} {'CPU s':>8} {'CPU s/Mpx':>10} {'peak MB':>8} {'accuracy':>9}")
    print(_row("the model alone", model.wall_s, model.cpu_s, megapixels))
    print(_row("end to end", ours.wall_s, ours.cpu_s, megapixels, ours.peak_mb, accuracy(own_map, truth)))
    for name, cost in peers.items():
        title = f"peer: {PEERS[name].title}"
        print(_row(title, cost.wall_s, cost.cpu_s, megapixels, cost.peak_mb, accuracies[name]))
    for name in names:
        if name not in peers:
            print(f"peer: {PEERS[name].title}: not installed ({PEERS[name].needs})")
    print(f"\nCPU seconds of the run's {ours.processes} processes:")
    for kind, seconds in sorted(ours.cpu_s_by_kind.items(), key=lambda item: -item[1]):
        print(f"{kind:38} {'':8} {seconds:8.1f} {seconds / megapixels:10.2f}")
    print(json.dumps(headline(model, ours, peers, megapixels)))


def headline(model: ModelCost, ours: Cost, peers: dict[str, Cost], megapixels: float) -> dict[str, float]:
    """The ratios that a script reads."""
    found = {
        "overhead_cpu_s_per_mpx": (ours.cpu_s - model.cpu_s) / megapixels,
        "efficiency": model.wall_s / ours.wall_s,
        "mpx_per_cpu_s": megapixels / ours.cpu_s,
        "model_cpu_s_per_mpx": model.cpu_s / megapixels,
        "peak_rss_mb": ours.peak_mb,
        **{f"vs_{name}": cost.wall_s / ours.wall_s for name, cost in peers.items()},
        **{f"memory_vs_{name}": cost.peak_mb / ours.peak_mb for name, cost in peers.items()},
    }
    return {name: round(value, 4) for name, value in found.items()}


def scene_spec(size_px: int, dates: int) -> ArchiveSpec:
    """One granule of the demonstration's world, the whole of it to be mapped."""
    first, second = DEMO_SPEC.acquisitions
    acquisitions: list[Acquisition] = [first, second]
    for extra in range(dates - 2):
        clouds = Clouds(seed=50 + extra, level=-0.8, size_m=2400.0)
        when = second.datetime + dt.timedelta(days=5 * (extra + 1))
        acquisitions.append(dataclasses.replace(second, datetime=when, clouds=clouds))
    whole = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
    return ArchiveSpec(
        world=DEMO_SPEC.world,
        granules=granule_grid(32632, 600_000, 5_200_000, size_px=size_px, overlap_px=0),
        acquisitions=tuple(acquisitions[:dates]),
        regions=(SubRegionSpec("scene", "Scene", whole),),
    )


def scene_archive(folder: Path, size_px: int, dates: int, scene: Path | None = None) -> Path:
    """The archive that is mapped: ``scene`` if it is given, else the one kept in ``folder``, simulated if need be."""
    if scene is not None:
        return scene.resolve()
    kept = (folder / f"archive-{size_px}-{dates}").resolve()
    return simulated_archive(kept, scene_spec(size_px, dates), LogProgress())


def run_settings(archive: Path, actors: int, checkpoint: str, changes: Sequence[str]) -> dict[str, Any]:
    """The run file: every default of the product, apart from ``changes``."""
    settings: dict[str, Any] = {
        "name": "benchmark",
        "region": str(archive / "region.geojson"),
        "start": "2026-06-01",
        "end": "2026-12-31",
        "output": "maps",
        "source": {"provider": "earth-search", "url": str(archive / "catalog.json"), "collection": COLLECTION},
        "model": {"checkpoint": checkpoint},
        "compute": {"actors": actors},
    }
    for change in changes:
        name, _, value = change.partition("=")
        section, _, entry = name.partition(".")
        settings.setdefault(section, {})[entry] = yaml.safe_load(value)
    return settings


def model_alone(run_file: Path, processes: int) -> ModelCost:
    """Forward passes of the plan's tiles, in as many processes as there are actors, all at the same time."""
    plan = prepare(RunConfig.from_yaml(run_file)).plan
    tiles = sum(len(block.tiles) for zone in plan.zones for block in zone.blocks)
    command = [sys.executable, "-m", "benchmarks.model_alone", str(run_file), str(min(MODEL_TILES, tiles))]
    environment = {**os.environ, **worker_environment(1)}
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(processes)
    ]
    for process in running:
        _line(process)  # loaded and warm
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [json.loads(_line(process)) for process in running]
    for process in running:
        process.wait()
    done = sum(answer["tiles"] for answer in answers)
    wall_s = max(answer["wall_s"] for answer in answers) * tiles / done
    return ModelCost(wall_s, sum(answer["cpu_s"] for answer in answers) * tiles / done, tiles)


def mapped_megapixels(output: Path) -> float:
    """Pixels of the finished map that have a class, millions."""
    import numpy as np
    import rasterio

    total = 0
    for path in sorted(output.glob("*/*/landcover.tif")):
        with rasterio.open(path) as source:
            for _, window in source.block_windows(1):
                total += int(np.count_nonzero(source.read(1, window=window)))
    return total / 1e6


def accuracy(path: Path, truth: Path) -> float:
    """Share of the mapped pixels whose class is the true one; both files lie on one lattice."""
    import numpy as np
    import rasterio
    from rasterio.windows import from_bounds

    right = total = 0
    with rasterio.open(path) as found, rasterio.open(truth) as reference:
        for _, window in found.block_windows(1):
            codes = found.read(1, window=window)
            there = from_bounds(*found.window_bounds(window), reference.transform).round_offsets().round_lengths()
            expected = reference.read(1, window=there, boundless=True, fill_value=0)
            compared = (codes > 0) & (expected > 0)
            right += int(np.count_nonzero(compared & (codes == expected)))
            total += int(np.count_nonzero(compared))
    return right / max(total, 1)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args} said nothing and ended with {process.wait()}")
    return line


def _row(
    title: str,
    wall_s: float,
    cpu_s: float,
    megapixels: float,
    peak_mb: float | None = None,
    share_right: float | None = None,
) -> str:
    peak = "" if peak_mb is None else f"{peak_mb:8.0f}"
    right = "" if share_right is None else f"{share_right:9.4f}"
    return f"{title:38} {wall_s:8.1f} {cpu_s:8.1f} {cpu_s / megapixels:10.2f} {peak:8} {right}"


if __name__ == "__main__":
    main()
