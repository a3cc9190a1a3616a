"""The card of an adapted checkpoint: data, figures, limits, the misses first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pipeline.adaptation.result import Adaptation
    from pipeline.adaptation.validation import Figures, Validation

FEW_PER_CLASS = 20
UNSURE_ECE = 0.1
MUCH_OUTSIDE = 0.1


def warnings_of(adaptation: Adaptation) -> list[str]:
    """What people must know before they use the map, the weightiest first."""
    found: list[str] = []
    checked = adaptation.validation
    if checked is None:
        found.append("Not validated: the labelled places are too few or too close together to leave blocks out.")
    else:
        if checked.forest_ahead:
            own, forest = checked.judged
            found.append(
                f"A random forest on the same points is better on left-out blocks ({forest.overall:.3f} against "
                f"{own.overall:.3f}): map with the forest, or label more places."
            )
        unadapted = checked.related.get("unadapted")
        if unadapted is not None and unadapted.overall > checked.related["adapted"].overall:
            found.append(
                f"The model without adaptation is better at the level of its own classes ({unadapted.overall:.3f} "
                f"against {checked.related['adapted'].overall:.3f})."
            )
        worst = [(name, recall) for name, recall in zip(adaptation.legend.names, _recalls(checked), strict=True)]
        bad = [f"{name} ({recall:.2f})" for name, recall in worst if recall < 0.5]
        if bad:
            found.append(f"Less than half of these is found in left-out blocks: {', '.join(bad)}.")
        if checked.calibration_error > UNSURE_ECE:
            found.append(
                f"Confidence is off by {checked.calibration_error:.2f} on average: do not read it as a probability."
            )
    whole = adaptation.whole
    if whole is not None and not whole.kept:
        found.append(
            f"The whole model (--full) was no better on the fold that was left out ({whole.full.overall:.3f}, the head "
            f"{whole.head.overall:.3f}): this is the head alone."
        )
    if whole is not None and whole.kept:
        found.append(
            f"The whole model was trained. What is said of left-out blocks below is about the head alone; on the one "
            f"fold ({whole.held_out} pixels) on which both were compared it has {whole.full.overall:.3f}, the head "
            f"{whole.head.overall:.3f}, the forest {whole.forest.overall:.3f}. That fold chose between them and fitted "
            "the confidence, so its figure is a little too good."
        )
    if (product := adaptation.facts.get("labels")) is not None:
        part = "Labels are" if adaptation.facts.get("points") is None else "Some labels are"
        found.append(
            f"{part} those of {product}, itself a map with errors of its own and of its own year: figures say how "
            "well it is repeated, not how right it is."
        )
    if adaptation.outside_share is not None and adaptation.outside_share > MUCH_OUTSIDE:
        found.append(
            f"{adaptation.outside_share:.0%} of the region is unlike any labelled place: what the map says there is "
            "not covered by the figures below."
        )
    few = [f"{name} ({count})" for name, count in adaptation.samples.items() if count < FEW_PER_CLASS]
    if few:
        found.append(f"Few pixels: {', '.join(few)}; their figures are uncertain.")
    if adaptation.dropped:
        listed = ", ".join(f"{name} ({count})" for name, count in adaptation.dropped.items())
        found.append(f"Too few pixels to be learnt, and so not in the map: {listed}.")
    if adaptation.other_dates:
        found.append(f"{adaptation.other_dates} places were visited outside of the run's period; they are used.")
    return found


def headline(adaptation: Adaptation) -> str:
    """One line: figures on left-out blocks."""
    checked = adaptation.validation
    if checked is None:
        return "not validated"
    return (
        f"on left-out blocks: {checked.adapted.overall:.3f} overall, random forest {checked.forest.overall:.3f}, "
        f"calibration error {checked.calibration_error:.3f}"
    )


def table_rows(checked: Validation) -> list[tuple[str, Figures]]:
    """Classifiers side by side."""
    found = [("this checkpoint", checked.adapted), ("random forest, same points", checked.forest)]
    if checked.by_people:
        found += [("this checkpoint, people's labels alone", checked.by_people["adapted"])]
        found += [("random forest, people's labels alone", checked.by_people["forest"])]
    titles = {
        "unadapted": "model without adaptation, its own classes",
        "adapted": "this checkpoint, the same classes",
        "forest": "random forest, the same classes",
    }
    return found + [(titles[name], figures) for name, figures in checked.related.items()]


def _recalls(checked: Validation) -> list[float]:
    total = checked.confusion.sum(axis=1)
    hits = np.diag(checked.confusion)
    return [float(h / t) if t else float("nan") for h, t in zip(hits, total, strict=True)]


def _cell(text: str) -> str:
    """Names come from a survey: they must neither end a cell nor be markup."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def card_text(adaptation: Adaptation) -> str:
    """Markdown."""
    facts, checked = adaptation.facts, adaptation.validation
    lines = [f"# Checkpoint adapted to {_cell(str(facts['run']))}", ""]
    base = _cell(adaptation.base.rpartition("/")[2])
    origin = [] if facts["points"] is None else [f"{_cell(facts['points'])} (column {_cell(facts['class_field'])})"]
    if facts.get("labels") is not None:
        licence = f", {facts['labels_licence']}" if facts["labels_licence"] else ""
        origin.append(_cell(f"{facts['labels']} ({facts['labels_pixels']} of them{licence})"))
    rest = "everything else is the frozen model"
    if adaptation.whole is not None and adaptation.whole.kept:
        rest = "from there the whole vision side was trained"
    lines += [
        f"Made by `spex adapt` from {base} and {sum(adaptation.samples.values())} labelled pixels of "
        f"{' and '.join(origin)}. It maps the classes of `legend.yaml` and no others, where and when it was made for:",
        "",
        f"    spex run RUN.yaml --checkpoint {adaptation.output.name}",
        "",
        f"- Period of the images: {facts['period'][0]} to {facts['period'][1]}, {facts['scenes']} scenes, bands "
        f"{' '.join(facts['bands'])}",
        f"- Head: {adaptation.chosen}, temperature {adaptation.temperature:.3f}; {rest}",
        "",
        "## What is wrong with it",
        "",
    ]
    lines += [f"- {_cell(line)}" for line in warnings_of(adaptation)] or ["- Nothing that left-out blocks show."]
    lines += [
        "- The figures hold for places like those that were labelled. Where and how these were chosen is up to the "
        "survey: if easy places were labelled, figures are too good, and shares of classes in the map follow theirs.",
        "- Images of another season or year were not seen.",
        "",
        "## Classes",
        "",
        "| code | class | like | pixels | left out blocks: found | by the forest |",
        "|--:|---|---|--:|--:|--:|",
    ]
    recalls = _recalls(checked) if checked else [float("nan")] * len(adaptation.legend)
    forest = checked.forest_recall.tolist() if checked else recalls
    for entry, recall, other in zip(adaptation.legend, recalls, forest, strict=True):
        like = adaptation.similar.get(entry.name, "")
        lines.append(
            f"| {entry.code} | {_cell(entry.name)} | {like} | {adaptation.samples[entry.name]} | {_share(recall)} | "
            f"{_share(other)} |"
        )
    lines += ["", "## Validation", ""]
    if checked is None:
        lines.append("There was none: at least two spatial folds with different blocks are needed.")
    else:
        lines += _validation_lines(adaptation, checked)
    if adaptation.left_out:
        lines += ["", "## Not used", ""]
        lines += [f"- {count} {reason}" for reason, count in adaptation.left_out.items()]
    if adaptation.problems:
        lines += ["", "## Scenes that could not be read, or are doubtful", ""]
        lines += [f"- {_cell(line)}" for line in adaptation.problems[:20]]
    return "\n".join(lines) + "\n"


