"""Calibrates a checkpoint: ``python -m workflows.calibrate FILE [--write]``.

FILE is an evaluation file (see workflows/examples/evaluate_held_out.yaml); its sources must not be those of the final
evaluation. Half of the chips fit the temperature, the other half measure the expected calibration error before and
after. ``--write`` puts the temperature into the checkpoint's config.json. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from pipeline.errors import BadInputError
from pipeline.evaluation import EvaluationConfig
from pipeline.evaluation.temperature import calibrate, write_temperature
from pipeline.machine.progress import progress_for
from spex_core.checkpoints import resolve_checkpoint
from spex_core.errors import CheckpointError, LegendError


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code (2 for bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m workflows.calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--write", action="store_true", help="put the temperature into the checkpoint")
    options = parser.parse_args(arguments)
    try:
        config = EvaluationConfig.from_yaml(options.file)
        with progress_for(Console(stderr=True)) as progress:
            found = calibrate(config, progress)
        if options.write:
            write_temperature(Path(resolve_checkpoint(config.checkpoint)), found.temperature_after)
    except (BadInputError, LegendError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"temperature {found.temperature_before:.3f} -> {found.temperature_after:.3f}, fitted on {found.fitted_chips} "
        f"chips; on {found.tested_chips} others: calibration error {found.calibration_error_before:.3f} -> "
        f"{found.calibration_error_after:.3f}, log loss {found.log_loss_before:.3f} -> {found.log_loss_after:.3f}"
    )
    print(json.dumps(found.to_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
