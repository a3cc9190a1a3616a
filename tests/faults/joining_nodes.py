"""A run on a real Ray cluster that has no node for an actor at first, and gets one, then another in mid-run.

The nodes are raylets of their own on this machine (``ray.cluster_utils.Cluster``), beside a head that holds only the
driver. ``python -m tests.faults.joining_nodes`` prints one JSON object: who worked where, and whether the map is
the one of an undisturbed run.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline.engine import crew, driver
from pipeline.engine.cluster import crew_size, worker_environment
from pipeline.engine.driver import Engine
from pipeline.engine.executor import ClassifyAnswer, ReadAnswer
from pipeline.engine.ray_executor import RayExecutor
from pipeline.machine.progress import LogProgress
from pipeline.mapstore.layers import LAYERS
from pipeline.mapstore.store import RunStore
from pipeline.planning.prepare import prepare
from pipeline.predict.classifier import BlockClassifier
from pipeline.records.plan import Block
from pipeline.runs.map_region import zone_contexts
from tests.conftest import tiny_config
from tests.faults.real_machines import archive

SLOW_S = 3.0
"""Each classification takes so much longer: a node and its processes take a while to start."""


class Placed(BlockClassifier):
    """Says where it lives."""

    def place(self) -> str:
        import ray

        node: str = ray.get_runtime_context().get_node_id()
        return node


class Slow(Placed):
    """Takes its time."""

    def classify(self, zone: int, block: Block, targets: tuple[int, ...], reflectance: Any) -> Any:
        time.sleep(SLOW_S)
        return super().classify(zone, block, targets, reflectance)


class Watched(RayExecutor):
    """Remembers which processes were given work."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.given: dict[str, list[Any]] = {"classify": [], "read": []}

    def classify(self, actor: Any, zone: int, block: Block, targets: tuple[int, ...], pixels: Any) -> ClassifyAnswer:
        self.given["classify"].append(actor.place.remote())
        return super().classify(actor, zone, block, targets, pixels)

    def read(self, zone: int, block: Block) -> ReadAnswer:
        self.given["read"].append(self._io.next("read").place.remote())
        return super().read(zone, block)

    def places(self, kind: str) -> dict[str, int]:
        """Node -> calls."""
        return dict(Counter(self._ray.get(self.given[kind], timeout=60)))


class Telling(LogProgress):
    """Keeps what people are told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def say(self, text: str) -> None:
        self.told.append(text)


class Nodes:
    """A head without cores, and nodes that join."""

    def __init__(self) -> None:
        import ray
        from ray.cluster_utils import Cluster

        self.ray: Any = ray
        head = {"num_cpus": 0, "object_store_memory": 200 * 2**20, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        environment = worker_environment(1) | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        ray.init(
            address=self._cluster.address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": environment},
        )

    def resources(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def join(self) -> str:
        """Adds a node of one core; its id."""
        with mock.patch("ray._private.utils.set_sigterm_handler"):  # only the main thread may set one
            node = self._cluster.add_node(num_cpus=1, object_store_memory=150 * 2**20)
        identity: str = node.unique_id if not hasattr(node, "node_id") else node.node_id
        return identity

    def close(self) -> None:
        self.ray.shutdown()
        self._cluster.shutdown()


def mapped(nodes: Nodes, source: Path, output: Path, actor: Any, join: Any = None, **compute: Any) -> dict[str, Any]:
    """Maps the archive; ``join`` is called in a thread, with a function that counts the blocks written."""
    config = tiny_config(source, output, compute={"attempts": 6, "answer_within_s": 300, **compute})
    prepared = prepare(config)
    store = RunStore.create(output / "state", prepared.plan, prepared.legend)
    size = crew_size(config.compute, nodes.resources(), local=False)
    contexts, progress = zone_contexts(prepared, store), Telling()
    executor = Watched(prepared.plan, config, prepared.legend, contexts, size.most, actor_class=actor)
    thread = threading.Thread(target=join, args=(lambda: len(store.finished_blocks()),), daemon=True)
    with store.journal_writer() as journal:
        engine = Engine(
            prepared.plan, config, prepared.legend, size, size.most, executor, journal, progress, frozenset()
        )
        if join is not None:
            thread.start()
        report = engine.run()
    layers = b"".join(store.zone(32632).read(layer).tobytes() for layer in LAYERS)
    return {
        "digest": hashlib.sha256(layers).hexdigest(),
        "finished": report.finished,
        "failed": len(report.failed),
        "classified": executor.places("classify"),
        "read": executor.places("read"),
        "told": [text for text in progress.told if text.startswith("waiting for machines")],
    }


def main() -> int:
    driver.LOOK_AGAIN_S, crew.TELL_WAITING_S = 1.0, 4.0
    joined: list[str] = []
    with tempfile.TemporaryDirectory(prefix="spex-nodes-") as name:
        folder = Path(name)
        source = archive(folder / "archive")
        nodes = Nodes()

        def join(written: Any) -> None:
            time.sleep(10.0)
            joined.append(nodes.join())
            while written() < 2:
                time.sleep(0.2)
            joined.append(nodes.join())
            threading.Event().wait()  # a node ends with the thread that has started it

        try:
            grown = mapped(nodes, source, folder / "grown", Slow, join, max_actors=2)
            still = mapped(nodes, source, folder / "undisturbed", Placed, actors=1)
        finally:
            nodes.close()
    print(json.dumps({"same": grown["digest"] == still["digest"], "joined": joined, "grown": grown, "still": still}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
