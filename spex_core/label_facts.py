"""What can truthfully be said of one class of a label map: amounts, places, shapes, neighbours, spectra.

The answers of training are written from these facts (:mod:`spex_core.answers`), and texts are checked against them
(:mod:`spex_core.answer_check`). Labels never enter a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # its parts are imported where they are used

from spex_core.indices import spectral_index
from spex_core.priors import MIN_OBJECT_PX, AttributeRecord, region_attributes

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

EVIDENCE_INDICES: tuple[str, ...] = ("ndvi", "mndwi", "ndbi", "bsi", "ndmi")
"""Indices that answers may quote."""
COUNTED_SHARE = 0.0005
"""Objects below this share of the image are not counted: whether a few pixels touch is chance."""
SHAPED_PX = 16
"""Smaller objects have no shape worth a word."""
CELLS: tuple[str, ...] = tuple(
    "center" if (row, column) == ("middle", "center") else f"{row}-{column}"
    for row in ("top", "middle", "bottom")
    for column in ("left", "center", "right")
)
"""Location words of the thirds grid, row by row; those of :func:`spex_core.priors.location_word`."""


@dataclass(frozen=True)
class ObjectFacts:
    """One connected object of the class."""

    record: AttributeRecord
    """Size word, centroid, location, box, share."""
    aspect: float | None
    """Long side over short side of the minimum-area box; None for objects under :data:`SHAPED_PX`."""
    fill: float | None
    """Share of that box which the object covers."""


@dataclass(frozen=True)
class ClassFacts:
    """Everything that is measured of one class."""

    share: float
    """Share of the image, 0..1."""
    objects: tuple[ObjectFacts, ...]
    """At most ten, largest first, none under :data:`spex_core.priors.MIN_OBJECT_PX` pixels."""
    count: int
    """Objects of at least :data:`COUNTED_SHARE` of the image."""
    cells: tuple[float, ...]
    """Share of the class's pixels in each cell of :data:`CELLS`."""
    indices: dict[str, float]
    """Mean spectral indices of the class's pixels; without those that need a missing band."""
    borders: dict[str, int]
    """Pixels of each other class, by noun, that touch this one's by a side."""


def class_facts(
    mask: BoolArray,
    reflectance: FloatArray | None = None,
    others: Mapping[str, BoolArray] | None = None,
    observed: BoolArray | None = None,
) -> ClassFacts:
    """Measures one class of a label map.

    Args:
        mask: bool ``[H, W]``, pixels labelled as the class.
        reflectance: Surface reflectance, float32 ``[10, H, W]`` (NaN: missing); without it there are no indices.
        others: Masks ``[H, W]`` of the other classes by noun; without them there are no borders.
        observed: bool ``[H, W]``, pixels that have a class at all; default: every one. The share is of these, and so
            is the smallest object that counts; sizes of objects stay shares of the image, as records have them.
    """
    height, width = mask.shape
    records = region_attributes(mask, min_pixels=MIN_OBJECT_PX)
    known = mask.size if observed is None else max(int(np.count_nonzero(observed)), 1)
    labels, _ = scipy.ndimage.label(mask, structure=np.ones((3, 3), bool))
    areas = np.bincount(labels.ravel())[1:]
    rows, columns = np.nonzero(mask)
    cells = np.bincount(
        np.minimum(rows * 3 // height, 2) * 3 + np.minimum(columns * 3 // width, 2), minlength=len(CELLS)
    )
    indices: dict[str, float] = {}
    if reflectance is not None and len(rows):
        pixels = reflectance[:, mask]
        for name in EVIDENCE_INDICES:
            values = np.asarray(spectral_index(name, pixels, band_axis=-2))
            values = values[np.isfinite(values)]
            if values.size:
                indices[name] = float(values.mean(dtype=np.float64))
    beside = scipy.ndimage.binary_dilation(mask) & ~mask
    borders = {noun: int((beside & other).sum()) for noun, other in (others or {}).items()}
    return ClassFacts(
        share=len(rows) / known,
        objects=tuple(_object_facts(record, mask.shape) for record in records),
        count=int((areas >= max(COUNTED_SHARE * known, MIN_OBJECT_PX)).sum()),
        cells=tuple(float(n) / max(len(rows), 1) for n in cells),
        indices=indices,
        borders={noun: length for noun, length in borders.items() if length},
    )


def _object_facts(record: AttributeRecord, shape: tuple[int, ...]) -> ObjectFacts:
    height, width = shape
    area = record.share * height * width
    if area < SHAPED_PX:
        return ObjectFacts(record, None, None)
    corners = np.array(record.box) * (width, height)
    # Boxes go through pixel centres: half a pixel is missing on each side.
    sides = np.linalg.norm(corners[[1, 2]] - corners[[0, 1]], axis=1) + 1
    return ObjectFacts(record, float(sides.max() / sides.min()), float(min(area / sides.prod(), 1.0)))
