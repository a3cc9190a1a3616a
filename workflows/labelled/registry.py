"""The labelled samples by folder, and the split of their places into those to learn from and those to measure on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from yaml import YAMLError

from pipeline.errors import ChipError
from spex_core.strict_yaml import read_yaml
from workflows.labelled import landsat, sentinel2, spectra
from workflows.labelled.scene import LabelledScene, LabelledSpectra

Side = Literal["train", "evaluate"]

PLACES = Path(__file__).parents[1] / "training" / "split" / "places.yaml"
"""The split that the project uses."""


@dataclass(frozen=True)
class ImageSample:
    """A folder of images with labels."""

    folder: str
    places: tuple[str, ...]
    """What its scenes say as their place; the folder's name where it is one."""
    read: Callable[[Path], Iterator[LabelledScene]]
    """Takes the folder; raises ChipError where a file is missing or unreadable."""
    licence: str
    """Of the files, and of the labels where it is another."""


@dataclass(frozen=True)
class SpectraSample:
    """A folder of labelled spectra."""

    folder: str
    places: tuple[str, ...]
    read: Callable[[Path], Iterator[LabelledSpectra]]
    licence: str


def _parts(folder: str, *parts: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{part}" for part in parts)


_COPERNICUS = "contains modified Copernicus Sentinel data"
_USGS = "imagery: USGS Landsat, public domain"

IMAGES: tuple[ImageSample, ...] = (
    ImageSample(
        "aberystwyth-rsgislib",
        ("aberystwyth-rsgislib",),
        sentinel2.hand_drawn_groups,
        f"GPL-3.0 (RSGISLib); {_COPERNICUS} 2021",
    ),
    ImageSample(
        "amazon-landsat8",
        _parts("amazon-landsat8", "porto-velho", "madre-de-dios"),
        landsat.amazon_points,
        f"Apache-2.0 (scikit-eo); {_USGS}",
    ),
    ImageSample(
        "belgium-lpis-chips",
        _parts("belgium-lpis-chips", "31UDS", "31UES"),
        sentinel2.farmers_parcels,
        f"MIT (ESA WorldCereal); LPIS Flanders, open data; {_COPERNICUS}",
    ),
    ImageSample(
        "belgium-lpis-landsat8",
        ("belgium-lpis-landsat8",),
        landsat.farmers_parcels,
        f"MIT (ESA WorldCereal); LPIS Flanders, open data; {_USGS}",
    ),
    ImageSample(
        "belgium-worldcereal-timeseries",
        ("belgium-worldcereal-timeseries",),
        sentinel2.monthly_farmland,
        f"MIT (ESA WorldCereal); {_COPERNICUS}",
    ),
    ImageSample(
        "bigearthnet-3patches",
        _parts("bigearthnet-3patches", "36_85", "4_55", "56_35"),
        sentinel2.named_patches,
        f"CDLA-Permissive-1.0 (BigEarthNet), Apache-2.0 (repository); {_COPERNICUS}",
    ),
    ImageSample(
        "clouds-ukis-landsat",
        _parts("clouds-ukis-landsat", "landsat5", "landsat7"),
        landsat.cloud_masks,
        f"Apache-2.0 (DLR UKIS); {_USGS}",
    ),
    ImageSample(
        "costarica-landsat5",
        ("costarica-landsat5",),
        landsat.forest_or_not,
        f"GPL (>= 3) (teamlucc); {_USGS}",
    ),
    ImageSample(
        "elkton-landsat8",
        ("elkton-landsat8",),
        landsat.valley_polygons,
        f"Apache-2.0 (RasterFrames); {_USGS}",
    ),
    ImageSample(
        "gewata-ethiopia-landsat7",
        ("gewata-ethiopia-landsat7",),
        landsat.ethiopian_forest,
        f"CC BY-SA 4.0 (Wageningen University); {_USGS}",
    ),
    ImageSample(
        "lahinch-worldfloods-l1c",
        ("lahinch-worldfloods-l1c",),
        sentinel2.flooded_pasture,
        f"CC BY-NC 4.0 (WorldFloods): tests alone, never weights that are released; {_COPERNICUS}",
    ),
    ImageSample(
        "potsdam-enmap-simulated-s2",
        ("potsdam-enmap-simulated-s2",),
        sentinel2.folded_town,
        "GPL-3 (EnMAP-Box); EnMAP © DLR; polygons: GeoBasis-DE/LGB, dl-de/by-2-0",
    ),
    ImageSample(
        "zion-south-landsat8",
        _parts("zion-south-landsat8", "west", "east"),
        landsat.desert_mountains,
        f"CC0 (spDataLarge); NLCD 2011: USGS, public domain; {_USGS}",
    ),
)

SPECTRA: tuple[SpectraSample, ...] = (
    SpectraSample(
        "australia-field-cover-landsat",
        ("australia-field-cover-landsat",),
        spectra.field_plots,
        f"MIT (fractionalcover3); {_USGS}",
    ),
    SpectraSample(
        "deafrica-crop-spectra-s2",
        _parts("deafrica-crop-spectra-s2", *spectra.AFRICAN_REGIONS),
        spectra.crop_or_not,
        f"Apache-2.0 (Digital Earth Africa); {_COPERNICUS}",
    ),
    SpectraSample(
        "earthlib-spectra",
        ("earthlib-spectra",),
        spectra.materials,
        "MIT (earthlib); the libraries in it (ICRAF-ISRIC, ASTER/ECOSTRESS, USGS) have their own terms",
    ),
    SpectraSample(
        "germany-training-pixels-s2",
        _parts("germany-training-pixels-s2", "freiburg", "luebeck"),
        spectra.training_pixels,
        f"GPL-3 (OpenGeoHub 2021); {_COPERNICUS}",
    ),
    SpectraSample(
        "spyndex-sample-s2",
        _parts("spyndex-sample-s2", "landsat8-spectra"),
        spectra.three_covers,
        f"MIT (spyndex); {_USGS}",
    ),
    SpectraSample(
        "ukraine-habitat-spectra-s2",
        _parts("ukraine-habitat-spectra-s2", "south", "north"),
        spectra.habitats,
        f"GPL-3 (spectralR); {_COPERNICUS}",
    ),
)


def registered_places() -> tuple[str, ...]:
    """Every place of the labelled samples, sorted."""
    images = [place for sample in IMAGES for place in sample.places]
    return tuple(sorted([*images, *(place for table in SPECTRA for place in table.places)]))


@dataclass(frozen=True)
class Split:
    """Which side each place is on."""

    train: frozenset[str]
    evaluate: frozenset[str]

    @classmethod
    def from_yaml(cls, path: Path = PLACES) -> Split:
        """Reads two lists of places, ``train`` and ``evaluate``.

        Raises:
            ChipError: Unreadable, other keys, something else than names, or a place that is named twice.
        """
        try:
            data = read_yaml(path)
        except (OSError, UnicodeDecodeError, YAMLError) as error:
            raise ChipError(f"the split {path} cannot be read: {error}") from None
        if not isinstance(data, dict) or set(data) != {"train", "evaluate"}:
            raise ChipError(f"the split {path} must have two lists, train and evaluate")
        for side, names in data.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ChipError(f"the split {path}: {side} must be a list of names of places")
        every = [*data["train"], *data["evaluate"]]
        twice = sorted({name for name in every if every.count(name) > 1})
        if twice:
            raise ChipError(f"the split {path} names places twice: {', '.join(twice)}")
        return cls(frozenset(data["train"]), frozenset(data["evaluate"]))

    def side(self, place: str) -> Side:
        """The one side that a place is on.

        Raises:
            ChipError: The split does not name it: what nobody decided on is neither trained on nor measured.
        """
        if place in self.train:
            return "train"
        if place in self.evaluate:
            return "evaluate"
        raise ChipError(f"place {place!r} is not in the split; name it under train or evaluate")


def labelled_scenes(root: Path, split: Split, side: Side | None = None) -> Iterator[LabelledScene]:
    """Labelled images below ``root``, in order; folders that are missing are left out.

    Args:
        root: Holds the samples' folders.
        split: Must name every place that is read.
        side: Only those; None: all.

    Raises:
        ChipError: A sample cannot be read, or a place is not in the split.
    """
    for sample in IMAGES:
        if (root / sample.folder).is_dir() and _wanted(sample.places, split, side):
            yield from (s for s in sample.read(root / sample.folder) if side in (None, split.side(s.place)))


def labelled_spectra(root: Path, split: Split, side: Side | None = None) -> Iterator[LabelledSpectra]:
    """The same of the tables of spectra."""
    for sample in SPECTRA:
        if (root / sample.folder).is_dir() and _wanted(sample.places, split, side):
            yield from (s for s in sample.read(root / sample.folder) if side in (None, split.side(s.place)))


def _wanted(places: tuple[str, ...], split: Split, side: Side | None) -> bool:
    return any(side in (None, found) for found in [split.side(place) for place in places])
