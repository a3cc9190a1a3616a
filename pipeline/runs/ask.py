"""A finished map asked in free words: masks of phrases over the same composite, tile by tile, stitched as the map was.

The scenes of the run's plan are read again; one block is held at a time, and scores of the tiles that reach into
the next ones. See docs/decisions/0044.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from pipeline.errors import ReadError
from pipeline.explain.kept_run import ExplainedRegion, KeptRun
from pipeline.explain.recomputed import micro_batch, pieces_of, reaching
from pipeline.explain.sentences import format_area
from pipeline.imagery.composite import read_composite
from pipeline.machine.atomic_files import write_json
from pipeline.machine.own_files import folder_lock, own_folder
from pipeline.machine.progress import Progress
from pipeline.mapstore.index_cells import INDEX_NODATA
from pipeline.mapstore.store import STATE_FOLDER, RunStore
from pipeline.outputs import cog
from pipeline.outputs.cog_writer import small_cache
from pipeline.outputs.mask_polygons import MaskPolygon, mask_polygons, write_geojson, write_geoparquet
from pipeline.planning.lattice import union_window
from pipeline.predict.stitch import Piece, finalise, merge
from pipeline.predict.word_model import Understood, WordModel, check_phrases
from pipeline.records.grid import project, region_mask, window_bounds
from pipeline.records.plan import Block, Window, ZonePlan
from pipeline.records.windows import intersection, slices
from pipeline.settings.run_file import TilingConfig
from spex_core.durable_files import remove
from spex_core.indices import SPECTRAL_INDICES
from spex_core.legend import Legend, LegendClass

ASKED_FOLDER = "asked"
NONE_OF_THESE = 200
"""Code of pixels that are none of the phrases; 0 is what the map does not know."""
COLOURS = ("#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d", "#1f78b4", "#b2df8a", "#fb9a99")


@dataclass(frozen=True)
class Answer:
    """What asking gave."""

    output: Path
    legend: Legend
    understood: tuple[Understood, ...]
    area_ha: dict[int, float]
    """Code → area in the mask, classes that do not occur included."""
    confidence: dict[int, float]
    """Code → mean confidence, 0..1, of the classes that occur."""
    polygons: int
    outputs: dict[str, tuple[Path, ...]]
    problems: tuple[str, ...]
    """Scenes that could not be read again."""
    region: ExplainedRegion | None = None

    @property
    def exit_code(self) -> int:
        """3 where scenes are missing, or a phrase is unlike any class."""
        unlike = any(one.verdict == "unlike any class" for one in self.understood)
        return 3 if unlike or self.problems else 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "output": str(self.output),
            "region": None if self.region is None else self.region.id,
            "phrases": [
                {
                    "phrase": one.phrase,
                    "code": entry.code,
                    "verdict": one.verdict,
                    "nearest": [{"class": name, "distance": distance} for name, distance in one.nearest],
                    "distance_to_nonsense": one.nonsense,
                    "said": one.said,
                    "area_ha": round(self.area_ha[entry.code], 4),
                    "confidence": None if entry.code not in self.confidence else round(self.confidence[entry.code], 4),
                }
                for one, entry in zip(self.understood, self.legend, strict=False)
            ],
            "polygons": self.polygons,
            "problems": list(self.problems),
            "outputs": {kind: [str(path) for path in paths] for kind, paths in self.outputs.items()},
        }


def ask(
    run: KeptRun,
    phrases: Sequence[str],
    progress: Progress,
    *,
    region_id: str | None = None,
    output: Path | None = None,
    words: Legend | None = None,
    min_pixels: int = 4,
) -> Answer:
    """Asks the run's model for phrases over the run's composite, and writes masks and polygons.

    Args:
        run: A finished run whose scenes can still be read.
        phrases: What is asked for; with ``words`` not needed.
        progress: Advanced with each block.
        region_id: Only in this sub-region.
        output: Folder of the answer; default: ``asked/<words>`` below the run's.
        words: A legend of words instead: every pixel becomes one of its classes.
        min_pixels: Smaller patches get no polygon.

    Raises:
        BadInputError: Phrases, region or model cannot be used.
        ReadError: None of the scenes can be read any more.
    """
    asked = check_phrases([entry.noun for entry in words] if words is not None else phrases)
    region = None if region_id is None else run.region(region_id)
    model = WordModel(run.config.model, run.legend, asked, alone=words is not None)
    legend = words or _legend(asked)
    target = output or own_folder(run.output, ASKED_FOLDER, _slug(asked, region_id))
    zones = [(zone, wanted) for zone in run.plan.zones if (wanted := _wanted(zone, region))]
    draft = run.store.folder / f"asked-{_slug(asked, region_id)}"
    with folder_lock(run.output, STATE_FOLDER), contextlib.ExitStack() as stack:
        stack.callback(remove, draft)
        remove(draft)
        plan = dataclasses.replace(
            run.plan, zones=tuple(dataclasses.replace(zone, blocks=tuple(wanted)) for zone, wanted in zones)
        )
        store = RunStore.create(draft, plan, legend)
        progress.start("asking", sum(len(wanted) for _, wanted in zones), "blocks")
        problems: dict[str, None] = {}
        tally = _Tally()
        for zone, wanted in zones:
            problems |= dict.fromkeys(_ask_zone(run, store, zone, wanted, region, model, legend, tally, progress))
        if not tally.pixels:
            reason = next(iter(problems), "its ground is not mapped, or no scene gives it a value any more")
            raise ReadError(f"nothing can be asked of the map in {run.output}: {reason}")
        outputs, polygons = _write(store, legend, target, run, min_pixels)
    pixel_ha = run.config.tiling.resolution_m**2 / 10_000
    answer = Answer(
        output=target,
        legend=legend,
        understood=model.understood,
        area_ha={code: int(tally.counts[code]) * pixel_ha for code in legend.codes},
        confidence={
            code: int(tally.percent[code]) / int(tally.counts[code]) / 100
            for code in legend.codes
            if tally.counts[code]
        },
        polygons=polygons,
        outputs=outputs,
        problems=tuple(problems),
        region=region,
    )
    write_json(target / "answer.json", {"run_id": run.plan.run_id, **answer.to_dict()})
    return answer


def answer_text(answer: Answer) -> str:
    """For a terminal: what the model made of each phrase, how much it found, and where it lies."""
    lines = []
    for one, entry in zip(answer.understood, answer.legend, strict=False):
        found = f"{format_area(answer.area_ha[entry.code])}" if answer.area_ha[entry.code] else "nothing"
        sure = f", mean confidence {answer.confidence[entry.code]:.0%}" if entry.code in answer.confidence else ""
        nearest = ", ".join(f"{name} {distance:.2f}" for name, distance in one.nearest)
        lines.append(f"{one.said}\n  found: {found}{sure}; nearest classes (0 same, 1 as two classes): {nearest}")
    lines += [f"note: {problem}" for problem in answer.problems]
    lines.append(f"written: {answer.output} ({answer.polygons:,} polygons)")
    return "\n".join(lines)


class _Tally:
    def __init__(self) -> None:
        self.counts = np.zeros(256, np.int64)
        self.percent = np.zeros(256, np.int64)
        self.pixels = 0


def _wanted(zone: ZonePlan, region: ExplainedRegion | None) -> list[Block]:
    """Blocks of a zone that a region touches."""
    if region is None:
        return list(zone.blocks)
    area = project(region.geometry, zone.grid.epsg)
    if area.is_empty or not all(np.isfinite(area.bounds)):
        return []
    return [b for b in zone.blocks if shapely.intersects(area, shapely.box(*window_bounds(zone.grid, b.window)))]


def _ask_zone(
    run: KeptRun,
    store: RunStore,
    zone: ZonePlan,
    wanted: Sequence[Block],
    region: ExplainedRegion | None,
    model: WordModel,
    legend: Legend,
    tally: _Tally,
    progress: Progress,
) -> list[str]:
    """Reads, classifies and writes blocks in the plan's order; a block is written when all that reach it are there."""
    windows = [block.window for block in wanted]
    needed = sorted({index for block in wanted for index in block.needs})
    scenes, batch = run.scenes(zone), micro_batch(run.config)
    problems: list[str] = []
    waiting: dict[int, dict[int, Piece]] = {block.index: {} for block in wanted}
    open_blocks = {block.index: block for block in wanted}
    counts: dict[int, npt.NDArray[np.uint8]] = {}
    for index in needed:
        near = [window for window in windows if intersection(window, zone.blocks[index].read_window)]
        source = _source(zone, index, run.config.tiling, near, index in waiting)
        if source is not None:
            composite = read_composite(scenes, zone.grid, source.read_window, run.config.composite, run.door)
            problems += composite.problems
            if index in waiting:
                counts[index] = composite.valid_count[slices(source.window, source.read_window)].copy()
            pixels = composite.reflectance if composite.dated is None else composite.dated
            pieces = pieces_of(source, pixels, zone, run.config, model, model.channels, batch)
            for target, piece in pieces.items():
                if target in waiting:
                    waiting[target][index] = piece
        for block in [block for block in open_blocks.values() if block.needs[-1] <= index]:
            found = waiting.pop(block.index)
            _finish(run, store, zone, block, found, counts.pop(block.index), region, model.channels, legend, tally)
            del open_blocks[block.index]
            progress.advance()
    return problems


