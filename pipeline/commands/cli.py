"""The command ``spex``: a thin layer over the public functions, with exit codes that scripts can rely on.

0 done; 1 the run failed; 2 bad usage or bad input; 3 done with some blocks or scenes missing; 4 nothing could be
mapped; 130 interrupted (Ctrl-C, SIGHUP); 143 ended by SIGTERM.
Results go to standard output, progress and messages to standard error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pipeline.commands.console import progress_shown as _progress
from pipeline.commands.console import results_console as _console
from pipeline.errors import BadInputError, NothingMappedError
from pipeline.machine import allocator, interruption, standard_streams, wheel_data
from pipeline.machine.interruption import EXIT_INTERRUPTED, exit_code
from pipeline.settings.run_file import RunConfig
from pipeline.settings.yaml_file import of_command_line
from spex_core.errors import CheckpointError, LegendError, SpexError, harmless

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_NOTHING = 1, 2, 4

app = typer.Typer(
    name="spex",
    help="Regional land-cover maps from Sentinel-2 with SPEX, a spectral vision-language model, on Ray.",
    epilog="Try it: spex demo --output demo. Exit codes: 0 done; 1 the run failed; 2 bad usage or bad input; 3 done, "
    "with some blocks or scenes missing; 4 nothing could be mapped (an earlier map is left alone); 130 interrupted; 143 ended by "
    "SIGTERM.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

RunFile = Annotated[Path, typer.Argument(metavar="FILE", help="Run file (YAML); see workflows/examples.")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to join, e.g. auto or ray://head:10001; default: start a local Ray.")
]
Output = Annotated[Path | None, typer.Option(metavar="DIR", help="Output folder, instead of the run file's.")]
Actors = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Model actors; default: one per CPU that may be used (or per GPU)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="The last line of standard output is one JSON object.")]


@app.command()
def demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for archive and map.")] = Path("spex-demo"),
    actors: Actors = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of another landscape.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model: built-in name, folder, or index-rules.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Simulates a Sentinel-2 archive, serves it on this machine, maps it and measures the map.

    Needs no network and no data. Example: spex demo --output demo
    """
    from pipeline.commands.screens import show_demo
    from pipeline.runs.demo import demo as run_demo

    with _progress(as_json) as progress:
        result = run_demo(output, progress, actors=actors, seed=seed, checkpoint=checkpoint)
    show_demo(result, _console())
    _end(result.to_dict(), as_json, result.run.exit_code)


@app.command()
def plan(file: RunFile, output: Output = None, as_json: AsJson = False) -> None:
    """Says what a run will read, cover and cost, and writes its plan.json; reads few pixels.

    Example: spex plan workflows/examples/earth_search.yaml
    """
    from pipeline.commands.screens import plan_document, show_plan
    from pipeline.outputs.output_folder import check_output
    from pipeline.planning.estimate import summarise
    from pipeline.planning.plan_file import write_plan
    from pipeline.planning.rates import known_rates, run_kind
    from pipeline.runs.preparation import prepare_run

    config = _config(file, output)
    check_output(config.output, config.publish.collection_id)
    with _progress(as_json) as progress:
        progress.say(f"searching scenes for {config.name}, {config.start} to {config.end}")
        prepared = prepare_run(config, progress)
        rates = (
            known_rates(run_kind(config, prepared.plan, prepared.fingerprint))
            if config.compute.address is None
            else None
        )
        summary = summarise(prepared.plan, prepared.region, rates)
    # Not in the run's own folder: there, a plan means that a store stands beside it.
    path = config.output / "plan.json"
    write_plan(prepared.plan, path)
    show_plan(prepared, summary, path, _console())
    _end(plan_document(prepared, summary, path), as_json, 0)


