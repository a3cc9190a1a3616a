"""The scheduler maps what is new, once, whoever starts it and however often."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from typer import Typer
from typer.testing import CliRunner

from pipeline.errors import ConfigError
from spex_core.bands import SENTINEL2_BANDS
from workflows import real_scenes
from workflows.lock import exclusive
from workflows.monthly import EXIT_BUSY, main, region_config, worst
from workflows.period import Period, parse_period
from workflows.scene_cogs import SceneFile

SIZE = 96
OCTOBER = "2026-10"


def _period(text: str = OCTOBER) -> Period:
    return parse_period(text, dt.date(2026, 11, 20))


def _add_scene(folder: Path, name: str, day: str, seed: int) -> None:
    """Converts a small synthetic GeoTIFF, half water and half vegetation, into the catalog of ``folder``."""
    noise = np.random.default_rng(seed).normal(0, 0.002, (10, SIZE, SIZE))
    water = np.array([0.05, 0.05, 0.03, 0.03, 0.02, 0.02, 0.02, 0.02, 0.01, 0.01])
    plants = np.array([0.03, 0.06, 0.04, 0.10, 0.28, 0.34, 0.38, 0.40, 0.20, 0.10])
    values = np.where(np.arange(SIZE) < SIZE // 2, water[:, None, None], plants[:, None, None]) + noise
    source = folder / f"{name}.tif"
    with rasterio.open(
        source, "w", driver="GTiff", dtype="float32", count=10, height=SIZE, width=SIZE, crs="EPSG:32631",
        transform=Affine(10, 0, 600_000, 0, -10, 5_600_000), nodata=np.nan,
    ) as target:  # fmt: skip
        target.write(values.astype(np.float32))
    scene = SceneFile(source, name, real_scenes._utc(day), SENTINEL2_BANDS, scale=1.0)
    item = real_scenes.convert_scene(scene, folder / "catalog" / "local-scenes")
    real_scenes.write_catalog([item], folder / "catalog")


def _template(folder: Path, name: str, **changes: Any) -> Path:
    data = {
        "name": name,
        "region": str(folder / "catalog" / "region.geojson"),
        "source": {
            "provider": "generic",
            "url": str(folder / "catalog" / "catalog.json"),
            "collection": "local-scenes",
        },
        "model": {"checkpoint": "index-rules"},
        "tiling": {"tile_px": 64, "overlap_px": 16, "block_px": 64},
        "compute": {"actors": 1, "object_store_mb": 128},
        **changes,
    }
    path = folder / "regions" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(data))
    return path


def _monthly(*arguments: object) -> tuple[int, dict[str, Any], str]:
    app = Typer()
    app.command()(main)
    result = CliRunner().invoke(app, [*(str(a) for a in arguments), "--json"])
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, json.loads(result.stdout.splitlines()[-1]), result.output


@pytest.fixture
def place(tmp_path: Path) -> Path:
    _add_scene(tmp_path, "october-4", "2026-10-04T10:30:00Z", seed=1)
    return tmp_path


def test_period_and_folder_are_filled_into_the_template(place: Path) -> None:
    path = _template(place, "coast", region="../catalog/region.geojson")
    config = region_config(path, _period(), place / "maps", address="ray://head:10001")
    assert (str(config.start), str(config.end)) == ("2026-10-01", "2026-10-31")
    assert config.output == (place / "maps").resolve()
    assert config.region.resolve() == (place / "catalog" / "region.geojson").resolve()
    assert config.compute.address == "ray://head:10001"
    assert config.compute.actors == 1


@pytest.mark.parametrize("field", ["start", "end", "output"])
def test_template_that_sets_what_the_period_decides_is_refused(place: Path, field: str) -> None:
    path = _template(place, "coast", **{field: "2026-10-01"})
    with pytest.raises(ConfigError, match=rf"sets {field}"):
        region_config(path, _period(), place / "maps")


def test_name_that_would_leave_the_output_folder_is_refused(place: Path) -> None:
    path = _template(place, "coast")
    path.write_text(path.read_text().replace("name: coast", "name: ../../elsewhere"))
    with pytest.raises(ConfigError, match="name"):
        region_config(path, _period(), place / "maps")


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([], 0), ([0, 0], 0), ([0, 3], 3), ([3, 2, 0], 2), ([2, 1, 3], 1), ([0, 77], 1), ([3, 4, 0], 4), ([4, 2], 2)],
)
def test_exit_code_is_the_worst_of_all_regions(codes: list[int], expected: int) -> None:
    assert worst(codes) == expected


def test_dry_run_tells_what_is_new_and_writes_nothing(place: Path) -> None:
    _template(place, "coast")
    _template(place, "inland")
    code, summary, text = _monthly(OCTOBER, "--regions", place / "regions", "--output", place / "maps", "--dry-run")
    assert code == 0
    assert [r["status"] for r in summary["regions"]] == ["would-map", "would-map"]
    assert "coast 2026-10: would-map, 1 scene" in text
    assert not (place / "maps").exists()


def test_month_without_scenes_is_nothing_to_do(place: Path) -> None:
    _template(place, "coast")
    code, summary, _ = _monthly("2026-09", "--regions", place / "regions", "--output", place / "maps")
    assert code == 0
    assert [r["status"] for r in summary["regions"]] == ["no-scenes"]


def test_month_of_scenes_that_cannot_be_used_is_no_quiet_month(place: Path) -> None:
    for path in place.glob("catalog/**/*.json"):
        item = json.loads(path.read_text())
        if item.get("type") == "Feature":
            item["properties"] = {k: v for k, v in item["properties"].items() if not k.startswith("proj:")}
            for asset in item["assets"].values():
                asset.pop("proj:epsg", None), asset.pop("proj:code", None)
            path.write_text(json.dumps(item))
    _template(place, "coast")
    code, summary, text = _monthly(OCTOBER, "--regions", place / "regions", "--output", place / "maps")
    assert code == 4
    assert [(r["status"], r["exit_code"]) for r in summary["regions"]] == [("nothing-mapped", 4)]
    assert "cannot be used" in text


def test_second_process_is_turned_away_while_the_first_is_at_work(place: Path) -> None:
    _template(place, "coast")
    command = [sys.executable, "-m", "workflows.monthly", OCTOBER, "--regions", str(place / "regions"),
               "--output", str(place / "maps")]  # fmt: skip
    with exclusive(place / "maps" / ".monthly" / "lock"):
        second = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert second.returncode == EXIT_BUSY
    assert "already running (process" in second.stderr
    assert not (place / "maps" / "catalog.json").exists()


def test_unknown_period_and_empty_folder_are_bad_usage(place: Path) -> None:
    (place / "none").mkdir()
    for arguments in (["soon"], [OCTOBER, "--regions", place / "none", "--output", place / "maps"]):
        app = Typer()
        app.command()(main)
        assert CliRunner().invoke(app, [str(a) for a in arguments]).exit_code == 2


@pytest.mark.ray
def test_region_is_mapped_once_until_there_is_something_new(place: Path) -> None:
    _template(place, "a-broken", legend="no-such-legend")
    _template(place, "coast")
    folders = ("--regions", place / "regions", "--output", place / "maps")

    code, summary, text = _monthly(OCTOBER, *folders)
    broken, coast = summary["regions"]
    assert (broken["status"], broken["exit_code"]) == ("failed", 2)
    assert "no-such-legend" in broken["message"]
    assert coast["status"] == "mapped", text
    assert code == 2
    written = sorted((place / "maps").rglob("landcover.tif"))
    assert len(written) == 1
    before = written[0].stat().st_mtime_ns

    (place / "regions" / "a-broken.yaml").unlink()
    code, summary, _ = _monthly(OCTOBER, *folders)
    assert code == 0
    assert [r["status"] for r in summary["regions"]] == ["up-to-date"]
    assert summary["regions"][0]["run_id"] == coast["run_id"]
    assert written[0].stat().st_mtime_ns == before

    _add_scene(place, "october-14", "2026-10-14T10:30:00Z", seed=2)
    _, summary, _ = _monthly(OCTOBER, *folders, "--dry-run")
    assert [r["status"] for r in summary["regions"]] == ["would-map"]
    assert summary["regions"][0]["run_id"] != coast["run_id"]

    # A record without its map is no map.
    (place / "maps" / "catalog.json").unlink()
    (place / "catalog" / "local-scenes" / "october-14" / "october-14.json").unlink()
    real_scenes.write_catalog([], place / "catalog")
    _, summary, _ = _monthly(OCTOBER, *folders, "--dry-run")
    assert [r["status"] for r in summary["regions"]] == ["would-map"]
    assert summary["regions"][0]["run_id"] == coast["run_id"]
