from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.model import main
from spex_core import Legend
from tests.spex_core.conftest import build_tiny_model


@pytest.mark.long
def test_the_model_benchmark_ends_with_its_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_tiny_model(Legend.from_yaml()).save_pretrained(tmp_path / "model")
    main(["--quick", "--checkpoint", str(tmp_path / "model"), "--device", "cpu", "--tile", "64", "--tiles", "2"])
    lines = capsys.readouterr().out.splitlines()
    ratios = json.loads(lines[-1])
    assert ratios["speedup_none"] > 1
    assert {"speedup_brief", "speedup_full", "speedup_none_ending", "share_of_matmul_ceiling"} <= ratios.keys()
    assert 0 < ratios["share_of_matmul_ceiling"] <= 1
    assert any(line.startswith("vision") for line in lines)
