"""Commands that make maps: ``spex demo``, ``plan``, ``run`` and ``submit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import (
    Actors,
    Address,
    AsJson,
    LogFile,
    Output,
    Quiet,
    RunFile,
    Verbose,
    end,
    one_of,
    run_config,
)


def demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for archive and map.")] = Path("spex-demo"),
    actors: Actors = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of another landscape.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model: built-in name, folder, or index-rules.")
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Simulates a Sentinel-2 archive, serves it on this machine, maps it and measures the map.

    Needs no network and no data. Example: spex demo --output demo
    """
    one_of(verbose, quiet)
    from pipeline.commands.console import progress_shown, results_console
    from pipeline.commands.screens import show_demo
    from pipeline.runs.demo import demo as run_demo

    with progress_shown(as_json, verbose=verbose, quiet=quiet, log_file=log_file) as progress:
        result = run_demo(output, progress, actors=actors, seed=seed, checkpoint=checkpoint)
    if not as_json:
        show_demo(result, results_console())
    end(result.to_dict(), as_json, result.run.exit_code)


def plan(
    file: RunFile,
    output: Output = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Says what a run will read, cover and cost, and writes its plan.json; reads few pixels.

    Example: spex plan workflows/examples/earth_search.yaml
    """
    one_of(verbose, quiet)
    config = run_config(file, output)
    from pipeline.commands.console import progress_shown, results_console
    from pipeline.commands.screens import plan_document, show_plan
    from pipeline.planning.plan_file import write_plan
    from pipeline.runs.dry_run import summarised

    with progress_shown(as_json, verbose=verbose, quiet=quiet, log_file=log_file) as progress:
        prepared, summary = summarised(config, progress)
    # Not in the run's own folder: there, a plan means that a store stands beside it.
    path = config.output / "plan.json"
    write_plan(prepared.plan, path)
    if not as_json:
        show_plan(prepared, summary, path, results_console())
    end(plan_document(prepared, summary, path), as_json, 0)


def run(
    file: RunFile,
    address: Address = None,
    output: Output = None,
    actors: Actors = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be computed and what is there; nothing is written.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Makes a map, or finishes one that was interrupted; a finished one costs nothing.

    Examples: spex run region.yaml; spex run region.yaml --address auto --actors 8 --json
    """
    one_of(verbose, quiet)
    config = run_config(file, output, address, actors)
    from pipeline.commands.console import progress_shown, results_console

    if dry_run:
        from pipeline.commands.screens import dry_run_document, show_dry_run
        from pipeline.runs.dry_run import look_ahead

        with progress_shown(as_json, verbose=verbose, quiet=quiet, log_file=log_file) as progress:
            ahead = look_ahead(config, progress)
        if not as_json:
            show_dry_run(ahead, results_console())
        end(dry_run_document(ahead), as_json, 0)
        return
    from pipeline.commands.screens import show_run
    from pipeline.runs.map_region import map_region

    with progress_shown(as_json, verbose=verbose, quiet=quiet, log_file=log_file) as progress:
        result = map_region(config, progress)
    if not as_json:
        show_run(result, config, results_console())
    end(result.to_dict(), as_json, result.exit_code)


def submit(
    file: RunFile,
    address: Annotated[str, typer.Option(help="Ray Jobs API of the cluster (its dashboard).")] = (
        "http://127.0.0.1:8265"
    ),
    output: Output = None,
    actors: Actors = None,
    as_json: AsJson = False,
) -> None:
    """Sends a run to a Ray cluster, follows its log, and ends with its exit code.

    The run file, its region, legend and output must be on storage that the cluster sees under the same paths, and the
    package must be installed there. Example: spex submit region.yaml --address http://head:8265
    """
    config = run_config(file, output, None, actors, files_here=False)
    from pipeline.engine.submit import submit_run

    raise typer.Exit(submit_run(config, file, address, actors=actors, as_json=as_json))