def _validation_lines(adaptation: Adaptation, checked: Validation) -> list[str]:
    lines = [
        f"Blocks of {adaptation.block_m:g} m are left out in {checked.folds} turns; pixels nearer than "
        f"{adaptation.gap_m:g} m to a left-out one are not learnt from either. Sources, strength and temperature "
        "are chosen anew each time, without the left-out blocks.",
        "",
        "| | overall | mean recall | mean IoU |",
        "|---|--:|--:|--:|",
    ]
    for title, f in table_rows(checked):
        lines.append(f"| {title} | {f.overall:.3f} | {f.mean_recall:.3f} | {f.mean_iou:.3f} |")
    lines += ["", f"Expected calibration error of the confidence: {checked.calibration_error:.3f}.", ""]
    steps = ", ".join(f"{accuracy:.3f} with {count}" for count, accuracy in checked.curve)
    gain = checked.gain_of_100_more
    lines.append(f"Learning curve (pixels learnt from): {steps}.")
    if gain is not None:
        lines.append(f"By its last doubling, 100 pixels more would bring about {100 * gain:.1f} points.")
    if adaptation.outside_share is not None:
        lines.append(f"Of the region {adaptation.outside_share:.0%} is unlike any labelled place.")
    lines += ["", "Rows: the survey; columns: the map.", ""]
    names = [_cell(name) for name in adaptation.legend.names]
    lines += [f"| | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
    lines += [
        f"| {name} | {' | '.join(map(str, row))} |" for name, row in zip(names, checked.confusion.tolist(), strict=True)
    ]
    return lines


def _share(value: float) -> str:
    return f"{value:.2f}" if value == value else "-"
