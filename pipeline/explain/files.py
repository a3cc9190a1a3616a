"""``explanations.json`` and ``explanations.md``: the layout that users and checks rely on, written atomically."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.explain.claims import Claim
from pipeline.explain.evidence import reading_of
from pipeline.explain.region_words import RegionWords, words_document
from pipeline.explain.sentences import RegionExplanation, format_area, format_share
from pipeline.explain.statistics import ClassStatistics, RegionStatistics
from pipeline.machine.atomic_files import write_json, write_text
from spex_core.indices import INDEX_LABELS

_MARKDOWN = re.compile(r"([\\`*_{}\[\]#+|<>~])")  # parentheses are harmless once brackets are escaped

_LIST_MARK = re.compile(r"^(\d*)([-.)])(?= )")  # "1. North" would become an item of a list


def explanations_document(
    explanations: Sequence[RegionExplanation], header: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The content of ``explanations.json``.

    Args:
        explanations: Sub-regions, in the order of the region file.
        header: Further top-level fields (run id, period, legend...); may not be called ``regions``.
    """
    return {**(header or {}), "regions": [_region(e) for e in explanations]}


def write_explanations(
    folder: Path, explanations: Sequence[RegionExplanation], *, title: str, header: Mapping[str, Any] | None = None
) -> tuple[Path, Path]:
    """Writes both files into ``folder``, each complete under its name or not at all; returns their paths."""
    document = explanations_document(explanations, header)
    as_json, as_markdown = folder / "explanations.json", folder / "explanations.md"
    write_json(as_json, document)
    write_text(as_markdown, explanations_markdown(explanations, title))
    return as_json, as_markdown


def explanations_markdown(explanations: Sequence[RegionExplanation], title: str) -> str:
    """One section per sub-region: the paragraph, then its classes as a table."""
    lines = [f"# {_escaped(title)}", ""]
    for explanation in explanations:
        region = explanation.statistics
        lines += [f"## {_escaped(region.name)}", "", _escaped(explanation.text), ""]
        for place, said in explanation.words.lines if explanation.words else ():
            lines += [f"> In the model's words, {place}: {_escaped(said)}", ""]
        if region.classes:
            lines += [
                "| class | area | share | patches | largest | confidence | mean index |",
                "|---|--:|--:|--:|--:|--:|---|",
            ]
            for c in region.classes:
                told = reading_of(c.name, "", c.indices)
                reading = "" if told is None else f"{INDEX_LABELS[told[0]]} {told[1]:.2f} ({told[2]})"
                cells = (
                    _escaped(c.name),
                    format_area(c.area_ha),
                    format_share(c.share),
                    f"{c.patches:,}",
                    format_area(c.largest_patch_ha),
                    format_share(c.mean_confidence),
                    reading,
                )
                lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
    return "\n".join(lines)


def _region(explanation: RegionExplanation) -> dict[str, Any]:
    region = explanation.statistics
    return {
        "id": region.id,
        "name": region.name,
        "geometry": region.geometry,
        "area_ha": round(region.area_ha, 4),
        "observed_share": round(region.observed_share, 6),
        "mean_confidence": round(region.mean_confidence, 6),
        "mean_observations": round(region.mean_observations, 4),
        **_unfamiliar(region),
        "classes": [
            {
                "code": c.code,
                "name": c.name,
                "area_ha": round(c.area_ha, 4),
                "share": round(c.share, 6),
                "patches": c.patches,
                "largest_patch_ha": round(c.largest_patch_ha, 4),
                "mean_confidence": round(c.mean_confidence, 6),
                **_unfamiliar(c),
                "indices": {name: round(value, 4) for name, value in c.indices.items()},
            }
            for c in region.classes
        ],
        "text": explanation.text,
        "claims": [_claim(c) for c in explanation.claims],
        **_words(explanation.words),
        "dropped": [{"text": s.text, "claims": [_claim(c) for c in s.claims]} for s in explanation.dropped],
    }


def _unfamiliar(measured: RegionStatistics | ClassStatistics) -> dict[str, float]:
    """Left out where the model does not know what it was trained on."""
    share = measured.unfamiliar_share
    return {} if share is None else {"unfamiliar_share": round(share, 6)}


def _words(words: RegionWords | None) -> dict[str, Any]:
    if words is None:
        return {"model_sentences": []}
    counts = {
        "sentences": len(words.sentences),
        "printed": len(words.printed),
        "claims": len(words.claims),
        "supported": sum(claim.holds for claim in words.claims),
    }
    return {"model_sentences": words_document(words), "model_counts": counts}


def _claim(claim: Claim) -> dict[str, Any]:
    return {
        "text": claim.text,
        "kind": claim.kind,
        "value": None if claim.value is None else round(claim.value, 6),
        "measured": None if claim.measured is None else round(claim.measured, 6),
        "supported": claim.supported,
    }


def _escaped(text: str) -> str:
    """Names come from outside: no markup, no line breaks."""
    return _LIST_MARK.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\1", " ".join(text.split())))
