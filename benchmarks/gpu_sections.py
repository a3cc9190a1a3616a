"""The sections of :mod:`benchmarks.gpu`: each measures one thing on one device, and tells what it finds as it goes."""

from __future__ import annotations

import argparse
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_table import SMALL, Report, Scale
from benchmarks.model import (
    best_of,
    device_words,
    matmul_ceiling,
    measure_published,
    model_words,
    official_model,
    questions_of,
    synchronise,
    time_dcnv3,
)
from pipeline.machine.processors import cpu_count
from pipeline.planning.lattice import lattice_shape, lattice_tile, union_window
from pipeline.predict.classifier import BlockClassifier, ClassifierSettings, MicroBatch, scored_tiles
from pipeline.predict.spex_model import SpexModel
from pipeline.records.plan import Block, Window, ZoneGrid, ZonePlan
from pipeline.simulation import simulate_chip
from spex_core import SENTINEL2_BANDS, Legend, SpexConfig, SpexForLandCover, resolve_checkpoint
from spex_core.checkpoints import DEFAULT_CHECKPOINT

PACE = re.compile(r"(?P<rate>[\d.e+-]+) Mpx/s; busy: model (?P<model>\d+)%.*; (?P<limit>[^;]+)$")
"""What a run says at its end, see :class:`pipeline.engine.pace.Pace`."""


@dataclass(frozen=True)
class ModelSettings:
    """The fields of :class:`pipeline.settings.run_file.ModelConfig`, without pydantic, which a GPU machine may lack."""

    checkpoint: str = DEFAULT_CHECKPOINT
    explain: str = "none"
    device: str = "auto"
    precision: str = "auto"
    compile: str = "off"
    tiles_per_forward: int | None = None


@dataclass(frozen=True)
class TilingSettings:
    """The same of :class:`pipeline.settings.run_file.TilingConfig`, in the proportions of its defaults: 2 x 2 tiles."""

    tile_px: int = 512
    resolution_m: float = 10.0

    @property
    def overlap_px(self) -> int:
        """Of neighbouring tiles."""
        return self.tile_px // 8

    @property
    def margin(self) -> int:
        """Outermost pixels without weight."""
        return self.overlap_px // 4

    @property
    def stride_px(self) -> int:
        """Side of the map that one tile adds."""
        return self.tile_px - self.overlap_px

    @property
    def block_px(self) -> int:
        """Side of an output block."""
        return 2 * self.stride_px


@dataclass(frozen=True)
class Bench:
    """What every section is given."""

    device: torch.device
    scale: Scale
    checkpoint: str
    scene: Path | None
    folder: Path
    report: Report

    @property
    def gpus(self) -> float:
        """That an actor reserves."""
        return float(self.device.type == "cuda")


