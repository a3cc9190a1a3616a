"""One STAC item of any provider → one :class:`~pipeline.records.scene.Scene`, or a :class:`SceneError` that names what
is missing. Items are untrusted: nothing is taken over unchecked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from pipeline.errors import SceneError
from pipeline.records import antimeridian
from pipeline.records.scene import SCL, Scene, SceneAsset
from pipeline.records.utm import polygonal
from pipeline.settings.run_file import Provider, SourceConfig
from pipeline.sources import hrefs
from pipeline.sources.projections import item_epsg
from pipeline.sources.providers import NATIVE_GSD_M, find_assets
from pipeline.sources.radiometry import calibrate

MAX_ID_CHARS = 256
MAX_ALTERNATES = 8
"""Further addresses of one asset that are looked at."""


def normalise_item(
    item: Mapping[str, Any],
    provider: Provider,
    *,
    source: SourceConfig | None = None,
    base: str | None = None,
    local_source: bool = True,
    door: hrefs.AssetDoor | None = None,
) -> Scene:
    """Reads one item.

    Args:
        item: STAC item as plain JSON data.
        provider: Whose radiometry applies.
        source: Allowed schemes and roots of asset hrefs; default: those of a default ``SourceConfig``.
        base: URL or path of the document that holds the item; relative hrefs are resolved against it.
        local_source: Whether the item comes from this machine and may name its files and servers.
        door: What may be opened, in place of ``source``'s limits and ``local_source``.

    Raises:
        SceneError: The item is malformed, lacks bands, a grid or a radiometric decision, or has a refused href.
    """
    source = source or SourceConfig.model_validate({})
    if door is None:
        hosts = hrefs.named_hosts(source.url or "", source.allowed_roots)
        if local_source:
            hosts += ("localhost",)
        door = hrefs.AssetDoor(source.allowed_schemes, source.allowed_roots, hosts, local_source)
    with one_item(item):
        return _scene(item, provider, source, base, door)


@contextlib.contextmanager
def one_item(item: Mapping[str, Any]) -> Iterator[None]:
    """Whatever a malformed item makes Python raise is that item's fault, and nobody else's.

    Raises:
        SceneError: In place of an error of arithmetic, of types or of look-ups.
    """
    try:
        yield
    except (ArithmeticError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise SceneError(f"{str(item.get('id'))[:MAX_ID_CHARS]}: the item is malformed ({reason})") from error


def _scene(
    item: Mapping[str, Any], provider: Provider, source: SourceConfig, base: str | None, door: hrefs.AssetDoor
) -> Scene:
    identifier = item_id(item)
    item_properties(item)
    found, missing = find_assets(_mapping(item, "assets"), source.bands)
    if missing:
        mend = "" if SCL in missing else "; source.bands names the bands to read, if the collection has fewer than ten"
        raise SceneError(f"{identifier}: no asset for {', '.join(missing)}{mend}")
    radiometry = calibrate(provider, item, {name: asset for name, (_, asset) in found.items()})
    epsg = item_epsg(item, [asset for _, asset in found.values()])
    assets: dict[str, SceneAsset] = {}
    for name, (key, asset) in found.items():
        href, *alternate = asset_hrefs(identifier, key, asset, base, door)
        calibration = radiometry.table[name]
        grid_shape, transform = native_grid(item, asset)
        found_asset = SceneAsset(
            href=href,
            scale=calibration.scale,
            offset=calibration.offset,
            nodata=calibration.nodata,
            gsd_m=abs(transform[0]) if transform else NATIVE_GSD_M[name],
            shape=grid_shape,
            transform=transform,
        )
        copies = tuple(dataclasses.replace(found_asset, href=copy) for copy in alternate)
        assets[name] = dataclasses.replace(found_asset, copies=copies)
    footprint = item_footprint(item)
    return Scene(
        id=identifier,
        collection=str(item.get("collection") or ""),
        provider=provider,
        datetime=item_datetime(item),
        cloud_cover=100.0 if (cloud := item_cloud_cover(item)) is None else cloud,
        epsg=epsg,
        bbox=footprint.bounds,
        footprint=json.loads(shapely.to_geojson(footprint)),
        assets=assets,
        radiometry=radiometry.why,
        told_offsets=radiometry.told_offsets,
        doubt=radiometry.doubt,
        self_href=hrefs.item_link(link_href(item, "self"), base),
    )


def asset_hrefs(
    identifier: str, key: str, asset: Mapping[str, Any], base: str | None, door: hrefs.AssetDoor
) -> list[str]:
    """Where an asset can be opened: its own address, then its ``alternate`` ones (STAC alternate-assets), each once.

    Those that may not be opened are left out; one is enough.

    Raises:
        SceneError: The door lets none of them pass; the message is about the asset's own.
    """
    alternate = asset.get("alternate")
    others = (
        [other.get("href") for other in alternate.values() if isinstance(other, Mapping)]
        if isinstance(alternate, Mapping)
        else []
    )
    found: dict[str, None] = {}
    refusals: list[SceneError] = []
    for href in (asset["href"], *others[:MAX_ALTERNATES]):
        if isinstance(href, str) and href:
            try:
                found.setdefault(asset_href(identifier, key, href, base, door))
            except SceneError as error:
                refusals.append(error)
    if not found:
        raise refusals[0]
    return list(found)


def asset_href(identifier: str, key: str, href: str, base: str | None, door: hrefs.AssetDoor) -> str:
    """The address of an asset as it is opened: a URL, or the absolute path of a local file.

    Raises:
        SceneError: The door does not let it pass; the message names item and asset.
    """
    what = f"{identifier}, asset {key[:60]}"
    try:
        absolute = href if base is None else hrefs.resolve(href, base)
    except SceneError as error:
        raise SceneError(f"{what}: {error}") from error
    return door.checked(absolute, what)


def item_id(item: Mapping[str, Any]) -> str:
    """The item's id, as printable text.

    Raises:
        SceneError: It has none, or it is longer than ``MAX_ID_CHARS``.
    """
    identifier = item.get("id")
    if not isinstance(identifier, str) or not identifier or len(identifier) > MAX_ID_CHARS:
        raise SceneError(f"item without a usable id: {str(identifier)[:60]!r}")
    if not identifier.isprintable():
        raise SceneError(f"item id {identifier[:60]!r} has unprintable characters")
    return identifier


def item_properties(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The ``properties`` member.

    Raises:
        SceneError: It is not an object.
    """
    return _mapping(item, "properties")


