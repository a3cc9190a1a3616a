"""Chesapeake Land Cover: aerial images of 1 m (NAIP) with six classes, in six states of the north-eastern US.

Robinson et al. 2019 (CVPR). Layout of the release (https://lila.science/datasets/chesapeakelandcover)::

    md_1m_2013_extended-debuffered-{train,val,test}_tiles/m_3807503_ne_18_1_naip-new.tif   uint8: red, green, blue, NIR
    md_1m_2013_extended-debuffered-{train,val,test}_tiles/m_3807503_ne_18_1_lc.tif         1..6, 15 no data

per state de, md, ny, pa (2013), va, wv (2014): 100 tiles for training, 5 for validation, 20 for testing. Models are
trained in one state and tested in each. ``chesapeake`` has the six classes, ``chesapeake-4`` merges barren land and
both kinds of impervious surface into one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import rasterio

from pipeline.datasets.dataset import Dataset, Metric, Opened
from pipeline.datasets.metrics import miou, overall_accuracy
from pipeline.datasets.pairs import ImagePairs, Layout, Pair, sensor_with
from pipeline.errors import ChipError, ConfigError
from spex_core.bands import Band
from spex_core.legend import Legend, LegendClass

YEARS = {"de": 2013, "md": 2013, "ny": 2013, "pa": 2013, "va": 2014, "wv": 2014}
TILE_PX = 256
"""Tiles of about 6,000 x 7,500 px are cut into chips of this side; the rest at right and bottom is not used."""
SENSOR = sensor_with(
    Band("B02", "blue", 460.0, 1), Band("B03", "green", 560.0, 1), Band("B04", "red", 635.0, 1),
    Band("B08", "nir", 860.0, 1),
)  # fmt: skip
"""Band centres of the Leica ADS cameras that NAIP is mostly flown with."""
SIX = Legend(
    "chesapeake",
    "Chesapeake Land Cover",
    (
        LegendClass(1, "Water", "water", "#0000ff"),
        LegendClass(2, "Tree canopy", "trees", "#008000"),
        LegendClass(3, "Low vegetation", "low vegetation", "#80ff80"),
        LegendClass(4, "Barren", "bare ground", "#806000"),
        LegendClass(5, "Impervious, other", "impervious", "#969696"),
        LegendClass(6, "Impervious, road", "road", "#000000"),
    ),
)
FOUR = Legend(
    "chesapeake-4",
    "Chesapeake Land Cover, four classes",
    (*SIX.classes[:3], LegendClass(4, "Barren or impervious", "impervious", "#969696")),
)


def _open(dataset: Dataset, root: Path, split: str, options: Mapping[str, str]) -> Opened:
    state = options.get("state", "md")
    if state not in YEARS:
        raise ConfigError(f"data set {dataset.name}: unknown state {state!r}; it has {', '.join(YEARS)}")
    folder = root / f"{state}_1m_{YEARS[state]}_extended-debuffered-{split}_tiles"
    images = sorted(folder.glob("*_naip-new.tif"))
    if not images:
        raise ChipError(f"{root} is no Chesapeake Land Cover: {folder.name}/*_naip-new.tif is missing")
    pairs = []
    for image in images:
        label = image.with_name(image.name.replace("_naip-new.tif", "_lc.tif"))
        try:
            with rasterio.open(image) as file:
                height, width = file.shape
        except rasterio.errors.RasterioError as error:
            raise ChipError(f"{image} cannot be read: {error}") from None
        pairs += [
            Pair(image, label, (row, column, TILE_PX, TILE_PX))
            for row in range(0, height - TILE_PX + 1, TILE_PX)
            for column in range(0, width - TILE_PX + 1, TILE_PX)
        ]
    merged = {value: min(value, 4) for value in range(1, 7)} if dataset.legend is FOUR else None
    layout = Layout(("B04", "B03", "B02", "B08"), 1 / 255, merged)
    return Opened(dataset, f"{state} {split}", ImagePairs(pairs, dataset.legend, layout), SENSOR)


CHESAPEAKE = Dataset(
    name="chesapeake",
    title="Chesapeake Land Cover",
    legend=SIX,
    splits=("train", "val", "test"),
    default_split="test",
    metrics=(Metric("overall accuracy", overall_accuracy), Metric("mean IoU", miou)),
    open=_open,
    note=(
        "Values are camera counts divided by 255, no reflectance: a model must have been trained on such images. No "
        "published figure is quoted: none was checked."
    ),
    options=("state",),
)
CHESAPEAKE_4 = dataclasses.replace(
    CHESAPEAKE,
    name="chesapeake-4",
    title="Chesapeake Land Cover, four classes",
    legend=FOUR,
    worldcover={
        "Water": (80,),
        "Tree canopy": (10,),
        "Low vegetation": (20, 30, 40, 90),
        "Barren or impervious": (50, 60),
    },
)
