"""Spectral priors: what classical index rules say about an image, from the imagery alone (never from labels).

Rules are declared per class in the legend (``prior``). They serve twice: with fixed bounds as the index-only baseline
map, pixel by pixel; and with bounds that follow the image as the source of the attribute records that stand in the
prompts (SPIE, arXiv 2508.05202 section III; docs/decisions/0010).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import scipy  # its parts are imported where they are used: half a second that most who import this do not need

from spex_core.bands import SENTINEL2_BANDS
from spex_core.indices import spectral_index
from spex_core.legend import Legend, LegendClass

SOFTNESS = 0.05
"""Index units over which membership falls from certain to doubtful."""

FloatArray = npt.NDArray[np.float32]


def index_margins(reflectance: FloatArray, legend: Legend) -> FloatArray:
    """How far each pixel lies inside (> 0) or outside (< 0) each class's index conditions.

    Args:
        reflectance: Surface reflectance, float32 ``[10, H, W]``.
        legend: K classes with priors.

    Returns:
        float32 ``[K, H, W]``, index units: the tightest condition of the class; -1 for a class without a prior.
    """
    indices: dict[str, FloatArray] = {}

    def margin(entry: LegendClass) -> FloatArray:
        tightest = np.full(reflectance.shape[-2:], 1.0 if entry.prior else -1.0, np.float32)
        for condition in entry.prior:
            if condition.index not in indices:
                indices[condition.index] = np.asarray(spectral_index(condition.index, reflectance), np.float32)
            value = indices[condition.index]
            if condition.low is not None:
                tightest = np.minimum(tightest, value - np.float32(condition.low))
            if condition.high is not None:
                tightest = np.minimum(tightest, np.float32(condition.high) - value)
        return tightest

    return np.stack([margin(entry) for entry in legend])


def index_scores(reflectance: FloatArray, legend: Legend) -> FloatArray:
    """The index-only baseline: class scores from the rules alone.

    Args:
        reflectance: Surface reflectance, float32 ``[10, H, W]``, finite.
        legend: K classes with priors.

    Returns:
        float32 ``[K, H, W]``, softmax over K of the margins in units of :data:`SOFTNESS`; sums to 1.
    """
    logits = index_margins(reflectance, legend) / np.float32(SOFTNESS)
    logits -= logits.max(axis=0, keepdims=True)
    scores = np.exp(logits)
    return np.asarray(scores / scores.sum(axis=0, keepdims=True), np.float32)


TWO_GROUPS = 0.75
"""Share of an index's variance that lies between Otsu's two groups, from which a bound follows the image. One group
alone, cut in two, has 0.64 (normal distribution) to 0.75 (uniform)."""
MIN_OBJECT_PX = 4
"""Candidates smaller than this are noise, and no record describes them."""


def candidate_masks(reflectance: FloatArray, legend: Legend) -> npt.NDArray[np.bool_]:
    """Pixels that may belong to each class, for the attribute records of the prompts.

    The rules of the legend, with two differences to :func:`index_margins`: a bound that has a range moves to Otsu's
    threshold of the image (Otsu 1979) inside that range, where the image has two groups of the index; and masks are
    cleaned by a 3 x 3 majority, because salt and pepper joins up into objects that are none. So a mask depends on
    the whole image, as the records made from it do.

    Args:
        reflectance: Surface reflectance, float32 ``[10, H, W]``; NaN throughout a missing band, or in a missing pixel.
        legend: K classes with priors.

    Returns:
        bool ``[K, H, W]``; classes may overlap. A condition whose index needs a missing band is dropped; a class
        that keeps no condition has no candidates, and neither has a pixel where a kept index is missing.
    """
    indices: dict[str, FloatArray] = {}
    thresholds: dict[str, float | None] = {}

    def index_of(name: str) -> FloatArray:
        if name not in indices:
            indices[name] = np.asarray(spectral_index(name, reflectance), np.float32)
        return indices[name]

    def bound(name: str, fixed: float, span: tuple[float, float] | None) -> float:
        if span is None:
            return fixed
        if name not in thresholds:
            thresholds[name] = otsu_threshold(index_of(name))
        found = thresholds[name]
        return fixed if found is None else min(max(found, span[0]), span[1])

    masks = np.zeros((len(legend), *reflectance.shape[-2:]), bool)
    for mask, entry in zip(masks, legend, strict=True):
        usable = [condition for condition in entry.prior if np.isfinite(index_of(condition.index)).any()]
        if not usable:
            continue
        mask[:] = True
        for condition in usable:
            value = index_of(condition.index)
            if condition.low is not None:
                mask &= value > bound(condition.index, condition.low, condition.low_range)
            if condition.high is not None:
                mask &= value < bound(condition.index, condition.high, condition.high_range)
        mask &= np.logical_and.reduce([np.isfinite(index_of(condition.index)) for condition in usable])
        mask[:] = scipy.ndimage.uniform_filter(mask.astype(np.float32), 3, mode="nearest") > 0.5
    return masks


def otsu_threshold(values: FloatArray) -> float | None:
    """Otsu's threshold of an index layer, or None where the layer does not fall into two groups.

    Args:
        values: Index values of any shape; what is not finite is left out.
    """
    found = values[np.isfinite(values)]
    spread = float(found.var()) if found.size else 0.0
    if spread < 1e-6:  # constant (an index step of 0.001): nothing to separate
        return None
    from skimage.filters import threshold_otsu

    threshold = float(threshold_otsu(found))  # type: ignore[no-untyped-call]  # typed in part
    above = found > threshold
    share = float(above.mean())
    if not 0 < share < 1:
        return None
    between = share * (1 - share) * float(found[above].mean() - found[~above].mean()) ** 2
    return threshold if between > TWO_GROUPS * spread else None


@dataclass(frozen=True)
class AttributeRecord:
    """One candidate object of a class, as text-ready numbers (SPIE; all lengths are shares of the image side)."""

    size: str
    """Size word, see :data:`SIZE_WORDS`."""
    centroid: tuple[float, float]
    """x (right), y (down), each 0..1."""
    location: str
    """Cell of the thirds grid, e.g. ``"top-left"``, ``"center"``."""
    box: tuple[tuple[float, float], ...]
    """Four corners (x, y) of the minimum-area rotated rectangle."""
    share: float
    """Area of the object, share of the image."""
    indices: dict[str, float]
    """Mean spectral indices over the object, none that needs a missing band; empty if no reflectance was given."""
    reflectance: dict[str, float] = field(default_factory=dict)
    """Mean surface reflectance of the object per band, without missing bands; empty if no reflectance was given."""


SIZE_WORDS: tuple[tuple[float, str], ...] = (
    (0.0025, "very tiny"),
    (0.0040, "tiny"),
    (0.0066, "small"),
    (0.0095, "medium"),
    (0.0300, "somewhat large"),
    (0.1500, "large"),
    (float("inf"), "huge"),
)
"""Upper bound of the object's share of the image → word. The bounds separate every example of the published prompts."""

