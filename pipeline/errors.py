"""Errors of the mapping engine. All derive from :class:`spex_core.errors.SpexError` and pickle from one message."""

from __future__ import annotations

from spex_core.errors import SpexError


class BadInputError(SpexError):
    """Something the user gave is wrong; the command line exits with code 2."""


class ConfigError(BadInputError):
    """The run file is malformed; the message names the field."""


class RegionError(BadInputError):
    """The region file is missing, not GeoJSON, empty or geometrically invalid."""


class SurveyError(BadInputError):
    """A survey's points or polygons cannot be used; the message names file, column or class."""


class OutputError(BadInputError):
    """The output folder cannot be used (not writable, another run, not a SPEX run)."""


class InstallationError(BadInputError):
    """What this machine or its environment provides does not fit (PROJ data of another PROJ, say)."""


class CatalogError(SpexError):
    """The STAC catalog could not be searched, or answered with something that is not STAC."""


class NoCatalogError(CatalogError, BadInputError):
    """There is no catalog where the run file says; the message names the address."""


class NothingMappedError(SpexError):
    """Everything was done and no pixel has a class (all cloud, nothing readable); the command line's exit code is 4."""


class CatalogAddressError(CatalogError, BadInputError):
    """``source.url`` and ``source.collection`` contradict each other, or the address is of something else."""


class IncompleteSearchError(CatalogError):
    """The server says that it has more items than it gives; the message has both numbers."""


class NoScenesError(CatalogError, BadInputError):
    """The search found nothing to map; the message says what to widen."""


class NoUsableScenesError(NoScenesError, NothingMappedError):
    """The search found scenes that match, and not one can be used; the message says why."""


class TooManyScenesError(CatalogError, BadInputError):
    """The search found more scenes than the run file allows; the message says what to narrow."""


class SceneError(SpexError):
    """One scene cannot be used (missing asset, unknown grid, refused href). Local: the run goes on."""


class HrefError(SceneError):
    """An href, link or redirect leads where the run file does not allow; the message says what would allow it."""


class ReadError(SpexError):
    """A raster window could not be read. Local: the next-best scene fills in."""


class NoAnswerError(ReadError):
    """A file could not be read because its server does not answer, or not as a server of files does."""


class StoreError(SpexError):
    """The run's own state is unreadable or belongs to another plan."""


class DiskRefusedError(StoreError, OutputError):
    """The disk takes no more: full, over quota or read-only. Whatever was computed next could not be kept either."""


class CogError(SpexError):
    """A map file could not be written, or what was written is not a valid Cloud-Optimized GeoTIFF."""


class ClusterError(SpexError):
    """Ray could not be started, joined, or lost a worker more often than allowed."""


class WorkerMismatchError(SpexError):
    """A worker has other versions of what can change a pixel than the driver; names the machine and the versions."""


class ChipError(BadInputError):
    """Labelled chips cannot be read: a file is missing, unreadable, or not in the format that it should have."""


class LabelError(BadInputError):
    """The labels of a data set cannot be found, or their codes do not fit the legend."""


class NoChipsError(BadInputError):
    """No place of a data set passes its limits; the message says what to widen."""


class ShardError(SpexError):
    """A data set of chips is incomplete, truncated or damaged; the message names the file and chip."""


class UploadError(SpexError):
    """A bucket or folder does not take what is published."""
