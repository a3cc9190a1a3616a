"""The command ``spex spie``: exit codes, one message per mistake, one JSON object at the end."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine

from pipeline.commands.cli import main
from pipeline.spie import ShardedChips


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Handlers that the command line sets must not outlive a test."""
    yield
    logging.getLogger("pipeline").handlers.clear()
    logging.getLogger("pipeline").propagate = True
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def spex(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def write(path: Path, values: Any) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", height=32, width=64, count=len(values), dtype=values.dtype, crs="EPSG:32633",
        transform=Affine(10, 0, 500_000, 0, -10, 4_000_000), tiled=True, blockxsize=32, blockysize=32,
        interleave="band",
    ) as ds:  # fmt: skip
        ds.write(values)


def data_file(folder: Path, **changes: Any) -> Path:
    rng = np.random.default_rng(0)
    write(folder / "image.tif", rng.integers(1, 4000, (10, 32, 64), np.int16))
    write(folder / "label.tif", np.full((1, 32, 64), 10, np.uint8))
    data = {
        "name": "two-chips",
        "output": "out",
        "local": [{"image": "image.tif", "label": "label.tif"}],
        "chips": {"size_px": 32},
        **changes,
    }
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_a_data_set_ends_with_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert spex("spie", str(data_file(tmp_path)), "--output", str(tmp_path / "other"), "--json") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["chips"] == {"train": 2}
    assert said["pixels"]["Trees"] == 2 * 32 * 32
    assert said["output"] == str(tmp_path / "other")
    assert len(ShardedChips(tmp_path / "other")) == 2
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_read_is_left_out_with_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = data_file(tmp_path)
    image = tmp_path / "image.tif"
    image.write_bytes(image.read_bytes()[:-1000])  # the last tile of the last band
    assert spex("spie", str(file)) == 3
    said = capsys.readouterr()
    assert "1 train chips in 1 shards" in said.out
    assert "local-00000-00000-00001: unreadable" in said.err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"local": []}, ["areas", "local"]),
        ({"chips": {"size_px": 100}}, ["chips.size_px", "32"]),
        ({"validation": 2}, ["validation"]),
        ({"colour": 1}, ["colour"]),
        ({"labels": {"provider": "generic"}}, ["labels", "url and asset"]),
        ({"local": [{"image": "image.tif", "label": "label.tif", "bands": ["B99"]}]}, ["local.0.bands", "B99"]),
        ({"areas": [{"region": "no.geojson", "start": "2026-01-01", "end": "2026-01-31"}]}, ["no.geojson"]),
        ({"areas": [{"region": "no.geojson", "start": "2026-02-01", "end": "2026-01-31"}]}, ["areas.0.end", "before"]),
        ({"legend": "nowhere"}, ["nowhere"]),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    changes: dict[str, Any], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spex("spie", str(data_file(tmp_path, **changes))) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert all(word in said.err for word in words)
    assert "Traceback" not in said.err
    assert said.out == ""


def test_help_teaches_by_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert spex("spie", "--help") == 0
    assert "spex spie workflows/examples/spie.yaml" in " ".join(capsys.readouterr().out.split())