@app.command()
def run(
    file: RunFile,
    address: Address = None,
    output: Output = None,
    actors: Actors = None,
    as_json: AsJson = False,
) -> None:
    """Makes a map, or finishes one that was interrupted; a finished one costs nothing.

    Examples: spex run region.yaml; spex run region.yaml --address auto --actors 8 --json
    """
    from pipeline.commands.screens import show_run
    from pipeline.runs.map_region import map_region

    config = _config(file, output, address, actors)
    with _progress(as_json) as progress:
        result = map_region(config, progress)
    show_run(result, config, _console())
    _end(result.to_dict(), as_json, result.exit_code)


@app.command()
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
    from pipeline.engine.submit import submit_run

    raise typer.Exit(submit_run(_config(file, output, None, actors), file, address, actors=actors, as_json=as_json))


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a run.")], as_json: AsJson = False
) -> None:
    """Says how far the runs of an output folder are, what failed, and how long they will still take.

    Example: spex status out
    """
    from pipeline.commands.screens import show_status
    from pipeline.mapstore.status import run_states

    states = run_states(folder)
    show_status(states, _console())
    _end({"runs": [state.to_dict() for state in states]}, as_json, 0)


@app.command()
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
    from pipeline.commands.doctor import document, examine, exit_code, lines

    checks = examine(file, output)
    if not as_json:
        print("\n".join(lines(checks)))
    _end(document(checks), as_json, exit_code(checks))


@app.command()
def evaluate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Evaluation file (YAML); see workflows/examples.")],
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the figures to a JSON file.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another checkpoint than the file's: built-in name or folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measures a checkpoint against labels, beside index rules, a random forest, and the model without true attributes.

    Example: spex evaluate workflows/examples/evaluate_simulated.yaml --output figures.json
    """
    from pipeline.commands.evaluation_screen import show_evaluation
    from pipeline.evaluation import EvaluationConfig
    from pipeline.evaluation import evaluate as run_evaluation
    from pipeline.machine.atomic_files import write_json

    config = EvaluationConfig.from_yaml(file)
    if checkpoint is not None:
        config = config.model_copy(update={"checkpoint": checkpoint})
    with _progress(as_json) as progress:
        result = run_evaluation(config, progress)
    show_evaluation(result, _console())
    if output is not None:
        write_json(output, result.to_dict())
    _end(result.to_dict(), as_json, 0)


@app.command()
def spie(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Data set file (YAML); see workflows/examples/spie.yaml.")
    ],
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Builds instruction data (SPIE): image chips with labels, spectral attributes and answers, in tar shards.

    Imagery and labels come from STAC catalogs over regions and dates, or from local rasters. Chips are sampled by the
    rarest class they hold, spread over the land. The folder gets shards, index.json and DATACARD.md; a build that was
    stopped goes on where it was, a finished one costs nothing.

    Examples: spex spie workflows/examples/spie.yaml; spex spie data.yaml --output chips --json
    """
    from pipeline.spie import SpieConfig, build

    config = SpieConfig.from_yaml(file)
    if output is not None:
        config = config.model_copy(update={"output": of_command_line(output)})
    with _progress(as_json) as progress:
        result = build(config, progress)
    if not as_json:
        counts = ", ".join(f"{count} {split}" for split, count in result.chips.items())
        print(f"{result.output}: {counts} chips in {result.shards} shards; see DATACARD.md")
    _end(result.to_dict(), as_json, result.exit_code)


