"""Whole data sets: from a served archive, after a kill, with failing scenes, from local rasters."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine

from pipeline.comparison.assessment import read_reference
from pipeline.errors import BadInputError, NoChipsError, OutputError, ReadError
from pipeline.machine.own_files import folder_lock
from pipeline.machine.progress import LogProgress
from pipeline.records.plan import Window, ZoneGrid
from pipeline.simulation import publish_items, serve_files, serve_stac
from pipeline.spie import ShardedChips, SpieConfig, build
from pipeline.spie.sites import AreaSite
from pipeline.spie.state import STATE_FOLDER
from spex_core.answers import check
from spex_core.legend import Legend

CHIPS = {"size_px": 64, "per_stratum": 2, "cell_chips": 2}


def settings(archive: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "output": str(output),
        "areas": [{"region": str(archive / "region.geojson"), "start": "2026-06-01", "end": "2026-07-31"}],
        "source": {"provider": "earth-search", "url": str(archive / "catalog.json")},
        "labels": {"url": str(archive / "catalog.json")},
        "imagery_licence": "nobody's",
        "chips": CHIPS,
        "validation": 0.3,
        "chips_per_shard": 2,
        **changes,
    }


def make(data: dict[str, Any]) -> Any:
    return build(SpieConfig.from_dict(data), LogProgress())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.fixture(scope="module")
def built(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data set over the tiny archive, from its static catalog."""
    output = tmp_path_factory.mktemp("spie")
    result = make(settings(tiny_archive, output))
    assert result.exit_code == 0
    assert not result.reused
    return output


def test_chips_hold_the_archive_s_pixels_and_its_true_land_cover(built: Path, tiny_archive: Path) -> None:
    chips = ShardedChips(built)
    truth = sorted((tiny_archive / "truth").glob("*.tif"))
    assert len(chips) >= 8
    for i in (0, len(chips) - 1):
        record = chips.record(i)
        west, south, east, north = record["bounds"]
        grid = ZoneGrid(record["epsg"], west, north, 10.0, 64, 64)
        assert (east - west, north - south) == (640.0, 640.0)
        expected = read_reference(truth, grid, Window(0, 0, 64, 64))
        reflectance, target, weight = chips.chip(i)
        codes = np.array(Legend.from_yaml().codes)[target.argmax(axis=0)]
        assert np.array_equal(codes[weight > 0], expected[weight > 0])
        assert np.isfinite(reflectance[:, weight > 0]).all()
        assert record["pixels"] == {str(c): int((codes[weight > 0] == c).sum()) for c in np.unique(codes[weight > 0])}


def test_every_chip_says_where_when_from_what_and_under_which_licence(built: Path) -> None:
    chips = ShardedChips(built)
    card = json.loads((built / "datacard.json").read_text())
    listed = {entry["key"]: entry for entry in card["chips"]}
    assert listed.keys() == {chips.key(i) for i in range(len(chips))}
    for i in range(len(chips)):
        record = chips.record(i)
        assert set(record["source"]["items"]) <= {"S2B_32TPS_20260618_0_L2A", "S2B_32TPS_20260718_0_L2A"}
        assert record["source"]["labels"] == {
            "collection": "esa-worldcover",
            "items": ["simulated_WorldCover_10m_2026_32TPS"],
        }
        assert set(record["dates"]) <= {"2026-06-18", "2026-07-18"}
        assert record["licence"] == {"imagery": "nobody's", "labels": ["Apache-2.0"]}
        west, south, east, north = record["bounds_lonlat"]
        assert 10.8 < west < east < 10.9
        assert 46.4 < south < north < 46.5
        assert record["attributes"].keys() == record["answers"].keys() == {c.noun for c in Legend.from_yaml()}
        assert all(len(records) <= 10 for records in record["attributes"].values())
        assert {n: listed[record["key"]][n] for n in ("source", "dates", "licence", "pixels")} == {
            n: record[n] for n in ("source", "dates", "licence", "pixels")
        }
    text = (built / "DATACARD.md").read_text()
    assert "Trees" in text
    assert "nobody's" in text


