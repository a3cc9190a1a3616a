"""Shards of chips: uncompressed tar files in the layout of WebDataset, and an index for random access.

A shard holds ``<key>.reflectance.npy``, ``<key>.label.npy`` (or ``.probability.npy``), ``<key>.weight.npy`` and
``<key>.json`` of each chip side by side, so any tar reader can stream it; ``index.json`` names offset, size and CRC-32
of every member, so any chip can be read with one seek. See docs/decisions/0011.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import OutputError, ShardError
from pipeline.machine.atomic_files import write_text
from pipeline.spie.chip import LABEL, PROBABILITY, RECORD, REFLECTANCE, WEIGHT, decode_reflectance
from spex_core.bands import SENTINEL2_BANDS
from spex_core.durable_files import new_draft, put_in_place
from spex_core.legend import Legend

INDEX_FILE = "index.json"
FORMAT: Literal["spex-chips"] = "spex-chips"
BLOCK_BYTES, RECORD_BYTES = 512, 10_240
"""Of tar: headers and contents are padded to blocks, the file to records."""
"""A tar header holds names of 100 bytes."""

FloatArray = npt.NDArray[np.float32]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Member(_Entry):
    """One file of a chip."""

    offset: int = Field(ge=0)
    """Of its content, bytes from the beginning of the shard."""
    size: int = Field(ge=0)
    crc32: int = Field(ge=0, lt=2**32)


class ChipEntry(_Entry):
    """One chip of a shard."""

    key: str = Field(pattern=r"^[A-Za-z0-9_-]{1,80}$")
    members: dict[str, Member]
    """Ending → place."""


class ShardEntry(_Entry):
    """One tar file."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,80}\.tar$")
    split: Literal["train", "validation"]
    size: int = Field(ge=0)
    """Bytes."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    chips: tuple[ChipEntry, ...] = Field(strict=False)


class ChipIndex(_Entry):
    """``index.json``. It is written last: a folder that has it is complete."""

    format: Literal["spex-chips"] = FORMAT
    version: Literal[1] = 1
    build: str
    """Identity of settings, inputs and software."""
    size_px: int = Field(gt=0)
    bands: tuple[str, ...] = Field(strict=False)
    legend: dict[str, Any]
    incomplete: bool
    """Something could not be read; the data card says what."""
    shards: tuple[ShardEntry, ...] = Field(strict=False)


class ShardWriter:
    """Writes one shard beside its final name; :meth:`finish` gives it that name.

    Args:
        path: Final name.

    Raises:
        OutputError: The folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = hashlib.sha256()
        self._size = 0
        self._chips: list[ChipEntry] = []
        try:
            self._draft = new_draft(path)
            self._file: BinaryIO = self._draft.open("wb")
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Appends a chip.

        Raises:
            OutputError: The disk is full.
        """
        places = {}
        for ending, content in members.items():
            name = tarfile.TarInfo(f"{key}.{ending}")
            name.size, name.mode = len(content), 0o644
            self._write(name.tobuf(tarfile.USTAR_FORMAT))
            places[ending] = Member(offset=self._size, size=len(content), crc32=zlib.crc32(content))
            self._write(content + bytes(-len(content) % BLOCK_BYTES))
        self._chips.append(ChipEntry(key=key, members=places))

    def finish(self, split: Literal["train", "validation"]) -> ShardEntry:
        """Completes the file under its final name.

        Raises:
            OutputError: It cannot be written.
        """
        end = 2 * BLOCK_BYTES
        self._write(bytes(end + -(self._size + end) % RECORD_BYTES))
        try:
            self._file.close()
            put_in_place(self._draft, self._path)
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error.strerror or error}") from error
        return ShardEntry(
            name=self._path.name,
            split=split,
            size=self._size,
            sha256=self._hash.hexdigest(),
            chips=tuple(self._chips),
        )

    def abandon(self) -> None:
        """Closes and removes what was not finished."""
        self._file.close()
        self._draft.unlink(missing_ok=True)

    def _write(self, content: bytes) -> None:
        try:
            self._file.write(content)
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error.strerror or error}") from error
        self._hash.update(content)
        self._size += len(content)


def write_index(folder: Path, index: ChipIndex) -> None:
    """Writes ``index.json`` atomically.

    Raises:
        OutputError: The folder cannot be written.
    """
    write_text(folder / INDEX_FILE, json.dumps(index.model_dump(mode="json"), separators=(",", ":")) + "\n")


def read_index(folder: Path) -> ChipIndex:
    """Reads and checks ``index.json``.

    Raises:
        ShardError: There is none, or it is not such an index.
    """
    path = Path(folder) / INDEX_FILE
    try:
        return ChipIndex.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ShardError(
            f"{folder} has no {INDEX_FILE}: not a data set of chips, or not finished (spex spie)"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ShardError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ShardError(f"{path} is damaged at {where}: {first['msg']}; build the data set again") from None
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path} is not JSON: {error}; build the data set again") from error


class ShardedChips:
    """Chips of a finished data set by number, as a :class:`spex_core.training.ChipSource`.

    Nothing is read before it is asked for, and every content is checked against the index. Safe to pickle and to use
    from several threads and forked processes.

    Args:
        folder: Written by ``spex spie``.
        split: Only these chips; default: all.
        legend: Order of the classes; default: the data set's own. Pixels of other classes have no weight.

    Raises:
        ShardError: The index or a shard is missing, or a shard is shorter or longer than its index says.
    """

    def __init__(
        self, folder: Path, *, split: Literal["train", "validation"] | None = None, legend: Legend | None = None
    ) -> None:
        self.folder = Path(folder)
        self.index = read_index(self.folder)
        self.legend = legend or Legend.from_dict(self.index.legend, f"legend of {self.folder}")
        if self.index.bands != SENTINEL2_BANDS:
            raise ShardError(f"{self.folder} holds bands {' '.join(self.index.bands)}, not {' '.join(SENTINEL2_BANDS)}")
        shards = [shard for shard in self.index.shards if split is None or shard.split == split]
        for shard in shards:
            self._check(shard)
        self._chips = [(shard, chip) for shard in shards for chip in shard.chips]

    def __len__(self) -> int:
        return len(self._chips)

    def key(self, index: int) -> str:
        """Name of a chip."""
        return self._chips[index][1].key

    def record(self, index: int) -> dict[str, Any]:
        """The chip's JSON: source, licence, date, bounds, attributes and answers.

        Raises:
            ShardError: The chip is damaged.
        """
        content = self._content(index, RECORD)
        try:
            data = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ShardError(f"{self._where(index, RECORD)} is not JSON: {error}") from error
        if not isinstance(data, dict):
            raise ShardError(f"{self._where(index, RECORD)} is not a JSON object")
        return data

    def chip(self, index: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """See :meth:`spex_core.training.ChipSource.chip`.

        Raises:
            ShardError: The chip is damaged.
        """
        size = self.index.size_px
        stored = self._array(index, REFLECTANCE, np.dtype(np.int16), (len(SENTINEL2_BANDS), size, size))
        weight = self._array(index, WEIGHT, np.dtype(np.uint8), (size, size)).astype(np.float32)
        if PROBABILITY in self._chips[index][1].members:
            shape = (len(self.legend), size, size)
            target = self._array(index, PROBABILITY, np.dtype(np.uint8), shape).astype(np.float32) / np.float32(255)
        else:
            codes = self._array(index, LABEL, np.dtype(np.uint8), (size, size))
            target = (codes[None] == np.array(self.legend.codes, np.uint8)[:, None, None]).astype(np.float32)
            weight *= target.any(axis=0)
        return decode_reflectance(stored), target, weight

    def _array(self, index: int, ending: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        try:
            array: npt.NDArray[Any] = np.load(io.BytesIO(self._content(index, ending)), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ShardError(f"{self._where(index, ending)} is not an array: {error}") from error
        if array.dtype != dtype or array.shape != shape:
            raise ShardError(f"{self._where(index, ending)} is {array.dtype} {array.shape}, not {dtype} {shape}")
        return array

    def _content(self, index: int, ending: str) -> bytes:
        shard, chip = self._chips[index]
        member = chip.members.get(ending)
        if member is None:
            raise ShardError(f"{self._where(index, ending)} is missing from the index")
        if member.offset + member.size > shard.size:
            raise ShardError(f"{self._where(index, ending)} ends beyond its shard; build the data set again")
        try:
            # Opened for each read: nothing to share between threads, nothing to inherit across a fork.
            with (self.folder / shard.name).open("rb") as file:
                file.seek(member.offset)
                content = file.read(member.size)
        except OSError as error:
            raise ShardError(f"{self._where(index, ending)} cannot be read: {error.strerror or error}") from error
        if len(content) != member.size or zlib.crc32(content) != member.crc32:
            raise ShardError(f"{self._where(index, ending)} is damaged: remove the shard, and spex spie makes it again")
        return content

    def _where(self, index: int, ending: str) -> str:
        shard, chip = self._chips[index]
        return f"{self.folder / shard.name}, chip {chip.key}, {ending}"

    def _check(self, shard: ShardEntry) -> None:
        path = self.folder / shard.name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ShardError(
                f"shard {path} cannot be read: {error.strerror or error}; spex spie makes it again"
            ) from error
        if size != shard.size:
            raise ShardError(f"shard {path} has {size} bytes, its index says {shard.size}: spex spie makes it again")
