"""Readers of labelled images: values, bands, labels and dates of a few pixels in each source's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ChipError
from spex_core.bands import BANDS, LANDSAT_TM_BANDS
from tests.workflows.labelled_samples import EAST, IMAGE_SAMPLES, SIDE
from workflows.labelled.registry import IMAGES
from workflows.labelled.scene import DARKEST, LabelledScene, SourceLabel, surface_of

SAMPLES = {sample.folder: sample for sample in IMAGES}


def read(name: str, tmp_path: Path) -> list[LabelledScene]:
    IMAGE_SAMPLES[name](tmp_path / name)
    return list(SAMPLES[name].read(tmp_path / name))


@pytest.fixture
def scenes(request: pytest.FixtureRequest, tmp_path: Path) -> list[LabelledScene]:
    return read(request.param, tmp_path)


def test_every_image_sample_has_a_miniature() -> None:
    assert set(IMAGE_SAMPLES) == set(SAMPLES)


@pytest.mark.parametrize("scenes", sorted(SAMPLES), indirect=True)
def test_scenes_are_consistent(scenes: list[LabelledScene], request: pytest.FixtureRequest) -> None:
    assert scenes
    assert len({scene.name for scene in scenes}) == len(scenes)
    for scene in scenes:
        assert scene.place in SAMPLES[request.node.callspec.params["scenes"]].places
        assert scene.reflectance.dtype == np.float32
        assert len(set(scene.slots)) == len(scene.bands)
        assert np.nanmin(scene.reflectance) > -0.05
        assert np.nanmax(scene.reflectance) < 1
        assert not scene.codes[~scene.observed].any()
        assert set(np.unique(scene.codes)) <= {0, 10, 20, 30, 40, 50, 60, 70, 80, 90}
        assert all(not (meaning.code and meaning.among) for meaning in scene.meanings.values())


@pytest.mark.parametrize(
    ("name", "west", "east", "date", "pixel_m"),
    [
        ("belgium-lpis-chips", 30, 40, "2018-07-05", 10),
        ("belgium-lpis-landsat8", 0, 50, "2019-07-04", 10),
        ("bigearthnet-3patches", 0, 0, "2017-06-17", 10),
        ("clouds-ukis-landsat", 80, 0, None, 30),
        ("costarica-landsat5", 10, 10, "1986-02-06", 30),
        ("elkton-landsat8", 0, 10, None, 30),
        ("lahinch-worldfloods-l1c", 80, 0, "2017-09-18", 10),
        ("potsdam-enmap-simulated-s2", 50, 10, "2022-07-24", 30),
    ],
)
def test_labels_lie_where_the_source_has_them(
    tmp_path: Path, name: str, west: int, east: int, date: str | None, pixel_m: float
) -> None:
    scene = read(name, tmp_path)[0]
    assert (scene.date, scene.pixel_m) == (date, pixel_m)
    assert (scene.codes[1:, :EAST] == west).all()
    assert (scene.codes[1:, EAST:] == east).all()


def test_bands_of_two_resolutions_are_ordered_by_wavelength(tmp_path: Path) -> None:
    scene = read("belgium-lpis-chips", tmp_path)[0]
    assert scene.bands == BANDS
    expected = [0.10, 0.11, 0.12, 0.20, 0.21, 0.22, 0.13, 0.23, 0.24, 0.25]
    np.testing.assert_allclose(scene.reflectance[:, 3, 3], expected, atol=1e-6)


def test_numbers_times_a_thousand(tmp_path: Path) -> None:
    scene = read("aberystwyth-rsgislib", tmp_path)[0]
    np.testing.assert_allclose(scene.reflectance[:, 3, 3], 0.1 + 0.01 * np.arange(10), atol=1e-6)
    assert scene.codes[::2, 0].tolist() == [80, 50, 30, 10]
    assert not scene.codes[1::2].any()


def test_cloudy_and_frozen_dates_are_left_out(tmp_path: Path) -> None:
    assert [s.date for s in read("belgium-lpis-chips", tmp_path)] == ["2018-07-05", "2019-07-05"]
    assert [s.date for s in read("belgium-lpis-landsat8", tmp_path)] == ["2019-07-04"]


def test_points_label_their_own_pixel_alone(tmp_path: Path) -> None:
    scene, other = read("amazon-landsat8", tmp_path)
    assert scene.codes[0].tolist() == [80, 50, 10, 0, 0, 0, 0, 0]
    assert not scene.codes[1:].any()
    assert scene.labels[0, 3] == 3
    assert scene.meanings[3].among == (30, 40, 60)
    assert not scene.observed[0, 7]  # an impossible number
    assert not other.codes.any()


def test_empty_months_are_left_out_and_missing_bands_stay_missing(tmp_path: Path) -> None:
    scenes = read("belgium-worldcereal-timeseries", tmp_path)
    assert [scene.name[-2:] for scene in scenes] == ["01", *(f"{month:02d}" for month in range(4, 13))]
    assert [band.name for band in scenes[0].bands] == [band.name for band in BANDS if band.name != "B8A"]
    np.testing.assert_allclose(scenes[0].reflectance[:, 0, 0], 0.1 + 0.01 * np.arange(9), atol=1e-6)


def test_only_a_patch_with_one_name_is_labelled(tmp_path: Path) -> None:
    several, one = read("bigearthnet-3patches", tmp_path)
    assert (one.codes == 30).all()
    assert not several.codes.any()
    assert several.meanings[int(several.labels[0, 0])].among == (30, 40)


def test_the_later_map_counts_where_trees_stood_as_it_says(tmp_path: Path) -> None:
    drawn, later = read("gewata-ethiopia-landsat7", tmp_path)
    assert (drawn.codes[4:6, :2] == 90).all()
    assert drawn.codes.astype(bool).sum() == 4
    assert not later.codes[0].any()
    assert (later.codes[1:4, :EAST] == 40).all()
    assert (later.codes[1:7, EAST:] == 10).all()
    assert not later.codes[4:6, :2].any()  # said by the polygon
    assert not later.observed[7, 7]  # saturated


def test_classes_may_change_between_dates(tmp_path: Path) -> None:
    before, after = read("costarica-landsat5", tmp_path)
    assert before.codes[0].tolist() == [10] * SIDE
    assert after.codes[0].tolist() == [10] * EAST + [0] * EAST
    assert before.bands == LANDSAT_TM_BANDS[:4]


def test_digital_numbers_and_saturation(tmp_path: Path) -> None:
    scene = read("elkton-landsat8", tmp_path)[0]
    assert not scene.observed[0, 0]
    assert scene.observed[1:].all()
    assert (scene.labels[:, :EAST] == 0).all()  # a label of its own, not "none"
    assert scene.meanings[0].name == "field, pasture"


def test_two_places_of_one_image_lie_apart(tmp_path: Path) -> None:
    west, east = read("zion-south-landsat8", tmp_path)
    assert (west.labels.shape[1], east.labels.shape[1]) == (650, 50)
    assert not west.observed[0, 0]
    assert set(np.unique(west.codes)) == {0, 20}
    assert set(np.unique(east.codes)) == {60}


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_missing_file_is_told_by_name(tmp_path: Path, name: str) -> None:
    IMAGE_SAMPLES[name](tmp_path / name)
    # The last file of each sample is one that its reader needs: labels or a coarse band.
    victims = [p for p in (tmp_path / name).rglob("*") if p.is_file() and p.suffix not in (".json", ".xml")]
    victim = sorted(victims)[-1]
    victim.write_bytes(b"not a raster")
    with pytest.raises(ChipError, match=victim.name.replace(".", r"\.")):
        list(SAMPLES[name].read(tmp_path / name))


def test_a_thin_atmosphere_makes_nothing_negative() -> None:
    thin = np.linspace(0.05, 0.4, 1000, dtype=np.float32).reshape(1, 20, 50).repeat(len(BANDS), 0)
    surface = surface_of(thin, BANDS)
    assert surface.min() > DARKEST - 0.01
    assert (surface <= thin / 0.6).all()
    hazy = surface_of(thin + 0.2, BANDS)  # the average takes its own share and no more
    assert (hazy > surface).all()


def test_shapes_must_fit() -> None:
    with pytest.raises(ChipError, match="does not fit"):
        LabelledScene(
            "x",
            "x",
            "sentinel-2",
            BANDS,
            np.zeros((9, 4, 4), np.float32),
            10.0,
            np.zeros((4, 4), np.uint8),
            {1: SourceLabel("water", 80)},
            "drawn",
        )
