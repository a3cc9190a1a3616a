"""Commands around models and data sets: ``spex evaluate``, ``spie``, ``train`` and ``convert-checkpoint``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import Address, AsJson, LogFile, Output, Quiet, Verbose, end, one_of, require
from spex_core.errors import CheckpointError


def evaluate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Evaluation file (YAML); see workflows/examples.")],
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the figures to a JSON file.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another checkpoint than the file's: built-in name or folder.")
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Measures a checkpoint against labels, beside index rules, a random forest, and the model without true attributes.

    Example: spex evaluate workflows/examples/evaluate_simulated.yaml --output figures.json
    """
    one_of(verbose, quiet)
    require(file, "evaluation file")
    from pipeline.evaluation.config import EvaluationConfig

    config = EvaluationConfig.from_yaml(file)
    if checkpoint is not None:
        config = config.model_copy(update={"checkpoint": checkpoint})
    from pipeline.commands.console import progress_shown, results_console
    from pipeline.commands.evaluation_screen import show_evaluation
    from pipeline.evaluation import evaluate as run_evaluation
    from pipeline.machine.atomic_files import write_json

    with progress_shown(as_json, verbose=verbose, quiet=quiet, log_file=log_file) as progress:
        result = run_evaluation(config, progress)
    if not as_json:
        show_evaluation(result, results_console())
    if output is not None:
        write_json(output, result.to_dict())
    end(result.to_dict(), as_json, 0)


def spie(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Data set file (YAML); see workflows/examples/spie.yaml.")
    ],
    output: Output = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Builds instruction data (SPIE): image chips with labels, spectral attributes and answers, in tar shards.

    Imagery and labels come from STAC catalogs over regions and dates, or from local rasters. Chips are sampled by the
    rarest class they hold, spread over the land. The folder gets shards, index.json and DATACARD.md; a build that was
    stopped goes on where it was, a finished one costs nothing.

    Examples: spex spie workflows/examples/spie.yaml; spex spie data.yaml --output chips --json
    """
    one_of(verbose, quiet)
    require(file, "data set file")
    from pipeline.commands.console import progress_shown
    from pipeline.settings.yaml_file import of_command_line
    from pipeline.spie import SpieConfig, build

    config = SpieConfig.from_yaml(file)
    if output is not None:
        config = config.model_copy(update={"output": of_command_line(output)})
    with progress_shown(as_json, verbose=verbose, quiet=quiet, log_file=log_file) as progress:
        result = build(config, progress)
    if not as_json:
        counts = ", ".join(f"{count} {split}" for split, count in result.chips.items())
        print(f"{result.output}: {counts} chips in {result.shards} shards; see DATACARD.md")
    end(result.to_dict(), as_json, result.exit_code)


def train(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Training file (YAML); see workflows/training.")],
    output: Output = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes that share every batch, instead of the file's.")
    ] = None,
    address: Address = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Trains a model, or goes on with a training that was interrupted.

    Stages follow each other: pre-training on hidden patches and bands, then masks prompted by class words, then the
    full instruction tuning. Chips come from the simulator, from chip folders or from spex spie. One worker trains in
    this process; several share every batch over Ray, on one machine or a cluster, with the same result. The output
    folder receives the checkpoints last and best, and training/ with metrics.jsonl and TensorBoard events.

    Examples: spex train workflows/training/quick.yaml; spex train tiny.yaml --workers 4 --address auto
    """
    one_of(verbose, quiet)
    require(file, "training file")
    from pipeline.commands.console import progress_shown
    from pipeline.training import TrainFile
    from pipeline.training import train as run_training

    with progress_shown(as_json, verbose=verbose, quiet=quiet, log_file=log_file) as progress:
        result = run_training(TrainFile.from_yaml(file).with_options(output, workers, address), progress)
    if not as_json:
        print(result.summary())
    end(result.to_dict(), as_json, 0)


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
    for folder in (source, base):
        if folder is not None and not folder.is_dir():
            raise CheckpointError(f"{folder} is not a folder with a published checkpoint")
    from spex_core.official import convert_checkpoint as convert

    report = convert(source, target, base=base, keep_float32=keep_float32)
    if not as_json:
        print(
            f"{target}: {report.keys} tensors, {report.parameters:,} parameters; "
            f"{report.rounded} rounded to float16, {len(report.ignored)} ignored, "
            f"{'with' if report.tokenizer else 'without'} tokenizer"
        )
    end({"output": str(target), **dataclasses.asdict(report)}, as_json, 0)
