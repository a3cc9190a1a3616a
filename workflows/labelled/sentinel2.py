"""Readers of labelled Sentinel-2 images, and of one spectrometer's image folded to Sentinel-2's bands.

Each reader knows one public sample in the layout in which development keeps it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.errors import ChipError
from spex_core.bands import BANDS, SENTINEL2_BANDS
from workflows.labelled.scene import (
    FloatArray,
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

FINE, COARSE = ("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B8A", "B11", "B12")
"""Bands of the files at 10 and at 20 m."""

L1C_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")

FARMERS: Meanings = {
    11: SourceLabel("annual crop", 40),
    13: SourceLabel("grassland", 30),
    60: SourceLabel("built-up", 50),
    99: SourceLabel("not cropland, unspecified"),
}
"""Land cover by the farmers' register of Flanders, in the numbers of WorldCereal."""

LPIS_PLACES = {"00002806639B424A": "31UDS", "0000280849BAC91C": "31UES"}
"""Chip of belgium-lpis-chips → its tile of the grid."""

CLOUDED = ("00002806639B424A_2017-10-23", "0000280849BAC91C_2018-12-17")
"""Dates that the source calls clear and that are not, as a look at them shows; left out."""

DRAWN_GROUPS: Meanings = {
    1: SourceLabel("water", 80),
    2: SourceLabel("urban", 50),
    3: SourceLabel("grass", 30),
    4: SourceLabel("forest", 10),
}
"""Aberystwyth's hand-drawn polygons; a number for each of its files."""

POTSDAM: Meanings = {
    1: SourceLabel("roof", 50),
    2: SourceLabel("pavement", 50),
    3: SourceLabel("low vegetation", among=(30, 40)),
    4: SourceLabel("tree", 10),
    # Drawn on an aerial photograph of another day: green in this image.
    5: SourceLabel("soil", among=(30, 40, 60)),
    # Narrow: at 30 m mostly its banks.
    6: SourceLabel("water", among=(10, 30, 80)),
}

CORINE: Meanings = {
    1: SourceLabel("Pastures", 30),
    2: SourceLabel("Non-irrigated arable land", 40),
    3: SourceLabel("Broad-leaved forest", 10),
    4: SourceLabel("Transitional woodland/shrub", among=(10, 20)),
    5: SourceLabel("Complex cultivation patterns", among=(10, 30, 40, 50)),
    6: SourceLabel(
        "Land principally occupied by agriculture, with significant areas of natural vegetation", among=(10, 20, 30, 40)
    ),
}
"""Names that the sampled BigEarthNet patches have."""
SEVERAL = 255
"""Label of a patch with more than one name: nobody says which pixel is which."""

FLOODS: Meanings = {
    1: SourceLabel("land", among=(10, 20, 30, 40, 50, 60, 90)),
    2: SourceLabel("water", 80),
    3: SourceLabel("cloud"),
}


def _two_resolutions(fine: Path, coarse: Path) -> FloatArray:
    """The ten bands on the 10 m grid, as digital numbers."""
    shape = grid_of(fine)[0]
    parts = dict(zip(FINE, read_bands(fine, range(1, 5)), strict=True))
    parts |= dict(zip(COARSE, read_bands(coarse, range(1, 7), shape), strict=True))
    return np.stack([parts[band] for band in SENTINEL2_BANDS])


def farmers_parcels(folder: Path) -> Iterator[LabelledScene]:
    """belgium-lpis-chips: two chips of 640 m at many dates, parcels of the farmers' register."""
    for chip, tile in LPIS_PLACES.items():
        labels = read_labels(folder / f"{chip}_LC.tif")
        for fine in sorted(folder.glob(f"{chip}_*_10m.tif")):
            date = fine.name.split("_")[1]
            if f"{chip}_{date}" in CLOUDED:
                continue
            place = f"{folder.name}/{tile}"
            digital = _two_resolutions(fine, fine.with_name(f"{chip}_{date}_20m.tif"))
            yield LabelledScene(
                f"{place}/{date}",
                place,
                "sentinel-2",
                BANDS,
                from_digital(digital),
                10.0,
                labels,
                FARMERS,
                "register",
                date,
            )


