"""The model's words for every sub-region, asked for once the map is published, and kept: a run that is repeated asks
nobody.

One image at a time, on this process's CPU. What goes wrong here costs words and nothing of the map.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.explain.region_words import (
    WORDS_VERSION,
    FloatArray,
    RegionWords,
    Spoken,
    read_words,
    words_document,
    words_of,
)
from pipeline.explain.speaker import Speaker, load_speaker
from pipeline.explain.statistics import MapStatistics, RegionStatistics, ZoneLayers
from pipeline.explain.views import Depth
from pipeline.imagery.composite import read_composite
from pipeline.machine.progress import Progress
from pipeline.mapstore.store import RunStore
from pipeline.records.plan import Window
from pipeline.sources.catalog import asset_door
from spex_core.durable_files import open_own
from spex_core.errors import SpexError

if TYPE_CHECKING:
    from pipeline.planning.prepare import Prepared

ANSWERS_FILE = "words.jsonl"
"""In the run's folder: what was said of each sub-region, one line each."""
_CANNOT_SPEAK = (SpexError, RuntimeError, ValueError, LookupError)
"""Of reading, of a damaged checkpoint and of torch: the map is published already, and only words are lost."""


class RegionTexts:
    """Asks about the sub-regions of one run.

    Args:
        prepared: What was decided for the run.
        store: Its finished blocks.
        progress: Told of every sub-region.
        depth: ``model.explain``.
    """

    def __init__(self, prepared: Prepared, store: RunStore, progress: Progress, depth: Depth) -> None:
        self._prepared, self._store, self._progress, self._depth = prepared, store, progress, depth
        self.problems: list[str] = []
        """One line per sub-region that could not be asked about."""

    @classmethod
    def of(cls, prepared: Prepared, store: RunStore, progress: Progress) -> RegionTexts | None:
        """None if the run file asks for no words."""
        depth = prepared.config.model.explain
        return None if depth == "none" else cls(prepared, store, progress, depth)

    def __call__(self, statistics: MapStatistics, zones: Sequence[ZoneLayers]) -> Mapping[str, RegionWords]:
        """What the model says, by id of the sub-region; without those that could not be asked about."""
        kept = kept_words(self._store.folder / ANSWERS_FILE)
        keys = {region.id: self._key(region) for region in statistics.regions}
        speaker: Speaker | None = None
        said: dict[str, RegionWords] = {}
        areas = {area.id: area.geometry for area in self._prepared.region.subregions}
        self._progress.start("texts", len(statistics.regions), "sub-regions")
        for region in statistics.regions:
            if (known := kept.get(keys[region.id])) is not None:
                said[region.id] = known
                self._progress.advance()
                continue
            if speaker is None and (speaker := self._speaker()) is None:
                return {}
            try:
                words = words_of(
                    region, areas[region.id], zones, self._prepared.legend, self._depth, speaker, self._read
                )
                self._keep(keys[region.id], words)
                said[region.id] = words
            except _CANNOT_SPEAK as error:
                self.problems.append(f"{region.name}: {error}")
                self._progress.say(f"no words of the model for {region.name}: {error}")
            self._progress.advance()
        self._tell(statistics, said)
        return said

    def _speaker(self) -> Speaker | None:
        """What is asked; None where there is none, which is told."""
        try:
            found = load_speaker(self._prepared.config, self._depth)
        except _CANNOT_SPEAK as error:
            self.problems.append(str(error))
            found = str(error)
        if isinstance(found, str):
            self._progress.say(f"the model is asked for no words: {found}")
            return None
        return found

    def _tell(self, statistics: MapStatistics, said: Mapping[str, RegionWords]) -> None:
        found = Spoken.of([(region, said[region.id]) for region in statistics.regions if region.id in said])
        self._progress.say(
            f"in the model's words: {found.told_classes} of {found.classes} classes of sub-regions "
            f"({found.printed} of {found.sentences} sentences printed, "
            f"{found.supported:.0%} of {found.claims} claims hold)"
        )

    def _key(self, region: RegionStatistics) -> str:
        """Everything that decides what is said of a sub-region of this run."""
        decides = [
            WORDS_VERSION,
            self._depth,
            self._prepared.fingerprint,
            self._prepared.legend.to_dict(),
            region.id,
            region.geometry,
            [(c.code, c.pixels) for c in region.classes],
        ]
        return hashlib.sha256(json.dumps(decides, sort_keys=True, default=list).encode()).hexdigest()[:32]

    def _read(self, epsg: int, window: Window) -> FloatArray:
        prepared = self._prepared
        zone = next(zone for zone in prepared.plan.zones if zone.grid.epsg == epsg)
        wanted = set(zone.scene_ids)
        scenes = [scene for scene in prepared.plan.scenes if scene.id in wanted]
        composite = read_composite(
            scenes, zone.grid, window, prepared.config.composite, asset_door(prepared.config.source)
        )
        return np.asarray(composite.reflectance, np.float32)

    def _keep(self, key: str, words: RegionWords) -> None:
        path = self._store.folder / ANSWERS_FILE
        line = json.dumps({"key": key, "words": words_document(words)}, allow_nan=False)
        try:
            with open_own(path, "ab") as file:
                file.write(f"\n{line}\n".encode())  # on a line of its own, whatever a full disk has left before it
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error


def kept_words(path: Path) -> dict[str, RegionWords]:
    """What was kept, by key; lines that were cut off, or are of another version, are left out."""
    found: dict[str, RegionWords] = {}
    try:
        with open_own(path, "r+b", create=False) as file:
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines:
        with contextlib.suppress(ValueError, LookupError, TypeError):
            record: dict[str, Any] = json.loads(line)
            found[str(record["key"])] = read_words(record["words"])
    return found
