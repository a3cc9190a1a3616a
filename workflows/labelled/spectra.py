"""Readers of labelled spectra without an image: pixels of polygons, points, field plots, and a spectral library.

Each reader knows one public sample in the layout in which development keeps it.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from pipeline.chips.chip_folder import SCALE
from pipeline.errors import ChipError
from spex_core.bands import BANDS, LANDSAT_BANDS, LANDSAT_TM_BANDS, SENTINEL2_BANDS
from workflows.labelled.scene import (
    FloatArray,
    LabelledSpectra,
    Meanings,
    SourceLabel,
    read_shapes,
    sensor_bands,
    surface_of,
)

_Rows = list[dict[str, str]]

TRAINING_PIXELS: Meanings = dict(
    enumerate(
        (
            SourceLabel("Grassland", 30),
            SourceLabel("PlantedFields", 40),
            SourceLabel("OpenSoil", 40),  # a bare field
            SourceLabel("ConiferousForest", 10),
            SourceLabel("DeciduousForest", 10),
            SourceLabel("MixedForest", 10),
            SourceLabel("Settlement", 50),
            SourceLabel("Urban", 50),
            SourceLabel("Industrial", 50),
            SourceLabel("Water", 80),
        ),
        start=1,
    )
)

_EUNIS_CODES = {
    10: ("T11", "T13", "T19", "T1E", "T1H"),  # broad-leaved woodland and plantations
    20: ("S35", "S36", "S91"),
    30: ("R1A", "R1B", "R12", "R21", "R36"),  # steppe, dry, mesic and wet grassland
    40: ("V11",),
    50: ("J1", "J4.2"),
    60: ("J3.2", "U33"),  # WorldCover counts quarries as bare
    80: ("C2.2", "C2.3", "J5"),
    90: ("Q51", "Q53"),  # reed and sedges
}
_EUNIS_AMONG = {"V34": (30, 40), "V38": (30, 40), "X18": (10, 30)}  # fallow and weeds; steppe with trees
HABITATS: Meanings = dict(
    enumerate(
        [
            *(SourceLabel(name, code) for code, names in _EUNIS_CODES.items() for name in names),
            *(SourceLabel(name, among=among) for name, among in _EUNIS_AMONG.items()),
        ],
        start=1,
    )
)
HABITATS_SOUTH, HABITATS_NORTH = 47.995, 48.005
"""Latitudes: polygons whose centre lies south of the one and north of the other are two places a kilometre apart."""

CROP_OR_NOT: Meanings = {
    1: SourceLabel("crop", 40),
    2: SourceLabel("not crop", among=(10, 20, 30, 50, 60, 80, 90)),
}
GEOMEDIAN_BANDS = {
    "blue": "B02", "green": "B03", "red": "B04", "red_edge_1": "B05", "red_edge_2": "B06", "red_edge_3": "B07",
    "nir": "B08", "swir_1": "B11", "swir_2": "B12",
}  # fmt: skip
HALF_YEARS = {"S1": "2019-01/2019-06", "S2": "2019-07/2019-12"}
AFRICAN_REGIONS = ("central", "eastern", "indian_ocean", "sahel", "southern", "western")

PURE = 0.7
"""Share of one cover from which a field plot counts as it."""
GROUND_COVER: Meanings = {
    1: SourceLabel("bare", 60),
    2: SourceLabel("green", among=(10, 20, 30, 40, 90)),
    3: SourceLabel("dry", among=(20, 30, 40)),
}

LIBRARY: Meanings = {
    1: SourceLabel("bare", 60),
    2: SourceLabel("built", 50),
    3: SourceLabel("vegetation", among=(10, 20, 30, 40, 90)),
    4: SourceLabel("npv", among=(10, 20, 30, 40)),
    5: SourceLabel("burned"),
}
BAND_WIDTHS = {
    "B02": 66, "B03": 36, "B04": 31, "B05": 15, "B06": 15, "B07": 20, "B08": 106, "B8A": 21, "B11": 91, "B12": 175,
}  # fmt: skip
"""Widths of Sentinel-2A's bands, nm (Sentinel-2 User Handbook)."""

THREE_COVERS: Meanings = {
    1: SourceLabel("Vegetation", among=(10, 20, 30, 40, 90)),
    2: SourceLabel("Urban", 50),
    3: SourceLabel("Water", 80),
}


def _rows(path: Path) -> _Rows:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
        return list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        raise ChipError(f"{path} cannot be read: {error}") from None


def _column(path: Path, rows: _Rows, name: str) -> npt.NDArray[np.float64]:
    try:
        return np.array([float(row[name]) for row in rows])
    except (KeyError, TypeError, ValueError) as error:
        raise ChipError(f"{path}: column {name} is missing or holds something else than numbers ({error})") from None


