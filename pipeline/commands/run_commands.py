"""Commands that make maps: ``spex demo``, ``init``, ``plan``, ``run`` and ``submit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import (
    Actors,
    Address,
    AsJson,
    Checkpoint,
    LogFile,
    Output,
    Quiet,
    RunFile,
    Verbose,
    end,
    one_of,
    require,
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
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Says what a run will read, cover and cost, and writes its plan.json; reads few pixels.

    Example: spex plan workflows/examples/earth_search.yaml
    """
    one_of(verbose, quiet)
    config = run_config(file, output, checkpoint=checkpoint)
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
    checkpoint: Checkpoint = None,
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
    config = run_config(file, output, address, actors, checkpoint=checkpoint)
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
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Sends a run to a Ray cluster, follows its log, and ends with its exit code.

    The run file, its region, legend, checkpoint folder and output must be on storage that the cluster sees under the
    same paths, and the package must be installed there. Example: spex submit region.yaml --address http://head:8265
    """
    config = run_config(file, output, None, actors, checkpoint=checkpoint, files_here=False)
    from pipeline.engine.submit import submit_run

    raise typer.Exit(
        submit_run(config, file, address, actors=actors, checkpoint=checkpoint is not None, as_json=as_json)
    )


def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="Run file to write.")] = Path("run.yaml"),
    bbox: Annotated[str | None, typer.Option(metavar="W,S,E,N", help="Area: a box in degrees.")] = None,
    region: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Area: a region file (GeoJSON, GeoPackage, ...).")
    ] = None,
    start: Annotated[str | None, typer.Option(metavar="DAY", help="First day; default: of last month.")] = None,
    end_day: Annotated[str | None, typer.Option("--end", metavar="DAY", help="Last day, inclusive.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the map; default: that of the region file.")] = None,
    provider: Annotated[
        str, typer.Option(help="Catalog: earth-search, planetary-computer, cdse or generic.")
    ] = "earth-search",
    url: Annotated[str | None, typer.Option(help="Another STAC API, or a catalog.json.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Writes a run file with comments to begin with, for a box or a region file.

    Asks for area, days and name if no area is given and a person can answer.
    Example: spex init --bbox 4.8,50.5,5.2,50.8 --start 2025-07-01 --end 2025-07-31
    """
    if region is not None:
        require(region, "region file")
    from pipeline.commands.questions import on_terminal, questions, someone_can_answer
    from pipeline.settings.new_run_file import write_run_file
    from pipeline.settings.new_run_options import new_run

    given = (bbox, region, start, end_day, name)
    if all(option is None for option in given) and not as_json and someone_can_answer():
        new = questions(on_terminal, lambda said: typer.echo(said, err=True), provider=provider, url=url)
    else:
        new = new_run(bbox=bbox, region=region, start=start, end=end_day, name=name, provider=provider, url=url)
    written = write_run_file(file, new, force=force)
    if not as_json:
        print(f"written: {', '.join(str(path) for path in written)}; next: spex plan {file}")
    end({"run_file": str(file), "written": [str(path) for path in written]}, as_json, 0)
