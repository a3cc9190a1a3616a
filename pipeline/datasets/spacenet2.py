"""SpaceNet 2: building footprints of four cities on WorldView-3.

Van Etten et al. 2018 (arXiv 1807.01232). Layout of the release::

    AOI_2_Vegas_Train/RGB-PanSharpen/RGB-PanSharpen_AOI_2_Vegas_img1.tif   uint16: red, green, blue, 0.3 m, 650 px
    AOI_2_Vegas_Train/MUL-PanSharpen/MUL-PanSharpen_AOI_2_Vegas_img1.tif   uint16: 8 bands, 0.3 m
    AOI_2_Vegas_Train/MUL/MUL_AOI_2_Vegas_img1.tif                         uint16: 8 bands, 1.24 m, 162 or 163 px
    AOI_2_Vegas_Train/geojson/buildings/buildings_AOI_2_Vegas_img1.geojson footprints, longitude and latitude

and so on for AOI_3_Paris, AOI_4_Shanghai and AOI_5_Khartoum. The labels of the challenge's test images were never
published, so the public part has to be divided: here every fifth image of a city, in the order of the numbers, is
``val``, and the others are ``train``. That is this project's own split.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.features import rasterize

from pipeline.chips.polygons import read_polygons
from pipeline.datasets.dataset import Dataset, Metric, Opened
from pipeline.datasets.metrics import iou_of, object_f1
from pipeline.datasets.pairs import one_hot, sensor_with, to_reflectance
from pipeline.errors import ChipError, ConfigError
from spex_core.bands import Band
from spex_core.legend import Legend, LegendClass

CITIES = {"vegas": "AOI_2_Vegas", "paris": "AOI_3_Paris", "shanghai": "AOI_4_Shanghai", "khartoum": "AOI_5_Khartoum"}
WORLDVIEW3 = ("coastal", "B02", "B03", "yellow", "B04", "B06", "B08", "nir2")
"""The Sentinel-2 channel of each of the eight bands; coastal, yellow and the second NIR have none."""
PRODUCTS = {"RGB-PanSharpen": ("B04", "B03", "B02"), "MUL-PanSharpen": WORLDVIEW3, "MUL": WORLDVIEW3}
SENSOR = sensor_with(
    Band("B02", "blue", 478.0, 1), Band("B03", "green", 546.0, 1), Band("B04", "red", 659.0, 1),
    Band("B06", "rededge", 724.0, 1), Band("B08", "nir", 833.0, 1),
)  # fmt: skip
"""Band centres of WorldView-3 (Maxar); pixel sizes of 0.3 and 1.24 m as whole metres."""
FULL_SCALE = 2047
"""Counts have 11 bits."""
VALIDATION_EVERY = 5
LEGEND = Legend(
    "spacenet2",
    "SpaceNet 2 buildings",
    (LegendClass(0, "No building", "background", "#c8c8c8"), LegendClass(1, "Building", "building", "#c31400")),
    nodata=255,
)


class _Footprints:
    """Images with footprints as a :class:`spex_core.batches.ChipSource`."""

    def __init__(self, images: list[tuple[Path, Path]], bands: tuple[str, ...]) -> None:
        self._images, self._bands = images, bands

    def __len__(self) -> int:
        return len(self._images)

    def chip(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """See :meth:`spex_core.batches.ChipSource.chip`."""
        image, footprints = self._images[index]
        try:
            with rasterio.open(image) as file:
                values, transform, crs = file.read(), file.transform, file.crs
        except rasterio.errors.RasterioError as error:
            raise ChipError(f"{image} cannot be read: {error}") from None
        if len(values) != len(self._bands):
            raise ChipError(f"{image} has {len(values)} bands; the release has {len(self._bands)}")
        shapes = read_polygons(footprints, crs.to_wkt(), may_be_empty=True)
        channel = np.zeros(values.shape[1:], np.int16)
        if shapes:
            channel[rasterize(shapes, channel.shape, transform=transform, dtype="uint8") > 0] = 1
        reflectance = to_reflectance(values, self._bands, 1 / FULL_SCALE)
        channel[~np.isfinite(reflectance).any(axis=0)] = -1
        return reflectance, *one_hot(channel, len(LEGEND))


def _open(dataset: Dataset, root: Path, split: str, options: Mapping[str, str]) -> Opened:
    product = options.get("product", "RGB-PanSharpen")
    city = options.get("city", "all")
    if product not in PRODUCTS:
        raise ConfigError(f"data set spacenet2: unknown product {product!r}; it has {', '.join(PRODUCTS)}")
    if city != "all" and city not in CITIES:
        raise ConfigError(f"data set spacenet2: unknown city {city!r}; it has {', '.join(CITIES)} and all")
    images = []
    for name in CITIES.values() if city == "all" else [CITIES[city]]:
        folder = root / f"{name}_Train"
        found = sorted((folder / product).glob(f"{product}_{name}_img*.tif"), key=lambda path: _number(path.stem))
        for position, path in enumerate(found):
            if (position % VALIDATION_EVERY == VALIDATION_EVERY - 1) == (split == "val"):
                number = f"{name}_img{_number(path.stem)}"
                images.append((path, folder / "geojson" / "buildings" / f"buildings_{number}.geojson"))
    if not images:
        raise ChipError(
            f"{root} is no SpaceNet 2: AOI_2_Vegas_Train/{product}/{product}_AOI_2_Vegas_img1.tif is missing"
        )
    return Opened(dataset, f"{city} {split}", _Footprints(images, PRODUCTS[product]), SENSOR)


def _number(stem: str) -> int:
    match = re.search(r"_img(\d+)$", stem)
    return int(match.group(1)) if match else 0


SPACENET2 = Dataset(
    name="spacenet2",
    title="SpaceNet 2 buildings",
    legend=LEGEND,
    splits=("train", "val"),
    default_split="val",
    metrics=(Metric("F1 of buildings at IoU 0.5", object_f1), Metric("IoU of building pixels", iou_of("Building"))),
    open=_open,
    note=(
        "The split is this project's own, because the test labels are not public; figures of the challenge cannot be "
        "compared. Buildings that touch count as one. Values are counts divided by 2047, no reflectance."
    ),
    options=("city", "product"),
    counts_objects=True,
)
