"""Real Ray nodes on this machine, killed in the middle of a run; the map must be the undisturbed one, byte for byte.

Each trial starts worker nodes beside a head that holds only the driver (``ray.cluster_utils.Cluster``), maps a small
simulated scene with slow readers, actors and finishers, and at drawn moments kills a process or takes a node away, with
all that it holds. ``python -m tests.faults.real_machines --trials 60`` prints one line per trial and a summary.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from pipeline.engine.cluster import Cluster as Size
from pipeline.engine.cluster import worker_environment
from pipeline.engine.crew import CrewSize
from pipeline.engine.driver import Engine
from pipeline.engine.io_workers import IoWorker
from pipeline.engine.ray_executor import RayExecutor
from pipeline.engine.tasks import BlockReport, ReadLayers
from pipeline.machine.progress import LogProgress
from pipeline.mapstore.layers import LAYERS
from pipeline.mapstore.store import RunStore
from pipeline.planning.prepare import prepare
from pipeline.predict.classifier import BlockClassifier
from pipeline.records.plan import Block
from pipeline.runs.map_region import zone_contexts
from tests.conftest import tiny_config

NODES = 3
SLOW_S = 0.25
"""Each call takes so much longer, so that there is something to hit."""
WAIT_S = 8.0
"""How long a blow waits for somebody at the work that it is meant for."""


class SlowClassifier(BlockClassifier):
    """An actor that takes its time."""

    def classify(self, zone: int, block: Block, targets: tuple[int, ...], reflectance: Any) -> Any:
        time.sleep(SLOW_S)
        return super().classify(zone, block, targets, reflectance)


class SlowIoWorker(IoWorker):
    """A reader and finisher that takes its time."""

    def read(self, zone: int, block: Block) -> Any:
        time.sleep(SLOW_S)
        return super().read(zone, block)

    def finish(self, zone: int, block: Block, layers: ReadLayers, *pieces: Any) -> BlockReport:
        time.sleep(SLOW_S)
        return super().finish(zone, block, layers, *pieces)


class Machines:
    """A Ray cluster of real nodes (raylets with stores and workers of their own) on this machine."""

    def __init__(self) -> None:
        os.environ.setdefault("RAY_health_check_timeout_ms", "2000")
        os.environ.setdefault("RAY_health_check_period_ms", "1000")
        os.environ.setdefault("RAY_health_check_failure_threshold", "3")
        import ray
        from ray.cluster_utils import Cluster

        root = str(Path(__file__).resolve().parents[2])
        environment = worker_environment(1) | {"PYTHONPATH": root}
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "object_store_memory": 200 * 2**20, "include_dashboard": False},
        )
        self.nodes: list[Any] = []
        self.fill()
        ray.init(
            address=self._cluster.address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": environment},
        )

    def fill(self) -> None:
        """Nodes that went are replaced, as a spot fleet does."""
        self.nodes = [node for node in self.nodes if node.any_processes_alive()]
        # A node wants to handle SIGTERM, which only the main thread may; blows fall from another one.
        with mock.patch("ray._private.utils.set_sigterm_handler"):
            while len(self.nodes) < NODES:
                self.nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=150 * 2**20))

    def remove(self, draw: random.Random) -> str:
        """A node goes without a word."""
        node = draw.choice(self.nodes)
        self._cluster.remove_node(node, allow_graceful=False)
        return "node removed"

    def kill_raylet(self, draw: random.Random) -> str:
        """The raylet of a node is killed; its workers follow."""
        node = draw.choice(self.nodes)
        for info in node.all_processes["raylet"]:
            os.kill(info.process.pid, signal.SIGKILL)
        return "raylet killed"

    def kill_worker(self, draw: random.Random) -> str:
        """A process at work is killed, as the kernel does when memory is short; which kind of work is drawn first."""
        kind = draw.choice(("SlowClassifier.classify", "SlowIoWorker.read", "SlowIoWorker.finish"))
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            for process in psutil.Process().children(recursive=True):
                # Ray names a process after the call that it runs.
                if " ".join(_command(process)).startswith(f"ray::{kind}"):
                    os.kill(process.pid, signal.SIGKILL)
                    return f"{kind} killed"
            time.sleep(0.05)
        return f"nobody was at {kind}"

    def close(self) -> None:
        import ray

        ray.shutdown()
        self._cluster.shutdown()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@dataclass(frozen=True)
class Trial:
    """What one disturbed run came to."""

    number: int
    faults: tuple[str, ...]
    seconds: float
    same: bool
    finished: int
    failed: int
    digest: str


def archive(folder: Path) -> Path:
    """One clear date of a granule of 512 px: 16 blocks of 128 px whose pieces live in the nodes' object stores."""
    from pipeline.simulation import DEMO_SPEC, ArchiveSpec, write_archive
    from pipeline.simulation.clouds import Clouds
    from pipeline.simulation.granules import granule_grid
    from pipeline.simulation.scene import Acquisition

    clear = Clouds(seed=1, level=-9.0, cirrus=-9.0)
    spec = ArchiveSpec(
        world=DEMO_SPEC.world,
        granules=granule_grid(32632, 640_000, 5_150_000, size_px=512, overlap_px=32),
        acquisitions=(
            Acquisition(dt.datetime(2026, 6, 18, 10, 15, 59, tzinfo=dt.UTC), dataclasses.replace(clear, seed=6)),
        ),
    )
    return write_archive(folder, spec, str(folder)).folder


