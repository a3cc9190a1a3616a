"""Scenes of the same ground against each other: an offset that one of them has too much is 0.1 in every band.

Seasons, haze, moisture and snow change bands by different amounts; only an offset lifts all of them alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.imagery.dark_pixels import STEP, darkest, whole_pixels
from pipeline.imagery.examination import UNUSED_CLASSES, Verdict, changed_asset, reflectance
from pipeline.imagery.scene_sample import SceneSample
from pipeline.records.scene import SCL, Scene
from pipeline.sources.radiometry import BASELINE_OFFSET

PLACES_MIN = 500
"""Fewest clear places that two scenes are compared at."""
STRIDE = 2
"""Every so many-th place is compared."""
NEAR_STEP = 0.025
"""How far from 0.1 the difference of an offset may be in a band, for what seasons add to it."""
SAME_IN_BANDS = 0.03
"""How much it may differ between bands."""
SCATTER = 0.03
"""Median distance of places from the difference, in any band."""
BANDS_MIN = 3
TOO_DARK = -0.03
"""Darkest reflectance of a scene that has the offset taken away twice, where that alone would not prove it."""

_Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Examined:
    """A verdict and the sample it was found by."""

    verdict: Verdict
    sample: SceneSample


def compare_scenes(examined: Sequence[Examined]) -> list[Verdict]:
    """Verdicts after scenes of the same places were compared; in the order given, those set aside unchanged."""
    found = [e.verdict for e in examined]
    grounds: dict[tuple[object, ...], list[int]] = {}
    for index, one in enumerate(examined):
        if not one.verdict.refused and len(one.sample.bands) >= BANDS_MIN:
            grounds.setdefault(one.sample.place, []).append(index)
    for members in grounds.values():
        if len(members) > 1:
            _compare(members, examined, found)
    return found


def _compare(members: Sequence[int], examined: Sequence[Examined], found: list[Verdict]) -> None:
    values = {i: values_of(examined[i].sample, found[i].scene) for i in members}
    above: dict[int, list[int]] = {i: [] for i in members}
    below: dict[int, list[int]] = {i: [] for i in members}
    alike: dict[int, int] = dict.fromkeys(members, 1)
    """Scenes that agree with one, itself included."""
    for position, a in enumerate(members):
        for b in members[position + 1 :]:
            lifted = offset_between(values[a], values[b])
            if lifted == 0:
                alike[a] += 1
                alike[b] += 1
            elif lifted is not None:
                high, low = (a, b) if lifted > 0 else (b, a)
                above[high].append(low)
                below[low].append(high)
    sides = [(i, others, step) for i in members for others, step in ((above[i], -STEP), (below[i], STEP)) if others]
    before = {i: found[i].scene for i in members}
    for i, others, step in sides:
        odd = _is_odd(i, others, step, before, alike, values)
        if odd is False:
            continue
        where = "above" if step < 0 else "below"
        names = ", ".join(before[j].id for j in others[:3]) + (
            f" and {len(others) - 3} more" if len(others) > 3 else ""
        )
        text = f"reflectance {STEP:g} {where} that of {names} in every band on the same ground"
        if odd is None:
            found[i] = dataclasses.replace(found[i], doubts=(*found[i].doubts, f"doubtful: {text}"))
        elif (offset := _other_offset(before[i], step)) is not None and offset in (0.0, BASELINE_OFFSET):
            found[i] = dataclasses.replace(
                found[i],
                scene=_with_offset(before[i], offset),
                changes=(*found[i].changes, f"offset {offset:g} ({text})"),
            )
        else:
            found[i] = dataclasses.replace(found[i], refused=text)


def _is_odd(
    index: int,
    others: Sequence[int],
    step: float,
    scenes: dict[int, Scene],
    alike: dict[int, int],
    values: dict[int, dict[str, _Float]],
) -> bool | None:
    """Whether a scene is the wrong one of those that differ: by the metadata, by number, by darkness; None: unknown."""
    own, theirs = _tells(scenes[index], step), any(_tells(scenes[j], -step) for j in others)
    if own != theirs:
        return own
    mine, other = alike[index], max(alike[j] for j in others)
    if mine != other and max(mine, other) > 2 * min(mine, other) - 1:
        return mine < other
    low = _darkest(values[index] if step > 0 else values[others[0]])
    if low < TOO_DARK:
        return step > 0
    return None


def _tells(scene: Scene, step: float) -> bool:
    """Whether the item names the offset that a step leads to."""
    return _other_offset(scene, step) in scene.told_offsets


def _other_offset(scene: Scene, step: float) -> float | None:
    offsets = {asset.offset for name, asset in scene.assets.items() if name != SCL}
    return round(next(iter(offsets)) + step, 6) + 0.0 if len(offsets) == 1 else None


def _with_offset(scene: Scene, offset: float) -> Scene:
    assets = {n: a if n == SCL else changed_asset(a, offset=offset) for n, a in scene.assets.items()}
    return dataclasses.replace(scene, assets=assets)


def _darkest(values: dict[str, _Float]) -> float:
    pixels = whole_pixels(np.stack(list(values.values())))
    return darkest(pixels) if pixels.shape[1] else 0.0


def values_of(sample: SceneSample, scene: Scene) -> dict[str, _Float]:
    """Band → reflectance at every other place of a sample, as the scene reads it; NaN where it is not clear."""
    classes = sample.classes
    usable = None if classes is None else ~np.isin(classes, UNUSED_CLASSES)
    bands = {name: file for name, file in sample.bands.items() if name in scene.assets}
    rows = reflectance(scene, bands, usable)[:, ::STRIDE]
    return dict(zip(bands, rows, strict=True))


def offset_between(a: dict[str, _Float], b: dict[str, _Float]) -> int | None:
    """Whether one of two scenes carries an offset more than the other.

    Args:
        a: Band → reflectance at places, NaN where it is not clear.
        b: The same places.

    Returns:
        1: ``a`` is 0.1 above ``b`` in every band; -1: below; 0: they agree; None: neither can be said.
    """
    names = [name for name in a if name in b and a[name].shape == b[name].shape]
    if len(names) < BANDS_MIN:
        return None
    differences = np.stack([a[name] - b[name] for name in names])
    differences = differences[:, np.isfinite(differences).all(axis=0)]
    if differences.shape[1] < PLACES_MIN // STRIDE:
        return None
    middle = np.median(differences, axis=1)
    if float(np.abs(middle).max()) < STEP / 2:
        return 0
    scatter = np.median(np.abs(differences - middle[:, None]), axis=1)
    alike = (
        float(np.abs(np.abs(middle) - STEP).max()) <= NEAR_STEP
        and float(middle.max() - middle.min()) <= SAME_IN_BANDS
        and float(scatter.max()) <= SCATTER
    )
    return None if not alike else 1 if middle[0] > 0 else -1
