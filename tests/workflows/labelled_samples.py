"""The labelled samples in miniature: a few pixels in the layout of each source."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyogrio
import rasterio
import shapely
import xarray
from affine import Affine
from rasterio.crs import CRS
from shapely.geometry.base import BaseGeometry

from spex_core.bands import SENTINEL2_BANDS

SIDE = 8
LEFT, TOP = 500_000.0, 5_600_000.0
EAST = 4
"""First column of the eastern half, which is labelled otherwise than the western."""


def raster(
    path: Path, values: npt.NDArray[np.generic], pixel_m: float = 10.0, *, epsg: int | None = 32631
) -> npt.NDArray[np.generic]:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", dtype=values.dtype, count=bands, height=height, width=width,
        crs=CRS.from_epsg(epsg) if epsg else None, transform=Affine(pixel_m, 0, LEFT, 0, -pixel_m, TOP),
    ) as target:  # fmt: skip
        target.write(values)
    return values


def halves(west: int, east: int, side: int = SIDE) -> npt.NDArray[np.uint8]:
    """``[1, side, side]``."""
    values = np.full((1, side, side), west, np.uint8)
    values[:, :, side // 2 :] = east
    return values


def bands_apart(count: int, start: int = 1000, step: int = 100, side: int = SIDE) -> npt.NDArray[np.uint16]:
    """``[count, side, side]``: every band one number of its own, so that a wrong order shows."""
    levels = start + step * np.arange(count, dtype=np.uint16)
    return np.broadcast_to(levels[:, None, None], (count, side, side)).astype(np.uint16)


def shapes(path: Path, geometries: Sequence[BaseGeometry], **fields: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyogrio.raw.write(
        path,
        geometry=shapely.to_wkb(np.array(geometries)),
        field_data=[np.array(values) for values in fields.values()],
        fields=list(fields),
        geometry_type=geometries[0].geom_type,
        crs="EPSG:32631",
    )


def box(row: int, col: int, rows: int, cols: int, pixel_m: float) -> BaseGeometry:
    """The pixels of a window, a little inside of their border."""
    return shapely.box(
        LEFT + (col + 0.1) * pixel_m,
        TOP - (row + rows - 0.1) * pixel_m,
        LEFT + (col + cols - 0.1) * pixel_m,
        TOP - (row + 0.1) * pixel_m,
    )


def table(path: Path, rows: Sequence[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    text = file.getvalue().encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def _two_resolutions(folder: Path, stem: str) -> None:
    raster(folder / f"{stem}_10m.tif", bands_apart(4))
    raster(folder / f"{stem}_20m.tif", bands_apart(6, 2000, side=SIDE // 2), 20.0)


def aberystwyth(folder: Path) -> None:
    raster(folder / "aber_mosaic_10band_x1000.tif", bands_apart(10, 100, 10))
    for row, name in enumerate(("water", "urban", "grass", "forest")):
        shapes(folder / "labels" / f"cls_{name}_smpls.gpkg", [box(2 * row, 0, 1, EAST, 10.0)], kept=[1])


def amazon(folder: Path) -> None:
    digital = bands_apart(6).astype(np.int16)
    digital[0, 0, 7] = -2000
    raster(folder / "LC08_232066_20190727_sr_x10000.tif", digital, 30.0)
    raster(folder / "LC08_003069_20180906_sr_x10000.tif", digital, 30.0)
    points = [shapely.Point(LEFT + 30 * (col + 0.5), TOP - 15) for col in range(4)]
    shapes(folder / "endmembers.gpkg", points, **{"class": [0.0, 1.0, 2.0, 3.0]})


def lpis_chips(folder: Path) -> None:
    for chip, dates in (("00002806639B424A", ("2017-10-23", "2018-07-05")), ("0000280849BAC91C", ("2019-07-05",))):
        raster(folder / f"{chip}_LC.tif", halves(13, 11))
        for date in dates:
            _two_resolutions(folder, f"{chip}_{date}")


def lpis_landsat(folder: Path) -> None:
    raster(folder / "000028085BF08E7E_LC.tif", halves(99, 60))
    for date in ("2019-01-09", "2019-07-04"):
        raster(folder / f"000028085BF08E7E_{date}.tif", bands_apart(6))


def worldcereal(folder: Path) -> None:
    folder.mkdir(parents=True)
    names = [band for band in SENTINEL2_BANDS if band != "B8A"]
    values = {}
    for number, name in enumerate(names):
        months = np.full((12, SIDE, SIDE), 1000 + 100 * number, np.int32)
        months[1:3] = 65_535
        values[f"S2-L2A-{name}"] = (("t", "y", "x"), months)
    xarray.Dataset(values).to_netcdf(folder / "worldcereal_preprocessed_inputs.nc", engine="scipy")


def bigearthnet(folder: Path) -> None:
    patches = {"S2A_MSIL2A_20170617T113321_4_55": ["Pastures"]}
    patches["S2A_MSIL2A_20170617T113321_36_85"] = ["Non-irrigated arable land", "Pastures"]
    for patch, names in patches.items():
        _two_resolutions(folder, patch)
        told = {"labels": names, "acquisition_date": "2017-06-17 11:33:21"}
        (folder / f"{patch}_labels_metadata.json").write_text(json.dumps(told))


def clouds(folder: Path) -> None:
    for name in ("landsat5", "landsat7"):
        raster(folder / f"{name}_toa_reflectance.tif", bands_apart(6).astype(np.float32) / 10_000, epsg=None)
        raster(folder / f"{name}_mask.tif", halves(1, 4), epsg=None)


def costa_rica(folder: Path) -> None:
    for year in (1986, 2001):
        raster(folder / f"L5TSR_{year}_x10000.tif", bands_apart(4).astype(np.int16), 30.0)
    shapes(
        folder / "training_polygons.gpkg",
        [box(0, 0, SIDE, EAST, 30.0), box(0, EAST, SIDE, EAST, 30.0)],
        id=[1, 2],
        class_1986=["Forest", "Forest"],
        class_2001=["Forest", "NonForest"],
    )


def elkton(folder: Path) -> None:
    digital = bands_apart(8, 10_000, 1000)
    digital[5, 0, 0] = 65_535
    raster(folder / "LC8_elkton_dn.tif", digital, 30.0)
    raster(folder / "labels.tif", halves(0, 1), 30.0)


def gewata(folder: Path) -> None:
    digital = bands_apart(6).astype(np.int16)
    digital[4, 7, 7] = 16_000
    raster(folder / "gewata_sr_x10000.tif", digital, 30.0)
    raster(folder / "lulc2011.tif", halves(1, 5), 30.0)
    trees = halves(20, 80)
    trees[:, 0] = 46  # wooded then, a field later; and the reverse
    raster(folder / "vcf_treecover_percent.tif", trees, 30.0)
    drawn = {"WKT": box(4, 0, 2, 2, 30.0).wkt, "OBJECTID": 1, "Class": "wetland"}
    table(folder / "trainingPoly_wkt.csv", [drawn])


def lahinch(folder: Path) -> None:
    digital = bands_apart(13)
    digital[:, 0] = 0
    raster(folder / "lahinch_2017-09-18_l1c_x10000.tif", digital)
    raster(folder / "lahinch_2017-09-18_seg.tif", halves(2, 1))


def potsdam(folder: Path) -> None:
    digital = bands_apart(11)
    digital[:, 0] = 0
    raster(folder / "potsdam_s2bands_30m.tif", digital, 30.0)
    raster(folder / "landcover.tif", halves(1, 4), 30.0)


def zion(folder: Path) -> None:
    digital = np.broadcast_to(bands_apart(4, side=1), (4, 3, 800)).copy()
    digital[:, 0, 0] = 0
    raster(folder / "zion_toa_x10000.tif", digital, 30.0)
    raster(folder / "nlcd2011.tif", np.where(np.arange(800) < 700, 52, 31).astype(np.uint8)[None, None].repeat(3, 1))


IMAGE_SAMPLES: dict[str, Callable[[Path], None]] = {
    "aberystwyth-rsgislib": aberystwyth,
    "amazon-landsat8": amazon,
    "belgium-lpis-chips": lpis_chips,
    "belgium-lpis-landsat8": lpis_landsat,
    "belgium-worldcereal-timeseries": worldcereal,
    "bigearthnet-3patches": bigearthnet,
    "clouds-ukis-landsat": clouds,
    "costarica-landsat5": costa_rica,
    "elkton-landsat8": elkton,
    "gewata-ethiopia-landsat7": gewata,
    "lahinch-worldfloods-l1c": lahinch,
    "potsdam-enmap-simulated-s2": potsdam,
    "zion-south-landsat8": zion,
}


def field_plots(folder: Path) -> None:
    cover = [(0.9, 0.05, 0.05), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8), (0.4, 0.3, 0.3)]
    levels = {"b2": 0.1, "b3": 0.2, "b4": 0.3, "b5": 0.4, "b7": 0.25}
    rows = [dict(zip(("pv", "npv", "bare"), shares, strict=True)) | levels for shares in cover]
    table(folder / "field_cover_reflectance.csv.gz", rows)


def african_points(folder: Path) -> None:
    names = ("blue", "green", "red", "nir", "swir_1", "swir_2", "red_edge_1", "red_edge_2", "red_edge_3")
    for region in ("central", "eastern", "indian_ocean", "sahel", "southern", "western"):
        levels = {f"{n}_{half}": 0.1 * i + k for k, half in enumerate(("S1", "S2")) for i, n in enumerate(names)}
        table(folder / f"{region}.csv.gz", [{"Class": 1.0, **levels}, {"Class": 0.0, **levels}])


def library(folder: Path) -> None:
    waves = np.arange(0.4, 2.455, 0.01)
    names = {"sand": "bare", "road": "built", "canopy": "vegetation", "bark": "npv", "char": "burned"}
    rows = [
        {"NAME": n, "LEVEL_2": level, "LEVEL_3": n, "LAT": "1", "LON": "2", "SOURCE": n} for n, level in names.items()
    ]
    table(folder / "spectra.csv", rows)
    # A line in wavelength: a symmetric response leaves its centre's value.
    np.broadcast_to(waves / 10, (5, len(waves))).astype("<f4").tofile(folder / "spectra.sli")
    (folder / "spectra.sli.hdr").write_text(
        f"ENVI\nsamples = {len(waves)}\nlines = 5\nspectra names = {{ {' , '.join(names)} }}\n"
        f"wavelength units = Micrometers\nwavelength = {{ {' , '.join(f'{w:.2f}' for w in waves)} }}\n"
    )


def training_pixels(folder: Path) -> None:
    levels = {band: 1000 + 100 * i for i, band in enumerate(SENTINEL2_BANDS)}
    rows = [
        {"Region": region, "Label": label, "ID": number, "Lat": 48, "Lon": 8, **levels}
        for region in ("Freiburg", "Luebeck")
        for number, label in enumerate(("Grassland", "OpenSoil", "Water"))
    ]
    table(folder / "pixels_freiburg_luebeck.csv.gz", rows)


def landsat_spectra(folder: Path) -> None:
    levels = {f"SR_B{n}": 0.1 * n for n in range(1, 8)}
    table(
        folder / "landsat8_sr_120_samples.csv", [levels | {"class": name} for name in ("Urban", "Water", "Vegetation")]
    )


def habitats(folder: Path) -> None:
    labels = ("R1B", "V38", "Q51")
    corners = [(31.0, 47.9), (31.0, 48.0), (31.0, 48.1)]  # south, between, north
    polygons = [shapely.box(x, y - 0.001, x + 0.002, y + 0.001) for x, y in corners]
    folder.mkdir(parents=True, exist_ok=True)
    pyogrio.raw.write(
        folder / "habitat_polygons.gpkg",
        geometry=shapely.to_wkb(np.array(polygons)),
        field_data=[np.array(labels)],
        fields=["eunis_2020"],
        geometry_type="Polygon",
        crs="EPSG:4326",
    )
    levels = {f"B{band.lstrip('B').lstrip('0')}": 0.1 * i for i, band in enumerate(SENTINEL2_BANDS)}
    rows = [{"id": f"{p}_{pixel}", **levels, "label": labels[p]} for p in range(3) for pixel in range(2)]
    table(folder / "southern_buh_habitats.csv.gz", rows)


SPECTRA_SAMPLES: dict[str, Callable[[Path], None]] = {
    "australia-field-cover-landsat": field_plots,
    "deafrica-crop-spectra-s2": african_points,
    "earthlib-spectra": library,
    "germany-training-pixels-s2": training_pixels,
    "spyndex-sample-s2": landsat_spectra,
    "ukraine-habitat-spectra-s2": habitats,
}
