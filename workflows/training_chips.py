"""Simulated chips as a chip folder: ``python -m workflows.training_chips OUT --count 600``.

``spex train`` makes its own; this is for a look at them, or for a machine that has no simulator. Run again, it finishes
what was interrupted. Real chips are made by :mod:`workflows.teacher_chips`; the format is described in
:mod:`pipeline.chips.chip_folder`.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from pipeline.chips.chip_folder import MISSING, SCALE
from pipeline.simulation.held_out import FIRST_TRAINING_SEED
from pipeline.training.simulated import CHIP_PX, write_simulated

__all__ = ["CHIP_PX", "MISSING", "SCALE"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m workflows.training_chips", description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument(
        "--first-seed",
        type=int,
        default=FIRST_TRAINING_SEED,
        help=f"seeds below {FIRST_TRAINING_SEED} belong to demos, tests and held-out worlds",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_simulated(arguments.output, arguments.count, arguments.first_seed)


if __name__ == "__main__":
    main()
