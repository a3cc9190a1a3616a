"""The run's own state on disk: plan, journal and a Zarr v3 store whose chunks are the plan's blocks.

Layout of ``.spex/<run id>/``::

    plan.json       the plan; its presence says that the store below is complete in structure
    journal.jsonl   what was finished, see pipeline.mapstore.journal
    scores.zarr/    one group per zone, named by its EPSG code, with the arrays of LAYERS

A block is exactly one chunk of each array and has one writer, so workers need no locks. Each chunk is written to a
temporary name and renamed (zarr's LocalStore), and flushed to disk here; a block counts as finished only by its journal
line, written after all its chunks, which carries the sha256 of what they hold.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import zarr
from zarr.errors import BaseZarrError

from pipeline.errors import OutputError, StoreError
from pipeline.machine.own_files import own_folder, refuse_strangers
from pipeline.mapstore.journal import BlockFinished, BlockKey, JournalState, JournalWriter, read_journal, replay
from pipeline.mapstore.layers import (
    LAYERS,
    PICTURE,
    SEEN,
    UNFAMILIAR,
    LayerName,
    cell_px,
    create_zone,
    metadata_digests,
    selection,
)
from pipeline.mapstore.refusal import write_error
from pipeline.mapstore.zone_store import UNREADABLE, ZoneStore
from pipeline.planning.plan_file import read_plan, stored_plan, write_plan
from pipeline.predict.stitch import BlockLayers
from pipeline.records.plan import Block, MapPlan
from spex_core.durable_files import flush, flush_folder, make_folder
from spex_core.legend import Legend

STORE_SCHEMA = 3
STATE_FOLDER = ".spex"
PLAN_FILE = "plan.json"
CLEANED_PLAN_FILE = "cleaned-plan.json"
"""What the plan of a finished run is called once its store was cleaned away."""
RESULT_FILE = "result.json"
"""Written last: the run's map is published."""
Check = Literal["none", "fast", "full"]


def run_folder(output: str | Path, run_id: str) -> Path:
    """Where the state of a run lives below its output folder."""
    return Path(output) / STATE_FOLDER / run_id


