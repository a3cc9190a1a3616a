"""Is what a scene's files hold reflectance, by the scale, offset and nodata that were decided from metadata?

A pure function of the scene and a sample of its files. What is changed is changed only where the evidence is one-sided:
what was decided is impossible, and exactly one of the ways that such files are written is possible. Otherwise the
scene is set aside, and the next one serves. Deserts, snow, clouds, dark water and winter forests are all possible.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.imagery.dark_pixels import (
    NO_DARKER,
    SAMPLE_MIN,
    STEP,
    bright_vegetation,
    darkest,
    offset_evidence,
    whole_pixels,
)
from pipeline.imagery.nodata_leaks import REFLECTANCES, Leak, find_leak
from pipeline.imagery.scene_sample import FileSample, SceneSample
from pipeline.records.scene import SCL, Scene, SceneAsset
from pipeline.records.utm import northing_shift_m
from pipeline.sources.radiometry import BASELINE_OFFSET, SCALE

UNUSED_CLASSES = (0, 1, 3, 8, 9, 10)
"""Of the scene classification: nodata, defective, shadow, clouds. The rest is ground."""
VEGETATION_CLASS = 4
DARK_CLASS = 2
"""Shadows of terrain, which are sometimes corrected too far."""
LAND_OR_CLOUD = (4, 5, 8, 9, 11)
"""Vegetation, soil, clouds, snow: what is never black in all bands."""
PIXELS_MIN = 50
"""Fewest values of a band that are said anything about."""
BRIGHTEST_MEDIAN, BRIGHTEST = 1.6, 3.0
"""Half of a scene is never brighter than the first (clouds against the sun), nor a hundredth than the second."""
BLACKEST, BLACKEST_LAND = 0.003, 0.012
"""99th percentile of the brightest band: no scene stays below the first, none with land, snow or clouds the second."""
USUAL_TOP = (0.03, 2.0)
"""The same of a scale that may be put in the place of an impossible one."""

_DARK = "all values are reflectances below"
_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Verdict:
    """What an examination says of one scene."""

    scene: Scene
    """As it is to be used."""
    changes: tuple[str, ...] = ()
    """What was corrected, each with its evidence."""
    doubts: tuple[str, ...] = ()
    """What stays doubtful."""
    refused: str = ""
    """Why the scene is set aside; empty: it is used."""

    def noted(self) -> Scene:
        """The scene with the verdict in its radiometry and doubt."""
        if not self.changes and not self.doubts:
            return self.scene
        text = "; ".join((*(f"corrected: {change}" for change in self.changes), *self.doubts))
        radiometry = f"{self.scene.radiometry}; {text}"
        if self.changes:
            bands = [asset for name, asset in self.scene.assets.items() if name != SCL]
            scales, offsets = ("/".join(f"{v:g}" for v in sorted(set(values))) for values in (
                [a.scale for a in bands], [a.offset for a in bands]))  # fmt: skip
            radiometry = f"scale {scales}, offset {offsets}: {text} (the metadata: {self.scene.radiometry})"
        doubt = "; ".join(part for part in (self.scene.doubt, text) if part)
        return dataclasses.replace(self.scene, radiometry=radiometry, doubt=doubt)


class Impossible(Exception):
    """The values cannot be reflectance, and no single way to read them is left."""


def examine(scene: Scene, sample: SceneSample) -> Verdict:
    """Holds a scene's radiometry and grid against a sample of its files."""
    bands = {name: file for name, file in sample.bands.items() if name in scene.assets}
    changes: list[str] = []
    doubts: list[str] = []
    try:
        scene = _with_own_grid(scene, bands, changes)
        usable = None if sample.classes is None else ~np.isin(sample.classes, UNUSED_CLASSES)
        scene = _with_own_nodata(scene, bands, usable, changes)
        for names in _groups(scene, list(bands)):
            scene = _with_possible_scale(scene, {n: bands[n] for n in names}, sample.classes, usable, changes, doubts)
        ground = usable
        if usable is not None and sample.classes is not None:
            lit = usable & (sample.classes != DARK_CLASS)
            ground = lit if lit.sum() >= SAMPLE_MIN else usable
        for names in _groups(scene, list(bands)):
            group = {n: bands[n] for n in names}
            scene = _with_possible_offset(scene, group, ground, changes, doubts)
            vegetated = None if ground is None else ground & (sample.classes == VEGETATION_CLASS)
            if vegetated is not None and bright_vegetation(reflectance(scene, group, ground), names, vegetated):
                doubts.append(
                    f"doubtful: vegetation is nowhere darker than reflectance {NO_DARKER:g}: haze, or an offset of "
                    f"{BASELINE_OFFSET:g} that is still in the files"
                )
    except Impossible as reason:
        return Verdict(scene, tuple(changes), tuple(doubts), str(reason))
    return Verdict(scene, tuple(changes), tuple(doubts))


