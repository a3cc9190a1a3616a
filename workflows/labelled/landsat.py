"""Readers of labelled Landsat images, surface or top-of-atmosphere reflectance at 30 m.

Each reader knows one public sample in the layout in which development keeps it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely

from pipeline.errors import ChipError
from spex_core.bands import LANDSAT_BANDS, LANDSAT_ETM_BANDS, LANDSAT_TM_BANDS
from workflows.labelled.scene import (
    LabelledScene,
    Meanings,
    SourceLabel,
    from_digital,
    grid_of,
    painted,
    read_bands,
    read_labels,
    read_shapes,
    sensor_bands,
    surface_of,
)
from workflows.labelled.sentinel2 import FARMERS

SIX = range(1, 7)
LAND = (10, 20, 30, 40, 50, 60, 90)

FROZEN = "2019-01-09"
"""A date of the farmers' parcels on which haze or frost hides the fields; left out."""

GEWATA_MAP: Meanings = {
    1: SourceLabel("cropland", 40),
    2: SourceLabel("bamboo", 10),
    3: SourceLabel("bare soil", among=(20, 30, 40, 60)),  # green in this image, which is ten years older
    4: SourceLabel("coffee plantation", among=(10, 20, 40)),
    5: SourceLabel("forest", 10),
    6: SourceLabel("wetland", 90),
}
GEWATA_DRAWN: Meanings = {1: SourceLabel("cropland", 40), 5: SourceLabel("forest", 10), 6: SourceLabel("wetland", 90)}
OPEN_PERCENT, WOODED_PERCENT = 45, 50
"""Tree cover up to which a field, and from which a forest, of the later map was one when the image was taken."""

NLCD: Meanings = {
    11: SourceLabel("open water", 80),
    21: SourceLabel("developed, open space", among=(10, 20, 30, 50)),
    22: SourceLabel("developed, low intensity", 50),
    23: SourceLabel("developed, medium intensity", 50),
    24: SourceLabel("developed, high intensity", 50),
    31: SourceLabel("barren", 60),
    41: SourceLabel("deciduous forest", 10),
    42: SourceLabel("evergreen forest", 10),
    43: SourceLabel("mixed forest", 10),
    52: SourceLabel("shrub", 20),
    71: SourceLabel("grassland", 30),
    81: SourceLabel("pasture, hay", 30),
    82: SourceLabel("cultivated crops", 40),
    90: SourceLabel("woody wetland", among=(10, 20, 90)),
    95: SourceLabel("herbaceous wetland", 90),
}
ZION_WEST, ZION_EAST = slice(0, 650), slice(750, None)
"""Columns of the two places of the Zion sample, three kilometres apart."""

AMAZON: Meanings = {
    0: SourceLabel("water", 80),
    1: SourceLabel("urban", 50),
    2: SourceLabel("forest", 10),
    3: SourceLabel("pasture, agriculture, bare", among=(30, 40, 60)),
}
NO_POINT = 255

COSTA_RICA: Meanings = {1: SourceLabel("Forest", 10), 2: SourceLabel("NonForest", among=(30, 40, 50))}

ELKTON: Meanings = {
    0: SourceLabel("field, pasture", among=(30, 40)),
    1: SourceLabel("forest", 10),
    2: SourceLabel("industrial, built", 50),
}
ELKTON_SUN = 0.87
"""Sine of a summer noon's sun elevation there; the source does not tell it."""

CLOUD_MASK: Meanings = {
    0: SourceLabel("cloud shadow"),
    1: SourceLabel("water", 80),
    2: SourceLabel("snow, ice", 70),
    3: SourceLabel("land", among=LAND),
    4: SourceLabel("cloud"),
}


def farmers_parcels(folder: Path) -> Iterator[LabelledScene]:
    """belgium-lpis-landsat8: one chip at many dates, resampled to 10 m by the source (truly 30 m)."""
    for path in sorted(folder.glob("000028085BF08E7E_20*.tif")):
        date = path.stem.split("_")[1]
        if date == FROZEN:
            continue
        yield LabelledScene(
            f"{folder.name}/{date}",
            folder.name,
            "landsat-8",
            LANDSAT_BANDS,
            from_digital(read_bands(path, SIX)),
            10.0,
            read_labels(folder / "000028085BF08E7E_LC.tif"),
            FARMERS,
            "register",
            date,
        )