class RunStore:
    """One run's folder. Cheap to open and to send to a worker; holds no file open."""

    def __init__(self, folder: str | Path, plan: MapPlan) -> None:
        """Use :meth:`create` or :meth:`open`."""
        self.folder = Path(folder)
        self.plan = plan
        self._zones: dict[int, ZoneStore] = {}

    @classmethod
    def create(
        cls, folder: str | Path, plan: MapPlan, legend: Legend, *, unfamiliar: bool = False, seen: bool = False
    ) -> Self:
        """Makes the folder of a run, or reopens it if it belongs to the same plan.

        What may differ between two runs of one id (links, names, colours) is the newer one's; blocks stay.

        Args:
            folder: Of the run.
            plan: Its plan.
            legend: Classes of the map.
            unfamiliar: Whether blocks come with scores of how unlike the training they are.
            seen: Whether blocks come with what a model sees when it is to speak about them.

        Raises:
            StoreError: The folder holds another plan, or damaged state.
            OutputError: The folder cannot be written.
        """
        folder = Path(folder)
        store = cls(folder, plan)
        if folder.parent.name == STATE_FOLDER:
            own_folder(folder.parent.parent, STATE_FOLDER, folder.name)
        refuse_strangers(folder)
        if (folder / "plan.json").exists():
            _check_same(found := read_plan(folder / "plan.json"), plan, folder)
            store._check_structure()
            store._renew(found, legend)
            return store
        try:
            make_folder(folder)
            root = zarr.open_group(folder / "scores.zarr", mode="w", zarr_format=3)
            root.attrs.update({"schema": STORE_SCHEMA, "run_id": plan.run_id, "legend": legend.to_dict()})
            for zone in plan.zones:
                block_px = int(plan.config["tiling"]["block_px"])
                create_zone(root, zone, block_px, legend, unfamiliar=unfamiliar, seen=seen)
            root.attrs.update({"metadata_sha256": metadata_digests(store.zarr_path)})
            write_plan(plan, folder / "plan.json")  # last: a folder with a plan has a complete structure
        except OSError as error:
            raise OutputError(f"run folder {folder} cannot be written: {error}") from error
        return store

    def _renew(self, found: MapPlan, legend: Legend) -> None:
        """Puts this plan and legend in the place of an earlier run's."""
        try:
            if self._attributes.get("legend") != legend.to_dict():
                root = zarr.open_group(self.zarr_path, mode="r+", zarr_format=3)
                root.attrs.update({"legend": legend.to_dict()})
                self.__dict__.pop("_attributes", None)
            if found != stored_plan(self.plan):
                write_plan(self.plan, self.folder / "plan.json")
        except (OSError, BaseZarrError) as error:
            raise OutputError(f"run folder {self.folder} cannot be written: {error}") from error

    @classmethod
    def open(cls, folder: str | Path, plan: MapPlan | None = None) -> Self:
        """Opens the folder of a run for reading or for writing blocks.

        Args:
            folder: The run's folder.
            plan: Its plan where the caller holds it already; default: read from the folder.

        Raises:
            StoreError: Not a run folder, of another plan, or damaged.
        """
        store = cls(folder, _known_plan(Path(folder) / "plan.json") if plan is None else plan)
        store._check_structure()
        return store

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "plan": self.plan}  # Zarr objects hold event loops: reopen on the other side

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], state["plan"])  # type: ignore[misc]

    @property
    def zarr_path(self) -> Path:
        """The Zarr v3 store."""
        return self.folder / "scores.zarr"

    @property
    def legend(self) -> Legend:
        """The legend that the run was made with, whatever its file says by now.

        Raises:
            StoreError: The store does not hold it.
            LegendError: It is damaged.
        """
        if "legend" not in self._attributes:
            raise StoreError(f"{self.zarr_path} does not say which legend it was made with")
        return Legend.from_dict(self._attributes["legend"], str(self.zarr_path))

    def zone(self, epsg: int) -> ZoneStore:
        """The layers of one zone.

        Raises:
            StoreError: The plan has no such zone, or the store is damaged.
        """
        if epsg not in self._zones:
            plans = [zone for zone in self.plan.zones if zone.grid.epsg == epsg]
            if not plans:
                raise StoreError(f"run {self.plan.run_id} has no zone EPSG:{epsg}")
            self._zones[epsg] = ZoneStore(self.zarr_path, plans[0], self._metadata_digests)
        return self._zones[epsg]

    # --- blocks ---------------------------------------------------------------------------------------------------

    def write_block(
        self,
        epsg: int,
        block: Block,
        layers: BlockLayers,
        valid_count: npt.NDArray[np.uint8],
        index_means: npt.NDArray[np.int16],
        truecolor: npt.NDArray[np.uint8] | None = None,
        unfamiliar: npt.NDArray[np.uint8] | None = None,
        seen: npt.NDArray[np.int16] | None = None,
    ) -> str:
        """Writes all layers of one block and flushes them to disk; writing again replaces.

        Args:
            epsg: Its zone.
            block: The block; nobody else may be writing it.
            layers: From :func:`pipeline.predict.stitch.finalise`.
            valid_count: uint8 ``[h, w]``.
            index_means: int16 ``[I, K, rows, columns]``, see :mod:`pipeline.mapstore.index_cells`.
            truecolor: uint8 ``[3, h, w]``, see :mod:`pipeline.imagery.true_color`; no part of the sha256.
            unfamiliar: uint8 ``[rows, columns]``, see :mod:`pipeline.mapstore.unfamiliar_cells`; if kept.
            seen: int16 ``[10, h / 2, w / 2]``, see :mod:`pipeline.mapstore.seen_image`; if kept, no part of the sha256.

        Returns:
            sha256 (hex) over all layers, for the journal.

        Raises:
            StoreError: A layer has the wrong shape or type, or the chunk cannot be written.
            DiskRefusedError: No other block could be written either.
        """
        values: dict[LayerName, npt.NDArray[Any]] = {
            "scores": layers.scores,
            "landcover": layers.landcover,
            "confidence": layers.confidence,
            "valid_count": valid_count,
            "index_means": index_means,
        }
        zone = self.zone(epsg)
        if zone.has(UNFAMILIAR) and unfamiliar is not None:
            values[UNFAMILIAR] = unfamiliar
        if missing := [name for name in zone.layers if name not in values]:
            raise StoreError(f"block {block.index} of EPSG:{epsg} comes without {', '.join(missing)}")
        written = dict(values)
        if truecolor is not None and zone.has(PICTURE):
            written[PICTURE] = truecolor
        if seen is not None and zone.has(SEEN):
            written[SEEN] = seen
        for name, value in written.items():
            array = zone.array(name)
            cell = cell_px(name)
            shape = (*array.shape[:-2], -(-block.window.height // cell), -(-block.window.width // cell))
            if value.shape != shape or value.dtype != array.dtype:
                raise StoreError(
                    f"block {block.index} of EPSG:{epsg}: layer {name!r} is {value.dtype}{list(value.shape)}, "
                    f"expected {array.dtype}{list(shape)}"
                )
        try:
            for name, value in written.items():
                # Chunks of fill values are written too: a file per layer is what the fast check looks for.
                zone.array(name).with_config({"write_empty_chunks": True})[selection(name, block.window)] = value
                # The journal's line must never outlive a chunk or its name.
                chunk = Path(zone.chunk(name, block))
                flush(chunk)
                flush_folder(chunk.parent)
        except (OSError, BaseZarrError) as error:
            raise write_error(f"block {block.index} of EPSG:{epsg}", error, self.folder) from error
        return _digest(values)

    def block_sha256(self, epsg: int, block: Block) -> str:
        """sha256 (hex) of what the store holds for a block.

        Raises:
            StoreError: A chunk is damaged.
        """
        zone = self.zone(epsg)
        return _digest({name: zone.read(name, block.window) for name in zone.layers})

    # --- journal --------------------------------------------------------------------------------------------------

    @property
    def journal_path(self) -> Path:
        """The journal."""
        return self.folder / "journal.jsonl"

    def journal_writer(self) -> JournalWriter:
        """Opens the journal for the one driver of this run, and removes what a killed writer left half written.

        Raises:
            StoreError: Another driver is at work.
        """
        writer = JournalWriter(self.journal_path)  # from here on nobody else's half-written chunk can be meant
        for leftover in self.zarr_path.rglob("*.partial"):
            leftover.unlink(missing_ok=True)
        return writer

    def state(self) -> JournalState:
        """Where the run stands, by its journal."""
        return replay(read_journal(self.journal_path))

    def finished_blocks(self, check: Check = "fast") -> dict[BlockKey, BlockFinished]:
        """Blocks that need not be computed again.

        Args:
            check: ``none`` trusts the journal; ``fast`` asks that every chunk file is there and not empty; ``full``
                reads each block and compares its sha256.

        Raises:
            StoreError: The journal or the structure of the store is damaged.
        """
        for zone in self.plan.zones:  # told here: computing blocks again mends their chunks, and nothing else
            for layer in self.zone(zone.grid.epsg).layers:
                self.zone(zone.grid.epsg).array(layer)
        blocks = {(zone.grid.epsg, block.index): block for zone in self.plan.zones for block in zone.blocks}
        return {
            key: record
            for key, record in self.state().finished.items()
            if key in blocks and self._is_intact(key[0], blocks[key], record, check)
        }

    def _is_intact(self, epsg: int, block: Block, record: BlockFinished, check: Check) -> bool:
        if check == "none":
            return True
        try:
            if any(os.stat(self.zone(epsg).chunk(name, block)).st_size == 0 for name in self.zone(epsg).layers):
                return False
            return check == "fast" or self.block_sha256(epsg, block) == record.sha256
        except (OSError, StoreError):
            return False  # computed again rather than complained about: that mends it

    @functools.cached_property
    def _attributes(self) -> Mapping[str, Any]:
        """Of the whole store.

        Raises:
            StoreError: They cannot be read.
        """
        try:
            return dict(zarr.open_group(self.zarr_path, mode="r", zarr_format=3).attrs)
        except UNREADABLE as error:
            raise StoreError(f"{self.zarr_path} is not a readable Zarr v3 group: {error}") from error

    @property
    def _metadata_digests(self) -> Mapping[str, str]:
        digests = self._attributes.get("metadata_sha256")
        return digests if isinstance(digests, dict) else {}

    def _check_structure(self) -> None:
        schema, run_id = self._attributes.get("schema"), self._attributes.get("run_id")
        if schema != STORE_SCHEMA or run_id != self.plan.run_id:
            raise StoreError(
                f"{self.zarr_path} holds run {run_id}, schema {schema}; expected {self.plan.run_id}, {STORE_SCHEMA}: "
                "delete the run folder to compute it again"
            )


def _known_plan(path: Path) -> MapPlan:
    """The plan of a folder, parsed once per process: a worker opens its store for every block it finishes."""
    try:
        found = path.stat()
    except OSError as error:
        raise StoreError(f"plan {path} cannot be read: {error}") from error
    return _parsed_plan(path, (found.st_ino, found.st_mtime_ns, found.st_size))


@functools.lru_cache(maxsize=2)
def _parsed_plan(path: Path, version: tuple[int, int, int]) -> MapPlan:
    return read_plan(path)


def _check_same(found: MapPlan, wanted: MapPlan, folder: Path) -> None:
    """What cannot change a pixel (name, actors, links that were signed anew) may differ between two runs of one id."""
    if found.run_id != wanted.run_id:
        raise StoreError(
            f"{folder} holds run {found.run_id}, not {wanted.run_id}: inputs or settings differ; choose another output"
        )
    # Without the order of scenes: times that moved by a second may have changed it.
    if [(zone.grid, zone.blocks) for zone in found.zones] != [(zone.grid, zone.blocks) for zone in wanted.zones]:
        raise StoreError(
            f"{folder} holds run {found.run_id} with other blocks; it was made by another version: delete it"
        )


def _digest(values: Mapping[LayerName, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in (name for name in (*LAYERS, UNFAMILIAR) if name in values):
        value = np.ascontiguousarray(values[name])
        digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        digest.update(value.data)
    return digest.hexdigest()
