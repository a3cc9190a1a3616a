from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from benchmarks.pipeline import main
from benchmarks.process_tree import cost_of, kind_of
from spex_core import Legend
from tests.spex_core.conftest import build_tiny_model


def test_processes_are_named_after_what_they_do() -> None:
    assert kind_of(["ray::BlockClassifier.classify"]) == "BlockClassifier"
    assert kind_of(["ray::IDLE"]) == "IDLE"
    assert kind_of(["/venv/lib/python3.11/site-packages/ray/core/src/ray/raylet/raylet", "--x"]) == "Ray's own"
    assert kind_of(["/usr/bin/python", "-m", "pipeline", "run"]) == "the command itself"


def test_the_cost_of_a_command_holds_its_children() -> None:
    work = "sum(i * i for i in range(6_000_000))"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}]); print('done')"
    alone, both = (cost_of([sys.executable, "-c", code]) for code in (work, f"{child}; {work}"))
    assert both.output == "done\n"
    assert both.processes == 2
    assert both.cpu_s > 1.5 * alone.cpu_s
    with pytest.raises(RuntimeError, match="ended with 3: it is over"):
        cost_of([sys.executable, "-c", "print('it is over'); raise SystemExit(3)"])


@pytest.mark.ray
@pytest.mark.long
def test_the_pipeline_benchmark_ends_with_its_ratios_and_the_peer_maps_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_tiny_model(Legend.from_yaml()).save_pretrained(tmp_path / "model")
    small = ["--size", "256", "--peers", "dask,rasterio", "--checkpoint", str(tmp_path / "model")]
    tiling = ["--set", "tiling.tile_px=128", "--set", "tiling.overlap_px=64"]
    main([*small, *tiling, "--folder", str(tmp_path / "work")])
    lines = capsys.readouterr().out.splitlines()
    ratios = json.loads(lines[-1])
    names = {"overhead_cpu_s_per_mpx", "efficiency", "mpx_per_cpu_s", "peak_rss_mb", "vs_dask", "vs_rasterio"}
    assert names <= ratios.keys()
    assert 0 < ratios["efficiency"] < 1
    assert sum(line.startswith("peer: ") for line in lines) == 2
    (ours,) = (tmp_path / "work" / "maps").glob("*/*/landcover.tif")
    with rasterio.open(ours) as source:
        codes = source.read(1)
    for peer in ("dask", "rasterio"):
        with rasterio.open(tmp_path / "work" / "peers" / f"{peer}-landcover.tif") as source:
            theirs = source.read(1)
        both = (codes > 0) & (theirs > 0)
        assert both.mean() > 0.7  # clouds apart
        assert np.mean(codes[both] == theirs[both]) > 0.9
