"""The data card: what is in a data set, from what, under which licence; ``datacard.json`` and ``DATACARD.md``.

It follows the questions of Gebru et al. 2021 ("Datasheets for Datasets", doi 10.1145/3458723) as far as a machine can
answer them. No clock and no path of the machine is in it, so that the same build writes the same card.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.machine.atomic_files import write_json, write_text
from pipeline.spie.config import SpieConfig
from pipeline.spie.shards import ChipIndex
from spex_core.legend import Legend

JSON_FILE, TEXT_FILE = "datacard.json", "DATACARD.md"


def datacard(
    config: SpieConfig,
    legend: Legend,
    index: ChipIndex,
    tried: Sequence[Mapping[str, Any]],
    problems: Sequence[str],
) -> dict[str, Any]:
    """Counts and provenance as plain data.

    Args:
        config: The file of the data set.
        legend: Its classes.
        index: Of the finished shards.
        tried: What became of every chip, in order: ``key``, ``accepted``, and ``split`` and ``facts`` or ``reason``.
        problems: What could not be read.
    """
    taken = [record for record in tried if record["accepted"]]
    shard_of = {chip.key: shard.name for shard in index.shards for chip in shard.chips}
    chips = [
        {
            "key": record["key"],
            "split": record["split"],
            "shard": shard_of[record["key"]],
            **{
                name: record["facts"][name]
                for name in ("bounds_lonlat", "epsg", "bounds", "dates", "label_dates", "source", "licence", "pixels")
            },
        }
        for record in taken
    ]
    names = {str(entry.code): entry.name for entry in legend}
    reasons = Counter(str(record["reason"]).partition(":")[0] for record in tried if not record["accepted"])
    return {
        "name": config.name,
        "build": index.build,
        "format": f"{index.format} {index.version}",
        "chip_px": index.size_px,
        "bands": list(index.bands),
        "legend": legend.name,
        "seed": config.seed,
        "splits": {
            split: {
                "chips": len(members),
                "cells": len({record["facts"]["cell"] for record in members}),
                "pixels": _pixels(members, names),
                "chips_with_class": _chips_with(members, names),
            }
            for split in ("train", "validation")
            if (members := [record for record in taken if record["split"] == split])
        },
        "pixels": _pixels(taken, names),
        "strata": {
            name: sum(str(record["facts"]["stratum"]) == code for record in taken) for code, name in names.items()
        },
        "rejected": dict(sorted(reasons.items())),
        "licences": {
            "imagery": sorted({record["facts"]["licence"]["imagery"] for record in taken}),
            "labels": sorted({text for record in taken for text in record["facts"]["licence"]["labels"]}),
        },
        "items": {
            "imagery": sorted({item for record in taken for item in record["facts"]["source"]["items"]}),
            "labels": sorted({item for record in taken for item in record["facts"]["source"]["labels"]["items"]}),
        },
        "dates": _span([date for record in taken for date in record["facts"]["dates"]]),
        "bounds_lonlat": _union([record["facts"]["bounds_lonlat"] for record in taken]),
        "settings": {
            "chips": config.chips.model_dump(mode="json"),
            "composite": config.composite.model_dump(mode="json"),
            "validation": config.validation,
        },
        "problems": list(problems),
        "chips": chips,
    }


def write(folder: Path, card: Mapping[str, Any]) -> None:
    """Writes both files atomically.

    Raises:
        OutputError: The folder cannot be written.
    """
    write_json(folder / JSON_FILE, card)
    write_text(folder / TEXT_FILE, markdown(card))


def read(folder: Path) -> dict[str, Any] | None:
    """The card of a folder; None where there is no usable one."""
    try:
        card = json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) and {"splits", "pixels", "rejected"} <= card.keys() else None


def markdown(card: Mapping[str, Any]) -> str:
    """The card for people."""
    splits = list(card["splits"])
    west, south, east, north = card["bounds_lonlat"]
    total = sum(card["pixels"].values())
    lines = [
        f"# {_plain(card['name'])}",
        "",
        f"{len(card['chips'])} chips of {card['chip_px']} px: surface reflectance ({' '.join(card['bands'])}), "
        f"land-cover labels (legend {_plain(card['legend'])}), spectral attributes and answers per class (SPIE, "
        "arXiv 2508.05202).",
        "",
        f"Imagery from {' to '.join(card['dates']) or 'unknown dates'}; longitude {west:g} to {east:g}, "
        f"latitude {south:g} to {north:g}.",
        "",
        "## Classes",
        "",
        "| class | share of labelled pixels | strata | " + " | ".join(f"{s}: chips with it" for s in splits) + " |",
        "|---|---:|---:|" + "---:|" * len(splits),
        *(
            f"| {_plain(name)} | {count / max(total, 1):.2%} | {card['strata'].get(name, 0)} | "
            + " | ".join(str(card["splits"][s]["chips_with_class"].get(name, 0)) for s in splits)
            + " |"
            for name, count in card["pixels"].items()
        ),
        "",
        "A chip belongs to the stratum of the rarest class that it holds; strata are sampled up to the same number, so "
        "shares here are not shares of the land.",
        "",
        "## Splits",
        "",
        *(f"- {s}: {part['chips']} chips in {part['cells']} geographic cells" for s, part in card["splits"].items()),
        "",
        "No cell is in two splits.",
        "",
        "## Licences",
        "",
        *(f"- imagery: {_plain(text)}" for text in card["licences"]["imagery"]),
        *(f"- labels: {_plain(text or 'unspecified')}" for text in card["licences"]["labels"]),
        "",
        "## Sources",
        "",
        f"{len(card['items']['imagery'])} scenes or images, {len(card['items']['labels'])} label files; every chip "
        f"names its own in `{JSON_FILE}` and in its `.json`, with date and bounds.",
        "",
        "## Made",
        "",
        f"Build `{card['build']}`, seed {card['seed']}. Tried and not taken: "
        + (", ".join(f"{count} for {reason}" for reason, count in card["rejected"].items()) or "none")
        + ".",
        *(["", "Could not be read:", "", *(f"- {_plain(p)}" for p in card["problems"])] if card["problems"] else []),
        "",
        "## Limits",
        "",
        "Attributes come from the imagery alone; answers describe the labels and belong in training targets, never in "
        "prompts. Labels are a map with errors of its own, and may be of another year than the imagery.",
        "",
        "## Reading",
        "",
        "Shards are plain tar files in the layout of WebDataset. With this package:",
        "",
        "```python",
        "from pipeline.spie import ShardedChips",
        'chips = ShardedChips("this folder", split="train")',
        "reflectance, target, weight = chips.chip(0)",
        "```",
        "",
    ]
    return "\n".join(lines)


def _pixels(records: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for record in records:
        totals.update(record["facts"]["pixels"])
    return {name: totals[code] for code, name in names.items()}


def _chips_with(records: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, int]:
    return {name: sum(code in record["facts"]["pixels"] for record in records) for code, name in names.items()}


def _span(dates: Sequence[str]) -> list[str]:
    return sorted({min(dates), max(dates)}) if dates else []


def _union(boxes: Sequence[Sequence[float]]) -> list[float]:
    west, south, east, north = zip(*boxes, strict=True)
    return [min(west), min(south), max(east), max(north)]


def _plain(text: str) -> str:
    """Text from outside, for Markdown."""
    return "".join("\\" + c if c in "\\`*_[]<>|#" else c for c in " ".join(str(text).split()))
