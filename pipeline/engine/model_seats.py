"""Seats for model actors: on one machine's cores several share a process, each with a thread of its own.

torch takes two CPU seconds and a hundred megabytes to be there, Ray another second, and most of both is the same in
every process. torch works outside the interpreter's lock, so threads lose nothing by it. A block that kills its process
takes those along that run beside it; they are tried again, and from the first death on every seat has a process of its
own, so that no block is ever given up for what another one does.

The threads of a process take its calls in the order of asking, whoever's seat they were sent to: a second call of one
seat may be worked on beside the first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.engine.crew import CrewSize
from pipeline.settings.model import INDEX_RULES
from pipeline.settings.run_file import RunConfig
from spex_core.checkpoints import resolve_checkpoint
from spex_core.errors import CheckpointError

MOST = 4
"""Seats of one process: beyond, the Python between the model's steps would wait for the lock."""


@dataclass(eq=False)
class Host:
    """A process with a model."""

    handle: Any
    """Of Ray."""
    free: int
    """Seats that nobody has."""
    ended: bool = False


@dataclass(eq=False)
class Seat:
    """A model actor, as the crew knows it."""

    host: Host


def seats_per_process(config: RunConfig, crew: CrewSize, *, local: bool) -> int:
    """How many model actors of a run may share a process.

    One, where actors come and go one by one (a cluster, ``min_actors``), where a death is not forgiven
    (``compute.attempts: 1``), with GPUs, and with models that ask questions tile by tile: tokenizers serve one thread.
    """
    compute, model = config.compute, config.model
    if not local or crew.least != crew.most or compute.attempts < 2 or compute.gpus_per_actor > 0:
        return 1
    if model.checkpoint == INDEX_RULES or model.compile == "on" or model.precision == "bfloat16":
        return 1
    try:
        text = (resolve_checkpoint(model.checkpoint) / "config.json").read_text(encoding="utf-8")
        asks_once = json.loads(text).get("masks_by_class_words") is True
    except (CheckpointError, OSError, ValueError, AttributeError):
        return 1  # the actor that loads it will tell
    return math.ceil(crew.most / math.ceil(crew.most / MOST)) if asks_once else 1


class Seats:
    """All seats of a run.

    Args:
        ray: The module.
        actor_class: :class:`~pipeline.predict.classifier.BlockClassifier` as a Ray actor class.
        settings: Reference of what each process is given.
        options: Of Ray for the process of one seat.
        most: Seats of one process.
    """

    def __init__(self, ray: Any, actor_class: Any, settings: Any, options: Mapping[str, Any], most: int) -> None:
        self._ray, self._actor_class, self._settings = ray, actor_class, settings
        self._options, self._most = dict(options), most
        self._hosts: list[Host] = []

    def take(self) -> Seat:
        """A seat in a process that has one, or in a new one."""
        host = next((host for host in self._hosts if host.free), None) or self._start()
        host.free -= 1
        return Seat(host)

    def handle(self, seat: Seat) -> Any:
        """The process of a seat, as Ray knows it: another one, if its own has ended because of a neighbour."""
        if seat.host.ended:
            seat.host = self.take().host
        return seat.host.handle

    def end(self, seat: Seat) -> None:
        """Ends the process of a seat; whoever had another seat there is given a new one when it is asked for."""
        host = seat.host
        if not host.ended:
            host.ended, host.free, self._most = True, 0, 1
            self._hosts.remove(host)
            self._ray.kill(host.handle)

    def _start(self) -> Host:
        options = dict(self._options)
        if self._most > 1:
            options |= {"num_cpus": options["num_cpus"] * self._most, "max_concurrency": self._most}
        host = Host(self._actor_class.options(**options).remote(self._settings), self._most)
        self._hosts.append(host)
        return host
