"""The one table of software whose version can change a pixel: for the plan, the map's metadata and the workers.

Every dependency of the project stands here, in :data:`SOFTWARE` or in :data:`WITHOUT_EFFECT`, with the reason.
"""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import WorkerMismatchError
from pipeline.settings.model import Kind

Place = Literal["any run", "model", "model on CUDA"]
"""Whose pixels it reaches: of any run, only where a network computes (not the index rules), or only there on a GPU."""


@dataclass(frozen=True)
class Software:
    """One entry of the table."""

    why: str
    """How it reaches a pixel."""
    place: Place = "any run"


SOFTWARE: dict[str, Software] = {
    "spex-landcover": Software("this project: every rule and every order of sums"),
    "numpy": Software("scaling, median, indices, weights and merging of tiles"),
    "scipy": Software("growth of clouds; candidate objects of the prompts"),
    "stackstac": Software("decides which files are read for a window"),
    "odc-geo": Software("bounds of the windows that are read"),
    "affine": Software("transforms of grids, for reading and for the region's mask"),
    "rasterio": Software("reads, warps and burns the region's mask; decides what GDAL is asked"),
    "GDAL": Software("decodes, warps and rasterises"),
    "PROJ of GDAL": Software("coordinates of warped pixels"),
    "pyproj": Software("asks PROJ for the region and for windows in metres"),
    "PROJ": Software("coordinates of the region, hence its grid and mask"),
    "shapely": Software("cuts the region by zones and windows"),
    "GEOS": Software("computes those cuts"),
    "platform": Software("operating system and processor family: their kernels round differently"),
    "torch": Software("computes the model", "model"),
    "transformers": Software("the language model of SPEX", "model"),
    "tokenizers": Software("cuts prompts into tokens", "model"),
    "scikit-image": Software("Otsu thresholds of the candidates in the prompts", "model"),
    "triton": Software("compiles the kernels of compiled models and of DCNv3", "model on CUDA"),
}
"""Name → how its version can change a pixel."""

WITHOUT_EFFECT: dict[str, str] = {
    "huggingface-hub": "types only; nothing is fetched",
    "safetensors": "hands over the stored bytes of weights",
    "scikit-learn": "evaluation only",
    "threadpoolctl": "evaluation and training only",
    "pyyaml": "what it reads is in the identity by its value",
    "rio-cogeo": "copies finished pixels into files; overviews are no pixels of the map",
    "xarray": "labels what stackstac read",
    "dask": "runs the reads of stackstac; does no arithmetic",
    "zarr": "stores finished pixels without loss, checked by sha256",
    "pyarrow": "writes tables of finished maps; a region that it reads is in the identity by its value",
    "pyogrio": "the region that it reads is in the identity by its value",
    "pystac": "the scenes found are in the identity",
    "pystac-client": "the scenes found are in the identity",
    "planetary-computer": "signs the same files",
    "requests": "fetches documents, whose content is in the identity",
    "urllib3": "fetches documents, whose content is in the identity",
    "rustac": "writes the catalog of finished maps",
    "ray": "carries arrays; their order is the plan's",
    "pydantic": "settings are in the identity by their value",
    "typer": "the command line",
    "rich": "the screen",
    "jinja2": "the report",
    "pillow": "the thumbnail",
    "psutil": "measures memory",
    "XStatic-Leaflet": "the page of finished maps",
}
"""Name → why no version of it can change a pixel. A dependency belongs into one of the two tables."""


def software_versions(kind: Kind = "cpu") -> dict[str, str]:
    """Versions, on this machine, of everything that can change a pixel.

    Args:
        kind: Kind of the model's device; Triton counts on a GPU only.

    Raises:
        PackageNotFoundError: A dependency is not installed.
    """
    versions: dict[str, str] = {}
    for name, entry in sorted(SOFTWARE.items()):
        if entry.place != "model on CUDA":
            versions[name] = _version(name)
        elif kind == "cuda" and (found := _installed(name)) is not None:
            versions[name] = found
    return versions


def reaching(software: Mapping[str, str], *, network: bool) -> dict[str, str]:
    """The part of a run's software that reaches its pixels.

    Args:
        software: Name → version; a name that is not in the table counts always.
        network: A network computes the scores, not the index rules.
    """
    return {
        name: version
        for name, version in sorted(software.items())
        if network or name not in SOFTWARE or SOFTWARE[name].place == "any run"
    }


def check_worker(planned: Mapping[str, str]) -> None:
    """Refuses to compute in a process whose software is not that of the plan. Cheap when asked again.

    Args:
        planned: Name → version, of the driver.

    Raises:
        WorkerMismatchError: Names this machine and every version that differs.
    """
    _check_worker(tuple(sorted(planned.items())))


@functools.lru_cache(maxsize=8)
def _check_worker(planned: tuple[tuple[str, str], ...]) -> None:
    differing = [
        f"{name} {here} (the driver {wanted})" if here is not None else f"no {name} (the driver {wanted})"
        for name, wanted in planned
        if (here := _installed(name)) != wanted
    ]
    if differing:
        raise WorkerMismatchError(
            f"worker on host {socket.gethostname()} has {', '.join(differing)}: its pixels would differ; install the "
            "driver's versions there (constraints.txt), or start the run on a machine of the cluster (spex submit)"
        )


def _version(name: str) -> str:
    found = _OTHER[name]() if name in _OTHER else importlib.metadata.version(name)
    return found


def _installed(name: str) -> str | None:
    try:
        return _version(name)
    except (importlib.metadata.PackageNotFoundError, ImportError):
        return None


def _gdal() -> str:
    import rasterio

    return str(rasterio.__gdal_version__)


def _proj_of_gdal() -> str:
    import rasterio

    return str(rasterio.__proj_version__)


def _proj() -> str:
    import pyproj

    return str(pyproj.proj_version_str)


def _geos() -> str:
    import shapely

    return str(shapely.geos_version_string)


def _platform() -> str:
    return f"{platform.system()} {platform.machine()}"


_OTHER: dict[str, Callable[[], str]] = {
    "GDAL": _gdal,
    "PROJ of GDAL": _proj_of_gdal,
    "PROJ": _proj,
    "GEOS": _geos,
    "platform": _platform,
}
"""What is no distribution: libraries inside the wheels, and the machine."""
