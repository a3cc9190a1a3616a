"""What a checkpoint makes of words that no class of its legend has: IoU with the class meant, and what it declines.

    python -m benchmarks.words [--checkpoint NAME] [--chips 2]

Chips of the six held-out worlds. Synonyms mean a class of ``worldcover9``: ten are among the words that stage
``describe`` teaches, ten (``--other``) are not. Unseen phrases mean no class, so a model that knows what it was taught
declines them. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from pipeline.predict.word_model import WordModel
from pipeline.settings.run_file import ModelConfig
from pipeline.simulation.held_out import HELD_OUT_WORLDS
from spex_core.legend import Legend

SYNONYMS = {
    **{"forest": 10, "bushes": 20, "meadow": 30, "farmland": 40, "city": 50, "sand": 60, "glacier": 70, "lake": 80},
    **{"marsh": 90, "open water": 80},
}
"""Phrase → code of the class that it means; stage ``describe`` about maps teaches them."""
NOT_TAUGHT = {
    **{"grove": 10, "brush": 20, "lawn": 30, "ploughland": 40, "suburb": 50, "dunes": 60, "ice cap": 70, "pond": 80},
    **{"fen": 90, "cornfield": 40},
}
"""The same, of words that no list has."""
UNSEEN = (
    *("reed along the river", "solar panels", "airport runway", "burnt ground", "greenhouses", "a football pitch"),
    *("clouds", "ships", "happiness", "banana"),
)
CHIP_PX = 256


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", default=ModelConfig().checkpoint)
    parser.add_argument("--chips", type=int, default=2, help="of each world")
    parser.add_argument("--quick", action="store_true", help="one chip of each world")
    parser.add_argument("--other", action="store_true", help="synonyms that were not taught")
    options = parser.parse_args()
    synonyms = NOT_TAUGHT if options.other else SYNONYMS
    legend = Legend.from_yaml()
    count = 1 if options.quick else options.chips
    chips = [world.chip(i, CHIP_PX) for world in HELD_OUT_WORLDS for i in range(count)]
    model = WordModel(ModelConfig(checkpoint=options.checkpoint), legend, (*synonyms, *UNSEEN))
    joint = [model.joint_scores(pixels[None])[0] for pixels, _ in chips]
    labels = [codes for _, codes in chips]
    print("| phrase | means | taken for | distance | to nonsense | verdict | IoU | IoU of the class word |")
    print("|---|---|---|--:|--:|---|--:|--:|")
    ious, declined = [], {"synonyms": 0, "unseen": 0}
    for position, one in enumerate(model.understood):
        code = synonyms.get(one.phrase)
        declined["unseen" if code is None else "synonyms"] += one.verdict == "unlike any class"
        meant, ratios = "", ""
        if code is not None:
            own = legend.codes.index(code)
            taken = legend.names.index(one.nearest[0][0])
            iou = _iou([_mask(s, len(legend) + position, taken, len(legend)) for s in joint], labels, code)
            best = _iou([_mask(s, own, own, len(legend)) for s in joint], labels, code)
            ious.append(iou)
            meant, ratios = legend.names[own], f"{iou:.2f} | {best:.2f}"
        name, distance = one.nearest[0]
        cells = (one.phrase, meant, name, f"{distance:.2f}", f"{one.nonsense:.2f}", one.verdict, ratios or " | ")
        print(f"| {' | '.join(cells)} |")
    print(
        json.dumps(
            {
                "mean_iou_synonyms": round(float(np.mean(ious)), 4),
                "synonyms_declined": declined["synonyms"],
                "unseen_declined": declined["unseen"],
                "synonyms": len(synonyms),
                "unseen": len(UNSEEN),
            }
        )
    )


def _mask(scores: np.ndarray, channel: int, taken_for: int, classes: int) -> np.ndarray:
    """Where a word wins against all classes but the one that it is taken for."""
    others = [k for k in range(classes) if k != taken_for]
    return np.asarray(scores[channel] > scores[others].sum(axis=0))


def _iou(masks: list[np.ndarray], labels: list[np.ndarray], code: int) -> float:
    both = either = 0
    for mask, codes in zip(masks, labels, strict=True):
        both += int((mask & (codes == code)).sum())
        either += int(((mask | (codes == code)) & (codes != 0)).sum())
    return both / either if either else float("nan")


if __name__ == "__main__":
    main()
