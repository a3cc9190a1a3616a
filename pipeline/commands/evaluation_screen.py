"""An evaluation as tables on a terminal."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

from pipeline.evaluation.result import ROW_TITLES, EvaluationResult
from pipeline.machine.progress import duration_text


def show_evaluation(result: EvaluationResult, console: Console) -> None:
    """Rows side by side, the first row class by class, whether attributes help, texts, published figures, notes."""
    pixels = int(next(iter(result.rows.values())).assessment.reference.sum())
    _line(console, f"{result.name}: {result.checkpoint}, {result.chips} chips, {pixels:,} labelled pixels")
    origin = result.sources[0].name if len(result.sources) == 1 else f"{len(result.sources)} sources"
    _line(console, f"bands {' '.join(result.bands)}; {origin}")
    _line(console, "")
    console.print(_rows(result))
    _line(console, "")
    console.print(_classes(result))
    if len(result.sources) > 1:
        _line(console, "")
        console.print(_sources(result))
    _line(console, "")
    if result.attribute_verdict():
        _line(console, result.attribute_verdict())
    if result.texts is not None:
        t = result.texts
        _line(
            console,
            f"Texts: {t.texts} about {t.chips} chips make {t.claims} claims"
            + (f"; the labels support {t.share:.1%} of them." if t.claims else ", so nothing can be checked.")
            + (
                f" As written, before they were held against the masks: {t.written} claims, "
                f"{t.written_supported / t.written:.1%} supported."
                if t.written > t.claims
                else ""
            ),
        )
    if result.protocol:
        _line(console, "")
        console.print(_protocol(result))
        _line(console, result.protocol_note)
    _line(
        console,
        f"Boundaries match within {result.boundary_tolerance_px:g} px; calibration error over "
        f"{result.calibration_bins} equal bins; means over classes that occur in the labels.",
    )
    for note in result.notes:
        _line(console, note)
    _line(console, duration_text(result.seconds))


def _rows(result: EvaluationResult) -> Table:
    table = Table("", box=None)
    for title in ("accuracy", "mean IoU", "mean F1", "boundary F1", "calibration error"):
        table.add_column(title, justify="right")
    for name, row in result.rows.items():
        a = row.assessment
        figures = (a.overall, a.miou, a.mean_f1, row.mean_boundary_f1, row.calibration_error)
        table.add_row(ROW_TITLES[name], *map(_share, figures))
    return table


def _classes(result: EvaluationResult) -> Table:
    name, row = next(iter(result.rows.items()))
    table = Table("the model" if name == "model" else ROW_TITLES[name], box=None)
    for title in ("IoU", "F1", "precision", "recall", "boundary F1", "pixels"):
        table.add_column(title, justify="right")
    rules = result.rows.get("index_rules")
    if rules is not None and name != "index_rules":
        table.add_column("IoU of the index rules", justify="right")
    a = row.assessment
    columns = zip(a.legend, a.iou, a.f1, a.users, a.producers, row.boundary_f1, a.reference, strict=True)
    for k, (entry, *figures, pixels) in enumerate(columns):
        if pixels or a.confusion[:, k].any():
            last = [] if rules is None or name == "index_rules" else [_share(float(rules.assessment.iou[k]))]
            table.add_row(_plain(entry.name), *(_share(float(v)) for v in figures), f"{int(pixels):,}", *last)
    return table


def _sources(result: EvaluationResult) -> Table:
    """Mean IoU of every row on each source."""
    short = {
        "model": "model",
        "shuffled": "another's",
        "none": "none",
        "index_rules": "index rules",
        "forest": "forest",
    }
    table = Table("mean IoU by source", box=None)
    for title in ("chips", *(short[name] for name in result.rows)):
        table.add_column(title, justify="right")
    for source in result.sources:
        figures = (_share(row.assessment.miou) for row in source.rows.values())
        table.add_row(_plain(source.name), str(source.chips), *figures)
    table.add_row("mean", str(result.chips), *(_share(miou) for _, miou in result.mean_over_sources().values()))
    return table


def _protocol(result: EvaluationResult) -> Table:
    table = Table("protocol's metric", box=None)
    table.add_column("measured here, %", justify="right")
    table.add_column("published, %")
    for figure in result.protocol:
        published = "; ".join(f"{model} {value:g}" for model, value, _ in figure.published)
        table.add_row(_plain(figure.metric), f"{figure.measured:.1f}" if math.isfinite(figure.measured) else "-",
                      _plain(published) or "-")  # fmt: skip
    return table


def _share(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _plain(text: str) -> str:
    """Names come from files: square brackets are no markup here."""
    return text.replace("[", "\\[")


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
