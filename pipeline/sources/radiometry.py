"""The one place that decides how digital numbers become surface reflectance: scale, offset and nodata per provider.

Since processing baseline 04.00 (January 2022, and every reprocessing) Level-2A products carry ``BOA_ADD_OFFSET`` =
-1000: reflectance = (DN - 1000) / 10000, DN 0 = nodata (Sentinel-2 Products Specification, ESA). Catalogs tell it in
different ways, so each provider has its own rule here. Decisions use metadata and the baseline, **never the date**:
archives hold old acquisitions of new baselines. Every decision carries one line of evidence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import SceneError
from pipeline.records.scene import SCL
from pipeline.settings.run_file import Provider
from spex_core.bands import BAND_INDEX

SCALE = 1e-4
"""Reflectance per digital number (QUANTIFICATION_VALUE 10000)."""
BASELINE_OFFSET = -0.1
"""Reflectance added since baseline 04.00 (BOA_ADD_OFFSET -1000)."""
OFFSET_BASELINE = (4, 0)
NODATA = 0

_BASELINE = re.compile(r"^(\d{1,2})\.(\d{1,2})$")
_PRODUCT_BASELINE = re.compile(r"(?:^|_)N(\d{2})(\d{2})_")


@dataclass(frozen=True)
class Calibration:
    """Digital number → reflectance of one asset: ``DN * scale + offset``; ``DN == nodata`` is no measurement."""

    scale: float
    offset: float
    nodata: int


def calibrate(
    provider: Provider, item: Mapping[str, Any], assets: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Calibration], str]:
    """Decides scale, offset and nodata of every band of one item.

    Args:
        provider: Whose rule applies.
        item: The STAC item (its ``properties`` and ``id`` are read).
        assets: Band name (and ``"SCL"``) → asset of the item.

    Returns:
        Band name → calibration, and the decision with its evidence in one line.

    Raises:
        SceneError: Nothing in the item decides it, or what it says cannot be (named).
    """
    declared = {name: _declared(item, name, asset) for name, asset in assets.items() if name != SCL}
    if provider == "earth-search":
        table, why = _earth_search(item, declared)
    elif provider == "planetary-computer":
        baseline = processing_baseline(item)
        if baseline is None:
            raise SceneError(f"{_id(item)}: no s2:processing_baseline, so the radiometric offset is unknown")
        table, why = _by_baseline(baseline, declared), f"planetary-computer leaves the offset in; {_text(baseline)}"
    else:
        table, why = _declared_or_baseline(provider, item, declared)
    if SCL in assets:
        table[SCL] = Calibration(1.0, 0.0, NODATA)
    return table, f"{_summary(table)}: {why}"


def processing_baseline(item: Mapping[str, Any]) -> tuple[int, int] | None:
    """Processing baseline (major, minor) of an item: from its properties, else from the product name; else None."""
    properties = item.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    for key in ("s2:processing_baseline", "processing:version", "sentinel2:processing_baseline"):
        found = _BASELINE.match(str(properties.get(key, "")).strip())
        if found:
            return int(found[1]), int(found[2])
    for name in (properties.get("s2:product_uri"), properties.get("sentinel:product_id"), item.get("id")):
        found = _PRODUCT_BASELINE.search(str(name or ""))
        if found:
            return int(found[1]), int(found[2])
    return None


def _earth_search(
    item: Mapping[str, Any], declared: Mapping[str, Calibration | None]
) -> tuple[dict[str, Calibration], str]:
    applied = item.get("properties", {}).get("earthsearch:boa_offset_applied")
    baseline = processing_baseline(item)
    if isinstance(applied, bool):
        # The flag speaks of the files and wins over raster:bands, which repeats the product's offset even where the
        # files already carry it (earth-search issues 66 and 71).
        if applied:
            table, why = _with_offset(0.0, declared), "earthsearch:boa_offset_applied is true, files carry the offset"
        elif baseline is not None:
            table = _by_baseline(baseline, declared)
            why = f"earthsearch:boa_offset_applied is false, {_text(baseline)}"
        else:
            return _declared_or_baseline("earth-search", item, declared)
        said = {c.offset for c in declared.values() if c is not None}
        chosen = {c.offset for c in table.values()}
        if said and said != chosen:
            why += f"; raster:bands says offset {_offsets(said)}, overruled"
        return table, why
    return _declared_or_baseline("earth-search", item, declared)


def _declared_or_baseline(
    provider: str, item: Mapping[str, Any], declared: Mapping[str, Calibration | None]
) -> tuple[dict[str, Calibration], str]:
    explicit = {name: c for name, c in declared.items() if c is not None}
    if len(explicit) == len(declared):
        return dict(explicit), f"{provider} raster metadata of the assets"
    baseline = processing_baseline(item)
    if explicit:
        missing = [name for name in declared if name not in explicit]
        raise SceneError(
            f"{_id(item)}: {', '.join(explicit)} have raster scale and offset but {', '.join(missing)} have none; "
            "give it for every band (STAC raster extension)"
        )
    if baseline is None:
        raise SceneError(
            f"{_id(item)}: neither raster scale/offset (raster:bands, or raster:scale in STAC 1.1) nor a processing "
            "baseline (s2:processing_baseline) says how DN become reflectance; add one of them to the item"
        )
    return _by_baseline(baseline, declared), f"{provider} without raster metadata, {_text(baseline)}"


def _by_baseline(baseline: tuple[int, int], declared: Mapping[str, Calibration | None]) -> dict[str, Calibration]:
    return _with_offset(BASELINE_OFFSET if baseline >= OFFSET_BASELINE else 0.0, declared)


def _with_offset(offset: float, declared: Mapping[str, Calibration | None]) -> dict[str, Calibration]:
    return {
        name: Calibration(SCALE if c is None else c.scale, offset, NODATA if c is None else c.nodata)
        for name, c in declared.items()
    }


def _declared(item: Mapping[str, Any], name: str, asset: Mapping[str, Any]) -> Calibration | None:
    """Scale and offset that an asset itself gives: ``raster:bands`` (1.x), ``bands`` or asset level (STAC 1.1)."""
    sources: list[Mapping[str, Any]] = [asset]
    for field in ("bands", "raster:bands"):
        bands = asset.get(field)
        if isinstance(bands, list) and bands:
            if len(bands) > 1:
                raise SceneError(f"{_id(item)}: asset of {name} has {len(bands)} bands; one band per asset is needed")
            if isinstance(bands[0], Mapping):
                sources.insert(0, bands[0])

    def first(*keys: str) -> Any:
        return next((s[k] for s in sources for k in keys if s.get(k) is not None), None)

    scale, offset = first("raster:scale", "scale"), first("raster:offset", "offset")
    if scale is None and offset is None:
        return None
    nodata = first("nodata", "raster:nodata")
    try:
        calibration = Calibration(
            SCALE if scale is None else float(scale),
            0.0 if offset is None else float(offset),
            NODATA if nodata is None or (n := float(nodata)) != n else int(n),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise SceneError(f"{_id(item)}: raster scale/offset/nodata of {name} is not a number: {error}") from error
    if not (math.isfinite(calibration.scale) and 0.0 < calibration.scale <= 1.0):
        raise SceneError(f"{_id(item)}: raster scale {calibration.scale:g} of {name} is not in (0, 1]")
    if not (math.isfinite(calibration.offset) and abs(calibration.offset) <= 1.0):
        raise SceneError(
            f"{_id(item)}: raster offset {calibration.offset:g} of {name} is not a reflectance; "
            "STAC offsets are added after scaling (-0.1, not -1000)"
        )
    return calibration


def _id(item: Mapping[str, Any]) -> str:
    return str(item.get("id"))


def _text(baseline: tuple[int, int]) -> str:
    return f"processing baseline {baseline[0]:02d}.{baseline[1]:02d}"


def _offsets(values: set[float]) -> str:
    return "/".join(f"{v:g}" for v in sorted(values))


def _summary(table: Mapping[str, Calibration]) -> str:
    bands = [c for name, c in table.items() if name != SCL]
    return f"scale {_offsets({c.scale for c in bands})}, offset {_offsets({c.offset for c in bands})}"


DARK_SAMPLE_MIN = 500
"""Fewest valid pixels on which :func:`check_dark_pixels` says anything."""


def check_dark_pixels(reflectance: npt.NDArray[np.float32]) -> str | None:
    """Warns when the darkest pixels contradict the chosen offset by about the 0.1 of a forgotten or doubled one.

    Clear water absorbs beyond the red and dense vegetation below the green, so both stay below 0.05 there; nothing
    reflects -0.05. An offset left in lifts every pixel of every band above 0.09 **and** makes water or vegetation
    appear once 0.1 is taken away again: both must hold, so that deserts and snow raise no alarm.

    Args:
        reflectance: ``[10, ...]`` float32 in band order, NaN = none.

    Returns:
        One line, or None when nothing contradicts the decision or the sample is too small.
    """
    pixels = reflectance.reshape(reflectance.shape[0], -1)
    pixels = pixels[:, np.isfinite(pixels).all(axis=0)]
    if pixels.shape[1] < DARK_SAMPLE_MIN:
        return None
    darkest = pixels.min(axis=0)
    low = float(np.percentile(darkest, 1.0))
    if low < -0.05:
        return f"dark pixels at reflectance {low:.3f}: the offset seems to be subtracted twice"
    if low < 0.09:
        return None
    shifted = pixels - np.float32(-BASELINE_OFFSET)
    red, nir, swir = (shifted[BAND_INDEX[name]] for name in ("B04", "B08", "B11"))
    vegetation = (red < 0.08) & (nir > 4.0 * np.maximum(red, 0.01))
    water = (nir < 0.05) & (swir < 0.05)
    share = float((vegetation | water).mean())
    if share < 0.01:
        return None
    return f"no pixel is darker than reflectance {low:.3f}: the offset of -0.1 seems to be missing"
