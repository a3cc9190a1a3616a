"""``spex doctor``: what this machine, its libraries and its folders are like, line by line, with what mends them.

It has to work where things are broken: every line is found by itself, imports what it needs when it needs it, and an
exception of any kind is a line that failed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.errors import BadInputError, InstallationError
from pipeline.machine.preflight import Check, answered, check_folder, machine_checks
from spex_core.errors import SpexError, harmless

if TYPE_CHECKING:
    from pipeline.settings.run_file import RunConfig
from pipeline.settings.yaml_file import of_command_line

CATALOG_S = 4.0
"""A catalog that does not answer within so many seconds counts as out of reach."""
_NETWORK = "check network, proxy (HTTPS_PROXY) and certificates (REQUESTS_CA_BUNDLE), or map from a local catalog"
_PACKAGES = ("torch", "transformers", "ray", "rasterio", "pyproj", "shapely", "zarr", "pystac-client", "numpy")
_INSTALL = "install with the versions of constraints.txt: pip install -c constraints.txt -e ."
_RASTER_DRIVERS = ("GTiff", "JP2OpenJPEG", "VRT")


def examine(file: Path | None = None, output: Path | None = None) -> list[Check]:
    """All lines.

    Args:
        file: A run file, whose output, region, catalog and cluster are looked at too.
        output: Output folder to look at; default: the run file's, else the current folder.
    """
    config, checks = _run_file(file)
    folder = output or (config.output if config is not None else of_command_line(Path()))
    catalogs = [_meanwhile(f"catalog {name}", url) for name, url in _catalogs(config)]
    checks += [
        answered("system", check_system),
        answered("versions", check_versions),
        *machine_checks(),
        answered("GDAL", check_gdal),
        answered("projections", check_projections),
        answered("vector files", check_vectors),
        answered("GPU", check_gpu),
        answered("Ray", lambda: check_ray(config.compute.address if config is not None else None)),
        answered("output", lambda: check_folder("output", folder)),
    ]
    if config is not None:
        checks.append(answered("region", lambda: check_region(config)))
    return [*checks, *(found() for found in catalogs)]


def _run_file(file: Path | None) -> tuple[RunConfig | None, list[Check]]:
    if file is None:
        return None, []
    from pipeline.settings.run_file import RunConfig

    try:
        return RunConfig.from_yaml(file), []
    except SpexError as error:
        return None, [Check("run file", "fail", str(error), "correct it; what follows is of this machine alone")]


def _meanwhile(subject: str, url: str) -> Callable[[], Check]:
    """Knocks at a catalog while the rest is looked at; a name server that never answers holds nobody up."""
    answers: queue.SimpleQueue[Check] = queue.SimpleQueue()

    def ask() -> None:
        answers.put(answered(subject, lambda: check_catalog(subject, url)))

    def found() -> Check:
        try:
            return answers.get(timeout=2 * CATALOG_S)
        except queue.Empty:
            return Check(subject, "warn", f"{url} is out of reach: no answer within {2 * CATALOG_S:g} s", _NETWORK)

    threading.Thread(target=ask, daemon=True).start()
    return found


def document(checks: Sequence[Check]) -> dict[str, Any]:
    """What ``spex doctor --json`` prints."""
    return {"ok": exit_code(checks) == 0, "checks": [vars(check) for check in checks]}


def exit_code(checks: Iterable[Check]) -> int:
    """1 if a line failed; warnings are none."""
    return int(any(check.state == "fail" for check in checks))


def lines(checks: Sequence[Check]) -> list[str]:
    """One line for each answer, and one below it for what mends it."""
    width = max((len(check.subject) for check in checks), default=0)
    told = []
    for check in checks:
        told.append(f"{check.state:<4}  {check.subject:<{width}}  {' '.join(harmless(check.found).split())}")
        if check.mend and check.state != "ok":
            told.append(f"{'':<4}  {'':<{width}}  -> {' '.join(harmless(check.mend).split())}")
    return told


# --- what is installed ----------------------------------------------------------------------------------------------


def check_system() -> Check:
    """Operating system and Python."""
    return Check("system", "ok", f"Python {platform.python_version()}, {platform.platform()}")


def check_versions() -> Check:
    """This package, and the versions of what it stands on; each must import."""
    found, broken = [f"spex-landcover {_version('spex-landcover')}"], []
    for name in _PACKAGES:
        try:
            importlib.import_module(name.replace("-", "_"))
            found.append(f"{name} {_version(name)}")
        except Exception as error:  # a wheel for another machine raises many kinds
            broken.append(f"{name}: {type(error).__name__}: {error}")
    if broken:
        return Check("versions", "fail", f"cannot be imported: {'; '.join(broken)}", _INSTALL)
    return Check("versions", "ok", ", ".join(found))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def check_gdal() -> Check:
    """The GDAL that reads scenes, and its drivers."""
    import rasterio

    with rasterio.Env() as env:
        there = set(env.drivers())
    missing = [name for name in _RASTER_DRIVERS if name not in there]
    found = f"GDAL {rasterio.__gdal_version__}, {len(there)} drivers"
    if missing:
        mend = "install rasterio from PyPI; without JP2OpenJPEG no JPEG 2000 scene can be read"
        return Check("GDAL", "fail" if "GTiff" in missing else "warn", f"{found}; missing: {', '.join(missing)}", mend)
    return Check("GDAL", "ok", f"{found}; {', '.join(_RASTER_DRIVERS)} among them")


def check_projections() -> Check:
    """GDAL and pyproj know a UTM zone, and agree on it."""
    from pipeline.outputs.rehearsal import check_projection
    from pipeline.records.plan import ZoneGrid

    check_projection(ZoneGrid(epsg=32632, left=600_000.0, top=5_200_000.0, resolution_m=10.0, height=1, width=1))
    return Check("projections", "ok", "GDAL and pyproj agree on EPSG:32632")


def check_vectors() -> Check:
    """Whether region files other than GeoJSON can be read."""
    from pipeline.records.region_vectors import vector_formats

    try:
        return Check("vector files", "ok", f"GeoJSON, {vector_formats()}")
    except InstallationError as error:
        return Check("vector files", "warn", str(error), "pip install -c constraints.txt pyogrio")


def check_gpu() -> Check:
    """GPUs that torch can use."""
    import torch

    if not torch.cuda.is_available():
        return Check("GPU", "ok", "none that torch can use: models run on CPUs")
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return Check("GPU", "ok", ", ".join(names))


def check_ray(address: str | None) -> Check:
    """The version of Ray, and the cluster that the run file names; no Ray is started."""
    import ray

    from pipeline.engine.running_ray import address_to_join

    if address is None:
        return Check("Ray", "ok", f"{ray.__version__}; a run starts its own")
    found = address_to_join(address)
    host, port = urlsplit(found if "://" in found else f"ray://{found}").hostname, _port(found)
    if host is None or port is None:
        return Check(
            "Ray", "warn", f"{address!r} is no host:port", "give compute.address as host:6379 or ray://host:10001"
        )
    try:
        socket.create_connection((host, port), timeout=CATALOG_S).close()
    except OSError as error:
        return Check("Ray", "fail", f"no cluster answers at {found}: {error}", "start it with 'ray start --head'")
    return Check("Ray", "ok", f"{ray.__version__}; {found} answers")


def _port(address: str) -> int | None:
    try:
        return urlsplit(address if "://" in address else f"ray://{address}").port
    except ValueError:
        return None


# --- what the run file names ----------------------------------------------------------------------------------------


def check_region(config: RunConfig) -> Check:
    """Whether the region can be read."""
    from pipeline.records.region import read_region

    settings = config.regions
    try:
        region = read_region(config.region, **settings.model_dump())
    except BadInputError as error:
        return Check("region", "fail", str(error), "see the message")
    zones = ", ".join(f"EPSG:{epsg}" for epsg in region.utm_epsgs())
    notes = f"; {'; '.join(region.notes)}" if region.notes else ""
    return Check("region", "ok", f"{len(region.subregions)} sub-regions in {zones}{notes}")


def _catalogs(config: RunConfig | None) -> list[tuple[str, str]]:
    """Name and address of the catalogs to knock at: the run file's, or the public ones."""
    from pipeline.sources.providers import PROVIDERS

    if config is None:
        return [(name, entry.url) for name, entry in PROVIDERS.items() if entry.url is not None]
    named = [(one.provider, one.url or PROVIDERS[one.provider].url) for one in config.source.catalogs]
    return [(provider, url) for provider, url in named if url]


def check_catalog(subject: str, url: str) -> Check:
    """Whether a catalog answers at all; a machine without a network is no fault of the machine."""
    if urlsplit(url).scheme not in ("http", "https"):
        path = Path(url.removeprefix("file://"))
        if path.is_file():
            return Check(subject, "ok", f"{path} is there")
        return Check(subject, "fail", f"{path} is missing", "correct source.url")
    import requests

    from pipeline.sources.http import plain_reason

    try:
        answer = requests.get(url, timeout=CATALOG_S, stream=True, headers={"User-Agent": "spex-landcover"})
        answer.close()
    except requests.RequestException as error:
        return Check(subject, "warn", f"{url} is out of reach: {plain_reason(error)[:200]}", _NETWORK)
    if answer.status_code >= 400:
        return Check(subject, "warn", f"{url} answers with {answer.status_code}", "check source.url, or try later")
    return Check(subject, "ok", f"{url} answers")


def _short(error: Exception) -> str:
    return str(error).replace("\n", " ")[:200]
