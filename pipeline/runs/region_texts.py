"""The model's words for every sub-region, asked for once the map is published, and kept: a run that is repeated asks
nobody.

Some sub-regions at a time, by a rule, in as many threads of this process as the run has actors here. What goes wrong
here costs words and nothing of the map.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shapely.geometry.base import BaseGeometry

from pipeline.errors import StoreError
from pipeline.explain.region_words import (
    WORDS_VERSION,
    RegionQuestions,
    RegionWords,
    Spoken,
    questions_of,
    read_words,
    words_document,
    words_of,
)
from pipeline.explain.speaker import Speaker, load_speaker
from pipeline.explain.statistics import MapStatistics, RegionStatistics, ZoneLayers
from pipeline.explain.views import Depth
from pipeline.machine.processors import cpu_count
from pipeline.machine.progress import Progress
from pipeline.mapstore.store import RunStore
from pipeline.planning.rates import local_actors
from pipeline.runs.view_images import ViewImages
from spex_core.durable_files import open_own
from spex_core.errors import SpexError

if TYPE_CHECKING:
    from pipeline.planning.prepare import Prepared

ANSWERS_FILE = "words.jsonl"
"""In the run's folder: what was said of each sub-region, one line each."""
_CANNOT_SPEAK = (SpexError, RuntimeError, ValueError, LookupError)
"""Of reading, of a damaged checkpoint and of torch: the map is published already, and only words are lost."""


BATCH_REGIONS = 8
"""Sub-regions that are asked about together, in the order of the region file."""


@dataclass(frozen=True)
class _Batch:
    regions: tuple[RegionStatistics, ...]
    keys: tuple[str, ...]
    """Under which the words of each are kept."""


_Answer = tuple[list[RegionWords | None], list[tuple[RegionStatistics, Exception]]]
"""Words of each sub-region of a batch, and what is wrong with those that have none."""


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
        self._images = ViewImages(prepared, store)
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
        batches = self._batches(statistics.regions)
        said: dict[str, RegionWords] = {}
        self._progress.start("texts", len(statistics.regions), "sub-regions")
        new = [batch for batch in batches if not all(key in kept for key in batch.keys)]
        speaker = self._speaker() if new else None
        if new and speaker is None:
            return {}
        answers = self._ask(new, zones, speaker) if speaker is not None else iter(())
        for batch in batches:
            found = next(answers) if batch in new else [kept[key] for key in batch.keys]
            for region, words in zip(batch.regions, found, strict=True):
                if words is not None:
                    said[region.id] = words
                self._progress.advance()
        self._tell(statistics, said)
        return said

    def _batches(self, regions: Sequence[RegionStatistics]) -> list[_Batch]:
        """Always the same of one map: answers may depend, in their last bits, on what is asked beside."""
        found = []
        for first in range(0, len(regions), BATCH_REGIONS):
            together = tuple(regions[first : first + BATCH_REGIONS])
            decides = [self._decides(region) for region in together]
            key = hashlib.sha256(json.dumps(decides, sort_keys=True, default=list).encode()).hexdigest()[:32]
            found.append(_Batch(together, tuple(f"{key}-{place}" for place in range(len(together)))))
        return found

    def _ask(
        self, batches: Sequence[_Batch], zones: Sequence[ZoneLayers], speaker: Speaker
    ) -> Iterator[list[RegionWords | None]]:
        """Words of each batch in order. Each is the work of one thread: torch and numpy work outside the interpreter's
        lock. Only this thread writes."""
        threads = max(1, min(local_actors(self._prepared.config.compute), cpu_count(), len(batches)))
        areas = {area.id: area.geometry for area in self._prepared.region.subregions}
        pool = ThreadPoolExecutor(threads, thread_name_prefix="spex-texts")
        waiting: deque[tuple[_Batch, Future[_Answer]]] = deque()
        to_do = iter(batches)
        try:
            while True:
                for batch in itertools.islice(to_do, threads + 1 - len(waiting)):
                    waiting.append((batch, pool.submit(self._words, batch, areas, zones, speaker)))
                if not waiting:
                    return
                batch, answer = waiting.popleft()
                found, problems = answer.result()
                try:
                    if not problems:  # else it is asked again as a whole
                        self._keep(batch.keys, found)
                except StoreError as error:
                    problems = [(region, error) for region in batch.regions]
                for region, problem in problems:
                    self.problems.append(f"{region.name}: {problem}")
                    self._progress.say(f"no words of the model for {region.name}: {problem}")
                yield found
        finally:
            pool.shutdown(cancel_futures=True)

    def _words(
        self, batch: _Batch, areas: Mapping[str, BaseGeometry], zones: Sequence[ZoneLayers], speaker: Speaker
    ) -> _Answer:
        """Words of a batch, and the sub-regions for which there are none."""
        legend = self._prepared.legend
        asked: list[RegionQuestions] = []
        problems: list[tuple[RegionStatistics, Exception]] = []
        for region in batch.regions:
            try:
                asked.append(questions_of(region, areas[region.id], zones, legend, self._depth, speaker, self._images))
            except _CANNOT_SPEAK as error:
                problems.append((region, error))
        said: dict[str, RegionWords] = {}
        try:
            said = {q.region.id: words for q, words in zip(asked, words_of(asked, legend, speaker), strict=True)}
        except _CANNOT_SPEAK:
            for questions in asked:  # one by one: perhaps a single one is to blame
                try:
                    said[questions.region.id] = words_of([questions], legend, speaker)[0]
                except _CANNOT_SPEAK as error:
                    problems.append((questions.region, error))
        return [said.get(region.id) for region in batch.regions], problems

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

    def _decides(self, region: RegionStatistics) -> list[Any]:
        """Everything that decides what is said of a sub-region of this run, but its neighbours in the batch."""
        return [
            WORDS_VERSION,
            self._depth,
            self._prepared.fingerprint,
            self._prepared.legend.to_dict(),
            region.id,
            region.geometry,
            [(c.code, c.pixels) for c in region.classes],
        ]

    def _keep(self, keys: Sequence[str], said: Sequence[RegionWords | None]) -> None:
        path = self._store.folder / ANSWERS_FILE
        lines = [
            json.dumps({"key": key, "words": words_document(words)}, allow_nan=False)
            for key, words in zip(keys, said, strict=True)
            if words is not None
        ]
        try:
            with open_own(path, "ab") as file:
                # On lines of their own, whatever a full disk has left before them.
                file.write("".join(f"\n{line}\n" for line in lines).encode())
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
