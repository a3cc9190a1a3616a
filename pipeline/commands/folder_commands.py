"""Commands that look at a folder or this machine: ``spex status`` and ``doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import AsJson, Output, end, require


def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a run.")], as_json: AsJson = False
) -> None:
    """Says how far the runs of an output folder are, what failed, and how long they will still take.

    Example: spex status out
    """
    require(folder, "output folder")
    from pipeline.commands.console import results_console
    from pipeline.commands.screens import show_status
    from pipeline.mapstore.status import run_states

    states = run_states(folder)
    if not as_json:
        show_status(states, results_console())
    end({"runs": [state.to_dict() for state in states]}, as_json, 0)


def doctor(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Run file whose output, region and catalog are looked at.")
    ] = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Looks at this machine and says what a run would find: ok, warn or fail, each with what mends it.

    Reads little, starts no Ray and computes nothing. Exit code 1 if a line fails. Example: spex doctor region.yaml
    """
    if file is not None:
        require(file, "run file")
    from pipeline.commands.doctor import document, examine, exit_code, lines

    checks = examine(file, output)
    if not as_json:
        print("\n".join(lines(checks)))
    end(document(checks), as_json, exit_code(checks))
