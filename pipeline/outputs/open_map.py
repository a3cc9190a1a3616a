"""A folder of maps as one xarray Dataset, read lazily: classes, confidence, counts, scores and more by period."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import dask.array
import numpy as np
import rasterio
import xarray as xr
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from pipeline.errors import OutputError, ReadError
from pipeline.outputs.assets import ASSETS
from pipeline.outputs.kept_indices import indices_variable, kept_run
from pipeline.outputs.output_folder import COLLECTION_FILE, existing, read_object
from spex_core.indices import SPECTRAL_INDICES

_DASK: Any = dask.array  # typed in part only
CHUNK_PX = 1024
"""Side of what is read at once: two by two tiles of the files."""
_VARIABLES = ("landcover", "confidence", "valid_count", "unfamiliar", "truecolor", "scores")
_BAND_NAMES = {"truecolor": "color", "scores": "class"}
"""Name of the dimension of the bands, where there are several."""


@dataclass(frozen=True)
class _Map:
    """One item, as far as it is opened."""

    item: str
    run: str
    name: str
    start: str
    end: str
    epsg: int
    left: float
    top: float
    step: float
    height: int
    width: int
    assets: Mapping[str, Path]
    bands: Mapping[str, tuple[str, ...]]
    nodata: Mapping[str, int]
    classes: Mapping[int, str]


def open_map(folder: str | Path, *, name: str | None = None, epsg: int | None = None) -> xr.Dataset:
    """Opens the maps of an output folder, all periods of one region and zone; pixels are read when they are computed.

    Args:
        folder: An output folder, or a copy of one.
        name: Run name, if the folder holds maps of several.
        epsg: Zone (EPSG code), if there are several.

    Returns:
        Variables ``landcover``, ``confidence``, ``valid_count`` (uint8 ``[period, y, x]``), and ``unfamiliar`` (the
        same), ``truecolor`` (``[period, color, y, x]``) and ``scores`` (percent, ``[period, class, y, x]``) where every
        period has them. ``indices`` (float32 ``[period, index, y, x]``, the mean of the pixel's class in its cell of 80
        m, NaN where there is none) is there while the stores of all these runs are: ``spex clean`` removes them.
        ``period`` is the first day, with ``period_end`` beside it; ``y`` and ``x`` are pixel centres in metres. Where a
        period has no map, and where it has no data, is the variable's ``_FillValue``. ``attrs["crs"]`` names the zone,
        ``landcover.attrs`` the classes (``flag_values``, ``flag_meanings``).

    Raises:
        OutputError: No map is there, or several regions or zones are and none is chosen; the message lists them.
        ReadError: While computing: a file cannot be read.
    """
    found = _maps(Path(folder))
    found = _chosen(found, "name", name, "region")
    found = _chosen(found, "epsg", epsg, "zone")
    maps = sorted(found, key=lambda m: (m.start, m.end, m.item))
    steps = {m.step for m in maps}
    if len(steps) > 1:
        raise OutputError(
            f"{folder}: the maps of {maps[0].name} have pixels of {sorted(steps)} m: open them one by one"
        )
    left, top = min(m.left for m in maps), max(m.top for m in maps)
    step = maps[0].step
    offsets = [(round((top - m.top) / step), round((m.left - left) / step)) for m in maps]
    height = max(row + m.height for (row, _), m in zip(offsets, maps, strict=True))
    width = max(col + m.width for (_, col), m in zip(offsets, maps, strict=True))
    variables = {}
    for key in _VARIABLES:
        if all(key in m.assets and m.bands[key] == maps[0].bands[key] for m in maps):
            variables[key] = _variable(key, maps, offsets, (height, width))
    runs = [
        kept_run(Path(folder), m.run, m.epsg, offset, (m.height, m.width)) if m.run else None
        for m, offset in zip(maps, offsets, strict=True)
    ]
    if all(runs):
        cuts = _cut(height, CHUNK_PX), _cut(width, CHUNK_PX)
        variables["indices"] = indices_variable([run for run in runs if run], *cuts)
    periods = np.array([m.start for m in maps], "datetime64[ns]")
    coordinates: dict[str, Any] = {
        "period": periods,
        "period_end": ("period", np.array([m.end for m in maps], "datetime64[ns]")),
        "item": ("period", [m.item for m in maps]),
        "y": top - step * (np.arange(height) + 0.5),
        "x": left + step * (np.arange(width) + 0.5),
    }
    if "indices" in variables:
        coordinates["index"] = list(SPECTRAL_INDICES)
    for key, dimension in _BAND_NAMES.items():
        if key in variables:
            coordinates[dimension] = list(maps[0].bands[key])
    dataset = xr.Dataset(variables, coordinates)
    dataset.attrs = {"title": f"Land cover of {maps[0].name}", "crs": f"EPSG:{maps[0].epsg}", "resolution_m": step}
    known = maps[-1].classes
    dataset["landcover"].attrs |= {
        "flag_values": list(known),
        "flag_meanings": " ".join(meaning.replace(" ", "_") for meaning in known.values()),
    }
    return dataset


def _variable(
    key: str, maps: Sequence[_Map], offsets: Sequence[tuple[int, int]], shape: tuple[int, int]
) -> xr.DataArray:
    bands = maps[0].bands[key]
    fill = maps[0].nodata[key]
    several = key in _BAND_NAMES
    layers = []
    for m, offset in zip(maps, offsets, strict=True):
        chunks = (_cut(len(bands), len(bands)), _cut(shape[0], CHUNK_PX), _cut(shape[1], CHUNK_PX))
        layers.append(
            _DASK.map_blocks(
                _read, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8),
                path=m.assets[key], offset=offset, size=(m.height, m.width), fill=fill, name=f"{m.item}-{key}",
            )
        )  # fmt: skip
    stacked = _DASK.stack(layers)
    dimensions = ("period", _BAND_NAMES.get(key, "band"), "y", "x")
    array = xr.DataArray(stacked, dims=dimensions)
    array = array if several else array.isel(band=0)
    array.attrs = {"long_name": ASSETS[key].title, "_FillValue": fill}
    return array


def _cut(length: int, chunk: int) -> tuple[int, ...]:
    return tuple(min(chunk, length - start) for start in range(0, length, chunk))


def _read(path: Path, offset: tuple[int, int], size: tuple[int, int], fill: int, block_info: Any = None) -> np.ndarray:
    """A chunk of the common grid, uint8 ``[bands, h, w]``: the file's pixels where they are, else ``fill``."""
    (_, bands), (top, bottom), (left, right) = block_info[None]["array-location"]
    out = np.full((bands, bottom - top, right - left), fill, np.uint8)
    rows = max(top, offset[0]), min(bottom, offset[0] + size[0])
    cols = max(left, offset[1]), min(right, offset[1] + size[1])
    if rows[0] >= rows[1] or cols[0] >= cols[1]:
        return out
    window = RasterWindow(cols[0] - offset[1], rows[0] - offset[0], cols[1] - cols[0], rows[1] - rows[0])
    try:
        with rasterio.open(path) as source:
            out[:, rows[0] - top : rows[1] - top, cols[0] - left : cols[1] - left] = source.read(window=window)
    except (RasterioError, OSError, ValueError) as error:
        raise ReadError(f"{path} cannot be read: {error}") from None
    return out


