"""Accuracy against a reference map: the arithmetic, and which pixels count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from pipeline.comparison.assessment import Assessment, confusion_matrix, read_reference
from pipeline.errors import ReadError
from pipeline.records.plan import Window, ZoneGrid
from spex_core.legend import Legend, LegendClass

TWO = Legend("two", "Two", (LegendClass(10, "A", "a", "#000000"), LegendClass(80, "B", "b", "#0000ff")))


def test_rows_are_the_reference_and_unknown_pixels_do_not_count() -> None:
    reference = np.array([[10, 10, 80, 80, 0, 10]], np.uint8)
    found = np.array([[10, 80, 80, 80, 10, 0]], np.uint8)
    assert confusion_matrix(reference, found, TWO).tolist() == [[1, 1], [0, 2]]


def test_accuracies_by_hand() -> None:
    assessment = Assessment(TWO, np.array([[6, 2], [1, 11]], np.int64))
    assert assessment.overall == pytest.approx(17 / 20)
    assert assessment.users == pytest.approx([6 / 7, 11 / 13])
    assert assessment.producers == pytest.approx([6 / 8, 11 / 12])
    assert assessment.iou == pytest.approx([6 / 9, 11 / 14])
    assert assessment.miou == pytest.approx((6 / 9 + 11 / 14) / 2)


def test_a_class_that_the_reference_lacks_is_no_part_of_the_mean() -> None:
    assessment = Assessment(TWO, np.array([[5, 1], [0, 0]], np.int64))
    assert assessment.miou == pytest.approx(5 / 6)
    assert np.isnan(assessment.producers[1])


def test_nothing_compared_is_not_a_perfect_map() -> None:
    empty = Assessment(TWO, np.zeros((2, 2), np.int64))
    assert np.isnan(empty.overall)
    assert np.isnan(empty.miou)


def write(path: Path, codes: list[list[int]], left: float) -> Path:
    values = np.array(codes, np.uint8)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=values.shape[0],
        width=values.shape[1],
        count=1,
        dtype="uint8",
        crs="EPSG:32632",
        transform=Affine(10, 0, left, 0, -10, 5_000_000),
    ) as file:
        file.write(values, 1)
    return path


def test_reference_files_are_laid_side_by_side_on_the_grid(tmp_path: Path) -> None:
    west = write(tmp_path / "west.tif", [[10, 10], [10, 0]], 500_000)
    east = write(tmp_path / "east.tif", [[80, 80], [80, 80]], 500_010)
    grid = ZoneGrid(32632, 500_000.0, 5_000_000.0, 10.0, 2, 4)
    codes = read_reference([west, east], grid, Window(0, 0, 2, 4))
    assert codes.tolist() == [[10, 10, 80, 0], [10, 80, 80, 0]]


def test_a_reference_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"gone\.tif"):
        read_reference([tmp_path / "gone.tif"], ZoneGrid(32632, 0.0, 0.0, 10.0, 2, 2), Window(0, 0, 2, 2))
