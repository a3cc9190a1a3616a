"""Sen1Floods11, the hand-labelled chips: flood water on Sentinel-2 L1C.

Bonafilia et al. 2020 (CVPR Workshops). Layout of the bucket, version 1.1
(https://github.com/cloudtostreet/Sen1Floods11/blob/master/docs/README.md)::

    v1.1/data/flood_events/HandLabeled/S2Hand/Ghana_103272_S2Hand.tif       13 bands L1C, reflectance * 10000, 512 px
    v1.1/data/flood_events/HandLabeled/LabelHand/Ghana_103272_LabelHand.tif int16: -1 no data or cloud, 0 land, 1 water
    v1.1/splits/flood_handlabeled/flood_{train,valid,test,bolivia}_data.csv no header; S1Hand name, LabelHand name

252 chips are for training, 89 for validation, 90 for testing; the 15 of Bolivia are an event by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.datasets.dataset import Dataset, Metric, Opened, Published
from pipeline.datasets.metrics import iou_of, miou, overall_accuracy
from pipeline.datasets.pairs import SENTINEL2_L1C, ImagePairs, Layout, Pair, plain_name, read_lines
from pipeline.errors import ChipError
from spex_core.legend import Legend, LegendClass

LEGEND = Legend(
    "sen1floods11",
    "Sen1Floods11",
    (LegendClass(0, "Land", "land", "#c8b68c"), LegendClass(1, "Water", "water", "#0064c8")),
    nodata=255,
)
_SPLIT_FILES = {"train": "train", "val": "valid", "test": "test", "bolivia": "bolivia"}
_PANGAEA = "PANGAEA, Marsocci et al. 2024, arXiv 2412.04204: Sen1Floods11, test split"
_PRITHVI = "model card of ibm-nasa-geospatial/Prithvi-100M-sen1floods11: test split, fine-tuned on six bands"


def _open(dataset: Dataset, root: Path, split: str, options: Mapping[str, str]) -> Opened:
    base = next((folder for folder in (root, root / "v1.1") if (folder / "splits").is_dir()), None)
    if base is None:
        raise ChipError(f"{root} is no Sen1Floods11: it has neither splits/ nor v1.1/splits/")
    file = base / "splits" / "flood_handlabeled" / f"flood_{_SPLIT_FILES[split]}_data.csv"
    chips = base / "data" / "flood_events" / "HandLabeled"
    pairs = []
    for line in read_lines(file):
        label = plain_name(line.split(",")[-1].strip(), file)
        if not label.endswith("_LabelHand.tif"):
            raise ChipError(f"split file {file}: {label!r} is not the name of a hand label (..._LabelHand.tif)")
        image = label.replace("_LabelHand.tif", "_S2Hand.tif")
        pairs.append(Pair(chips / "S2Hand" / image, chips / "LabelHand" / label))
    return Opened(dataset, split, ImagePairs(pairs, LEGEND, Layout(SENTINEL2_L1C, 1e-4)))


SEN1FLOODS11 = Dataset(
    name="sen1floods11",
    title="Sen1Floods11 (Sentinel-2, hand-labelled)",
    legend=LEGEND,
    splits=tuple(_SPLIT_FILES),
    default_split="test",
    metrics=(
        Metric(
            "mean IoU",
            miou,
            (
                Published("U-Net", 91.4, _PANGAEA),
                Published("CROMA", 90.9, _PANGAEA),
                Published("Prithvi 1.0 100M", 90.4, _PANGAEA),
            ),
        ),
        Metric("IoU of water", iou_of("Water"), (Published("Prithvi-100M, fine-tuned", 80.5, _PRITHVI),)),
        Metric("overall accuracy", overall_accuracy),
    ),
    open=_open,
    note="Images are top-of-atmosphere reflectance (L1C). The published models were trained on the training split.",
    worldcover={"Land": (10, 20, 30, 40, 50, 60, 70, 90), "Water": (80,)},
)