def ethiopian_forest(folder: Path) -> Iterator[LabelledScene]:
    """gewata-ethiopia-landsat7: hand-drawn polygons, and again the later map where nothing changed."""
    path = folder / "gewata_sr_x10000.tif"
    grid = grid_of(path)
    # Saturated pixels have 16000.
    reflectance = from_digital(read_bands(path, SIX), missing=16_000)
    numbers = {meaning.name: number for number, meaning in GEWATA_DRAWN.items()}
    table = folder / "trainingPoly_wkt.csv"
    try:
        with table.open(encoding="utf-8", newline="") as file:
            shapes = [(shapely.from_wkt(row["WKT"]), numbers[row["Class"]]) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, shapely.errors.ShapelyError) as error:
        raise ChipError(f"{table} cannot be read: {error!r}") from None
    drawn = LabelledScene(
        f"{folder.name}/drawn",
        folder.name,
        "landsat-7",
        LANDSAT_ETM_BANDS,
        reflectance,
        30.0,
        painted(shapes, grid),
        GEWATA_DRAWN,
        "drawn",
    )
    yield drawn
    later, trees = read_labels(folder / "lulc2011.tif"), read_labels(folder / "vcf_treecover_percent.tif")
    changed = np.isin(later, (2, 5)) & ((trees < WOODED_PERCENT) | (trees > 100))
    changed |= (later == 1) & (trees > OPEN_PERCENT)
    later[changed | (drawn.labels > 0)] = 0
    yield replace(drawn, name=f"{folder.name}/map", labels=later, meanings=GEWATA_MAP, kind="map")


def desert_mountains(folder: Path) -> Iterator[LabelledScene]:
    """zion-south-landsat8: four bands at the top of the atmosphere, the national map; a western and an eastern part."""
    bands = sensor_bands("landsat-8", ("blue", "green", "red", "nir08"))
    digital = read_bands(folder / "zion_toa_x10000.tif", range(1, 5))
    surface = surface_of(from_digital(digital), bands)
    labels = read_labels(folder / "nlcd2011.tif")
    for part, columns in (("west", ZION_WEST), ("east", ZION_EAST)):
        place = f"{folder.name}/{part}"
        yield LabelledScene(
            place,
            place,
            "landsat-8",
            bands,
            surface[:, :, columns],
            30.0,
            labels[:, columns],
            NLCD,
            "map",
            "2015-08-18",
        )


def amazon_points(folder: Path) -> Iterator[LabelledScene]:
    """amazon-landsat8: Porto Velho with points, Madre de Dios without labels."""
    path = folder / "LC08_232066_20190727_sr_x10000.tif"
    points = [(shape, int(number)) for shape, number in read_shapes(folder / "endmembers.gpkg", "class")]
    yield LabelledScene(
        f"{folder.name}/porto-velho",
        f"{folder.name}/porto-velho",
        "landsat-8",
        LANDSAT_BANDS,
        from_digital(read_bands(path, SIX), missing=-9999),
        30.0,
        painted(points, grid_of(path), empty=NO_POINT),
        AMAZON,
        "points",
        "2019-07-27",
    )
    digital = read_bands(folder / "LC08_003069_20180906_sr_x10000.tif", SIX)
    yield LabelledScene(
        f"{folder.name}/madre-de-dios",
        f"{folder.name}/madre-de-dios",
        "landsat-8",
        LANDSAT_BANDS,
        from_digital(digital, missing=None),
        30.0,
        np.full(digital.shape[1:], NO_POINT, np.uint8),
        {},
        "none",
        "2018-09-06",
    )


def forest_or_not(folder: Path) -> Iterator[LabelledScene]:
    """costarica-landsat5: two dates, polygons of forest and of what is none."""
    numbers = {meaning.name: number for number, meaning in COSTA_RICA.items()}
    for year, date in (("1986", "1986-02-06"), ("2001", "2001-01-14")):
        path = folder / f"L5TSR_{year}_x10000.tif"
        shapes = [
            (shape, numbers.get(str(name), 0))
            for shape, name in read_shapes(folder / "training_polygons.gpkg", f"class_{year}")
        ]
        yield LabelledScene(
            f"{folder.name}/{year}",
            folder.name,
            "landsat-5",
            LANDSAT_TM_BANDS[:4],
            from_digital(read_bands(path, range(1, 5))),
            30.0,
            painted(shapes, grid_of(path)),
            COSTA_RICA,
            "drawn",
            date,
        )


def valley_polygons(folder: Path) -> Iterator[LabelledScene]:
    """elkton-landsat8: digital numbers of the top of the atmosphere, three polygons."""
    digital = read_bands(folder / "LC8_elkton_dn.tif", range(2, 8))  # without coastal and cirrus
    toa = ((digital * 2e-5 - 0.1) / ELKTON_SUN).astype(np.float32)
    toa[:, (digital == 65_535).any(axis=0)] = np.nan
    yield LabelledScene(
        folder.name,
        folder.name,
        "landsat-8",
        LANDSAT_BANDS,
        surface_of(toa, LANDSAT_BANDS),
        30.0,
        read_labels(folder / "labels.tif"),
        ELKTON,
        "drawn",
    )


def cloud_masks(folder: Path) -> Iterator[LabelledScene]:
    """clouds-ukis-landsat: two images with masks of cloud, shadow, water and land; where they lie is not told."""
    for name, sensor, bands in (
        ("landsat5", "landsat-5", LANDSAT_TM_BANDS),
        ("landsat7", "landsat-7", LANDSAT_ETM_BANDS),
    ):
        place = f"{folder.name}/{name}"
        toa = read_bands(folder / f"{name}_toa_reflectance.tif", SIX)
        yield LabelledScene(
            place,
            place,
            sensor,
            bands,
            surface_of(toa, bands),
            30.0,
            read_labels(folder / f"{name}_mask.tif"),
            CLOUD_MASK,
            "mask",
        )
