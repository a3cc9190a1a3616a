"""Data of PROJ and GDAL: that of the installed wheels, whatever another program's environment says.

``PROJ_LIB``, ``PROJ_DATA`` and ``GDAL_DATA`` are set by QGIS, conda, R and ESA SNAP for their own libraries. The wheels
of rasterio and pyproj carry the data that fit them; with those of another version, or none, a map cannot be published.
So the variables are left out, for this process and those that it starts. Where the libraries are the system's (conda,
Debian) they carry no data and the variables stay.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PROJ_VARIABLES = ("PROJ_DATA", "PROJ_LIB")
GDAL_VARIABLES = ("GDAL_DATA",)

_left_out: dict[str, str] = {}


@dataclass(frozen=True)
class WheelData:
    """Folders inside the installed packages; None where a package has none."""

    proj: Path | None
    """Of rasterio; only where pyproj has its own too."""
    gdal: Path | None


def wheel_data() -> WheelData:
    """What the installed wheels carry; imports none of them."""
    proj = _inside("rasterio", "proj_data", "proj.db")
    if _inside("pyproj", "proj_dir/share/proj", "proj.db") is None:
        proj = None
    return WheelData(proj, _inside("rasterio", "gdal_data", "gdalvrt.xsd"))


def leave_out_foreign_data() -> dict[str, str]:
    """Takes variables that name other data out of the environment; best before rasterio is imported, and right after.

    Returns:
        Name → value of those that were left out, now or by an earlier call.
    """
    data = wheel_data()
    for own, names in ((data.proj, PROJ_VARIABLES), (data.gdal, GDAL_VARIABLES)):
        for name in names:
            if own is not None and name in os.environ:
                value = os.environ.pop(name)
                if value and not _is(value, own):
                    _left_out[name] = value
    if _left_out and "rasterio" in sys.modules:  # it has looked at them already
        with contextlib.suppress(ImportError, AttributeError):
            environment = importlib.import_module("rasterio._env")
            if data.proj is not None:
                environment.set_proj_data_search_path(str(data.proj))
            if data.gdal is not None:
                environment.set_gdal_config("GDAL_DATA", str(data.gdal))
    return dict(_left_out)


def _inside(package: str, folder: str, file: str) -> Path | None:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(place) / folder / file).is_file():
            return Path(place) / folder
    return None


def _is(value: str, own: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(value, own)
    return False