def _columns(path: Path, rows: _Rows, names: Sequence[str]) -> FloatArray:
    """``[N, len(names)]``."""
    return np.stack([_column(path, rows, name) for name in names], axis=1).astype(np.float32)


def _numbers(path: Path, rows: _Rows, field: str, meanings: Meanings) -> npt.NDArray[np.int64]:
    """A label column as numbers of ``meanings``; a name that is not known is an error, not a class."""
    known = {meaning.name: number for number, meaning in meanings.items()}
    try:
        return np.array([known[row[field]] for row in rows], np.int64)
    except KeyError as error:
        raise ChipError(f"{path}: column {field} is missing or holds a label that is not known: {error}") from None


def training_pixels(folder: Path) -> Iterator[LabelledSpectra]:
    """germany-training-pixels-s2: pixels of hand-drawn polygons, top of the atmosphere, two towns."""
    path = folder / "pixels_freiburg_luebeck.csv.gz"
    every = _rows(path)
    for region in ("Freiburg", "Luebeck"):
        rows = [row for row in every if row.get("Region") == region]
        if not rows:
            raise ChipError(f"{path}: no pixel of {region}")
        toa = _columns(path, rows, SENTINEL2_BANDS) / SCALE
        yield LabelledSpectra(
            f"{folder.name}/{region.lower()}",
            "sentinel-2",
            BANDS,
            surface_of(toa.T.astype(np.float32), BANDS).T,
            _numbers(path, rows, "Label", TRAINING_PIXELS),
            TRAINING_PIXELS,
            _column(path, rows, "ID").astype(np.int64),
            "drawn",
        )


def habitats(folder: Path) -> Iterator[LabelledSpectra]:
    """ukraine-habitat-spectra-s2: pixels of botanists' polygons; the south and the north of the valley."""
    path = folder / "southern_buh_habitats.csv.gz"
    rows = _rows(path)
    try:
        polygon = np.array([int(row["id"].split("_")[0]) for row in rows], np.int64)
    except (KeyError, ValueError) as error:
        raise ChipError(f"{path}: column id is not POLYGON_PIXEL: {error!r}") from None
    shapes = list(read_shapes(folder / "habitat_polygons.gpkg", "eunis_2020"))
    # The table has no coordinates. Its polygon numbers are positions in the file of polygons: all labels agree.
    strange = {p for p, row in zip(polygon.tolist(), rows, strict=True) if not _same(shapes, p, row["label"])}
    if strange:
        raise ChipError(f"{path}: polygons {sorted(strange)[:5]} do not have the labels of habitat_polygons.gpkg")
    latitude = np.array([shapely.centroid(shape).y for shape, _ in shapes])[polygon]
    reflectance = _columns(path, rows, [re.sub("^B0", "B", band) for band in SENTINEL2_BANDS])
    labels = _numbers(path, rows, "label", HABITATS)
    for part, inside in (("south", latitude < HABITATS_SOUTH), ("north", latitude > HABITATS_NORTH)):
        yield LabelledSpectra(
            f"{folder.name}/{part}",
            "sentinel-2",
            BANDS,
            reflectance[inside],
            labels[inside],
            HABITATS,
            polygon[inside],
            "drawn",
        )


def _same(shapes: Sequence[tuple[object, object]], polygon: int, label: str) -> bool:
    return 0 <= polygon < len(shapes) and shapes[polygon][1] == label


def crop_or_not(folder: Path) -> Iterator[LabelledSpectra]:
    """deafrica-crop-spectra-s2: points in six African regions, each in two half-years."""
    for region in AFRICAN_REGIONS:
        path = folder / f"{region}.csv.gz"
        rows = _rows(path)
        labels = np.where(_column(path, rows, "Class") == 1, 1, 2).astype(np.int64)
        for half, months in HALF_YEARS.items():
            yield LabelledSpectra(
                f"{folder.name}/{region}",
                "sentinel-2",
                sensor_bands("sentinel-2", list(GEOMEDIAN_BANDS.values())),
                _columns(path, rows, [f"{name}_{half}" for name in GEOMEDIAN_BANDS]),
                labels,
                CROP_OR_NOT,
                np.arange(len(rows)),
                "points",
                months,
            )


