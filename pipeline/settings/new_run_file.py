"""A run file to begin with: what the user gave, what has a default as a comment, each with a word of explanation."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from pipeline.errors import ConfigError, OutputError, RegionError
from pipeline.machine.atomic_files import write_text
from pipeline.records.region import read_region
from pipeline.settings.run_file import Provider, RegionsConfig, RunConfig

GRID_KM = (5.0, 10.0, 20.0, 50.0, 100.0)
"""Cells of a region of one area: the first that gives no more than ``regions.max_regions`` of them."""
_COMMENT_COLUMN = 34
_OPTIONAL: tuple[tuple[str, str, str], ...] = (
    ("source", "max_cloud_cover", "percent; scenes with more are left out"),
    ("composite", "method", "or least-cloudy-first: one good day is sharper; or fuse"),
    ("composite", "max_observations", "least cloudy passes that a pixel's median is over"),
    ("model", "checkpoint", "or index-rules (no network), or a folder"),
    ("model", "explain", "or brief, full: the model says something of every sub-region, afterwards"),
    ("compute", "gpus_per_actor", "1: a GPU for each model actor"),
    ("publish", "clip", "false: pixels outside the region are mapped, too"),
)
"""Fields that are told although they have a default: section, field, what it means."""


@dataclass(frozen=True)
class NewRun:
    """What a new run file is made from."""

    name: str
    start: dt.date
    end: dt.date
    region: Path | None = None
    """An existing region file; else a bounding box is written beside the run file."""
    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees; west is greater than east across the antimeridian."""
    provider: Provider = "earth-search"
    url: str | None = None


def read_bbox(text: str) -> tuple[float, float, float, float]:
    """``W,S,E,N`` in degrees.

    Raises:
        ConfigError: Not four numbers, or no box on the Earth; the message says in which order they are expected.
    """
    order = "west,south,east,north in degrees, e.g. 4.8,50.5,5.2,50.8"
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--bbox {text[:80]!r} is not four numbers: {order}") from None
    if not all(math.isfinite(value) for value in (west, south, east, north)):
        raise ConfigError(f"--bbox {text[:80]!r} holds what is no number: {order}")
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= 90 and -90 <= north <= 90):
        raise ConfigError(f"--bbox {text[:80]!r} is outside the Earth (longitude 180, latitude 90): {order}")
    if south >= north or west == east:
        raise ConfigError(f"--bbox {text[:80]!r} has no area (south must be below north): {order}")
    return west, south, east, north


def name_from(region: Path | None) -> str:
    """A name that a folder can have, from that of a region file."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", region.name.partition(".")[0] if region is not None else "")
    return plain.strip(".-_")[:100] or "my-map"


def last_month(today: dt.date) -> tuple[dt.date, dt.date]:
    """First and last day of the month before a day's own."""
    end = today.replace(day=1) - dt.timedelta(days=1)
    return end.replace(day=1), end


def write_run_file(path: Path, new: NewRun, *, force: bool = False) -> tuple[Path, ...]:
    """Writes a run file and, for a bounding box, its region beside it.

    Args:
        path: The run file.
        new: What it says.
        force: Whether files that are there may be replaced.

    Returns:
        What was written.

    Raises:
        ConfigError: A value is wrong, or nothing or two things say what to map.
        RegionError: The region cannot be mapped.
        OutputError: A file is there already, or cannot be written.
    """
    if (new.region is None) == (new.bbox is None):
        raise ConfigError("give what to map: --bbox W,S,E,N, or --region FILE, and not both")
    if new.provider == "generic" and new.url is None:
        raise ConfigError("provider generic has no address of its own: give --url, a STAC API or a catalog.json")
    folder = path.absolute().parent
    outline = folder / f"{new.name}.geojson"
    region = outline if new.region is None else new.region.absolute()
    files = (path,) if new.bbox is None else (outline, path)
    for file in files:
        if os.path.lexists(file) and not (force and not file.is_dir()):
            raise OutputError(f"{file} is there already: give another name, or --force to replace it")
    geojson = "" if new.bbox is None else json.dumps(_feature_collection(new.name, new.bbox), indent=2) + "\n"
    text = _text(new, path, _written(folder, region), folder, _grid_km(region, geojson))
    RunConfig.from_dict(yaml.safe_load(text), folder, str(path))
    if geojson:
        write_text(outline, geojson)
    write_text(path, text)
    return files


