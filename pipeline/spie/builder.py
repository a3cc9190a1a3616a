"""Builds a data set: survey of the labels, stratified sample, chips, shards, index, data card; resumed after a kill.

Everything that is decided is decided in one order, whoever reads how fast; so a build that was killed and goes on ends
with the same bytes as one that was not, and a finished one costs nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import BadInputError, NoChipsError, OutputError, ReadError, ShardError
from pipeline.machine.own_files import folder_lock, own_folder
from pipeline.machine.progress import Progress
from pipeline.planning.software import software_versions
from pipeline.spie import datacard
from pipeline.spie.chip import chip_members, encode_reflectance
from pipeline.spie.config import SpieConfig
from pipeline.spie.sampling import Place, Split, sampling_order, split_cells, without_leaks
from pipeline.spie.shards import INDEX_FILE, ChipIndex, ShardEntry, ShardWriter, read_index, write_index
from pipeline.spie.sites import lonlat_bounds
from pipeline.spie.sources import local_pairs, open_sites
from pipeline.spie.state import STATE_FOLDER, RecordLog
from pipeline.spie.survey import LATER, MAX_UNREADABLE, Spot, survey
from spex_core.bands import SENTINEL2_BANDS
from spex_core.durable_files import DRAFT_MARK
from spex_core.legend import Legend

logger = logging.getLogger(__name__)

SOFTWARE = ("numpy", "scipy", "scikit-image", "rasterio", "spex-landcover", "GDAL")
"""What can change a chip, of the table in :mod:`pipeline.planning.software`."""
EXIT_INCOMPLETE = 3
UNREADABLE = "unreadable"
"""Beginning of the reason of a chip that could not be read."""


@dataclass(frozen=True)
class BuildResult:
    """A finished data set."""

    output: Path
    build_id: str
    chips: dict[str, int]
    """Split → chips."""
    shards: int
    pixels: dict[str, int]
    """Class name → labelled pixels."""
    incomplete: bool
    """Something could not be read."""
    reused: bool
    """It was there already."""

    @property
    def exit_code(self) -> int:
        """0, or 3 if something could not be read."""
        return EXIT_INCOMPLETE if self.incomplete else 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**asdict(self), "output": str(self.output)}


@dataclass(frozen=True)
class _Chip:
    """A chip that was read and found good, or why not."""

    reason: str = ""
    facts: Mapping[str, Any] | None = None
    members: Mapping[str, bytes] | None = None
    unread: tuple[str, ...] = ()


def build(config: SpieConfig, progress: Progress) -> BuildResult:
    """Builds the data set below ``config.output``, or finishes it.

    Args:
        config: The file of the data set.
        progress: Where progress is told.

    Raises:
        BadInputError: Something that the user gave is wrong, or no chip passes the limits.
        CatalogError: A catalog does not answer.
        OutputError: The folder holds another data set, or cannot be written.
    """
    legend = Legend.from_yaml(config.legend)
    build_id = _build_id(config, legend)
    with folder_lock(config.output, STATE_FOLDER), progress:
        earlier = _finished(config, build_id)
        if earlier is not None:
            progress.say("everything is there already: nothing to do")
            return earlier
        state = own_folder(config.output, STATE_FOLDER, build_id)
        progress.say(f"data set {config.name}, build {build_id}: looking for scenes and labels")
        sites = open_sites(config, legend, state / "sources.json")
        with (
            contextlib.closing(RecordLog(state / "survey.jsonl")) as survey_log,
            contextlib.closing(RecordLog(state / "chips.jsonl")) as chip_log,
            ThreadPoolExecutor(config.readers) as pool,
        ):
            try:
                # Labels that could not be read are tried again as long as no chip has been decided.
                spots, unread = survey(config, sites, survey_log, pool, progress, retry=not chip_log.records)
                builder = _Builder(config, legend, chip_log, pool, progress)
                builder.run(spots)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return builder.publish(build_id, unread)


def _build_id(config: SpieConfig, legend: Legend) -> str:
    regions = []
    for area in config.areas:
        try:
            regions.append(hashlib.sha256(area.region.read_bytes()).hexdigest())
        except OSError as error:
            raise BadInputError(f"region file {area.region} cannot be read: {error.strerror or error}") from error
    files = [file.stat() for _, image, label in local_pairs(config) for file in (image, label)]
    installed = software_versions()
    return config.fingerprint(
        legend=legend.digest(),
        regions=regions,
        files=[(stat.st_size, stat.st_mtime_ns) for stat in files],
        software={name: installed[name] for name in SOFTWARE},
    )


def _finished(config: SpieConfig, build_id: str) -> BuildResult | None:
    """The result of an earlier build of the same data set, if all of it is there."""
    output = config.output
    if not (output / INDEX_FILE).exists():
        return None
    try:
        index = read_index(output)
    except ShardError:
        index = None
    if index is not None and index.build != build_id:
        raise OutputError(
            f"{output} holds another data set (build {index.build}; settings, inputs or software have changed): "
            "give another --output, or remove it"
        )
    card = datacard.read(output)
    if index is None or card is None or any(not _is_whole(output, shard) for shard in index.shards):
        return None
    return _result(output, index, card, reused=True)


def _is_whole(output: Path, shard: ShardEntry) -> bool:
    path = output / shard.name
    return path.is_file() and path.stat().st_size == shard.size


def _result(output: Path, index: ChipIndex, card: Mapping[str, Any], *, reused: bool) -> BuildResult:
    return BuildResult(
        output=output,
        build_id=index.build,
        chips={name: int(split["chips"]) for name, split in card["splits"].items()},
        shards=len(index.shards),
        pixels=dict(card["pixels"]),
        incomplete=index.incomplete,
        reused=reused,
    )


# --- chips ----------------------------------------------------------------------------------------------------------


class _Builder:
    """Reads chips in the order of the sample and writes those that pass, each split into its own shards."""

    def __init__(
        self, config: SpieConfig, legend: Legend, log: RecordLog, pool: ThreadPoolExecutor, progress: Progress
    ) -> None:
        self._config, self._legend, self._log, self._pool, self._progress = config, legend, log, pool, progress
        self._verdicts = {record["key"]: record for record in log.records if "key" in record}
        entries = [ShardEntry.model_validate_json(json.dumps(r["shard"])) for r in log.records if "shard" in r]
        self._shards = {entry.name: entry for entry in entries if _is_whole(config.output, entry)}
        self._writers: dict[Split, ShardWriter] = {}
        self._counts: Counter[Split] = Counter()
        self._tried: list[dict[str, Any]] = []
        self._unreadable: list[dict[str, Any]] = []
        """Verdicts that are not settled yet: they count once a later chip could be read."""
        for leftover in config.output.glob(f".*{DRAFT_MARK}.tar"):
            leftover.unlink(missing_ok=True)

    def run(self, spots: list[Spot]) -> None:
        """Tries places until every stratum is full or used up.

        Raises:
            NoChipsError: No chip passes.
        """
        config = self._config
        area = config.chips.size_px**2
        usable = {s.place.key: s for s in spots if s.place.labelled >= max(config.chips.min_labelled * area, 1)}
        if not usable:
            raise NoChipsError(
                f"none of {len(spots)} places has labels on {config.chips.min_labelled:.0%} of its pixels; check the "
                "label codes, or lower chips.min_labelled"
            )
        places = [spot.place for spot in usable.values()]
        splits = split_cells(places, config.validation, config.seed)
        places = without_leaks(places, splits)
        order = sampling_order(places, config.seed, config.chips.presence)
        wanted = sum(min(len(members), config.chips.per_stratum) for members in order.values())
        self._progress.start("chips", wanted, "chips")
        try:
            for stratum, place, job in self._attempts(order, usable):
                self._settle(stratum, place, splits[place.cell], usable[place.key], job)
            self._settle_unreadable()
            for split in sorted(self._writers):
                self._close(split)
        finally:
            for writer in self._writers.values():
                writer.abandon()
        if not self._shards:
            reasons = Counter(str(record["reason"]).partition(":")[0] for record in self._tried)
            raise NoChipsError(
                f"none of {len(places)} chips passes the limits ({_counted(reasons)}); widen the dates, or change "
                "chips.max_cloud or chips.min_labelled"
            )

    def _attempts(
        self, order: Mapping[int, list[Place]], spots: Mapping[str, Spot]
    ) -> Iterator[tuple[int, Place, Future[_Chip] | None]]:
        """Rounds in which every stratum that is not full tries one place; the chips of a round are read together."""
        queues = {stratum: deque(members) for stratum, members in order.items()}
        self._taken: Counter[int] = Counter()
        finished = {chip.key for shard in self._shards.values() for chip in shard.chips}
        while True:
            batch: list[tuple[int, Place, Future[_Chip] | None]] = []
            for stratum, queue in queues.items():
                if not queue or self._taken[stratum] >= self._config.chips.per_stratum:
                    continue
                place = queue.popleft()
                verdict = self._verdicts.get(place.key)
                settled = verdict is not None and (not verdict["accepted"] or place.key in finished)
                job = None if settled else self._pool.submit(self._make, stratum, spots[place.key])
                batch.append((stratum, place, job))
            if not batch:
                return
            yield from batch

    def _make(self, stratum: int, spot: Spot) -> _Chip:
        """Reads one chip; runs in a thread."""
        config, place = self._config, spot.place
        try:
            codes, files = spot.site.read_labels(spot.window)
            imagery = spot.site.read_imagery(spot.window)
        except ReadError as error:
            return _Chip(reason=f"{UNREADABLE}: {error}")
        labelled = codes != self._legend.nodata
        seen = labelled & imagery.observed
        cloud = 1.0 - float(seen.sum()) / max(int(labelled.sum()), 1)
        if cloud > config.chips.max_cloud:
            return _Chip(reason="clouds")
        if seen.mean() < config.chips.min_labelled or not seen.any():
            return _Chip(reason="labels")
        values, counts = np.unique(codes[seen], return_counts=True)
        facts = {
            "source": {
                "collection": spot.site.collection,
                "items": list(imagery.items),
                "unread": list(imagery.unread),
                "labels": {"collection": spot.site.labels.collection, "items": [file.id for file in files]},
            },
            "licence": {"imagery": spot.site.licence, "labels": sorted({file.licence for file in files})},
            "dates": list(imagery.dates),
            "label_dates": sorted({file.date for file in files if file.date}),
            "epsg": place.epsg,
            "bounds": list(place.bounds),
            "bounds_lonlat": list(lonlat_bounds(place)),
            "resolution_m": spot.site.grid.resolution_m,
            "bands": list(SENTINEL2_BANDS),
            "cell": place.cell,
            "stratum": stratum,
            "cloud_share": round(cloud, 4),
            "pixels": {str(code): int(count) for code, count in zip(values, counts, strict=True)},
        }
        stored = encode_reflectance(imagery.reflectance)
        members = chip_members(place.key, stored, codes, imagery.observed, self._legend, facts, config.seed)
        return _Chip(facts=facts, members=members, unread=imagery.unread)

    def _settle(self, stratum: int, place: Place, split: Split, spot: Spot, job: Future[_Chip] | None) -> None:
        """Takes or leaves one chip, in the order of the sample."""
        verdict = self._verdicts.get(place.key)
        chip = job.result() if job is not None else None
        if verdict is None:
            assert chip is not None
            verdict = {"key": place.key, "accepted": chip.members is not None}
            verdict |= {"split": split, "facts": chip.facts} if chip.members else {"reason": chip.reason}
            self._record(verdict)
        elif chip is not None and chip.members is None:
            raise ReadError(f"chip {place.key} was good before and is not now ({chip.reason}); run the command again")
        self._tried.append(verdict)
        if not verdict["accepted"]:
            return
        self._taken[stratum] += 1
        number = self._counts[split] // self._config.chips_per_shard
        self._counts[split] += 1
        name = f"{split}-{number:06d}.tar"
        if name not in self._shards:
            if chip is None or chip.members is None:  # its chips were in a shard of that name, which is not whole
                chip = self._make(stratum, spot)
            if chip.members is None:
                raise ReadError(f"chip {place.key} was good before and is not now ({chip.reason})")
            if split not in self._writers:
                self._writers[split] = ShardWriter(self._config.output / name)
            self._writers[split].add(place.key, chip.members)
            if self._counts[split] % self._config.chips_per_shard == 0:
                self._close(split)
        self._progress.advance()

    def _record(self, verdict: dict[str, Any]) -> None:
        if str(verdict.get("reason", "")).startswith(UNREADABLE):
            self._unreadable.append(verdict)
            if len(self._unreadable) == MAX_UNREADABLE:
                raise ReadError(f"{MAX_UNREADABLE} chips in a row are {verdict['reason']}; {LATER}")
            return
        self._settle_unreadable()
        self._log.append(verdict, durable=False)

    def _settle_unreadable(self) -> None:
        for verdict in self._unreadable:
            self._log.append(verdict, durable=False)
        self._unreadable.clear()

    def _close(self, split: Split) -> None:
        entry = self._writers.pop(split).finish(split)
        self._shards[entry.name] = entry
        self._log.append({"shard": entry.model_dump(mode="json")})

    def publish(self, build_id: str, unread_labels: list[str]) -> BuildResult:
        """Writes data card and index; the index makes the data set complete."""
        config, legend = self._config, self._legend
        shards = tuple(self._shards[name] for name in sorted(self._shards))
        problems = [
            *unread_labels,
            *(f"{r['key']}: {r['reason']}" for r in self._tried if str(r.get("reason", "")).startswith(UNREADABLE)),
            *(
                f"{r['key']}: made without scene {item}, which could not be read"
                for r in self._tried
                if r["accepted"]
                for item in r["facts"]["source"]["unread"]
            ),
        ]
        for problem in problems:
            logger.warning("%s", problem)
        self._remove_strays(build_id)
        index = ChipIndex(
            build=build_id,
            size_px=config.chips.size_px,
            bands=SENTINEL2_BANDS,
            legend=legend.to_dict(),
            incomplete=bool(problems),
            shards=shards,
        )
        card = datacard.datacard(config, legend, index, self._tried, problems)
        datacard.write(config.output, card)
        write_index(config.output, index)
        return _result(config.output, index, card, reused=False)

    def _remove_strays(self, build_id: str) -> None:
        """Shards of a build with other settings that was never finished here."""
        output = self._config.output
        for folder in (output / STATE_FOLDER).iterdir():
            if folder.name != build_id and not folder.is_symlink() and (folder / "chips.jsonl").is_file():
                with contextlib.closing(RecordLog(folder / "chips.jsonl")) as log:
                    names = {
                        ShardEntry.model_validate_json(json.dumps(r["shard"])).name for r in log.records if "shard" in r
                    }
                for name in names - self._shards.keys():
                    (output / name).unlink(missing_ok=True)


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
