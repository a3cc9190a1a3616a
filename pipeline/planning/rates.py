"""How fast runs went on this machine: what ``spex plan`` says of the next one's time.

Constants of an estimate are an order of magnitude: machines differ tenfold. So each local run that mapped enough leaves
three rates in the user's cache folder, under what decides them. What is missing, damaged or not ours is nothing known.
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import OutputError
from pipeline.machine.atomic_files import write_json
from pipeline.machine.processors import cpu_count
from pipeline.machine.user_cache import user_cache
from pipeline.records.plan import MapPlan
from pipeline.settings.model import device_kind
from pipeline.settings.run_file import ComputeConfig, RunConfig
from spex_core.durable_files import check_own

FILE = "rates.json"
KEPT = 100
"""Kinds of run that are remembered; the oldest is forgotten."""
LEAST_PIXELS = 1_000_000
"""A run that mapped less tells nothing of a larger one."""
WEIGHT = 0.5
"""Of the newest run; those before it make up the rest."""


@dataclass(frozen=True)
class RunKind:
    """What decides how fast a run is on one machine."""

    model: str
    """Fingerprint of the classifier."""
    explain: str
    device: str
    precision: str
    tile_px: int
    actors: int
    threads: int
    scenes: int
    """That a pixel is made from, at most."""
    clouds: str = "scl"
    """What masks them."""
    composite: str = "median"
    """What the model sees of them."""


@dataclass(frozen=True)
class Rates:
    """Of runs of one kind."""

    start_s: float
    """Until the first tile is given to a model."""
    pixels_per_s: float
    """From then on, until the last block is written."""
    publish_pixels_per_s: float

    def seconds(self, pixels: int) -> float:
        """Of a whole run."""
        return self.start_s + pixels / self.pixels_per_s + pixels / self.publish_pixels_per_s


def local_actors(compute: ComputeConfig) -> int:
    """Model actors of a run on this machine, as far as it is known before Ray is started: GPUs are not counted."""
    if compute.actors:
        return compute.actors
    if compute.max_actors and not compute.gpus_per_actor:
        return min(compute.max_actors, max(1, cpu_count() // compute.threads_per_actor))
    return 1 if compute.gpus_per_actor else max(1, cpu_count() // compute.threads_per_actor)


def run_kind(config: RunConfig, plan: MapPlan, fingerprint: str) -> RunKind:
    """The kind of a run.

    Args:
        config: Its settings.
        plan: Its plan.
        fingerprint: Of its classifier.
    """
    model = config.model
    return RunKind(
        model=fingerprint,
        explain=model.explain,
        device=device_kind(model, config.compute.gpus_per_actor),
        precision=f"{model.precision}, compile {model.compile}",
        tile_px=config.tiling.tile_px,
        actors=local_actors(config.compute),
        threads=config.compute.threads_per_actor,
        scenes=min(config.composite.max_observations, max((len(zone.scene_ids) for zone in plan.zones), default=0)),
        clouds=config.composite.cloud_mask,
        composite=config.composite.method,
    )


def known_rates(kind: RunKind) -> Rates | None:
    """What is known of runs of this kind; of those that differ in their number of scenes alone, the nearest."""
    wanted = asdict(kind)
    near = [
        (abs(int(entry["kind"]["scenes"]) - kind.scenes), _for_dates(rates, int(entry["kind"]["scenes"]), kind))
        for entry in _entries()
        if {**entry["kind"], "scenes": kind.scenes} == wanted and (rates := _rates(entry)) is not None
    ]
    return min(near, key=lambda found: found[0])[1] if near else None


def _for_dates(rates: Rates, scenes: int, kind: RunKind) -> Rates:
    """Where the model sees every date, its time grows with them."""
    if kind.composite != "fuse":
        return rates
    return replace(rates, pixels_per_s=rates.pixels_per_s * max(scenes, 1) / max(kind.scenes, 1))


def keep_rates(kind: RunKind, rates: Rates, pixels: int) -> None:
    """Remembers how fast a run was; where that cannot be written, nothing is lost.

    Args:
        kind: Of the run.
        rates: What was measured.
        pixels: How many it mapped.
    """
    if pixels < LEAST_PIXELS or not _usable(rates):
        return
    wanted, entries = asdict(kind), _entries()
    others = [entry for entry in entries if entry["kind"] != wanted]
    before = next((found for entry in entries if entry["kind"] == wanted and (found := _rates(entry))), rates)
    mixed = {name: WEIGHT * value + (1 - WEIGHT) * getattr(before, name) for name, value in asdict(rates).items()}
    with contextlib.suppress(OSError, OutputError):
        check_own(_path())
        write_json(_path(), [*others[-(KEPT - 1) :], {"kind": wanted, "rates": mixed}])


def _path() -> Path:
    folder = user_cache()
    if folder is None:
        raise FileNotFoundError("this process has no home folder")
    return folder / FILE


def _entries() -> list[dict[str, Any]]:
    """Entries of the file that have a kind."""
    try:
        check_own(_path())
        found = json.loads(_path().read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
    entries = found if isinstance(found, list) else []
    return [
        entry
        for entry in entries
        if isinstance(entry, dict)
        and isinstance(entry.get("kind"), dict)
        and isinstance(entry["kind"].get("scenes"), int)
    ]


def _rates(entry: dict[str, Any]) -> Rates | None:
    try:
        rates = Rates(**{name: float(value) for name, value in entry["rates"].items()})
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return rates if _usable(rates) else None


def _usable(rates: Rates) -> bool:
    values = asdict(rates).values()
    return (
        all(math.isfinite(value) and 0 <= value < 1e12 for value in values)
        and min(rates.pixels_per_s, rates.publish_pixels_per_s) >= 1.0
    )
