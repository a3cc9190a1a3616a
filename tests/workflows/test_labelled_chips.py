"""Labelled scenes as chips and as a table: every label once, bands where they belong, sides kept apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.chips.chip_folder import ChipFolder
from pipeline.errors import ChipError
from spex_core.bands import BANDS, LANDSAT_BANDS, SENTINEL2_BANDS
from spex_core.legend import Legend
from tests.workflows.labelled_samples import IMAGE_SAMPLES, SPECTRA_SAMPLES
from workflows import labelled_chips, labelled_table
from workflows.labelled.scene import SENSORS, LabelledScene, SourceLabel
from workflows.labelled_chips import cut, write_chips


def scene(height: int, width: int, share: float = 0.3, seed: int = 0) -> LabelledScene:
    rng = np.random.default_rng(seed)
    return LabelledScene(
        "made",
        "made",
        "landsat-8",
        LANDSAT_BANDS,
        rng.uniform(0.01, 0.5, (6, height, width)).astype(np.float32),
        30.0,
        (rng.random((height, width)) < share).astype(np.uint8),
        {1: SourceLabel("grass", 30)},
        "drawn",
        "2020-01-01",
    )


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 70), (65, 200), (128, 129), (33, 64)])
def test_each_labelled_pixel_is_in_one_chip_with_its_reflectance(height: int, width: int) -> None:
    made = scene(height, width)
    seen = np.zeros(made.codes.shape, int)
    for pixels, codes, weight, told in cut(made, 64):
        assert (weight == (codes > 0)).all()
        rows, cols = np.nonzero(weight)
        at = (rows + told["row"], cols + told["col"])
        np.add.at(seen, at, 1)
        stored = pixels[list(made.slots)][:, rows, cols] / 1e4
        np.testing.assert_allclose(stored, made.reflectance[:, *at], atol=1e-4)
    assert (seen == (made.codes > 0)).all()


def test_missing_bands_stay_missing_and_unobserved_pixels_are_filled(tmp_path: Path) -> None:
    made = scene(64, 64)
    made.reflectance[:, :8] = np.nan
    assert write_chips([made], tmp_path) == 1
    reflectance, target, weight = ChipFolder(tmp_path, Legend.from_yaml()).chip(0)
    present = np.isfinite(reflectance).all(axis=(1, 2))
    assert [band for band, there in zip(SENTINEL2_BANDS, present, strict=True) if there] == [
        "B02", "B03", "B04", "B8A", "B11", "B12",
    ]  # fmt: skip
    assert np.isnan(reflectance[~present]).all()
    assert not weight[:8].any()
    mean = made.reflectance[:, 8:].mean(axis=(1, 2))
    np.testing.assert_allclose(reflectance[present][:, 0, 0], mean, atol=1e-4)
    assert target[Legend.from_yaml().codes.index(30)].sum() == weight.sum()
    (told,) = json.loads((tmp_path / "chips.json").read_text())
    assert (told["place"], told["pixel_m"], told["date"]) == ("made", 30.0, "2020-01-01")
    assert told["bands"][0] == ["OLI2", 482.0]


@pytest.mark.parametrize("size", [0, 16, 33, -64])
def test_sizes_that_are_none_are_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ChipError, match="multiple of 32"):
        write_chips([scene(64, 64)], tmp_path, size)


def test_scenes_without_labels_make_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ChipError, match="no scene has a label"):
        write_chips([scene(64, 64, share=0.0)], tmp_path / "out")
    assert not list(tmp_path.rglob("*.npy"))


def test_the_command_takes_one_side_of_the_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("elkton-landsat8", "aberystwyth-rsgislib"):
        IMAGE_SAMPLES[name](tmp_path / "real" / name)
    real = ["--real", str(tmp_path / "real")]
    for side, place in (("train", "elkton-landsat8"), ("evaluate", "aberystwyth-rsgislib")):
        assert labelled_chips.main([str(tmp_path / side), *real, "--side", side, "--size-px", "32"]) == 0
        told = json.loads((tmp_path / side / "chips.json").read_text())
        assert {chip["place"] for chip in told} == {place}
    assert labelled_chips.main([str(tmp_path / "x"), "--real", str(tmp_path / "none"), "--side", "train"]) == 2
    assert "error: no scene has a label" in capsys.readouterr().err


def test_the_table_counts_what_the_readers_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    IMAGE_SAMPLES["gewata-ethiopia-landsat7"](tmp_path / "gewata-ethiopia-landsat7")
    SPECTRA_SAMPLES["germany-training-pixels-s2"](tmp_path / "germany-training-pixels-s2")
    assert labelled_table.main(["--real", str(tmp_path)]) == 0
    head, _, *rows = [[c.strip() for c in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert head[:6] == ["place", "split", "sensor", "pixel", "labels", "images"]
    cells = [dict(zip(head, row, strict=True)) for row in rows]
    drawn, later, freiburg, luebeck = cells
    assert (drawn["labels"], drawn["90"], drawn["10"]) == ("drawn", "4", "")
    assert (later["labels"], later["40"], later["10"]) == ("map", "24", "27")
    assert (freiburg["split"], luebeck["split"], freiburg["pixel"]) == ("train", "evaluate", "–")
    assert (freiburg["30"], freiburg["40"], freiburg["80"]) == ("1", "1", "1")
    assert labelled_table.main(["--real", str(tmp_path / "none")]) == 2
    assert "none of the samples" in capsys.readouterr().err


def test_bands_of_every_sensor_have_a_place_of_their_own() -> None:
    for sensor, bands in SENSORS.items():
        made = scene(4, 4)
        slots = LabelledScene(
            sensor, sensor, sensor, bands, np.zeros((len(bands), 4, 4), np.float32), 30.0, made.labels, {}, "none"
        ).slots
        assert len(set(slots)) == len(bands) <= len(BANDS)