def _grid_km(region: Path, geojson: str) -> float:
    """Cell size with which the region can be mapped; it is read as a run would."""
    with tempfile.TemporaryDirectory() as folder:
        if geojson:
            region = Path(folder, region.name)
            region.write_text(geojson, encoding="utf-8")
        first: RegionError | None = None
        for grid_km in GRID_KM:
            try:
                read_region(region, grid_km=grid_km)
                return grid_km
            except RegionError as error:
                first = first or error
        assert first is not None
        raise RegionError(str(first).replace(f"{folder}{os.sep}", ""))


def _feature_collection(name: str, bbox: Sequence[float]) -> dict[str, Any]:
    west, south, east, north = bbox
    east += 360 if east < west else 0
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    feature = {
        "type": "Feature",
        "properties": {"id": name, "name": name},
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
    return {"type": "FeatureCollection", "features": [feature]}


def _written(folder: Path, path: Path) -> str:
    """A path as the file says it: relative to its folder where it lies there or below, else whole."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _text(new: NewRun, path: Path, region: str, folder: Path, grid_km: float) -> str:
    url = new.url
    if url is not None and "://" not in url and Path(url).exists():
        url = _written(folder, Path(url).absolute())
    optional = {section: list(_lines(section, grid_km)) for section, _, _ in (*_OPTIONAL, ("regions", "", ""))}
    lines = [
        "# A land-cover map. All fields: the section 'The run file' of docs/user-guide.md.",
        "# A field behind '# ' has the default that is shown: take those two characters away, of its section too.",
        "#",
        f"#   spex plan {path.name}    # scenes, gaps and cost, before anything is computed",
        f"#   spex run {path.name}     # makes the map; stopped, the same command goes on",
        _line("name", new.name, "of the map and its item"),
        _line("region", region, "paths are relative to this file"),
        _line("start", new.start.isoformat(), "first day (UTC)"),
        _line("end", new.end.isoformat(), "last day, inclusive"),
        _line("output", f"out/{new.name}", "the map goes here"),
        "source:",
        _line("  provider", new.provider, f"one of {', '.join(get_args(Provider))}"),
        _line("  url", url, "a STAC API, or a catalog.json")
        if url is not None
        else _line("# url", "https://...", "another STAC API, or a catalog.json", below=True),
        *optional.pop("source"),
        _line("# legend", "worldcover9", "or a YAML file with classes of your own"),
    ]
    for section, fields in optional.items():
        told = any(not field.lstrip().startswith("#") for field in fields)
        lines += [f"{section}:" if told else f"# {section}:", *fields]
    return "\n".join(lines) + "\n"


def _lines(section: str, grid_km: float) -> list[str]:
    model: Any = RunConfig.model_fields[section].annotation
    lines = [_line(f"# {f}", _default(model, f), why, below=True) for s, f, why in _OPTIONAL if s == section]
    if section == "regions":
        least = _default(RegionsConfig, "grid_km")
        why = "cell size of the sub-regions that get statistics and a text"
        lines.append(_line("  grid_km" if grid_km != least else "# grid_km", grid_km, why, below=grid_km == least))
    return lines


def _default(model: type[BaseModel], field: str) -> Any:
    return model.model_fields[field].default


def _line(field: str, value: Any, comment: str, *, below: bool = False) -> str:
    """``field: value  # comment``; ``below`` indents a commented field of a section behind its ``#``."""
    field = field.replace("# ", "#   ") if below else field
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*|https://\.\.\.", value):
        value = json.dumps(value)  # what YAML could take for something else stands in quotes
    elif isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, float):
        value = f"{value:g}"
    return f"{f'{field}: {value}':<{_COMMENT_COLUMN}}  # {comment}"