@app.command()
def train(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Training file (YAML); see workflows/training.")],
    output: Output = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes that share every batch, instead of the file's.")
    ] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Trains a model, or goes on with a training that was interrupted.

    Stages follow each other: pre-training on hidden patches and bands, then masks prompted by class words, then the
    full instruction tuning. Chips come from the simulator, from chip folders or from spex spie. One worker trains in
    this process; several share every batch over Ray, on one machine or a cluster, with the same result. The output
    folder receives the checkpoints last and best, and training/ with metrics.jsonl and TensorBoard events.

    Examples: spex train workflows/training/quick.yaml; spex train tiny.yaml --workers 4 --address auto
    """
    from pipeline.training import TrainFile
    from pipeline.training import train as run_training

    with _progress(as_json) as progress:
        result = run_training(TrainFile.from_yaml(file).with_options(output, workers, address), progress)
    if not as_json:
        print(result.summary())
    _end(result.to_dict(), as_json, 0)


@app.command()
def convert_checkpoint(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Published SPEX folder, or a LoRA folder.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write; it must not exist or be empty.")],
    base: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder that a LoRA adapts, if not the one it names.")
    ] = None,
    keep_float32: Annotated[
        bool, typer.Option("--keep-float32", help="Do not round weights to float16 as the published demo does.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Converts a published SPEX checkpoint to this project's format; every weight is accounted for.

    Example: spex convert-checkpoint SPEX-1.5B spex-official
    """
    from spex_core.official import convert_checkpoint as convert

    report = convert(source, target, base=base, keep_float32=keep_float32)
    if not as_json:
        print(
            f"{target}: {report.keys} tensors, {report.parameters:,} parameters; "
            f"{report.rounded} rounded to float16, {len(report.ignored)} ignored, "
            f"{'with' if report.tokenizer else 'without'} tokenizer"
        )
    _end({"output": str(target), **dataclasses.asdict(report)}, as_json, 0)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits with its code: one message on standard error, never a traceback.

    ``SPEX_DEBUG=1`` shows tracebacks.
    """
    standard_streams.secure()
    wheel_data.leave_out_foreign_data()
    # Schedulers and spot machines end a run with SIGTERM, closed terminals with SIGHUP: the same clean stop as Ctrl-C.
    interruption.install()
    allocator.keep_freed_memory()
    debug = os.environ.get("SPEX_DEBUG") == "1"
    code: Any = 0
    try:
        code = app(args=arguments, standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except typer.Exit as error:
        code = error.exit_code
    except KeyboardInterrupt:
        interruption.end_at_once_from_now_on()
        with contextlib.suppress(OSError):  # the terminal may be what has gone
            _say("interrupted; what is finished is kept: the same command goes on from there")
        code = exit_code()
    except NothingMappedError as error:
        if debug:
            raise
        _say(f"nothing could be mapped: {error}")
        code = EXIT_NOTHING
    except (BadInputError, LegendError, CheckpointError) as error:
        if debug:
            raise
        _say(f"error: {error}")
        code = EXIT_BAD_INPUT
    except SpexError as error:
        if debug:
            raise
        _say(f"error: {error}")
        code = EXIT_FAILED
    except Exception as error:
        code = _usage_or_defect(error, debug)
    sys.stdout.flush()
    failure = standard_streams.output_failure()
    if failure is not None:
        _say(f"error: standard output cannot be written: {failure.strerror or failure}")
        code = code or EXIT_FAILED
    raise SystemExit(code if isinstance(code, int) else 0)


def _usage_or_defect(error: Exception, debug: bool) -> int:
    # typer carries its own copy of click, so its exceptions are known by what they can do.
    show = getattr(error, "show", None)
    if callable(show) and hasattr(error, "exit_code"):
        show(file=sys.stderr)
        return int(error.exit_code)
    if debug:
        raise error
    _say(f"unexpected {type(error).__name__}: {error} (SPEX_DEBUG=1 shows where; please report it)")
    return EXIT_FAILED


def _config(file: Path, output: Path | None = None, address: str | None = None, actors: int | None = None) -> RunConfig:
    """A run file with the options of the command line, which are relative to the current folder."""
    config = RunConfig.from_yaml(file)
    compute: dict[str, Any] = {}
    if address is not None:
        compute["address"] = address
    if actors is not None:
        compute |= {"actors": actors, "min_actors": None, "max_actors": None}
    update: dict[str, Any] = {"compute": config.compute.model_copy(update=compute)}
    if output is not None:
        update["output"] = of_command_line(output)
    return config.model_copy(update=update)


def _say(message: str) -> None:
    print(harmless(message), file=sys.stderr)


def _end(document: dict[str, Any], as_json: bool, code: int) -> None:
    if as_json:
        print(json.dumps(document, allow_nan=False))
    if code:
        raise typer.Exit(code)