# --- what is there ------------------------------------------------------------------------------------------------


def _maps(folder: Path) -> list[_Map]:
    root = existing(folder / "catalog.json", "Catalog") or {}
    found = []
    for link in root.get("links") or ():
        parts = PurePosixPath(str(link.get("href"))).parts if isinstance(link, dict) else ()
        if len(parts) != 2 or parts[1] != COLLECTION_FILE or ".." in parts or link.get("rel") != "child":
            continue
        collection = read_object(folder / parts[0] / COLLECTION_FILE) or {}
        for entry in collection.get("links") or ():
            steps = PurePosixPath(str(entry.get("href"))).parts if isinstance(entry, dict) else ()
            if len(steps) == 2 and ".." not in steps and entry.get("rel") == "item":
                opened = _opened(folder / parts[0] / steps[0], steps[1])
                found += [] if opened is None else [opened]
    if not found:
        raise OutputError(f"{folder} holds no map: its catalog leads to no item with a landcover.tif")
    return found


def _opened(folder: Path, name: str) -> _Map | None:
    """An item of a map that this version or an earlier one wrote; ``None`` for any other."""
    item = read_object(folder / name)
    try:
        if item is None:
            return None
        properties, assets = item["properties"], item["assets"]
        step, _, left, _, _, top = properties["proj:transform"][:6]
        height, width = (int(n) for n in properties["proj:shape"])
        there = {key: folder / ASSETS[key].file for key in _VARIABLES if key in assets}
        if not (folder / ASSETS["landcover"].file).is_file():
            return None
        bands = {
            key: tuple(str(band["name"]) for band in assets[key].get("bands") or ({"name": key},)) for key in there
        }
        classes = {
            c["value"]: str(c["name"]) for c in assets["landcover"]["classification:classes"] if "nodata" not in c
        }
        start, end = (str(properties[key])[:10] for key in ("start_datetime", "end_datetime"))
        return _Map(
            item=str(item["id"]),
            run=_run_id(properties),
            name=str(properties.get("spex:run_name") or item["id"]),
            start=start,
            end=end,
            epsg=int(str(properties["proj:code"]).removeprefix("EPSG:")),
            left=float(left),
            top=float(top),
            step=float(step),
            height=height,
            width=width,
            assets={key: path for key, path in there.items() if path.is_file()},
            bands=bands,
            nodata={key: int(assets[key].get("nodata", 0)) for key in there},
            classes=classes,
        )
    except (KeyError, TypeError, ValueError, json.JSONDecodeError):
        return None


def _run_id(properties: Mapping[str, Any]) -> str:
    """Of the run that made a map; empty where the item names none that could be a folder's name."""
    found = str(properties.get("spex:run_id"))
    return found if re.fullmatch("[0-9a-f]{1,64}", found) else ""


def _chosen(maps: list[_Map], field: str, wanted: str | int | None, kind: str) -> list[_Map]:
    there = sorted({getattr(m, field) for m in maps})
    if wanted is None and len(there) > 1:
        raise OutputError(
            f"maps of {len(there)} {kind}s are there, choose one by {field}=: {', '.join(map(str, there))}"
        )
    chosen = [m for m in maps if wanted is None or getattr(m, field) == wanted]
    if not chosen:
        raise OutputError(f"no map of {kind} {wanted} is there; there are {', '.join(map(str, there))}")
    return chosen
