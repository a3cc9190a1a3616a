"""A finished run is not run again: what it left is recorded, and found again as long as it is there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.machine.addresses import public_document
from pipeline.machine.atomic_files import write_json
from pipeline.mapstore.store import PLAN_FILE, RESULT_FILE, RunStore
from pipeline.outputs.assets import ASSETS
from pipeline.outputs.output_folder import COLLECTION_FILE, read_object
from pipeline.outputs.stac_item import item_id
from pipeline.planning.prepare import Prepared
from pipeline.records.plan import MapPlan
from pipeline.records.result import RunResult
from pipeline.records.scene import Scene
from pipeline.settings.publishing import OutputConfig
from pipeline.settings.run_file import RunConfig
from pipeline.sources.file_identity import file_identity

LAYOUT = 2
"""Of the published files: raised when a map that is there is to be published again from its store."""
_ALWAYS = ("clip", "collection_id", "overview_resampling")
"""Settings that every record's identity holds; the others count where they differ from their default, so that maps of
earlier versions are known."""


def map_name(config: RunConfig) -> str:
    """Name and period of a run: what the ids of its items begin with."""
    return f"{config.name}_{config.start.isoformat()}_{config.end.isoformat()}"


def of_earlier_layout(folder: Path) -> bool:
    """Whether a run's map was published by a version that laid out its files otherwise."""
    record = read_object(folder / RESULT_FILE)
    return record is not None and record.get("layout", 1) != LAYOUT


def _identity(prepared: Prepared) -> str:
    """sha256 over what changes the published files: the run id, and what is written there beside pixels."""
    config = prepared.config
    published: dict[str, Any] = {
        "run_id": prepared.plan.run_id,
        "name": config.name,
        "period": [config.start.isoformat(), config.end.isoformat()],
        "model": Path(config.model.checkpoint).name,
        "software": prepared.plan.software,
        "scenes": sorted(_as_published(scene) for scene in prepared.plan.scenes),
        "regions": config.regions.model_dump(mode="json", exclude_none=True),
        "publish": publishing(config.publish),
        "subregions": [(area.id, area.name, area.geometry.wkb_hex) for area in prepared.region.subregions],
        "skipped": prepared.search.skipped,
        "legend": prepared.legend.to_dict(),
    }
    if config.model.explain != "none":  # so that maps of earlier versions are known
        published["explain"] = config.model.explain
    return hashlib.sha256(json.dumps(published, sort_keys=True).encode()).hexdigest()


def publishing(config: OutputConfig) -> dict[str, Any]:
    """Settings of publishing that are part of a map's identity."""
    settings = config.model_dump(mode="json")
    defaults = OutputConfig().model_dump(mode="json")
    return {name: value for name, value in settings.items() if name in _ALWAYS or value != defaults[name]}


def _as_published(scene: Scene) -> list[str]:
    """What the report and the item say of a scene; its link without a signature, which is new each time."""
    link = "" if scene.self_href is None else file_identity(scene.self_href)
    return [
        scene.id,
        f"{scene.datetime:%Y-%m-%dT%H:%M}",
        f"{scene.cloud_cover:.0f}",
        scene.radiometry,
        scene.doubt,
        link,
    ]


def write_result(prepared: Prepared, store: RunStore, result: RunResult) -> None:
    """Records what a run left: the last file that it writes.

    Raises:
        OutputError: It cannot be written.
    """
    own = {path for kind, paths in result.outputs.items() if kind in (*ASSETS, "items") for path in paths}
    sizes = {str(path.relative_to(prepared.config.output)): path.stat().st_size for path in sorted(own)}
    record = {"identity": _identity(prepared), "layout": LAYOUT, "sizes": sizes, **result.to_dict()}
    write_json(store.folder / RESULT_FILE, public_document(record))


def earlier_result(prepared: Prepared, folder: Path) -> RunResult | None:
    """The result of an earlier run, if it left nothing to do and all its files are there with their sizes.

    Args:
        prepared: What was decided for the run.
        folder: Of its state, see :func:`pipeline.mapstore.store.run_folder`; need not be there.
    """
    output = prepared.config.output
    try:
        record = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        if record["identity"] != _identity(prepared) or record["missing_blocks"] or record["incomplete_blocks"]:
            return None
        if record.get("text_problems") and (folder / PLAN_FILE).exists():
            return None  # asked again
        if record.get("layout", 1) != LAYOUT and (folder / PLAN_FILE).exists():
            return None  # published again from the store
        sizes = {name: size for name, size in record["sizes"].items() if not _is_shared(name)}
        if any((output / name).stat().st_size != size for name, size in sizes.items()) or not is_listed(
            prepared.config, prepared.plan
        ):
            return None
        root = Path(record["outputs"]["catalog"][0]).parent
        return RunResult(
            run_id=record["run_id"],
            exit_code=record["exit_code"],
            outputs={
                kind: tuple(output / Path(path).relative_to(root) for path in paths)
                for kind, paths in record["outputs"].items()
            },
            seconds=0.0,
            tiles=record["tiles"],
            blocks=record["blocks"],
            computed_blocks=0,
            missing_blocks=0,
            incomplete_blocks=0,
            skipped_scenes=prepared.search.skipped,
            doubtful_scenes=tuple((str(scene), str(line)) for scene, line in record["doubtful_scenes"]),
            peak_memory_mb=record["peak_memory_mb"],
            reused=True,
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None  # no record, or files are gone: published again from the store


def _is_shared(name: str) -> bool:
    """A file that other runs renew too, of an output folder; records of earlier versions have its size."""
    return name in ("catalog.json", "report/index.html") or name.endswith(("/collection.json", "/items.parquet"))


def is_listed(config: RunConfig, plan: MapPlan) -> bool:
    """Whether the catalog leads to a run's items, and they are still this run's."""
    folder = config.output / config.publish.collection_id
    collection = read_object(folder / COLLECTION_FILE) or {}
    listed = {link.get("href") for link in collection.get("links", ()) if isinstance(link, dict)}
    for zone in plan.zones:
        item = item_id(config.name, config.start, config.end, zone.grid.epsg)
        document = read_object(folder / item / f"{item}.json") or {}
        if f"./{item}/{item}.json" not in listed:
            return False
        if (document.get("properties") or {}).get("spex:run_id") != plan.run_id:
            return False
    return all((config.output / name).is_file() for name in ("catalog.json", "report/index.html"))
