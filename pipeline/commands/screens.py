"""What the commands show people: tables and a few lines on standard output."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.explain.claims import UNFAMILIAR_SHARE
from pipeline.explain.sentences import format_area, format_share
from pipeline.machine.progress import duration_text, size_text
from pipeline.mapstore.status import RunState
from pipeline.planning.estimate import PlanSummary
from pipeline.records.result import RunResult
from pipeline.settings.run_file import RunConfig
from pipeline.sources.completeness import Completeness
from pipeline.sources.united import CatalogShare

if TYPE_CHECKING:
    from pipeline.planning.prepare import Prepared
    from pipeline.runs.clean import Stock
    from pipeline.runs.demo import DemoResult
    from pipeline.runs.dry_run import LookAhead

MAX_ROWS = 40
"""Longest table of scenes or failures; the files have all of them."""


def show_plan(prepared: Prepared, summary: PlanSummary, path: Path | None, console: Console) -> None:
    """Scenes, gaps in coverage, and what the run will cost; ``path`` is where the plan was written, if it was."""
    scenes = Table("scene", "date", "cloud %", "EPSG", "radiometry", title=None, box=None)
    for scene in prepared.plan.scenes[:MAX_ROWS]:
        scenes.add_row(
            _plain(scene.id),
            f"{scene.datetime:%Y-%m-%d}",
            f"{scene.cloud_cover:.0f}",
            str(scene.epsg),
            _plain(scene.radiometry),
        )
    console.print(scenes)
    if summary.scenes > MAX_ROWS:
        _line(console, f"... and {summary.scenes - MAX_ROWS} more scenes")
    for note in prepared.region.notes:
        _line(console, f"region: {note}")
    for item, reason in prepared.search.skipped:
        _line(console, f"skipped {item}: {reason}")
    for item, line in prepared.doubts:
        _line(console, f"doubtful {item}: {line}")
    for item, reason in prepared.search.superseded:
        _line(console, f"superseded {item}: {reason}")
    for note in prepared.search.completeness.notes:
        _line(console, f"search: {note}")
    _line(console, "")
    rows = {
        "run": summary.run_id,
        "region": f"{format_area(summary.region_area_ha)}, {format_share(summary.gap_share)} of it without any scene"
        if summary.gap_share > 0
        else f"{format_area(summary.region_area_ha)}, covered by scenes everywhere",
        "maps": "; ".join(f"EPSG:{z.epsg} {z.width} x {z.height} px" for z in summary.zones),
        "scenes": _scenes_text(summary.scenes, prepared.search.completeness),
        **_catalogs(prepared.search.catalogs),
        "tiles": f"{summary.tiles} in {summary.blocks} blocks" + _passes_text(summary),
        "to read": f"about {size_text(summary.compressed_bytes_to_read)} ({size_text(summary.bytes_to_read)} decoded)",
        "model time": f"about {duration_text(summary.cpu_core_seconds)} of one CPU core, "
        f"or {duration_text(summary.gpu_seconds)} of one GPU",
        **_texts(summary),
        "time": "not known yet: the first run of this kind will tell"
        if summary.seconds is None
        else f"about {duration_text(summary.seconds)} on this machine, as fast as the last runs",
        "memory": f"about {size_text(summary.peak_memory_bytes)} with {summary.actors} model "
        f"actor{'s' if summary.actors != 1 else ''}",
        "disk": f"about {size_text(summary.disk_bytes)}",
        **({} if path is None else {"plan": str(path)}),
    }
    _pairs(console, rows)
    for gap in summary.gaps[:MAX_ROWS]:
        _line(console, f"gap: {gap.name} has no scene on {format_share(gap.share)} of its area")


def _passes_text(summary: PlanSummary) -> str:
    """What it costs to classify dates one by one."""
    if summary.passes <= summary.tiles:
        return ""
    return (
        f", each seen once per date: up to {summary.passes} passes of the model, {summary.passes / summary.tiles:.1f} "
        "times those of a median"
    )


def _texts(summary: PlanSummary) -> dict[str, str]:
    if not summary.text_questions:
        return {}
    return {
        "texts": f"at most {summary.text_questions:,} questions about {summary.text_images:,} images, after the map"
    }


def _catalogs(catalogs: Sequence[CatalogShare]) -> dict[str, str]:
    """A row for each of several catalogs: what it adds to those before it."""
    if len(catalogs) < 2:
        return {}
    return {
        f"catalog {number}": f"{share.url}: does not answer"
        if share.failure is not None
        else f"{share.url}: {share.scenes} scenes, {share.alone} of them nowhere else"
        + (f"; copies of {share.copies} of those before it" if number > 1 else "")
        for number, share in enumerate(catalogs, 1)
    }


def _scenes_text(scenes: int, completeness: Completeness) -> str:
    if not completeness.received:
        return str(scenes)
    counted = "does not count them" if completeness.counted is None else f"counts {completeness.counted}"
    return f"{scenes} of {completeness.received} items found; the server {counted}"


def plan_document(prepared: Prepared, summary: PlanSummary, path: Path | None) -> dict[str, Any]:
    """What ``spex plan --json`` prints."""
    return {
        "run_id": summary.run_id,
        "plan": None if path is None else str(path),
        "scenes": [scene.id for scene in prepared.plan.scenes],
        "skipped_scenes": [list(pair) for pair in prepared.search.skipped],
        "catalogs": [dataclasses.asdict(catalog) for catalog in prepared.search.catalogs],
        "items_found": prepared.search.completeness.received,
        "items_counted_by_server": prepared.search.completeness.counted,
        "search_notes": list(prepared.search.completeness.notes),
        "doubtful_scenes": [list(pair) for pair in prepared.doubts],
        "region_area_ha": summary.region_area_ha,
        "gap_share": summary.gap_share,
        "blocks": summary.blocks,
        "tiles": summary.tiles,
        "model_passes": summary.passes,
        "bytes_to_read": summary.bytes_to_read,
        "compressed_bytes_to_read": summary.compressed_bytes_to_read,
        "peak_memory_bytes": summary.peak_memory_bytes,
        "disk_bytes": summary.disk_bytes,
        "cpu_core_seconds": summary.cpu_core_seconds,
        "gpu_seconds": summary.gpu_seconds,
        "actors": summary.actors,
        "seconds": summary.seconds,
        "text_images": summary.text_images,
        "text_questions": summary.text_questions,
    }


def show_dry_run(ahead: LookAhead, console: Console) -> None:
    """The plan, and what of it is done."""
    show_plan(ahead.prepared, ahead.summary, None, console)
    blocks = ahead.summary.blocks
    if ahead.published:
        line = "the map is there already: the run would compute and write nothing"
    elif ahead.blocks_done == blocks:
        line = f"all {blocks} blocks are computed already: the run would only publish them"
    else:
        line = f"{ahead.blocks_to_compute} of {blocks} blocks would be computed, {ahead.blocks_done} are done already"
    _line(console, f"dry run: {line}")
    if ahead.busy:
        _line(console, "dry run: another process is writing the output folder; the run would be refused meanwhile")


def dry_run_document(ahead: LookAhead) -> dict[str, Any]:
    """What ``spex run --dry-run --json`` prints."""
    return {
        **plan_document(ahead.prepared, ahead.summary, None),
        "dry_run": True,
        "blocks_done": ahead.blocks_done,
        "blocks_to_compute": ahead.blocks_to_compute,
        "published": ahead.published,
        "busy": ahead.busy,
    }


def show_run(result: RunResult, config: RunConfig, console: Console) -> None:
    """Class areas, what is missing, and where the results are."""
    _areas(result, console)
    if result.reused:
        _line(console, f"nothing was computed: run {result.run_id} is finished")
    else:
        _line(
            console,
            f"{result.computed_blocks} of {result.blocks} blocks computed in {duration_text(result.seconds)}, "
            f"at most {result.peak_memory_mb / 1024:.1f} GiB of memory",
        )
    _missing(result, config.output, console)
    _places(result, console)


def show_demo(result: DemoResult, console: Console) -> None:
    """Class areas, accuracy against the simulated truth, and what to do next."""
    _areas(result.run, console)
    _line(console, "")
    table = Table("class", box=None)
    for title in ("user's", "producer's", "IoU", "IoU of the index rules"):
        table.add_column(title, justify="right")
    found = result.map
    rows = zip(found.legend, found.users, found.producers, found.iou, result.index_rules.iou, strict=True)
    for (entry, *values), pixels in zip(rows, found.confusion.sum(axis=1), strict=True):
        if pixels:
            table.add_row(_plain(entry.name), *("-" if v != v else f"{v:.2f}" for v in values))
    console.print(table)
    _line(
        console,
        f"overall accuracy {found.overall:.1%} against the simulated truth "
        f"(index rules {result.index_rules.overall:.1%}), mean IoU {found.miou:.2f}",
    )
    _line(console, f"{duration_text(result.seconds)}, at most {result.peak_memory_mb / 1024:.1f} GiB of memory")
    _missing(result.run, result.run.outputs["catalog"][0].parent, console)
    _places(result.run, console)
    _line(console, "")
    _line(console, f"next: open {result.run.outputs['report'][0]}")
    _line(console, f"      spex plan {result.run_file}")
    _line(console, f"      spex run {result.run_file}")


def show_status(states: Sequence[RunState], console: Console, label: str = "") -> None:
    """One line per run, then its failures; ``label`` says which of several output folders they are of."""
    for state in states:
        left = "" if state.seconds_left is None else f", about {duration_text(state.seconds_left)} left"
        gone = " (its driver is gone: run it again to go on)" if state.driver_gone else ""
        by = f" by {state.driver}" if state.driver else ""
        gaps = f", {state.incomplete} with something missing" if state.incomplete else ""
        cleaned = ", its store was cleaned away" if state.cleaned else ""
        period = "" if state.period is None else f" {state.period}"
        _line(
            console,
            f"{label}{': ' if label else ''}{state.run_id} {state.name}{period}: {state.stage}{gone}{by}, "
            f"{state.finished} of {state.blocks} blocks{gaps}"
            f"{f', {len(state.failures)} given up' if state.failures else ''}{left}{cleaned}",
        )
        for failure in state.failures[:MAX_ROWS]:
            _line(console, f"  {failure}")


def show_stock(stock: Stock, console: Console) -> None:
    """What can go, what stays and why, and how much that is."""
    for removal in stock.removals:
        _line(console, f"{size_text(removal.size):>10}  {removal.path}: {removal.what}")
    for path, reason in stock.kept:
        _line(console, f"{'kept':>10}  {path}: {reason}")
    _line(console, f"{size_text(stock.size):>10}  can be freed")


def _areas(result: RunResult, console: Console) -> None:
    """Area per class over all sub-regions, from the explanations that were just written."""
    areas: dict[str, float] = {}
    seen: set[str] = set()
    unlike = 0.0
    for path in result.outputs["explanations"]:
        for region in json.loads(path.read_text(encoding="utf-8"))["regions"]:
            if region["id"] not in seen:  # a sub-region across two zones stands in the files of both
                seen.add(region["id"])
                for entry in region["classes"]:
                    unlike += entry.get("unfamiliar_share", 0.0) * entry["area_ha"]
                    areas[entry["name"]] = areas.get(entry["name"], 0.0) + entry["area_ha"]
    total = sum(areas.values())
    if not total:
        return
    table = Table("class", box=None)
    table.add_column("area", justify="right")
    table.add_column("share", justify="right")
    for name, area in sorted(areas.items(), key=lambda pair: -pair[1]):
        table.add_row(_plain(name), format_area(area), f"{area / total:.1%}")
    console.print(table)
    if unlike / total >= UNFAMILIAR_SHARE:
        share = format_share(unlike / total)
        _line(console, f"{share} is unlike anything this model was trained on: look at unfamiliar.tif before using it")


def _missing(result: RunResult, output: Path, console: Console) -> None:
    if result.exit_code == 0:
        return
    parts = []
    if result.missing_blocks:
        parts.append(f"{result.missing_blocks} of {result.blocks} blocks")
    if result.incomplete_blocks:
        parts.append(f"parts of {result.incomplete_blocks} blocks")
    if result.skipped_scenes:
        parts.append(f"{len(result.skipped_scenes)} scenes")
    if result.text_problems:
        parts.append(f"the model's words for {len(result.text_problems)} sub-regions")
    for scene, line in result.doubtful_scenes[:MAX_ROWS]:
        _line(console, f"doubtful: {scene}: {line}")
    if not parts:
        _line(console, f"doubtful: {len(result.doubtful_scenes)} scenes; see the report (exit code 3)")
        return
    _line(console, f"missing: {', '.join(parts)}; see 'spex status {output}' and the report (exit code 3)")


def _places(result: RunResult, console: Console) -> None:
    kinds = ("landcover", "report", "catalog")
    places = {kind: ", ".join(str(path) for path in result.outputs[kind]) for kind in kinds}
    _pairs(console, {**places, "look at it": f"spex view {shlex.quote(str(result.outputs['catalog'][0].parent))}"})


def _pairs(console: Console, rows: dict[str, str]) -> None:
    width = max(len(key) for key in rows)
    for key, value in rows.items():
        _line(console, f"{key:<{width}}  {value}")


def _line(console: Console, text: str) -> None:
    # Never folded and never read as markup: paths stay whole, text from outside stays text.
    console.print(text, markup=False, soft_wrap=True)


def _plain(text: str) -> Text:
    return Text(text)
