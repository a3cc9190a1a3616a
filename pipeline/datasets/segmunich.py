"""SegMunich: thirteen classes of Munich and its surroundings on a ten-band Sentinel-2 composite.

Hong et al. 2024, SpectralGPT (arXiv 2311.07113). Layout of the release, as its own loader reads it
(``downstream_tasks/SegMunich/TUM_128.py`` of github.com/danfenghong/IEEE_TPAMI_SpectralGPT)::

    dataset/{train,val}.txt        a name without ending in each line
    {train,val}/img/NAME.tif       128 px, ten bands
    {train,val}/label/NAME.tif     0 background, 5 water, 11 urban fabric, 12 buildings, and the codes of CORINE land
                                   cover below (21 arable .. 41 wetlands)

The release does not name its bands. Default is the order that the data card of GFM-Bench gives (B01 to B07, B8A, B11,
B12); another one can be given as ``options: {bands: "B02 B03 ..."}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.datasets.dataset import Dataset, Metric, Opened
from pipeline.datasets.metrics import average_accuracy, miou, overall_accuracy
from pipeline.datasets.pairs import SENTINEL2_L1C, ImagePairs, Layout, Pair, plain_name, read_lines
from pipeline.errors import ChipError, ConfigError
from spex_core.legend import Legend, LegendClass

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12")
LEGEND = Legend(
    "segmunich",
    "SegMunich",
    (
        LegendClass(0, "Background", "background", "#000000"),
        LegendClass(1, "Arable land", "arable land", "#ffffa8"),
        LegendClass(2, "Permanent crops", "permanent crops", "#e68000"),
        LegendClass(3, "Pastures", "pasture", "#e6e64d"),
        LegendClass(4, "Forests", "forest", "#00a600"),
        LegendClass(5, "Surface water", "water", "#80f2e6"),
        LegendClass(6, "Shrub", "shrubland", "#a6f200"),
        LegendClass(7, "Open spaces", "bare ground", "#e6e6e6"),
        LegendClass(8, "Wetlands", "wetland", "#a6a6ff"),
        LegendClass(9, "Mine dump", "mine", "#a600cc"),
        LegendClass(10, "Artificial vegetation", "urban green", "#ffa6ff"),
        LegendClass(11, "Urban fabric", "urban fabric", "#ff0000"),
        LegendClass(12, "Buildings", "building", "#cc4df2"),
    ),
    nodata=255,
)
LABELS = {value: value for value in range(13)} | {
    21: 1, 22: 2, 23: 3, 31: 4, 32: 6, 33: 7, 41: 8, 13: 9, 14: 10,
}  # fmt: skip
"""Value in a label file → code; 1 to 10 also stand for themselves, because re-packaged copies hold them."""


def _open(dataset: Dataset, root: Path, split: str, options: Mapping[str, str]) -> Opened:
    bands = tuple(options["bands"].split()) if "bands" in options else BANDS
    unknown = [band for band in bands if band not in SENTINEL2_L1C]
    if len(bands) != len(BANDS) or unknown:
        raise ConfigError(f"data set segmunich: bands must name ten of {' '.join(SENTINEL2_L1C)}; got {bands}")
    file = root / "dataset" / f"{split}.txt"
    if not file.is_file():
        raise ChipError(f"{root} is no SegMunich: it has no dataset/{split}.txt")
    names = [plain_name(line, file) for line in read_lines(file)]
    folder = root / split
    pairs = [Pair(folder / "img" / f"{name}.tif", folder / "label" / f"{name}.tif") for name in names]
    return Opened(dataset, split, ImagePairs(pairs, LEGEND, Layout(bands, 1e-4, LABELS)))


SEGMUNICH = Dataset(
    name="segmunich",
    title="SegMunich",
    legend=LEGEND,
    splits=("train", "val"),
    default_split="val",
    metrics=(
        Metric("mean IoU", miou),
        Metric("overall accuracy", overall_accuracy),
        Metric("average accuracy", average_accuracy),
    ),
    open=_open,
    note=(
        "Background counts as a class, as in the released training code. No published figure is quoted: none was "
        "checked."
    ),
    worldcover={
        "Arable land": (40,),
        "Pastures": (30,),
        "Forests": (10,),
        "Surface water": (80,),
        "Shrub": (20,),
        "Open spaces": (60, 70),
        "Wetlands": (90,),
        "Urban fabric": (50,),
    },
    options=("bands",),
)
