"""DFC2020, the data of the IEEE GRSS Data Fusion Contest 2020: eight land-cover classes on Sentinel-2.

Yokoya et al. 2020; labels follow a simplified IGBP scheme, of which savanna and snow do not count. 256 px patches of
13 bands, reflectance * 10000, without atmospheric correction. Two layouts are read:

- Copernicus-Bench, whose figures are quoted (Wang et al. 2025, arXiv 2503.11849; ``l2_dfc2020_s1s2/dfc2020.zip``)::

      dfc2020_s1s2/s2/ROIs0000_test_s2_0_p609.tif
      dfc2020_s1s2/dfc/ROIs0000_test_dfc_0_p609.tif       0 none, 1 forest .. 10 water
      dfc2020_s1s2/dfc-{train,val,test}-new.csv           a name of dfc/ in each line

- the contest itself, splits ``contest-validation`` (986 patches) and ``contest-test`` (5,128)::

      ROIs0000_validation/s2_validation/ROIs0000_validation_s2_0_p0.tif, dfc_validation/ROIs0000_validation_dfc_0_p0.tif
      ROIs0000_test/s2_0/ROIs0000_test_s2_0_p0.tif, dfc_0/ROIs0000_test_dfc_0_p0.tif
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pipeline.datasets.dataset import Dataset, Metric, Opened, Published
from pipeline.datasets.metrics import average_accuracy, miou, overall_accuracy
from pipeline.datasets.pairs import SENTINEL2_L1C, ImagePairs, Layout, Pair, plain_name, read_lines
from pipeline.errors import ChipError
from spex_core.legend import Legend, LegendClass

LEGEND = Legend(
    "dfc2020",
    "DFC2020",
    (
        LegendClass(1, "Forest", "forest", "#009900"),
        LegendClass(2, "Shrubland", "shrubland", "#c6b044"),
        LegendClass(4, "Grassland", "grassland", "#b6ff05"),
        LegendClass(5, "Wetlands", "wetland", "#27ff87"),
        LegendClass(6, "Croplands", "cropland", "#c24f44"),
        LegendClass(7, "Urban/Built-up", "built-up", "#a5a5a5"),
        LegendClass(9, "Barren", "bare ground", "#f9ffa4"),
        LegendClass(10, "Water", "water", "#1c0dff"),
    ),
)
_BENCH_SPLITS = ("train", "val", "test")
_CONTEST = {
    "contest-validation": ("ROIs0000_validation", ("validation", "0")),
    "contest-test": ("ROIs0000_test", ("0", "test")),
}
"""Split → its folder, and what the folders in it end with (the archive and its copies differ)."""
_BENCH = "Copernicus-Bench, Wang et al. 2025, arXiv 2503.11849: DFC2020-S2, test split"


def _open(dataset: Dataset, root: Path, split: str, options: Mapping[str, str]) -> Opened:
    pairs = _bench(root, split) if split in _BENCH_SPLITS else _contest(root, split)
    return Opened(dataset, split, ImagePairs(pairs, LEGEND, Layout(SENTINEL2_L1C, 1e-4)))


def _bench(root: Path, split: str) -> list[Pair]:
    name = f"dfc-{split}-new.csv"
    base = next((folder for folder in (root, root / "dfc2020_s1s2") if (folder / name).is_file()), None)
    if base is None:
        raise ChipError(
            f"{root} has no {name} (layout of Copernicus-Bench); for the contest's own folders name the split "
            f"{' or '.join(_CONTEST)}"
        )
    labels = [plain_name(line, base / name) for line in read_lines(base / name)]
    return [Pair(base / "s2" / label.replace("_dfc_", "_s2_"), base / "dfc" / label) for label in labels]


def _contest(root: Path, split: str) -> list[Pair]:
    folder, endings = _CONTEST[split]
    base = root / folder if (root / folder).is_dir() else root
    for ending in endings:
        labels = base / f"dfc_{ending}"
        found = sorted(labels.glob(f"{folder}_dfc_*_p*.tif"), key=lambda path: _patch(path.name))
        if found:
            images = base / f"s2_{ending}"
            return [Pair(images / path.name.replace("_dfc_", "_s2_"), path) for path in found]
    wanted = " or ".join(f"dfc_{ending}/{folder}_dfc_0_p0.tif" for ending in endings)
    raise ChipError(f"{base} has no {wanted}")


def _patch(name: str) -> int:
    return int(re.sub(r"\D", "", name.rsplit("_p", 1)[-1]) or 0)


DFC2020 = Dataset(
    name="dfc2020",
    title="DFC2020 (Sentinel-2)",
    legend=LEGEND,
    splits=(*_BENCH_SPLITS, *_CONTEST),
    default_split="test",
    metrics=(
        Metric(
            "mean IoU",
            miou,
            (
                Published("CROMA", 66.5, _BENCH),
                Published("supervised ViT-B", 66.2, _BENCH),
                Published("Copernicus-FM", 64.5, _BENCH),
                Published("DOFA", 61.8, _BENCH),
            ),
        ),
        Metric("overall accuracy", overall_accuracy),
        Metric("average accuracy", average_accuracy),
    ),
    open=_open,
    note="The published figures are of the split 'test' of Copernicus-Bench, trained on its split 'train'.",
    worldcover={
        "Forest": (10,),
        "Shrubland": (20,),
        "Grassland": (30,),
        "Wetlands": (90,),
        "Croplands": (40,),
        "Urban/Built-up": (50,),
        "Barren": (60,),
        "Water": (80,),
    },
)