def test_every_claim_of_the_answers_holds_for_the_labels(built: Path) -> None:
    chips, legend = ShardedChips(built), Legend.from_yaml()
    claims = []
    for i in range(len(chips)):
        reflectance, target, weight = chips.chip(i)
        masks = {entry.noun: (target[k] > 0) & (weight > 0) for k, entry in enumerate(legend)}
        for noun, texts in chips.record(i)["answers"].items():
            others = {other: mask for other, mask in masks.items() if other != noun}
            for text in texts.values():
                claims += check(text, noun, masks[noun], reflectance, others)
    assert len(claims) > 100
    assert all(claim.supported for claim in claims)


def test_the_sample_is_bounded_per_stratum_and_split_by_whole_cells(built: Path) -> None:
    train, held = (ShardedChips(built, split=split) for split in ("train", "validation"))  # type: ignore[arg-type]
    records = {split: [c.record(i) for i in range(len(c))] for split, c in (("train", train), ("held", held))}
    everything = [*records["train"], *records["held"]]
    assert len({record["key"] for record in everything}) == len(everything)
    strata = [record["stratum"] for record in everything]
    assert max(strata.count(code) for code in set(strata)) == CHIPS["per_stratum"]
    assert len(set(strata)) >= 4
    assert records["train"]
    assert records["held"]
    assert not {r["cell"] for r in records["train"]} & {r["cell"] for r in records["held"]}


