"""Copies of a scene's files in other catalogs are examined too: read in the place of a file, they must agree with it.

A catalog may have taken the offset out of its files, and say so wrongly. Copies are the same measurement, so what
differs by an offset is theirs, once the scene itself was examined.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from pipeline.imagery.agreement import Examined, offset_between, values_of
from pipeline.imagery.dark_pixels import STEP
from pipeline.imagery.examination import examine
from pipeline.imagery.scene_sample import SceneSample
from pipeline.records.scene import SCL, Scene, SceneAsset

logger = logging.getLogger(__name__)

Kind = tuple[str | None, float, float, float]
"""Provider, scale, offset and nodata."""


def with_examined_copies(examined: Examined, sample: Callable[[Scene], SceneSample | None]) -> Scene:
    """The scene of a verdict, its copies read as they have to be; those that cannot be believed are left out.

    Args:
        examined: Verdict and sample of the scene itself.
        sample: Reads a sample; None where it cannot be had.
    """
    scene = examined.verdict.scene
    for kind in _other_kinds(scene):
        copy = _copy_of(scene, kind)
        found = sample(copy)
        if found is None:
            continue
        verdict = examine(copy, found)
        offset = 0.0
        if not verdict.refused and found.place == examined.sample.place:
            lifted = offset_between(values_of(examined.sample, scene), values_of(found, verdict.scene))
            offset = STEP * (lifted or 0)
        if verdict.refused or verdict.changes or offset:
            logger.info("copies of scene %s: %s", scene.id, verdict.refused or "; ".join(verdict.changes) or "offset")
            scene = _replaced(scene, kind, None if verdict.refused else verdict.scene, offset)
    return scene


def _kind(asset: SceneAsset) -> Kind:
    return asset.provider, asset.scale, asset.offset, asset.nodata


def _other_kinds(scene: Scene) -> list[Kind]:
    """Catalogs and ways of reading that copies have and their file has not."""
    found: dict[Kind, None] = {}
    for name, asset in scene.assets.items():
        if name != SCL:
            found.update((_kind(copy), None) for copy in asset.copies if _kind(copy) != _kind(asset))
    return list(found)


def _copy_of(scene: Scene, kind: Kind) -> Scene:
    """The scene made of its copies of one kind; the classification stays."""
    assets = {
        name: dataclasses.replace(copy, copies=())
        for name, asset in scene.assets.items()
        if name != SCL and (copy := next((c for c in asset.copies if _kind(c) == kind), None)) is not None
    }
    return dataclasses.replace(scene, assets=assets | ({SCL: scene.assets[SCL]} if SCL in scene.assets else {}))


def _replaced(scene: Scene, kind: Kind, found: Scene | None, offset: float) -> Scene:
    def one(name: str, copy: SceneAsset) -> list[SceneAsset]:
        if _kind(copy) != kind:
            return [copy]
        if found is None:
            return []
        read = found.assets[name]
        moved = round(read.offset + offset, 6) + 0.0
        return [dataclasses.replace(copy, scale=read.scale, offset=moved, nodata=read.nodata)]

    assets = {
        name: asset
        if name == SCL
        else dataclasses.replace(asset, copies=tuple(new for copy in asset.copies for new in one(name, copy)))
        for name, asset in scene.assets.items()
    }
    return dataclasses.replace(scene, assets=assets)