# --- grid -----------------------------------------------------------------------------------------------------------


def _with_own_grid(scene: Scene, bands: Mapping[str, FileSample], changes: list[str]) -> Scene:
    """A file's own projection and extent win over what the item says of them."""
    found = {file.epsg for file in bands.values() if file.epsg is not None}
    if len(found) == 1 and northing_shift_m(epsg := found.pop(), scene.epsg) is None:
        changes.append(f"the files are in EPSG:{epsg}, not in EPSG:{scene.epsg}")
        unknown = {name: changed_asset(a, shape=None, transform=None) for name, a in scene.assets.items()}
        scene = dataclasses.replace(scene, epsg=epsg, assets=unknown)
    moved = [
        name for name, file in bands.items() if file.epsg == scene.epsg and _is_elsewhere(scene.assets[name], file)
    ]
    if moved:
        changes.append(f"the extent of {', '.join(moved)} is not the one that proj:shape and proj:transform give")
        # Of the files that were not looked at nothing is known then: their own grid is taken when they are read.
        assets = {name: changed_asset(a, shape=None, transform=None) for name, a in scene.assets.items()}
        scene = dataclasses.replace(scene, assets=assets)
    return scene


def _is_elsewhere(asset: SceneAsset, file: FileSample) -> bool:
    if asset.shape is None or asset.transform is None:
        return False
    told, own = _extent(asset.shape, asset.transform), _extent(file.shape, file.transform)
    tolerance = 1.01 * max(abs(asset.transform[0]), abs(file.transform[0]))
    return any(abs(a - b) > tolerance for a, b in zip(told, own, strict=True))


def _extent(shape: tuple[int, int], transform: Sequence[float]) -> tuple[float, float, float, float]:
    a, _, left, _, e, top = transform
    return left, top, left + shape[1] * a, top + shape[0] * e


# --- nodata ---------------------------------------------------------------------------------------------------------


def _with_own_nodata(scene: Scene, bands: Mapping[str, FileSample], usable: _Bool | None, changes: list[str]) -> Scene:
    """A value that repeats at the end of the range and cannot be a measurement is the files' nodata."""
    leaks: dict[str, Leak] = {}
    for name, file in bands.items():
        others = [f.numbers for n, f in bands.items() if n != name]
        leak = find_leak(file, scene.assets[name], others, usable)
        if leak is not None:
            leaks[name] = leak
    if not leaks:
        return scene
    values = {leak.value for leak in leaks.values()}
    told = {scene.assets[name].nodata for name in leaks}
    text = f"{_numbers(values)} on {max(leak.share for leak in leaks.values()):.1%} of the ground"
    if len(values) > 1 or any(leak.told_occurs for leak in leaks.values()):
        raise Impossible(f"{text} cannot be a measurement, and nodata is said to be {_numbers(told)}")
    value = values.pop()
    changes.append(f"nodata is {value:g}, not {_numbers(told)} ({text})")
    assets = {
        name: changed_asset(asset, nodata=value)
        if name in leaks or (name != SCL and name not in bands and asset.nodata in told)
        else asset
        for name, asset in scene.assets.items()
    }
    return dataclasses.replace(scene, assets=assets)


# --- scale ----------------------------------------------------------------------------------------------------------


