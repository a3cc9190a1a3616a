"""Why a map has the class that it has at one point: everything that can be measured about it, put together.

See docs/decisions/0044.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.errors import ReadError
from pipeline.explain.attribution import Attribution, attribute
from pipeline.explain.kept_run import ExplainedRegion, KeptRun, MappedPixel
from pipeline.explain.recomputed import Recomputed, model_of, recompute, tile_scores
from pipeline.explain.typical import IndexEvidence, Typical, indices_of, telling_indices, typical_of
from pipeline.imagery.sightings import Sighting, sightings
from pipeline.predict.classifier import Classifier, fill_invalid
from pipeline.predict.stitch import SCORE_SCALE
from pipeline.records.grid import grid_window, region_mask
from pipeline.records.windows import intersection, slices
from pipeline.settings.model import INDEX_RULES
from pipeline.settings.published import is_published
from spex_core.legend import LegendClass

FloatArray = npt.NDArray[np.float32]
ASKED_PX = 192
"""Side of the image that is asked about again and again: a seventh of the cost of a tile of 512 px."""
ALIGNED_PX = 32
"""It begins at a multiple of the encoder's largest stride in the tile, so that the same cells are looked at."""
SAME_SCORE = 1.5 / SCORE_SCALE
"""Stored scores are rounded to 1/255."""


@dataclass(frozen=True)
class PointExplanation:
    """What is known of one pixel of a map."""

    pixel: MappedPixel
    run_id: str
    own: LegendClass
    other: LegendClass | None
    """The runner-up; None in a legend of one class."""
    score: float
    other_score: float
    """Scores 0..1; their ratio is the odds of the one against the other."""
    calibrated: bool
    """Scores of a network come through a temperature that was fitted to labels; those of index rules and of published
    checkpoints do not."""
    recomputed: bool
    """The pixel was read and classified again, with the same class. Else what follows is not known."""
    same_scores: bool
    """And with the same scores as are stored."""
    notes: tuple[str, ...]
    """What a reader must know: sources that are gone, doubts."""
    spectrum: FloatArray | None = None
    """float32 ``[10]``."""
    typical: Typical | None = None
    typical_other: Typical | None = None
    typical_where: str = ""
    indices: tuple[IndexEvidence, ...] = ()
    index_values: dict[str, float] | None = None
    attribution: Attribution | None = None
    asked_px: int = 0
    """Side of the image that the attribution asked about."""
    sightings: tuple[Sighting, ...] = ()
    region: ExplainedRegion | None = None

    @property
    def odds(self) -> float | None:
        """Of the class against the runner-up."""
        return None if self.other is None else self.score / max(self.other_score, 1e-6)


def explain_point(run: KeptRun, lon: float, lat: float, classifier: Classifier | None = None) -> PointExplanation:
    """Explains one pixel of a map.

    Args:
        run: A finished run.
        lon: Longitude, degrees.
        lat: Latitude, degrees.
        classifier: The run's model, where many points are explained; default: loaded here.

    Raises:
        BadInputError: The point lies outside the map, or was not observed.
        CheckpointError: The model is not there any more.
        StoreError: The store is damaged.
    """
    pixel = run.pixel(lon, lat)
    stored = run.store.zone(pixel.zone.grid.epsg).read("scores", pixel.window)[:, 0, 0] / np.float32(SCORE_SCALE)
    region = run.region_at(lon, lat)
    notes: list[str] = []
    again: Recomputed | None = None
    model = classifier or model_of(run.config, run.legend)
    try:
        again = recompute(run, pixel, model)
    except ReadError as error:
        notes.append(f"The scenes cannot be read again, so only what the run has kept is told: {error}.")
    if again is not None and again.code != pixel.code:
        notes.append(
            f"What lies at the scenes' places today gives {_name(run, again.code)}, the map says "
            f"{_name(run, pixel.code)}: other files, another model or other versions than the map was made with. "
            "Only what the run has kept is told."
        )
        again = None
    scores = stored if again is None else again.scores
    own = run.legend.codes.index(pixel.code)
    order = [int(i) for i in np.argsort(-scores, kind="stable") if i != own]
    same = again is not None and bool(np.abs(again.scores - stored).max() <= SAME_SCORE)
    if again is not None and not same:
        notes.append(
            f"Scores differ from the map's by up to {float(np.abs(again.scores - stored).max()):.2f}, the class is the "
            "same: another model, other versions or other files than the map was made with."
        )
    classes = run.legend.classes
    base = PointExplanation(
        pixel=pixel,
        run_id=run.plan.run_id,
        own=classes[own],
        other=classes[order[0]] if order else None,
        score=float(scores[own]),
        other_score=float(scores[order[0]]) if order else 0.0,
        calibrated=run.config.model.checkpoint != INDEX_RULES and not is_published(run.config.model),
        recomputed=again is not None,
        same_scores=same,
        notes=tuple(notes),
        region=region,
    )
    if again is None:
        return base
    return _measured(base, run, again, model, own, order[0] if order else None)


