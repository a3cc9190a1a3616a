"""Every GDAL, curl and allocator setting of the readers, in one place.

Options are handed to GDAL per open file (:func:`gdal_options`) so that a library user's own GDAL setup is untouched;
those that GDAL or the C library read once per process are environment variables of the workers
(:func:`worker_environment`).
"""

from __future__ import annotations

from pipeline.imagery.bucket_access import s3_options
from pipeline.machine import allocator

DRIVERS_REMOTE = ("GTiff", "JP2OpenJPEG")
"""Formats opened from the network. Not VRT: it may name any other file."""
DRIVERS_LOCAL = (*DRIVERS_REMOTE, "VRT")

CACHE_MB = 256
"""GDAL's block cache per process: decoded tiles of the windows read last, so that their neighbours do not decode them
again. A window of 1,000 px in two dates touches 240 MB of them where files are tiled in 1,024 px."""


def gdal_options(href: str) -> dict[str, str | int | bool]:
    """GDAL configuration for opening and reading one file."""
    options: dict[str, str | int | bool] = {
        # No directory listings and no side-car files: one request less per open, and nothing unasked is read.
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_PAM_ENABLED": "NO",
        # The header of a COG with its tile index arrives with the first request.
        "GDAL_INGESTED_BYTES_AT_OPEN": 65536,
        "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
        "GDAL_HTTP_MULTIRANGE": "YES",
        "GDAL_HTTP_MAX_RETRY": 3,
        "GDAL_HTTP_RETRY_DELAY": "0.5",
        "GDAL_HTTP_RETRY_CODES": "429,500,502,503,504",
        "GDAL_HTTP_CONNECTTIMEOUT": 10,
        # A whole request may be slow, but it must move: less than 1 kB/s for 30 s is a dead connection.
        "GDAL_HTTP_TIMEOUT": 120,
        "GDAL_HTTP_LOW_SPEED_TIME": 30,
        "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
        "CPL_VSIL_CURL_CACHE_SIZE": 32 * 1024 * 1024,
        "VSI_CACHE": False,
        "GDAL_NUM_THREADS": 1,
    }
    if href.lower().startswith("s3://"):
        options |= s3_options(href)
    return options


def worker_environment() -> dict[str, str]:
    """Environment variables for reader processes; they must be set before GDAL is loaded."""
    return {
        "GDAL_CACHEMAX": str(CACHE_MB),
        "GDAL_NUM_THREADS": "1",
        **allocator.ENVIRONMENT,
    }