def _with_possible_scale(
    scene: Scene,
    bands: Mapping[str, FileSample],
    classes: npt.NDArray[np.uint8] | None,
    usable: _Bool | None,
    changes: list[str],
    doubts: list[str],
) -> Scene:
    asset = scene.assets[next(iter(bands))]
    values = measured(scene, bands, None if classes is None else classes > 1)  # 1: saturated or defective
    if not values:
        return scene
    land = classes is not None and np.isin(classes, LAND_OR_CLOUD).sum() >= 0.2 * max((classes > 0).sum(), PIXELS_MIN)
    dtypes = {bands[name].dtype for name in values}
    fault = _fault(values, asset, bool(land), dtypes)
    if fault is None:
        return scene
    possible = []
    for scale, offset in _ways(scene, asset, dtypes):
        as_read = {name: v * np.float32(scale) + np.float32(offset) for name, v in values.items()}
        top = max(float(np.percentile(v, 99.0)) for v in as_read.values())
        low = min(float(np.percentile(v, 1.0)) for v in as_read.values())
        if not USUAL_TOP[0] <= top - offset <= USUAL_TOP[1] or top > BRIGHTEST_MEDIAN or low < -STEP:
            continue
        found = offset_evidence(reflectance(scene, bands, usable, (scale, offset)), list(bands))
        if found == "missing" and scale != SCALE:  # scaled, but not shifted
            possible.append((scale, offset - STEP))
        elif found in (None, "perhaps missing"):
            possible.append((scale, offset))
    if len({scale for scale, _ in possible}) == 1 and len(possible) > 1 and scene.told_offsets:
        possible = [way for way in possible if way[1] == scene.told_offsets[0]]
    if not possible and fault.startswith(_DARK):  # no other way would make it brighter, and night is darker still
        if land:
            doubts.append(f"doubtful: {fault} although there is land")
        return scene
    if len(possible) != 1:
        ways = " or ".join(f"scale {s:g}, offset {o:g}" for s, o in possible) or "no usual scale"
        raise Impossible(f"{fault} by scale {asset.scale:g}, offset {asset.offset:g}; {ways} would do")
    (scale, offset) = possible[0]
    changes.append(f"scale {scale:g}, offset {offset:g} for {', '.join(_like(scene, asset))} ({fault})")
    return _changed(scene, asset, scale, offset)


def _fault(values: Mapping[str, _Float], asset: SceneAsset, land: bool, dtypes: set[str]) -> str | None:
    """Why the values cannot be reflectance by a scale; None if they can."""
    scale, offset = np.float32(asset.scale), np.float32(asset.offset)
    medians = [float(np.median(v * scale + offset)) for v in values.values()]
    tops = [float(np.percentile(v * scale, 99.0)) for v in values.values()]
    top = max(tops)
    if max(medians) > BRIGHTEST_MEDIAN:
        return f"half of the values are reflectances above {max(medians):.3g}"
    if top > BRIGHTEST:
        return f"values are reflectances up to {top:.3g}"
    floats = all(dtype.startswith("float") for dtype in dtypes)  # seldom whole numbers: reflectance, or percent
    if top < BLACKEST:
        return f"all values are reflectances of nothing, below {top:.2g}"
    if (land or floats) and top < BLACKEST_LAND:
        return f"{_DARK} {top:.2g}"
    if dtypes == {"uint8"} and 255.0 * asset.scale < 2.0 * USUAL_TOP[0]:
        return f"values of one byte are reflectances below {255.0 * asset.scale:.2g}"
    return None


def _ways(scene: Scene, asset: SceneAsset, dtypes: set[str]) -> list[tuple[float, float]]:
    """Scales and offsets by which such files are written."""
    offsets = list(scene.told_offsets) or ([asset.offset] if asset.offset else [0.0, BASELINE_OFFSET])
    ways = [(SCALE, offset) for offset in offsets]
    if all(dtype.startswith("float") for dtype in dtypes):
        ways += [(1.0, 0.0), (0.01, 0.0)]
    elif "uint8" in dtypes:
        ways += [(0.01, 0.0), (1.0 / 255.0, 0.0)]  # bytes of a picture
    return [way for way in ways if way != (asset.scale, asset.offset)]


# --- offset ---------------------------------------------------------------------------------------------------------