def _measured(
    base: PointExplanation, run: KeptRun, again: Recomputed, model: Classifier, own: int, other: int | None
) -> PointExplanation:
    pixel = base.pixel
    row, col = pixel.row - again.read_window.row, pixel.col - again.read_window.col
    spectrum = again.reflectance[:, row, col].copy()
    here = {name: float(value[0]) for name, value in indices_of(spectrum[:, None]).items()}
    typical, typical_other, where = _typical(run, pixel, again, base.own.code, base.other, base.region)
    both = typical is not None and typical_other is not None
    whole = is_published(run.config.model)  # its masks hang on what it says of a whole image
    attribution, asked_px = _attributed(again, pixel, model, own, again.tile.window.height if whole else ASKED_PX)
    notes = [*base.notes, *(f"{problem}." for problem in again.problems)]
    return replace(
        base,
        spectrum=spectrum,
        typical=typical,
        typical_other=typical_other,
        typical_where=where,
        indices=telling_indices(here, typical, typical_other) if both and typical and typical_other else (),
        index_values={name: value for name, value in here.items() if np.isfinite(value)},
        attribution=attribution,
        asked_px=asked_px,
        sightings=sightings(run.scenes(pixel.zone), pixel.zone.grid, pixel.window, run.config.composite, run.door),
        notes=tuple(notes),
    )


def _typical(
    run: KeptRun,
    pixel: MappedPixel,
    again: Recomputed,
    code: int,
    other: LegendClass | None,
    region: ExplainedRegion | None,
) -> tuple[Typical | None, Typical | None, str]:
    """Typical spectra of two classes in what was read: of the sub-region, or of all of it where that has too little."""
    grid = pixel.zone.grid
    window = intersection(again.read_window, grid_window(grid))
    assert window is not None  # it holds the pixel
    reflectance = again.reflectance[(slice(None), *slices(window, again.read_window))]
    codes = run.store.zone(grid.epsg).read("landcover", window)
    size_km = max(window.height, window.width) * grid.resolution_m / 1000
    around = f"within the {size_km:.1f} km that were read around the point"
    within = np.ones(codes.shape, np.bool_) if region is None else region_mask(region.geometry, grid, window)
    wanted = (code, None if other is None else other.code)
    everywhere = np.ones(codes.shape, np.bool_)
    where = around if region is None else f"in {region.name}, {around}"
    found = _two_typical(reflectance, codes, within, wanted)
    if region is not None and None in found:
        where, found = around, _two_typical(reflectance, codes, everywhere, wanted)
    return found[0], found[1], where


def _two_typical(
    reflectance: FloatArray,
    codes: npt.NDArray[np.uint8],
    inside: npt.NDArray[np.bool_],
    wanted: tuple[int, int | None],
) -> tuple[Typical | None, Typical | None]:
    own, other = wanted
    return (
        typical_of(reflectance, (codes == own) & inside),
        None if other is None else typical_of(reflectance, (codes == other) & inside),
    )


def _attributed(
    again: Recomputed, pixel: MappedPixel, model: Classifier, own: int, piece_px: int
) -> tuple[Attribution | None, int]:
    """The attribution on a piece of the tile around the pixel; on the whole tile where the piece has another class."""
    rows, columns = slices(again.tile.window, again.read_window)
    tile = fill_invalid(again.reflectance[:, rows, columns])
    if tile is None:
        return None, 0
    at = (pixel.row - again.tile.window.row, pixel.col - again.tile.window.col)

    def scorer(image: FloatArray) -> FloatArray:
        return tile_scores(model, [image])[0]

    for side in (min(piece_px, tile.shape[1]), tile.shape[1]):
        top, left = (asked_start(place, side, tile.shape[1]) for place in at)
        piece = np.ascontiguousarray(tile[:, top : top + side, left : left + side])
        inside = (at[0] - top, at[1] - left)
        scores = scorer(piece)[(slice(None), *inside)]
        if int(scores.argmax()) == own or side == tile.shape[1]:
            return attribute(piece, inside, own, scorer), side
    return None, 0  # not reached: the whole tile is the last


def asked_start(place: int, side: int, tile_px: int) -> int:
    """Where a piece of a tile begins, so that a pixel lies near its middle and the piece in the tile."""
    start = round((place - side / 2) / ALIGNED_PX) * ALIGNED_PX
    return min(max(start, 0), tile_px - side)


def _name(run: KeptRun, code: int) -> str:
    return next((entry.name for entry in run.legend if entry.code == code), f"code {code}")
