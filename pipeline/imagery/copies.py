"""A file that lies in several places, as a stackstac ``Reader``: when one copy cannot be read, the next one is.

Copies are tried in a fixed order, each once; only when none can be read is each asked again with all patience. So a
server that dies costs a moment, and nothing is given up that one of them still has. Copies hold the same measurements,
if not always the same numbers: a catalog may have taken the offset out of its files. Numbers come back as the first
copy would have given them, exactly.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from rasterio.windows import Window

from pipeline.errors import NoAnswerError, ReadError
from pipeline.imagery.file_reader import ATTEMPTS, GIVEN_UP_S, AssetReader
from pipeline.records.scene import Scene, SceneAsset
from pipeline.sources.hrefs import AssetDoor, local_path
from pipeline.sources.signing import signer_for

_WHOLE_TOLERANCE = 1e-6
_Float = npt.NDArray[np.float32]
_stacks = itertools.count()
_silent: dict[str, tuple[float, str]] = {}
"""Server → (monotonic time, message) of the last file that it did not give: files that lie elsewhere too are read there
first, for so long as a file is given up."""

Notes = dict[tuple[str, str], str]
"""(scene id, band) → what was read in place of what, and why."""


@dataclass(frozen=True)
class BandFile:
    """One band of one scene."""

    scene: str
    """Id."""
    band: str
    provider: str
    """Of the scene; its asset and copies may name their own."""
    asset: SceneAsset

    @property
    def places(self) -> tuple[SceneAsset, ...]:
        """The asset, then its copies."""
        return (self.asset, *self.asset.copies)

    @property
    def remote(self) -> bool:
        """True if one of its places is not on this machine."""
        return any(local_path(place.href) is None for place in self.places)


def band_file(scene: Scene, band: str) -> BandFile:
    """A band of a scene with all its places."""
    return BandFile(scene.id, band, scene.provider, scene.assets[band])


class CopyReaders:
    """Makes the readers of a stack, as stackstac's ``reader``: no data class, because dask would look into each file.

    Args:
        files: Address that stackstac is given → band file.
        door: What may be opened.
        notes: Told of copies that were read in place of others.
    """

    def __init__(self, files: Mapping[str, BandFile], door: AssetDoor | None, notes: Notes) -> None:
        self.files, self.door, self.notes = files, door, notes

    def __call__(self, **settings: Any) -> CopyReader:
        """With the arguments that stackstac gives a reader."""
        return CopyReader(files=self.files, door=self.door, notes=self.notes, **settings)

    def __dask_tokenize__(self) -> str:
        # A stack is read and forgotten: its name need not say what is in it.
        return f"copies-{next(_stacks)}"


class CopyReader:
    """stackstac ``Reader`` of one band file. ``read`` returns float32 digital numbers, NaN where there is none.

    Beyond stackstac's own arguments: ``files`` maps the address that stackstac was given to the band file, ``door``
    says what may be opened, and ``notes`` is told of copies that were read in place of others.
    """

    def __init__(
        self,
        *,
        url: str,
        files: Mapping[str, BandFile],
        door: AssetDoor | None = None,
        notes: Notes | None = None,
        **settings: Any,
    ) -> None:
        self.file = files[url]
        self.door = door
        self.notes = {} if notes is None else notes
        self.settings = settings

    def read(self, window: Window, out: _Float | None = None, **_: Any) -> _Float:
        """Pixels of a window of the grid: float32 [height, width]; ``out`` where that saves a pass over them.

        Raises:
            ReadError: No copy can be read; begins with the address of the first.
        """
        first, *others = self.file.places
        if not others:
            return self._reader(first, ATTEMPTS).read(window, out)
        failures: dict[str, str] = {}
        places = sorted(self.file.places, key=lambda place: _silence(place.href) is not None)
        for attempts in (1, ATTEMPTS):
            for place in places:
                try:
                    values = self._reader(place, attempts).read(window, out)
                except ReadError as error:
                    failures[place.href] = str(error)
                    if isinstance(error, NoAnswerError) and (server := _server(place.href)) is not None:
                        _silent[server] = (time.monotonic(), str(error))
                    continue
                if place is not first:
                    why = failures.get(first.href) or f"{first.href} is not asked for now, as {_silence(first.href)}"
                    self.notes[self.file.scene, self.file.band] = f"{why}; {place.href} is read in its place"
                return as_numbers_of(first, place, values)
        raise ReadError("; ".join(failures[place.href] for place in self.file.places))

    def _reader(self, place: SceneAsset, attempts: int) -> AssetReader:
        return AssetReader(
            url=place.href,
            nodata={place.href: place.nodata},
            signer=signer_for(place.provider or self.file.provider),
            door=self.door,
            attempts=attempts,
            **self.settings,
        )

    def close(self) -> None:
        """Nothing stays open between reads."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def as_numbers_of(first: SceneAsset, other: SceneAsset, values: _Float) -> _Float:
    """Digital numbers of a copy as those of the first file: equal reflectance, and whole numbers where they are whole.

    Args:
        first: Whose scale and offset will be applied.
        other: Where the numbers come from.
        values: float32, NaN = none; may be written to.
    """
    factor, shift = other.scale / first.scale, (other.offset - first.offset) / first.scale
    factor, shift = _whole(factor), _whole(shift)
    if factor != 1.0:
        values *= np.float32(factor)
    if shift != 0.0:
        values += np.float32(shift)
    return values


def _whole(value: float) -> float:
    """A number without what decimal fractions add to it: (0.1 / 0.0001) is a thousand."""
    return float(round(value)) if abs(value - round(value)) < _WHOLE_TOLERANCE * max(1.0, abs(value)) else value


def _server(href: str) -> str | None:
    """Scheme and host (or bucket) of an address; None for a file of this machine."""
    if local_path(href) is not None:
        return None
    parts = urlsplit(href)
    return f"{parts.scheme}://{parts.netloc}"


def _silence(href: str) -> str | None:
    """Why the server of a file is asked last; None if it is not."""
    since, message = _silent.get(_server(href) or "", (-math.inf, ""))
    return message if time.monotonic() - since < GIVEN_UP_S else None