def _source(zone: ZonePlan, index: int, tiling: TilingConfig, wanted: Sequence[Window], answered: bool) -> Block | None:
    """A block with the tiles that are needed; one that is answered itself is read as a whole, too."""
    block = zone.blocks[index]
    source = reaching(block, zone, tiling, wanted)
    if not answered:
        return source
    tiles = () if source is None else source.tiles
    return dataclasses.replace(
        block, tiles=tiles, read_window=union_window([block.window, *(tile.window for tile in tiles)])
    )


def _finish(
    run: KeptRun,
    store: RunStore,
    zone: ZonePlan,
    block: Block,
    pieces: dict[int, Piece],
    valid_count: npt.NDArray[np.uint8],
    region: ExplainedRegion | None,
    channels: int,
    legend: Legend,
    tally: _Tally,
) -> None:
    kept = run.store.zone(zone.grid.epsg)
    mask = kept.read("landcover", block.window) != run.legend.nodata
    if region is not None:
        mask &= region_mask(region.geometry, zone.grid, block.window)
    scores = merge(block.window, [pieces[i] for i in block.needs if i in pieces], classes=channels)
    layers = finalise(scores, valid_count, mask, legend)
    cells = store.zone(zone.grid.epsg).array("index_means").shape[:2]
    size = (-(-block.window.height // 8), -(-block.window.width // 8))
    means = np.full((*cells, *size), INDEX_NODATA, np.int16)
    assert cells == (len(SPECTRAL_INDICES), len(legend))
    store.write_block(zone.grid.epsg, block, layers, np.where(mask, valid_count, np.uint8(0)), means)
    known = layers.landcover != legend.nodata
    tally.counts += np.bincount(layers.landcover[known], minlength=256)
    tally.percent += np.bincount(layers.landcover[known], layers.confidence[known], minlength=256).astype(np.int64)
    tally.pixels += int(np.count_nonzero(known))


def _write(
    store: RunStore, legend: Legend, target: Path, run: KeptRun, min_pixels: int
) -> tuple[dict[str, tuple[Path, ...]], int]:
    target.mkdir(parents=True, exist_ok=True)
    tags = {"SPEX_RUN_ID": run.plan.run_id, "SPEX_LEGEND": legend.name}
    masks, confidences, polygons = [], [], list[MaskPolygon]()
    with small_cache():
        for zone in store.plan.zones:
            suffix = "" if len(store.plan.zones) == 1 else f"-{zone.grid.epsg}"
            kept = store.zone(zone.grid.epsg)
            masks.append(cog.write_landcover_cog(kept, target / f"mask{suffix}.tif", legend, tags=tags))
            confidences.append(cog.write_confidence_cog(kept, target / f"confidence{suffix}.tif", tags=tags))
            codes = [code for code in legend.codes if code != NONE_OF_THESE]
            polygons += mask_polygons(masks[-1], confidences[-1], codes, min_pixels=min_pixels)
    names = {entry.code: entry.name for entry in legend}
    outputs = {"mask": tuple(masks), "confidence": tuple(confidences)}
    outputs["polygons"] = (write_geojson(polygons, names, target / "polygons.geojson"),)
    if (parquet := write_geoparquet(polygons, names, target / "polygons.parquet")) is not None:
        outputs["polygons"] += (parquet,)
    outputs["answer"] = (target / "answer.json",)
    return outputs, len(polygons)


def _legend(phrases: Sequence[str]) -> Legend:
    entries = [
        LegendClass(position + 1, phrase, phrase, COLOURS[position % len(COLOURS)])
        for position, phrase in enumerate(phrases)
    ]
    entries.append(LegendClass(NONE_OF_THESE, "none of these", "none of these", "#d9d9d9"))
    return Legend("asked", "; ".join(phrases), tuple(entries))


def _slug(phrases: Sequence[str], region_id: str | None) -> str:
    """A folder name that differs where the question does."""
    words = re.sub(r"[^a-z0-9]+", "-", " ".join(phrases).lower()).strip("-")[:40].strip("-")
    digest = hashlib.sha256("\n".join([*phrases, "", region_id or ""]).encode()).hexdigest()[:8]
    return f"{words}-{digest}" if words else digest
