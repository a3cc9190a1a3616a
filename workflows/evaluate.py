"""What the attributes are worth: ``python -m workflows.evaluate [--checkpoint NAME] [--count N]``.

Scores held-out simulated chips four ways: index rules alone; the model with the attributes measured in each chip; with
the attributes of another chip; with none. If the prompts carried the answer, the second would stand far above the last
two; the difference is printed with its sign. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np
import torch

from pipeline.assessment import Assessment, confusion_matrix
from pipeline.simulation import simulate_chip
from spex_core import Legend, SpexForLandCover, resolve_checkpoint
from spex_core.priors import index_scores
from workflows.training_chips import CHIP_PX

FIRST_SEED = 900_000
"""Seeds from here on are never trained on."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m workflows.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="spex-s2-tiny")
    parser.add_argument("--count", type=int, default=60, help="chips of 256 px")
    arguments = parser.parse_args()
    legend = Legend.from_yaml()
    model = SpexForLandCover.from_pretrained(resolve_checkpoint(arguments.checkpoint))
    processor = model.processor
    if processor is None:
        raise SystemExit(f"checkpoint {arguments.checkpoint} has no processor")
    chips = [simulate_chip(FIRST_SEED + index, CHIP_PX) for index in range(arguments.count)]
    measured = [processor.questions(pixels, legend) for pixels, _ in chips]
    none = [processor.questions(pixels, legend, max_records=0) for pixels, _ in chips]
    codes = np.array(legend.codes, np.uint8)

    def asked(questions: list[list[str]]) -> Callable[[int], np.ndarray]:
        def best(index: int) -> np.ndarray:
            pixels = torch.from_numpy(chips[index][0])[None]
            scores = model.predict(pixels, legend, questions=questions[index]).scores
            assert scores is not None
            return np.asarray(scores[0].argmax(0).numpy())

        return best

    rows: dict[str, Callable[[int], np.ndarray]] = {
        "index rules only": lambda index: index_scores(chips[index][0], legend).argmax(0),
        "measured attributes": asked(measured),
        "attributes of another chip": asked(measured[1:] + measured[:1]),
        "no attributes": asked(none),
    }
    result = {}
    print(f"{len(chips)} simulated chips, seeds from {FIRST_SEED}\n{'':28}{'accuracy':>10}{'mean IoU':>10}")
    for name, best in rows.items():
        matrices = [confusion_matrix(truth, codes[best(i)], legend) for i, (_, truth) in enumerate(chips)]
        found = Assessment(legend, np.sum(matrices, axis=0))
        result[name] = {"accuracy": round(found.overall, 4), "miou": round(found.miou, 4)}
        print(f"{name:28}{found.overall:10.3f}{found.miou:10.3f}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
