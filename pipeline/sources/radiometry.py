"""The one place that decides how digital numbers become surface reflectance: scale, offset and nodata per provider.

Since processing baseline 04.00 (January 2022, and every reprocessing) Level-2A products carry ``BOA_ADD_OFFSET`` =
-1000: reflectance = (DN - 1000) / 10000, DN 0 = nodata (Sentinel-2 Products Specification, ESA). Catalogs tell it in
different ways. Decisions use metadata and the baseline, **never the date**: archives hold old acquisitions of new
baselines. Every decision carries one line of evidence; :mod:`pipeline.imagery.examination` holds it against pixels.

Nodata is decided apart: an asset may give it without a scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import SceneError
from pipeline.records.scene import SCL
from pipeline.settings.run_file import Provider
from pipeline.sources.baselines import offset_applied, processing_baseline

SCALE = 1e-4
"""Reflectance per digital number (QUANTIFICATION_VALUE 10000)."""
BASELINE_OFFSET = -0.1
"""Reflectance added since baseline 04.00 (BOA_ADD_OFFSET -1000)."""
OFFSET_BASELINE = (4, 0)
NODATA = 0
COARSEST_INTEGER_SCALE = 0.02
"""Integers of a larger scale would tell fifty kinds of grey apart, or be numbers in the thousands."""


@dataclass(frozen=True)
class Calibration:
    """Digital number → reflectance of one asset: ``DN * scale + offset``; ``DN == nodata`` is no measurement."""

    scale: float
    offset: float
    nodata: float


@dataclass(frozen=True)
class Radiometry:
    """What was decided for one item, and why."""

    table: dict[str, Calibration]
    """Band name (and ``"SCL"``) → calibration."""
    why: str
    """The decision with its evidence in one line."""
    told_offsets: tuple[float, ...]
    """Offsets that the item names in any way (flag, baseline, raster metadata), the most believed first."""
    doubt: str = ""
    """What of the metadata was not believed; empty: nothing."""


@dataclass(frozen=True)
class _Declared:
    """What one asset itself says."""

    scale: float | None
    offset: float | None
    nodata: float
    believed: bool
    """False for integers with a scale that no reflectance has."""
    offset_in_numbers: float | None = None
    """The offset as it stands there, where it is one of digital numbers (before scaling)."""

    @property
    def complete(self) -> bool:
        return self.believed and (self.scale is not None or self.offset is not None)

    @property
    def tells_offset(self) -> bool:
        """False for what is written where nothing is known: scale 1 and offset 0."""
        return self.complete and (self.scale != 1.0 or bool(self.offset))

    def with_offset(self, offset: float) -> Calibration:
        return Calibration(self.scale if self.believed and self.scale is not None else SCALE, offset, self.nodata)

    def calibration(self) -> Calibration:
        return self.with_offset(self.offset or 0.0)


def calibrate(provider: Provider, item: Mapping[str, Any], assets: Mapping[str, Mapping[str, Any]]) -> Radiometry:
    """Decides scale, offset and nodata of every band of one item.

    A flag that says whether the files carry the offset counts for every provider and wins over raster metadata, which
    repeat the product's offset even where the files already carry it (earth-search issues 66 and 71).

    Args:
        provider: Whose rule applies.
        item: The STAC item (its ``properties`` and ``id`` are read).
        assets: Band name (and ``"SCL"``) → asset of the item.

    Raises:
        SceneError: Nothing in the item decides it, or what it says cannot be (named).
    """
    declared = {name: _declared(item, name, asset) for name, asset in assets.items() if name != SCL}
    flag, baseline = offset_applied(item), processing_baseline(item)
    by_baseline = None if baseline is None else BASELINE_OFFSET if baseline >= OFFSET_BASELINE else 0.0
    rule = 0.0 if flag is not None and flag[0] else by_baseline
    if flag is not None and rule is not None:
        table = {name: d.with_offset(rule) for name, d in declared.items()}
        why = f"{flag[1]} is true, files carry the offset" if flag[0] else f"{flag[1]} is false, {_text(baseline)}"
        others = {d.offset or 0.0 for d in declared.values() if d.complete}
        if others and others != {rule}:
            why += f"; raster:bands says offset {_offsets(others)}, overruled"
    elif provider == "planetary-computer" and by_baseline is not None:
        table = {name: d.with_offset(by_baseline) for name, d in declared.items()}
        why = f"planetary-computer leaves the offset in; {_text(baseline)}"
    else:
        table, why = _declared_or_baseline(provider, item, declared, baseline, by_baseline)
    not_believed = [name for name, d in declared.items() if not d.believed]
    doubt = ""
    if not_believed:
        scales = _offsets({table_scale for name in not_believed if (table_scale := declared[name].scale) is not None})
        doubt = f"raster metadata of {', '.join(not_believed)} give integers a scale of {scales}, which is not believed"
        why = f"{why}; {doubt}" if rule is not None else why
    in_numbers = {name: d.offset_in_numbers for name, d in declared.items() if d.offset_in_numbers is not None}
    if in_numbers:
        meant = _offsets({declared[name].offset or 0.0 for name in in_numbers})
        said_so = (
            f"raster metadata of {', '.join(in_numbers)} give the offset in digital numbers "
            f"({_offsets(set(in_numbers.values()))}), read as {meant}"
        )
        why = f"{why}; {said_so}"
        if rule is None:  # nothing else says so
            doubt = "; ".join(part for part in (doubt, said_so) if part)
    if SCL in assets:
        table[SCL] = Calibration(1.0, 0.0, NODATA)
    said = sorted(d.offset or 0.0 for d in declared.values() if d.tells_offset)
    believed = [by_baseline, *said] if provider == "planetary-computer" else [*said, by_baseline]
    told = [rule if flag is not None else None, *believed]
    told_offsets = tuple(dict.fromkeys(offset for offset in told if offset is not None))
    return Radiometry(table, f"{_summary(table)}: {why}", told_offsets, doubt)


def _declared_or_baseline(
    provider: str,
    item: Mapping[str, Any],
    declared: Mapping[str, _Declared],
    baseline: tuple[int, int] | None,
    rule: float | None,
) -> tuple[dict[str, Calibration], str]:
    explicit = [name for name, d in declared.items() if d.complete]
    doubtful = [name for name, d in declared.items() if not d.believed]
    if len(explicit) == len(declared):
        said = {declared[name].offset or 0.0 for name in explicit}
        if len(said) == 1 or rule is None:
            return {name: d.calibration() for name, d in declared.items()}, f"{provider} raster metadata of the assets"
        why = f"raster metadata give offsets {_offsets(said)}, which one product never has together; {_text(baseline)}"
        return {name: d.with_offset(rule) for name, d in declared.items()}, why
    missing = [name for name in declared if name not in explicit]
    alike = {(declared[name].scale or SCALE, declared[name].offset or 0.0) for name in explicit} == {(SCALE, rule)}
    if explicit and not doubtful and not alike:
        raise SceneError(
            f"{_id(item)}: {', '.join(explicit)} have raster scale and offset but {', '.join(missing)} have none; "
            "give it for every band (STAC raster extension)"
        )
    if rule is None and doubtful:
        # The pixels decide: see pipeline.imagery.examination.
        return {
            name: Calibration(d.scale or SCALE, d.offset or 0.0, d.nodata) for name, d in declared.items()
        }, f"{provider} raster metadata of the assets, which integers cannot have"
    if rule is None:
        raise SceneError(
            f"{_id(item)}: neither raster scale/offset (raster:bands, or raster:scale in STAC 1.1) nor a processing "
            "baseline (s2:processing_baseline) says how DN become reflectance; add one of them to the item"
        )
    without = f" of {', '.join(missing)}" if explicit and not doubtful else ""
    return {name: d.with_offset(rule) for name, d in declared.items()}, (
        f"{provider} without {'believable ' if doubtful else ''}raster metadata{without}, {_text(baseline)}"
    )


def _declared(item: Mapping[str, Any], name: str, asset: Mapping[str, Any]) -> _Declared:
    """What an asset itself gives: ``raster:bands`` (1.x), ``bands`` or asset level (STAC 1.1)."""
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

    try:
        scale, offset = (_number(first(f"raster:{key}", key)) for key in ("scale", "offset"))
        nodata = _number(first("nodata", "raster:nodata", "file:nodata"))
    except (TypeError, ValueError, OverflowError) as error:
        raise SceneError(f"{_id(item)}: raster scale/offset/nodata of {name} is not a number: {error}") from error
    if scale is not None and not (math.isfinite(scale) and 0.0 < scale <= 1.0):
        raise SceneError(f"{_id(item)}: raster scale {scale:g} of {name} is not in (0, 1]")
    in_numbers = None
    if offset is not None and 1.0 < abs(offset) <= 1.0 / (scale or SCALE):
        in_numbers, offset = offset, offset * (scale or SCALE)
    if offset is not None and not (math.isfinite(offset) and abs(offset) <= 1.0):
        raise SceneError(
            f"{_id(item)}: raster offset {offset:g} of {name} is not a reflectance; "
            "STAC offsets are added after scaling (-0.1, not -1000)"
        )
    integers = "int" in str(first("data_type", "raster:data_type") or "").lower()
    believed = not (integers and scale is not None and scale > COARSEST_INTEGER_SCALE)
    return _Declared(scale, offset, NODATA if nodata is None else _whole(nodata), believed, in_numbers)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        raise TypeError(f"{value!r} is a truth value")
    return None if value is None else float(value)


def _whole(nodata: float) -> float:
    """Nodata as it is compared: an int where it is whole; what no number is (NaN, infinity) is never a measurement."""
    if not math.isfinite(nodata):
        return NODATA
    return int(nodata) if nodata == int(nodata) else nodata


def _id(item: Mapping[str, Any]) -> str:
    return str(item.get("id"))


def _text(baseline: tuple[int, int] | None) -> str:
    return "no processing baseline" if baseline is None else f"processing baseline {baseline[0]:02d}.{baseline[1]:02d}"


def _offsets(values: set[float]) -> str:
    return "/".join(f"{v:g}" for v in sorted(values))


def _summary(table: Mapping[str, Calibration]) -> str:
    bands = [c for name, c in table.items() if name != SCL]
    return f"scale {_offsets({c.scale for c in bands})}, offset {_offsets({c.offset for c in bands})}"
