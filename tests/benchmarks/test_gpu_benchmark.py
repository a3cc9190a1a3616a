"""The GPU benchmark in small on a CPU: every section's path, and what becomes of one that fails or takes too long."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_sections
from benchmarks.gpu import measure_here, measured, watched
from benchmarks.gpu_table import LIMIT_S, Line, Report, bar_rows, read_told
from pipeline.settings.run_file import ModelConfig, TilingConfig
from spex_core import Legend
from spex_core.dcnv3 import dcnv3_portable
from tests.spex_core.conftest import build_tiny_model

POSITIVE = {
    "tiny model": ("tiny_tiles_per_s", "tiny_mpx_per_s", "tiny_actor_tiles_per_s"),
    "official layout": ("matmul_tflops", "official_tiles_per_s", "official_speedup", "prefill_share_of_matmul_ceiling"),
    "DCNv3 kernel": ("dcnv3_speedup",),
    "CPU parity": ("same_class_share_float32", "same_class_share_bfloat16"),
    "end to end": ("efficiency", "mapping_mpx_per_s", "model_busy"),
}
HERE = [name for name in LIMIT_S if name != "end to end"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    build_tiny_model(Legend.from_yaml(), band_encoding=True).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def as_it_was() -> Iterator[None]:
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


@pytest.fixture
def in_this_process(
    checkpoint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, as_it_was: None
) -> Callable[[str, float], tuple[str, str]]:
    """Runs a section here: importing everything again for each takes longer than the sections."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # as a section's process sets it; without effect on what is imported
    monkeypatch.setattr("spex_core.dcnv3_triton.sample", dcnv3_portable)  # the interpreter has the long test

    def run(name: str, seconds: float) -> tuple[str, str]:
        before = capsys.readouterr().out
        options = argparse.Namespace(section=name, small=True, checkpoint=checkpoint, scene=None, folder=Path("out"))
        measure_here(options)
        told = capsys.readouterr().out
        print(before, end="")
        return told, ""

    return run


def assert_sound(figures: dict[str, Any], sections: list[str]) -> None:
    for section in sections:
        assert figures["seconds"][section] >= 0  # of tenths
        for name in POSITIVE[section]:
            assert math.isfinite(figures[name]), name
            assert figures[name] > 0, name
    if "CPU parity" in sections:
        assert figures["same_class_share_float32"] == 1.0
        assert figures["same_class_share_bfloat16"] > 0.9
        assert 0 <= figures["mean_score_difference_bfloat16"] < 0.05
    if "DCNv3 kernel" in sections:
        assert 0 <= figures["dcnv3_max_difference"] < 1e-4


def test_every_section_has_its_rows_and_sound_figures(
    in_this_process: Callable[[str, float], tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    figures = json.loads(json.dumps(measured(HERE, 600, in_this_process)))
    table = capsys.readouterr().out.splitlines()
    assert figures["not_measured"] == {}
    assert_sound(figures, HERE)
    assert figures["small"] is True
    assert table[0].startswith("section")
    for section in HERE:
        rows = [row for row in table if row.startswith(section)]
        assert len(rows) >= 3, section
        assert "peak device memory" in rows[-1]
        assert figures["peak_device_mb"][section] == "-" or torch.cuda.is_available()


def test_a_section_that_raises_is_told_and_costs_the_others_nothing(
    in_this_process: Callable[[str, float], tuple[str, str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(bench: gpu_sections.Bench) -> None:
        bench.report.row("one thing", 1.0)
        with bench.report.guarded("a batch"):
            raise MemoryError("too large")
        raise ModuleNotFoundError("No module named 'triton'", name="triton")

    monkeypatch.setitem(gpu_sections.SECTIONS, "official layout", full)
    figures = measured(["official layout", "CPU parity"], 600, in_this_process)
    table = capsys.readouterr().out
    assert figures["not_measured"] == {"official layout": "not measured: triton is not installed here"}
    assert "one thing" in table
    assert "failed: MemoryError: too large" in table
    assert_sound(figures, ["CPU parity"])


def test_sections_for_which_the_time_is_used_up_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[float] = []

    def slow(name: str, seconds: float) -> tuple[str, str]:
        asked.append(seconds)
        time.sleep(0.2)
        return "", ""

    figures = measured(list(LIMIT_S), 5.1, slow)
    assert len(asked) == 1
    assert asked[0] <= 5.1
    skipped = figures["not_measured"]
    assert isinstance(skipped, dict)
    assert list(skipped) == list(LIMIT_S)[1:]
    table = capsys.readouterr().out
    for name in skipped:
        assert any(row.startswith(name) and "used up" in row for row in table.splitlines())


def test_a_process_that_hangs_is_stopped_and_what_it_told_is_kept() -> None:
    told = json.dumps({"row": dataclasses.asdict(Line("x", "measured before", 2.0))})
    code = f"import time; print({told!r}, flush=True); print('a word of a library', flush=True); time.sleep(60)"
    begun = time.monotonic()
    text, ended = watched([sys.executable, "-c", code], 2.0)
    assert time.monotonic() - begun < 20
    assert ended == "stopped after 2 s"
    assert read_told(text) == ([Line("x", "measured before", 2.0)], {})
    _, ended = watched([sys.executable, "-c", "raise SystemExit('the driver is gone')"], 30)
    assert ended == "its process ended with 1: the driver is gone"


def test_bars_are_for_a_gpu() -> None:
    figures = {"small": False, "official_speedup": 250.0, "prefill_share_of_matmul_ceiling": 0.31}
    assert [row.note for row in bar_rows(figures)] == ["bar 100: met", "bar 0.4: MISSED"]
    assert bar_rows(figures | {"small": True}) == []


@pytest.mark.long
@pytest.mark.usefixtures("as_it_was")
def test_a_compiled_model_is_measured_too(checkpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pipeline.predict.spex_model.BACKEND", lambda graph, inputs: graph.forward)
    scale = dataclasses.replace(gpu_sections.SMALL, tile_px=32, micro_batches=(), compiled_batches=(2,))
    said: list[str] = []
    report = Report("tiny model", said.append)
    gpu_sections.tiny_model(gpu_sections.Bench(torch.device("cpu"), scale, checkpoint, None, tmp_path, report))
    lines, figures = read_told("\n".join(said))
    assert "bfloat16, 2 tiles a pass, compile on" in [line.what for line in lines if line.value]
    assert figures["tiny_tiles_per_s"] > 0


def test_settings_without_pydantic_are_those_of_the_run_file() -> None:
    own = dataclasses.asdict(gpu_sections.ModelSettings())
    assert {**own, "compile": "auto"} == ModelConfig().model_dump()
    own_tiling, tiling = gpu_sections.TilingSettings(), TilingConfig()
    for name in ("tile_px", "overlap_px", "margin", "block_px", "resolution_m"):
        assert getattr(own_tiling, name) == getattr(tiling, name)


@pytest.mark.ray
@pytest.mark.long
def test_the_whole_benchmark_in_small_with_the_real_kernel(checkpoint: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--small", "--checkpoint", checkpoint, "--folder", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *table, last = done.stdout.splitlines()
    figures = json.loads(last)
    assert figures["not_measured"] == {}, table
    assert_sound(figures, list(LIMIT_S))
    assert figures["efficiency"] < 1
    assert "limit" in figures