def test_a_finished_data_set_costs_nothing(built: Path, tiny_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*.*")}
    monkeypatch.setattr("pipeline.spie.builder.open_sites", None)  # neither searched nor read
    again = make(settings(tiny_archive, built, readers=1))
    assert again.reused
    assert before == {path: path.stat().st_mtime_ns for path in built.rglob("*.*")}
    with pytest.raises(OutputError, match="holds another data set"):
        make(settings(tiny_archive, built, seed=9))


def test_a_lost_shard_is_made_again_and_nothing_else_is_read(
    built: Path, tiny_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "copy"
    shutil.copytree(built, output)
    (output / "train-000001.tar").unlink()
    reads = []
    read = AreaSite.read_imagery
    monkeypatch.setattr(AreaSite, "read_imagery", lambda site, window: reads.append(window) or read(site, window))
    result = make(settings(tiny_archive, output))
    assert not result.reused
    assert len(reads) == 2  # chips_per_shard
    assert contents(output) == contents(built)


def test_from_a_stac_api_over_http_and_killed_on_the_way_it_ends_with_the_same_bytes(
    tiny_archive: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(tiny_archive, folder)
    with serve_files(folder) as files, serve_stac(publish_items(folder, files)) as api:
        data = settings(
            folder, tmp_path / "whole", source={"provider": "earth-search", "url": api}, labels={"url": api}
        )
        file = tmp_path / "data.yaml"
        file.write_text(yaml.safe_dump(data))
        killed = tmp_path / "killed"
        command = [sys.executable, "-m", "pipeline", "spie", str(file), "--output", str(killed)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while not list(killed.glob("*.tar")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        assert process.returncode == -signal.SIGKILL, said.decode()
        assert list(killed.glob("*.tar"))
        assert not (killed / "index.json").exists()
        make(data | {"output": str(killed)})
        assert make(data).exit_code == 0
    assert contents(killed) == contents(tmp_path / "whole")


def test_a_scene_that_cannot_be_read_is_done_without_and_told(tiny_archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(tiny_archive, folder)
    publish_items(folder, str(folder))
    next(folder.glob("scenes/*/20260618*/B04.tif")).unlink()
    chips = {**CHIPS, "per_stratum": 1}
    result = make(settings(folder, tmp_path / "out", chips=chips))
    assert result.exit_code == 3
    card = json.loads((tmp_path / "out" / "datacard.json").read_text())
    assert all("20260618" in problem and "could not be read" in problem for problem in card["problems"])
    assert all(entry["dates"] == ["2026-07-18"] for entry in card["chips"])
    again = make(settings(folder, tmp_path / "out", chips=chips))
    assert again.reused
    assert again.exit_code == 3


def test_a_source_that_is_away_stops_the_build_and_the_same_command_goes_on(tiny_archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(tiny_archive, folder)
    data = settings(folder, tmp_path / "out", chips={**CHIPS, "per_stratum": 1})
    (folder / "truth").rename(folder / "away")
    with pytest.raises(ReadError, match=r"label windows in a row.*run the command again"):
        make(data)
    (folder / "away").rename(folder / "truth")
    (folder / "scenes").rename(folder / "away")
    with pytest.raises(ReadError, match=r"chips in a row are unreadable.*run the command again"):
        make(data)
    (folder / "away").rename(folder / "scenes")
    result = make(data)
    assert result.exit_code == 0
    make(data | {"output": str(tmp_path / "undisturbed")})
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_clouded_chips_are_not_taken(tiny_archive: Path, tmp_path: Path) -> None:
    everything_is_cloud = {"mask_scl": list(range(12))}
    with pytest.raises(NoChipsError, match=r"clouds.*widen the dates"):
        make(settings(tiny_archive, tmp_path / "out", composite=everything_is_cloud))
    assert not (tmp_path / "out" / "index.json").exists()


def test_places_without_enough_labels_are_not_taken(tiny_archive: Path, tmp_path: Path) -> None:
    labels = {"url": str(tiny_archive / "catalog.json"), "codes": {70: 70}}
    with pytest.raises(NoChipsError, match="min_labelled"):
        make(settings(tiny_archive, tmp_path / "out", labels=labels))


# --- local rasters --------------------------------------------------------------------------------------------------


def write_image(path: Path, bands: int, *, left: float = 500_003.0, epsg: int = 32633, size: int = 96) -> None:
    values = np.arange(bands, dtype=np.int16)[:, None, None] * 1000 + np.arange(size * size).reshape(size, size) % 500
    with rasterio.open(
        path, "w", driver="GTiff", height=size, width=size, count=bands, dtype="int16", crs=f"EPSG:{epsg}",
        transform=Affine(20, 0, left, 0, -20, 4_000_007.0), nodata=-1,
    ) as ds:  # fmt: skip
        ds.write(values.astype(np.int16))


def write_label(path: Path, *, left: float = 500_003.0, size: int = 96) -> None:
    codes = np.full((size, size), 1, np.uint8)
    codes[: size // 2] = 2
    with rasterio.open(
        path, "w", driver="GTiff", height=size, width=size, count=1, dtype="uint8", crs="EPSG:32633",
        transform=Affine(20, 0, left, 0, -20, 4_000_007.0),
    ) as ds:  # fmt: skip
        ds.write(codes, 1)


def local_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    pair = {
        "image": "images/*.tif",
        "label": "labels/{stem}_lc.tif",
        "bands": ["B04", "-", "B08"],
        "scale": 0.001,
        "codes": {1: 10, 2: 80},
        "date": "2024-05-01",
        "licence": "CC-BY-4.0",
    }
    return {
        "name": "local",
        "output": str(folder / "out"),
        "local": [{**pair, **changes}],
        "chips": {"size_px": 64, "min_labelled": 0.2},
    }


@pytest.fixture
def rasters(tmp_path: Path) -> Path:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(2):
        left = 500_003.0 + 50_000 * number
        write_image(tmp_path / "images" / f"s{number}.tif", 3, left=left)
        write_label(tmp_path / "labels" / f"s{number}_lc.tif", left=left)
    return tmp_path


def test_local_rasters_keep_their_pixels_and_tell_missing_bands(rasters: Path) -> None:
    result = build(SpieConfig.from_dict(local_settings(rasters), rasters), LogProgress())
    chips = ShardedChips(rasters / "out")
    # Two images of 96 px: the corner chip is whole, two are half, the last has a quarter of its pixels.
    assert len(chips) == sum(result.chips.values()) == 8
    whole = next(i for i in range(8) if chips.key(i) == "local-00000-00000-00000")
    reflectance, target, weight = chips.chip(whole)
    assert np.isfinite(reflectance).all(axis=(1, 2)).tolist() == [False, False, True, *[False] * 3, True, *[False] * 3]
    assert reflectance[2, 0, :3].tolist() == pytest.approx([0.0, 0.001, 0.002])
    assert reflectance[6, 0, 0] == pytest.approx(2.0)
    assert (target[7, :48] == 1).all()
    assert (target[0, 48:] == 1).all()
    assert weight.mean() == 1
    corner = next(i for i in range(8) if chips.key(i) == "local-00001-00001-00001")
    reflectance, _, weight = chips.chip(corner)
    assert weight.mean() == 0.25
    assert np.isnan(reflectance[:, 32:]).all()
    record = chips.record(corner)
    assert record["source"]["items"] == ["s1.tif"]
    assert record["dates"] == ["2024-05-01"]
    assert record["licence"] == {"imagery": "CC-BY-4.0", "labels": ["CC-BY-4.0"]}
    assert record["resolution_m"] == 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": "images/*.png"}, "matches no file"),
        ({"label": "labels/{stem}.tif"}, "its label"),
        ({"bands": ["B04", "B08"]}, "has 3 bands, local.bands names 2"),
        ({"codes": {1: 11}}, "local.codes"),
    ],
)
def test_local_pairs_that_do_not_fit_are_told(rasters: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        build(SpieConfig.from_dict(local_settings(rasters, **change), rasters), LogProgress())


def test_images_in_degrees_are_told(rasters: Path) -> None:
    write_image(rasters / "images" / "s1.tif", 3, epsg=4326)
    with pytest.raises(BadInputError, match="projected system in metres"):
        build(SpieConfig.from_dict(local_settings(rasters), rasters), LogProgress())


def test_shards_of_an_unfinished_build_with_other_settings_do_not_stay(rasters: Path) -> None:
    data = local_settings(rasters) | {"chips_per_shard": 1}
    build(SpieConfig.from_dict(data, rasters), LogProgress())
    (rasters / "out" / "index.json").unlink()  # as if killed before the end
    data["chips"] = {**data["chips"], "per_stratum": 1}
    result = build(SpieConfig.from_dict(data, rasters), LogProgress())
    chips = ShardedChips(rasters / "out")
    assert result.shards == len(chips) < 8
    assert {path.name for path in (rasters / "out").glob("*.tar")} == {shard.name for shard in chips.index.shards}


def test_two_builds_cannot_write_one_folder(rasters: Path) -> None:
    with folder_lock(rasters / "out", STATE_FOLDER), pytest.raises(OutputError, match="is being written by process"):
        build(SpieConfig.from_dict(local_settings(rasters), rasters), LogProgress())


def test_no_more_places_are_looked_at_than_allowed(rasters: Path) -> None:
    data = local_settings(rasters)
    data["chips"] = {**data["chips"], "max_places": 3}
    result = build(SpieConfig.from_dict(data, rasters), LogProgress())
    assert len(next((rasters / "out").glob(".spie/*/survey.jsonl")).read_text().splitlines()) == 3
    assert sum(result.chips.values()) <= 3


def test_a_legend_may_have_a_class_zero(rasters: Path) -> None:
    classes = [{"code": 0, "name": "Dry", "color": "#aaaaaa"}, {"code": 1, "name": "Water", "color": "#0000ff"}]
    (rasters / "flood.yaml").write_text(yaml.safe_dump({"name": "flood", "nodata": 255, "classes": classes}))
    data = local_settings(rasters, codes={1: 0, 2: 1}) | {"legend": "flood.yaml"}
    result = build(SpieConfig.from_dict(data, rasters), LogProgress())
    assert result.pixels == {"Dry": 2 * 96 * 48, "Water": 2 * 96 * 48}
    chips = ShardedChips(rasters / "out")
    total = sum(float(chips.chip(i)[2].sum()) for i in range(len(chips)))
    assert total == 2 * 96 * 96