def _with_possible_offset(
    scene: Scene, bands: Mapping[str, FileSample], usable: _Bool | None, changes: list[str], doubts: list[str]
) -> Scene:
    asset = scene.assets[next(iter(bands))]
    pixels = reflectance(scene, bands, usable)
    found = offset_evidence(pixels, list(bands))
    if found is None:
        return scene
    low = darkest(whole_pixels(pixels))
    step = STEP if found == "doubled" else -STEP
    other = round(asset.offset + step, 6)
    usual = other in (0.0, BASELINE_OFFSET)
    told = other in scene.told_offsets
    if found == "doubled":
        text = f"dark pixels at reflectance {low:.3f}, so the offset {asset.offset:g} was taken away before"
    else:
        text = (
            f"no pixel is darker than reflectance {low:.3f}, so the offset of {BASELINE_OFFSET:g} is still in the files"
        )
    fits = usual and offset_evidence(pixels + np.float32(step), list(bands)) is None
    if fits and (told or found != "perhaps missing"):
        changes.append(f"offset {other:g}, not {asset.offset:g}, for {', '.join(_like(scene, asset))} ({text})")
        return _changed(scene, asset, asset.scale, other)
    if found == "perhaps missing":
        doubts.append(f"doubtful: no pixel is darker than reflectance {low:.3f}: the offset seems to be missing")
        return scene
    raise Impossible(f"reflectances from {low:.3f} on by scale {asset.scale:g}, offset {asset.offset:g}; no other fits")


# --- bands ----------------------------------------------------------------------------------------------------------


def measured(scene: Scene, bands: Mapping[str, FileSample], where: _Bool | None) -> dict[str, _Float]:
    """Numbers of each band that are measurements, one dimension; bands with too few are left out."""
    found = {}
    for name, file in bands.items():
        keep = _are_measured(file.numbers, scene.assets[name])
        values = file.numbers[keep if where is None else keep & where]
        if len(values) >= PIXELS_MIN:
            found[name] = values
    return found


def reflectance(
    scene: Scene,
    bands: Mapping[str, FileSample],
    usable: _Bool | None,
    way: tuple[float, float] | None = None,
) -> _Float:
    """float32 [band, n] at the sample's places, NaN where there is no measurement, or cloud.

    ``way`` is a scale and offset to be tried in place of the scene's own.
    """
    rows = []
    for name, file in bands.items():
        asset = scene.assets[name]
        scale, offset = way or (asset.scale, asset.offset)
        keep = _are_measured(file.numbers, asset)
        values = file.numbers * np.float32(scale) + np.float32(offset)
        values[~(keep if usable is None else keep & usable)] = np.nan
        rows.append(values)
    return np.stack(rows)


def _are_measured(numbers: _Float, asset: SceneAsset) -> _Bool:
    nodata = np.float32(asset.nodata)
    missing = numbers == nodata
    kept: _Bool = np.isfinite(numbers) & ~missing
    low, high = REFLECTANCES
    if missing.any() and not low <= nodata * asset.scale + asset.offset <= high:
        # Overviews of a file without a nodata tag mix it with its neighbours.
        by_scale = numbers * np.float32(asset.scale) + np.float32(asset.offset)
        kept &= (by_scale >= low) if nodata < 0 else (by_scale <= high)
    return kept


def _groups(scene: Scene, names: Sequence[str]) -> list[list[str]]:
    """Bands that are read alike."""
    groups: dict[tuple[float, float], list[str]] = {}
    for name in names:
        groups.setdefault((scene.assets[name].scale, scene.assets[name].offset), []).append(name)
    return list(groups.values())


def _like(scene: Scene, asset: SceneAsset) -> list[str]:
    """Bands that are read as one of them is."""
    return [
        name
        for name, other in scene.assets.items()
        if name != SCL and (other.scale, other.offset) == (asset.scale, asset.offset)
    ]


def _changed(scene: Scene, asset: SceneAsset, scale: float, offset: float) -> Scene:
    alike = set(_like(scene, asset))
    return dataclasses.replace(
        scene,
        assets={
            name: changed_asset(other, scale=scale, offset=offset) if name in alike else other
            for name, other in scene.assets.items()
        },
    )


def changed_asset(asset: SceneAsset, **changes: Any) -> SceneAsset:
    """A file that is read in another way, and with it its copies that were read as it was."""
    kind = (asset.scale, asset.offset, asset.nodata)
    copies = tuple(
        dataclasses.replace(copy, **changes) if (copy.scale, copy.offset, copy.nodata) == kind else copy
        for copy in asset.copies
    )
    return dataclasses.replace(asset, copies=copies, **changes)


def _numbers(values: set[float]) -> str:
    return "/".join(f"{v:g}" for v in sorted(values))