def measure(options: argparse.Namespace, report: Report) -> None:
    """Runs one section on the best device here."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    small = options.small or device.type == "cpu"
    report.figure("device", f"{device_words(device)}, torch {torch.__version__}")
    report.figure("small", small)
    checkpoint = options.checkpoint or DEFAULT_CHECKPOINT
    bench = Bench(device, SMALL if small else Scale(), checkpoint, options.scene, options.folder, report)
    try:
        SECTIONS[options.section](bench)
    finally:
        # Nothing was allocated here where the model lies in an actor's process.
        if device.type == "cuda" and (peak := torch.cuda.max_memory_allocated(device)):
            report.figure("peak_device_mb", round(peak / 1e6, 1))


def tiny_model(bench: Bench) -> None:
    """The built-in model as actors run it: from reflectance on the host to scores on the device."""
    device, scale, legend = bench.device, bench.scale, Legend.from_yaml()
    torch.set_deterministic_debug_mode("warn")  # as in an actor
    tiling = TilingSettings(scale.tile_px)
    draw = np.random.default_rng(0)
    tile = draw.uniform(0.02, 0.4, (len(SENTINEL2_BANDS), scale.tile_px, scale.tile_px)).astype(np.float32)
    best = 0.0

    def measure_one(settings: ModelSettings, batch: int, made: SpexModel | None = None) -> SpexModel:
        nonlocal best
        begun = time.perf_counter()
        model = made or SpexModel(settings, legend, device.type, tile_px=scale.tile_px, tiles=10**6)  # type: ignore[arg-type]
        loaded_s = time.perf_counter() - begun
        tiles = [tile] * (batch * max(1, 16 // batch if scale.seconds else 1))

        def run() -> None:
            for _ in scored_tiles(model, tiles, classes=len(legend), batch=MicroBatch(batch), note=refuse):
                pass

        found = rate(run, len(tiles), bench)
        best = max(best, found)
        how = f"{settings.precision}, {batch} tiles a pass, compile {settings.compile}"
        note = f"{found * tiling.stride_px**2 / 1e6:.3g} Mpx/s of map"
        bench.report.row(how, found, "tiles/s", note + (f"; compiled in {loaded_s:.0f} s" if made is None else ""))
        bench.report.figure("tiny_tiles_per_s", round(best, 3))
        bench.report.figure("tiny_mpx_per_s", round(best * tiling.stride_px**2 / 1e6, 4))
        return model

    def refuse(note: str) -> None:
        raise MemoryError(note)

    for precision in ("float32", "bfloat16"):
        settings = ModelSettings(bench.checkpoint, precision=precision)
        with bench.report.guarded(f"{precision}, compile off", release):
            plain = SpexModel(settings, legend, device.type)  # type: ignore[arg-type]
            for batch in scale.micro_batches:
                with bench.report.guarded(f"{precision}, {batch} tiles a pass, compile off", release):
                    measure_one(settings, batch, plain)
    with bench.report.guarded("one actor, default blocks", release):
        found = actor_rate(bench, tiling, legend)
        bench.report.row("one actor, blocks of 2 x 2 tiles, to scores on host", found, "tiles/s", "compile off")
        bench.report.figure("tiny_actor_tiles_per_s", round(found, 3))
    for batch in scale.compiled_batches:
        settings = ModelSettings(bench.checkpoint, precision="bfloat16", compile="on", tiles_per_forward=batch)
        with bench.report.guarded(f"bfloat16, {batch} tiles a pass, compile on", release):
            measure_one(settings, batch)


def actor_rate(bench: Bench, tiling: TilingSettings, legend: Legend) -> float:
    """Tiles per second of one model actor, its sums and their transfer included, with the defaults of the device."""
    side = tiling.block_px
    grid = ZoneGrid(32632, 600_000.0, 5_200_000.0, tiling.resolution_m, side, side)
    rows, cols = lattice_shape(grid, tiling)  # type: ignore[arg-type]
    tiles = tuple(lattice_tile(row, col, grid, tiling) for row in range(rows) for col in range(cols))  # type: ignore[arg-type]
    read = union_window([tile.window for tile in tiles])
    block = Block(0, Window(0, 0, side, side), read, tiles, (0,))
    zones = (ZonePlan(grid, (block,), ()),)
    model = ModelSettings(bench.checkpoint, device=bench.device.type)
    settings = ClassifierSettings(model, legend, tiling, zones, 1, bench.gpus)  # type: ignore[arg-type]
    actor = BlockClassifier(settings)
    actor.load()
    draw = np.random.default_rng(1)
    pixels = draw.uniform(0.02, 0.4, (len(SENTINEL2_BANDS), read.height, read.width)).astype(np.float32)
    return rate(lambda: actor.classify(0, block, (0,), pixels), len(tiles), bench)


def official_layout(bench: Bench) -> None:
    """The full published layout with random weights: ours against the published procedure and the machine."""
    device, scale, report, legend = bench.device, bench.scale, bench.report, Legend.from_yaml()
    model = official_model(device, **scale.official_changes)
    report.row(model_words(model), None, "", report_device(device))
    generator = torch.Generator().manual_seed(0)
    side, most = scale.tile_px, max(scale.official_tiles)
    pixels = 0.3 * torch.rand(most, len(model.config.bands), side, side, generator=generator)
    asked = [question for tile in pixels for question in questions_of(model, tile, legend)]
    classes = len(legend)
    published = measure_published(
        model, pixels[0].to(device), asked[:classes], quick=True, tokens=scale.published_tokens
    )
    base = 0.0
    for name, seconds in published.items():
        base = base or 1 / seconds
        report.row(f"published, float32, {name}", 1 / seconds, "tiles/s", f"{classes} classes, from two")
    half = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = model.to(half)
    words = str(half).removeprefix("torch.")
    ceiling = matmul_ceiling(device, half, quick=scale.repeats == 1)
    report.row(f"matrix product, {words}", ceiling / 1e12, "TFLOP/s", "the measured ceiling")
    report.figure("matmul_tflops", round(ceiling / 1e12, 4))
    best = share = 0.0
    for count in scale.official_tiles:
        with report.guarded(f"ours, {words}, {count} tiles a pass", release):
            tiles, questions = pixels[:count], asked[: count * classes]

            def run(tiles: torch.Tensor = tiles, questions: list[str] = questions) -> object:
                return model.predict(tiles, legend, questions=questions)

            run()
            found = count / best_of(scale.repeats, device, run)
            report.row(f"ours, {words}, {count} tiles a pass", found, "tiles/s", f"{found / base:.0f} x the published")
            best = max(best, found)
            report.figure("official_tiles_per_s", round(best, 4))
            report.figure("official_speedup", round(best / base, 2))
            achieved, tokens = prefill_flops_per_s(model, tiles, questions, legend, bench)
            note = f"{achieved / ceiling:.0%} of the ceiling; {tokens} tokens a tile"
            report.row(f"  its prefill, {count} tiles", achieved / 1e12, "TFLOP/s", note)
            share = max(share, achieved / ceiling)
            report.figure("prefill_share_of_matmul_ceiling", round(share, 4))


def prefill_flops_per_s(
    model: SpexForLandCover, tiles: torch.Tensor, questions: list[str], legend: Legend, bench: Bench
) -> tuple[float, int]:
    """FLOP/s of reading prompts (image once per tile, then every question with its answer), and tokens per tile."""
    assert model.processor is not None
    classes = len(legend)
    with torch.inference_mode():
        text = model.processor.encode(questions, model.processor.short_answers(legend) * len(tiles)).to(bench.device)
        image_tokens = model.encode_image(tiles.to(bench.device, model.dtype)).image_tokens
        assert image_tokens is not None

        def run() -> object:
            return model.read_suffix(text, model.read_prefix(text.prefix_ids, image_tokens, classes))

        with FlopCounterMode(display=False) as counter:
            run()
        seconds = best_of(bench.scale.repeats, bench.device, run)
    tokens = text.prefix_ids.numel() + image_tokens.shape[1] + text.suffix_ids.numel() // len(tiles)
    return counter.get_total_flops() / seconds, tokens


def dcnv3_kernel(bench: Bench) -> None:
    """The kernel against the portable path at every stage of the published encoder."""
    scale, report = bench.scale, bench.report
    config = SpexConfig.official(**scale.official_changes)
    whole = [0.0, 0.0]
    worst = 0.0
    for level, depth in enumerate(config.depths):
        channels, side = config.channels * 2**level, scale.kernel_px // (4 * 2**level)
        groups = channels // config.group_channels
        portable_s, kernel_s, difference = time_dcnv3(
            bench.device, channels=channels, groups=groups, side=side, tiles=scale.kernel_tiles, repeats=scale.repeats
        )
        whole = [whole[0] + depth * portable_s, whole[1] + depth * kernel_s]
        worst = max(worst, difference)
        what = f"{channels} channels at {side} x {side}, {scale.kernel_tiles} tiles"
        note = f"{kernel_s * 1e3:.3g} ms, portable {portable_s * 1e3:.3g} ms; differ by {difference:.1e} at most"
        report.row(what, portable_s / kernel_s, "x", note)
    report.row("all blocks of the encoder", whole[0] / whole[1], "x", f"{whole[1] * 1e3:.3g} ms in the kernel")
    report.figure("dcnv3_speedup", round(whole[0] / whole[1], 6))
    report.figure("dcnv3_max_difference", worst)


def cpu_parity(bench: Bench) -> None:
    """Classes and scores of simulated chips on the device against those of the CPU in float32."""
    scale, legend = bench.scale, Legend.from_yaml()
    chips = np.stack([simulate_chip(seed, scale.parity_px)[0] for seed in range(scale.parity_chips)])
    reference = SpexForLandCover.from_pretrained(resolve_checkpoint(bench.checkpoint))
    exact = np.concatenate([reference.predict(torch.from_numpy(chip[None]), legend).scores.numpy() for chip in chips])
    for precision in ("float32", "bfloat16"):
        what = f"{precision}: same class as on the CPU in float32"
        with bench.report.guarded(what, release):
            settings = ModelSettings(bench.checkpoint, precision=precision)
            model = SpexModel(settings, legend, bench.device.type)  # type: ignore[arg-type]
            found = np.concatenate([model.scores(chip[None]) for chip in chips])
            same = float((found.argmax(axis=1) == exact.argmax(axis=1)).mean())
            difference = np.abs(found - exact)
            note = f"scores differ by {difference.mean():.1e}, at most {difference.max():.1e}"
            bench.report.row(what, 100 * same, "%", note)
            bench.report.figure(f"same_class_share_{precision}", round(same, 6))
            bench.report.figure(f"mean_score_difference_{precision}", float(difference.mean()))


def end_to_end(bench: Bench) -> None:
    """A simulated scene from COGs to a map by ``pipeline.run``, and the model alone on as many tiles."""
    import ray  # noqa: F401 (says that it is missing before a scene is simulated)
    import yaml

    import pipeline
    from benchmarks.pipeline import mapped_megapixels, model_alone, run_settings, scene_archive
    from pipeline.machine.progress import LogProgress
    from pipeline.settings.run_file import RunConfig

    class Heard(LogProgress):
        """Keeps what a run says."""

        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def say(self, message: str) -> None:
            self.lines.append(message)

    scale, report, folder = bench.scale, bench.report, bench.folder.resolve()
    begun = time.monotonic()
    archive = scene_archive(folder, scale.scene_px, 2, bench.scene)
    report.row("simulating, or finding, the scene", time.monotonic() - begun, "s", "no part of what follows")
    readers = max(2, cpu_count() - 2)
    changes = [f"model.device={bench.device.type}", "model.compile=off", f"compute.readers={readers}"]
    changes += [f"compute.gpus_per_actor={bench.gpus:g}", "compute.object_store_mb=1024"]
    if scale.tile_px < 512:
        changes += [f"tiling.tile_px={scale.tile_px}", f"tiling.overlap_px={scale.tile_px // 4}"]
    settings = run_settings(archive, 1, bench.checkpoint, changes) | {"output": "gpu-maps"}
    run_file = folder / "gpu.yaml"
    run_file.parent.mkdir(parents=True, exist_ok=True)
    run_file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    shutil.rmtree(folder / "gpu-maps", ignore_errors=True)
    alone = model_alone(run_file, 1)
    report.row(f"the model alone, {alone.tiles} tiles", alone.wall_s, "s", "one process, from memory")
    heard = Heard()
    result = pipeline.run(RunConfig.from_yaml(run_file), heard)
    megapixels = mapped_megapixels(folder / "gpu-maps")
    report.row("end to end", result.seconds, "s", f"{megapixels:.1f} Mpx mapped, 1 actor, {readers} readers at most")
    report.figure("efficiency", round(alone.wall_s / result.seconds, 5))
    report.row("efficiency", 100 * alone.wall_s / result.seconds, "%", "model alone over end to end, start included")
    for found in filter(None, map(PACE.search, heard.lines)):
        note = f"since the first tile; the model was busy {found['model']} % of that; {found['limit']}"
        report.row("mapping", float(found["rate"]), "Mpx/s", note)
        report.figure("mapping_mpx_per_s", float(found["rate"]))
        report.figure("model_busy", int(found["model"]) / 100)
        report.figure("limit", found["limit"])


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "tiny model": tiny_model,
    "official layout": official_layout,
    "DCNv3 kernel": dcnv3_kernel,
    "CPU parity": cpu_parity,
    "end to end": end_to_end,
}


def rate(run: Callable[[], object], tiles: int, bench: Bench) -> float:
    """Tiles per second: warm runs one after the other, waited for once at their end, as a long plan is computed."""
    run()
    synchronise(bench.device)
    begun, runs = time.perf_counter(), 0
    while runs == 0 or time.perf_counter() - begun < bench.scale.seconds:
        run()
        runs += 1
    synchronise(bench.device)
    return runs * tiles / (time.perf_counter() - begun)


def release() -> None:
    """Gives the device's memory back after a pass that did not fit."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def report_device(device: torch.device) -> str:
    """The device with its memory."""
    if device.type != "cuda":
        return device_words(device)
    return f"{device_words(device)}, {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB"