def mapped(source: Path, output: Path, strike: Callable[[], None] | None = None) -> tuple[str, int, int]:
    """Maps the archive; digest over all layers, blocks finished and failed."""

    prepared = prepare(tiny_config(source, output, compute={"actors": 2, "attempts": 6, "answer_within_s": 120}))
    store = RunStore.create(output / "state", prepared.plan, prepared.legend)
    size = Size(CrewSize(2, 2), 2, False, "test")
    executor = RayExecutor(
        prepared.plan,
        prepared.config,
        prepared.legend,
        zone_contexts(prepared, store),
        size.readers,
        actor_class=SlowClassifier,
        io_class=SlowIoWorker,
    )
    thread = threading.Thread(target=strike, daemon=True) if strike else None
    with store.journal_writer() as journal:
        engine = Engine(
            prepared.plan,
            prepared.config,
            prepared.legend,
            size.crew,
            size.readers,
            executor,
            journal,
            LogProgress(),
            frozenset(),
        )
        if thread:
            thread.start()
        report = engine.run()
    if thread:
        thread.join()
    zone = store.zone(32632)
    digest = hashlib.sha256(b"".join(zone.read(layer).tobytes() for layer in LAYERS)).hexdigest()
    return digest, report.finished, len(report.failed)


def trial(number: int, machines: Machines, source: Path, folder: Path, expected: str) -> Trial:
    """One run, disturbed once to three times."""
    draw = random.Random(number)
    kinds: list[Callable[[random.Random], str]] = [
        machines.remove,
        machines.kill_raylet,
        machines.kill_worker,
        machines.kill_worker,
    ]
    faults: list[str] = []

    def strike() -> None:
        for _ in range(draw.choice((1, 1, 2, 3))):
            time.sleep(draw.uniform(0.3, 6.0))
            faults.append(draw.choice(kinds)(draw))
            machines.fill()

    begun = time.monotonic()
    digest, finished, failed = mapped(source, folder / f"trial-{number}", strike)
    machines.fill()
    seconds = time.monotonic() - begun
    return Trial(number, tuple(faults), seconds, digest == expected, finished, failed, digest)


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs on real Ray nodes that are killed.")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    happened: Counter[str] = Counter()
    bad = 0
    with tempfile.TemporaryDirectory(prefix="spex-machines-") as name:
        folder = Path(name)
        source = archive(folder / "archive")
        machines = Machines()
        try:
            expected, finished, _ = mapped(source, folder / "undisturbed")
            print(f"undisturbed: {finished} blocks, {expected[:16]}", flush=True)
            for number in range(arguments.first, arguments.first + arguments.trials):
                try:
                    found = trial(number, machines, source, folder, expected)
                except Exception as error:
                    bad += 1
                    print(f"trial {number}: {type(error).__name__}: {error}", flush=True)
                    machines.fill()
                    continue
                happened.update(found.faults)
                bad += not found.same or bool(found.failed)
                verdict = "same bytes" if found.same else f"OTHER BYTES {found.digest[:16]}"
                print(
                    f"trial {number}: {', '.join(found.faults)}: {found.finished} blocks, {found.failed} failed, "
                    f"{verdict}, {found.seconds:.0f} s",
                    flush=True,
                )
        finally:
            machines.close()
    print(json.dumps({"trials": arguments.trials, "bad": bad, "faults": dict(happened)}))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