def _mapping(item: Mapping[str, Any], member: str) -> Mapping[str, Any]:
    value = item.get(member)
    if not isinstance(value, Mapping):
        raise SceneError(f"{item_id(item)}: no {member}")
    return value


def parse_datetime(text: str) -> dt.datetime:
    """An RFC 3339 time in UTC; a time without a zone is UTC (STAC).

    Raises:
        ValueError: Not a time.
    """
    parsed = dt.datetime.fromisoformat(text)
    return parsed.replace(tzinfo=dt.UTC) if parsed.tzinfo is None else parsed.astimezone(dt.UTC)


def item_datetime(item: Mapping[str, Any]) -> dt.datetime:
    """Acquisition time in UTC: ``datetime``, or ``start_datetime`` where that is null.

    Raises:
        SceneError: Neither is a time.
    """
    properties = item_properties(item)
    value = properties.get("datetime") or properties.get("start_datetime")
    try:
        return parse_datetime(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise SceneError(f"{item_id(item)}: datetime {value!r} is not a time") from error


def item_cloud_cover(item: Mapping[str, Any]) -> float | None:
    """``eo:cloud_cover`` in percent, None where the item does not say."""
    value = item_properties(item).get("eo:cloud_cover")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(min(max(value, 0.0), 100.0))


def item_footprint(item: Mapping[str, Any]) -> BaseGeometry:
    """Where the item has data, lon/lat; its bbox where it has no usable geometry. Split at the antimeridian.

    Raises:
        SceneError: Neither geometry nor bbox can be used.
    """
    geometry: BaseGeometry | None = None
    if isinstance(item.get("geometry"), Mapping):
        try:
            geometry = polygonal(shapely.make_valid(shapely.force_2d(shape(item["geometry"]))))
        except Exception:  # shapely raises many kinds for malformed coordinates; the bbox is tried next
            geometry = None
    if geometry is None or geometry.is_empty or not np.isfinite(shapely.get_coordinates(geometry)).all():
        bbox = item.get("bbox")
        try:
            values = [float(v) for v in bbox]  # type: ignore[union-attr]
            west, south, east, north = values if len(values) == 4 else (values[0], values[1], values[3], values[4])
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            raise SceneError(f"{item_id(item)}: neither geometry nor bbox is usable") from error
        if not all(math.isfinite(v) for v in (west, south, east, north)) or south >= north or west == east:
            raise SceneError(f"{item_id(item)}: bbox {bbox} is empty or not finite")
        geometry = shapely.box(west, south, east if east > west else east + 360.0, north)
    return antimeridian.split(geometry)


def native_grid(
    item: Mapping[str, Any], asset: Mapping[str, Any]
) -> tuple[tuple[int, int] | None, tuple[float, ...] | None]:
    """``proj:shape`` (rows, columns) and ``proj:transform`` (six numbers) of one asset; None where not given.

    The item's own values speak for the asset only if it has none, and only both together.
    """
    own = asset if "proj:shape" in asset or "proj:transform" in asset else item_properties(item)
    grid_shape, transform = own.get("proj:shape"), own.get("proj:transform")
    try:
        rows, columns = (int(v) for v in grid_shape)  # type: ignore[union-attr]
        numbers = tuple(float(v) for v in transform)[:6]  # type: ignore[union-attr]
    except (TypeError, ValueError, OverflowError):  # a JSON number may be infinite
        return None, None
    usable = len(numbers) == 6 and all(math.isfinite(v) for v in numbers) and numbers[0] > 0.0 and numbers[4] < 0.0
    return ((rows, columns), numbers) if usable and rows > 0 and columns > 0 else (None, None)


def link_href(item: Mapping[str, Any], rel: str) -> str | None:
    """Href of the first link of a relation, if any."""
    links = item.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, Mapping) and link.get("rel") == rel and isinstance(link.get("href"), str):
            return str(link["href"])
    return None
