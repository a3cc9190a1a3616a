"""Readers of labelled spectra: values, order of bands, labels and groups of a few rows in each source's layout."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ChipError
from spex_core.bands import BANDS
from tests.workflows.labelled_samples import SPECTRA_SAMPLES
from workflows.labelled.registry import SPECTRA
from workflows.labelled.scene import LabelledSpectra
from workflows.labelled.spectra import spectral_library

SAMPLES = {sample.folder: sample for sample in SPECTRA}


def read(name: str, tmp_path: Path) -> list[LabelledSpectra]:
    SPECTRA_SAMPLES[name](tmp_path / name)
    return list(SAMPLES[name].read(tmp_path / name))


def test_every_table_has_a_miniature() -> None:
    assert set(SPECTRA_SAMPLES) == set(SAMPLES)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_tables_are_consistent(tmp_path: Path, name: str) -> None:
    tables = read(name, tmp_path)
    assert {table.place for table in tables} == set(SAMPLES[name].places)
    for table in tables:
        assert table.reflectance.shape == (len(table.labels), len(table.bands))
        assert np.isfinite(table.reflectance).all()
        assert set(np.unique(table.labels)) <= {0, *table.meanings}
        assert set(np.unique(table.codes)) <= {0, 10, 20, 30, 40, 50, 60, 70, 80, 90}


def test_habitats_are_parted_by_where_their_polygon_lies(tmp_path: Path) -> None:
    south, north = read("ukraine-habitat-spectra-s2", tmp_path)
    assert south.codes.tolist() == [30, 30]
    assert north.codes.tolist() == [90, 90]
    assert south.groups.tolist() == [0, 0]
    assert north.groups.tolist() == [2, 2]
    np.testing.assert_allclose(south.reflectance[0], 0.1 * np.arange(10), atol=1e-6)


def test_habitats_of_other_polygons_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "ukraine-habitat-spectra-s2"
    SPECTRA_SAMPLES[folder.name](folder)
    path = folder / "southern_buh_habitats.csv.gz"
    with gzip.open(path, "rt", newline="") as file:
        text = file.read()
    with gzip.open(path, "wt", newline="") as file:
        file.write(text.replace("2_1", "1_1"))
    with pytest.raises(ChipError, match=r"polygons \[1\]"):
        list(SAMPLES[folder.name].read(folder))


def test_half_years_are_two_tables_of_the_same_points(tmp_path: Path) -> None:
    tables = read("deafrica-crop-spectra-s2", tmp_path)
    first, second = (table for table in tables if table.place.endswith("sahel"))
    assert (first.date, second.date) == ("2019-01/2019-06", "2019-07/2019-12")
    assert [band.name for band in first.bands] == [band.name for band in BANDS if band.name != "B8A"]
    # The source's order: blue green red nir swir1 swir2 and then the red edge.
    np.testing.assert_allclose(first.reflectance[0], [0, 0.1, 0.2, 0.6, 0.7, 0.8, 0.3, 0.4, 0.5], atol=1e-6)
    np.testing.assert_allclose(second.reflectance - first.reflectance, 1, atol=1e-6)
    assert first.codes.tolist() == [40, 0]
    assert 40 not in first.meanings[2].among


def test_only_plots_of_one_cover_are_labelled(tmp_path: Path) -> None:
    (plots,) = read("australia-field-cover-landsat", tmp_path)
    assert plots.codes.tolist() == [0, 0, 60, 0]
    assert plots.labels.tolist() == [2, 3, 1, 0]
    assert plots.fractions is not None
    np.testing.assert_allclose(plots.fractions.sum(axis=1), 1, atol=1e-6)
    assert [band.name for band in plots.bands] == ["TM2", "TM3", "TM4", "TM5", "TM7"]


def test_a_bare_field_is_cropland_and_colours_are_of_the_ground(tmp_path: Path) -> None:
    freiburg, _ = read("germany-training-pixels-s2", tmp_path)
    assert freiburg.codes.tolist() == [30, 40, 80]
    assert (freiburg.reflectance[:, 0] < 0.1).all()  # blue was 0.1 above the atmosphere
    assert (freiburg.groups == [0, 1, 2]).all()


def test_a_library_is_folded_with_the_bands_responses(tmp_path: Path) -> None:
    (materials,) = read("earthlib-spectra", tmp_path)
    centres = np.array([band.wavelength_nm for band in BANDS]) / 10_000
    np.testing.assert_allclose(materials.reflectance[0], centres, rtol=5e-3)
    assert materials.codes.tolist() == [60, 50, 0, 0, 0]


def test_header_and_table_must_name_the_same_spectra(tmp_path: Path) -> None:
    SPECTRA_SAMPLES["earthlib-spectra"](tmp_path)
    header = tmp_path / "spectra.sli.hdr"
    header.write_text(header.read_text().replace("sand , road", "road , sand"))
    with pytest.raises(ChipError, match="different spectra"):
        spectral_library(tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "before", "after", "message"),
    [
        ("germany-training-pixels-s2", "pixels_freiburg_luebeck.csv.gz", "OpenSoil", "Moor", "not known: 'Moor'"),
        ("germany-training-pixels-s2", "pixels_freiburg_luebeck.csv.gz", "B8A", "B9", "column B8A is missing"),
        ("germany-training-pixels-s2", "pixels_freiburg_luebeck.csv.gz", "Luebeck", "Muenster", "no pixel of Luebeck"),
        ("deafrica-crop-spectra-s2", "sahel.csv.gz", "0.1", "NA?", "something else than numbers"),
    ],
)
def test_what_is_wrong_in_a_table_is_told(
    tmp_path: Path, name: str, file: str, before: str, after: str, message: str
) -> None:
    SPECTRA_SAMPLES[name](tmp_path / name)
    path = tmp_path / name / file
    with gzip.open(path, "rt", newline="") as opened:
        text = opened.read()
    with gzip.open(path, "wt", newline="") as opened:
        opened.write(text.replace(before, after))
    with pytest.raises(ChipError, match=message):
        list(SAMPLES[name].read(tmp_path / name))


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_broken_file_is_told_by_name(tmp_path: Path, name: str) -> None:
    SPECTRA_SAMPLES[name](tmp_path / name)
    victim = sorted((tmp_path / name).glob("*.csv*"))[-1]
    victim.write_bytes(b"\x1f\x8b broken")
    with pytest.raises(ChipError, match=victim.name.replace(".", r"\.")):
        list(SAMPLES[name].read(tmp_path / name))