RECORD_INDICES: tuple[str, ...] = ("ndvi", "mndwi", "ndbi")
"""Indices that a record carries."""


def region_attributes(
    mask: npt.NDArray[np.bool_], reflectance: FloatArray | None = None, *, max_records: int = 10, min_pixels: int = 1
) -> tuple[AttributeRecord, ...]:
    """Describes the connected objects of a mask, largest first (SPIE, arXiv 2508.05202).

    Args:
        mask: bool ``[H, W]``, candidate pixels of one class; 8-connected objects are described.
        reflectance: Surface reflectance, float32 ``[10, H, W]`` (NaN: missing), for the mean index values and the
            mean reflectance; optional.
        max_records: At most so many records.
        min_pixels: Smaller objects are not described.

    Returns:
        Records sorted by area (ties: first pixel in row-major order). Coordinates are pixel indices divided by the
        image side. One-pixel objects keep their true centroid (the published data put them at 0, 0).
    """
    labels, count = scipy.ndimage.label(mask, structure=np.ones((3, 3), bool))
    if count == 0:
        return ()
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-areas, kind="stable")[:max_records]
    order = order[areas[order] >= min_pixels]
    height, width = mask.shape
    windows = scipy.ndimage.find_objects(labels)
    records = []
    for label in order + 1:
        rows, columns = windows[label - 1]
        inside = labels[rows, columns] == label
        y, x = (axis.astype(np.float64) for axis in np.nonzero(inside))
        y += rows.start
        x += columns.start
        cx, cy = float(x.mean()) / width, float(y.mean()) / height
        share = float(areas[label - 1]) / mask.size
        indices, bands = {}, {}
        if reflectance is not None:
            patch = reflectance[:, rows, columns][:, inside]
            indices = _means({name: spectral_index(name, patch, band_axis=-2) for name in RECORD_INDICES})
            bands = _means(dict(zip(SENTINEL2_BANDS, patch, strict=True)))
        # Only the first and last pixel of a row can be a corner of the hull.
        first = np.flatnonzero(np.diff(y, prepend=-1.0))
        ends = np.union1d(first, np.append(first[1:], len(y)) - 1)
        corners = _minimum_area_rectangle(np.stack([x[ends], y[ends]], axis=1)) / (width, height)
        records.append(
            AttributeRecord(
                size=next(word for bound, word in SIZE_WORDS if share < bound),
                centroid=(cx, cy),
                location=location_word(cx, cy),
                box=tuple((float(a), float(b)) for a, b in corners),
                share=share,
                indices=indices,
                reflectance=bands,
            )
        )
    return tuple(records)


def _means(layers: Mapping[str, FloatArray]) -> dict[str, float]:
    """Mean of the finite values of each layer; layers without any are left out."""
    finite = {name: values[np.isfinite(values)] for name, values in layers.items()}
    return {name: float(np.mean(values)) for name, values in finite.items() if values.size}


def location_word(x: float, y: float) -> str:
    """Cell of the 3 x 3 grid that holds a point of the unit square (x right, y down); the middle is ``"center"``."""
    row = ("top", "middle", "bottom")[min(int(y * 3), 2)]
    column = ("left", "center", "right")[min(int(x * 3), 2)]
    return "center" if (row, column) == ("middle", "center") else f"{row}-{column}"


def _minimum_area_rectangle(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Corners [4, 2] of the smallest rectangle around points [N, 2]: one side lies on an edge of the convex hull."""
    low, high = points.min(axis=0), points.max(axis=0)
    upright = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])
    if len(points) < 3 or np.any(high == low):
        return upright
    try:
        hull = points[scipy.spatial.ConvexHull(points).vertices]
    except scipy.spatial.QhullError:  # all points on one slanted line: an upright box is the honest answer
        return upright
    edges = np.roll(hull, -1, axis=0) - hull
    along = edges / np.linalg.norm(edges, axis=1, keepdims=True)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    u, v = hull @ along.T, hull @ across.T
    extents = (u.min(axis=0), u.max(axis=0), v.min(axis=0), v.max(axis=0))
    best = int(np.argmin((extents[1] - extents[0]) * (extents[3] - extents[2])))
    u0, u1, v0, v1 = (float(extent[best]) for extent in extents)
    return np.array([u * along[best] + v * across[best] for u, v in ((u0, v0), (u1, v0), (u1, v1), (u0, v1))])
