"""Commands about a folder or this machine: ``spex status``, ``publish``, ``clean`` and ``doctor``."""

from __future__ import annotations

import contextlib
import sys
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
    from pipeline.mapstore.output_folders import output_folders
    from pipeline.mapstore.status import run_states

    states = [(label, output, run_states(output)) for label, output in output_folders(folder)]
    if not as_json:
        for label, _, found in states:
            show_status(found, results_console(), label)
    runs = [
        {**run.to_dict(), "output": str(output), "monthly": label or None}
        for label, output, found in states
        for run in found
    ]
    end({"runs": runs}, as_json, 0)


def clean(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a run, or of monthly maps.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Free it without a question.")] = False,
    as_json: AsJson = False,
) -> None:
    """Says what an output folder holds that is of no use any more, and frees it where it is told to.

    That is the stores of finished runs, whose maps stay, and drafts of writers that were killed. Runs that are not
    finished stay, too. Nothing goes without --yes or a question at a terminal. Example: spex clean out --yes
    """
    require(folder, "output folder")
    from pipeline.commands.console import results_console
    from pipeline.commands.screens import show_stock
    from pipeline.machine.progress import size_text
    from pipeline.runs.clean import document, free, take_stock

    stock = take_stock(folder)
    if not as_json:
        show_stock(stock, results_console())
    wanted = yes
    if stock.removals and not yes and not as_json and sys.stdin.isatty():
        with contextlib.suppress(typer.Abort):  # Ctrl-C and Ctrl-D are answers, too
            wanted = typer.confirm(f"free {size_text(stock.size)}?", err=True)
    freed = free(stock) if wanted and stock.removals else None
    if not as_json and freed is not None:
        print(f"{size_text(freed)} freed")
    elif not as_json and stock.removals:
        print("nothing was freed: --yes does it")
    end(document(stock, freed), as_json, 0)


def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of one or more runs.")],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="s3://bucket/prefix, gs://..., az://..., or another folder.")
    ],
    as_json: AsJson = False,
) -> None:
    """Sends the maps of an output folder to a bucket: data first, the catalog last, and only what has changed.

    Credentials are those of the environment (AWS_ACCESS_KEY_ID and the like). Example: spex publish out s3://maps/2026
    """
    require(folder, "output folder")
    from pipeline.commands.console import progress_shown
    from pipeline.outputs.upload import upload

    with progress_shown(as_json) as progress:
        done = upload(folder, target, progress)
    document = {
        "sent": list(done.sent),
        "unchanged": done.unchanged,
        "removed": list(done.removed),
        "bytes": done.bytes,
    }
    if not as_json:
        print(f"{len(done.sent)} files sent, {done.unchanged} unchanged, {len(done.removed)} removed")
    end(document, as_json, 0)


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
