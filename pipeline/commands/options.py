"""What several commands have in common: their options, how they read a run file, and how they end.

Light: whoever asks for help, or names a file that is not there, waits for no library.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import BadInputError, ConfigError
from pipeline.machine.addresses import public_document

if TYPE_CHECKING:
    from pipeline.settings.run_file import RunConfig

RunFile = Annotated[Path, typer.Argument(metavar="FILE", help="Run file (YAML); see workflows/examples.")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to join, e.g. auto or ray://head:10001; default: start a local Ray.")
]
Output = Annotated[Path | None, typer.Option(metavar="DIR", help="Output folder, instead of the run file's.")]
Actors = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Model actors; default: one per CPU that may be used (or per GPU)."),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Model, instead of the run file's: built-in name, or folder (of spex adapt, say)."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, and nothing else there.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tell every step and detail, in lines instead of bars.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress: warnings and errors only.")]
LogFile = Annotated[
    Path | None, typer.Option("--log-file", metavar="FILE", help="Also append what is told, with times, to a file.")
]


def require(path: Path, kind: str) -> None:
    """Tells a missing file or folder before anything is imported for it.

    Args:
        path: As the user gave it.
        kind: What messages call it: ``run file``, ``folder``...

    Raises:
        ConfigError: Nothing is there, or it may not be looked at.
    """
    try:
        os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{kind} {path} cannot be read: {reason}") from error


def run_config(
    file: Path,
    output: Path | None = None,
    address: str | None = None,
    actors: int | None = None,
    *,
    checkpoint: str | None = None,
    files_here: bool = True,
) -> RunConfig:
    """A run file with the options of the command line, which are relative to the current folder.

    Args:
        file: The run file.
        output: Instead of its output folder.
        address: Instead of its Ray.
        actors: Instead of its number of actors.
        checkpoint: Instead of its model.
        files_here: The region, legend and model that it names lie on this machine, and are looked for.

    Raises:
        BadInputError: It cannot be read, a field is wrong, or a file that it names is not there.
        CheckpointError: Its model cannot be used.
    """
    require(file, "run file")
    from pipeline.settings.run_file import RunConfig
    from pipeline.settings.yaml_file import of_command_line

    config = RunConfig.from_yaml(file)
    compute: dict[str, Any] = {}
    if address is not None:
        compute["address"] = address
    if actors is not None:
        compute |= {"actors": actors, "min_actors": None, "max_actors": None}
    update: dict[str, Any] = {"compute": config.compute.model_copy(update=compute)}
    if output is not None:
        update["output"] = of_command_line(output)
    if checkpoint is not None:
        # A folder is meant from where the command is given.
        name = str(of_command_line(Path(checkpoint))) if "/" in checkpoint or Path(checkpoint).is_dir() else checkpoint
        update["model"] = config.model.model_copy(update={"checkpoint": name})
    config = config.model_copy(update=update)
    if files_here:
        _look(config)
    return config


def _look(config: RunConfig) -> None:
    """What can be told of a run without its libraries."""
    from pipeline.settings.model import check_device, check_model
    from pipeline.settings.published import check_published

    if "/" in config.legend:  # else the name of a built-in one
        require(Path(config.legend), "legend")
    check_device(config.model, config.compute)
    check_model(config.model, config.source.bands)
    check_published(config)
    require(config.region, "region file")


def one_of(verbose: bool, quiet: bool) -> None:
    """Refuses ``-v`` beside ``-q``.

    Raises:
        BadInputError: Both are given.
    """
    if verbose and quiet:
        raise BadInputError("--verbose and --quiet contradict each other: give one of them")


def end(document: dict[str, Any], as_json: bool, code: int) -> None:
    """Prints the one JSON object where it is asked for, and ends with an exit code."""
    if as_json:
        print(json.dumps(public_document(document), allow_nan=False))
    if code:
        raise typer.Exit(code)
