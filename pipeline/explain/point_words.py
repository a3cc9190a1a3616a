"""The explanation of one point in words for a terminal, and as one JSON object."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.explain.attribution import AROUND, SPOT, SPOT_PX, Attribution, Effect, Part
from pipeline.explain.point import PointExplanation
from pipeline.explain.typical import IndexEvidence, Typical
from pipeline.imagery.sightings import Sighting
from spex_core.bands import SENTINEL2_BANDS
from spex_core.indices import INDEX_LABELS

INDICES_TOLD = 3
_TELLING = 0.5
"""An index nearer to one of two classes by half a standard deviation tells them apart."""
REPLACEMENT = "the mean of each band over the image that was asked about"


def odds_text(odds: float) -> str:
    """``32 to 1``, ``1 to 4``; what is beyond a thousand is called so."""
    if odds >= 1000:
        return "more than 1000 to 1"
    if odds <= 1 / 1000:
        return "less than 1 to 1000"
    large = odds if odds >= 1 else 1 / odds
    number = f"{large:.0f}" if large >= 9.95 else f"{large:.1f}".removesuffix(".0")
    return f"{number} to 1" if odds >= 1 else f"1 to {number}"


def part_text(part: Part, pixel_m: float) -> str:
    """``the near-infrared bands of the spot itself (50 m)``, ``all bands of the ground to the north``."""
    bands = part.bands if part.bands == "all bands" else f"the {part.bands.replace(' ', '-')} bands"
    if part.place == "everywhere":
        return f"{bands} of the spot and its surroundings"
    if part.place == SPOT:
        return f"{bands} of {SPOT} ({(2 * SPOT_PX + 1) * pixel_m:.0f} m)"
    return f"{bands} of {part.place}" if part.place == AROUND else f"{bands} of the ground to the {part.place}"


def point_text(found: PointExplanation) -> str:
    """The whole explanation, some thirty lines."""
    return "\n".join(_lines(found))


def _lines(found: PointExplanation) -> Iterator[str]:
    pixel, pixel_m = found.pixel, found.pixel.zone.grid.resolution_m
    where = f"{pixel.lon:.5f},{pixel.lat:.5f}"
    if found.other is None:
        yield f"{found.own.name} at {where}: the only class of the legend."
    else:
        yield (
            f"{found.own.name} at {where}, with odds of {odds_text(found.odds or 0.0)} against {found.other.name}, the "
            f"runner-up (scores {found.score:.2f} and {found.other_score:.2f})."
        )
    if not found.calibrated:
        yield "Scores of this model are not calibrated: read these odds as an order, not as chances."
    if found.attribution is not None:
        yield from _named(found.attribution, found.own.name, pixel_m)
    yield from _telling(found)
    yield from found.notes
    if found.attribution is not None:
        yield ""
        yield from _effects(found, pixel_m)
    if found.spectrum is not None:
        yield ""
        yield from _spectra(found)
    if found.sightings:
        yield ""
        yield "scenes that saw it:"
        yield from (_sighting(one) for one in found.sightings)
    if found.region is not None:
        yield ""
        yield f"{found.region.name}, the sub-region: {found.region.text}"


def _named(attribution: Attribution, name: str, pixel_m: float) -> Iterator[str]:
    odds = odds_text(attribution.odds)
    if not attribution.named:
        yield (
            f"No single part of the image that was tried lowers the odds of {name} when it is deleted ({odds} against "
            "all others): the evidence is spread, or the classes that it competes with lose as much."
        )
        return
    parts = [part_text(effect.part, pixel_m) for effect in attribution.named]
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    them = "it" if len(parts) == 1 else "them"
    usual = math.exp(float(np.mean(np.log(attribution.without_random))))
    yield (
        f"It rests most on {listed}: without {them} the odds against all other classes go from {odds} to "
        f"{odds_text(attribution.without_named)}; without as many values taken at random around, to {odds_text(usual)}."
    )
    if not attribution.faithful:
        yield "Chance does as much here: what is named explains little of this pixel."


def _telling(found: PointExplanation) -> Iterator[str]:
    if found.other is None or not found.indices:
        return
    for sign, words in ((1, found.own.name), (-1, found.other.name)):
        told = [e for e in found.indices if e.weight * sign >= _TELLING][:INDICES_TOLD]
        if told:
            yield f"Nearer to {words}: {'; '.join(_index(e) for e in told)}."


def _index(evidence: IndexEvidence) -> str:
    return (
        f"{INDEX_LABELS[evidence.index]} {evidence.value:.2f} (usual {evidence.usual:.2f}, of the runner-up "
        f"{evidence.usual_other:.2f})"
    )


def _effects(found: PointExplanation, pixel_m: float) -> Iterator[str]:
    attribution = found.attribution
    assert attribution is not None
    yield (
        f"odds of {found.own.name} against all others when a part is deleted (replaced by {REPLACEMENT}, "
        f"{found.asked_px * pixel_m / 1000:g} km wide):"
    )
    yield f"  {'nothing deleted':<66}{odds_text(attribution.odds):>18}"
    for effect in (*attribution.groups, *attribution.places):
        yield f"  {part_text(effect.part, pixel_m):<66}{odds_text(effect.odds):>18}"


def _spectra(found: PointExplanation) -> Iterator[str]:
    assert found.spectrum is not None
    columns: list[tuple[str, Any]] = [("here", found.spectrum)]
    pairs = ((found.own, found.typical), (found.other, found.typical_other))
    columns += [(entry.name, typical.spectrum) for entry, typical in pairs if entry and typical]
    yield f"reflectance, beside the median {found.typical_where}:" if len(columns) > 1 else "reflectance:"
    yield "  " + f"{'band':<6}" + "".join(f"{name:>16}" for name, _ in columns)
    for position, band in enumerate(SENTINEL2_BANDS):
        values = [float(spectrum[position]) for _, spectrum in columns]
        if not math.isnan(values[0]):
            yield "  " + f"{band:<6}" + "".join(f"{value:>16.3f}" for value in values)
    counts = [f"{t.pixels:,} px of {e.name}" for e, t in pairs if e and t]
    missing = [entry.name for entry, typical in pairs if entry and typical is None]
    if counts:
        yield f"  ({', '.join(counts)})"
    if missing:
        yield f"  (too little of {' and '.join(missing)} there for a typical spectrum)"


def _sighting(one: Sighting) -> str:
    seen = f" ({one.seen_as} by its scene classification)" if one.seen_as else ""
    return f"  {one.datetime:%Y-%m-%d %H:%M}  {one.fate:<11}{one.scene}{seen}"


# --- JSON ---------------------------------------------------------------------------------------------------------


def point_document(found: PointExplanation) -> dict[str, Any]:
    """The same as plain data; numbers that are not known are null."""
    pixel = found.pixel
    return {
        "at": [pixel.lon, pixel.lat],
        "crs": f"EPSG:{pixel.zone.grid.epsg}",
        "row": pixel.row,
        "column": pixel.col,
        "run_id": found.run_id,
        "class": {"code": found.own.code, "name": found.own.name, "score": _round(found.score)},
        "runner_up": None
        if found.other is None
        else {"code": found.other.code, "name": found.other.name, "score": _round(found.other_score)},
        "odds": None if found.odds is None else _round(found.odds, 3),
        "calibrated": found.calibrated,
        "recomputed": found.recomputed,
        "same_scores": found.same_scores,
        "notes": list(found.notes),
        "spectrum": _spectrum(found.spectrum),
        "typical": {
            "where": found.typical_where,
            "class": _typical(found.typical),
            "runner_up": _typical(found.typical_other),
        },
        "indices": {name: _round(value) for name, value in (found.index_values or {}).items()},
        "telling_indices": [
            {
                "index": e.index,
                "value": _round(e.value),
                "usual": _round(e.usual),
                "usual_runner_up": _round(e.usual_other),
                "weight": _round(e.weight, 3),
            }
            for e in found.indices
        ],
        "attribution": None if found.attribution is None else _attribution(found.attribution, found),
        "scenes": [
            {"id": s.scene, "datetime": s.datetime.isoformat(), "fate": s.fate, "seen_as": s.seen_as}
            for s in found.sightings
        ],
        "region": None
        if found.region is None
        else {"id": found.region.id, "name": found.region.name, "text": found.region.text},
        "text": point_text(found),
    }


def _attribution(attribution: Attribution, found: PointExplanation) -> dict[str, Any]:
    def effects(entries: Sequence[Effect]) -> list[dict[str, Any]]:
        return [
            {"bands": e.part.bands, "place": e.part.place, "odds": _round(e.odds, 6), "log_odds_drop": _round(e.drop)}
            for e in entries
        ]

    return {
        "replacement": REPLACEMENT,
        "image_px": found.asked_px,
        "odds": _round(attribution.odds, 6),
        "band_groups": effects(attribution.groups),
        "places": effects(attribution.places),
        "named": effects(attribution.named),
        "odds_without_named": _round(attribution.without_named, 6),
        "odds_without_random": [_round(odds, 6) for odds in attribution.without_random],
        "values_deleted": attribution.values,
        "faithful": attribution.faithful,
    }


def _spectrum(spectrum: Any) -> dict[str, float] | None:
    if spectrum is None:
        return None
    pairs = zip(SENTINEL2_BANDS, (float(value) for value in spectrum), strict=True)
    return {band: _round(value) for band, value in pairs if not math.isnan(value)}


def _typical(typical: Typical | None) -> dict[str, Any] | None:
    if typical is None:
        return None
    means = {name: _round(value) for name, value in typical.means.items()}
    return {"pixels": typical.pixels, "spectrum": _spectrum(typical.spectrum), "indices": means}


def _round(value: float, digits: int = 4) -> float:
    return round(float(value), digits)