def hand_drawn_groups(folder: Path) -> Iterator[LabelledScene]:
    """aberystwyth-rsgislib: one scene × 1000, a file of polygons for each of four groups."""
    path = folder / "aber_mosaic_10band_x1000.tif"
    shapes = [
        (shape, number)
        for number, meaning in DRAWN_GROUPS.items()
        for shape, _ in read_shapes(folder / "labels" / f"cls_{meaning.name}_smpls.gpkg", None)
    ]
    reflectance = from_digital(read_bands(path, range(1, 11)), scale=1000)
    labels = painted(shapes, grid_of(path))
    yield LabelledScene(
        folder.name,
        folder.name,
        "sentinel-2",
        BANDS,
        reflectance,
        10.0,
        labels,
        DRAWN_GROUPS,
        "drawn",
        "2021-05-27",
    )


def folded_town(folder: Path) -> Iterator[LabelledScene]:
    """potsdam-enmap-simulated-s2: a spectrometer's image at 30 m, polygons of an aerial photograph."""
    digital = read_bands(folder / "potsdam_s2bands_30m.tif", range(2, 12))  # without B01
    labels = read_labels(folder / "landcover.tif")
    yield LabelledScene(
        folder.name,
        folder.name,
        "enmap-as-sentinel-2",
        BANDS,
        from_digital(digital),
        30.0,
        labels,
        POTSDAM,
        "drawn",
        "2022-07-24",
    )


def named_patches(folder: Path) -> Iterator[LabelledScene]:
    """bigearthnet-3patches: patches of 1200 m with CORINE's names; labels only where a patch has a single name."""
    numbers = {meaning.name: number for number, meaning in CORINE.items()}
    for path in sorted(folder.glob("*_labels_metadata.json")):
        patch = path.name.removesuffix("_labels_metadata.json")
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            names, date = list(told["labels"]), str(told["acquisition_date"])[:10]
            number = numbers[names[0]] if len(names) == 1 else SEVERAL
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ChipError(f"{path} is no BigEarthNet metadata that is known here: {error!r}") from None
        among = tuple(sorted({c for n in names if n in numbers for c in _possible(CORINE[numbers[n]])}))
        digital = _two_resolutions(folder / f"{patch}_10m.tif", folder / f"{patch}_20m.tif")
        place = f"{folder.name}/{'_'.join(patch.split('_')[-2:])}"
        yield LabelledScene(
            place,
            place,
            "sentinel-2",
            BANDS,
            from_digital(digital),
            10.0,
            np.full(digital.shape[1:], number, np.uint8),
            {**CORINE, SEVERAL: SourceLabel(" + ".join(names), among=among)},
            "tags",
            date,
        )


def _possible(meaning: SourceLabel) -> tuple[int, ...]:
    return (meaning.code,) if meaning.code else meaning.among


def monthly_farmland(folder: Path) -> Iterator[LabelledScene]:
    """belgium-worldcereal-timeseries: monthly composites without labels, nine bands; empty months are left out."""
    names = tuple(band for band in SENTINEL2_BANDS if band != "B8A")
    path = folder / "worldcereal_preprocessed_inputs.nc"
    for month in range(1, 13):
        digital = np.concatenate([read_bands(f"netcdf:{path}:S2-L2A-{band}", [month]) for band in names])
        # 65535, or -1 in the signed original, and the nodata of the file: nothing reflects three times the light.
        digital[digital >= 30_000] = 0
        if not digital.any():
            continue
        yield LabelledScene(
            f"{folder.name}/{month:02d}",
            folder.name,
            "sentinel-2",
            sensor_bands("sentinel-2", names),
            from_digital(digital),
            10.0,
            np.zeros(digital.shape[1:], np.uint8),
            {},
            "none",
        )


def flooded_pasture(folder: Path) -> Iterator[LabelledScene]:
    """lahinch-worldfloods-l1c: five dates as top-of-atmosphere reflectance, masks of land, water and cloud."""
    numbers = [L1C_BANDS.index(band) + 1 for band in SENTINEL2_BANDS]
    for path in sorted(folder.glob("*_l1c_x10000.tif")):
        date = path.name.split("_")[1]
        labels = read_labels(path.with_name(f"lahinch_{date}_seg.tif"))
        surface = surface_of(from_digital(read_bands(path, numbers)), BANDS)
        yield LabelledScene(
            f"{folder.name}/{date}",
            folder.name,
            "sentinel-2",
            BANDS,
            surface,
            10.0,
            labels,
            FLOODS,
            "mask",
            date,
        )