def field_plots(folder: Path) -> Iterator[LabelledSpectra]:
    """australia-field-cover-landsat: measured shares of green, dry and bare ground; Landsat 5 to 8."""
    path = folder / "field_cover_reflectance.csv.gz"
    rows = _rows(path)
    fractions = _columns(path, rows, ("pv", "npv", "bare"))
    green, dry, bare = (fractions > PURE).T
    yield LabelledSpectra(
        folder.name,
        "landsat-5",
        LANDSAT_TM_BANDS[1:],
        _columns(path, rows, ("b2", "b3", "b4", "b5", "b7")),
        np.select([bare, green, dry], [1, 2, 3], 0).astype(np.int64),
        GROUND_COVER,
        np.arange(len(rows)),
        "field",
        fractions=fractions,
    )


@dataclass(frozen=True)
class SpectralLibrary:
    """Spectra of materials at fine resolution."""

    wavelengths_nm: FloatArray
    """``[S]``, rising; water vapour's gaps left out."""
    reflectance: FloatArray
    """``[N, S]``, 0..1."""
    names: tuple[tuple[str, str], ...]
    """Second and third level of each material: ``("bare", "sand")``."""
    origins: npt.NDArray[np.int64]
    """``[N]``: spectra of one place and library have one number."""

    def folded(self, centres_nm: Sequence[float], widths_nm: Sequence[float]) -> FloatArray:
        """As bands of some sensor ``[N, len(centres_nm)]``: Gaussian responses of those full widths at half maximum."""
        sigma = np.asarray(widths_nm, np.float64)[:, None] / 2.3548
        weight = np.exp(-0.5 * ((self.wavelengths_nm - np.asarray(centres_nm, np.float64)[:, None]) / sigma) ** 2)
        weight /= weight.sum(axis=1, keepdims=True)
        return (self.reflectance @ weight.T).astype(np.float32)


def spectral_library(folder: Path) -> SpectralLibrary:
    """earthlib-spectra as it is: ENVI spectral library and its table.

    Raises:
        ChipError: A file is missing, or they do not agree.
    """
    header, table = folder / "spectra.sli.hdr", folder / "spectra.csv"
    rows = _rows(table)
    try:
        text = header.read_text(encoding="utf-8")
        samples, lines = (int(_field(text, name)) for name in ("samples", "lines"))
        waves = np.array([float(part) for part in _field(text, "wavelength").strip("{} ").split(",")], np.float32)
        names = [name.strip() for name in _field(text, "spectra names").strip("{} ").split(",")]
        spectra = np.fromfile(folder / "spectra.sli", "<f4").reshape(lines, samples)
        levels = tuple((row["LEVEL_2"], row["LEVEL_3"]) for row in rows)
        places = [(row["SOURCE"], row["LAT"], row["LON"]) for row in rows]
    except (OSError, ValueError, KeyError) as error:
        raise ChipError(f"{folder}: the spectral library cannot be read: {error!r}") from None
    # One name is spelled in two ways, so nearly all is enough to know that the order is the same.
    same = sum(name == row["NAME"] for name, row in zip(names, rows, strict=False))
    if len(waves) != samples or not len(rows) == len(names) == lines or same < 0.99 * lines:
        raise ChipError(f"{folder}: header and table name different spectra")
    order = {place: number for number, place in enumerate(dict.fromkeys(places))}
    origins = np.array([order[place] for place in places], np.int64)
    return SpectralLibrary(waves * 1000, spectra.astype(np.float32), levels, origins)


def _field(text: str, name: str) -> str:
    """Value of a field in an ENVI header."""
    found = re.search(rf"^{re.escape(name)} *= *(\{{[^}}]*\}}|[^\n]*)", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"no field {name!r} in the header")
    return found[1].strip()


def materials(folder: Path) -> Iterator[LabelledSpectra]:
    """earthlib-spectra folded to Sentinel-2A's bands."""
    library = spectral_library(folder)
    numbers = {meaning.name: number for number, meaning in LIBRARY.items()}
    yield LabelledSpectra(
        folder.name,
        "spectrometer-as-sentinel-2",
        BANDS,
        library.folded([band.wavelength_nm for band in BANDS], [BAND_WIDTHS[band.name] for band in BANDS]),
        np.array([numbers.get(level, 0) for level, _ in library.names], np.int64),
        LIBRARY,
        library.origins,
        "field",
    )


def three_covers(folder: Path) -> Iterator[LabelledSpectra]:
    """The Landsat 8 spectra of spyndex-sample-s2."""
    path = folder / "landsat8_sr_120_samples.csv"
    rows = _rows(path)
    yield LabelledSpectra(
        f"{folder.name}/landsat8-spectra",
        "landsat-8",
        LANDSAT_BANDS,
        _columns(path, rows, [f"SR_B{number}" for number in range(2, 8)]),
        _numbers(path, rows, "class", THREE_COVERS),
        THREE_COVERS,
        np.arange(len(rows)),
        "points",
    )
