"""The run id: everything that can change a pixel, and nothing else (docs/decisions/0023).

What is searched for (dates, catalog, limits, allowed links) counts by what was found; paths count by what lies there.
Settings count where they are in force: none of the network's where the index rules classify, no dilation where nothing
that grows is masked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely

from pipeline.planning.footprints import footprint
from pipeline.planning.lattice import lattice_origin
from pipeline.planning.scene_order import compositing_order, effective_order
from pipeline.planning.software import reaching
from pipeline.records.plan import ZonePlan
from pipeline.records.scene import SCL, SCL_GROWING, SCL_NODATA, Scene, SceneAsset
from pipeline.records.utm import northing_shift_m
from pipeline.settings.cloud_model import cloud_fingerprint
from pipeline.settings.model import (
    INDEX_RULES,
    compiles,
    device_kind,
    familiarity_of,
    precision_for,
    tiles_per_forward,
)
from pipeline.settings.published import PUBLISHED_VERSION, is_published
from pipeline.settings.run_file import CompositeConfig, RunConfig
from pipeline.sources.file_identity import file_identity
from spex_core.legend import Legend

OUTLIERS_VERSION = 1
"""Rises when the same dates of a pixel are judged otherwise."""
FUSION_VERSION = 1
"""Rises when the same scores of the same dates are joined otherwise."""
FOOTPRINT_STEPS_PER_DEGREE = 2**14
"""Footprints count to 7 m: readers look 2 km around them. A binary step, because no decimal lies between two."""
EXTENT_STEPS_PER_METRE = 2**10
"""Corners of files count to a millimetre."""


def run_id(
    config: RunConfig,
    areas: Mapping[int, shapely.Geometry],
    scenes: Sequence[Scene],
    zones: Sequence[ZonePlan],
    model_fingerprint: str,
    legend: Legend,
    software: Mapping[str, str],
) -> str:
    """sha256 prefix over everything that can change a pixel, and nothing else: 16 hex digits.

    Args:
        config: The run file.
        areas: EPSG code of a zone → what is mapped of it, lon/lat.
        scenes: All scenes of the plan.
        zones: The plan's zones, with the ids of their scenes.
        model_fingerprint: Identity of the weights and settings of the model.
        legend: Classes of the map.
        software: Name → version.
    """
    network = config.model.checkpoint != INDEX_RULES
    tiling = config.tiling
    by_id = {scene.id: scene for scene in scenes}
    identity: dict[str, Any] = {
        "tiling": [tiling.tile_px, tiling.overlap_px, tiling.margin, tiling.block_px],
        "composite": _masking(config.composite, tiling.resolution_m),
        "areas": [_geometry(areas[zone.grid.epsg]) for zone in zones] if config.publish.clip else None,
        "zones": [_zone(zone, [by_id[i] for i in zone.scene_ids], config.composite) for zone in zones],
        "legend": legend.fingerprint(rules_only=not network),
        "model": model_fingerprint,
        "network": _network(config, zones) if network else None,
        "software": reaching(software, network=network),
    }
    origins = [lattice_origin(zone.grid, tiling) for zone in zones]
    if any(any(origin) for origin in origins):  # elsewhere tiles lie where they always did
        identity["lattice"] = origins
    if (clouds := cloud_fingerprint(config.composite)) is not None:
        identity["clouds"] = [config.composite.cloud_mask, clouds, software.get("torch")]
    if config.composite.method == "fuse":
        identity["fusion"] = FUSION_VERSION
    if network and (familiarity := familiarity_of(config)[0]) is not None:
        identity["unfamiliar"] = familiarity.fingerprint()
    if network and is_published(config.model):
        identity["published"] = PUBLISHED_VERSION
    if config.composite.reject_outliers:
        identity["outliers"] = OUTLIERS_VERSION
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _network(config: RunConfig, zones: Sequence[ZonePlan]) -> dict[str, Any]:
    """How a network is asked and computed."""
    kind = device_kind(config.model, config.compute.gpus_per_actor)
    tiles = sum(len(block.tiles) for zone in zones for block in zone.blocks)
    return {
        "explain": "none",  # the map is the same for all values; maps of earlier versions keep their id
        "tiles_per_forward": tiles_per_forward(config.model, kind),
        "threads": config.compute.threads_per_actor,
        "device": kind,
        "precision": precision_for(config.model, kind),
        "compiled": compiles(config.model, kind, tiles),
    }


def _masking(composite: CompositeConfig, resolution_m: float) -> dict[str, Any]:
    masked = sorted({SCL_NODATA, *(value for value in composite.masked_scl if 0 <= value <= 255)})
    grows = composite.cloud_mask != "scl" or any(value in SCL_GROWING for value in masked)
    return {
        "method": composite.method,
        "mask_scl": masked,
        "dilation_px": composite.dilation_px(resolution_m) if grows else 0,
    }


# --- scenes of a zone ---------------------------------------------------------------------------------------------


def _zone(zone: ZonePlan, scenes: Sequence[Scene], composite: CompositeConfig) -> dict[str, Any]:
    ordered = compositing_order(scenes, zone.grid.epsg)
    footprints = [coarse_footprint(scene) for scene in ordered]
    order = effective_order(ordered, footprints, composite)
    return {
        "grid": vars(zone.grid),
        "observations": order.observations,
        "scenes": [
            {
                "id": ordered[position].id,  # where the link alone does not name the content, it does
                "pass": begins,
                "footprint": _geometry(footprints[position]),
                "files": _files(ordered[position], zone.grid.epsg),
            }
            for position, begins in zip(order.positions, order.passes, strict=True)
        ],
    }


def _files(scene: Scene, epsg: int) -> dict[str, Any]:
    return {
        name: [
            file_identity(asset.href),
            None if name == SCL else [_float32(asset.scale), _float32(asset.offset)],
            asset.nodata,
            _extent(asset) if northing_shift_m(scene.epsg, epsg) is not None else None,
        ]
        for name, asset in scene.assets.items()
    }


def _extent(asset: SceneAsset) -> list[int] | None:
    """Left, top, right, bottom of a file as its item gives it: nothing is read beyond. Steps of a millimetre."""
    if asset.shape is None or asset.transform is None:
        return None
    rows, columns = asset.shape
    a, b, left, d, e, top = asset.transform
    corners = (left, top, left + columns * a + rows * b, top + columns * d + rows * e)
    return [round(corner * EXTENT_STEPS_PER_METRE) for corner in corners]


def _float32(value: float) -> float:
    """Digital numbers are scaled in float32; what differs behind its last digit does not."""
    return float(np.float32(value)) + 0.0


# --- geometry -----------------------------------------------------------------------------------------------------


def coarse_footprint(scene: Scene) -> shapely.Geometry:
    """A scene's footprint as far as it counts, lon/lat: noise behind the metre does not decide who belongs to a zone.

    Raises:
        CatalogError: The footprint is not a GeoJSON geometry.
    """

    def snap(xy: Any) -> Any:
        return np.round(xy * FOOTPRINT_STEPS_PER_DEGREE) / FOOTPRINT_STEPS_PER_DEGREE + 0.0

    return shapely.make_valid(shapely.transform(shapely.force_2d(footprint(scene)), snap))


def _geometry(geometry: shapely.Geometry) -> str:
    """One text for one area: wherever its rings start, whichever way they run, vertices repeated or not."""
    plain = shapely.remove_repeated_points(shapely.force_2d(geometry))
    return str(shapely.to_wkb(shapely.normalize(plain), hex=True, byte_order=1))
