"""Every scene is examined before it is believed: a few pixels are read, and verdicts go into the scenes.

What cannot be read now is no reason to refuse a scene: reading tells it later, and is checked again there.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from pipeline.errors import ReadError
from pipeline.imagery.agreement import Examined, compare_scenes
from pipeline.imagery.copy_examination import with_examined_copies
from pipeline.imagery.examination import Verdict, examine
from pipeline.imagery.sample_cache import forget_old_samples, keep_sample, kept_sample, sample_file
from pipeline.imagery.scene_sample import SceneSample, bands_to_sample, read_sample
from pipeline.records.scene import Scene
from pipeline.sources.hrefs import AssetDoor, local_path

REMOTE_SCENES = 8
"""Scenes that are examined at the same time where files are remote; most of their time is waiting."""
LOCAL_SCENES = 2
PATIENCE_S = 120.0
"""After so long no further scene is begun: their reading tells."""
FAILURES_OF_A_HOST = 3
"""Scenes in a row that a host does not serve before it is not asked again here."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examination:
    """What became of the scenes of a search."""

    scenes: tuple[Scene, ...]
    """Those that are used, as they are to be read, in their order."""
    set_aside: tuple[tuple[str, str], ...]
    """(scene id, reason), sorted."""


def examine_scenes(
    scenes: Sequence[Scene], door: AssetDoor | None = None, sampled: Callable[[], None] | None = None
) -> Examination:
    """Reads samples and judges; a scene whose files cannot be read now stays as it is.

    Args:
        scenes: Of a search.
        door: What may be opened; None: each file's own server.
        sampled: Is called after each scene.
    """
    reading = _Reading(door)
    remote = any(_is_remote(scene) for scene in scenes)
    threads = REMOTE_SCENES if remote else LOCAL_SCENES
    with ThreadPoolExecutor(threads, thread_name_prefix="examine") as pool:
        samples: list[SceneSample | None] = []
        for sample in pool.map(reading.sample, scenes):
            samples.append(sample)
            if sampled is not None:
                sampled()
    if reading.kept:
        forget_old_samples()
    unread = sum(sample is None for sample in samples)
    if unread:
        logger.info("%d of %d scenes could not be examined before reading", unread, len(scenes))
    examined = {
        index: Examined(examine(scene, sample), sample)
        for index, (scene, sample) in enumerate(zip(scenes, samples, strict=True))
        if sample is not None
    }
    verdicts = dict(zip(examined, compare_scenes(list(examined.values())), strict=True))
    believed = [index for index, verdict in verdicts.items() if not verdict.refused]

    def with_copies(index: int) -> Verdict:
        one = Examined(verdicts[index], examined[index].sample)
        return dataclasses.replace(verdicts[index], scene=with_examined_copies(one, reading.sample))

    with ThreadPoolExecutor(threads, thread_name_prefix="examine") as pool:
        verdicts |= zip(believed, pool.map(with_copies, believed), strict=True)
    used: list[Scene] = []
    aside: list[tuple[str, str]] = []
    for index, scene in enumerate(scenes):
        verdict = verdicts.get(index, Verdict(scene))
        if verdict.refused:
            aside.append((scene.id, f"its values cannot be believed: {verdict.refused}"))
        else:
            used.append(verdict.noted())
    return Examination(tuple(used), tuple(sorted(aside)))


def _is_remote(scene: Scene) -> bool:
    return any(local_path(asset.href) is None for asset in scene.assets.values())


class _Reading:
    """Samples of scenes for several threads."""

    def __init__(self, door: AssetDoor | None) -> None:
        self._door = door
        self._until = time.monotonic() + PATIENCE_S
        self._failures: dict[str, int] = {}
        self._lock = threading.Lock()
        self.kept = 0

    def sample(self, scene: Scene) -> SceneSample | None:
        """The sample, kept or read; None where it cannot be had."""
        names = bands_to_sample(scene)
        if not names:
            return None
        place = sample_file(scene)
        if place is not None:
            found = kept_sample(place, _is_remote(scene))
            if found is not None:
                return found
        host = urlsplit(scene.assets[names[0]].href).netloc if _is_remote(scene) else ""
        if time.monotonic() > self._until or self._failures.get(host, 0) >= FAILURES_OF_A_HOST:
            return None
        try:
            sample = read_sample(scene, self._door)
        except (ReadError, ArithmeticError) as error:
            logger.debug("scene %s is not examined: %s", scene.id, error)
            if host:
                with self._lock:
                    self._failures[host] = self._failures.get(host, 0) + 1
            return None
        with self._lock:
            self._failures[host] = 0
            self.kept += 1
        if place is not None and sample.lasting and sample.classes is not None and len(sample.bands) == len(names):
            keep_sample(sample, place)
        return sample
